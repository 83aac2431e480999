"""Configurations of training frameworks in YAML: read strictly, within limits, and written plainly.

What :mod:`yaml` reads as plain data and nothing more: a tag, a repeated key or a merge key is an error with its line,
since a key that is misread would silently be another plan.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml

from fullmesh.errors import LaunchError, shown
from fullmesh.reading import DEEPEST, check_data

# an alias may repeat what it names, but not without end
_MOST_VALUES = 200_000
_EXPECTED = "mappings, lists, words and numbers"
_TOO_DEEP = f"lists and tables are nested more than {DEEPEST} levels deep"


class _Plain(yaml.SafeLoader):
    """Plain values alone: dates stay words, and mappings have no key twice."""

    yaml_implicit_resolvers = {  # noqa: RUF012 - the name is the library's
        first: [(tag, pattern) for tag, pattern in found if not tag.endswith((":timestamp", ":merge"))]
        for first, found in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.constructor.ConstructorError(None, None, "a key is no word", key.start_mark)
            if key.value in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {shown(key.value, 60)} stands twice", key.start_mark
                )
            if key.value == "<<":
                raise yaml.constructor.ConstructorError(None, None, "a merge key", key.start_mark)
            seen.add(key.value)
        return {str(key): value for key, value in super().construct_mapping(node, deep).items()}


def parse_yaml(text: str, *, where: str) -> dict[str, Any]:
    """A YAML file that holds one mapping.

    Raises
    ------
    LaunchError
        Another kind of YAML, or none; with file and line.
    """
    try:
        _check_depth(text, where)
        value = yaml.load(text, _Plain)
    except yaml.YAMLError as e:
        mark = getattr(e, "problem_mark", None) or getattr(e, "context_mark", None)
        line = f"{where}:{mark.line + 1}" if mark is not None else where
        problem = getattr(e, "problem", None) or str(e)
        raise LaunchError(
            f"cannot read the YAML: {shown(problem, 160)}", where=line, expected=_EXPECTED
        ) from None
    except ValueError as e:
        raise LaunchError(
            f"cannot read the YAML: {shown(str(e), 160)}", where=where, expected=_EXPECTED
        ) from None
    if value is None:
        raise LaunchError("the file is empty", where=where, expected="a YAML file")
    if not isinstance(value, dict):
        raise LaunchError("the file holds no mapping", where=where, expected="KEY: VALUE lines")
    _check_size(value, where)
    check_data(value, where=where, error=LaunchError)
    return value


def _check_depth(text: str, where: str) -> None:
    """Refuse nesting that the library would follow by recursion, and tags, which name what is no plain data."""
    depth = 0
    for event in yaml.parse(text, yaml.SafeLoader):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        at = f"{where}:{event.start_mark.line + 1}" if event.start_mark is not None else where
        if depth > DEEPEST:
            raise LaunchError(_TOO_DEEP, where=at, expected=_EXPECTED)
        tag = getattr(event, "tag", None)
        if tag not in (None, "!"):
            raise LaunchError(f"the tag {shown(str(tag), 60)}", where=at, expected=_EXPECTED)


def _check_size(value: Any, where: str) -> None:
    """Refuse aliases that repeat what they name beyond the limit, or that name what they stand in."""
    sizes: dict[int, int] = {}
    todo: list[tuple[Any, bool]] = [(value, False)]
    inside: set[int] = set()
    while todo:
        one, done = todo.pop()
        if not isinstance(one, dict | list) or (id(one) in sizes and not done):
            continue
        inner = list(one.values()) if isinstance(one, dict) else one
        if done:
            inside.discard(id(one))
            sizes[id(one)] = 1 + sum(sizes.get(id(v), 1) for v in inner)
            if sizes[id(one)] > _MOST_VALUES:
                raise LaunchError(
                    f"the file has more than {_MOST_VALUES:,} values", where=where, expected=_EXPECTED
                )
            continue
        if id(one) in inside:
            raise LaunchError("an alias names what it stands in", where=where, expected=_EXPECTED)
        inside.add(id(one))
        todo.append((one, True))
        todo += [(v, False) for v in inner]


def yaml_text(table: Mapping[str, Any]) -> str:
    """A table as YAML that :func:`parse_yaml` reads back equal."""
    return str(yaml.safe_dump(table, sort_keys=False, default_flow_style=None, width=1000))

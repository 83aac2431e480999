"""Results as JSON that loads again: every frozen record once, by its content, and references to it."""

from __future__ import annotations

import dataclasses
import json
import math
import types
import typing
from collections.abc import Mapping
from typing import Any

Json = Any


def record_types(*roots: type) -> dict[str, type]:
    """The dataclasses that the annotations of ``roots`` reach, by name: nothing else is ever made while loading."""
    found: dict[str, type] = {}
    todo: list[Any] = list(roots)
    # annotations are made when they are asked for: kept, so that no other takes the place of one seen
    seen: dict[int, Any] = {}
    while todo:
        kind = todo.pop()
        if id(kind) in seen:
            continue
        seen[id(kind)] = kind
        if dataclasses.is_dataclass(kind) and isinstance(kind, type):
            found[kind.__name__] = kind
            todo.extend(typing.get_type_hints(kind).values())
        else:
            todo.extend(typing.get_args(kind))
    return found


def encode(root: Any) -> Json:
    """A tree of frozen dataclasses as plain JSON values.

    Returns
    -------
    dict
        ``objects``: one entry a record, inner ones first, equal ones once; ``root``: the reference to the last.
    """
    objects: list[Json] = []
    by_content: dict[str, int] = {}
    by_id: dict[int, int] = {}

    def plain(value: Any) -> Json:
        if value is None or isinstance(value, bool | int | str):
            return value
        if isinstance(value, float):
            return value if math.isfinite(value) else {"number": str(value)}
        if isinstance(value, tuple):
            return [plain(v) for v in value]
        if isinstance(value, Mapping):
            kind = "fixed" if isinstance(value, types.MappingProxyType) else "map"
            return {kind: {k: plain(v) for k, v in value.items()}}
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            return {"object": reference(value)}
        raise TypeError(f"{type(value).__name__} has no place in a saved result")

    def reference(value: Any) -> int:
        if id(value) not in by_id:
            inner = {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
            entry = {"type": type(value).__name__, "fields": inner}
            key = json.dumps(entry, ensure_ascii=False)
            if key not in by_content:
                by_content[key] = len(objects)
                objects.append(entry)
            by_id[id(value)] = by_content[key]
        return by_id[id(value)]

    top = plain(root)
    return {"objects": objects, "root": top}


def decode(state: Json, known: Mapping[str, type]) -> Any:
    """What :func:`encode` was given.

    Parameters
    ----------
    known : mapping of str to type
        The records that may be made (:func:`record_types`).

    Raises
    ------
    ValueError
        The state is not of that form, or names a record that is not known.
    """
    made: list[Any] = []

    def value(item: Json) -> Any:
        if isinstance(item, list):
            return tuple(value(v) for v in item)
        if not isinstance(item, dict):
            return item
        ((kind, inner),) = item.items()
        if kind == "object":
            # only what stands before, so that nothing contains itself
            if not isinstance(inner, int) or not 0 <= inner < len(made):
                raise ValueError(f"no record has the number {inner!r}")
            return made[inner]
        if kind == "number":
            return float(inner)
        fields = {k: value(v) for k, v in inner.items()}
        return types.MappingProxyType(fields) if kind == "fixed" else fields

    try:
        for entry in state["objects"]:
            kind = known.get(entry["type"])
            if kind is None:
                raise ValueError(f"unknown record {entry['type']!r}")
            made.append(kind(**{k: value(v) for k, v in entry["fields"].items()}))
        return value(state["root"])
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(str(error)) from None

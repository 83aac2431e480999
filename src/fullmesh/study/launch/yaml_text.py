"""The part of YAML that configurations of training frameworks use, read strictly and written plainly.

Block and flow mappings and lists, quoted and plain words, numbers, ``true`` and ``false``, ``null``, comments, anchors
and aliases. Everything else (tags, folded texts, several documents, merge keys) is an error that names the line: a key
that is misread would silently be another plan.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from fullmesh.errors import LaunchError, shown
from fullmesh.reading import DEEPEST, check_data

# an alias may repeat what it names, but not without end
_MOST_VALUES = 200_000
_INT = re.compile(r"[+-]?[0-9]{1,18}")
_FLOAT = re.compile(r"[+-]?(?:[0-9]+\.[0-9]*|\.[0-9]+|[0-9]+)(?:[eE][+-]?[0-9]{1,3})?")
_KEY = re.compile(
    r"""("(?:[^"\\]|\\.)*"|'(?:[^']|'')*'|[^\s\[\]{}#&*!|>'"%@`,?:-][^:#]*?|-[^\s:#][^:#]*?)\s*:(?=\s|$)"""
)


@dataclasses.dataclass(frozen=True, slots=True)
class _Line:
    number: int
    indent: int
    text: str


@dataclasses.dataclass(slots=True)
class _Reader:
    where: str
    lines: list[_Line]
    at: int = 0
    anchors: dict[str, Any] = dataclasses.field(default_factory=dict)
    num_values: int = 0

    def fail(self, what: str, number: int | None = None) -> LaunchError:
        line = number if number is not None else self.lines[min(self.at, len(self.lines) - 1)].number
        return LaunchError(
            what,
            where=f"{self.where}:{line}",
            expected="mappings, lists, words and numbers, indented by blanks",
        )

    def count(self, value: Any) -> Any:
        self.num_values += 1
        if self.num_values > _MOST_VALUES:
            raise self.fail(f"the file has more than {_MOST_VALUES:,} values")
        return value


def parse_yaml(text: str, *, where: str) -> dict[str, Any]:
    """A YAML file that holds one mapping.

    Raises
    ------
    LaunchError
        Another kind of YAML, or none; with file and line.
    """
    lines = _lines(text, where)
    if not lines:
        raise LaunchError("the file is empty", where=where, expected="a YAML file")
    reader = _Reader(where, lines)
    value = _block(reader, lines[0].indent, 0)
    if reader.at < len(lines):
        raise reader.fail("the line is indented otherwise than those before it")
    if not isinstance(value, dict):
        raise LaunchError(
            "the file holds no mapping", where=f"{where}:{lines[0].number}", expected="KEY: VALUE lines"
        )
    check_data(value, where=where, error=LaunchError)
    return value


def _lines(text: str, where: str) -> list[_Line]:
    """Lines with content, comments left out; flow brackets that go on are joined."""
    out: list[_Line] = []
    open_from: tuple[int, int, str] | None = None
    for number, raw in enumerate(text.split("\n"), 1):
        stripped = _without_comment(raw.rstrip())
        if open_from is not None:
            first, indent, before = open_from
            joined = f"{before} {stripped.strip()}"
            if len(joined) > 100_000:
                raise LaunchError(
                    "a bracket does not close",
                    where=f"{where}:{first}",
                    expected="one closing bracket for each",
                )
            open_from = (first, indent, joined) if _open_brackets(joined) > 0 else None
            if open_from is None:
                out.append(_Line(first, indent, joined))
            continue
        content = stripped.strip()
        if not content or (content == "---" and not out):
            continue
        indent = len(stripped) - len(stripped.lstrip(" "))
        if stripped[indent : indent + 1] == "\t":
            raise LaunchError("a tab indents the line", where=f"{where}:{number}", expected="blanks")
        if _open_brackets(content) > 0:
            open_from = (number, indent, content)
            continue
        out.append(_Line(number, indent, content))
    if open_from is not None:
        raise LaunchError(
            "a bracket does not close",
            where=f"{where}:{open_from[0]}",
            expected="one closing bracket for each",
        )
    return out


def _without_comment(line: str) -> str:
    quote, escaped = "", False
    for i, c in enumerate(line):
        if quote:
            quote = "" if c == quote and not escaped else quote
            escaped = quote == '"' and c == "\\" and not escaped
        elif c in "\"'" and (i == 0 or line[i - 1] in " \t[{,:"):
            quote = c
        elif c == "#" and (i == 0 or line[i - 1] in " \t"):
            return line[:i].rstrip()
    return line


def _open_brackets(text: str) -> int:
    depth, quote, escaped = 0, "", False
    for i, c in enumerate(text):
        if quote:
            quote = "" if c == quote and not escaped else quote
            escaped = quote == '"' and c == "\\" and not escaped
        elif c in "\"'" and (i == 0 or text[i - 1] in " \t[{,:"):
            quote = c
        elif c in "[{":
            depth += 1
        elif c in "]}":
            depth -= 1
    return depth


def _block(r: _Reader, indent: int, depth: int) -> Any:
    """A mapping or a list whose lines are indented by ``indent``."""
    if depth > DEEPEST:
        raise r.fail(f"lists and tables are nested more than {DEEPEST} levels deep")
    line = r.lines[r.at]
    if line.text == "-" or line.text.startswith("- "):
        return _list(r, indent, depth)
    if _KEY.match(line.text):
        return _mapping(r, indent, depth)
    if r.at + 1 < len(r.lines) and r.lines[r.at + 1].indent >= indent:
        raise r.fail(f"cannot read the line {shown(line.text, 60)}")
    r.at += 1
    return _scalar(r, line.text, line.number)


def _mapping(r: _Reader, indent: int, depth: int) -> dict[str, Any]:
    out: dict[str, Any] = {}
    while r.at < len(r.lines) and r.lines[r.at].indent == indent:
        line = r.lines[r.at]
        found = _KEY.match(line.text)
        if found is None:
            if line.text.startswith("-"):
                break
            raise r.fail(f"cannot read the line {shown(line.text, 60)}")
        key = _word(found[1])
        if key in out:
            raise r.fail(f"the key {shown(key, 60)} stands twice")
        if key == "<<":
            raise r.fail("a merge key")
        rest = line.text[found.end() :].strip()
        r.at += 1
        out[key] = _value(r, rest, line, indent, depth, lists_beside=True)
    return out


def _list(r: _Reader, indent: int, depth: int) -> list[Any]:
    out: list[Any] = []
    while r.at < len(r.lines) and r.lines[r.at].indent == indent:
        line = r.lines[r.at]
        if line.text != "-" and not line.text.startswith("- "):
            break
        rest = line.text[1:].strip()
        inside = indent + len(line.text) - len(line.text[1:].lstrip())
        if rest and _KEY.match(rest):
            # a mapping that begins beside the dash
            r.lines[r.at] = _Line(line.number, inside, rest)
            out.append(r.count(_mapping(r, inside, depth + 1)))
            if depth > DEEPEST:
                raise r.fail(f"lists and tables are nested more than {DEEPEST} levels deep")
            continue
        r.at += 1
        out.append(_value(r, rest, line, indent, depth, lists_beside=False))
    return out


def _value(r: _Reader, rest: str, line: _Line, indent: int, depth: int, *, lists_beside: bool) -> Any:
    """What stands behind a key or a dash, on its line or below it."""
    anchor = re.match(r"&([\w.-]{1,100})(?:\s+|$)", rest)
    if anchor is not None:
        rest = rest[anchor.end() :]
    if rest:
        value = _scalar(r, rest, line.number)
    else:
        below = r.lines[r.at] if r.at < len(r.lines) else None
        deeper = below is not None and below.indent > indent
        beside = (
            lists_beside
            and below is not None
            and below.indent == indent
            and (below.text == "-" or below.text.startswith("- "))
        )
        value = _block(r, below.indent, depth + 1) if below is not None and (deeper or beside) else None
    if anchor is not None:
        r.anchors[anchor[1]] = value
    return r.count(value)


def _scalar(r: _Reader, text: str, number: int) -> Any:
    alias = re.fullmatch(r"\*([\w.-]{1,100})", text)
    if alias is not None:
        if alias[1] not in r.anchors:
            raise r.fail(f"the alias {shown(text, 60)} names nothing above", number)
        value = r.anchors[alias[1]]
        # what is repeated counts again: no file grows without end
        r.num_values += _num_values(value)
        return r.count(value)
    if text[0] in "[{":
        value, end = _flow(r, text, 0, 0, number)
        if text[end:].strip():
            raise r.fail(f"cannot read {shown(text[end:], 60)}", number)
        return value
    if text[0] in "|>!%@`?" or (text[0] in "&*" and len(text) > 1):
        raise r.fail(f"cannot read {shown(text, 60)}", number)
    if text[0] in "\"'" and (len(text) < 2 or text[-1] != text[0]):
        raise r.fail("a quote does not close", number)
    return _plain(text)


def _num_values(value: Any) -> int:
    todo, found = [value], 0
    while todo and found < _MOST_VALUES:
        one = todo.pop()
        found += 1
        todo += list(one.values()) if isinstance(one, dict) else one if isinstance(one, list) else []
    return found


def _flow(r: _Reader, text: str, at: int, depth: int, number: int) -> tuple[Any, int]:
    """A value in brackets from ``at`` on, and where it ends."""
    if depth > DEEPEST:
        raise r.fail(f"lists and tables are nested more than {DEEPEST} levels deep", number)
    opening = text[at]
    closing = "]" if opening == "[" else "}"
    items: list[Any] = []
    pairs: dict[str, Any] = {}
    at += 1
    while True:
        while text[at : at + 1] in (" ", ","):
            at += 1
        if at >= len(text):
            raise r.fail("a bracket does not close", number)
        if text[at] == closing:
            return (items if opening == "[" else pairs), at + 1
        key = ""
        if opening == "{":
            found = re.compile(r"""("(?:[^"\\]|\\.)*"|'(?:[^']|'')*'|[^\s,:\[\]{}]+)\s*:\s*""").match(
                text, at
            )
            if found is None:
                raise r.fail(f"cannot read {shown(text[at:], 60)}", number)
            key, at = _word(found[1]), found.end()
        if text[at : at + 1] in ("[", "{"):
            value, at = _flow(r, text, at, depth + 1, number)
        else:
            found = re.compile(r""""(?:[^"\\]|\\.)*"|'(?:[^']|'')*'|[^,\[\]{}]*""").match(text, at)
            assert found is not None, "the last choice matches nothing at all"
            if found.end() == at and text[at : at + 1] not in (",", closing):
                raise r.fail(f"cannot read {shown(text[at:], 60)}", number)
            word = found[0].strip()
            value, at = _scalar(r, word, number) if word else None, found.end()
        if opening == "[":
            items.append(r.count(value))
        else:
            if key in pairs:
                raise r.fail(f"the key {shown(key, 60)} stands twice", number)
            pairs[key] = r.count(value)


def _word(text: str) -> str:
    value = _plain(text) if text[0] in "\"'" else text
    return str(value)


def _plain(text: str) -> Any:
    if text[0] == '"':
        try:
            return str(json.loads(text))
        except ValueError:
            return text[1:-1]
    if text[0] == "'":
        return text[1:-1].replace("''", "'")
    low = text.lower()
    if low in ("true", "false"):
        return low == "true"
    if low in ("null", "~", "none"):
        return None
    if _INT.fullmatch(text):
        return int(text)
    return float(text) if _FLOAT.fullmatch(text) else text


# --- writing -----------------------------------------------------------------------------------------------------


def yaml_text(table: Mapping[str, Any], indent: int = 0) -> str:
    """A table as YAML that :func:`parse_yaml` reads back equal."""
    out = []
    for key, value in table.items():
        head = f"{' ' * indent}{key}:"
        if isinstance(value, Mapping) and value:
            out.append(f"{head}\n{yaml_text(value, indent + 2)}")
        elif isinstance(value, list) and value and all(isinstance(v, Mapping) and v for v in value):
            out.append(f"{head}\n" + "".join(_item(v, indent + 2) for v in value))
        else:
            out.append(f"{head} {_flow_text(value)}\n")
    return "".join(out)


def _item(value: Mapping[str, Any], indent: int) -> str:
    body = yaml_text(value, indent + 2)
    return f"{' ' * indent}- {body[indent + 2 :]}"


def _flow_text(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{k}: {_flow_text(v)}" for k, v in value.items()) + "}"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return "[" + ", ".join(_flow_text(v) for v in value) + "]"
    return json.dumps(value)

"""Topologies from TOML, read strictly: every mistake names the file, the line and what was expected."""

from __future__ import annotations

import dataclasses
import re
import tomllib
from importlib import resources
from pathlib import Path
from typing import Any

from fullmesh.errors import FullmeshError, TopologyError, did_you_mean
from fullmesh.units import parse_quantity


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """A TOML file with the lines of its tables, so that an error can point at one."""

    path: str
    text: str
    data: dict[str, Any]

    def line(self, table: str = "", index: int = 0, key: str = "") -> int:
        """Line (from 1) of ``key`` in the ``index``-th ``[[table]]``, or of the table's head."""
        lines = self.text.splitlines()
        start, end = 0, len(lines)
        if table:
            head = re.compile(rf"\s*\[\[?\s*{re.escape(table)}\s*\]\]?\s*(#.*)?$")
            heads = [i for i, line in enumerate(lines) if head.match(line)]
            if index < len(heads):
                start = heads[index]
                later = [
                    i
                    for i in range(start + 1, len(lines))
                    if re.match(r"\s*\[", lines[i]) and "=" not in lines[i]
                ]
                end = later[0] if later else len(lines)
        if key:
            for i in range(start, end):
                if re.match(rf"\s*\"?{re.escape(key)}\"?\s*=", lines[i]):
                    return i + 1
        return start + 1

    def where(self, table: str = "", index: int = 0, key: str = "") -> str:
        return f"{self.path}:{self.line(table, index, key)}"


class Reader:
    """One table of a document: typed access, and a check that nothing is left over."""

    def __init__(self, document: Document, data: dict[str, Any], table: str = "", index: int = 0) -> None:
        self.document, self.data, self.table, self.index = document, data, table, index
        self.seen: set[str] = set()

    def fail(self, what: str, key: str = "", *, expected: str = "", hint: str = "") -> TopologyError:
        return TopologyError(
            what, where=self.document.where(self.table, self.index, key), expected=expected, hint=hint
        )

    def raw(self, key: str, default: Any = None) -> Any:
        self.seen.add(key)
        return self.data.get(key, default)

    def text(self, key: str, default: str | None = None) -> str:
        value = self.raw(key, default)
        if not isinstance(value, str) or not value:
            raise self.fail(
                f"{key!r} is missing" if value is None else f"{key!r} is not a text",
                key,
                expected=f'{key} = "..."',
            )
        return value

    def whole(self, key: str, default: int | None = None, *, least: int = 1) -> int:
        value = self.raw(key, default)
        if isinstance(value, bool) or not isinstance(value, int):
            raise self.fail(
                f"{key!r} is missing" if value is None else f"{key!r} is not a whole number",
                key,
                expected=f"{key} = a whole number of at least {least}",
            )
        if value < least:
            raise self.fail(f"{key} = {value} is too small", key, expected=f"at least {least}")
        return value

    def flag(self, key: str, default: bool = False) -> bool:
        value = self.raw(key, default)
        if not isinstance(value, bool):
            raise self.fail(f"{key!r} is neither true nor false", key)
        return value

    def quantity(
        self, key: str, dimension: str, default: float | None = None, *, zero: bool = False
    ) -> float:
        value = self.raw(key)
        if value is None and default is not None:
            return default
        if value is None:
            raise self.fail(f"{key!r} is missing", expected=f'{key} = "... (quantity of {dimension})"')
        return self._quantity(value, key, dimension, zero)

    def quantities(
        self, key: str, dimension: str, default: tuple[float, ...] | None = None
    ) -> tuple[float, ...]:
        """One quantity or a list of them."""
        value = self.raw(key)
        if value is None and default is not None:
            return default
        if value is None:
            raise self.fail(f"{key!r} is missing", expected=f"a quantity of {dimension}, or a list")
        items = value if isinstance(value, list) else [value]
        if not items:
            raise self.fail(f"{key!r} is empty", key)
        return tuple(self._quantity(v, key, dimension, dimension == "s") for v in items)

    def wholes(self, key: str, default: tuple[int, ...] | None = None) -> tuple[int, ...]:
        value = self.raw(key)
        if value is None and default is not None:
            return default
        if not isinstance(value, list) or not value or not all(type(v) is int and v > 0 for v in value):
            raise self.fail(
                f"{key!r} is not a list of whole numbers above zero", key, expected=f"{key} = [8, 8]"
            )
        return tuple(value)

    def share(self, key: str, default: float) -> float:
        value = self.raw(key, default)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value <= 1:
            raise self.fail(f"{key!r} is not a share", key, expected="a number above 0 and at most 1")
        return float(value)

    def _quantity(self, value: Any, key: str, dimension: str, zero: bool) -> float:
        if not isinstance(value, str):
            raise self.fail(
                f"{key} = {value!r} has no unit", key, expected=f'a quantity of {dimension}, as "28 GB/s"'
            )
        try:
            number = parse_quantity(value, dimension)
        except FullmeshError as error:
            raise self.fail(error.what, key, expected=error.expected) from None
        if number < 0 or (number == 0 and not zero):
            kind = "bandwidth" if dimension == "bytes_per_s" else "quantity"
            raise self.fail(
                f"{key} = {value!r}: a {kind} must be above zero", key, hint="remove the link instead"
            )
        return number

    def done(self) -> None:
        """Refuse keys that nobody asked for."""
        unknown = [k for k in self.data if k not in self.seen]
        if unknown:
            raise self.fail(
                f"unknown key {unknown[0]!r}" + (f" in [[{self.table}]]" if self.table else ""),
                unknown[0],
                hint=did_you_mean(unknown[0], sorted(self.seen)),
            )


def tables(document: Document, reader: Reader, key: str) -> list[Reader]:
    """The ``[[key]]`` tables of a document."""
    value = reader.raw(key, [])
    if not isinstance(value, list) or not all(isinstance(v, dict) for v in value):
        raise reader.fail(f"{key!r} is not a list of tables", key, expected=f"[[{key}]]")
    return [Reader(document, v, key, i) for i, v in enumerate(value)]


def unique_names(readers: list[Reader], taken: dict[str, str] | None = None) -> list[str]:
    """The ``name`` of each table; the same name twice is an error that shows both places."""
    taken = {} if taken is None else taken
    out = []
    for reader in readers:
        name = reader.text("name")
        here = reader.document.where(reader.table, reader.index, "name")
        if name in taken:
            raise reader.fail(
                f"duplicate name {name!r}",
                "name",
                expected="every name once",
                hint=f"first used at {taken[name]}",
            )
        taken[name] = here
        out.append(name)
    return out


def known_topologies() -> list[str]:
    """Names of the shipped descriptions."""
    folder = resources.files("fullmesh") / "data" / "topologies"
    return sorted(f.name[: -len(".toml")] for f in folder.iterdir() if f.name.endswith(".toml"))


def _shipped_name(name: str) -> str | None:
    """The shipped topology that ``name`` or one of its aliases means."""
    wanted = name.lower()
    shipped = known_topologies()
    if wanted in shipped:
        return wanted
    folder = resources.files("fullmesh") / "data" / "topologies"
    for candidate in shipped:
        data = tomllib.loads((folder / f"{candidate}.toml").read_text(encoding="utf-8"))
        if wanted in data.get("aliases", []):
            return candidate
    return None


def open_document(name: str) -> Document:
    """Read a shipped description by name, or a user's file by path.

    Raises
    ------
    TopologyError
        Unknown name, unreadable file, or text that is not TOML.
    """
    path = Path(name)
    if name.endswith(".toml") or path.is_file():
        try:
            text = path.read_text(encoding="utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            raise TopologyError(f"cannot read the topology file: {error}", where=name) from None
        label = name
    else:
        shipped_name = _shipped_name(name)
        if shipped_name is None:
            raise TopologyError(
                f"unknown machine {name!r}",
                expected="a shipped topology or a path ending in .toml",
                hint=did_you_mean(name, known_topologies()),
            )
        file = resources.files("fullmesh") / "data" / "topologies" / f"{shipped_name}.toml"
        text, label = file.read_text(encoding="utf-8"), f"{shipped_name}.toml"
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        match = re.search(r"line (\d+)", str(error))
        line = match.group(1) if match else str(len(text.splitlines()) or 1)
        raise TopologyError(f"not valid TOML: {error}", where=f"{label}:{line}") from None
    return Document(path=label, text=text, data=data)

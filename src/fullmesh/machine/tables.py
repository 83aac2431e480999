"""Tables of a TOML file as frozen records: each key is declared once, with the reader of its value.

A record is a dataclass whose fields are made by :func:`key`; :func:`table` makes a reader of it, so that records hold
records. An unknown, missing or wrong key is an error with the file, the line and the key.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from fullmesh import values
from fullmesh.errors import CatalogError, did_you_mean, shown
from fullmesh.machine.source_lines import Location, SourceLines

# devices, planes, switches: beyond it a number is a slip of the pen
_MOST = 10_000_000
_MOST_ITEMS = 20_000


@dataclasses.dataclass(frozen=True, slots=True)
class Place:
    """Where a value stands in its file."""

    lines: SourceLines
    location: Location = ()

    def at(self, part: str | int) -> Place:
        """The place of a key or of an element."""
        return Place(self.lines, (*self.location, part))

    @property
    def where(self) -> str:
        """File, line and key."""
        return self.lines.where(self.location)


Read = Callable[[Any, Place], Any]


def key(read: Read, default: Any = dataclasses.MISSING) -> Any:
    """A key of a table, which must be there unless it has a default."""
    return dataclasses.field(default=default, metadata={"read": read})


def word(value: Any, place: Place) -> str:
    """A text that is not empty."""
    return values.text(value, where=place.where, error=CatalogError)


def remark(value: Any, place: Place) -> str:
    """A text, or none."""
    return values.text(value, where=place.where, error=CatalogError, empty=True)


def flag(value: Any, place: Place) -> bool:
    """True or false."""
    return values.flag(value, where=place.where, error=CatalogError)


def whole(least: int) -> Read:
    """A reader of whole numbers of at least ``least``."""

    def read(value: Any, place: Place) -> int:
        return values.whole(
            _bare(value, place), where=place.where, least=least, most=_MOST, error=CatalogError
        )

    return read


count, natural = whole(1), whole(0)


def share(value: Any, place: Place) -> float:
    """A number above 0 and at most 1."""
    return values.share(_bare(value, place), where=place.where, error=CatalogError)


def _bare(value: Any, place: Place) -> Any:
    if isinstance(value, str):
        raise CatalogError(
            f"{shown(value)} is a text", where=place.where, expected="a number", hint="leave out the quotes"
        )
    return value


def one_of(choices: Sequence[str]) -> Read:
    """A reader of one of some words."""

    def read(value: Any, place: Place) -> str:
        if not isinstance(value, str) or value not in choices:
            raise CatalogError(
                f"{shown(value)} is not allowed",
                where=place.where,
                expected="one of " + ", ".join(choices),
                hint=did_you_mean(value, list(choices)) if isinstance(value, str) else "",
            )
        return value

    return read


def many(read: Read, least: int = 0) -> Read:
    """A reader of lists."""

    def read_all(value: Any, place: Place) -> tuple[Any, ...]:
        found = values.items(value, where=place.where, most=_MOST_ITEMS, error=CatalogError)
        if len(found) < least:
            raise CatalogError("the list is empty", where=place.where, expected=f"at least {least}")
        return tuple(read(item, place.at(i)) for i, item in enumerate(found))

    return read_all


def by_word(choices: Sequence[str], read: Read) -> Read:
    """A reader of tables whose keys are some of these words, at least one of them."""

    def read_all(value: Any, place: Place) -> dict[str, Any]:
        found = _table(value, place)
        if not found:
            raise CatalogError(
                "the table is empty", where=place.where, expected="one of " + ", ".join(choices)
            )
        return {one_of(choices)(name, place.at(name)): read(v, place.at(name)) for name, v in found.items()}

    return read_all


def table(kind: type[Any]) -> Read:
    """A reader of one table as a record of this kind."""
    readers = {f.name: f for f in dataclasses.fields(kind)}

    def read(value: Any, place: Place) -> Any:
        found = _table(value, place)
        # a misspelt key is also a missing one, and the spelling is the cause
        for name in found:
            if name not in readers:
                raise CatalogError(
                    f"unknown key {shown(name)}",
                    where=place.at(name).where,
                    hint=did_you_mean(name, list(readers)),
                )
        for name, field in readers.items():
            if name not in found and field.default is dataclasses.MISSING:
                raise CatalogError(
                    f"key {name!r} is missing",
                    where=place.at(name).where,
                    expected=f"a value for {name!r}",
                )
        return kind(**{name: readers[name].metadata["read"](v, place.at(name)) for name, v in found.items()})

    return read


def by_kind(kinds: Mapping[str, type[Any]]) -> Read:
    """A reader of tables whose key ``kind`` says which record they are."""
    readers = {name: table(kind) for name, kind in kinds.items()}

    def read(value: Any, place: Place) -> Any:
        kind = _table(value, place).get("kind")
        if not isinstance(kind, str) or kind not in readers:
            raise CatalogError(
                "key 'kind' is missing" if kind is None else f"unknown kind {shown(kind)}",
                where=place.at("kind").where,
                expected="one of " + ", ".join(kinds),
                hint=did_you_mean(kind, list(kinds)) if isinstance(kind, str) else "",
            )
        return readers[kind](value, place)

    return read


def _table(value: Any, place: Place) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise CatalogError(f"{shown(value)} is not a table", where=place.where, expected="a table")
    return value

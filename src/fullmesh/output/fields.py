"""Fields of results: key, unit, label, format and figures, declared once for tables, JSON, CSV and data frames."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Generic, TypeVar

from fullmesh.glossary import Language, label, load_glossary

X = TypeVar("X")
Y = TypeVar("Y")


def finite(value: Any) -> Any:
    """A record with null for figures that are no number: JSON has neither NaN nor infinity."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {k: finite(v) for k, v in value.items()}
    return [finite(v) for v in value] if isinstance(value, list | tuple) else value


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Figure(Generic[X]):
    """One value of a result that a program reads.

    Parameters
    ----------
    name : str
        Its column in CSV and data frames, the SI unit at its end; empty where it has none.
    path : str
        Its key in JSON, with dots between the levels; empty where it has none.
    get : callable
        The value; None where there is none.
    """

    name: str
    path: str
    get: Callable[[X], Any]

    def value(self, result: X) -> Any:
        """The value as JSON can hold it: no number where there is none."""
        found = self.get(result)
        return None if isinstance(found, float) and not math.isfinite(found) else found


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Field(Generic[X]):
    """One line of a table with what stands behind it.

    Parameters
    ----------
    key : str
        Its term in the glossary, which holds the label in every language, the unit and the meaning.
    text : callable or None
        What a person reads; None for figures that only programs read.
    cell : callable or None
        The same in a table of many plans, where it is shorter there.
    figures : tuple of Figure
    tables : tuple of str
        Commands whose tables show it.
    section : bool
        A new section of a table begins here.
    optional : bool
        A narrow terminal leaves it out, and says so.
    suffix : callable
        What follows the label (a number of tokens).
    """

    key: str
    text: Callable[[X, Language], str] | None = None
    cell: Callable[[X, Language], str] | None = None
    figures: tuple[Figure[X], ...] = ()
    tables: tuple[str, ...] = ()
    section: bool = False
    optional: bool = False
    suffix: Callable[[X], str] = lambda result: ""

    @property
    def unit(self) -> str:
        """The unit of the term."""
        return load_glossary()[self.key].unit

    def label(self, lang: Language = "en") -> str:
        """The label in a language."""
        return label(self.key, lang)


def figure(name: str, get: Callable[[X], Any], *, path: str | None = None) -> Figure[X]:
    """A figure whose JSON key is the name of its column unless ``path`` says otherwise."""
    return Figure(name=name, path=name if path is None else path, get=get)


def lifted(fields: Iterable[Field[X]], inner: Callable[[Y], X | None], none: str) -> tuple[Field[Y], ...]:
    """The fields of a part of a result, as fields of the whole; ``none`` stands where the part is missing.

    Their figures are columns of the whole, but no keys of its JSON: there the part is an object of its own.
    """

    def text_of(show: Callable[[X, Language], str] | None) -> Callable[[Y, Language], str] | None:
        if show is None:
            return None

        def text(result: Y, lang: Language) -> str:
            part = inner(result)
            return none if part is None else show(part, lang)

        return text

    def get_of(found: Figure[X]) -> Callable[[Y], Any]:
        def get(result: Y) -> Any:
            part = inner(result)
            return None if part is None else found.get(part)

        return get

    return tuple(
        Field(
            key=f.key,
            text=text_of(f.text),
            cell=text_of(f.cell),
            figures=tuple(Figure(name=g.name, path="", get=get_of(g)) for g in f.figures),
            tables=f.tables,
            section=f.section,
            optional=f.optional,
        )
        for f in fields
    )


def cells(fields: Sequence[Field[X]], result: X, lang: Language = "en") -> list[str]:
    """A row of a table of many plans."""
    shows = (f.cell or f.text for f in fields)
    return ["" if show is None else show(result, lang) for show in shows]


def shown(fields: Iterable[Field[X]], table: str) -> list[Field[X]]:
    """The fields that a command's table shows, in order."""
    return [f for f in fields if table in f.tables and f.text is not None]


def columns(fields: Iterable[Field[X]]) -> tuple[str, ...]:
    """The columns of CSV and data frames, in order."""
    return tuple(g.name for f in fields for g in f.figures if g.name)


def row(fields: Iterable[Field[X]], result: X) -> dict[str, Any]:
    """A result as one flat row; None where there is no figure."""
    return {g.name: g.value(result) for f in fields for g in f.figures if g.name}


def record(fields: Iterable[Field[X]], result: X) -> dict[str, Any]:
    """A result as nested JSON, by the paths of its figures."""
    out: dict[str, Any] = {}
    for found in (g for f in fields for g in f.figures if g.path):
        *levels, last = found.path.split(".")
        level = out
        for name in levels:
            level = level.setdefault(name, {})
        level[last] = found.value(result)
    return out


def pairs(fields: Sequence[Field[X]], result: X, table: str, lang: Language = "en") -> list[tuple[str, str]]:
    """Labels and texts of the fields that a command's table shows."""
    out = []
    for f in shown(fields, table):
        assert f.text is not None
        out.append((f.label(lang) + f.suffix(result), f.text(result, lang)))
    return out

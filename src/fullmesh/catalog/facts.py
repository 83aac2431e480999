"""Facts of the physical world: one row each, with unit, basis, kind, source and date, read strictly."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal, cast, get_args

from fullmesh.data import DATA_DIR
from fullmesh.errors import CatalogError, did_you_mean
from fullmesh.reading import csv_rows, read_toml
from fullmesh.units import to_si
from fullmesh.values import number

FactKind = Literal["datasheet", "measured", "derived", "assumed", "announced"]
Direction = Literal["one-way", "both", "-"]
FactStatus = Literal["used", "alternative", "rejected"]

FACTS_DIR = DATA_DIR / "facts"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Fact:
    """One row of a fact file.

    Parameters
    ----------
    item, parameter : str
        What the fact is about (``h200``) and what it says of it (``hbm_bandwidth``).
    value, unit : float, str
        As the source gives them.
    si_value, dimension : float, str
        The same in SI units, and the dimension (``bytes_per_s`` ...).
    basis : str
        Per die, package, GPU, node, rack; dense or sparse; nominal or usable.
    direction : {"one-way", "both", "-"}
        For links; ``-`` for everything else.
    kind : {"datasheet", "measured", "derived", "assumed", "announced"}
        ``announced`` hardware has not shipped; what ships may be less.
    source, date : str
        Public name of the source, and its date or the date on which it was read.
    status : {"used", "alternative", "rejected"}
        At most one row of an item and parameter is used; the others record what other sources say.
    note : str
    path, line : str, int
        Where the row stands.
    """

    item: str
    parameter: str
    value: float
    unit: str
    si_value: float
    dimension: str
    basis: str
    direction: Direction
    kind: FactKind
    source: str
    date: str
    status: FactStatus
    note: str
    path: str
    line: int

    @property
    def key(self) -> str:
        """``item/parameter``, as machine files refer to it."""
        return f"{self.item}/{self.parameter}"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Parameter:
    """What a parameter of a fact means and which dimension it has."""

    name: str
    dimension: str
    meaning: str


COLUMNS = (
    "item",
    "parameter",
    "value",
    "unit",
    "basis",
    "direction",
    "kind",
    "source",
    "date",
    "status",
    "note",
)
_REQUIRED = tuple(c for c in COLUMNS if c != "note")


class FactBook:
    """All facts, by item and parameter.

    Parameters
    ----------
    facts : iterable of Fact

    Raises
    ------
    CatalogError
        Two rows of one item and parameter are marked ``used``, or the same row stands twice.
    """

    def __init__(self, facts: Iterable[Fact]) -> None:
        self._facts: list[Fact] = []
        self._used: dict[tuple[str, str], Fact] = {}
        seen: dict[tuple[str, ...], Fact] = {}
        for fact in facts:
            identity = (fact.key, repr(fact.si_value), fact.basis, fact.direction, fact.source)
            first = seen.setdefault(identity, fact)
            if first is not fact:
                raise CatalogError(
                    f"{fact.key} repeats a row",
                    where=f"{fact.path}:{fact.line}",
                    expected="one row for each value and source",
                    hint=f"the first one is {first.path}:{first.line}; delete one of them",
                )
            if fact.status == "used":
                used = self._used.setdefault((fact.item, fact.parameter), fact)
                if used is not fact:
                    raise CatalogError(
                        f"{fact.key} has a second row marked used",
                        where=f"{fact.path}:{fact.line}",
                        expected="one used row for each item and parameter",
                        hint=f"the first one is {used.path}:{used.line}; mark one of them alternative or rejected",
                    )
            self._facts.append(fact)

    def __iter__(self) -> Iterator[Fact]:
        return iter(self._facts)

    def __len__(self) -> int:
        return len(self._facts)

    @property
    def items(self) -> tuple[str, ...]:
        """All items, in the order of the files."""
        return tuple(dict.fromkeys(f.item for f in self._facts))

    def find(self, item: str, parameter: str) -> Fact | None:
        """The used row, or None."""
        return self._used.get((item, parameter))

    def used(self, item: str, parameter: str, *, where: str = "") -> Fact:
        """The used row.

        Raises
        ------
        CatalogError
            There is none.
        """
        fact = self.find(item, parameter)
        if fact is None:
            known = sorted({f"{i}/{p}" for i, p in self._used})
            raise CatalogError(
                f"there is no fact {item}/{parameter}",
                where=where,
                hint=did_you_mean(f"{item}/{parameter}", known),
            )
        return fact

    def rows(self, item: str, parameter: str | None = None) -> tuple[Fact, ...]:
        """All rows of an item, or of one of its parameters, used or not."""
        return tuple(f for f in self._facts if f.item == item and parameter in (None, f.parameter))

    def alternatives(self, fact: Fact) -> tuple[Fact, ...]:
        """What other rows say of the same item and parameter."""
        return tuple(f for f in self.rows(fact.item, fact.parameter) if f is not fact)

    def conflicts(self) -> tuple[Fact, ...]:
        """All rows, used ones included, of the parameters on which sources differ."""
        disputed = {f.key for f in self._facts if f.status != "used"}
        return tuple(f for f in self._facts if f.key in disputed)


@functools.cache
def load_parameters() -> dict[str, Parameter]:
    """The parameters that a fact row may name."""
    table, _ = read_toml(FACTS_DIR / "parameters.toml", what="the parameters", error=CatalogError)
    return {name: Parameter(name=name, **entry) for name, entry in table.items()}


def read_facts(path: Path) -> list[Fact]:
    """Read one fact file.

    Parameters
    ----------
    path : pathlib.Path
        A CSV file with exactly the columns of ``COLUMNS``.

    Raises
    ------
    CatalogError
        Unknown or missing column, unknown parameter, unit, kind, direction or status, an empty field, a value that is
        not a positive number, or a unit of another dimension than the parameter has; with file and line.
    """
    parameters = load_parameters()
    facts = []
    for line, row in read_csv(path, COLUMNS):
        where = f"{path}:{line}"
        for column in _REQUIRED:
            if not row[column]:
                raise CatalogError(
                    f"column {column!r} is empty", where=where, expected=f"a {column} on each row"
                )
        parameter = parameters.get(row["parameter"])
        if parameter is None:
            raise CatalogError(
                f"unknown parameter {row['parameter']!r}",
                where=where,
                hint=did_you_mean(row["parameter"], list(parameters)),
            )
        value = positive_number(row["value"], where=where)
        si_value, dimension = to_si(value, row["unit"], where=where)
        if not math.isfinite(si_value):
            raise CatalogError(
                f"{row['value']} {row['unit']} is not finite", where=where, expected="a finite value"
            )
        if dimension != parameter.dimension:
            raise CatalogError(
                f"{row['unit']!r} is a unit of {dimension}",
                where=where,
                expected=f"a unit of {parameter.dimension} for {parameter.name}",
            )
        facts.append(
            Fact(
                item=row["item"],
                parameter=row["parameter"],
                value=value,
                unit=row["unit"],
                si_value=si_value,
                dimension=dimension,
                basis=row["basis"],
                direction=cast(Direction, one_of(row["direction"], get_args(Direction), "direction", where)),
                kind=cast(FactKind, one_of(row["kind"], get_args(FactKind), "kind", where)),
                source=row["source"],
                date=row["date"],
                status=cast(FactStatus, one_of(row["status"], get_args(FactStatus), "status", where)),
                note=row["note"],
                path=path.name,
                line=line,
            )
        )
    return facts


@functools.cache
def load_facts() -> FactBook:
    """The shipped facts, read once."""
    return FactBook(fact for path in sorted(FACTS_DIR.glob("*.csv")) for fact in read_facts(path))


def read_csv(
    path: Path, columns: tuple[str, ...], optional: tuple[str, ...] = ()
) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield the line number and the stripped fields of each row; the header names ``columns``, some ``optional``."""
    required = tuple(c for c in columns if c not in optional)
    return csv_rows(path, required=required, allowed=columns, what="the file", error=CatalogError)


def positive_number(text: str, *, where: str) -> float:
    """Read a finite number above zero."""
    return number(text, where=where, above=0.0, error=CatalogError)


def one_of(text: str, allowed: tuple[str, ...], column: str, where: str) -> str:
    """Check that a field holds one of the words allowed there."""
    if text not in allowed:
        raise CatalogError(
            f"unknown {column} {text!r}",
            where=where,
            expected="one of " + ", ".join(allowed),
            hint=did_you_mean(text, list(allowed)),
        )
    return text

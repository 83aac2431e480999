"""What a training run rests on beyond its step: recovery, storage, power, cooling and costs, each with its range."""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Literal, cast, get_args

from fullmesh.catalog.facts import one_of, read_csv
from fullmesh.data import DATA_DIR
from fullmesh.errors import CatalogError, ScenarioError, did_you_mean, shown
from fullmesh.units import UNITS, parse_quantity, to_si
from fullmesh.values import number

InputKind = Literal["measured", "claimed", "derived", "assumed", "given"]

RUN_DIR = DATA_DIR / "run"
COLUMNS = ("key", "value", "low", "high", "unit", "basis", "kind", "source", "date", "note")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class RunInput:
    """One input of a training run, in SI units, with the range in which it may lie.

    Parameters
    ----------
    key : str
    value, low, high : float
        ``low`` and ``high`` hold some 80 % of what sources say; equal to ``value`` where it is a choice.
    unit, basis : str
    kind : {"measured", "claimed", "derived", "assumed", "given"}
        ``given`` is what a user says.
    source, date, note : str
    """

    key: str
    value: float
    low: float
    high: float
    unit: str
    basis: str
    kind: InputKind
    source: str
    date: str
    note: str

    @property
    def stated(self) -> tuple[float, float, float]:
        """Low end, value and high end in ``unit``, as the file states them."""
        factor = to_si(1.0, self.unit)[0]
        low, value, high = (round(x / factor, 12) for x in (self.low, self.value, self.high))
        return low, value, high


class RunInputs:
    """All inputs of a run by key."""

    def __init__(self, rows: Iterable[RunInput]) -> None:
        self._rows: Mapping[str, RunInput] = MappingProxyType({r.key: r for r in rows})

    def __getitem__(self, key: str) -> float:
        return self._rows[key].value

    def row(self, key: str) -> RunInput:
        """An input with its range and source."""
        return self._rows[key]

    @property
    def rows(self) -> tuple[RunInput, ...]:
        """All inputs, in the order of the file."""
        return tuple(self._rows.values())

    def with_values(self, values: Mapping[str, float]) -> RunInputs:
        """The same inputs with other values, in SI units; their ranges stay."""
        return RunInputs(
            dataclasses.replace(r, value=values[r.key]) if r.key in values else r for r in self.rows
        )

    def given(self, values: Mapping[str, float]) -> RunInputs:
        """The same inputs, some of them as a user says, without a range."""
        return RunInputs(
            dataclasses.replace(r, value=v, low=v, high=v, kind="given", source="given", date="", note="")
            if (v := values.get(r.key)) is not None
            else r
            for r in self.rows
        )


@functools.cache
def load_run_inputs() -> RunInputs:
    """The shipped inputs.

    Raises
    ------
    CatalogError
        A row cannot be read; with file and line.
    """
    path = RUN_DIR / "inputs.csv"
    rows: dict[str, RunInput] = {}
    for line, row in read_csv(path, COLUMNS):
        where = f"{path}:{line}"
        value = number(row["value"], where=where, error=CatalogError, least=0.0)
        low, high = (
            number(row[c], where=where, error=CatalogError, least=0.0) if row[c] else value
            for c in ("low", "high")
        )
        if not low <= value <= high or row["key"] in rows:
            raise CatalogError(f"{row['key']} lies outside its own range, or stands twice", where=where)
        unit = row["unit"]
        rows[row["key"]] = RunInput(
            key=row["key"],
            value=to_si(value, unit, where=where)[0],
            low=to_si(low, unit, where=where)[0],
            high=to_si(high, unit, where=where)[0],
            unit=unit,
            basis=row["basis"],
            kind=cast(InputKind, one_of(row["kind"], get_args(InputKind), "kind", where)),
            source=row["source"],
            date=row["date"],
            note=row["note"],
        )
    return RunInputs(rows.values())


def read_assumptions(texts: Iterable[str], inputs: RunInputs) -> dict[str, float]:
    """What a user assumes instead of the shipped inputs: ``detection=2 min``, ``storage_bandwidth=500 GB/s``.

    Raises
    ------
    ScenarioError
        Not of that form, or no such input.
    CatalogError
        A value has another dimension than the input.
    """
    out: dict[str, float] = {}
    known = [r.key for r in inputs.rows]
    for text in texts:
        match = re.fullmatch(r"\s*([a-z_]{1,40})\s*=\s*(.{1,60}?)\s*", text, re.ASCII)
        if match is None:
            raise ScenarioError(
                f"cannot read {shown(text)}",
                where="--assume",
                expected="KEY=VALUE",
                hint='for instance detection="2 min"; `fullmesh goodput --json` lists the keys under inputs',
            )
        key, value = match[1], match[2]
        if key not in known:
            raise ScenarioError(
                f"unknown input {shown(key)}", where="--assume", hint=did_you_mean(key, known)
            )
        row = inputs.row(key)
        where = f"--assume {key}"
        dimension = UNITS[row.unit][0]
        if dimension == "count":
            out[key] = number(value, where=where, least=0.0, most=1e12)
        else:
            out[key] = parse_quantity(value, dimension, where=where)
            if not out[key] > 0:
                raise ScenarioError(f"{shown(value)} is not allowed", where=where, expected="more than zero")
    return out

"""The columns of a sweep: name and kind, the same in every file whatever the rows hold."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

from fullmesh.outcomes.fields import ESTIMATE_COLUMNS
from fullmesh.plan.plan import FIELDS
from fullmesh.reading import LARGEST_INTEGER
from fullmesh.search.fields import PLAN_CSV_COLUMNS

Kind = Literal["text", "whole", "number", "flag"]
_OF_PLANS: dict[str, Kind] = {
    "number": "whole", "share": "number", "switch": "flag", "choice": "text", "names": "text", "text": "text",
}  # fmt: skip
_IS: dict[Kind, Callable[[Any], bool]] = {
    "text": lambda v: isinstance(v, str),
    "whole": lambda v: type(v) is int and abs(v) <= LARGEST_INTEGER,
    "number": lambda v: (type(v) is float and math.isfinite(v)) or (type(v) is int and abs(v) <= 2**53),
    "flag": lambda v: isinstance(v, bool),
}
# How a point ended: a plan was found, nothing fits, or the question itself cannot be answered.
OK, NO_PLAN, ERROR = STATUSES = ("ok", "no_plan", "error")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """One column: its name, with the SI unit at its end, and what its values are where there are any."""

    name: str
    kind: Kind


def _plan_column(name: str) -> Column:
    if name in FIELDS:
        return Column(name=name, kind=_OF_PLANS[FIELDS[name].kind])
    named: dict[str, Kind] = {"plan": "text", "devices": "whole"}
    return Column(name=name, kind="number" if name in ESTIMATE_COLUMNS else named[name])


def _columns(**kinds: Kind) -> tuple[Column, ...]:
    return tuple(Column(name=name, kind=kind) for name, kind in kinds.items())


QUESTION = _columns(
    key="text", model="text", machine="text", chips="whole", asked_batch="text", asked_seq="whole",
    asked_precision="text", asked_software="text", objective="text", asked_offload="flag",
)  # fmt: skip
OUTCOME = _columns(
    status="text", error="text", limit="text", software="text", substituted="text", notes="text",
    plans_enumerated="whole", plans_priced="whole", plans_fitting="whole", ties="whole", tie_ratio="number",
)  # fmt: skip
BEST = tuple(_plan_column(name) for name in PLAN_CSV_COLUMNS if name != "rank")
ELAPSED = "elapsed_s"
COLUMNS = (*QUESTION, *OUTCOME, *BEST, Column(name=ELAPSED, kind="number"))
NAMES = tuple(c.name for c in COLUMNS)
KEY_AT, STATUS_AT, ERROR_AT = NAMES.index("key"), NAMES.index("status"), NAMES.index("error")
KEY_LENGTH = 32


def fault_of(row: Any) -> str:
    """Why something is no row of a sweep; empty where it is one."""
    if not isinstance(row, list) or len(row) != len(COLUMNS):
        return f"this is no list of {len(COLUMNS)} values"
    for column, value in zip(COLUMNS, row, strict=True):
        if value is not None and not _IS[column.kind](value):
            return f"the value of {column.name} is of another type"
    if row[KEY_AT] is None or len(row[KEY_AT]) != KEY_LENGTH:
        return f"the key has not {KEY_LENGTH} letters"
    return "" if row[STATUS_AT] in STATUSES else "the status is unknown"


def named(row: Sequence[Any]) -> dict[str, Any]:
    """A row by the names of its columns."""
    return dict(zip(NAMES, row, strict=True))

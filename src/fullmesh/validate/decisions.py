"""Decisions against what people ran: the plan that a search picks, and the order of published plans of one setting.

A setting is a model on a machine with a batch, a sequence length, a precision and a stack. The search may find what
nobody published, but where it promises much more than the best of a setting reached, it is the promise that is doubted.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np

from fullmesh.errors import FullmeshError
from fullmesh.evidence.mapping import Case, row_case
from fullmesh.evidence.published import is_headline, outliers, published_step_s
from fullmesh.evidence.results import ResultRow, read_results
from fullmesh.plan.software import CAPABILITIES, software_of
from fullmesh.search.engine import search
from fullmesh.validate.score import Report

# Two published plans of one setting that differ by less than this are not ordered.
DIFFERENT = 1.05


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """One setting: the best that was published, and what a search says.

    ``exploratory_s`` is the step of the plan that is predicted fastest of all, where it is not the best one.
    """

    machine: str
    family: str
    num_devices: int
    model: str
    kind: str
    precision: str
    stack: str
    rows: tuple[str, ...]
    published_s: float
    published_plan: str
    best_s: float
    best_plan: str
    exploratory_s: float | None
    exploratory_plan: str

    @property
    def ratio(self) -> float:
        """Best published step over the step of the best plan: above one, the search promises more."""
        return self.published_s / self.best_s

    @property
    def exploratory_ratio(self) -> float:
        """The same for the plan that is predicted fastest."""
        return self.published_s / (self.exploratory_s or self.best_s)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Decisions:
    """All settings, and pairs of published plans of one setting.

    ``pairs`` and ``ordered`` count pairs that differ by more than 5 % and those that predictions without their
    configuration put in the right order; ``refused`` are settings for which no search is possible.
    """

    settings: tuple[Decision, ...]
    pairs: int
    ordered: int
    refused: int

    def quantile(self, level: float, *, kind: str = "", family: str = "") -> float:
        """Quantile of the ratios of a group."""
        chosen = [
            d.ratio
            for d in self.settings
            if (not kind or d.kind == kind) and (not family or d.family == family)
        ]
        return float(np.quantile(chosen, level)) if chosen else float("nan")


def decide(
    report: Report,
    rows: Sequence[ResultRow] | None = None,
    progress: Callable[[int, int], None] = lambda *_: None,
) -> Decisions:
    """Search every published setting.

    Parameters
    ----------
    report : Report
        Predictions of the same rows, for the order of pairs.
    rows : sequence of ResultRow, optional
        The shipped results without it.
    progress : callable
        Called with settings done and all.
    """
    used = read_results() if rows is None else rows
    odd = outliers(used)
    settings: dict[tuple[Any, ...], list[Case]] = {}
    for row in used:
        if not is_headline(row) or row.id in odd or not published_step_s(row):
            continue
        try:
            case = row_case(row)
        except FullmeshError:
            continue
        p = case.plan
        key = (case.machine.id, p.num_devices, case.model, p.gbs, p.seq, p.precision, p.stack)
        settings.setdefault(key, []).append(case)
    found, refused = [], 0
    for done, cases in enumerate(settings.values()):
        progress(done, len(settings))
        decision = _decide(cases)
        if decision is None:
            refused += 1
        else:
            found.append(decision)
    pairs, ordered = _order(report, settings.values())
    return Decisions(settings=tuple(found), pairs=pairs, ordered=ordered, refused=refused)


def _decide(cases: Sequence[Case]) -> Decision | None:
    """Search one setting with the software of its fastest run; None where no plan can be searched."""
    times = [published_step_s(c.row) or float("inf") for c in cases]
    fastest = cases[int(np.argmin(times))]
    plan = fastest.plan
    software = dataclasses.replace(
        software_of(fastest.machine),
        stack=plan.stack,
        label=plan.stack,
        options=MappingProxyType({k: getattr(plan, k) for k in CAPABILITIES}),
        expert_options=MappingProxyType({}),
    )
    try:
        result = search(
            fastest.model, fastest.machine, gbs=plan.gbs, seq=plan.seq, precision=plan.precision, top=1,
            offload=plan.offload_optimizer > 0, software=software,
        )  # fmt: skip
    except FullmeshError:
        return None
    if result.best is None:
        return None
    beyond = result.exploratory
    return Decision(
        machine=fastest.machine.id,
        family=fastest.machine.chip.family,
        num_devices=plan.num_devices,
        model=fastest.model.name,
        kind="MoE" if fastest.model.is_moe else "dense",
        precision=plan.precision,
        stack=plan.stack,
        rows=tuple(c.row.id for c in cases),
        published_s=min(times),
        published_plan=plan.label(),
        best_s=result.best.step_s,
        best_plan=result.best.plan.label(),
        exploratory_s=None if beyond is None else beyond.step_s,
        exploratory_plan="" if beyond is None else beyond.plan.label(),
    )


def _order(report: Report, settings: Any) -> tuple[int, int]:
    """Pairs of published plans of one setting that differ, and how many of them predictions order rightly."""
    predicted = {r.id: r.cross_validated_step_s for r in report.rows if r.cross_validated_step_s}
    pairs = ordered = 0
    for cases in settings:
        known = [(c, published_step_s(c.row) or 0.0, predicted.get(c.row.id)) for c in cases]
        for (a, at, ap), (b, bt, bp) in itertools.combinations([k for k in known if k[2]], 2):
            if a.plan == b.plan or max(at, bt) < DIFFERENT * min(at, bt):
                continue
            pairs += 1
            ordered += (at < bt) == ((ap or 0.0) < (bp or 0.0))
    return pairs, ordered

"""Every published result against the prediction: rows, groups, the naive model, the gate."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from fullmesh.cost.effects import EffectProfile, load_effects
from fullmesh.cost.uncertainty import load_uncertainty, read_arrays
from fullmesh.evidence.cases import CaseTable, case_table
from fullmesh.evidence.mapping import Case
from fullmesh.evidence.published import (
    configuration,
    folds,
    is_headline,
    outliers,
    published_memory_bytes,
    published_step_s,
)
from fullmesh.evidence.results import ResultRow, read_results
from fullmesh.outcomes.caveats import caveats_of
from fullmesh.outcomes.intervals import (
    FewShot,
    few_shot_results,
    held_out_coverage,
    interval_for,
    memory_coverage,
)
from fullmesh.validate.naive import naive_step_s

Floats = npt.NDArray[np.float64]
# A peak predicted smaller by more than this share promises to fit what does not.
TOO_SHORT = 0.1


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class RowScore:
    """One row of the table with what we predict for it.

    ``memory_share`` is what the plan takes of a device's memory as predicted: above one it would be refused.
    """

    id: str
    status: str
    reason: str
    tier: str
    phase: str
    publisher: str
    source: str
    gpu: str
    n_gpus: int | None
    model: str
    precision: str
    plan: str
    family: str
    kind: str
    step_from: str
    published_step_s: float | None
    predicted_step_s: float | None
    cross_validated_step_s: float | None
    left_out_publisher_step_s: float | None
    naive_step_s: float | None
    naive_cross_validated_step_s: float | None
    naive_left_out_publisher_step_s: float | None
    low_s: float | None
    high_s: float | None
    memory_kind: str
    published_memory_bytes: float | None
    predicted_memory_bytes: float | None
    left_out_memory_bytes: float | None
    memory_share: float | None
    fitted_on: bool
    assumptions: tuple[str, ...]

    def error(self, column: str = "predicted_step_s") -> float:
        """Relative error of a predicted column against what was published of it; NaN where either is missing."""
        value = getattr(self, column)
        published = self.published_memory_bytes if column.endswith("memory_bytes") else self.published_step_s
        if value is None or published is None:
            return float("nan")
        return float(value / published - 1.0)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Errors:
    """Absolute relative errors of a group of rows."""

    group: str
    rows: int
    median: float
    mean: float
    p90: float
    worst: float
    bias: float


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """Plans that ran somewhere and would be refused for want of memory, and the largest share of it they would take."""

    rows: int
    refused: int
    largest_share: float


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What ``fullmesh validate`` prints and writes.

    ``coverage`` is how many rows of a tier were predicted, of how many; ``outliers`` how many of the rows of both tiers
    the errors leave out, of how many. ``memory_left_out`` are errors of peaks of publishers that no fit had seen, all
    of them first; ``memory_short`` is the share of them that was predicted more than a tenth too small;
    ``memory_coverage`` are their number and the share of them inside intervals that were made without their publishers.
    """

    rows: tuple[RowScore, ...]
    coverage: dict[str, tuple[int, int]]
    outliers: tuple[int, int]
    headline: tuple[Errors, ...]
    groups: dict[str, tuple[Errors, ...]]
    memory: tuple[Errors, ...]
    memory_median: float
    memory_left_out: tuple[Errors, ...]
    memory_short: float
    memory_coverage: tuple[int, float]
    few_shot: dict[str, tuple[FewShot, ...]]
    refused: dict[str, Refused]
    interval_coverage: dict[str, tuple[int, float]]
    alternatives: tuple[Errors, ...]
    shipped: bool


def errors_of(group: str, signed: Floats) -> Errors:
    """Statistics of signed relative errors."""
    known = signed[~np.isnan(signed)]
    size = np.abs(known)
    if not len(known):
        nan = float("nan")
        return Errors(group=group, rows=0, median=nan, mean=nan, p90=nan, worst=nan, bias=nan)
    return Errors(
        group=group,
        rows=len(known),
        median=float(np.median(size)),
        mean=float(np.mean(size)),
        p90=float(np.quantile(size, 0.9)),
        worst=float(np.max(size)),
        bias=float(np.median(known)),
    )


@functools.lru_cache(maxsize=1)
def _held_out() -> tuple[tuple[EffectProfile, ...], dict[str, EffectProfile], frozenset[str]]:
    """Profiles fitted without a fold, without a publisher, and the configurations that were fitted on."""
    arrays = read_arrays(
        "step_fits.npz", "held_out_names", "held_out_effects", "held_out_publishers", "configurations"
    )
    if not arrays:
        return (), {}, frozenset()
    names = [str(n) for n in arrays["held_out_names"]]
    fits = [
        # an effect that a fit has not is zero in the table of all of them
        EffectProfile(
            effects={n: v for n, v in zip(names, row.tolist(), strict=True) if v != 0.0}, provenance={}
        )
        for row in arrays["held_out_effects"]
    ]
    publishers = [str(n) for n in arrays["held_out_publishers"]]
    num_folds = len(fits) - len(publishers)
    return (
        tuple(fits[:num_folds]),
        dict(zip(publishers, fits[num_folds:], strict=True)),
        frozenset(str(c) for c in arrays["configurations"]),
    )


def score(rows: Sequence[ResultRow] | None = None, *, own: bool = False) -> Report:
    """Predict and score every row; without ``rows`` the shipped table.

    With ``own`` the rows are runs of whoever asks, predicted with the effects in use whatever publisher they name.
    """
    shipped = rows is None
    rows = read_results() if rows is None else rows
    odd = outliers(rows)
    timed = [r for r in rows if published_step_s(r) or published_memory_bytes(r)[1]]
    table, refusals = case_table(timed, own=own)
    reasons = {r.row.id: r.reason for r in refusals}
    columns = _predict(table, odd, shipped, own=own) if table is not None else _Predicted()
    at = {case.row.id: i for i, case in enumerate(columns.cases)}
    scored = tuple(_row_score(row, at.get(row.id), columns, reasons, odd) for row in rows)
    return dataclasses.replace(_report(scored, shipped), alternatives=_alternatives(timed, scored))


def _alternatives(rows: Sequence[ResultRow], scored: Sequence[RowScore]) -> tuple[Errors, ...]:
    """Errors where a source does not say which bin of the chip it ran on: as assumed, and under the other bin.

    The effects are those fitted under the assumption, so the other bin is judged without a fit of its own.
    """
    usual = {r.id: r for r in scored if r.status == "ok" and r.tier in ("A", "B") and r.phase == "pretrain"}
    chosen = [r for r in rows if r.id in usual and r.chip_bin_note]
    table, _ = case_table(chosen, alternative=True)
    if table is None:
        return ()
    other = table.step_times(load_effects()).step_s
    out = []
    for machine in dict.fromkeys(c.machine.name for c in table.cases):
        members = [i for i, c in enumerate(table.cases) if c.machine.name == machine]
        ids = [table.cases[i].row.id for i in members]
        published = np.array([usual[i].published_step_s or np.nan for i in ids])
        assumed = np.array([usual[i].predicted_step_s or np.nan for i in ids])
        chip = table.cases[members[0]].machine.chip.name
        out.append(errors_of(f"{machine}, as assumed", assumed / published - 1.0))
        out.append(errors_of(f"{machine} with {chip}", other[members] / published - 1.0))
    return tuple(out)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Predicted:
    """Predictions of all cases, columns of shape ``(num_cases,)``."""

    cases: tuple[Case, ...] = ()
    predicted: Floats = dataclasses.field(default_factory=lambda: np.zeros(0))
    held_out: Floats = dataclasses.field(default_factory=lambda: np.zeros(0))
    without: Floats = dataclasses.field(default_factory=lambda: np.zeros(0))
    naive: Floats = dataclasses.field(default_factory=lambda: np.zeros(0))
    naive_held_out: Floats = dataclasses.field(default_factory=lambda: np.zeros(0))
    naive_without: Floats = dataclasses.field(default_factory=lambda: np.zeros(0))
    variance: Floats = dataclasses.field(default_factory=lambda: np.zeros(0))
    allocated: Floats = dataclasses.field(default_factory=lambda: np.zeros(0))
    reserved: Floats = dataclasses.field(default_factory=lambda: np.zeros(0))
    allocated_without: Floats = dataclasses.field(default_factory=lambda: np.zeros(0))
    reserved_without: Floats = dataclasses.field(default_factory=lambda: np.zeros(0))
    memory_share: Floats = dataclasses.field(default_factory=lambda: np.zeros(0))
    fitted: npt.NDArray[np.bool_] = dataclasses.field(default_factory=lambda: np.zeros(0, dtype=bool))


def _predict(table: CaseTable, odd: Mapping[str, str], shipped: bool, *, own: bool) -> _Predicted:
    """Predict every case with the full fit, with the fits that held it out, and with the naive model."""
    by_fold, by_publisher, fitted_configurations = _held_out()
    uncertainty = load_uncertainty()
    published = np.array([published_step_s(c.row) or np.nan for c in table.cases])
    predicted = table.step_times(load_effects()).step_s
    allocated, reserved, used = table.peak_memory(load_effects())
    shipped_rows = read_results()
    fold_of_key = folds(shipped_rows)
    fold_of = {configuration(r): fold_of_key[r.run_key] for r in shipped_rows}
    names = [configuration(c.row) for c in table.cases]
    # in the shipped table the fold of a row is that of its key; elsewhere a key means nothing, what ran does
    fold = [
        fold_of_key[c.row.run_key] if shipped else fold_of.get(n)
        for n, c in zip(names, table.cases, strict=True)
    ]
    fitted = np.array(
        [
            not own and n in fitted_configurations and is_headline(c.row)
            for n, c in zip(names, table.cases, strict=True)
        ],
        dtype=bool,
    )
    held_out = _select(
        table,
        predicted,
        by_fold,
        [k if f else None for k, f in zip(fold, fitted, strict=True)],
    )
    without = _select(
        table,
        predicted,
        by_publisher,
        [c.row.publisher if f else None for c, f in zip(table.cases, fitted, strict=True)],
    )
    usable = np.array(
        [is_headline(c.row) and c.row.id not in odd and bool(published_step_s(c.row)) for c in table.cases]
    )
    allocated_without, reserved_without = allocated.copy(), reserved.copy()
    for name in {c.row.publisher for c in table.cases} if not own else ():
        if name in by_publisher:
            members = np.array([c.row.publisher == name for c in table.cases])
            theirs = dataclasses.replace(
                table, groups=tuple(g for g in table.groups if members[g.members].any())
            )
            less = theirs.peak_memory(by_publisher[name])
            allocated_without[members], reserved_without[members] = less[0][members], less[1][members]
    return _Predicted(
        cases=table.cases,
        predicted=predicted,
        held_out=held_out,
        without=without,
        naive=naive_step_s(table.cases, published, usable),
        naive_held_out=naive_step_s(
            table.cases, published, usable, np.array([-1 if k is None else k for k in fold])
        ),
        naive_without=naive_step_s(
            table.cases, published, usable, np.array([c.row.publisher for c in table.cases])
        ),
        variance=np.full(len(names), np.inf)
        if uncertainty is None
        else table.log_variances(load_effects(), uncertainty),
        allocated=allocated,
        reserved=reserved,
        allocated_without=allocated_without,
        reserved_without=reserved_without,
        memory_share=used / np.array([c.machine.chip.hbm_bytes for c in table.cases]),
        fitted=fitted,
    )


def _select(
    table: CaseTable,
    default: Floats,
    profiles: Sequence[EffectProfile] | dict[str, EffectProfile],
    keys: Sequence[int | str | None],
) -> Floats:
    """Predict each case with the profile that its key names; the default where it has none."""
    out = default.copy()
    for key in set(keys) - {None}:
        try:
            profile = profiles[key]  # type: ignore[index]
        except (KeyError, IndexError):
            continue
        mask = np.array([k == key for k in keys])
        out[mask] = table.step_times(profile).step_s[mask]
    return out


def _row_score(
    row: ResultRow, i: int | None, p: _Predicted, reasons: Mapping[str, str], odd: Mapping[str, str]
) -> RowScore:
    published = published_step_s(row)
    kind, memory = published_memory_bytes(row)
    if published is None and memory is None:
        status, reason = "no_step_time", "neither a step time nor tokens per second are published"
    elif i is None:
        status, reason = "unsupported", reasons.get(row.id, "")
    elif published is None:
        status, reason = "no_step_time", "only memory is published"
    elif row.id in odd:
        status, reason = "outlier", odd[row.id]
    else:
        status, reason = "ok", ""
    case = p.cases[i] if i is not None else None
    step = float(p.predicted[i]) if i is not None else None
    interval = (
        interval_for(float(p.held_out[i]), float(p.variance[i]), unproven=caveats_of(case.machine).unproven)
        if case is not None and i is not None
        else None
    )
    return RowScore(
        id=row.id,
        status=status,
        reason=reason,
        tier=row.tier,
        phase=row.phase,
        publisher=row.publisher,
        source=row.source,
        gpu=row.gpu,
        n_gpus=row.n_gpus,
        model=row.model,
        precision=row.precision,
        plan=case.plan.label() if case else "",
        family=case.machine.chip.family if case else "",
        kind=("MoE" if case.model.is_moe else "dense") if case else "",
        step_from=row.step_from,
        published_step_s=published,
        predicted_step_s=step,
        cross_validated_step_s=float(p.held_out[i]) if i is not None else None,
        left_out_publisher_step_s=float(p.without[i]) if i is not None else None,
        naive_step_s=_known(p.naive, i),
        naive_cross_validated_step_s=_known(p.naive_held_out, i),
        naive_left_out_publisher_step_s=_known(p.naive_without, i),
        low_s=interval.low_s if interval else None,
        high_s=interval.high_s if interval else None,
        memory_kind=kind,
        published_memory_bytes=memory,
        predicted_memory_bytes=float((p.allocated if kind == "allocated" else p.reserved)[i])
        if i is not None and memory
        else None,
        left_out_memory_bytes=float((p.allocated_without if kind == "allocated" else p.reserved_without)[i])
        if i is not None and memory
        else None,
        memory_share=float(p.memory_share[i]) if i is not None else None,
        fitted_on=bool(p.fitted[i]) and status == "ok" if i is not None else False,
        assumptions=case.assumptions if case else (),
    )


def _known(column: Floats, i: int | None) -> float | None:
    return float(column[i]) if i is not None and not np.isnan(column[i]) else None


def _report(rows: tuple[RowScore, ...], shipped: bool) -> Report:
    timed = [r for r in rows if r.published_step_s is not None]
    headline = [r for r in timed if r.tier in ("A", "B") and r.phase == "pretrain"]
    coverage = {}
    for tier in ("A", "B"):
        of_tier = [r for r in headline if r.tier == tier]
        coverage[f"tier {tier}"] = (sum(r.predicted_step_s is not None for r in of_tier), len(of_tier))
    scored = [r for r in headline if r.status == "ok"]
    predicted = [r for r in headline if r.predicted_step_s is not None]
    lines = [
        _errors("cross-validated over configurations", scored, "cross_validated_step_s"),
        _errors("cross-validated, outliers included", predicted, "cross_validated_step_s"),
        _errors("whole publishers left out", scored, "left_out_publisher_step_s"),
        _errors("fitted on these rows", scored, "predicted_step_s"),
        _errors("naive model, cross-validated", scored, "naive_cross_validated_step_s"),
        _errors("naive model, whole publishers left out", scored, "naive_left_out_publisher_step_s"),
        _errors("naive model, fitted on these rows", scored, "naive_step_s"),
    ]
    groupings: dict[str, Callable[[RowScore], str]] = {
        "chip family": lambda r: r.family,
        "kind of model": lambda r: r.kind,
        "chip and kind": lambda r: f"{r.family} {r.kind}",
        "tier": lambda r: r.tier,
        "publisher": lambda r: r.publisher,
        "source": lambda r: r.source,
        "step time from": lambda r: r.step_from,
    }
    groups = {name: _by(scored, key) for name, key in groupings.items()}
    groups["publisher that was left out"] = _by(scored, lambda r: r.publisher, "left_out_publisher_step_s")
    counted = {id(r) for r in headline}
    other = [r for r in timed if id(r) not in counted and r.predicted_step_s is not None]
    groups["outside the headline"] = _by(other, lambda r: f"tier {r.tier}, {r.phase}", "predicted_step_s")
    with_memory = [
        r for r in rows if r.published_memory_bytes and r.predicted_memory_bytes and r.tier in ("A", "B")
    ]
    trained = [r for r in with_memory if r.phase == "pretrain"]
    memory = _by(trained, lambda r: r.publisher, "predicted_memory_bytes")
    left_out = _by(trained, lambda r: r.publisher, "left_out_memory_bytes")
    tuned = [r for r in with_memory if r.phase != "pretrain"]
    beside = _by(tuned, lambda r: f"{r.publisher}, {r.phase} (never fitted)", "predicted_memory_bytes")
    return Report(
        rows=rows,
        coverage=coverage,
        outliers=(sum(r.status == "outlier" for r in headline), len(headline)),
        headline=tuple(lines),
        groups=groups,
        memory=(*memory, *beside),
        memory_median=float(np.mean([m.median for m in memory])) if memory else float("nan"),
        memory_left_out=(_errors("all", trained, "left_out_memory_bytes"), *left_out) if left_out else (),
        memory_short=float(np.mean([r.error("left_out_memory_bytes") < -TOO_SHORT for r in trained]))
        if trained
        else float("nan"),
        memory_coverage=memory_coverage() if shipped else (0, float("nan")),
        few_shot=few_shot_results() if shipped else {},
        refused=_refused(predicted),
        interval_coverage=held_out_coverage() if shipped else _interval_coverage(scored),
        alternatives=(),
        shipped=shipped,
    )


def _refused(rows: Sequence[RowScore]) -> dict[str, Refused]:
    """By publisher, and of all."""

    def count(members: Sequence[RowScore]) -> Refused:
        shares = np.array([r.memory_share for r in members], dtype=float)
        return Refused(
            rows=len(shares),
            refused=int((shares > 1.0).sum()),
            largest_share=float(shares.max(initial=0.0)),
        )

    names = sorted({r.publisher for r in rows})
    return {"all": count(rows)} | {n: count([r for r in rows if r.publisher == n]) for n in names}


def _errors(group: str, rows: Sequence[RowScore], column: str) -> Errors:
    return errors_of(group, np.array([r.error(column) for r in rows]))


def _by(
    rows: Sequence[RowScore], key: Callable[[RowScore], str], column: str = "cross_validated_step_s"
) -> tuple[Errors, ...]:
    names = sorted({key(r) for r in rows})
    return tuple(_errors(name, [r for r in rows if key(r) == name], column) for name in names)


def _interval_coverage(rows: Sequence[RowScore]) -> dict[str, tuple[int, float]]:
    """Share of rows whose published step time lies in its 80 % interval, overall and by chip family."""

    def share(members: list[RowScore]) -> tuple[int, float]:
        inside = [
            (r.low_s or 0) <= (r.published_step_s or 0) <= (r.high_s or 0)
            for r in members
            if r.low_s is not None
        ]
        return len(inside), float(np.mean(inside)) if inside else float("nan")

    out = {"all": share(list(rows))}
    for family in sorted({r.family for r in rows}):
        out[family] = share([r for r in rows if r.family == family])
    return out

"""Fit the step and memory models to the published results, with every hold-out that is reported later."""

from __future__ import annotations

import dataclasses
import datetime
import hashlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from fullmesh.calibrate.effects.fit import Design, fit_memory, fit_step, profile_of
from fullmesh.cost.effects import EffectProfile
from fullmesh.errors import ResultsError
from fullmesh.evidence.cases import CaseTable, case_table
from fullmesh.evidence.published import (
    GIB,
    NUM_FOLDS,
    configuration,
    folds,
    is_headline,
    outliers,
    published_memory_bytes,
    published_step_s,
)
from fullmesh.evidence.results import ResultRow
from fullmesh.files import write_json

Floats = npt.NDArray[np.float64]
Progress = Callable[[str], None]

# An interval needs at least this many results of its own kind; with fewer the pooled one is used.
MIN_ROWS = 10


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class StepFit:
    """Profiles fitted to published results.

    ``by_fold`` and ``by_publisher`` were fitted without a fold or a publisher; ``intervals`` are quantiles of the
    cross-validated residuals, log(published / predicted), by chip family and kind of model; ``chips`` counts the
    results fitted on by the very chip that they ran on.
    """

    profile: EffectProfile
    by_fold: tuple[EffectProfile, ...]
    by_publisher: dict[str, EffectProfile]
    configurations: tuple[str, ...]
    intervals: dict[str, dict[str, float]]
    coverage: dict[str, tuple[int, float]]
    chips: Mapping[str, int] = dataclasses.field(default_factory=dict)


def fit_published(rows: Sequence[ResultRow], progress: Progress = lambda _: None) -> StepFit:
    """Fit all effects on the headline rows that are no outliers.

    The same rows and versions give the same profile. Every fit starts from zero: a fold that started from the fit on
    all rows would still know a little of the rows that it holds out.
    """
    odd = outliers(rows)
    used = [r for r in rows if published_step_s(r) or published_memory_bytes(r)[1]]
    table, _ = case_table(used)
    if table is None:
        raise ResultsError("no row of the table can be predicted", where="published results")
    published = np.array([published_step_s(c.row) or np.nan for c in table.cases])
    use = np.array([is_headline(c.row) and c.row.id not in odd for c in table.cases]) & ~np.isnan(published)
    published = np.where(np.isnan(published), 1.0, published)
    progress(f"fitting step effects on {int(use.sum())} published results")
    step_design, step_x = fit_step(table, published, use)
    progress("fitting memory effects")
    profile = profile_of((step_design, step_x), _fit_memory(table))
    fold_of = folds(rows)
    fold = np.array([fold_of[c.row.run_key] for c in table.cases])
    publisher = np.array([c.row.publisher for c in table.cases])
    predicted = np.full(len(table.cases), np.nan)
    by_fold = []
    for k in range(NUM_FOLDS):
        progress(f"fold {k + 1} of {NUM_FOLDS}")
        held = profile_of(fit_step(table, published, use & (fold != k)))
        by_fold.append(held)
        predicted[fold == k] = table.step_times(held).step_s[fold == k]
    by_publisher = {}
    unseen = np.full(len(table.cases), np.nan)
    for name in sorted(set(publisher[use])):
        progress(f"without {name}")
        by_publisher[str(name)] = profile_of(fit_step(table, published, use & (publisher != name)))
        mask = publisher == name
        unseen[mask] = table.step_times(by_publisher[str(name)]).step_s[mask]
    residual = np.log(published / predicted)
    return StepFit(
        profile=profile,
        by_fold=tuple(by_fold),
        by_publisher=by_publisher,
        configurations=tuple(
            sorted({configuration(c.row) for c, u in zip(table.cases, use, strict=True) if u})
        ),
        intervals=_intervals(table, residual, np.log(published / unseen), use),
        coverage=_coverage(table, residual, np.log(published / unseen), use, fold),
        chips=dict(
            sorted(Counter(c.machine.chip.id for c, u in zip(table.cases, use, strict=True) if u).items())
        ),
    )


def _fit_memory(table: CaseTable) -> tuple[Design, Floats]:
    allocated = np.array([(c.row.mem_allocated_gib or np.nan) * GIB for c in table.cases])
    reserved = np.array([(c.row.mem_reserved_gib or np.nan) * GIB for c in table.cases])
    usable = np.array([c.row.tier in ("A", "B") for c in table.cases])
    return fit_memory(table, allocated, reserved, usable)


def _intervals(
    table: CaseTable, residual: Floats, unseen: Floats, use: npt.NDArray[np.bool_]
) -> dict[str, dict[str, float]]:
    """Quantiles by group that leave 10 % of the residuals on either side, for a result not seen yet.

    The groups named ``unseen`` come from whole publishers left out: they stand for chips with too few results of
    their own, of which nobody's results have taught the model.
    """
    groups: dict[str, list[float]] = {}
    for case, r, new, u in zip(table.cases, residual, unseen, use, strict=True):
        if not u:
            continue
        groups.setdefault(f"unseen|{'moe' if case.model.is_moe else 'dense'}", []).append(float(new))
        kind = "moe" if case.model.is_moe else "dense"
        family = case.machine.chip.family
        for key in (f"{family}|{kind}", f"{family}|any", f"any|{kind}", "any|any"):
            groups.setdefault(key, []).append(float(r))
    out = {}
    for key, values in sorted(groups.items()):
        n = len(values)
        if n < MIN_ROWS and key != "any|any":
            continue
        # split-conformal levels: a new result ranks uniformly among the n + 1
        level = max(0.0, 0.1 * (n + 1) / n - 0.5 / n)
        low, high = np.quantile(values, [level, 1.0 - level])
        out[key] = {"low": round(float(low), 4), "high": round(float(high), 4), "rows": n}
    return out


def _coverage(
    table: CaseTable,
    residual: Floats,
    unseen: Floats,
    use: npt.NDArray[np.bool_],
    fold: npt.NDArray[np.int64],
) -> dict[str, tuple[int, float]]:
    """Share of results inside an interval that was made without their fold, for all rows and by chip family.

    Intervals made from the very residuals that they are held against would cover 80 % whatever the model does.
    """
    inside: dict[str, list[bool]] = {"all": []}
    for k in range(NUM_FOLDS):
        made = _intervals(table, residual, unseen, use & (fold != k))
        for case, r, u, f in zip(table.cases, residual, use, fold, strict=True):
            if not u or f != k:
                continue
            family = case.machine.chip.family
            kind = "moe" if case.model.is_moe else "dense"
            found = made.get(f"{family}|{kind}") or made.get(f"{family}|any") or made.get(f"unseen|{kind}")
            if found is None:
                continue
            for group in ("all", family):
                inside.setdefault(group, []).append(bool(found["low"] <= r <= found["high"]))
    return {group: (len(v), round(float(np.mean(v)), 4)) for group, v in inside.items() if v}


def write_step_fit(fit: StepFit, rows: Sequence[ResultRow], folder: Path, date: datetime.date) -> None:
    """Write ``step.json``, ``step_held_out.json`` and ``intervals.json`` whole or not at all."""
    digest = hashlib.sha256("\n".join(f"{r.id},{published_step_s(r)}" for r in rows).encode()).hexdigest()[
        :16
    ]
    provenance = {
        "date": date.isoformat(),
        "fitted_on": "published training results, tiers A and B, pre-training, outliers left out",
        "rows_digest": digest,
        "configurations": len(fit.configurations),
        "effects": len(fit.profile.effects),
        "command": "fullmesh calibrate published",
    }
    write_json(
        folder / "step.json", {"provenance": provenance, "effects": dict(sorted(fit.profile.effects.items()))}
    )
    write_json(
        folder / "step_held_out.json",
        {
            "provenance": provenance,
            "configurations": list(fit.configurations),
            "folds": [dict(sorted(p.effects.items())) for p in fit.by_fold],
            "publishers": {k: dict(sorted(p.effects.items())) for k, p in fit.by_publisher.items()},
        },
    )
    write_json(
        folder / "intervals.json",
        {
            "provenance": provenance,
            "groups": fit.intervals,
            "coverage": fit.coverage,
            "chips": dict(fit.chips),
        },
    )

"""Fit the step and memory models to the published results, with every hold-out that is reported later."""

from __future__ import annotations

import dataclasses
import datetime
import hashlib
import io
import zipfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from fullmesh.calibrate.effects.few_shot import few_shot
from fullmesh.calibrate.effects.fit import Design, fit_memory, fit_step, profile_of, step_problem
from fullmesh.calibrate.effects.intervals import (
    HeldOut,
    IntervalFit,
    MemoryFit,
    fit_intervals,
    fit_memory_intervals,
    predict_held_out,
    uncertainty_of,
)
from fullmesh.calibrate.effects.spread import estimate_spread
from fullmesh.cost.effects import UNKNOWN, EffectProfile, cores_of
from fullmesh.cost.uncertainty import Uncertainty
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
from fullmesh.files import write_bytes, write_json
from fullmesh.outcomes.intervals import FewShot
from fullmesh.outcomes.support import (
    Neighbour,
    Tried,
    key_of,
    neighbour_arrays,
    seen_pairs,
    tried_by,
    values_of,
)
from fullmesh.plan import RECIPES, Plan
from fullmesh.workload.flops import model_flop_per_token

Floats = npt.NDArray[np.float64]
Progress = Callable[[str], None]
#: What :func:`write_step_fit` writes.
STEP_FILES = ("step.json", "step_fits.npz", "support.json", "intervals.json")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class StepFit:
    """Profiles fitted to published results.

    Parameters
    ----------
    profile : EffectProfile
    uncertainty : Uncertainty
    by_fold, by_publisher
        Effects fitted without a fold or a publisher.
    configurations : tuple of str
        What was fitted on.
    intervals : IntervalFit
    memory_intervals : MemoryFit or None
    few_shot : mapping
        What one and three configurations of a left-out publisher are worth.
    support : mapping
        Pairs of attributes of plans that some result has, by cores and kind of model.
    tried : mapping
        How far the plans go where attributes do not look, by the same.
    neighbours : tuple of Neighbour
        Results to name as the nearest to a plan.
    longest_seq : mapping of str to int
        Tokens of the longest sequence of a result, by cores.
    best_mfu : mapping
        Highest published use of the peak, by cores, kind of model and precision.
    chips : mapping of str to int
        Results fitted on by the very chip that they ran on.
    """

    profile: EffectProfile
    uncertainty: Uncertainty
    by_fold: tuple[EffectProfile, ...]
    by_publisher: dict[str, EffectProfile]
    configurations: tuple[str, ...]
    intervals: IntervalFit
    memory_intervals: MemoryFit | None
    few_shot: Mapping[str, tuple[FewShot, ...]]
    support: Mapping[str, set[tuple[str, str]]]
    tried: Mapping[str, Tried]
    neighbours: tuple[Neighbour, ...]
    longest_seq: Mapping[str, int]
    best_mfu: Mapping[str, float]
    chips: Mapping[str, int] = dataclasses.field(default_factory=dict)


def fit_published(rows: Sequence[ResultRow], progress: Progress = lambda _: None) -> StepFit:
    """Fit all effects on the headline rows that are no outliers.

    The same rows and versions give the same profile. Every fit starts from zero: a fold that started from the fit on
    all rows would still know a little of the rows that it holds out. How much the effects of a level differ is
    estimated once, from all rows.
    """
    odd = outliers(rows)
    used = [r for r in rows if published_step_s(r) or published_memory_bytes(r)[1]]
    table, _ = case_table(used)
    if table is None:
        raise ResultsError("no row of the table can be predicted", where="published results")
    published = np.array([published_step_s(c.row) or np.nan for c in table.cases])
    use = np.array([is_headline(c.row) and c.row.id not in odd for c in table.cases]) & ~np.isnan(published)
    published = np.where(np.isnan(published), 1.0, published)
    progress(f"estimating how much effects differ, on {int(use.sum())} published results")
    spread = estimate_spread(table, published, use)
    progress("fitting step effects")
    problem = step_problem(table, published, use, spread)
    effects = fit_step(problem)
    progress("fitting memory effects")
    memory = _fit_memory(table)
    profile = dataclasses.replace(
        profile_of((problem.design, effects), memory, spread=spread), kernels=_kernels(table, use)
    )
    fold_of = folds(rows)
    fold = np.array([fold_of[c.row.run_key] for c in table.cases])
    publisher = np.array([c.row.publisher for c in table.cases])

    def held_out(held: npt.NDArray[np.bool_]) -> tuple[EffectProfile, Uncertainty, HeldOut]:
        """A fit without some rows, its covariance, and what it says of them."""
        part = step_problem(table, published, use & ~held, spread)
        effects = fit_step(part)
        measured = any(published_memory_bytes(c.row)[1] for c, h in zip(table.cases, held, strict=True) if h)
        others = _fit_memory(table, held=held) if measured else memory
        found = profile_of((part.design, effects), others, spread=spread)
        return (
            found,
            uncertainty_of(part, effects),
            predict_held_out(table, found, part, published, use & held),
        )

    by_fold, by_publisher, pieces = [], {}, []
    for k in range(NUM_FOLDS):
        progress(f"fold {k + 1} of {NUM_FOLDS}")
        found, _, piece = held_out(fold == k)
        by_fold.append(found)
        pieces.append(dataclasses.replace(piece, kind="configuration", group=str(k)))
    without = {}
    for name in sorted(set(publisher[use])):
        progress(f"without {name}")
        by_publisher[str(name)], without[str(name)], piece = held_out(publisher == name)
        pieces.append(dataclasses.replace(piece, kind="publisher", group=str(name)))
    intervals = fit_intervals(table, pieces)
    few = {}
    for who, covariance in without.items():
        progress(f"a few runs of {who}")
        theirs = [c.row for c, u in zip(table.cases, use & (publisher == who), strict=True) if u]
        few[who] = few_shot(theirs, by_publisher[who], covariance, intervals.noise)
    return StepFit(
        profile=profile,
        uncertainty=uncertainty_of(problem, effects),
        by_fold=tuple(by_fold),
        by_publisher=by_publisher,
        configurations=tuple(
            sorted({configuration(c.row) for c, u in zip(table.cases, use, strict=True) if u})
        ),
        intervals=intervals,
        memory_intervals=fit_memory_intervals(
            {who: _memory_residuals(table, found, publisher == who) for who, found in by_publisher.items()}
        ),
        few_shot=few,
        support=_support(table, use),
        tried=_tried(table, use),
        neighbours=_neighbours(table, use),
        longest_seq=_longest_seq(table, use),
        best_mfu=_best_mfu(table, published, use),
        chips=dict(
            sorted(Counter(c.machine.chip.id for c, u in zip(table.cases, use, strict=True) if u).items())
        ),
    )


def _memory_residuals(table: CaseTable, profile: EffectProfile, held: npt.NDArray[np.bool_]) -> Floats:
    """Logarithms of published over predicted peaks of the cases ``held`` out that publish one."""
    allocated, reserved, _ = table.peak_memory(profile)
    kinds = [
        published_memory_bytes(c.row) if h and is_headline(c.row) else ("", None)
        for c, h in zip(table.cases, held, strict=True)
    ]
    return np.array(
        [
            np.log(peak / (allocated if kind == "allocated" else reserved)[i])
            for i, (kind, peak) in enumerate(kinds)
            if peak
        ]
    )


def _support(table: CaseTable, use: npt.NDArray[np.bool_]) -> dict[str, set[tuple[str, str]]]:
    """Pairs of attributes of the plans that were fitted on."""
    out: dict[str, set[tuple[str, str]]] = {}
    for group in table.groups:
        kept = use[group.members]
        if kept.any():
            pairs = seen_pairs(group.model, group.machine, group.plans.take(kept))
            out.setdefault(key_of(group.model, group.machine), set()).update(pairs)
    return out


def _kernels(table: CaseTable, use: npt.NDArray[np.bool_]) -> dict[str, list[str]]:
    """Whose kernels results have, by cores."""
    out: dict[str, set[str]] = {}
    for i in table.setting_index[use[table.order]]:
        setting = table.settings[i]
        if setting.kernels != UNKNOWN:
            out.setdefault(setting.cores, set()).add(setting.kernels)
    return {cores: sorted(found) for cores, found in sorted(out.items())}


def _tried(table: CaseTable, use: npt.NDArray[np.bool_]) -> dict[str, Tried]:
    """How far the plans go that were fitted on, by cores and kind of model."""
    plans: dict[str, list[Plan]] = {}
    for case, used in zip(table.cases, use, strict=True):
        if used:
            plans.setdefault(key_of(case.model, case.machine), []).append(case.plan)
    return {key: tried_by(found) for key, found in sorted(plans.items())}


def _neighbours(table: CaseTable, use: npt.NDArray[np.bool_]) -> tuple[Neighbour, ...]:
    """One result for each combination of attributes, model, device and number of devices, to name as the nearest."""
    out: dict[Neighbour, Neighbour] = {}
    for case, used in zip(table.cases, use, strict=True):
        if used:
            found = Neighbour(
                key=key_of(case.model, case.machine),
                id="",
                model=case.model.name,
                device=case.row.gpu,
                devices=case.plan.num_devices,
                values=values_of(case.model, case.machine, case.plan),
            )
            out.setdefault(found, dataclasses.replace(found, id=case.row.id))
    return tuple(out.values())


def _longest_seq(table: CaseTable, use: npt.NDArray[np.bool_]) -> dict[str, int]:
    """Longest sequence that a result has, in tokens, by cores."""
    out: dict[str, int] = {}
    for case, used in zip(table.cases, use, strict=True):
        if used:
            cores = cores_of(case.machine.chip)
            out[cores] = max(out.get(cores, 0), case.plan.seq)
    return dict(sorted(out.items()))


def _best_mfu(table: CaseTable, published_s: Floats, use: npt.NDArray[np.bool_]) -> dict[str, float]:
    """Highest use of the matrix peak that a result reached, by cores, kind of model and precision."""
    out: dict[str, float] = {}
    for case, step, used in zip(table.cases, published_s, use, strict=True):
        if not used:
            continue
        plan, chip = case.plan, case.machine.chip
        work = 3.0 * model_flop_per_token(case.model, plan.seq) * plan.gbs * plan.seq
        peak = plan.num_devices * chip.matrix_flop_per_s[RECIPES[plan.precision].linear]
        key = f"{key_of(case.model, case.machine)}|{plan.precision}"
        out[key] = max(out.get(key, 0.0), round(work / (float(step) * peak), 4))
    return dict(sorted(out.items()))


def _fit_memory(table: CaseTable, held: npt.NDArray[np.bool_] | None = None) -> tuple[Design, Floats]:
    """Effects of the memory model, without the rows ``held`` out."""
    allocated = np.array([(c.row.mem_allocated_gib or np.nan) * GIB for c in table.cases])
    reserved = np.array([(c.row.mem_reserved_gib or np.nan) * GIB for c in table.cases])
    usable = np.array([is_headline(c.row) for c in table.cases])
    if held is not None:
        usable &= ~held
    return fit_memory(table, allocated, reserved, usable)


def write_step_fit(fit: StepFit, rows: Sequence[ResultRow], folder: Path, date: datetime.date) -> None:
    """Write ``step.json``, ``step_fits.npz``, ``support.json`` and ``intervals.json``, each whole or not at all."""
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
        folder / "step.json",
        {
            "provenance": provenance,
            "effects": dict(sorted(fit.profile.effects.items())),
            "spread": dict(sorted(fit.profile.spread.items())),
            "kernels": dict(fit.profile.kernels),
        },
    )
    u = fit.uncertainty
    held = (*fit.by_fold, *fit.by_publisher.values())
    names = sorted({name for p in held for name in p.effects})
    effects = np.array([[p.effects.get(n, 0.0) for n in names] for p in held])
    arrays: dict[str, npt.NDArray[np.generic]] = {
        "configurations": np.array(fit.configurations),
        "held_out_names": np.array(names),
        "held_out_publishers": np.array(list(fit.by_publisher)),
        "held_out_effects": effects,
        "names": np.array(u.names),
        "deviation": u.deviation.astype(np.float32),
        "directions": u.directions.astype(np.float32),
        "strength": u.strength.astype(np.float32),
        **neighbour_arrays(fit.neighbours),
    }
    write_bytes(folder / "step_fits.npz", packed(arrays))
    write_json(
        folder / "support.json",
        {
            "provenance": provenance,
            "best_mfu": dict(fit.best_mfu),
            "longest_seq": dict(fit.longest_seq),
            "pairs": {
                key: [list(pair) for pair in sorted(found)] for key, found in sorted(fit.support.items())
            },
            "tried": {key: dataclasses.asdict(found) for key, found in fit.tried.items()},
        },
    )
    write_json(
        folder / "intervals.json",
        {
            "provenance": provenance,
            **dataclasses.asdict(fit.intervals),
            "memory": None if fit.memory_intervals is None else dataclasses.asdict(fit.memory_intervals),
            "chips": dict(fit.chips),
            "few_shot": {who: [dataclasses.asdict(f) for f in found] for who, found in fit.few_shot.items()},
        },
    )


def packed(arrays: Mapping[str, npt.NDArray[np.generic]]) -> bytes:
    """Arrays as one compressed file that ``numpy.load`` reads; the same arrays and zlib give the same bytes."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, values in arrays.items():
            part = io.BytesIO()
            np.lib.format.write_array(part, np.ascontiguousarray(values), allow_pickle=False)
            entry = zipfile.ZipInfo(f"{name}.npy", (1980, 1, 1, 0, 0, 0))
            archive.writestr(entry, part.getvalue(), compress_type=zipfile.ZIP_DEFLATED)
    return out.getvalue()

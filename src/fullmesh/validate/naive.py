"""The model anyone would write first, fitted on the same rows: what a real one must clearly beat."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from fullmesh.evidence.mapping import Case
from fullmesh.plan import RECIPES
from fullmesh.workload.flops import model_flop_per_token

Floats = npt.NDArray[np.float64]


def naive_step_s(
    cases: Sequence[Case],
    published_s: Floats,
    use: npt.NDArray[np.bool_],
    held_out: npt.NDArray[np.generic] | None = None,
) -> Floats:
    """Causal FLOPs without recompute over one efficiency per chip, precision and dense or MoE, plus the bubble.

    The efficiency is the median over the rows where ``use`` is true that share chip, precision and kind. With
    ``held_out``, shape ``(num_cases,)``, it is that over rows of other groups; where no such row shares all three, over
    rows that share precision and kind, and else over all.

    Returns
    -------
    float array, shape (num_cases,)
        NaN where no row fitted says anything.
    """
    ideal = np.array([_ideal_s(case) for case in cases])
    slowdown = published_s / ideal
    classes = [(c.machine.chip.id, c.plan.precision, c.model.is_moe) for c in cases]
    if held_out is None:
        factor = _medians(classes, slowdown, use)
        return np.asarray(ideal * np.array([factor.get(key, np.nan) for key in classes]))
    wider = [(precision, moe) for _, precision, moe in classes]
    out = np.full(len(cases), np.nan)
    for group in np.unique(held_out):
        seen = use & (held_out != group)
        narrow, wide = _medians(classes, slowdown, seen), _medians(wider, slowdown, seen)
        rest = float(np.median(slowdown[seen])) if seen.any() else np.nan
        for i in np.flatnonzero(held_out == group).tolist():
            out[i] = ideal[i] * narrow.get(classes[i], wide.get(wider[i], rest))
    return out


def _medians(
    classes: Sequence[tuple[object, ...]], slowdown: Floats, use: npt.NDArray[np.bool_]
) -> dict[tuple[object, ...], float]:
    found: dict[tuple[object, ...], list[float]] = {}
    for i in np.flatnonzero(use).tolist():
        found.setdefault(classes[i], []).append(float(slowdown[i]))
    return {key: float(np.median(values)) for key, values in found.items()}


def _ideal_s(case: Case) -> float:
    plan, chip = case.plan, case.machine.chip
    recipe = RECIPES[plan.precision]
    peaks = chip.matrix_flop_per_s
    peak = (
        peaks[recipe.linear]
        if recipe.linear in peaks
        else max(peaks.get("bf16", 0.0), peaks.get("fp16", 0.0))
    )
    flop = 3.0 * model_flop_per_token(case.model, plan.seq) * plan.gbs * plan.seq
    bubble = 1.0 + (plan.pp - 1) / (plan.vpp * plan.num_microbatches)
    return flop / (plan.num_devices * peak) * bubble

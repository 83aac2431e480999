"""The model anyone would write first, fitted on the same rows: what a real one must clearly beat."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from fullmesh.evidence.mapping import Case
from fullmesh.plan import RECIPES
from fullmesh.workload.flops import model_flop_per_token

Floats = npt.NDArray[np.float64]


def naive_step_s(cases: Sequence[Case], published_s: Floats, use: npt.NDArray[np.bool_]) -> Floats:
    """Causal FLOPs without recompute over one efficiency per chip, precision and dense or MoE, plus the bubble.

    The efficiency is the median over the rows where ``use`` is true that share chip, precision and kind.

    Returns
    -------
    float array, shape (num_cases,)
        NaN where no row fitted shares the class.
    """
    ideal = np.array([_ideal_s(case) for case in cases])
    classes = [(c.machine.chip.id, c.plan.precision, c.model.is_moe) for c in cases]
    slowdown: dict[tuple[str, str, bool], list[float]] = {}
    for i, key in enumerate(classes):
        if use[i]:
            slowdown.setdefault(key, []).append(float(published_s[i] / ideal[i]))
    factor = {key: float(np.median(values)) for key, values in slowdown.items()}
    out: Floats = ideal * np.array([factor.get(key, np.nan) for key in classes])
    return out


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

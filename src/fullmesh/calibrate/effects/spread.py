"""How much the effects of a level differ: their deviation, estimated from the published results themselves.

Empirical Bayes: the effects of one level are draws from a normal distribution around zero. Its variance is the mean of
their squares and of their own uncertainty; what was expected before any result counts as a few more draws.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from fullmesh.calibrate.effects.fit import fit_step, step_problem
from fullmesh.cost.effects import level_of
from fullmesh.evidence.cases import CaseTable

Floats = npt.NDArray[np.float64]

# Rounds of estimation, and as how many effects the expectation counts.
ROUNDS = 3
EXPECTED_COUNT = 4.0
# No level may become more than this many times wider or narrower than expected.
WIDEST = 2.5


def estimate_spread(table: CaseTable, published_s: Floats, use: npt.NDArray[np.bool_]) -> Mapping[str, float]:
    """Deviation of the effects of every level of the step model.

    Parameters
    ----------
    published_s : float array, shape (num_cases,)
    use : bool array, shape (num_cases,)
    """
    spread: dict[str, float] = {}
    expected: dict[str, float] = {}
    for _ in range(ROUNDS):
        problem = step_problem(table, published_s, use, spread)
        levels: dict[str, list[int]] = {}
        for i, name in enumerate(problem.design.names):
            levels.setdefault(level_of(name), []).append(i)
        if not expected:
            expected = {k: float(problem.design.prior_sd[members[0]]) for k, members in levels.items()}
        effects = fit_step(problem)
        variance = effects**2 + np.diag(problem.covariance(effects))
        for level, members in levels.items():
            first = expected[level]
            total = float(variance[members].sum()) + EXPECTED_COUNT * first**2
            estimate = math.sqrt(total / (len(members) + EXPECTED_COUNT))
            spread[level] = round(min(max(estimate, first / WIDEST), first * WIDEST), 4)
    return spread

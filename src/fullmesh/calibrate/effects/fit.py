"""Fit the effects of the step and memory models to published results, all rows together.

Robust least squares on the logarithm of predicted over published step time, with a Gaussian prior on every effect.
Nothing is fitted to a row or to a single result: an effect belongs to an attribute that rows share (chip family,
precision recipe, framework, release), and effects of attributes with few rows stay near zero because the prior holds
them there.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from fullmesh.cost.effects import (
    EffectProfile,
    Model,
    Setting,
    Term,
    TermTable,
    effect_keys,
    is_open,
    level_of,
    load_terms,
    transform,
)
from fullmesh.cost.step import step_time
from fullmesh.evidence.cases import CaseTable, group_ledger

Floats = npt.NDArray[np.float64]

# Residuals are measured in units of the scatter of repeated publications; beyond it they count linearly.
STEP_SCATTER = 0.03
MEMORY_SCATTER = 0.03
# Step of the finite differences, in log units.
DIFFERENCE = 1e-5


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Design:
    """Which effects apply to which term in which setting.

    ``matrix`` has shape ``(num_settings, num_terms, num_effects)`` with entries 0 or 1; ``offsets``, of shape
    ``(num_settings, num_terms)``, is what is assumed of the settings from the start.
    """

    model: Model
    names: tuple[str, ...]
    prior_sd: Floats
    matrix: Floats
    offsets: Floats

    def summed(self, effects: Floats) -> Floats:
        """Sums of effects for every setting and term."""
        return np.asarray(self.offsets + self.matrix @ effects)

    def table(self, effects: Floats, index: npt.NDArray[np.intp]) -> TermTable:
        """Term values for a vector of effects."""
        return TermTable(model=self.model, values=transform(self.model, self.summed(effects))[index])

    def profile(self, effects: Floats) -> dict[str, float]:
        """Effects by name, rounded so that the file is the same on every machine; zeros are left out."""
        rounded = np.round(effects, 4)
        return {n: float(v) for n, v in zip(self.names, rounded, strict=True) if v != 0.0}


def design(model: Model, settings: Sequence[Setting], spread: Mapping[str, float] | None = None) -> Design:
    """Collect the effects that occur in the settings, in a stable order.

    ``spread`` gives the deviations of levels where they are known better than before any result was seen.
    """
    sd_of: dict[str, float] = {}
    for term in load_terms(model):
        for setting in settings:
            for key, sd in _estimated(term, setting):
                sd_of[key] = (spread or {}).get(level_of(key), sd)
    names = tuple(sorted(sd_of))
    at = {name: i for i, name in enumerate(names)}
    matrix = np.zeros((len(settings), len(load_terms(model)), len(names)))
    for s, setting in enumerate(settings):
        for t, term in enumerate(load_terms(model)):
            for key, _ in _estimated(term, setting):
                matrix[s, t, at[key]] = 1.0
    offsets = np.array([[term.offset(s) for term in load_terms(model)] for s in settings])
    return Design(
        model=model,
        names=names,
        prior_sd=np.array([sd_of[n] for n in names]),
        matrix=matrix,
        offsets=offsets,
    )


def _estimated(term: Term, setting: Setting) -> list[tuple[str, float]]:
    return [(key, sd) for key, sd in effect_keys(term, setting) if not is_open(key)]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class StepProblem:
    """The published step times as a least-squares problem in the effects.

    Parameters
    ----------
    table : CaseTable
    design : Design
    published_s : float array, shape (num_cases,)
        Published step times in the order of the cases; anything where ``use`` is false.
    use : bool array, shape (num_cases,)
        Cases to fit to.
    """

    table: CaseTable
    design: Design
    published_s: Floats
    use: npt.NDArray[np.bool_]

    def log_step(self, summed: Floats) -> Floats:
        """Logarithm of the step times of all plans, given summed effects by setting and term."""
        index = self.table.setting_index
        values = TermTable(model="step", values=transform("step", summed)[index])
        return np.asarray(np.log(step_time(self.table.stages, self.table.plans, values).step_s))

    def residuals(self, effects: Floats) -> Floats:
        """Misfit of the chosen plans, in units of the scatter."""
        chosen = self.use[self.table.order]
        target = np.log(self.published_s)[self.table.order]
        return np.asarray((self.log_step(self.design.summed(effects)) - target)[chosen] / STEP_SCATTER)

    def gradients(self, effects: Floats) -> Floats:
        """Slopes of the logarithm of every plan's step time, shape ``(num_plans, num_effects)``.

        An effect acts through the sum of its term alone: one evaluation a term, then the chain rule.
        """
        summed = self.design.summed(effects)
        base = self.log_step(summed)
        slopes = np.empty((len(base), summed.shape[1]))
        for t in range(summed.shape[1]):
            moved = summed.copy()
            moved[:, t] += DIFFERENCE
            slopes[:, t] = (self.log_step(moved) - base) / DIFFERENCE
        return np.asarray(np.einsum("rt,rte->re", slopes, self.design.matrix[self.table.setting_index]))

    def jacobian(self, effects: Floats) -> Floats:
        """Slopes of the residuals."""
        return np.asarray(self.gradients(effects)[self.use[self.table.order]] / STEP_SCATTER)

    def covariance(self, effects: Floats) -> Floats:
        """Covariance of the effects around their best values (Laplace's approximation)."""
        r, j = self.residuals(effects), self.jacobian(effects)
        precision = j.T @ (j / np.sqrt(1.0 + r * r)[:, None])
        precision[np.diag_indices_from(precision)] += self.design.prior_sd**-2.0
        return np.asarray(np.linalg.inv(precision))


def step_problem(
    table: CaseTable,
    published_s: Floats,
    use: npt.NDArray[np.bool_],
    spread: Mapping[str, float] | None = None,
) -> StepProblem:
    """The problem of the rows where ``use`` is true."""
    return StepProblem(
        table=table, design=design("step", table.settings, spread), published_s=published_s, use=use
    )


def fit_step(problem: StepProblem) -> Floats:
    """The effects that fit best."""
    start = np.zeros(len(problem.design.names))
    return robust_fit(problem.residuals, problem.jacobian, start, problem.design.prior_sd)


def robust_fit(
    residuals: Callable[[Floats], Floats],
    jacobian: Callable[[Floats], Floats],
    start: Floats,
    prior_sd: Floats,
    *,
    max_steps: int = 80,
) -> Floats:
    """Levenberg-Marquardt for residuals that count linearly beyond one, with a Gaussian prior.

    Minimises ``sum(2 * (sqrt(1 + r**2) - 1)) + sum((x / prior_sd)**2)``; a step is damped until it lowers the sum.
    """

    def cost(r: Floats, x: Floats) -> float:
        return float(2.0 * (np.sqrt(1.0 + r * r) - 1.0).sum() + ((x / prior_sd) ** 2).sum())

    x = start.copy()
    r = residuals(x)
    value = cost(r, x)
    damping = 1e-2
    for _ in range(max_steps):
        j = jacobian(x)
        weight = 1.0 / np.sqrt(1.0 + r * r)
        hessian = j.T @ (weight[:, None] * j)
        hessian[np.diag_indices_from(hessian)] += prior_sd**-2.0
        gradient = j.T @ (weight * r) + x / prior_sd**2
        improved = 0.0
        while damping < 1e6:
            damped = hessian + np.diag(damping * prior_sd**-2.0)
            trial = x - np.linalg.solve(damped, gradient)
            trial_r = residuals(trial)
            trial_value = cost(trial_r, trial)
            if trial_value < value:
                improved = value - trial_value
                x, r, value = trial, trial_r, trial_value
                damping = max(damping / 5.0, 1e-4)
                break
            damping *= 4.0
        if improved < 1e-5 * value:
            break
    return x


def fit_memory(
    table: CaseTable, allocated_bytes: Floats, reserved_bytes: Floats, use: npt.NDArray[np.bool_]
) -> tuple[Design, Floats]:
    """Fit the memory effects on the rows that publish a peak; NaN where a column is not published."""
    from scipy.optimize import least_squares

    wanted = use & ~(np.isnan(allocated_bytes) & np.isnan(reserved_bytes))
    groups = [g for g in table.groups if wanted[g.members].any()]
    settings = tuple(dict.fromkeys(s for g in groups for s in g.settings))
    d = design("memory", settings)
    at = {s: i for i, s in enumerate(settings)}

    def residuals(effects: Floats) -> Floats:
        parts = [effects / d.prior_sd]
        for g in groups:
            index = np.array([at[s] for s in g.settings], dtype=np.intp)[g.setting_index]
            ledger = group_ledger(g, d.table(effects, index))
            for column, published in ((ledger.allocated, allocated_bytes), (ledger.reserved, reserved_bytes)):
                known = wanted[g.members] & ~np.isnan(published[g.members])
                if known.any():
                    predicted = g.stages.max(column)[known]
                    parts.append(np.log(predicted / published[g.members][known]) / MEMORY_SCATTER)
        return np.concatenate(parts)

    result = least_squares(residuals, np.zeros(len(d.names)), loss="soft_l1", max_nfev=40)
    return d, np.asarray(result.x)


def profile_of(*fits: tuple[Design, Floats], spread: Mapping[str, float] | None = None) -> EffectProfile:
    """Join fits of several models into one profile."""
    effects: dict[str, float] = {}
    for d, x in fits:
        effects |= d.profile(x)
    return EffectProfile(effects=effects, provenance={}, spread=spread or {})

"""How far fitted effects may be off: their covariance, compact, and what it means for a step time.

Effects are normal around their best values (Laplace's approximation). With ``D`` their deviations before any result,
the covariance is ``D (1 - U diag(l / (1 + l)) U') D``: what the results say lies in a few directions ``U`` with
strengths ``l``, all others are as uncertain as before.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib.resources
import io
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from fullmesh.cost.effects import (
    EffectProfile,
    Setting,
    TermTable,
    effect_keys,
    load_terms,
    seen_as,
    transform,
)
from fullmesh.cost.overlay import Overlay
from fullmesh.cost.stages import Stages
from fullmesh.cost.step import step_time
from fullmesh.plan import Plans

Floats = npt.NDArray[np.float64]

# Directions that the results say less about than this, against what was expected before, are left out.
LEAST_STRENGTH = 0.1
# Step of the finite differences, in log units.
DIFFERENCE = 1e-4
# Plans up to which all differences are one call.
ALL_AT_ONCE = 128


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Uncertainty:
    """Covariance of the effects of the step model.

    Parameters
    ----------
    names : tuple of str, length E
    deviation : float array, shape (E,)
        Before any result.
    directions : float array, shape (E, R)
    strength : float array, shape (R,)
    learned : float array, shape (E, K)
        What further runs took from the covariance: it is smaller by ``learned @ learned.T``.
    """

    names: tuple[str, ...]
    deviation: Floats
    directions: Floats
    strength: Floats
    learned: Floats

    @classmethod
    def of(cls, names: Sequence[str], deviation: Floats, precision: Floats) -> Uncertainty:
        """From the precision that the results add, shape ``(E, E)``."""
        scaled = deviation[:, None] * precision * deviation[None, :]
        strength, directions = np.linalg.eigh(0.5 * (scaled + scaled.T))
        kept = strength > LEAST_STRENGTH
        return cls(
            names=tuple(names),
            deviation=deviation,
            directions=directions[:, kept],
            strength=strength[kept],
            learned=np.zeros((len(deviation), 0)),
        )

    def extended(self, new: Mapping[str, float]) -> Uncertainty:
        """With further effects, of which nothing but their deviation is known."""

        def longer(values: Floats) -> Floats:
            return np.concatenate([values, np.zeros((len(new), values.shape[1]))])

        return Uncertainty(
            names=(*self.names, *new),
            deviation=np.concatenate([self.deviation, np.array(list(new.values()), dtype=np.float64)]),
            directions=longer(self.directions),
            strength=self.strength,
            learned=longer(self.learned),
        )

    def times(self, gradients: Floats) -> Floats:
        """The covariance times gradients of shape ``(num, E)``: shape ``(E, num)``."""
        scaled = (gradients * self.deviation).T
        known = self.strength / (1.0 + self.strength)
        inner: Floats = scaled - self.directions @ (known[:, None] * (self.directions.T @ scaled))
        out: Floats = self.deviation[:, None] * inner - self.learned @ (gradients @ self.learned).T
        return out

    def variance(self, gradients: Floats) -> Floats:
        """Variance of quantities with these gradients, shape ``(num, E)``."""
        # plans of one question share a few effects of many
        felt = np.flatnonzero(gradients.any(axis=0))
        scaled = gradients[:, felt] * self.deviation[felt]
        known = scaled @ self.directions[felt]
        out: Floats = (scaled**2).sum(axis=1) - (known**2 * (self.strength / (1.0 + self.strength))).sum(
            axis=1
        )
        left: Floats = np.maximum(out - ((gradients[:, felt] @ self.learned[felt]) ** 2).sum(axis=1), 0.0)
        return left


def log_step_slopes(
    stages: Stages,
    plans: Plans,
    profile: EffectProfile,
    settings: Sequence[Setting],
    index: npt.NDArray[np.intp],
) -> Floats:
    """Slopes of the logarithm of the step time over the summed effects of terms, shape ``(num_plans, num_terms)``."""
    num, terms = len(plans), len(load_terms("step"))
    summed = np.array([profile.summed("step", s) for s in settings])[index]
    if num > ALL_AT_ONCE:
        moved = [summed + DIFFERENCE * (np.arange(terms) == t) for t in range(terms)]
        base = _log_step(stages, plans, summed)
        return np.stack([(_log_step(stages, plans, m) - base) / DIFFERENCE for m in moved], axis=1)
    # few plans: every difference is a plan of its own, since a call takes longer than its rows
    steps = np.concatenate([np.zeros((1, terms)), DIFFERENCE * np.eye(terms)])
    values = (summed[None] + steps[:, None]).reshape(-1, terms)
    found = _log_step(
        _repeated(stages, num, terms + 1), plans.take(np.tile(np.arange(num), terms + 1)), values
    )
    table = found.reshape(terms + 1, num)
    return np.asarray(((table[1:] - table[0]) / DIFFERENCE).T)


def _log_step(stages: Stages, plans: Plans, summed: Floats) -> Floats:
    table = TermTable(model="step", values=transform("step", summed))
    return np.asarray(np.log(step_time(stages, plans, table).step_s))


def _repeated(stages: Stages, num_plans: int, times: int) -> Stages:
    """The stages of some plans several times over, as those of so many times the plans."""
    rows = np.tile(np.arange(len(stages.plan)), times)
    columns = {f.name: getattr(stages, f.name)[rows] for f in dataclasses.fields(Stages)}
    shift = num_plans * np.repeat(np.arange(times), len(stages.plan))
    return Stages(**{**columns, "plan": columns["plan"] + shift})


def log_step_variance(
    stages: Stages,
    plans: Plans,
    settings: Sequence[Setting],
    index: npt.NDArray[np.intp],
    profile: EffectProfile,
    uncertainty: Uncertainty,
) -> Floats:
    """Variance of the logarithm of step times that comes from the effects, shape ``(num_plans,)``.

    An effect of a value that no result has (a stack or a publisher never seen) is as uncertain as such effects differ.
    """
    slopes = log_step_slopes(stages, plans, profile, settings, index)
    at = {name: i for i, name in enumerate(uncertainty.names)}
    gradients = np.zeros((len(plans), len(at)))
    unseen = np.zeros(len(plans))
    for number, setting in enumerate(settings):
        members = np.flatnonzero(index == number)
        for t, term in enumerate(load_terms("step")):
            for key, expected in effect_keys(term, profile.seen(setting)):
                name, slope = seen_as(key, at), slopes[members, t]
                if name in at:
                    gradients[members, at[name]] += slope
                else:
                    unseen[members] += (slope * profile.deviation(name, expected)) ** 2
    return uncertainty.variance(gradients) + unseen


def read_arrays(name: str, *keys: str) -> Mapping[str, npt.NDArray[np.generic]]:
    """Arrays of a shipped compressed file under ``data/profiles``; none where there is no such file."""
    path = importlib.resources.files("fullmesh.data").joinpath(f"profiles/{name}")
    if not path.is_file():
        return {}
    with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as file:
        return {key: file[key] for key in keys}


UNCERTAINTY: Overlay[Uncertainty] = Overlay("uncertainty")


def load_uncertainty() -> Uncertainty | None:
    """The covariance in use: the shipped one, unless another is laid over it; None without a fit."""
    return UNCERTAINTY.get() or _shipped_uncertainty()


@functools.cache
def _shipped_uncertainty() -> Uncertainty | None:
    arrays = read_arrays("step_fits.npz", "names", "deviation", "directions", "strength")
    if not arrays:
        return None
    names = tuple(str(n) for n in arrays["names"])
    return Uncertainty(
        names=names,
        deviation=arrays["deviation"].astype(np.float64),
        directions=arrays["directions"].astype(np.float64),
        strength=arrays["strength"].astype(np.float64),
        learned=np.zeros((len(names), 0)),
    )

"""A personal profile: what a user's own runs say on top of the published ones.

The shipped effects are normal around their best values; a few runs of one's own move them as far as their covariance
allows (the extended Kalman update). Most of it goes where the published results know least: into what whoever runs the
jobs, and their stack, change for all terms alike.
"""

from __future__ import annotations

import dataclasses
import datetime
import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from fullmesh import __version__
from fullmesh.cost.effects import EffectProfile, effect_keys, load_effects, load_terms
from fullmesh.cost.personal import FORMAT, Personal
from fullmesh.cost.uncertainty import Uncertainty, load_uncertainty, log_step_slopes
from fullmesh.errors import ResultsError
from fullmesh.evidence.cases import CaseTable, case_table
from fullmesh.evidence.published import published_step_s
from fullmesh.evidence.results import ResultRow
from fullmesh.files import write_json
from fullmesh.outcomes.intervals import noise

Floats = npt.NDArray[np.float64]

# The step model is not linear in its effects: slopes are taken again where the last round has led.
ROUNDS = 4
# What many runs say is kept in as many directions of the effects; the rest is smaller than their noise.
DIRECTIONS = 24


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class OwnRun:
    """A run of one's own: measured, predicted without and with the profile, and by a profile made without it."""

    id: str
    model: str
    plan: str
    measured_s: float
    before_s: float
    after_s: float
    left_out_s: float


def update(
    table: CaseTable,
    measured_s: Floats,
    profile: EffectProfile,
    uncertainty: Uncertainty,
    noise_deviation: float,
) -> tuple[EffectProfile, Uncertainty]:
    """Move effects towards measured step times.

    Parameters
    ----------
    table : CaseTable
    measured_s : float array, shape (num_cases,)
    noise_deviation : float
        Deviation of the logarithm of a step time that no effect explains.

    Returns
    -------
    EffectProfile
        With effects of values that the profile had never seen (a stack, a publisher) where the runs have them.
    Uncertainty
    """
    known = _with_new(table, profile, uncertainty)
    at = {name: i for i, name in enumerate(known.names)}
    start = np.array([profile.effects.get(name, 0.0) for name in known.names])
    target = np.log(measured_s)[table.order]
    effects = start
    for _ in range(ROUNDS):
        current = _replaced(profile, known.names, effects)
        slopes = log_step_slopes(table.stages, table.plans, current, table.settings, table.setting_index)
        gradients = _by_effect(table, slopes, profile, at)
        log_step = np.log(table.step_times(current).step_s)[table.order]
        spread = known.times(gradients)
        total = gradients @ spread + noise_deviation**2 * np.eye(len(target))
        misfit = target - log_step + gradients @ (effects - start)
        effects = start + spread @ np.linalg.solve(total, misfit)
    root = np.linalg.cholesky(total)
    learned = np.linalg.solve(root, spread.T).T
    if learned.shape[1] > DIRECTIONS:
        left, size, _ = np.linalg.svd(learned, full_matrices=False)
        learned = left[:, :DIRECTIONS] * size[:DIRECTIONS]
    return _replaced(profile, known.names, effects), dataclasses.replace(known, learned=learned)


def _with_new(table: CaseTable, profile: EffectProfile, uncertainty: Uncertainty) -> Uncertainty:
    """The covariance with effects that only these runs have, as uncertain as such effects differ.

    What nobody stated of them is one of these: it is whatever the runs have in common.
    """
    new: dict[str, float] = {}
    known = set(uncertainty.names)
    for setting in table.settings:
        for term in load_terms("step"):
            for name, expected in effect_keys(term, profile.seen(setting)):
                if name not in known:
                    new[name] = profile.deviation(name, expected)
    return uncertainty.extended(new)


def _by_effect(table: CaseTable, slopes: Floats, profile: EffectProfile, at: dict[str, int]) -> Floats:
    """Slopes over effects, from those over the sums of effects of each term."""
    out = np.zeros((len(slopes), len(at)))
    for number, setting in enumerate(table.settings):
        members = np.flatnonzero(table.setting_index == number)
        for t, term in enumerate(load_terms("step")):
            for name, _ in effect_keys(term, profile.seen(setting)):
                if name in at:
                    out[members, at[name]] += slopes[members, t]
    return out


def _replaced(profile: EffectProfile, names: Sequence[str], effects: Floats) -> EffectProfile:
    return dataclasses.replace(
        profile, effects={**profile.effects, **dict(zip(names, effects.tolist(), strict=True))}
    )


def fit_own(rows: Sequence[ResultRow]) -> tuple[Personal, tuple[OwnRun, ...]]:
    """A personal profile from one's own runs, and how well it foretells each of them when that one is left out.

    Raises
    ------
    ResultsError
        No row has a step time and can be predicted; the message gives the reasons.
    """
    timed = [r for r in rows if published_step_s(r)]
    table, refusals = case_table(timed, own=True)
    if table is None:
        reasons = "; ".join(dict.fromkeys(f"{r.row.id}: {r.reason}" for r in refusals))
        raise ResultsError(
            "no run can be predicted" + (f": {reasons}" if reasons else ""),
            where="calibrate results",
            expected="rows with step_s or tok_s_gpu, a model, a device and a plan",
        )
    base, uncertainty = load_effects(), load_uncertainty()
    assert uncertainty is not None, "the shipped profile has a covariance"
    measured = np.array([published_step_s(c.row) or np.nan for c in table.cases])
    before = table.step_times(base).step_s
    profile, after_u = update(table, measured, base, uncertainty, noise())
    after = table.step_times(profile).step_s
    left_out = np.full(len(measured), np.nan)
    for i in range(len(measured)) if len(measured) > 1 else ():
        others, _ = case_table([c.row for k, c in enumerate(table.cases) if k != i], own=True)
        assert others is not None
        known = np.array([published_step_s(c.row) or np.nan for c in others.cases])
        left_out[i] = table.step_times(update(others, known, base, uncertainty, noise())[0]).step_s[i]
    changed = {
        name: round(value, 5)
        for name, value in profile.effects.items()
        if abs(value - base.effects.get(name, 0.0)) > 1e-5
    }
    digest = hashlib.sha256(
        "\n".join(f"{c.row.id},{m}" for c, m in zip(table.cases, measured, strict=True)).encode()
    )
    new = {n: float(after_u.deviation[i]) for i, n in enumerate(after_u.names) if n not in uncertainty.names}
    personal = Personal(
        provenance={
            "date": datetime.date.today().isoformat(),
            "version": __version__,
            "runs": len(measured),
            "digest": digest.hexdigest()[:16],
            "on": base.provenance.get("rows_digest", ""),
        },
        effects=changed,
        new=new,
        names=after_u.names,
        learned=after_u.learned,
    )
    runs = tuple(
        OwnRun(
            id=c.row.id,
            model=c.row.model,
            plan=c.plan.label(),
            measured_s=float(measured[i]),
            before_s=float(before[i]),
            after_s=float(after[i]),
            left_out_s=float(left_out[i]),
        )
        for i, c in enumerate(table.cases)
    )
    return personal, runs


def write_personal(personal: Personal, path: Path) -> None:
    """Write a profile whole or not at all."""
    write_json(
        path,
        {
            "format": FORMAT,
            "provenance": dict(personal.provenance),
            "effects": dict(personal.effects),
            "new": dict(personal.new),
            "names": list(personal.names),
            "learned": np.round(personal.learned, 6).tolist(),
        },
    )

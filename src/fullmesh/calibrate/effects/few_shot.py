"""What a few runs of one's own are worth, measured on publishers that a fit has not seen.

A publisher that was left out plays the user: a few of its configurations make a personal profile, and the error on the
rest of them is set against the error without.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from fullmesh.calibrate.effects.personal import update
from fullmesh.cost.effects import EffectProfile
from fullmesh.cost.uncertainty import Uncertainty
from fullmesh.evidence.cases import case_table
from fullmesh.evidence.published import configuration, published_step_s
from fullmesh.evidence.results import ResultRow
from fullmesh.outcomes.intervals import FewShot

# Configurations that a user has, and how many times as many are drawn.
SHOTS = (1, 3)
DRAWS = 6
# Publishers with fewer configurations leave too little to judge by.
ENOUGH_CONFIGURATIONS = 6


def few_shot(
    rows: Sequence[ResultRow], profile: EffectProfile, uncertainty: Uncertainty, noise: float
) -> tuple[FewShot, ...]:
    """Play the user with each publisher's rows; nothing for publishers with few configurations.

    Parameters
    ----------
    rows : sequence of ResultRow
        Results of one publisher, none of which the profile has seen.
    """
    table, _ = case_table(rows, own=True)
    names = [configuration(c.row) for c in table.cases] if table else []
    distinct = sorted(set(names))
    if table is None or len(distinct) < ENOUGH_CONFIGURATIONS:
        return ()
    measured = _measured([c.row for c in table.cases])
    before = np.abs(table.step_times(profile).step_s / measured - 1.0)
    draw = np.random.default_rng(len(distinct))
    out = []
    for shots in SHOTS:
        errors: list[tuple[float, float]] = []
        for _ in range(DRAWS):
            given = set(draw.choice(distinct, shots, replace=False).tolist())
            held = np.array([n not in given for n in names])
            few, _ = case_table([c.row for c, h in zip(table.cases, held, strict=True) if not h], own=True)
            assert few is not None
            own, _ = update(few, _measured([c.row for c in few.cases]), profile, uncertainty, noise)
            after = np.abs(table.step_times(own).step_s / measured - 1.0)
            errors.append((float(np.median(before[held])), float(np.median(after[held]))))
        both = np.median(np.array(errors), axis=0)
        out.append(
            FewShot(
                shots=shots,
                configurations=len(distinct),
                before=round(float(both[0]), 4),
                after=round(float(both[1]), 4),
            )
        )
    return tuple(out)


def _measured(rows: Sequence[ResultRow]) -> npt.NDArray[np.float64]:
    return np.array([published_step_s(r) or np.nan for r in rows])

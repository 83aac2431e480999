"""How many spares are busy, and how often a fault finds none: loss systems, which do not ask how repairs are spread."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from fullmesh.outcomes.goodput.draws import Whole

Floats = npt.NDArray[np.float64]


def erlang_b(spares: Whole, load: Floats | float) -> Floats:
    """Probability that a fault finds all spares in repair.

    Parameters
    ----------
    spares : int or array
    load : float or array
        Mean number of members in repair if spares were without end: rate times mean repair time.

    Notes
    -----
    Erlang's loss formula, by its recursion; it depends on the mean repair time alone. With faults that go on while
    the job waits, the number in repair is a Poisson number, and this is its share at ``spares`` among those up to it.
    """
    a = np.asarray(load, dtype=np.float64)
    have = np.asarray(spares)
    blocked = np.ones(np.broadcast_shapes(a.shape, have.shape))
    for k in range(1, int(have.max()) + 1):
        more = a * blocked / (k + a * blocked)
        blocked = more if have.ndim == 0 else np.where(k <= have, more, blocked)
    return blocked


def mean_wait(spares: Whole, load: Floats | float, repair_s: Floats | float) -> Floats:
    """Mean time until no more than ``spares`` members are in repair again, after a fault that found all of them there.

    Notes
    -----
    The time that a Poisson number of members in repair spends above ``spares``, over how often it gets there. Idle
    nodes are taken to fail as often as busy ones. Infinite where the wait is longer than any run.
    """
    from scipy import special  # only where a whole run is asked for: it takes long to import

    a = np.minimum(np.asarray(load, dtype=np.float64), 600.0 + spares)
    out: Floats = np.asarray(repair_s) * special.hyp1f1(1.0, spares + 2.0, a) / (spares + 1.0)
    return out


def some_missing(spares: int, load: Floats | float) -> Floats:
    """Probability that all spares are in use when one more is asked for, where the job goes on without (Poisson)."""
    from scipy import special  # only where a whole run is asked for: it takes long to import

    out: Floats = (
        special.pdtrc(spares - 1, np.asarray(load, dtype=np.float64)) if spares else np.ones_like(load)
    )
    return out


def mean_over_missing(spares: int, load: Floats | float, values: Sequence[float]) -> Floats:
    """Mean of what holds with no, one, two ... members missing beyond the spares; the last value holds beyond.

    Notes
    -----
    The number in repair is a Poisson number where the job goes on without them.
    """
    from scipy import special  # only where a whole run is asked for: it takes long to import

    a = np.asarray(load, dtype=np.float64)
    out = np.full_like(a, values[0])
    # nobody is further out than that
    most = float(a.max()) + 12.0 * math.sqrt(float(a.max())) + 20.0
    for k in range(1, len(values)):
        step = values[k] - values[k - 1]
        if spares + k > most:
            break
        if step:
            out = out + step * special.pdtrc(spares + k - 1, a)
    return np.asarray(out)


def spares_for(load: float, target: float, most: int = 100_000) -> int:
    """The fewest spares with which a fault finds none with at most probability ``target``."""
    if load <= 0:
        return 0
    blocked, k = 1.0, 0
    while blocked > target and k < most:
        k += 1
        blocked = load * blocked / (k + load * blocked)
    return k


def cheapest_spares(load: float, units: int, most: int) -> int:
    """Spare units with which a run takes the least unit-time: a spare waits as long as all others work.

    Parameters
    ----------
    load : float
        Mean number of units in repair if spares were without end.
    units : int
        That the job needs.
    most : int
        Spares to consider, from none.
    """

    def unit_time(spares: int) -> float:
        waiting = load * float(erlang_b(spares, load)) * float(mean_wait(spares, load, 1.0))
        return (units + spares) * (1.0 + waiting)

    return min(range(most + 1), key=unit_time)


def availability(mtbf_s: float, mttr_s: float) -> float:
    """Share of time up of one thing that fails and is repaired in turn."""
    return mtbf_s / (mtbf_s + mttr_s) if math.isfinite(mtbf_s) else 1.0

"""How many rows a routing distribution sends to the busiest device, and to how many of its experts."""

from __future__ import annotations

import dataclasses
import functools
import re

import numpy as np
import numpy.typing as npt

from fullmesh.cost.operators.lattice import Floats
from fullmesh.errors import PlanError

DISTRIBUTION = re.compile(r"balanced|power_law_(\d+(?:\.\d+)?)")
# expert loads are averaged over this many draws with a fixed seed
_NUM_DRAWS = 48


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """Rows and experts of the busiest device.

    Parameters
    ----------
    mean_rows : float array
        Rows of the mean device.
    skew : float array
        Rows of the busiest device over that.
    experts : float array
        Experts of the busiest device.
    alpha : float
        Exponent of the power law; 0 where the load is balanced.
    """

    mean_rows: Floats
    skew: Floats
    experts: Floats
    alpha: float


def routed(
    num_tokens: npt.ArrayLike,
    topk: npt.ArrayLike,
    num_experts: npt.ArrayLike,
    ep_size: npt.ArrayLike,
    distribution: str,
) -> Load:
    """Load of the busiest device.

    Raises
    ------
    PlanError
        The distribution is unknown.
    """
    match = DISTRIBUTION.fullmatch(distribution)
    if match is None:
        raise PlanError(
            f"unknown routing distribution {distribution!r}",
            expected="balanced, or power_law_1.2 or the like",
        )
    tokens, top, experts, ep = np.broadcast_arrays(
        *(np.asarray(x, dtype=np.float64) for x in (num_tokens, topk, num_experts, ep_size))
    )
    mean_rows = tokens * top / ep
    if match.group(1) is None:
        alpha = 0.0
        skew = np.ones_like(mean_rows)
    else:
        alpha = float(match.group(1))
        columns = zip(*(x.ravel().tolist() for x in (tokens, top, experts, ep)), strict=True)
        skew = np.array([_power_law_skew(*column, alpha) for column in columns]).reshape(mean_rows.shape)
    return Load(mean_rows=mean_rows, skew=skew, experts=experts / ep, alpha=alpha)


@functools.cache
def _power_law_skew(tokens: float, topk: float, num_experts: float, ep_size: float, alpha: float) -> float:
    """Rows of the busiest device over the mean, the mean over draws of expert loads from a bounded power law."""
    experts, ep = round(num_experts), max(round(ep_size), 1)
    rows = tokens * topk
    low, high = (1.0, 0.8 * tokens) if rows > experts else (0.01, 2.0)
    uniform = np.random.default_rng(0).random((_NUM_DRAWS, experts))
    if alpha == 1.0:
        loads = low * (high / low) ** uniform
    else:
        power = 1.0 - alpha
        loads = ((high**power - low**power) * uniform + low**power) ** (1.0 / power)
    loads *= rows / loads.sum(axis=1, keepdims=True)
    # a token meets an expert once: what exceeds that goes to the others
    for _ in range(3):
        full = loads >= tokens
        loads = np.minimum(loads, tokens)
        missing = rows - loads.sum(axis=1, keepdims=True)
        free = np.where(full, 0.0, loads)
        loads = loads + free * missing / np.maximum(free.sum(axis=1, keepdims=True), 1e-9)
    busiest = loads.reshape(_NUM_DRAWS, ep, -1).sum(axis=2).max(axis=1)
    return float(busiest.mean() / (rows / ep))

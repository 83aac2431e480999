"""The luck of runs that no fault brings: inputs within their ranges, rates, steps; the same for every way to run."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from fullmesh.catalog.run_inputs import RunInputs

Floats = npt.NDArray[np.float64]
#: one value, or one a run
Amount = float | Floats
Whole = int | npt.NDArray[np.int64]

# deviations of a normal distribution that hold 80 % of it
NORMAL = 1.2816
# inputs are cut where a twentieth of their law lies beyond: a share stays a share, a storage does not stand still
_CUT = 1.645
#: Inputs that are drawn for each run; others are choices, or stand in an error that is drawn itself (power), or shape
#: a law whose mean they leave alone (the spread of one recovery).
DRAWN = (
    "detection",
    "restart",
    "spare_start",
    "process_detection",
    "process_restart",
    "in_step_recovery",
    "warm_up",
    "planned_stops",
    "checkpoint_bytes",
    "node_storage_bandwidth",
    "storage_bandwidth",
    "host_efficiency",
    "host_bandwidth",
    "checkpoint_overhead",
    "memory_overhead",
    "silent_detection",
    "straggler_slowdown",
    "straggler_time",
    "flap_stall",
    "node_swap",
    "pue_liquid",
    "pue_air",
    "power_price",
    "hosting",
    "network_share",
    "staff",
    "write_off",
)


class DrawnInputs:
    """Inputs of runs: those of ``DRAWN`` as columns, one value a run, the others as they are."""

    def __init__(self, inputs: RunInputs, columns: dict[str, Floats]) -> None:
        self._inputs = inputs
        self._columns = columns

    def __getitem__(self, key: str) -> Amount:
        found = self._columns.get(key)
        return self._inputs[key] if found is None else found


Inputs = RunInputs | DrawnInputs


def one(value: Amount) -> float:
    """An amount that has one value."""
    return float(value)


def generator(seed: int, *place: int) -> np.random.Generator:
    """Random numbers that depend on the seed and on what they are for."""
    return np.random.Generator(np.random.PCG64([seed, 1_000_003, *place]))


def lognormal(seed: int, place: int, spread: float, runs: int, *, mean_one: bool = True) -> Floats:
    """Lognormal factors of the runs; the same ones for every policy and machine."""
    z = generator(seed, place).standard_normal(runs)
    return np.exp(spread * z - (spread**2 / 2.0 if mean_one else 0.0))


def draw_inputs(inputs: RunInputs, seed: int, runs: int) -> DrawnInputs:
    """Inputs within their ranges, each run with its own.

    Notes
    -----
    The logarithm of an input is normal on either side of its value, with the ends of its range as P10 and P90, and cut
    at P5 and P95. What a user gives has no range and is not drawn.
    """
    columns = {}
    for k, key in enumerate(DRAWN):
        row = inputs.row(key)
        if row.low < row.high:
            columns[key] = within(
                row.value, row.low, row.high, generator(seed, 100 + k).standard_normal(runs)
            )
    return DrawnInputs(inputs, columns)


def within(value: float, low: float, high: float, z: Floats) -> Floats:
    """Values around ``value`` with P10 and P90 at the ends of a range, for normal deviations ``z``."""
    below, above = math.log(value / low) / NORMAL, math.log(high / value) / NORMAL
    cut = np.clip(z, -_CUT, _CUT)
    out: Floats = value * np.exp(cut * np.where(cut < 0, below, above))
    return out


def draw_price(low: float, high: float, seed: int, runs: int) -> Floats:
    """Factors on a price whose range is given by its ends as factors."""
    return within(1.0, low, high, generator(seed, 5).standard_normal(runs))

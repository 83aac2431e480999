"""Which input matters: each at the two ends of its range while the others stay, by the closed form."""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from fullmesh.outcomes.goodput.accounts import mean_cost, pue_key
from fullmesh.outcomes.goodput.case import DAY_S, Case, prepare, site_quantile
from fullmesh.outcomes.goodput.costs import Offer
from fullmesh.outcomes.goodput.draws import DRAWN, NORMAL
from fullmesh.outcomes.goodput.engine import Run, expected
from fullmesh.outcomes.goodput.policies import PolicyName
from fullmesh.outcomes.goodput.records import RunOptions, Swing

#: deviation of the logarithm of a step that no published result says anything about
UNKNOWN_STEP = 0.3
_Answer = tuple[float, float | None]


def step_spread(case: Case) -> float:
    """Deviation of the logarithm of the step."""
    half = case.e.interval.log_half_width
    return half / NORMAL if math.isfinite(half) else UNKNOWN_STEP


def mean_days(case: Case, o: RunOptions, policy: PolicyName, like: Run) -> float:
    """Days of the mean run."""
    ready = prepare(case, o, policy, o.inputs, like=like)
    return float(expected(ready.run, ready.load, case.work_s(o.num_tokens)).wall_s) / DAY_S


def _answer(
    case: Case, o: RunOptions, like: Run, offer: Offer | None, *, factor: float = 1.0, step: float = 1.0,
    price: float = 1.0, power: float = 1.0,
) -> _Answer:  # fmt: skip
    factors = {x.rate.domain: np.array(factor) for x in case.exposed}
    ready = prepare(case, o, o.policies[0], o.inputs, factors=factors, like=like)
    outcomes = expected(ready.run, ready.load, np.array([case.work_s(o.num_tokens) * step]))
    usd = None if offer is None else mean_cost(case, o, outcomes, ready, offer, price=price, power=power)
    return float(outcomes.wall_s[0]) / DAY_S, usd


def tornado(case: Case, o: RunOptions, like: Run, offer: Offer | None) -> tuple[Swing, ...]:
    """Mean days and money at P10 and P90 of every input, the widest first."""
    out: list[Swing] = []

    def swing(key: str, ends: tuple[float, float], answers: list[_Answer]) -> None:
        (days_low, usd_low), (days_high, usd_high) = answers
        if abs(days_high - days_low) > 1e-9 or usd_low != usd_high:
            out.append(
                Swing(
                    key=key, low=ends[0], high=ends[1], days_low=days_low, days_high=days_high,
                    usd_low=usd_low, usd_high=usd_high,
                )
            )  # fmt: skip

    def around(spread: float) -> tuple[float, float]:
        return math.exp(-NORMAL * spread), math.exp(NORMAL * spread)

    ends = around(step_spread(case))
    swing("step_time", ends, [_answer(case, o, like, offer, step=x) for x in ends])
    ends = site_quantile(o, -NORMAL), site_quantile(o, NORMAL)
    swing("fault_rates", ends, [_answer(case, o, like, offer, factor=x) for x in ends])
    if offer is not None:
        ends = offer.ends
        swing("price", ends, [_answer(case, o, like, offer, price=x) for x in ends])
        if case.power is not None:
            ends = around(case.power.log_error)
            swing("power", ends, [_answer(case, o, like, offer, power=x) for x in ends])
    for key in DRAWN:
        row = o.inputs.row(key)
        if row.low == row.high or (key.startswith("pue_") and (o.pue or key != pue_key(case))):
            continue
        answers = [
            _answer(case, dataclasses.replace(o, inputs=o.inputs.with_values({key: x})), like, offer)
            for x in (row.low, row.high)
        ]
        swing(key, (row.low, row.high), answers)
    return tuple(sorted(out, key=_size, reverse=True))


def _size(s: Swing) -> float:
    """How much an input moves money, or days where there is no price, as a share."""
    if s.usd_low and s.usd_high and math.isfinite(s.usd_low + s.usd_high):
        return abs(math.log(s.usd_high / s.usd_low))
    if not math.isfinite(s.days_low + s.days_high):
        return math.inf
    return abs(math.log(s.days_high / s.days_low)) if s.days_low > 0 else 0.0

"""Energy and money of runs: what is drawn, at what prices, with spares and stock counted."""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt

from fullmesh.outcomes.goodput.case import Case, Ready
from fullmesh.outcomes.goodput.costs import Bill, Offer, cost_parts, offers_of
from fullmesh.outcomes.goodput.domains import is_supernode
from fullmesh.outcomes.goodput.draws import Amount, Inputs, draw_price, lognormal
from fullmesh.outcomes.goodput.engine import Outcomes
from fullmesh.outcomes.goodput.power import mean_pue
from fullmesh.outcomes.goodput.records import MoneyForecast, RunOptions, spread_of

Floats = npt.NDArray[np.float64]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Energy:
    """Of each run, at the meter of the site: joules, mean and peak watts; and the peak as predicted."""

    joules: Floats
    mean_w: Floats
    peak_w: Floats
    predicted_peak_w: float


def pue_key(case: Case) -> str:
    """Cooling where nothing is given: liquid for machines sold as racks or supernodes, air for nodes."""
    return "pue_liquid" if is_supernode(case.machine) else "pue_air"


def pue_of(case: Case, o: RunOptions) -> tuple[float, ...]:
    """The months that are given, or the default."""
    return o.pue or (o.inputs[pue_key(case)],)


def energy_of(
    case: Case, o: RunOptions, outcomes: Outcomes, ready: Ready, inputs: Inputs, error: Amount
) -> Energy | None:
    """Energy of each run; ``error`` is a factor on the power. None where no power is published."""
    p = case.power
    if p is None:
        return None
    devices = case.machine.num_devices
    wall, losses = outcomes.wall_s, outcomes.losses_s
    resting = losses["waiting_for_repair"]
    waiting = sum(
        (losses[k] for k in ("detection", "restart", "checkpoint_stalls", "warm_up", "planned_stops")),
        np.zeros_like(wall),
    )
    pue = mean_pue(o.pue, wall) if o.pue else inputs[pue_key(case)]
    with np.errstate(invalid="ignore"):
        training = wall - waiting - resting
        joules = devices * (training * p.training_w + waiting * p.waiting_w + resting * p.resting_w)
        joules = joules + ready.spare_devices * p.resting_w * wall
        joules = joules * error * pue
        joules = np.where(np.isfinite(wall), joules, np.inf)
        mean = np.where(np.isfinite(wall), joules / wall, 0.0)
    peak = devices * p.peak_w + ready.spare_devices * p.resting_w
    worst = max(o.pue) if o.pue else inputs[pue_key(case)]
    return Energy(
        joules=joules,
        mean_w=mean,
        peak_w=peak * error * worst * np.ones_like(wall),
        predicted_peak_w=float(np.median(peak)) * max(pue_of(case, o)),
    )


def power_error(case: Case, o: RunOptions) -> Amount:
    """Factors on the power of each run."""
    return 1.0 if case.power is None else lognormal(o.seed, 4, case.power.log_error, o.runs)


def bill_of(case: Case, ready: Ready) -> Bill:
    """What is paid for: the job's devices, its spares, and of a purchase the nodes in stock."""
    m = case.machine
    with_spares: Amount = np.asarray(ready.spare_devices, dtype=np.float64) + m.num_devices
    devices: Amount = with_spares + ready.stock_nodes * m.devices_per_node
    peak_w: Amount | None = None if case.power is None else devices * case.power.peak_w
    return Bill(
        devices=with_spares,
        units=devices / m.devices_per_unit,
        packages=devices / m.devices_per_package,
        peak_w=peak_w,
    )


def money_of(
    case: Case,
    o: RunOptions,
    outcomes: Outcomes,
    ready: Ready,
    inputs: Inputs,
    energy: Energy | None,
    middle: npt.NDArray[np.intp],
) -> tuple[MoneyForecast, ...]:
    """By rent and by purchase, as far as there are prices; parts are means over the runs of ``middle``."""
    out = []
    for offer in offers_of(case.machine, o.prices, o.inputs):
        price = draw_price(*offer.ends, o.seed, o.runs)
        joules = None if energy is None else energy.joules
        parts = cost_parts(offer, bill_of(case, ready), inputs, outcomes.wall_s, joules, price=price)
        total = sum(parts.values(), np.zeros_like(outcomes.wall_s))
        out.append(
            MoneyForecast(
                rented=offer.rented,
                usd=spread_of(total),
                usd_per_million_tokens=spread_of(total / o.num_tokens * 1e6),
                parts_usd={k: float(v[middle].mean()) for k, v in parts.items()},
                basis=offer.basis,
            )
        )
    return tuple(out)


def mean_cost(
    case: Case,
    o: RunOptions,
    outcomes: Outcomes,
    ready: Ready,
    offer: Offer,
    *,
    price: float = 1.0,
    power: float = 1.0,
) -> float:
    """US dollars of the mean run, at the inputs of the options; ``price`` and ``power`` are factors."""
    energy = energy_of(case, o, outcomes, ready, o.inputs, power)
    joules = None if energy is None else energy.joules
    parts = cost_parts(offer, bill_of(case, ready), o.inputs, outcomes.wall_s, joules, price=price)
    return float(sum(v[0] for v in parts.values()))

"""Money and energy of an estimate. Where there is no price or no published power, there is no figure."""

from __future__ import annotations

import dataclasses

from fullmesh.catalog import Price, price_per_device_hour
from fullmesh.outcomes.estimate import Estimate

SECONDS_PER_HOUR = 3600.0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Money:
    """Price of a step, of a million tokens and of a whole run, with what the price rests on.

    Energy is not in it: a rent includes it, a purchase price does not; ``rented`` and ``basis`` say which it is.
    """

    usd_per_device_hour: float
    usd_per_step: float
    usd_per_million_tokens: float
    usd_total: float
    rented: bool
    basis: str


def money_of(e: Estimate, *, num_tokens: float, prices: tuple[Price, ...] | None = None) -> Money | None:
    """What a run of ``num_tokens`` costs, None where the machine has no price.

    Parameters
    ----------
    prices : tuple of Price, optional
        A user's price list; the shipped one otherwise.
    """
    found = price_per_device_hour(e.machine, prices)
    if found is None:
        return None
    per_step = found.usd_per_hour / SECONDS_PER_HOUR * e.plan.num_devices * e.step_s
    per_token = per_step / e.tokens_per_step
    return Money(
        usd_per_device_hour=found.usd_per_hour,
        usd_per_step=per_step,
        usd_per_million_tokens=per_token * 1e6,
        usd_total=per_token * num_tokens,
        rented=found.rented,
        basis=found.basis,
    )


def time_to_tokens_s(e: Estimate, num_tokens: float) -> float:
    """Seconds until ``num_tokens`` are trained, without failures and restarts."""
    return num_tokens / e.tokens_per_s

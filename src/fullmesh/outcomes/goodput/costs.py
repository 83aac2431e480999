"""What a run costs: by rent, or by purchase with power, hosting, network and staff; never one mixed with the other."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from fullmesh.catalog import Price, load_prices
from fullmesh.catalog.run_inputs import RunInputs
from fullmesh.machine import Machine

Floats = npt.NDArray[np.float64]
HOUR_S, YEAR_S = 3600.0, 365.25 * 86_400.0
KWH_J = 3.6e6
# deviations of a normal distribution that hold 80 % of it
NORMAL = 1.2816
PARTS = ("rent", "machines", "network", "electricity", "hosting", "staff")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """A price of a machine: the rent of a device and hour, or the purchase of a unit.

    Parameters
    ----------
    rented : bool
    usd, low_usd, high_usd : float
    basis : str
    """

    rented: bool
    usd: float
    low_usd: float
    high_usd: float
    basis: str

    @property
    def log_spread(self) -> float:
        """Deviation of the logarithm that the range stands for."""
        return math.log(self.high_usd / self.low_usd) / (2.0 * NORMAL) if self.low_usd > 0 else 0.0


def offers_of(machine: Machine, prices: tuple[Price, ...] | None, inputs: RunInputs) -> tuple[Offer, ...]:
    """The rent and the purchase that a price list has for a machine, rent first."""
    table = {(p.item, p.per): p for p in (load_prices() if prices is None else prices)}
    out = []
    rent = table.get((machine.id, "device_hour")) or table.get((machine.chip.id, "device_hour"))
    for price, rented in ((rent, True), (table.get((machine.id, "unit")), False)):
        if price is None:
            continue
        off = 1.0 + inputs["price_range"]
        what = "rent of one device for an hour" if rented else f"purchase of one {machine.unit_name}"
        out.append(
            Offer(
                rented=rented,
                usd=price.usd,
                low_usd=price.low_usd or price.usd / off,
                high_usd=price.high_usd or price.usd * off,
                basis=f"{what} at US$ {price.usd:,.10g} ({price.kind}; {price.source}, {price.date})",
            )
        )
    return tuple(out)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Bill:
    """What money is counted for.

    Parameters
    ----------
    devices, units, packages : float
        With spares.
    peak_w : float or None
        Of all machines, without cooling: what hosting is paid by.
    """

    devices: float
    units: float
    packages: float
    peak_w: float | None


def cost_parts(
    offer: Offer,
    bill: Bill,
    inputs: RunInputs,
    wall_s: Floats,
    energy_j: Floats | None,
    factors: Mapping[str, Floats] | None = None,
) -> dict[str, Floats]:
    """US dollars by part for each run.

    Parameters
    ----------
    energy_j : array or None
        At the meter of the site. A rent covers it; of a machine without published power a purchase is counted
        without electricity and hosting.
    factors : mapping, optional
        Factors on ``price``, ``power_price``, ``hosting``, ``network_share``, ``staff`` for draws.
    """
    f = factors or {}
    zero = np.zeros_like(wall_s)
    price = offer.usd * f.get("price", 1.0)
    if offer.rented:
        return {"rent": price * bill.devices * wall_s / HOUR_S + zero}
    years = wall_s / YEAR_S
    machines = price * bill.units * years / inputs["write_off"]
    watts = bill.peak_w or 0.0
    return {
        "machines": machines + zero,
        "network": machines * inputs["network_share"] * f.get("network_share", 1.0),
        "electricity": zero
        if energy_j is None
        else energy_j * inputs["power_price"] * f.get("power_price", 1.0),
        "hosting": watts / 1e3 * inputs["hosting"] * f.get("hosting", 1.0) * years * 12.0 + zero,
        "staff": inputs["staff"] * f.get("staff", 1.0) * bill.packages / 1e4 * years + zero,
    }

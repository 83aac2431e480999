"""What a run costs: by rent, or by purchase with power, hosting, network and staff; never one mixed with the other."""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt

from fullmesh.catalog import Price, load_prices
from fullmesh.catalog.run_inputs import RunInputs
from fullmesh.machine import Machine
from fullmesh.outcomes.goodput.draws import Amount, Inputs

Floats = npt.NDArray[np.float64]
HOUR_S, YEAR_S = 3600.0, 365.25 * 86_400.0
KWH_J = 3.6e6
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
    def ends(self) -> tuple[float, float]:
        """The range as factors on the price."""
        return self.low_usd / self.usd, self.high_usd / self.usd


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
    devices, units, packages : float or array
        With spares.
    peak_w : float, array or None
        Of all machines, without cooling: what hosting is paid by.
    """

    devices: Amount
    units: Amount
    packages: Amount
    peak_w: Amount | None


def cost_parts(
    offer: Offer,
    bill: Bill,
    inputs: Inputs,
    wall_s: Floats,
    energy_j: Floats | None,
    *,
    price: Amount = 1.0,
) -> dict[str, Floats]:
    """US dollars by part for each run.

    Parameters
    ----------
    inputs : RunInputs or DrawnInputs
        One value of each, or one a run.
    energy_j : array or None
        At the meter of the site. A rent covers it; of a machine without published power a purchase is counted
        without electricity and hosting.
    price : float or array
        Factor on the price of the offer.
    """
    zero = np.zeros_like(wall_s)
    usd = offer.usd * price
    if offer.rented:
        return {"rent": usd * bill.devices * wall_s / HOUR_S + zero}
    years = wall_s / YEAR_S
    machines = usd * bill.units * years / inputs["write_off"]
    watts = 0.0 if bill.peak_w is None else bill.peak_w
    return {
        "machines": machines + zero,
        "network": machines * inputs["network_share"] + zero,
        "electricity": zero if energy_j is None else energy_j * inputs["power_price"],
        "hosting": watts / 1e3 * inputs["hosting"] * years * 12.0 + zero,
        "staff": inputs["staff"] * bill.packages / 1e4 * years + zero,
    }

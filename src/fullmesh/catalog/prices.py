"""Prices from a dated file that a user can replace; where there is no price, none is made up."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path
from typing import Literal, NamedTuple, Protocol, cast, get_args

from fullmesh.catalog.facts import FactKind, load_facts, one_of, positive_number, read_csv
from fullmesh.data import DATA_DIR
from fullmesh.errors import CatalogError

PricePer = Literal["device_hour", "unit"]

PRICES_DIR = DATA_DIR / "prices"
COLUMNS = ("item", "usd", "low_usd", "high_usd", "per", "kind", "source", "date", "note")
# what a file of one's own may leave out
_OPTIONAL = ("low_usd", "high_usd", "kind", "source", "date", "note")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Price:
    """One row of a price file.

    Parameters
    ----------
    item : str
        A machine (``cloudmatrix384``) or a chip (``h100-sxm``).
    usd : float
    low_usd, high_usd : float or None
        Range of the price, where the source gives one.
    per : {"device_hour", "unit"}
        Rent of one device for an hour, or the purchase of one unit of a machine (node, rack, supernode).
    kind, source, date, note : str
        As for a fact.
    """

    item: str
    usd: float
    low_usd: float | None
    high_usd: float | None
    per: PricePer
    kind: FactKind
    source: str
    date: str
    note: str


class _Chip(Protocol):
    @property
    def id(self) -> str: ...


class PricedMachine(Protocol):
    """What a price needs to know of a machine."""

    @property
    def id(self) -> str: ...
    @property
    def chip(self) -> _Chip: ...
    @property
    def devices_per_unit(self) -> int: ...
    @property
    def unit_name(self) -> str: ...


def load_prices(path: str | Path | None = None) -> tuple[Price, ...]:
    """Read a price file.

    Parameters
    ----------
    path : str or pathlib.Path, optional
        A CSV file with columns of ``COLUMNS``, of which it may leave out all but ``item``, ``usd`` and ``per``;
        without it, the newest shipped one.

    Raises
    ------
    CatalogError
        Unknown or missing column, unknown ``per`` or ``kind``, an empty field, a price that is not positive or lies
        outside its own range, or two prices of one item; with file and line.
    """
    return _read_prices(max(PRICES_DIR.glob("*.csv")) if path is None else Path(path))


@functools.lru_cache(maxsize=8)
def _read_prices(path: Path) -> tuple[Price, ...]:
    prices: dict[tuple[str, str], Price] = {}
    for line, found in read_csv(path, COLUMNS, _OPTIONAL):
        where = f"{path}:{line}"
        row = {
            "low_usd": "",
            "high_usd": "",
            "kind": "assumed",
            "source": path.name,
            "date": "no date",
            "note": "",
        }
        row |= found
        for column in (c for c in COLUMNS if c not in ("low_usd", "high_usd", "note")):
            if not row[column]:
                raise CatalogError(
                    f"column {column!r} is empty", where=where, expected=f"a {column} on each row"
                )
        low, high = (
            positive_number(row[c], where=where) if row[c] else None for c in ("low_usd", "high_usd")
        )
        price = Price(
            item=row["item"],
            usd=positive_number(row["usd"], where=where),
            low_usd=low,
            high_usd=high,
            per=cast(PricePer, one_of(row["per"], get_args(PricePer), "per", where)),
            kind=cast(FactKind, one_of(row["kind"], get_args(FactKind), "kind", where)),
            source=row["source"],
            date=row["date"],
            note=row["note"],
        )
        if (low is not None and low > price.usd) or (high is not None and high < price.usd):
            raise CatalogError(
                f"{row['usd']} lies outside its own range", where=where, expected="low <= usd <= high"
            )
        if (price.item, price.per) in prices:
            raise CatalogError(
                f"{price.item} has a second price per {price.per}",
                where=where,
                expected="one price for each item",
            )
        prices[price.item, price.per] = price
    return tuple(prices.values())


class DevicePrice(NamedTuple):
    """US dollars for one device and hour, in words what that rests on, and whether it is a rent."""

    usd_per_hour: float
    basis: str
    rented: bool


def price_per_device_hour(
    machine: PricedMachine, prices: tuple[Price, ...] | None = None
) -> DevicePrice | None:
    """What one device of a machine costs for an hour.

    Parameters
    ----------
    machine : Machine
    prices : tuple of Price, optional
        Without it, the shipped prices.

    Returns
    -------
    DevicePrice or None
        None where there is no price. A rent is preferred; a purchase price is spread over the amortisation period of
        the catalog and covers nothing else (no power, hosting, network or staff).
    """
    table = {(p.item, p.per): p for p in (load_prices() if prices is None else prices)}
    for item in (machine.id, machine.chip.id):
        if rent := table.get((item, "device_hour")):
            return DevicePrice(
                rent.usd,
                f"rent of one {item} for an hour{_range(rent)} ({rent.kind}; {rent.source}, {rent.date})",
                True,
            )
    purchase = table.get((machine.id, "unit"))
    if purchase is None:
        return None
    facts = load_facts()
    period = facts.used("amortisation", "period")
    utilisation = facts.used("amortisation", "utilisation")
    hours = period.si_value / 3600.0 * utilisation.si_value
    usd_per_hour = purchase.usd / machine.devices_per_unit / hours
    basis = (
        f"purchase of one {machine.unit_name} at US$ {purchase.usd:,.0f}{_range(purchase)}, written off over "
        f"{period.basis} at {utilisation.value:g} % utilisation (an assumption), without power, hosting and network "
        f"({purchase.kind}; {purchase.source}, {purchase.date})"
    )
    return DevicePrice(usd_per_hour, basis, False)


def _range(price: Price) -> str:
    if price.low_usd is None or price.high_usd is None:
        return ""
    return f" (US$ {price.low_usd:,.10g} to {price.high_usd:,.10g})"

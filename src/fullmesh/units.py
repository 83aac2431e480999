"""Quantities: strings with units at the edge, SI floats inside, readable strings on the way out."""

from __future__ import annotations

import math
import re

from fullmesh.errors import CatalogError, shown

# unit -> (dimension, factor to SI)
_DECIMAL = {"": 1.0, "k": 1e3, "K": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15, "E": 1e18}
_BINARY = {"Ki": 2.0**10, "Mi": 2.0**20, "Gi": 2.0**30, "Ti": 2.0**40}
UNITS: dict[str, tuple[str, float]] = {"count": ("count", 1.0), "": ("count", 1.0), "%": ("ratio", 0.01)}
for _p, _f in {**_DECIMAL, **_BINARY}.items():
    UNITS[f"{_p}B"] = ("bytes", _f)
    UNITS[f"{_p}B/s"] = ("bytes_per_s", _f)
for _p, _f in _DECIMAL.items():
    UNITS[f"{_p}b/s"] = ("bytes_per_s", _f / 8)
    UNITS[f"{_p}FLOP"] = ("flop", _f)
    UNITS[f"{_p}FLOP/s"] = ("flop_per_s", _f)
    UNITS[f"{_p}OP/s"] = ("flop_per_s", _f)
    UNITS[f"{_p}W"] = ("w", _f)
    UNITS[f"{_p}J"] = ("j", _f)
    UNITS[f"{_p}Hz"] = ("hz", _f)
    UNITS[f"{_p}USD"] = ("usd", _f)
    UNITS[f"{_p}tokens"] = ("tokens", _f)
UNITS |= {
    "s": ("s", 1.0),
    "ms": ("s", 1e-3),
    "us": ("s", 1e-6),
    "ns": ("s", 1e-9),
    "min": ("s", 60.0),
    "h": ("s", 3600.0),
    "d": ("s", 86400.0),
    "USD/h": ("usd_per_s", 1 / 3600.0),
    "USD/kWh": ("usd_per_j", 1 / 3.6e6),
    "kWh": ("j", 3.6e6),
    "Gb": ("bytes", 1e9 / 8),
}


_LONGEST = 100
_QUANTITY = re.compile(r"([-+]?[0-9_.,]+(?:[eE][-+]?[0-9]+)?)\s*([A-Za-z%/]*)")


def to_si(value: float, unit: str, *, where: str = "") -> tuple[float, str]:
    """Convert ``value`` in ``unit`` to SI.

    Returns
    -------
    tuple of (float, str)
        The value and the name of its dimension (``bytes``, ``bytes_per_s``, ``flop_per_s``, ``s``, ``w`` ...).

    Raises
    ------
    CatalogError
        The unit is unknown.
    """
    if unit not in UNITS:
        raise CatalogError(
            f"unknown unit {unit!r}", where=where, expected="one of " + ", ".join(u for u in UNITS if u)
        )
    dimension, factor = UNITS[unit]
    return value * factor, dimension


def parse_quantity(text: str, dimension: str, *, where: str = "") -> float:
    """Read ``"3.35 TB/s"`` as a finite float in SI units and check its dimension.

    Raises
    ------
    CatalogError
        No number, an unknown unit, another dimension, or more than a float can hold.
    """
    match = _QUANTITY.fullmatch(text.strip()) if len(text) <= _LONGEST else None
    if match is None:
        raise CatalogError(
            f"cannot read the quantity {shown(text)}",
            where=where,
            expected="a number and a unit",
            hint='for instance "450 GB/s", "80 GB" or "2.7 us"',
        )
    try:
        number = float(match.group(1).replace(",", "").replace("_", ""))
    except ValueError:
        raise CatalogError(
            f"cannot read the number in {shown(text)}",
            where=where,
            expected="a number and a unit",
            hint='for instance "450 GB/s", "80 GB" or "2.7 us"',
        ) from None
    value, found = to_si(number, match.group(2), where=where)
    if found != dimension:
        raise CatalogError(
            f"{shown(text)} is a quantity of {found}", where=where, expected=f"a quantity of {dimension}"
        )
    if not math.isfinite(value):
        raise CatalogError(f"{shown(text)} is not finite", where=where, expected="a finite quantity")
    return value


def si_prefix(value: float, unit: str, digits: int = 3) -> str:
    """``si_prefix(3.2e12, "B/s")`` is ``"3.2 TB/s"``."""
    if value == 0:
        return f"0 {unit}"
    for prefix, factor in (("E", 1e18), ("P", 1e15), ("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if abs(value) >= factor:
            return f"{value / factor:.{digits}g} {prefix}{unit}"
    return f"{value:.{digits}g} {unit}"


def duration(seconds: float, digits: int = 3) -> str:
    """A duration a person reads: ``"12.3 s"``, ``"41 ms"``, ``"3.2 h"``, ``"17 d"``."""
    for limit, factor, unit in (
        (1e-3, 1e-6, "us"),
        (1.0, 1e-3, "ms"),
        (600.0, 1.0, "s"),
        (2 * 3600.0, 60.0, "min"),
        (48 * 3600.0, 3600.0, "h"),
    ):
        if abs(seconds) < limit:
            return f"{seconds / factor:.{digits}g} {unit}"
    days = seconds / 86400.0
    return f"{days:,.0f} d" if days >= 1000 else f"{days:.{digits}g} d"

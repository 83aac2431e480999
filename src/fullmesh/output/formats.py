"""Numbers as people read them, the same in every table, line and page."""

from __future__ import annotations

from fullmesh.units import duration, si_prefix


def seconds(value: float) -> str:
    """A time of a step, three digits, in seconds from one second on so that columns compare; a gain keeps its sign."""
    size = abs(value)
    if size < 5e-7:
        return "0 s"
    sign = "-" if value < 0 else ""
    if size < 1:
        return sign + duration(size)
    # three digits also where the last are zeros; from 99.95 on the third stands before the point
    return sign + (f"{size:,.0f} s" if size >= 99.95 else f"{size:#.3g} s")


def percent(value: float, digits: int = 1) -> str:
    """``0.365`` is ``36.5 %``; what rounds to nothing has no sign."""
    return f"{value:z.{digits}%}".replace("%", " %")


def change(value: float) -> str:
    """A relative difference with its sign, as a factor where per cent would mislead: ``+16.5 %``, ``192 times``."""
    if value > 1.0:
        return f"{value + 1.0:.3g} times"
    return f"{100 * value:+z.1f} %"


def gigabytes(value: float) -> str:
    """Decimal gigabytes."""
    return f"{value / 1e9:.1f} GB"


def money(usd: float) -> str:
    """Dollars with three digits."""
    for limit, factor, unit in ((1e9, 1e9, " billion"), (1e6, 1e6, " million")):
        if usd >= limit:
            return f"US$ {usd / factor:.3g}{unit}"
    return f"US$ {usd:,.0f}" if usd >= 1000 else f"US$ {usd:.3g}"


def energy(joules: float | None, unknown: str) -> str:
    """Joules with a prefix."""
    return unknown if joules is None else si_prefix(joules, "J")


def count(value: float, one: str) -> str:
    """``2 racks``, ``1 rack``, ``5.33 racks``."""
    number = f"{value:,.0f}" if abs(value - round(value)) < 1e-9 else f"{value:,.2f}"
    return f"{number} {one}" + ("" if number == "1" else "s")


def tokens(value: float) -> str:
    """``1e12`` is ``1 T tokens``."""
    return si_prefix(value, "", 4).replace("G", "B").strip() + " tokens"


def parameters(value: float) -> str:
    """``671026404352`` is ``671.0 B``, and millions below a billion."""
    return f"{value / 1e9:,.1f} B" if value >= 1e9 else f"{value / 1e6:,.1f} M"


def precision(name: str) -> str:
    """A recipe as people write it."""
    return name.upper()

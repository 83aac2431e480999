"""Tables and numbers as the commands print them."""

from __future__ import annotations

import csv
import io
import json
import math
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import click

from fullmesh.glossary import Language, label
from fullmesh.outcomes.estimate import Estimate, Infeasible
from fullmesh.outcomes.waterfall import GROUPS
from fullmesh.plan import Plan
from fullmesh.units import duration, si_prefix

if TYPE_CHECKING:
    from rich.table import Table

DEFAULT_WIDTH = 120
_MIN_WIDTH = 100


def show(*items: Table | str) -> None:
    """Print tables and lines to standard output, without colour where NO_COLOR is set or it is no terminal."""
    from rich.console import Console
    from rich.text import Text

    own = sys.stdout.isatty() or "COLUMNS" in os.environ
    console = Console(highlight=False, width=max(Console().width, _MIN_WIDTH) if own else DEFAULT_WIDTH)
    for item in items:
        console.print(Text(item) if isinstance(item, str) else item)


def write_json(data: Mapping[str, Any]) -> None:
    """One JSON object on standard output."""
    click.echo(json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False))


def write_csv(columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
    """Rows on standard output, with a header."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    click.echo(text.getvalue(), nl=False)


def title(key: str, lang: Language) -> str:
    """A label with a capital, at the start of a line."""
    text = label(key, lang)
    return text[:1].upper() + text[1:]


def table(heading: str, *columns: str) -> Table:
    """An empty table; a column name that ends in ``>`` is aligned to the right."""
    from rich import box
    from rich.table import Table

    out = Table(
        title=heading or None, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False
    )
    for column in columns:
        justify: Literal["left", "right"] = "right" if column.endswith(">") else "left"
        out.add_column(column.removesuffix(">"), justify=justify, overflow="fold")
    return out


def plan_text(plan: Plan) -> str:
    """The plan in one line, with what its label leaves out."""
    text = plan.label()
    if plan.recompute == "selective" and plan.recompute_modules:
        text = text.replace("selective recompute", "recompute " + ", ".join(plan.recompute_modules))
    if plan.recompute == "full" and plan.recompute_fraction < 1:
        text = text.replace("full recompute", f"full recompute of {plan.recompute_fraction:.0%} of layers")
    if plan.ep_overlap:
        text += ", EP overlap"
    if plan.offload_optimizer:
        text += ", optimizer in host memory"
    return text


def seconds(value: float) -> str:
    """A time of a step, three digits, in seconds from one second on so that columns compare; a gain keeps its sign."""
    size = abs(value)
    if size < 5e-7:
        return "0 s"
    sign = "-" if value < 0 else ""
    if size < 1:
        return sign + duration(size)
    return sign + (f"{size:,.0f} s" if size >= 100 else f"{size:.3g} s")


def percent(value: float, digits: int = 1) -> str:
    """``0.365`` is ``36.5 %``."""
    return f"{value:.{digits}%}".replace("%", " %")


def interval_text(e: Estimate, unknown: str) -> str:
    """The 80 % interval, or that there is none."""
    if not math.isfinite(e.interval.low_s):
        return unknown
    return f"{seconds(e.interval.low_s)} to {seconds(e.interval.high_s)}"


def gigabytes(value: float) -> str:
    """Decimal gigabytes."""
    return f"{value / 1e9:.1f} GB"


def limit_text(e: Infeasible) -> str:
    """Which limit the nearest plan breaks, by how much, and what would help."""
    limit = e.limit
    if limit.unit == "B":
        size = f"{gigabytes(limit.needed)} needed, {gigabytes(limit.available)} there"
    else:
        size = f"{limit.needed:g} against {limit.available:g}"
    return (
        f"{limit.name}, {size} ({limit.where}), with the plan {plan_text(e.plan)}; "
        f"would help: {', '.join(limit.levers)}"
    )


def money_text(usd: float) -> str:
    """Dollars with three digits."""
    for limit, factor, unit in ((1e9, 1e9, " billion"), (1e6, 1e6, " million")):
        if usd >= limit:
            return f"US$ {usd / factor:.3g}{unit}"
    return f"US$ {usd:,.0f}" if usd >= 1000 else f"US$ {usd:.3g}"


def energy_text(joules: float | None, unknown: str) -> str:
    """Joules with a prefix."""
    return unknown if joules is None else si_prefix(joules, "J")


def count_text(value: float, one: str) -> str:
    """``2 racks``, ``1 rack``, ``5.33 racks``."""
    number = f"{value:,.0f}" if abs(value - round(value)) < 1e-9 else f"{value:,.2f}"
    return f"{number} {one}" + ("" if number == "1" else "s")


def tokens_text(value: float) -> str:
    """``1e12`` is ``1 T tokens``."""
    return si_prefix(value, "", 4).replace("G", "B").strip() + " tokens"


OFFLOAD_NOTE = (
    "Optimizer states in host memory cost the copy of gradients and weights over the host link; the arithmetic of the "
    "host is taken to hide behind it."
)
COMMUNICATION = GROUPS["communication"]

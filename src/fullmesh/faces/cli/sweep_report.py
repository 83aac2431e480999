"""What ``fullmesh sweep`` prints: how the points ended, and where their rows are."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fullmesh.faces.cli.tables import table
from fullmesh.units import duration

if TYPE_CHECKING:
    from rich.table import Table

    from fullmesh.study.sweep.run import Sweep


def report(found: Sweep) -> list[Table | str]:
    """Tables and lines."""
    ended = table("", "how they ended", "points>", "meaning")
    ended.add_row("with a plan", f"{found.num_ok:,}", "the best plan and its figures are in the row")
    ended.add_row(
        "without a plan", f"{found.num_no_plan:,}", "nothing fits; the row says which limit is broken"
    )
    ended.add_row("not answered", f"{found.num_error:,}", "the question contradicts itself; the row says how")
    took = "" if found.elapsed_s is None else f" in {duration(found.elapsed_s)}"
    new = found.num_points - found.num_kept
    out: list[Table | str] = [
        f"rows in {found.out}: {found.num_points:,} ({new:,} new, {found.num_kept:,} kept from before){took}",
        ended,
    ]
    if found.errors:
        out.append("The most frequent reasons for which points were not answered:")
        out += [f"- {message} ({count:,})" for message, count in found.errors.items()]
    return out

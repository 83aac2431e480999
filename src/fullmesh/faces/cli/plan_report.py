"""What ``fullmesh plan`` prints."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from fullmesh.faces.cli.tables import (
    OFFLOAD_NOTE,
    gigabytes,
    interval_text,
    limit_text,
    percent,
    plan_text,
    seconds,
    table,
    title,
)
from fullmesh.glossary import Language, label
from fullmesh.outcomes.estimate import Estimate
from fullmesh.search import SearchResult

if TYPE_CHECKING:
    from rich.table import Table


def report(r: SearchResult, lang: Language) -> list[Table | str]:
    """Tables and lines of a search."""
    out: list[Table | str] = [
        f"{r.model.name} on {r.machine.num_devices:,} devices of {r.machine.name}, {label('batch', lang)} "
        f"{r.gbs:,} x {r.seq:,} tokens, {r.precision.upper()}, {r.software.label}; "
        f"{r.num_enumerated:,} plans enumerated, {r.num_fitting:,} fit.",
    ]
    if r.substituted:
        out.append(r.substituted + ".")
    out.append("")
    if r.best is None:
        assert r.closest is not None
        out.append(f"{title('does_not_fit', lang)}: {limit_text(r.closest)}.")
    else:
        out += [_plans_table(r.ranked, r.best, label("best_plans", lang), lang)]
        out.append(_tie_text(r, lang))
        out.append(f"{label('interval', lang)}: {r.best.interval.basis}.")
        if any(e.plan.offload_optimizer for e in (*r.ranked, *r.pareto)):
            out.append(OFFLOAD_NOTE)
        out += ["", _plans_table(r.pareto, r.best, label("pareto", lang), lang)]
    return [*out, _rejected_table(r, lang)]


def _tie_text(r: SearchResult, lang: Language) -> str:
    if r.tie_ratio != r.tie_ratio:
        return f"{title('ties', lang)}: {label('unknown_error', lang)}."
    return (
        f"{title('ties', lang)}: {r.num_ties} (within a factor of {r.tie_ratio:.2f} of the best; "
        "plans of one machine share most of that error, so the order is surer than this)."
    )


def _plans_table(estimates: Sequence[Estimate], best: Estimate, heading: str, lang: Language) -> Table:
    out = table(
        heading,
        label("plan", lang),
        label("step_time", lang) + ">",
        "%>",
        label("interval", lang) + ">",
        label("tokens_per_s", lang) + ">",
        "MFU>",
        "HFU>",
        label("memory", lang) + ">",
    )
    for e in estimates:
        out.add_row(
            plan_text(e.plan),
            seconds(e.step_s),
            percent(e.step_s / best.step_s),
            interval_text(e, "-"),
            f"{e.tokens_per_s:,.0f}",
            percent(e.mfu),
            percent(e.hfu),
            gigabytes(e.memory_bytes),
        )
    return out


def _rejected_table(r: SearchResult, lang: Language) -> Table:
    out = table(
        label("rejected", lang), label("reason", lang), label("plans", lang) + ">", label("meaning", lang)
    )
    for rejection in r.rejected:
        out.add_row(rejection.reason, f"{rejection.num_plans:,}", rejection.meaning)
    return out

"""``fullmesh plan``: the best plans on one machine, and why the rest was rejected."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from fullmesh.cli.tables import (
    gigabytes,
    interval_text,
    lang_option,
    limit_text,
    one_format,
    percent,
    plan_text,
    seconds,
    show,
    table,
    title,
    write_csv,
    write_json,
)
from fullmesh.glossary import Language, label
from fullmesh.outcomes.estimate import Estimate
from fullmesh.outcomes.records import PLAN_CSV_COLUMNS, search_record, search_rows
from fullmesh.plan import RECIPES
from fullmesh.search import OBJECTIVES, SearchResult
from fullmesh.study import best_plans, export_launch
from fullmesh.units import duration

if TYPE_CHECKING:
    from rich.table import Table


@click.command(
    help="""The best plans for MODEL on one machine: step time, memory, ties within the model's error, the Pareto
    front of step time against memory, and how many plans each limit rejected."""
)
@click.argument("model")
@click.option("--on", required=True, help="A machine of the catalog, or a machine file.")
@click.option("--chips", type=int, help="Devices (dies of a 910C); the machine's default size if absent.")
@click.option("--batch", type=int, help="Global batch in sequences; chosen from the model if absent.")
@click.option("--seq", type=int, help="Sequence length in tokens; 4096 or 8192 by model if absent.")
@click.option("--precision", default="bf16", show_default=True, help=f"Recipe: {', '.join(RECIPES)}.")
@click.option("--objective", type=click.Choice(OBJECTIVES), default="time", show_default=True)
@click.option("--top", type=int, default=10, show_default=True, help="Layouts to list.")
@click.option("--offload", is_flag=True, help="Consider optimizer states in host memory.")
@click.option(
    "--export",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write the best plan as launch settings.",
)
@click.option("--json", "as_json", is_flag=True, help="Write JSON (SI units, named in the keys).")
@click.option("--csv", "as_csv", is_flag=True, help="Write one CSV row a layout.")
@lang_option
def command(
    model: str,
    on: str,
    chips: int | None,
    batch: int | None,
    seq: int | None,
    precision: str,
    objective: str,
    top: int,
    offload: bool,
    export: Path | None,
    as_json: bool,
    as_csv: bool,
    lang: Language,
) -> None:
    """List the best plans."""
    one_format(as_json, as_csv)
    start = time.perf_counter()
    found = best_plans(
        model,
        on,
        chips=chips,
        batch=batch,
        seq=seq,
        precision=precision,
        objective=objective,
        top=top,
        offload=offload,
    )
    elapsed = time.perf_counter() - start
    if as_json:
        write_json(search_record(found))
    elif as_csv:
        write_csv(PLAN_CSV_COLUMNS, search_rows(found))
    else:
        show(*_report(found, lang))
    if export is not None:
        export_launch(found, export)
        click.echo(f"launch settings written to {export}", err=True)
    click.echo(f"{found.num_priced:,} plans priced in {duration(elapsed)}", err=True)


def _report(r: SearchResult, lang: Language) -> list[Table | str]:
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

"""``fullmesh catalog faults`` and ``fullmesh catalog inputs``: what a forecast of a whole run rests on."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import click

from fullmesh.faces.cli.options import one_format, tell

if TYPE_CHECKING:
    from fullmesh.catalog.faults import FaultRate
    from fullmesh.catalog.run_inputs import RunInput

_WIDE = 10_000


@click.command(
    help="""List the shipped rates of faults by domain, each with its 80 % interval, repair time, kind, source and date.

    A rate is that of one member of its domain. `fullmesh calibrate faults LOG` fits rates on a log of one's own."""
)
@click.option("--json", "as_json", is_flag=True, help="Write JSON (times in hours, rates a year).")
@click.option("--csv", "as_csv", is_flag=True, help="Write CSV, in the form that `goodput --faults` reads.")
def faults(as_json: bool, as_csv: bool) -> None:
    """List rates of faults."""
    from fullmesh.catalog.faults import faults_text, load_faults
    from fullmesh.faces.cli.tables import show, table, write_json

    one_format(as_json, as_csv)
    found = load_faults()
    rows = [*found.rates, *((found.site,) if found.site else ())]
    if as_csv:
        click.echo(faults_text(rows), nl=False)
        return
    if as_json:
        write_json({"faults": [_rate_record(r) for r in rows]})
        return
    out = table(
        f"{len(rows)} rates of faults (the mean, with P10 and P90)",
        "domain=", "effect=", "a year and member>", "P10>", "P90>", "mean repair>", "kind", "source>", "note?=",
    )  # fmt: skip
    sources: dict[tuple[str, str], int] = {}
    for r in rows:
        out.add_row(
            r.domain,
            r.effect,
            *(f"{x:.3g}" for x in (r.rate_per_year, r.low_per_year, r.high_per_year)),
            f"{r.repair_mean_h:.3g} h" if r.repair_mean_h else "-",
            r.kind,
            str(sources.setdefault((r.source, r.date), len(sources) + 1)),
            r.note,
        )
    show(out, _sources(sources), plain_width=_WIDE)
    tell(
        "`fullmesh goodput --faults FILE` takes other rates; the row `site` is a factor on all rates of one site."
    )


def _rate_record(r: FaultRate) -> dict[str, Any]:
    out = dataclasses.asdict(r)
    return out | {
        "low_per_year": r.low_per_year,
        "high_per_year": r.high_per_year,
        "unit": "per member and year",
    }


@click.command(
    help="""List the inputs of a whole run: recovery, checkpoints, storage, power, cooling and costs, each with its
    unit, 80 % range, kind, source and date.

    `fullmesh goodput --assume KEY=VALUE` takes another value."""
)
@click.option(
    "--json", "as_json", is_flag=True, help="Write JSON (SI units; `stated` is in the unit of the file)."
)
@click.option("--csv", "as_csv", is_flag=True, help="Write CSV, in the form of the input file.")
def inputs(as_json: bool, as_csv: bool) -> None:
    """List the inputs of a whole run."""
    from fullmesh.catalog.run_inputs import COLUMNS, load_run_inputs
    from fullmesh.faces.cli.tables import show, table, write_csv, write_json

    one_format(as_json, as_csv)
    rows = load_run_inputs().rows
    if as_csv:
        write_csv(COLUMNS, [_input_row(r) for r in rows])
        return
    if as_json:
        write_json({"inputs": [_input_record(r) for r in rows]})
        return
    out = table(
        f"{len(rows)} inputs of a whole run (with P10 and P90; a choice has no range)",
        "key=", "value>", "P10>", "P90>", "kind", "source>", "basis?=",
    )  # fmt: skip
    sources: dict[tuple[str, str], int] = {}
    for r in rows:
        low, value, high = r.stated
        ends = ("-", "-") if low == high else (f"{low:g}", f"{high:g}")
        out.add_row(
            r.key,
            f"{value:g} {r.unit}".removesuffix(" count"),
            *ends,
            r.kind,
            str(sources.setdefault((r.source, r.date), len(sources) + 1)),
            r.basis,
        )
    show(out, _sources(sources), plain_width=_WIDE)
    tell("`fullmesh goodput --assume KEY=VALUE` takes another value.")


def _input_row(r: RunInput) -> dict[str, Any]:
    low, value, high = r.stated
    ends = {"low": "", "high": ""} if low == high else {"low": f"{low:g}", "high": f"{high:g}"}
    return dataclasses.asdict(r) | {"value": f"{value:g}"} | ends


def _input_record(r: RunInput) -> dict[str, Any]:
    low, value, high = r.stated
    return dataclasses.asdict(r) | {"stated": {"low": low, "value": value, "high": high}}


def _sources(numbers: dict[tuple[str, str], int]) -> Any:
    from fullmesh.faces.cli.tables import table

    out = table("Sources", "no.>", "source=", "date")
    for (source, date), number in numbers.items():
        out.add_row(str(number), source, date)
    return out

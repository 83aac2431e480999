"""``fullmesh compare``: the best plan for a model on each machine, side by side."""

from __future__ import annotations

import sys
import time

import click

from fullmesh.faces.cli.options import (
    BASES,
    NO_PLAN,
    OBJECTIVES,
    PRECISIONS,
    json_option,
    lang_option,
    one_format,
    timing_option,
)
from fullmesh.glossary import Language


@click.command(
    help="""The best plan for MODEL on each machine, side by side, for the same global batch and sequence.

    MODEL is a shipped name (deepseek-v3), a config.json or a folder that holds one. Supernodes are compared whole;
    a cluster gets as many packages as the largest supernode; equal packages stand beside it."""
)
@click.argument("model")
@click.option(
    "--on",
    default="cloudmatrix384,gb200-nvl72,h200",
    show_default=True,
    help="Machines of the catalog, or machine files, separated by commas.",
)
@click.option(
    "--chips", help="Devices (dies of a 910C) on every machine, or one number for each, with commas."
)
@click.option(
    "--batch",
    metavar="SEQUENCES|TOKENS",
    help='Global batch in sequences (512), or in tokens that it shall be near ("4M tokens"); chosen if absent.',
)
@click.option(
    "--seq", metavar="TOKENS", help="Sequence length in tokens (8192 or 8k); 4096 or 8192 by model if absent."
)
@click.option(
    "--precision",
    default="bf16",
    show_default=True,
    help=f"Recipe: {', '.join(PRECISIONS)}. What a chip lacks is substituted, and said.",
)
@click.option(
    "--objective",
    type=click.Choice(OBJECTIVES),
    default="time",
    show_default=True,
    help="What the best plan saves; for energy and money a plan may leave devices unused.",
)
@click.option(
    "--basis",
    type=click.Choice(BASES),
    default="units",
    show_default=True,
    help="What is equal: whole supernodes, devices, packages, power or money (the last two as the first machine).",
)
@click.option("--tokens", default="1T", show_default=True, help="Tokens of a training run (300B, 15T).")
@click.option("--offload", is_flag=True, help="Consider optimizer states in host memory.")
@click.option("--prices", type=click.Path(), help="A price file (CSV) instead of the shipped one.")
@json_option
@click.option("--csv", "as_csv", is_flag=True, help="Write one CSV row a machine.")
@timing_option
@lang_option
def command(
    model: str,
    on: str,
    chips: str | None,
    batch: str | None,
    seq: str | None,
    precision: str,
    objective: str,
    basis: str,
    tokens: str,
    offload: bool,
    prices: str | None,
    as_json: bool,
    as_csv: bool,
    no_timing: bool,
    lang: Language,
) -> None:
    """Compare machines."""
    from fullmesh.faces.cli.compare_report import report
    from fullmesh.faces.cli.model_notes import say_notes
    from fullmesh.faces.cli.tables import show, write_csv, write_json
    from fullmesh.study.api import compare
    from fullmesh.study.fields import CSV_COLUMNS
    from fullmesh.units import duration

    one_format(as_json, as_csv)
    if sys.stderr.isatty():
        click.echo("searching ...", err=True)
    start = time.perf_counter()
    result = compare(
        model,
        on,
        chips=chips,
        batch=batch,
        seq=seq,
        precision=precision,
        objective=objective,
        basis=basis,
        tokens=tokens,
        prices=prices,
        offload=offload,
    )
    elapsed = time.perf_counter() - start
    if as_json:
        write_json(result.to_dict())
    elif as_csv:
        write_csv(CSV_COLUMNS, result.to_rows())
    else:
        show(*report(result, lang))
    say_notes(result.model)
    columns = {id(c): c for c in (*result.columns, *result.equal_packages)}.values()
    took = "" if no_timing else f" in {duration(elapsed)}"
    click.echo(f"{sum(c.found.num_priced for c in columns):,} plans priced{took}", err=True)
    if not any(c.best for c in result.columns):
        sys.exit(NO_PLAN)

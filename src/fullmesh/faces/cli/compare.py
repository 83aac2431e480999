"""``fullmesh compare``: the best plan for a model on each machine, side by side."""

from __future__ import annotations

import sys
from typing import Any

import click

from fullmesh.faces.cli.options import (
    BASES,
    NO_PLAN,
    PRECISIONS,
    batch_option,
    json_option,
    lang_option,
    objective_option,
    offload_option,
    one_format,
    profile_option,
    searched,
    seq_option,
    software_option,
    tell,
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
@batch_option
@seq_option
@click.option(
    "--precision",
    default="bf16",
    show_default=True,
    help=f"Recipe: {', '.join(PRECISIONS)}. What a chip lacks is substituted, and said.",
)
@objective_option
@click.option(
    "--basis",
    type=click.Choice(BASES),
    default="units",
    show_default=True,
    help="What is equal: whole supernodes, devices, packages, power or money (the last two as the first machine).",
)
@click.option("--tokens", default="1T", show_default=True, help="Tokens of a training run (300B, 15T).")
@click.option(
    "--run",
    metavar="TOKENS",
    help="Add the whole run of so many tokens, with its faults: days, goodput, energy, money.",
)
@offload_option
@software_option
@profile_option
@click.option("--prices", type=click.Path(), help="A price file (CSV) instead of the shipped one.")
@json_option
@click.option("--csv", "as_csv", is_flag=True, help="Write one CSV row a machine.")
@timing_option
@lang_option
def command(
    as_json: bool,
    as_csv: bool,
    no_timing: bool,
    lang: Language,
    **question: Any,
) -> None:
    """Compare machines."""
    from fullmesh.faces.cli.compare_report import report
    from fullmesh.faces.cli.model_notes import say_notes
    from fullmesh.faces.cli.tables import show, write_csv, write_json
    from fullmesh.study.api import compare
    from fullmesh.study.fields import CSV_COLUMNS

    one_format(as_json, as_csv)
    result, took = searched(lambda: compare(**question), timing=not no_timing)
    if as_json:
        write_json(result.to_dict())
    elif as_csv:
        write_csv(CSV_COLUMNS, result.to_rows())
    else:
        show(*report(result, lang))
    say_notes(result.model)
    columns = {id(c): c for c in (*result.columns, *result.equal_packages)}.values()
    tell(f"{sum(c.found.num_priced for c in columns):,} plans priced{took}")
    if not any(c.best for c in result.columns):
        sys.exit(NO_PLAN)

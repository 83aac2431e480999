"""``fullmesh plan``: the best plans on one machine, and why the rest was rejected."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from fullmesh.faces.cli.options import (
    FRAMEWORKS,
    LIMITS,
    NO_PLAN,
    PRECISIONS,
    InputFile,
    OutputFolder,
    batch_option,
    json_option,
    lang_option,
    limit_options,
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
    help="""The best plans for MODEL on one machine: step time, memory, ties within the model's error, the Pareto
    front of step time against memory, and how many plans each limit rejected."""
)
@click.argument("model", type=InputFile())
@click.option("--on", required=True, type=InputFile(), help="A machine of the catalog, or a machine file.")
@click.option(
    "--chips", metavar="INTEGER", help="Devices (dies of a 910C); the machine's default size if absent."
)
@batch_option
@seq_option
@click.option("--precision", default="bf16", show_default=True, help=f"Recipe: {', '.join(PRECISIONS)}.")
@objective_option
@click.option("--top", type=int, default=10, show_default=True, help="Layouts to list.")
@offload_option
@limit_options
@click.option("--memory-margin", metavar="SHARE", help="Memory that a plan leaves free at least (10%).")
@click.option("--chip", metavar="NAME", help="Another chip of the catalog in the machine.")
@click.option(
    "--wide",
    is_flag=True,
    help="Search the whole space, what few plans ever use too: every degree, micro-batch, schedule, ZeRO stage and way "
    "to recompute, contexts split at any length, experts split by tensor, shards inside a domain.",
)
@software_option
@profile_option
@click.option(
    "--export",
    type=click.Choice(FRAMEWORKS),
    help="Write the best plan as a folder that starts with this framework; --to names the folder.",
)
@click.option("--to", type=OutputFolder(), help="The new folder that --export writes.")
@json_option
@click.option("--csv", "as_csv", is_flag=True, help="Write one CSV row a layout.")
@timing_option
@lang_option
def command(
    export: str | None,
    to: Path | None,
    as_json: bool,
    as_csv: bool,
    no_timing: bool,
    lang: Language,
    **question: Any,
) -> None:
    """List the best plans."""
    from fullmesh.faces.cli.model_notes import say_notes
    from fullmesh.faces.cli.plan_report import report
    from fullmesh.faces.cli.tables import show, write_csv, write_json
    from fullmesh.search.fields import PLAN_CSV_COLUMNS, search_record
    from fullmesh.study.api import best_plans, export_launch

    one_format(as_json, as_csv)
    if (export is None) != (to is None):
        raise click.UsageError("--export and --to go together")
    question["limits"] = {name: question.pop(name) for name in LIMITS}
    found, took = searched(lambda: best_plans(**question), timing=not no_timing)
    if as_json:
        write_json(search_record(found, timing=not no_timing))
    elif as_csv:
        write_csv(PLAN_CSV_COLUMNS, found.to_rows())
    else:
        show(*report(found, lang))
    if export is not None and to is not None and found.best is not None:
        export_launch(found, export, to)
        tell(f"launch folder written to {to}")
    say_notes(found.model)
    tell(f"{found.num_priced:,} plans priced{took}")
    if found.best is None:
        sys.exit(NO_PLAN)

"""``fullmesh check``: is my speed normal, where is the gap, what would change it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from fullmesh.faces.cli.options import (
    InputFile,
    OutputFile,
    json_option,
    lang_option,
    profile_option,
    seq_option,
    software_option,
    tell,
)
from fullmesh.glossary import Language


@click.command(
    help="""Whether RUN is as fast as its plan should be on a machine: the expected range, where the gap sits, how much
    memory is left, and the changes with the largest predicted gain.

    RUN is a launch file of Megatron, MindSpeed, Megatron-Bridge, MindFormers, torchtitan or DeepSpeed, a folder of such
    files, a command line in quotes, or a scenario file (.toml). Nothing of it is executed."""
)
@click.argument("run", type=InputFile())
@click.option(
    "--on", type=InputFile(), help="A machine of the catalog, or a machine file; a scenario names its own."
)
@click.option(
    "--chips",
    metavar="INTEGER",
    help="Devices of the whole run (dies of a 910C), where the launcher does not say.",
)
@click.option("--model", type=InputFile(), help="The model, where the file does not say.")
@seq_option
@click.option("--step-time", metavar="TIME", help="The measured step: 12.3s, 850ms.")
@click.option(
    "--tokens-per-s", metavar="NUMBER", help="The measured tokens a second of all devices together."
)
@click.option("--log", type=InputFile(), help="A log of the run; the median of its steps counts.")
@click.option(
    "--trace",
    type=InputFile(),
    help="A trace of one device (Kineto, msprof), or a folder with tables of the Ascend profiler.",
)
@click.option(
    "--row", type=OutputFile(".csv"), help="Add the run to a table that `fullmesh calibrate results` reads."
)
@click.option("--top", type=int, default=3, show_default=True, help="Changes to list.")
@software_option
@profile_option
@json_option
@lang_option
def command(row: Path | None, as_json: bool, lang: Language, **question: Any) -> None:
    """Hold a run against its prediction."""
    from fullmesh.faces.cli.check_report import report
    from fullmesh.faces.cli.model_notes import say_notes
    from fullmesh.faces.cli.tables import show, write_json
    from fullmesh.study.api import check

    found = check(**question)
    if as_json:
        write_json(found.to_dict())
    else:
        show(*report(found, lang))
    if row is not None:
        from fullmesh.study.check.row import append_row

        append_row(row, found.row)
        tell(f"the run was added to {row}")
    say_notes(found.run.model)

"""``fullmesh validate``: published results, measured tables, or real runs against predictions."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from fullmesh.faces.cli.options import InputFile, OutputFile, tell, timing_option

if TYPE_CHECKING:
    from fullmesh.validate.gate import Check

FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)


@click.command()
@click.option(
    "--results",
    type=InputFile(),
    help="Score this table instead of the shipped one; never gated, never fitted on.",
)
@click.option(
    "--profile",
    type=InputFile(),
    help="Predict with this personal profile (fullmesh calibrate results), with --results.",
)
@click.option(
    "--json",
    "json_out",
    type=OutputFile(stdout=True),
    help="Write every row and the summary to this file (- for standard output).",
)
@click.option("--operators", type=FOLDER, help="Score the operator models on a folder of measured tables.")
@click.option("--collectives", is_flag=True, help="Score the collective models, point by point.")
@click.option("--tables", type=FOLDER, help="Folder of measured collective tables for --collectives.")
@click.option(
    "--here",
    is_flag=True,
    help="Calibrate this machine, predict small training steps, then run them (PyTorch).",
)
@click.option("--device", default="auto", show_default=True, help="With --here: auto, cpu, cuda or npu.")
@click.option(
    "--decisions", is_flag=True, help="Search every published setting; best published step over best found."
)
@click.option("--worst", type=click.IntRange(0), default=20, show_default=True, help="Worst rows to list.")
@click.option(
    "--document", type=OutputFile(".md"), help="Write the accuracy page to this file, its plot beside it."
)
@timing_option
def command(
    results: str | None,
    profile: str | None,
    json_out: Path | None,
    operators: Path | None,
    collectives: bool,
    tables: Path | None,
    here: bool,
    device: str,
    decisions: bool,
    worst: int,
    document: Path | None,
    no_timing: bool,
) -> None:
    """Every published result: theirs, ours, the error, the source.

    On the shipped table the command fails when the recorded level of accuracy is lost.
    """
    from fullmesh.faces.cli import validate_report as shown

    if document:
        from fullmesh.files import check_writable

        check_writable(document.with_suffix(".svg"), where="--document")

    if operators:
        shown.show_operators(operators, json_out)
        return
    if collectives or tables:
        shown.show_collectives(tables, json_out)
        return
    if here:
        shown.show_here(json_out, device, no_timing)
        return
    from fullmesh.cost.personal import personal_profile
    from fullmesh.evidence.results import read_results
    from fullmesh.validate.gate import checks, decision_checks
    from fullmesh.validate.records import report_record
    from fullmesh.validate.score import score

    if document and results:
        raise click.UsageError("--document is about the shipped table; leave --results out")
    if profile and not results:
        raise click.UsageError("--profile predicts runs of your own; give them with --results")
    rows = read_results(results) if results else None
    with personal_profile(profile):
        report = score(rows, own=profile is not None)
    if decisions:
        from fullmesh.validate.decisions import decide

        decided = decide(report, rows, shown.counted())
        shown.show_decisions(decided, json_out, worst)
        if report.shipped:
            _gate(decision_checks(decided), quiet=bool(json_out and str(json_out) == "-"))
        return
    if json_out:
        shown.write(json_out, report_record(report))
    if document:
        from fullmesh.files import write_text
        from fullmesh.validate.document import accuracy_document, parity_plot

        write_text(document, accuracy_document(report), where="--document")
        write_text(document.with_suffix(".svg"), parity_plot(report), where="--document")
    if not (json_out and str(json_out) == "-"):
        shown.show_report(report, worst)
    if report.shipped:
        _gate(checks(report), quiet=bool(json_out and str(json_out) == "-"))


def _gate(found: Sequence[Check], *, quiet: bool) -> None:
    """Show the gate, and end with 1 where a level is lost."""
    from fullmesh.faces.cli import validate_report as shown

    if not quiet:
        shown.show_gate(found)
    lost = [c.name for c in found if not c.holds]
    if lost:
        tell("accuracy lost: " + "; ".join(lost))
        sys.exit(1)

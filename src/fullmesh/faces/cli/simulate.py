"""``fullmesh simulate``: one plan in full, and its step replayed."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from fullmesh.faces.cli.options import (
    ENGINES,
    LEVELS,
    NO_PLAN,
    InputFile,
    OutputFile,
    json_option,
    lang_option,
    software_option,
    tell,
    timing_option,
)
from fullmesh.glossary import Language

if TYPE_CHECKING:
    from fullmesh.replays.wired import WiredCollective


@click.command(
    help="""One plan in full, from SCENARIO, a TOML file with the tables [model], [machine] and [plan].

    Prints where the step goes, every pipeline stage, exposed communication by kind, the memory ledger, utilisation
    and energy; then the step replayed task by task: critical path, bubble, who waits for whom. A plan that cannot run
    is a result too: its limit, the gap and what would help."""
)
@click.argument("scenario", type=InputFile())
@click.option(
    "--trace",
    type=OutputFile(".json", ".json.gz"),
    help="Write the replayed step for Perfetto (OUT.json or OUT.json.gz).",
)
@click.option(
    "--straggler",
    "stragglers",
    multiple=True,
    metavar="WHAT=N:FACTOR",
    help="Slow something down: rank=17:1.2, stage=3:1.1, link=17:2, link=17-25:2, expert=17:1.5; repeatable.",
)
@click.option("--jitter", default="", metavar="SPREAD", help="Vary every task: 0.05, or lognormal:0.05:SEED.")
@click.option("--engine", type=click.Choice(ENGINES), help="How to replay; the cheapest exact one if absent.")
@click.option("--every-rank", is_flag=True, help="A row for every device, even for equal ones.")
@click.option(
    "--profile",
    type=InputFile(),
    help="A trace of a real run (Kineto or msprof) to lay under the step, or a personal profile to predict with.",
)
@software_option
@click.option(
    "--level",
    type=click.Choice(LEVELS),
    help="Evaluate the plan's collectives on the wired graph, and say how far the closed form was off.",
)
@click.option("--against", type=InputFile(), help="Another scenario: what changes from it to this one.")
@json_option
@timing_option
@lang_option
def command(
    scenario: str,
    trace: Path | None,
    stragglers: tuple[str, ...],
    jitter: str,
    engine: str | None,
    every_rank: bool,
    profile: str | None,
    software: str | None,
    level: str | None,
    against: str | None,
    as_json: bool,
    no_timing: bool,
    lang: Language,
) -> None:
    """Print one plan in full."""
    from fullmesh.cost.personal import is_personal
    from fullmesh.faces.cli.model_notes import say_notes
    from fullmesh.faces.cli.replay_report import replay_report, wired_table
    from fullmesh.faces.cli.simulate_report import infeasible_line, report
    from fullmesh.faces.cli.tables import show, write_json
    from fullmesh.outcomes.estimate import Infeasible
    from fullmesh.output.timing import timing_apart
    from fullmesh.replays.records import replay_record, wired_record
    from fullmesh.replays.replayed import changes_between
    from fullmesh.study.api import replay
    from fullmesh.timeline.trace.measured import read_profile

    personal = profile if profile and is_personal(profile) else None
    real = read_profile(profile) if profile and not personal else None
    result = replay(
        scenario, stragglers=stragglers, jitter=jitter, engine=engine, every_rank=every_rank,
        software=software, profile=personal,
    )  # fmt: skip
    if isinstance(result, Infeasible):
        if as_json:
            write_json(result.to_dict())
        else:
            show(infeasible_line(result, lang))
        sys.exit(NO_PLAN)
    say_notes(result.estimate.model)
    other = replay(against, software=software, profile=personal) if against else None
    changes = [] if other is None or isinstance(other, Infeasible) else changes_between(other, result)
    run = result.simulation
    operators = [] if run is None or real is None else run.compare(real, after_passes=result.after_passes)
    if run is not None and trace:
        e = result.estimate
        run.write_trace(trace, profile=real, title=f"{e.model.name}, {e.machine.name}, {e.plan.label()}")
    wired: tuple[WiredCollective, ...] = ()
    if level:
        from fullmesh.replays.wired import wired_collectives

        e = result.estimate
        wired = wired_collectives(e.model, e.machine, e.plan, level)
    if as_json:
        record = replay_record(result, operators, changes) | ({"wired": wired_record(wired)} if level else {})
        write_json(timing_apart(record, leave_out=no_timing))
        return
    show(
        *report(result.estimate, lang), *replay_report(result, operators, changes, lang, timing=not no_timing)
    )
    if wired:
        show(*wired_table(wired, lang))
    if isinstance(other, Infeasible):
        show(infeasible_line(other, lang))
    if run is not None and trace:
        tell(f"wrote {trace}")

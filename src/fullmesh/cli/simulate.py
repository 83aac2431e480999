"""``fullmesh simulate``: one plan in full."""

from __future__ import annotations

import click

from fullmesh.cli.options import json_option, lang_option
from fullmesh.glossary import Language


@click.command(
    help="""One plan in full, from SCENARIO, a TOML file with the tables [model], [machine] and [plan].

    Prints where the step goes, every pipeline stage, exposed communication by kind, the memory ledger, utilisation
    and energy. A plan that cannot run is a result too: its limit, the gap and what would help."""
)
@click.argument("scenario", type=click.Path())
@json_option
@lang_option
def command(scenario: str, as_json: bool, lang: Language) -> None:
    """Print one plan in full."""
    from fullmesh.cli.simulate_report import infeasible_line, report
    from fullmesh.cli.tables import show, write_json
    from fullmesh.outcomes.estimate import Infeasible
    from fullmesh.outcomes.records import estimate_record, infeasible_record
    from fullmesh.study import simulate

    result = simulate(scenario)
    if isinstance(result, Infeasible):
        if as_json:
            write_json(infeasible_record(result))
        else:
            show(infeasible_line(result, lang))
    elif as_json:
        write_json(estimate_record(result))
    else:
        show(*report(result, lang))

"""``fullmesh goodput``: the whole training run, with its faults, spares, checkpoints, energy and money."""

from __future__ import annotations

import sys
from typing import Any

import click

from fullmesh.faces.cli.options import (
    NO_PLAN,
    POLICIES,
    PRECISIONS,
    InputFile,
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
    help="""The whole training run of MODEL: days, interruptions, goodput and what it is lost to, spares, checkpoints,
    energy and money, each with its spread (P10, P50, P90).

    MODEL is as in `fullmesh plan`, and its best plan is taken; or it is a scenario file (.toml) with a plan of its
    own. Fault rates, recovery times, power and costs are facts with ranges: `--json` lists them under inputs."""
)
@click.argument("model", type=InputFile())
@click.option("--on", type=InputFile(), help="A machine of the catalog, or a machine file.")
@click.option("--units", metavar="INTEGER", help="Whole units: supernodes, racks or nodes.")
@click.option("--chips", metavar="INTEGER", help="Devices (dies of a 910C), instead of --units.")
@click.option("--tokens", required=True, help="Tokens of the run (300B, 15T).")
@click.option(
    "--policy",
    default="restart",
    show_default=True,
    help=f"What happens after a fault: {', '.join(POLICIES)}; several with commas, or all. The first is the answer.",
)
@click.option(
    "--spares",
    metavar="NUMBER|SHARE",
    default="auto",
    show_default=True,
    help='Spare nodes, or spare units where a unit is several nodes: 8, "2 supernodes", 5%.',
)
@click.option(
    "--faults",
    type=InputFile(),
    help="Rates as `fullmesh calibrate faults` writes them, or a log of faults to replay.",
)
@click.option(
    "--fault-nodes", metavar="INTEGER", help="Nodes that such a log is of, those without a fault included."
)
@click.option("--power-cap", metavar="WATTS", help="What a device may draw (500W); the clock follows.")
@click.option("--site", metavar="WATTS", help="What the site can give (5MW): how many units that feeds.")
@click.option(
    "--pue", metavar="FIGURE", help="Power usage effectiveness; twelve with commas are months from the first."
)
@click.option("--grid", metavar="GRAMS", help="CO2 of a kWh in grams, for carbon.")
@click.option("--power-price", metavar="USD", help="Price of a kWh.")
@click.option(
    "--assume",
    multiple=True,
    metavar="KEY=VALUE",
    help='Another value of an input: detection="2 min", asynchronous=0; repeatable.',
)
@click.option("--prices", type=InputFile(), help="A price file (CSV) instead of the shipped one.")
@click.option("--runs", metavar="INTEGER", default="2000", show_default=True, help="Runs to simulate.")
@click.option("--seed", metavar="INTEGER", default="0", show_default=True, help="Of the simulated luck.")
@batch_option
@seq_option
@click.option("--precision", default="bf16", show_default=True, help=f"Recipe: {', '.join(PRECISIONS)}.")
@objective_option
@offload_option
@software_option
@profile_option
@json_option
@click.option("--csv", "as_csv", is_flag=True, help="Write one CSV row a policy.")
@timing_option
@lang_option
def command(
    as_json: bool,
    as_csv: bool,
    no_timing: bool,
    lang: Language,
    **question: Any,
) -> None:
    """Forecast a whole run."""
    from fullmesh.faces.cli.goodput_report import report
    from fullmesh.faces.cli.tables import show, write_csv, write_json
    from fullmesh.study.api import goodput
    from fullmesh.study.goodput_fields import CSV_COLUMNS

    one_format(as_json, as_csv)
    found, took = searched(lambda: goodput(**question), timing=not no_timing)
    if as_json:
        write_json(found.to_dict())
    elif as_csv:
        write_csv(CSV_COLUMNS, found.to_rows())
    else:
        show(*report(found, lang))
    if found.forecast is None:
        sys.exit(NO_PLAN)
    f = found.forecast
    tell(f"{f.runs:,} runs, recovery policies: {len(f.policies)}{took}")

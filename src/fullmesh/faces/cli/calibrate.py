"""``fullmesh calibrate``: fit the profiles again, from tables, a package, published results, the device at hand."""

from __future__ import annotations

import datetime
import math
from pathlib import Path

import click

from fullmesh.faces.cli.helping import Group
from fullmesh.faces.cli.options import InputFile, OutputFile, tell
from fullmesh.files import check_writable, make_folder


def _shipped(name: str) -> Path:
    import importlib.resources

    return Path(str(importlib.resources.files("fullmesh.data").joinpath("profiles", name)))


def _one_of(folder: Path | None, package: bool) -> None:
    if (folder is None) == (not package):
        raise click.UsageError("give either a FOLDER of measured tables or --package")


_FOLDER = click.argument(
    "folder", required=False, type=click.Path(exists=True, file_okay=False, path_type=Path)
)
_PACKAGE = click.option(
    "--package",
    is_flag=True,
    help="Take the tables of the installed aiconfigurator-core instead of a FOLDER.",
)


_OUT = click.option("--out", type=OutputFile(), help="File to write (default: the shipped profile).")


@click.group(cls=Group)
def command() -> None:
    """Fit operator, collective and step profiles to measurements.

    A profile says what it was fitted on and how far off it is; the same command on the same versions writes the same
    file.
    """


@command.command()
@_FOLDER
@_PACKAGE
@_OUT
def operators(folder: Path | None, package: bool, out: Path | None) -> None:
    """Matrix products, attention and expert layers, from a FOLDER of measured tables or a package."""
    from fullmesh.calibrate.operators.fit import fit_operator_profiles, write_profiles
    from fullmesh.calibrate.operators.package import fit_operators_to_package

    _one_of(folder, package)
    target = out or _shipped("operators.json")
    check_writable(target)
    content = fit_operator_profiles(folder, report=tell) if folder else fit_operators_to_package(report=tell)
    write_profiles(content, target)
    tell(f"wrote {target}")


@command.command()
@_FOLDER
@_PACKAGE
@_OUT
def collectives(folder: Path | None, package: bool, out: Path | None) -> None:
    """Collectives, from a FOLDER of measured curves or a package, and the published points that are shipped.

    For closed forms and for the wired fabric alike.
    """
    from fullmesh.calibrate.collectives.curves import fit_times, gather, write_points
    from fullmesh.calibrate.collectives.fit import fit_collectives, write_profile
    from fullmesh.calibrate.operators.package import fit_collectives_to_package

    _one_of(folder, package)
    target = out or _shipped("collectives.json")
    check_writable(target)
    write_profile(fit_collectives(folder) if folder else fit_collectives_to_package(), target)
    tell(f"wrote {target}")
    if folder and out is None:
        # the shipped points say which of them the shipped curves have seen
        write_points(fit_times(gather(folder))[1])


@command.command()
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder to write to (default: the shipped one).",
)
@click.option(
    "--date", type=click.DateTime(["%Y-%m-%d"]), help="Date that the profile carries (default: today)."
)
def published(out: Path | None, date: datetime.datetime | None) -> None:
    """Step and memory effects and error bars, from the shipped published results."""
    from fullmesh.calibrate.effects.published import STEP_FILES, fit_published, write_step_fit
    from fullmesh.evidence.results import read_results

    folder = out or _shipped("step.json").parent
    make_folder(folder, where="--out")
    for name in STEP_FILES:
        check_writable(folder / name)
    rows = read_results()
    fit = fit_published(rows, tell)
    write_step_fit(fit, rows, folder, (date or datetime.datetime.now()).date())
    tell(f"wrote {', '.join(STEP_FILES)} to {folder}")


@command.command()
@click.argument("runs", type=InputFile())
@click.option("--out", type=OutputFile(".json"), required=True, help="Profile to write, for --profile.")
def results(runs: str, out: Path) -> None:
    """Runs of your own, a CSV file, as a personal profile.

    A row needs a model, a device (gpu or machine), n_gpus, seq, gbs, the degrees of its plan, and step_s or tok_s_gpu;
    columns are those of the published results.
    """
    from fullmesh.calibrate.effects.personal import fit_own, write_personal
    from fullmesh.evidence.results import read_results
    from fullmesh.faces.cli.tables import show, table
    from fullmesh.output.formats import seconds

    personal, found = fit_own(read_results(runs))
    write_personal(personal, out)
    rows = table("Your runs", "run", "model", "plan", "measured>", "shipped>", "with profile>", "left out>")
    for run in found:
        off = ["-" if math.isnan(s) else f"{100 * (s / run.measured_s - 1):+.1f} %"
               for s in (run.before_s, run.after_s, run.left_out_s)]  # fmt: skip
        rows.add_row(run.id, run.model, run.plan, seconds(run.measured_s), *off)
    show(rows, "Left out: predicted by a profile made of the other runs.")
    tell(f"wrote {out}")


@command.command()
@click.argument("log", type=InputFile())
@click.option("--on", required=True, type=InputFile(), help="The machine that the log is of.")
@click.option("--nodes", required=True, metavar="INTEGER", help="Its nodes, those without a fault included.")
@click.option("--days", metavar="NUMBER", help="Days that the log covers; up to its last event if absent.")
@click.option("--out", type=OutputFile(".csv"), required=True, help="Table to write, for --faults.")
def faults(log: str, on: str, nodes: str, days: str | None, out: Path) -> None:
    """Fault rates and repair times from a LOG of faults: CSV, or a public trace as JSON.

    A row of the CSV has the columns node, start, end (empty while it lasts), and may have cause and detail. Times are
    days since the log began, or dates. Faults that are not over count as such in the fit of repair times.
    """
    from fullmesh.calibrate.faults import fit_faults
    from fullmesh.catalog.fault_log import read_fault_log
    from fullmesh.catalog.faults import faults_text
    from fullmesh.faces.cli.tables import percent, show, table
    from fullmesh.files import write_text
    from fullmesh.glossary import label
    from fullmesh.machine import load_machine
    from fullmesh.values import number, whole

    found = read_fault_log(log)
    span = None if days is None else number(days, where="--days", above=0.0, most=1e5) * 86_400.0
    fit = fit_faults(
        found, load_machine(on), num_nodes=whole(nodes, where="--nodes", least=1, most=1_000_000), span_s=span
    )
    write_text(out, faults_text(fit.rates))
    rows = table(
        "Faults", "domain", "faults>", "a year and member>", "repair, mean>", "median>", "law", "unfinished>?"
    )
    for rate in fit.rates:
        if rate.domain in fit.counts:
            repair = fit.repairs[rate.domain]
            rows.add_row(
                label(f"domain_{rate.domain}"), f"{fit.counts[rate.domain]:,}", f"{rate.rate_per_year:.3g}",
                f"{repair.mean_h:,.1f} h", f"{repair.median_h:,.1f} h", repair.law, f"{repair.censored:,}",
            )  # fmt: skip
    spread = "not known from a log this short" if math.isnan(fit.site_spread) else f"{fit.site_spread:.2f}"
    show(
        rows,
        f"{fit.per_node_year:.3g} faults a node and year over {fit.node_years:,.1f} node-years; "
        f"{percent(fit.unavailable)} of node time in repair; planned work left out: {fit.planned:,}.",
        f"Spread of the rate from one window of 54 days to the next (deviation of its logarithm): {spread}.",
    )
    tell(f"wrote {out}")


@command.command()
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or npu.")
@click.option("--out", type=OutputFile(), required=True, help="File to write.")
def here(device: str, out: Path) -> None:
    """The device at hand, by microbenchmarks through PyTorch."""
    from fullmesh.files import write_json
    from fullmesh.here.calibration import calibrate_here

    write_json(out, calibrate_here(device=device).as_json())
    tell(f"wrote {out}")

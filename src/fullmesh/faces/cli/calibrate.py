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


@click.group(cls=Group)
def command() -> None:
    """Fit operator, collective and step profiles to measurements.

    A profile says what it was fitted on and how far off it is; the same command on the same versions writes the same
    file.
    """


@command.command()
@_FOLDER
@_PACKAGE
@click.option(
    "--out",
    type=OutputFile(),
    help="File to write (default: the shipped profile).",
)
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
@click.option(
    "--out",
    type=OutputFile(),
    help="File to write (default: the shipped profile).",
)
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
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or npu.")
@click.option("--out", type=OutputFile(), required=True, help="File to write.")
def here(device: str, out: Path) -> None:
    """The device at hand, by microbenchmarks through PyTorch."""
    from fullmesh.files import write_json
    from fullmesh.here.calibration import calibrate_here

    write_json(out, calibrate_here(device=device).as_json())
    tell(f"wrote {out}")

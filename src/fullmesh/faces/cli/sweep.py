"""``fullmesh sweep``: the best plan for every point of a grid, as rows of one file."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import click

from fullmesh.faces.cli.options import (
    NO_PLAN,
    InputFile,
    OutputFile,
    json_option,
    lang_option,
    profile_option,
    tell,
    timing_option,
)
from fullmesh.glossary import Language
from fullmesh.language import say

# the same names as in the sweep, which is only imported when the command runs
ENGINES = ("local", "ray")
ENDINGS = (".parquet", ".duckdb", ".csv")
# on a terminal one line is written again that often; elsewhere there is a line that often
_AGAIN_S, _LINE_S = 0.2, 10.0


class _Progress:
    """Rows done, how many a second and the time left, on standard error."""

    def __init__(self) -> None:
        self._terminal = sys.stderr.isatty()
        self._began = self._told = time.monotonic()
        self.text = ""
        self.done = 0

    def __call__(self, done: int, total: int, kept: int) -> None:
        self.done = done
        now = time.monotonic()
        if done == kept:
            self._began = now
        if now - self._told < (_AGAIN_S if self._terminal else _LINE_S):
            return
        self._told = now
        self.text = _words(done, total, kept, now - self._began)
        if self._terminal:
            # what was longer is cleared
            click.echo(f"\r{say(self.text)}\x1b[K", nl=False, err=True)
        else:
            tell(self.text)

    def end(self) -> None:
        """What follows begins on a line of its own."""
        if self._terminal and self.text:
            click.echo("\r\x1b[K", nl=False, err=True)


def _words(done: int, total: int, kept: int, seconds: float) -> str:
    from fullmesh.units import duration

    text = f"{done:,} of {total:,} rows"
    if done == kept or seconds <= 0:
        return text
    rate = (done - kept) / seconds
    speed = f"{rate:,.0f}" if rate >= 100 else f"{rate:.3g}"
    return f"{text}, {speed} a second, {duration((total - done) / rate)} left"


@click.command(
    help="""The best plan for every point of GRID, a TOML file with lists of models, machines, sizes and options, as
    rows of one file.

    Rows are kept in OUT.journal as they come: after an interrupt or a crash the same command goes on, and a changed
    grid asks only what is new."""
)
@click.argument("grid", type=InputFile())
@click.option(
    "--out",
    required=True,
    type=OutputFile(*ENDINGS),
    help="Where the rows go: Parquet, DuckDB or CSV, by the ending .parquet, .duckdb or .csv.",
)
@click.option(
    "--jobs",
    metavar="INTEGER",
    help="Processes; one for each processor if absent. With Ray: processors of the cluster to use.",
)
@click.option(
    "--engine",
    type=click.Choice(ENGINES),
    default="local",
    show_default=True,
    help="Who answers: processes of this machine, or a Ray cluster that runs already.",
)
@click.option(
    "--ray-address",
    metavar="ADDRESS",
    help="Where the cluster is; RAY_ADDRESS, or the one on this machine, if absent.",
)
@profile_option
@json_option
@timing_option
@lang_option
def command(
    grid: str,
    out: Path,
    jobs: str | None,
    engine: str,
    ray_address: str | None,
    profile: str | None,
    as_json: bool,
    no_timing: bool,
    lang: Language,
) -> None:
    """Sweep a grid."""
    from fullmesh.faces.cli.sweep_report import report
    from fullmesh.faces.cli.tables import show, write_json
    from fullmesh.output.timing import timing_apart
    from fullmesh.study.sweep.run import sweep_grid

    progress = _Progress()
    try:
        found = sweep_grid(
            grid, out, jobs=jobs, engine=engine, ray_address=ray_address, profile=profile, timing=not no_timing,
            keep_rows=False, progress=progress,
        )  # fmt: skip
    except KeyboardInterrupt:
        progress.end()
        if progress.done:
            tell(f"rows kept in {out}.journal: {progress.done:,}; the same command goes on from there")
        raise
    finally:
        progress.end()
    if as_json:
        write_json(timing_apart(found.to_dict()))
    else:
        show(*report(found))
    if found.num_repeated:
        tell(f"points that stand in the grid again, and are one row each: {found.num_repeated:,}")
    if found.cut_bytes:
        tell(f"the last row of {found.journal} was torn; it was cut off, and its point asked again")
    if found.num_left_out:
        tell(
            f"rows of points that the grid does not hold, which stay in {found.journal} and are not in {found.out}: "
            f"{found.num_left_out:,}"
        )
    if not found.num_ok:
        sys.exit(NO_PLAN if found.num_no_plan else MISTAKE)


# as where the command line itself has a mistake
MISTAKE = 2

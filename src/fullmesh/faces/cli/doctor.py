"""``fullmesh doctor``: versions, the cache of compiled kernels, optional parts and how to get them."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import os
import platform
import sys
from pathlib import Path

import click

from fullmesh import __version__
from fullmesh.faces.cli.options import json_option, tell
from fullmesh.language import say

# distribution -> what needs it; without these nothing runs
NEEDED = {
    "numpy": "everything",
    "scipy": "collectives on the wired fabric",
    "numba": "replay and fabric, compiled",
    "click": "the command line",
    "rich": "tables",
}
# distribution -> (what it adds, what to install)
OPTIONAL = {
    "torch": ("calibrate here, validate --here", "pip install 'fullmesh[torch]'"),
    "pyarrow": ("sweep to Parquet and DuckDB, calibrate --package", "pip install 'fullmesh[data]'"),
    "duckdb": ("sweep to DuckDB", "pip install 'fullmesh[data]'"),
    "ray": ("sweep --engine ray", "pip install 'fullmesh[ray]'"),
    "aiconfigurator-core": ("calibrate --package", "pip install aiconfigurator-core"),
    "pandas": ("to_frame() of results", "pip install pandas"),
    "polars": ("to_frame() of results, in place of pandas", "pip install polars"),
}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One part of the installation.

    Parameters
    ----------
    name, version : str
        ``version`` is empty where it is not installed.
    use : str
        What needs it.
    install : str
        The command that installs it, empty where it is there.
    needed : bool
        Whether nothing runs without it.
    """

    name: str
    version: str
    use: str
    install: str
    needed: bool


def parts() -> list[Part]:
    """Every distribution that is used, and whether it is there."""
    named = [(n, use, "pip install fullmesh", True) for n, use in NEEDED.items()]
    named += [(n, use, install, False) for n, (use, install) in OPTIONAL.items()]
    out = []
    for name, use, install, needed in named:
        try:
            version = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            version = ""
        out.append(
            Part(name=name, version=version, use=use, install="" if version else install, needed=needed)
        )
    return out


def cache_folder() -> tuple[Path, bool]:
    """Where compiled kernels are kept, and whether they can be: without that each run compiles again (seconds)."""
    named = os.environ.get("NUMBA_CACHE_DIR")
    folder = Path(named) if named else Path(__file__).resolve().parents[2]
    if not named and not os.access(folder, os.W_OK):
        # where the package lies in a folder that only others may write, Numba takes the user's own
        folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "numba"
    there = folder
    while not there.exists() and there != there.parent:
        there = there.parent
    return folder, os.access(there, os.W_OK)


@click.command()
@json_option
def command(as_json: bool) -> None:
    """Versions, the cache of compiled kernels, which optional parts are missing and what to install for them.

    The exit code is 1 where a part is missing without which nothing runs.
    """
    found = parts()
    folder, writable = cache_folder()
    missing = [p.name for p in found if p.needed and not p.version]
    head = {"fullmesh": __version__, "python": platform.python_version(), "platform": platform.platform()}
    if as_json:
        from fullmesh.faces.cli.tables import write_json

        cache = {"folder": str(folder), "writable": writable}
        write_json({**head, "cache": cache, "parts": [dataclasses.asdict(p) for p in found]})
    elif "rich" in missing:
        click.echo(say(f"missing: {', '.join(missing)}"))
    else:
        from fullmesh.faces.cli.tables import show, table

        shown = table("", "part=", "version", "needed for", "to install=")
        for p in found:
            shown.add_row(p.name, p.version or "missing", p.use, p.install)
        show(
            f"fullmesh {__version__}, Python {head['python']}, {head['platform']}",
            f"compiled kernels: {folder}" + ("" if writable else " (not writable: every run compiles again)"),
            "",
            shown,
            "Shell completion: docs/reference.md says how.",
        )
    if missing:
        tell("nothing runs without " + ", ".join(missing) + ": pip install fullmesh")
        sys.exit(1)

"""Help as it was last read by a person, examples that run, completion, version, doctor, exit codes."""

from __future__ import annotations

import importlib.metadata
import json
import os
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from fullmesh import __version__
from fullmesh.faces.cli import doctor
from fullmesh.faces.cli.examples import EXAMPLES
from fullmesh.faces.cli.main import COMMANDS, cli

CommandLine = Callable[..., tuple[int, str, str]]
SNAPSHOTS = Path(__file__).parent / "snapshots"
ROOT = Path(__file__).parents[2]


def commands() -> list[str]:
    """Every command, also those inside groups."""
    out = []
    for name in COMMANDS:
        out.append(name)
        found = cli.get_command(click.Context(cli), name)
        if isinstance(found, click.Group):
            out += [f"{name} {inner}" for inner in found.list_commands(click.Context(found))]
    return out


@pytest.mark.parametrize("name", ["", *commands()])
def test_help_is_as_it_was_read(name: str) -> None:
    """Write the files again with FULLMESH_SNAPSHOTS=1 after a change that is meant, and read what changed."""
    done = CliRunner().invoke(cli, [*name.split(), "--help"], prog_name="fullmesh", terminal_width=80)
    assert done.exit_code == 0
    path = SNAPSHOTS / f"help-{(name or 'fullmesh').replace(' ', '-')}.txt"
    if os.environ.get("FULLMESH_SNAPSHOTS"):
        path.write_text(done.output, encoding="utf-8")
    assert done.output == path.read_text("utf-8")


def test_every_snapshot_has_its_command() -> None:
    wanted = {f"help-{(n or 'fullmesh').replace(' ', '-')}.txt" for n in ("", *commands())}
    assert {p.name for p in SNAPSHOTS.iterdir()} == wanted


def test_examples_are_of_commands_that_exist() -> None:
    assert set(EXAMPLES) <= set(commands())
    assert set(COMMANDS) <= set(EXAMPLES)


@pytest.mark.parametrize("typed", [t for lines in EXAMPLES.values() for _, t in lines])
def test_every_example_runs(
    command_line: CommandLine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, typed: str
) -> None:
    # a folder from which the paths hold, and into which examples may write
    (tmp_path / "docs").symlink_to(ROOT / "docs")
    monkeypatch.chdir(tmp_path)
    program, *args = shlex.split(typed)
    assert program == "fullmesh"
    code, out, err = command_line(*args)
    assert code == 0, err
    assert out
    assert len(typed) <= 80 - len("    $ ")


def run_with(**env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "fullmesh.faces.cli.main"],
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_knows_the_commands(shell: str) -> None:
    script = run_with(_FULLMESH_COMPLETE=f"{shell}_source")
    if shell == "bash" and script.returncode:
        pytest.skip("Click asks the installed bash for its release, and there is none")
    assert "_FULLMESH_COMPLETE" in script.stdout
    words = {"COMP_WORDS": "comp" if shell == "fish" else "fullmesh comp", "COMP_CWORD": "1"}
    if shell == "fish":
        words = {"COMP_WORDS": "fullmesh comp", "COMP_CWORD": "comp"}
    found = run_with(_FULLMESH_COMPLETE=f"{shell}_complete", **words)
    assert "compare" in found.stdout
    assert "simulate" not in found.stdout


def test_completion_is_documented() -> None:
    text = (ROOT / "docs" / "reference.md").read_text("utf-8")
    assert all(f"_FULLMESH_COMPLETE={shell}_source" in text for shell in ("bash", "zsh", "fish"))


def test_version(command_line: CommandLine) -> None:
    assert command_line("--version")[1].strip().endswith(__version__)


def test_doctor_names_parts_and_how_to_get_them(command_line: CommandLine) -> None:
    code, out, _ = command_line("doctor", "--json")
    record = json.loads(out)
    assert code == 0
    assert record["fullmesh"] == __version__
    by_name = {p["name"]: p for p in record["parts"]}
    assert by_name["numpy"]["version"] == importlib.metadata.version("numpy")
    assert all(p["install"] for p in record["parts"] if not p["version"])
    # what the package itself requires is exactly what the doctor calls needed
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    required = {r.split(">")[0] for r in project["dependencies"]}
    assert required == set(doctor.NEEDED)


def test_doctor_fails_where_nothing_would_run(
    command_line: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = importlib.metadata.version

    def version(name: str) -> str:
        if name == "numba":
            raise importlib.metadata.PackageNotFoundError(name)
        return known(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    code, out, err = command_line("doctor")
    assert code == 1
    assert "missing" in out
    assert "numba" in err


def test_doctor_finds_the_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "cache"))
    assert doctor.cache_folder() == (tmp_path / "cache", True)


@pytest.mark.parametrize(
    "args",
    [
        ["plan", "llama-3.1-405b", "--on", "h200", "--chips", "8"],
        ["plan", "llama-3.1-405b", "--on", "h200", "--chips", "8", "--json"],
        ["compare", "llama-3.1-405b", "--on", "h200", "--chips", "8"],
    ],
)
def test_no_plan_fits_is_exit_code_3(command_line: CommandLine, args: list[str]) -> None:
    code, out, _ = command_line(*args)
    assert code == 3
    assert "memory" in out


def test_one_machine_that_fits_is_an_answer(command_line: CommandLine) -> None:
    code, out, _ = command_line("compare", "llama-3.1-405b", "--on", "h200,gb200", "--chips", "8,72")
    assert code == 0
    assert "does not fit" in out

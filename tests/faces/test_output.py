"""Where output goes: full disks, terminals without the letters, folders that do not exist."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import click
import pytest

from fullmesh.errors import ScenarioError
from fullmesh.evidence.results import SHIPPED_RESULTS
from fullmesh.faces.cli.main import cli

COMPARE = ["compare", "llama-3-8b", "--on", "h200", "--chips", "8"]


def run(*arguments: str, stdout: int, **env: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-m", "fullmesh.faces.cli.main", *arguments],
        stdout=stdout,
        stderr=subprocess.PIPE,
        env={**os.environ, **env},
        check=False,
    )


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full here")
@pytest.mark.parametrize("how", [[], ["--json"]])
def test_a_full_disk(how: list[str]) -> None:
    with Path("/dev/full").open("w") as full:
        done = run(*COMPARE, *how, stdout=full.fileno())
    assert done.returncode == 2
    assert b"cannot write the output" in done.stderr
    assert b"Traceback" not in done.stderr
    assert b"Exception ignored" not in done.stderr


@pytest.mark.parametrize("how", [["--lang", "zh"], ["--lang", "zh", "--json"]])
def test_a_terminal_without_the_letters(how: list[str]) -> None:
    done = run(*COMPARE, *how, stdout=subprocess.PIPE, PYTHONIOENCODING="ascii")
    assert done.returncode == 0, done.stderr
    if "--json" in how:
        assert json.loads(done.stdout)["model"] == "llama-3-8b"


@pytest.mark.parametrize("option", ["--json", "--document"])
def test_validate_writes_where_one_cannot(option: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ScenarioError, match="cannot write"):
        cli.main(["validate", option, str(tmp_path / "file" / "out.json")], standalone_mode=False)


def test_the_accuracy_page_of_another_table() -> None:
    with pytest.raises(click.UsageError, match="shipped"):
        cli.main(
            ["validate", "--results", str(SHIPPED_RESULTS[0]), "--document", "page.md"], standalone_mode=False
        )

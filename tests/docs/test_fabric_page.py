"""Every command of the page runs, and its figures are today's."""

from __future__ import annotations

import dataclasses
import re
import shlex
from pathlib import Path

import pytest
from click.testing import CliRunner

from fullmesh.faces.cli.fabric import command
from fullmesh.faces.cli.main import cli
from fullmesh.machine.file_form import (
    WIRING_KINDS,
    CableSpec,
    ClosSpec,
    DragonflySpec,
    FatTreeSpec,
    GridSpec,
)
from fullmesh.network import summary as report
from fullmesh.network.wiring.build import load_topology

PAGE = (Path(__file__).parents[2] / "docs" / "fabric.md").read_text(encoding="utf-8")
COMMANDS = [
    line
    for block in re.findall(r"```console\n(.*?)```", PAGE, re.DOTALL)
    for line in block.splitlines()
    if line
]


@pytest.mark.parametrize("line", COMMANDS)
def test_commands_of_the_page_run(line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lab.toml").write_text(re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)[0], encoding="utf-8")
    words = shlex.split(line)
    assert words[:2] == ["fullmesh", "fabric"]
    result = CliRunner().invoke(cli, words[1:], catch_exceptions=False)
    assert result.exit_code == 0, result.output


def test_every_option_is_on_the_page_or_explained_by_help() -> None:
    text = CliRunner().invoke(cli, ["fabric", "--help"]).output
    options = {o for p in command.params for o in p.opts if o.startswith("--")}
    assert all(o in text for o in options)
    assert {o for o in options if o not in PAGE} <= {
        "--bytes",
        "--queue-pairs",
        "--level",
        "--no-timing",
        "--lang",
    }
    assert all(f"`{kind}`" in PAGE for kind in WIRING_KINDS)


def test_every_key_of_a_wiring_is_on_the_page() -> None:
    forms = (ClosSpec, FatTreeSpec, GridSpec, DragonflySpec, CableSpec)
    keys = {field.name for form in forms for field in dataclasses.fields(form)} - {"kind"}
    assert all(f"`{key}`" in PAGE for key in keys)


def test_failure_figures_of_the_page() -> None:
    rows = report.failure_rows(load_topology("cloudmatrix384"))
    for row in rows:
        if row.static_change is not None and row.failure != "links=1%":
            assert f"{100 * row.static_change:.2f} %" in PAGE
        assert row.resplit_change is not None
        if row.failure != "links=1%":
            assert f"{100 * row.resplit_change:.2f} %" in PAGE

"""Every example of the READMEs and the pages runs: console commands end with 0, Python blocks without an error."""

from __future__ import annotations

import dataclasses
import json
import re
import shlex
import sys
import tomllib
from pathlib import Path

import pytest

import fullmesh
from fullmesh.catalog import load_prices
from fullmesh.catalog.fault_log import read_fault_log
from fullmesh.cost.effects import known_stacks
from fullmesh.faces.cli import main as cli_main
from fullmesh.machine import load_machine
from fullmesh.outcomes.estimate import Estimate
from fullmesh.plan.software import read_software
from fullmesh.study.scenario import load_scenario
from fullmesh.study.sweep.grid import read_grid

ROOT = Path(__file__).resolve().parents[2]
# the page on fabrics has its own test; what it shows needs files of its own
PAGES = [
    "README.md",
    "README.zh-CN.md",
    "CONTRIBUTING.md",
    "docs/concepts.md",
    "docs/assumptions.md",
    "docs/reference.md",
]


def blocks(language: str) -> list[tuple[str, str]]:
    """Page and text of every fenced block of a language."""
    found = []
    for page in PAGES:
        text = (ROOT / page).read_text(encoding="utf-8")
        found += [
            (page, b) for b in re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
        ]
    return found


def unique(items: list[str]) -> list[str]:
    return list(dict.fromkeys(items))


COMMANDS = unique([line for _, block in blocks("console") for line in block.splitlines() if line.strip()])
PYTHON = unique([block for _, block in blocks("python")])


@pytest.fixture
def in_a_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder from which the paths of the examples hold, and into which they may write."""
    (tmp_path / "docs").symlink_to(ROOT / "docs")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_there_are_examples() -> None:
    assert len(COMMANDS) >= 12
    assert len(PYTHON) >= 2
    assert all(line.startswith("fullmesh ") for line in COMMANDS)


@pytest.mark.parametrize("line", COMMANDS)
def test_console_commands_run(
    line: str, in_a_copy: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", shlex.split(line))
    code = 0
    try:
        cli_main.main()
    except SystemExit as error:
        code = int(error.code or 0)
    captured = capsys.readouterr()
    assert code == 0, captured.err
    assert captured.out.strip() or "--json" in line or "--export" in line
    for name in re.findall(r"(?:--json|--export|--out) (\S+\.json)", line):
        assert (in_a_copy / name).stat().st_size > 100


@pytest.mark.parametrize("block", PYTHON, ids=lambda block: block.splitlines()[-1][:30])
def test_python_blocks_run(block: str, in_a_copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    exec(compile(block, "example", "exec"), {})
    assert capsys.readouterr().out.strip()


def test_files_shown_can_be_read(tmp_path: Path) -> None:
    kinds = {"plan": 0, "tier": 0, "options": 0, "grid": 0}
    for number, (page, block) in enumerate(blocks("toml")):
        path = tmp_path / f"{number}.toml"
        path.write_text(block, encoding="utf-8")
        keys = set(tomllib.loads(block))
        if "grid" in keys:
            assert len(read_grid(path).points) == 65, page
            kinds["grid"] += 1
        elif "plan" in keys:
            assert load_scenario(path).plan.num_devices == 16, page
            kinds["plan"] += 1
        elif "options" in keys:
            assert read_software(path, known_stacks()).options_for(moe=True)["cuda_graph"] == "partial"
            kinds["options"] += 1
        else:
            assert load_machine(str(path)).num_devices == 64, page
            kinds["tier"] += 1
    assert kinds == {"plan": 1, "tier": 1, "options": 1, "grid": 1}
    for number, (_, block) in enumerate(blocks("csv")):
        path = tmp_path / f"{number}.csv"
        path.write_text(block, encoding="utf-8")
        log = block.startswith("node,")
        read = read_fault_log(path).faults if log else load_prices(path)
        assert len(read) == len(block.splitlines()) - 1


def test_a_plan_that_compare_finds_takes_the_same_time_as_a_scenario(tmp_path: Path) -> None:
    """What a search writes in columns and what a scenario says mean the same plan on the same software."""
    found = fullmesh.compare("llama-3-8b", on="cloudmatrix384,gb200-nvl72,h200", chips=16, batch=64, seq=8192)
    for column in found.columns:
        best = column.best
        assert best is not None
        lines = [f'[model]\nname = "llama-3-8b"\n[machine]\nname = "{column.machine.id}"\nchips = 16\n[plan]']
        for field in dataclasses.fields(best.plan):
            value = getattr(best.plan, field.name)
            if field.name != "stack":
                lines.append(
                    f"{field.name} = {json.dumps(list(value) if isinstance(value, tuple) else value)}"
                )
        path = tmp_path / f"{column.machine.id}.toml"
        path.write_text("\n".join(lines), encoding="utf-8")
        again = fullmesh.simulate(path)
        assert isinstance(again, Estimate)
        assert again.plan == best.plan
        assert again.step_s == pytest.approx(best.step_s)

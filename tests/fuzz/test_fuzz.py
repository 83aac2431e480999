"""A few hundred inputs of every format in the suite; `make fuzz` runs thousands."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from fuzz.targets import TARGETS, attempt, warm

# inputs in the suite, by what one takes
NUMBERS = {
    "operator-fit": 1,
    "sweep": 30,
    "scenario": 12,
    "topology": 30,
    "options": 15,
    "machine": 60,
    "validate-results": 12,
    "validate-decisions": 12,
    "calibrate-published": 20,
    "calibrate-results": 12,
    "personal-profile": 30,
    "software": 30,
    "calibrate-collectives": 15,
    "launch-script": 60,
    "launch-yaml": 60,
    "launch-toml": 60,
    "launch-json": 60,
    "run-log": 40,
}
SEED = 20261129


@pytest.mark.slow
@pytest.mark.parametrize("target", list(TARGETS))
def test_inputs_end_in_an_answer_or_a_refusal(
    target: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside = tmp_path / "inside"
    monkeypatch.chdir(tmp_path)
    warm(target, tmp_path)
    findings = []
    for index in range(NUMBERS.get(target, 120)):
        folder = inside / str(index)
        folder.mkdir(parents=True)
        outcome, finding = attempt(target, SEED, index, folder)
        assert outcome in ("answer", "refused", "finding")
        if finding:
            findings.append(f"input {finding.index}: {finding.what}")
    assert not findings, "\n".join(findings)
    assert os.listdir(tmp_path) == ["inside"]


def test_the_same_seed_makes_the_same_input(tmp_path: Path) -> None:
    made = []
    for name in ("a", "b"):
        folder = tmp_path / name
        folder.mkdir()
        attempt("prices", SEED, 3, folder)
        made.append((folder / "p.csv").read_bytes())
    assert made[0] == made[1]


def test_a_fault_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise IndexError("list index out of range")

    monkeypatch.setattr("fullmesh.catalog.prices.load_prices", broken)
    outcome, finding = attempt("prices", SEED, 0, tmp_path)
    assert outcome == "finding"
    assert finding is not None
    assert "IndexError" in finding.what


def test_the_long_run_drops_to_an_ordinary_user_or_refuses(tmp_path: Path) -> None:
    run = Path(__file__).with_name("run.py")
    done = subprocess.run(
        [sys.executable, str(run), "--number", "3", "--targets", "prices"],
        capture_output=True, text=True, check=False, cwd=tmp_path,
    )  # fmt: skip
    if done.returncode == 2:
        assert os.getuid() == 0
        assert done.stderr.startswith("refused: this is root")
    else:
        assert done.returncode == 0, done.stdout + done.stderr
        assert "3 inputs" in done.stdout
    assert os.listdir(tmp_path) == []


def test_undamaged_inputs_are_answered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A seed that is refused before it is damaged tests nothing behind its reader."""
    for mutate in ("mutate_csv", "mutate_toml", "mutate_json", "mutate_trace", "mutate_lines"):
        monkeypatch.setattr(
            f"fuzz.targets.{mutate}",
            lambda value, rng: (value if isinstance(value, str) else json.dumps(value)).encode(),
        )
    for target in TARGETS:
        if target in ("options", "operator-fit"):
            continue
        folder = tmp_path / target
        folder.mkdir()
        warm(target, tmp_path)
        assert attempt(target, SEED, 0, folder) == ("answer", None), target

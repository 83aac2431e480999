"""``fullmesh calibrate``: what it writes and where, without the minutes of a whole fit."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from fullmesh.calibrate.effects.published import StepFit
from fullmesh.cost.effects import EffectProfile

CommandLine = Callable[..., tuple[int, str, str]]


@pytest.fixture
def quick_fit(monkeypatch: pytest.MonkeyPatch) -> StepFit:
    profile = EffectProfile(effects={"linear": 0.25}, provenance={})
    fit = StepFit(
        profile=profile,
        by_fold=(profile,),
        by_publisher={"me": profile},
        configurations=("k",),
        coverage={"all": (12, 0.8)},
        intervals={"any|any": {"low": -0.1, "high": 0.1, "rows": 12}},
    )
    monkeypatch.setattr("fullmesh.calibrate.effects.published.fit_published", lambda rows, progress: fit)
    return fit


def test_profiles_are_written_to_the_folder_with_the_date(
    command_line: CommandLine, quick_fit: StepFit, tmp_path: Path
) -> None:
    folder = tmp_path / "new"
    code, out, err = command_line("calibrate", "published", "--out", str(folder), "--date", "2026-01-02")
    assert (code, out) == (0, "")
    assert str(folder) in err
    assert sorted(p.name for p in folder.iterdir()) == ["intervals.json", "step.json", "step_held_out.json"]
    step = json.loads((folder / "step.json").read_text("utf-8"))
    assert step["effects"] == quick_fit.profile.effects
    assert step["provenance"]["date"] == "2026-01-02"
    assert step["provenance"]["command"] == "fullmesh calibrate published"


@pytest.mark.parametrize(
    "arguments",
    [
        ("published", "--date", "yesterday"),
        ("operators", "no-such-folder"),
        ("collectives", "no-such-folder"),
        ("nothing",),
        ("here", "--device", "cpu"),
    ],
)
def test_a_mistake_ends_with_code_two(
    command_line: CommandLine, arguments: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, _, err = command_line("calibrate", *arguments)
    assert code == 2
    assert "Error" in err or "error" in err
    assert "Traceback" not in err
    assert list(tmp_path.iterdir()) == []

"""``fullmesh calibrate``: what it writes and where, without the minutes of a whole fit."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from fullmesh.calibrate.effects.intervals import IntervalFit, MemoryFit
from fullmesh.calibrate.effects.published import StepFit
from fullmesh.cost.effects import EffectProfile
from fullmesh.cost.uncertainty import Uncertainty
from fullmesh.outcomes.intervals import FewShot
from fullmesh.outcomes.support import Neighbour

CommandLine = Callable[..., tuple[int, str, str]]


@pytest.fixture
def quick_fit(monkeypatch: pytest.MonkeyPatch) -> StepFit:
    profile = EffectProfile(effects={"linear": 0.25}, provenance={}, spread={"linear": 0.15})
    fit = StepFit(
        profile=profile,
        uncertainty=Uncertainty.of(["linear"], np.array([0.15]), np.array([[100.0]])),
        by_fold=(profile,),
        by_publisher={"me": profile},
        configurations=("k",),
        intervals=IntervalFit(
            noise=0.02,
            low=-1.3,
            high=1.2,
            rows=12,
            unseen=0.1,
            within_setting=0.05,
            coverage={"all": (12, 0.8)},
        ),
        memory_intervals=MemoryFit(
            levels=(0.1, 0.9), quantiles=(-0.1, 0.2), rows=5, publishers=1, coverage=0.8
        ),
        support={"H100|dense": {("precision bf16", "ZeRO up to 1")}},
        few_shot={"me": (FewShot(shots=1, configurations=7, before=0.2, after=0.1),)},
        tried={},
        neighbours=(
            Neighbour(key="H100|dense", id="X1", model="m", device="H100", devices=8, values=("a", "")),
        ),
        longest_seq={"H100": 8192},
        best_mfu={"H100|dense|bf16": 0.5},
        chips={"h100": 12},
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
    names = ["intervals.json", "step.json", "step_fits.npz", "support.json"]
    assert sorted(p.name for p in folder.iterdir()) == names
    step = json.loads((folder / "step.json").read_text("utf-8"))
    assert step["effects"] == quick_fit.profile.effects
    assert step["spread"] == quick_fit.profile.spread
    assert step["provenance"]["date"] == "2026-01-02"
    assert step["provenance"]["command"] == "fullmesh calibrate published"
    intervals = json.loads((folder / "intervals.json").read_text("utf-8"))
    assert (intervals["low"], intervals["high"], intervals["chips"]) == (-1.3, 1.2, {"h100": 12})
    support = json.loads((folder / "support.json").read_text("utf-8"))
    assert support["pairs"] == {"H100|dense": [["precision bf16", "ZeRO up to 1"]]}
    assert support["best_mfu"] == {"H100|dense|bf16": 0.5}
    assert intervals["provenance"] == support["provenance"] == step["provenance"]
    with np.load(folder / "step_fits.npz", allow_pickle=False) as arrays:
        assert arrays["names"].tolist() == ["linear"]
        assert arrays["held_out_effects"].tolist() == [[0.25], [0.25]]


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

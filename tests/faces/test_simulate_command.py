"""``fullmesh simulate``: the replay in tables and JSON, traces, what differs, profiles, two scenarios."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fullmesh.faces.cli import main as cli_main
from fullmesh.faces.cli import options
from fullmesh.glossary import load_glossary
from fullmesh.study.api import replay
from fullmesh.timeline.analysis import GROUP
from fullmesh.timeline.engine.engines import ENGINES
from oracles.trace_check import check_trace

EXAMPLE = Path(__file__).parents[2] / "docs" / "examples" / "deepseek-v3-cloudmatrix384.toml"
SCENARIO = """\
[model]
name = "llama-3-8b"

[machine]
name = "h200"
chips = 16

[plan]
tp = 2
pp = 4
gbs = 32
seq = 8192
recompute = "full"
"""
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    def call(*args: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["fullmesh", "simulate", *args])
        code = 0
        try:
            cli_main.main()
        except SystemExit as error:
            code = int(error.code or 0)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


@pytest.fixture
def scenario(tmp_path: Path) -> str:
    path = tmp_path / "scenario.toml"
    path.write_text(SCENARIO, encoding="utf-8")
    return str(path)


def record(run: Run, *args: str) -> dict[str, Any]:
    code, out, err = run(*args, "--json")
    assert code == 0, err
    loaded: dict[str, Any] = json.loads(out)
    return loaded


def test_json_has_the_replay_beside_the_estimate(run: Run, scenario: str) -> None:
    r = record(run, scenario)
    assert r["step_s"] == pytest.approx(r["closed_form_step_s"], rel=0.05)
    assert 0 < r["bubble_fraction"] < 1
    assert sum(r["critical_path"].values()) == pytest.approx(r["step_s"])
    assert r["tasks"] > 100
    assert r["engine"] == "maxplus"
    assert r["timing"]["engine_s"] > 0
    assert sum(r["parts_s"].values()) == pytest.approx(r["closed_form_step_s"])
    assert r["replay"]["difference"] == pytest.approx(r["closed_form_step_s"] / r["step_s"] - 1)
    assert r["replay"]["peak_bytes"] == pytest.approx(r["memory_bytes"], rel=0.1)
    assert r["replay"]["devices"] == 16


def test_tables_say_what_the_replay_found(run: Run, scenario: str) -> None:
    code, out, _ = run(scenario)
    assert code == 0
    for text in (
        "Where the step goes", "Replay of the step", "closed form", "bubble", "critical path",
        "communication waited for", "memory peak", "maxplus", "tensor parallel",
    ):  # fmt: skip
        assert text in out, text
    code, out, _ = run(scenario, "--lang", "zh")
    assert "关键路径" in out
    assert "critical path" not in out


def test_every_kind_has_a_name_in_both_languages() -> None:
    glossary = load_glossary()
    for group in set(GROUP.values()) - {"start"}:
        key = "kind_" + group.replace(" ", "_").replace("-", "_")
        assert glossary[key].en, key
        assert glossary[key].zh, key


def test_a_trace_follows_the_rules_of_viewers(run: Run, tmp_path: Path, scenario: str) -> None:
    path = tmp_path / "out.json.gz"
    code, _, err = run(scenario, "--trace", str(path))
    assert code == 0
    assert str(path) in err
    trace = json.loads(gzip.decompress(path.read_bytes()))
    assert check_trace(trace) == []
    names = {event["name"] for event in trace["traceEvents"]}
    assert {"attention", "linear"} <= names
    assert any("rank" in str(event.get("args", {}).get("name")) for event in trace["traceEvents"])


def test_the_example_writes_a_trace(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "example.json.gz"
    r = record(run, str(EXAMPLE), "--trace", str(path))
    assert r["step_s"] == pytest.approx(r["closed_form_step_s"], rel=0.05)
    assert check_trace(json.loads(gzip.decompress(path.read_bytes()))) == []


@pytest.mark.parametrize(
    "args",
    [
        ("--straggler", "rank=5:1.2"),
        ("--straggler", "stage=2:1.3"),
        ("--straggler", "link=3:8"),
        ("--straggler", "rank=5:1.1", "--straggler", "rank=9:1.1"),
        ("--jitter", "lognormal:0.05:7"),
    ],
)
def test_what_differs_slows_the_step(run: Run, scenario: str, args: tuple[str, ...]) -> None:
    usual, slow = record(run, scenario), record(run, scenario, *args)
    assert slow["step_s"] > usual["step_s"] * 1.001
    assert slow["closed_form_step_s"] == usual["closed_form_step_s"]
    assert slow["replay"]["undisturbed_step_s"] == pytest.approx(usual["step_s"])
    assert slow["replay"]["causes"][0]["name"] == "devices that differ"
    assert slow["replay"]["waits"]


def test_who_waits_is_printed(run: Run, scenario: str) -> None:
    code, out, _ = run(scenario, "--straggler", "rank=5:1.5", "--against", scenario)
    assert code == 0
    for text in (
        "Who waits for whom",
        "devices that differ",
        "with equal devices",
        "What changes",
        "stage idle",
    ):
        assert text in out, text


@pytest.mark.parametrize("engine", ENGINES)
def test_engines_agree(run: Run, scenario: str, engine: str) -> None:
    r = record(run, scenario, "--engine", engine)
    assert r["engine"] == engine
    assert r["step_s"] == pytest.approx(record(run, scenario)["step_s"], rel=0.02)


def test_every_rank_changes_nothing(run: Run, scenario: str) -> None:
    folded, unfolded = record(run, scenario), record(run, scenario, "--every-rank")
    assert unfolded["step_s"] == pytest.approx(folded["step_s"])
    assert unfolded["replay"]["rows"] == 16
    assert unfolded["tasks"] > folded["tasks"]


def test_a_real_profile_is_laid_under(run: Run, tmp_path: Path, scenario: str) -> None:
    profile, trace = tmp_path / "real.json", tmp_path / "both.json"
    events = [
        {
            "ph": "X",
            "cat": "kernel",
            "name": name,
            "pid": 0,
            "tid": 7,
            "ts": at,
            "dur": 400.0,
            "args": {"stream": 7},
        }
        for at, name in (
            (0.0, "nvjet_gemm"),
            (500.0, "flash_fwd_kernel"),
            (1000.0, "ncclDevKernel_AllGather"),
        )
    ]
    events.append(
        {
            "ph": "X",
            "cat": "user_annotation",
            "name": "ProfilerStep#3",
            "pid": 0,
            "tid": 1,
            "ts": 0.0,
            "dur": 2e3,
        }
    )
    profile.write_text(json.dumps({"traceEvents": events}), encoding="utf-8")
    r = record(run, scenario, "--profile", str(profile), "--trace", str(trace))
    lines = {line["operator"]: line for line in r["profile"]}
    assert lines["linear"]["real_s"] == pytest.approx(4e-4)
    assert lines["linear"]["simulated_s"] > 0
    assert check_trace(json.loads(trace.read_text(encoding="utf-8"))) == []
    assert "real, step 3" in trace.read_text(encoding="utf-8")
    code, out, _ = run(scenario, "--profile", str(profile))
    assert code == 0
    assert "Simulated and real step" in out


def test_two_scenarios_are_compared(run: Run, tmp_path: Path, scenario: str) -> None:
    other = tmp_path / "other.toml"
    other.write_text(SCENARIO.replace('recompute = "full"', 'recompute = "none"'), encoding="utf-8")
    r = record(run, scenario, "--against", str(other))
    lines = {(line["view"], line["what"]): line for line in r["against"]}
    assert lines["step", "step"]["after_s"] == pytest.approx(r["step_s"])
    assert lines["step", "step"]["change_s"] > 0
    assert lines["critical path", "recompute"]["before_s"] == 0


def test_a_plan_that_does_not_fit_is_a_result(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "large.toml"
    path.write_text(SCENARIO.replace('"llama-3-8b"', '"llama-3.1-405b"'), encoding="utf-8")
    trace = tmp_path / "none.json"
    code, out, _ = run(str(path), "--straggler", "rank=1:1.2", "--trace", str(trace), "--json")
    assert code == 3
    r = json.loads(out)
    assert r["feasible"] is False
    assert r["limit"]["gap"] > 0
    assert not trace.exists()


def test_a_schedule_that_cannot_run_is_a_result(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "dualpipe.toml"
    path.write_text(SCENARIO.replace("gbs = 32", 'gbs = 12\nschedule = "dualpipe"'), encoding="utf-8")
    r = record(run, str(path))
    assert r["feasible"] is True
    assert r["step_s"] is None
    assert r["closed_form_step_s"] > 0
    assert "micro-batches" in r["replay"]["cannot_run"]
    code, out, _ = run(str(path))
    assert code == 0
    assert "cannot run" in out


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("--straggler", "rnk=17:1.2"), "rank=17:1.2"),
        (("--straggler", "rank=5:0"), "factor"),
        (("--straggler", "rank=99:1.2"), "does not exist"),
        (("--straggler", "link=0-1:2"), "neighbour"),
        (("--jitter", "much"), "spread"),
        (("--engine", "steam"), "steam"),
        (("--profile", "no/such/file.json"), "cannot read"),
        (("--against", "no/such/file.toml"), "cannot read"),
        (("--trace", "no/such/folder/out.json"), "cannot write"),
    ],
)
def test_bad_options_give_one_clear_error(run: Run, scenario: str, args: tuple[str, ...], words: str) -> None:
    code, out, err = run(scenario, *args)
    assert code == 2
    assert out == ""
    assert words in err
    assert "Traceback" not in err


def test_the_engines_offered_are_those_there_are() -> None:
    assert options.ENGINES == ENGINES


def test_from_python(scenario: str) -> None:
    found = replay(scenario, stragglers=["rank=5:1.2"])
    assert found.simulation is not None  # type: ignore[union-attr]
    assert found.simulation.step_s > found.undisturbed_step_s  # type: ignore[union-attr]


def test_nothing_is_compiled_before_a_search_begins() -> None:
    code = "import sys, fullmesh.study.api, fullmesh.study.fields; sys.exit('numba' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

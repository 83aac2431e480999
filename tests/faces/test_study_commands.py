"""compare, plan and simulate on the command line: what they print, and one clear error for bad input."""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import fullmesh
from fullmesh.faces.cli import main as cli_main
from fullmesh.faces.cli import options
from fullmesh.glossary import load_glossary
from fullmesh.outcomes.waterfall import GROUPS
from fullmesh.plan import RECIPES
from fullmesh.search import OBJECTIVES
from fullmesh.study.sizing import BASES

EXAMPLE = Path(__file__).parents[2] / "docs" / "examples" / "deepseek-v3-cloudmatrix384.toml"
SCENARIO = """\
[model]
name = "llama-3-8b"

[machine]
name = "h200"
chips = 16

[plan]
tp = 2
dp = 8
gbs = 64
seq = 8192
"""
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    def call(*args: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["fullmesh", *args])
        code = 0
        try:
            cli_main.main()
        except SystemExit as error:
            code = int(error.code or 0)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


@pytest.fixture
def scenario(tmp_path: Path) -> Callable[[str, str], str]:
    def write(old: str = "", new: str = "") -> str:
        assert old in SCENARIO
        path = tmp_path / "scenario.toml"
        path.write_text(SCENARIO.replace(old, new) if old else SCENARIO, encoding="utf-8")
        return str(path)

    return write


def test_compare_prints_what_was_asked_for(run: Run) -> None:
    code, out, err = run("compare", "deepseek-v3", "--on", "cloudmatrix384,gb200-nvl72,h200")
    assert code == 0
    for text in (
        "768 dies (384 packages)", "16 racks", "MindSpeed", "300 PFLOP/s", "272 PFLOP/s", "best plan", "second best",
        "step time", "80 % interval", "full to no overlap", "tokens/s", "MFU", "HFU", "memory per device",
        "energy per token",
        "no price", "time to 1 T tokens", "Where the step goes", "Machines against each other", "Equal packages",
    ):  # fmt: skip
        assert text in out, text
    assert "\x1b" not in out
    assert max(len(line.rstrip()) for line in out.splitlines()) <= 120
    assert "plans priced" in err


def test_compare_as_json_and_csv(run: Run) -> None:
    code, out, _ = run("compare", "llama-3-8b", "--on", "gb200,h200", "--chips", "64", "--json")
    assert code == 0
    record = json.loads(out)
    assert [m["devices"] for m in record["machines"]] == [64, 64]
    code, out, _ = run("compare", "llama-3-8b", "--on", "gb200,h200", "--chips", "72,64", "--csv")
    rows = list(csv.DictReader(io.StringIO(out)))
    assert [row["devices"] for row in rows] == ["72", "64"]
    assert float(rows[0]["step_s"]) > 0


def test_labels_in_chinese(run: Run) -> None:
    code, out, _ = run("compare", "llama-3-8b", "--on", "h200", "--chips", "16", "--lang", "zh")
    assert code == 0
    assert "单步时间" in out
    assert "step time" not in out


def test_plan_lists_ranks_and_reasons(run: Run, tmp_path: Path) -> None:
    target = tmp_path / "launch"
    code, out, err = run(
        "plan", "qwen3-30b-a3b", "--on", "h100", "--chips", "64", "--top", "3",
        "--export", "megatron", "--to", str(target),
    )  # fmt: skip
    assert code == 0
    assert "Pareto" in out
    assert "Rejected plans" in out
    assert "micro-batch-size" in (target / "train.sh").read_text("utf-8")
    assert str(target) in err
    assert [p.name for p in tmp_path.iterdir()] == ["launch"]


def test_simulate_shows_one_plan_in_full(run: Run, scenario: Callable[..., str]) -> None:
    code, out, _ = run("simulate", scenario())
    assert code == 0
    for text in (
        "Where the step goes",
        "Exposed communication",
        "Pipeline stages",
        "Memory of one device",
        "MFU",
    ):
        assert text in out
    code, out, _ = run("simulate", scenario(), "--json")
    record = json.loads(out)
    assert record["feasible"] is True
    assert sum(record["parts_s"].values()) == pytest.approx(record["closed_form_step_s"])


def test_the_example_runs(run: Run) -> None:
    code, out, _ = run("simulate", str(EXAMPLE))
    assert code == 0
    assert "DeepSeek-V3" in out


def test_a_plan_that_does_not_fit_is_a_result(run: Run, scenario: Callable[..., str]) -> None:
    path = scenario('name = "llama-3-8b"', 'name = "llama-3.1-405b"')
    code, out, _ = run("simulate", path, "--json")
    assert code == 3
    record = json.loads(out)
    assert record["feasible"] is False
    assert record["limit"]["name"] == "memory"
    assert record["limit"]["gap"] > 0


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["compare", "no-such-model"], ["no-such-model", "unknown"]),
        (["compare", "deepseek-v33"], ["did you mean", "deepseek-v3"]),
        (["compare", "llama-3-8b", "--on", "h201"], ["unknown machine", "did you mean"]),
        (["compare", "llama-3-8b", "--on", ","], ["no machine", "--on"]),
        (["compare", "llama-3-8b", "--precision", "fp7"], ["fp7", "did you mean"]),
        (["compare", "llama-3-8b", "--batch", "1001"], ["1001", "does not divide", "992 and 1008"]),
        (["compare", "llama-3-8b", "--batch", "-4"], ["-4", "from 1"]),
        (["compare", "llama-3-8b", "--seq", "0"], ["sequence length", "from 1"]),
        (["compare", "llama-3-8b", "--tokens", "-1T"], ["-1T", "15T"]),
        (["compare", "llama-3-8b", "--on", "h200", "--chips", "-8"], ["-8", "at least 1"]),
        (["compare", "llama-3-8b", "--on", "h200", "--chips", "100"], ["100", "96 and 104"]),
        (["compare", "llama-3-8b", "--on", "cm384", "--chips", "999999"], ["999999", "331776"]),
        (["compare", "llama-3-8b", "--on", "h200,gb200", "--chips", "8,8,8"], ["3 numbers", "2 machines"]),
        (["compare", "llama-3-8b", "--on", "h200,dgx-h200"], ["named twice"]),
        (["compare", "llama-3-8b", "--basis", "money"], ["no price", "--prices"]),
        (["plan", "llama-3-8b", "--on", "h200", "--top", "0"], ["from 1"]),
        (["simulate", "no/such/file.toml"], ["no/such/file.toml", "TOML"]),
    ],
)
def test_bad_options_give_one_clear_error(run: Run, args: list[str], words: list[str]) -> None:
    code, out, err = run(*args)
    assert code == 2
    assert out == ""
    assert err.count("error:") == 1
    assert "hint:" in err
    assert "Traceback" not in err
    for word in words:
        assert word in err, err


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('name = "llama-3-8b"', 'name = "nope-3-8b"', ["scenario.toml:2", "model.name"]),
        ('name = "h200"', 'name = "h2000"', ["scenario.toml:5", "machine.name", "did you mean"]),
        ("chips = 16", "chips = 13", ["scenario.toml:6", "8 and 16"]),
        ("chips = 16", 'chips = "16"', ["scenario.toml:6", "whole number"]),
        ("tp = 2", "tpp = 2", ["scenario.toml:9", "unknown key 'tpp'", "did you mean tp"]),
        ("[plan]", "[plans]", ["plans", "did you mean"]),
        ("tp = 2", "tp = -2", ["scenario.toml:9", "tp = -2", "from 1"]),
        ("tp = 2", "tp = 2.0", ["scenario.toml:9", "tp = 2.0", "whole number"]),
        ("tp = 2", "tp = true", ["scenario.toml:9", "tp = True", "whole number"]),
        ("tp = 2", "tp = 2\nzero = 5", ["scenario.toml:10", "0, 1, 2 or 3"]),
        ("tp = 2", "tp = 2\nrecompute_modules = 'mlp'", ["scenario.toml:10", "a list of"]),
        ("gbs = 64", "gbs = 65", ["scenario.toml:11", "does not divide", "nearest"]),
        ("gbs = 64\n", "", ["scenario.toml:8", "global batch"]),
        ("dp = 8", "dp = 32", ["scenario.toml:10", "64 devices", "at most 16"]),
        ("tp = 2", "tp = 2\nprecision = 'nvfp4'", ["scenario.toml:10", "NVFP4"]),
        ("tp = 2", "tp = 2\nrecompute = 'some'", ["scenario.toml:10", "some"]),
        ("tp = 2", "tp = = 2", ["scenario.toml:9", "not a TOML file"]),
    ],
)
def test_bad_scenarios_name_file_line_and_key(
    run: Run, scenario: Callable[[str, str], str], old: str, new: str, words: list[str]
) -> None:
    code, out, err = run("simulate", scenario(old, new))
    assert code == 2
    assert out == ""
    assert err.count("error:") == 1
    assert "Traceback" not in err
    for word in words:
        assert word in err, err


@pytest.mark.parametrize("text", ["{", "[]", '{"model_type": "llama", "hidden_size": -1}'])
def test_a_corrupt_config_is_refused(run: Run, tmp_path: Path, text: str) -> None:
    path = tmp_path / "config.json"
    path.write_text(text, encoding="utf-8")
    code, _, err = run("compare", str(path), "--on", "h200")
    assert code == 2
    assert err.count("error:") == 1
    assert "config.json" in err


def test_two_formats_at_once_are_refused(run: Run) -> None:
    code, _, err = run("compare", "llama-3-8b", "--json", "--csv")
    assert code == 2
    assert "exclude" in err


def test_three_lines_of_python() -> None:
    result = fullmesh.compare("llama-3-8b", on=["gb200-nvl72", "h200"], chips=64)
    text = str(result)
    assert "tokens/s" in text
    assert str(fullmesh.simulate(EXAMPLE)).startswith("TP4 PP4x4")
    assert fullmesh.best_plans("llama-3-8b", "h200", chips=16).best is not None
    with pytest.raises(AttributeError):
        _ = fullmesh.no_such_name


def test_options_list_what_the_core_knows() -> None:
    assert options.OBJECTIVES == OBJECTIVES
    assert options.BASES == BASES
    assert tuple(RECIPES) == options.PRECISIONS


def test_every_loss_has_a_label_in_both_languages() -> None:
    glossary = load_glossary()
    for group in GROUPS.values():
        for key in group:
            assert glossary[key].en
            assert glossary[key].zh
            assert glossary[key].meaning


@pytest.mark.parametrize("command", ["compare", "plan", "simulate"])
def test_help_names_every_option(run: Run, command: str) -> None:
    code, out, _ = run(command, "--help")
    assert code == 0
    assert "--json" in out
    assert "--lang" in out


def test_a_plan_that_leaves_devices_unused_says_so_in_every_row(run: Run) -> None:
    args = ("compare", "llama-3-8b", "--on", "h200,cloudmatrix384", "--chips", "64", "--objective", "energy")
    code, out, _ = run(*args)
    assert code == 0
    text = " ".join(out.split())
    rows = {line[:25].strip(): line for line in out.splitlines() if line[:25].strip()}
    assert "64 GPUs (8 used)" in rows["devices"]
    assert "used)" in text.partition("64 dies")[2][:60]
    assert "of those used" in rows["power"] or "of those used" in text
    assert "1 T tokens in" in text
    assert "takes the least energy a token" in text
    best = json.loads(run(*args, "--json")[1])["machines"][0]["best"]
    used = best["energy_per_step_j"] / best["step_s"]
    assert f"({used / 1e3:.1f} kW of those used)" in text
    # all devices used: nothing of it is said
    assert "of those used" not in run(*args[:-2])[1]

"""``fullmesh catalog models`` and ``catalog model``: what is known of a model, and what a file says."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from fullmesh.faces.cli import main as cli_main
from fullmesh.workload.readers import shipped
from fullmesh.workload.table import OperatorTable


def run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *args: str
) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", ["fullmesh", "catalog", *args])
    code = 0
    try:
        cli_main.main()
    except SystemExit as error:
        code = int(error.code or 0)
    captured = capsys.readouterr()
    return code, captured.out, captured.err


CONFIG = {
    "model_type": "qwen2_5_vl",
    "tie_word_embeddings": True,
    "text_config": {
        "num_hidden_layers": 4,
        "hidden_size": 512,
        "num_attention_heads": 8,
        "num_key_value_heads": 2,
        "intermediate_size": 1024,
        "vocab_size": 1000,
        "rms_norm_eps": 1e-6,
        "time_step_limit": [0.0, float("inf")],
        "tie_word_embeddings": False,
    },
    "vision_config": {"depth": 32},
}


def test_all_models_are_listed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(monkeypatch, capsys, "models")
    assert code == 0
    assert all(name in out for name in shipped.names())
    assert "catalog model" in err
    _, out, _ = run(monkeypatch, capsys, "models", "--json")
    by_id = {m["id"]: m for m in json.loads(out)["models"]}
    assert by_id["mixtral-8x7b"]["parameters"] == 46_702_792_704
    assert by_id["mixtral-8x7b"]["active_parameters"] < 13e9


def test_one_model_in_full(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(monkeypatch, capsys, "model", "deepseek-ai/DeepSeek-V3")
    assert code == 0
    for text in ("671,026,404,352", "37.55 B", "latent attention", "num_experts 256", "deepseek-r1"):
        assert text in out
    _, out, _ = run(monkeypatch, capsys, "model", "Llama-3.1-70B-Instruct", "--json")
    record = json.loads(out)
    assert record["id"] == "llama-3-70b"
    assert record["parameters"] == record["active_parameters"] == 70_553_706_496
    assert record["not_read"] == {}
    assert record["assumed"] == {}


def test_what_was_read_and_what_was_not(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    folder = tmp_path / "my-vision-model"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(CONFIG), "utf-8")
    code, out, _ = run(monkeypatch, capsys, "model", str(folder))
    assert code == 0
    assert out.startswith("my-vision-model")
    assert "left out: vision_config" in out
    assert "assumed: head_dim" not in out  # of this family it is always hidden size / heads
    assert "Not read" in out
    _, out, _ = run(monkeypatch, capsys, "model", str(folder), "--json")
    record = json.loads(out)
    assert record["read"]["num_key_value_heads"] == 2
    assert record["not_read"] == {"rms_norm_eps": 1e-6, "time_step_limit": [0.0, "inf"]}
    assert record["tied_embeddings"]
    assert record["name"] == "my-vision-model"


def test_operators_as_table_and_file(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    code, out, _ = run(monkeypatch, capsys, "model", "llama-3-8b", "--ops")
    assert code == 0
    assert "attention.qkv" in out
    path = tmp_path / "ops.csv"
    assert run(monkeypatch, capsys, "model", "llama-3-8b", "--ops", "--csv", str(path))[0] == 0
    table = OperatorTable.load(path)
    _, out, _ = run(monkeypatch, capsys, "model", "llama-3-8b", "--ops", "--json")
    assert len(json.loads(out)["operators"]) == len(table.name)
    assert run(monkeypatch, capsys, "model", "llama-3-8b", "--csv", str(path))[0] == 2


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("qwen3-253b", "qwen3-235b-a22b"),
        ("lama-3-8b", "llama-3-8b"),
        ("deepseek-v9", "deepseek-v"),
        ("zzz", "models"),
    ],
)
def test_an_unknown_name_hints_at_the_nearest(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str, hint: str
) -> None:
    code, out, err = run(monkeypatch, capsys, "model", name)
    assert (code, out) == (2, "")
    assert hint in err.split("hint:")[1].split(" or ")[0]


def test_a_plan_says_what_was_left_out_of_the_model(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = tmp_path / "seeing.json"
    path.write_text(json.dumps(CONFIG), "utf-8")
    monkeypatch.setattr(
        sys, "argv", ["fullmesh", "plan", str(path), "--on", "h200", "--chips", "8", "--json"]
    )
    with pytest.raises(SystemExit) as ended:
        cli_main.main()
    assert ended.value.code == 0
    captured = capsys.readouterr()
    assert "note: seeing: left out: vision_config" in captured.err
    json.loads(captured.out)

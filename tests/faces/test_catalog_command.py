"""``fullmesh catalog``: data on standard output, readable without colour, errors with exit code 2."""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Callable

import pytest

from fullmesh.catalog import load_facts
from fullmesh.faces.cli import main as cli_main
from fullmesh.machine import list_chips, list_machines


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


def test_the_list_names_every_chip_and_machine(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = run(monkeypatch, capsys)
    assert code == 0
    for name in (*list_chips(), *list_machines()):
        assert name in out
    assert "\x1b" not in out
    assert "facts" in err


def test_json_holds_everything(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(monkeypatch, capsys, "--json")
    data = json.loads(out)
    assert code == 0
    assert [c["id"] for c in data["chips"]] == list(list_chips())
    assert [m["id"] for m in data["machines"]] == list(list_machines())
    assert len(data["facts"]) == len(load_facts())


def test_filters_combine(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = run(
        monkeypatch, capsys, "--item", "ub-node", "--parameter", "latency", "--kind", "measured", "--json"
    )
    rows = json.loads(out)["facts"]
    assert {(r["item"], r["parameter"], r["kind"]) for r in rows} == {("ub-node", "latency", "measured")}
    _, out, _ = run(monkeypatch, capsys, "--source", "stratacl", "--json")
    rows = json.loads(out)["facts"]
    assert rows
    assert all("StrataCL" in r["source"] for r in rows)


def test_conflicts_show_all_rows(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(monkeypatch, capsys, "--conflicts", "--item", "cloudmatrix384", "--json")
    assert code == 0
    power = {r["si_value"]: r["status"] for r in json.loads(out)["facts"] if r["parameter"] == "unit_power"}
    assert power == {559e3: "used", 600e3: "alternative"}


def test_csv_has_the_form_of_a_fact_file(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _, out, _ = run(monkeypatch, capsys, "--csv")
    rows = list(csv.DictReader(io.StringIO(out)))
    assert len(rows) == len(load_facts())
    for row, fact in zip(rows, load_facts(), strict=True):
        assert float(row["value"]) == fact.value
        assert (row["item"], row["unit"], row["source"]) == (fact.item, fact.unit, fact.source)


@pytest.mark.parametrize(
    "name", [*list_machines(), "h200", "ascend-910c", "gb200", "nvlink4", "amortisation"]
)
def test_show_gives_source_and_alternatives(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    code, out, _ = run(monkeypatch, capsys, "show", name)
    assert code == 0
    assert "source" in out
    assert "\x1b" not in out


def test_show_json(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = run(monkeypatch, capsys, "show", "cm384", "--json")
    data = json.loads(out)
    assert data["machine"]["id"] == "cloudmatrix384"
    assert data["chip"]["id"] == "ascend-910c"
    assert data["usd_per_device_hour"]["basis"].startswith("purchase")
    (latency,) = [q for q in data["machine"]["quantities"] if q["label"] == "tier ub-supernode: latency"]
    assert latency["fact"]["source"]
    assert len(latency["alternatives"]) >= 3
    items = {f["item"] for f in data["facts"]}
    assert items >= {"ascend-910c", "ascend-910c-package", "cloudmatrix384", "ub-supernode"}


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("show", "h2000"), "did you mean h200"),
        (("--item", "h2000"), "did you mean h200"),
        (("show", "h20"), "no facts of NVIDIA H20 are shipped"),
        (("--item", "h20"), "no facts of NVIDIA H20 are shipped"),
        (("--parameter", "hbm"), "no fact has the parameter"),
        (("--kind", "guess"), "guess"),
        (("--json", "--csv"), "exclude each other"),
        (("show", "h200", "--json", "--csv"), "exclude each other"),
        (("--item", "h200", "show", "h200"), "filters go without"),
        (("show", "nowhere.toml"), "cannot read the machine file"),
    ],
)
def test_a_mistake_is_one_clear_message_and_exit_code_2(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], args: tuple[str, ...], message: str
) -> None:
    code, out, err = run(monkeypatch, capsys, *args)
    assert code == 2
    assert message in err
    assert "Traceback" not in err
    assert out == ""


def test_show_knows_models_too(command_line: Callable[..., tuple[int, str, str]]) -> None:
    assert command_line("catalog", "show", "deepseek-v3") == command_line("catalog", "model", "deepseek-v3")
    code, out, _ = command_line("catalog", "show", "deepseek-v3", "--json")
    assert code == 0
    assert json.loads(out)["parameters"] == pytest.approx(671e9, rel=0.01)
    code, _, err = command_line("catalog", "show", "deepseek-v33")
    assert code == 2
    assert "deepseek-v33" in err

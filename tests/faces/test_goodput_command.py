"""`fullmesh goodput` and `fullmesh calibrate faults` as they are typed."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest

CommandLine = Any
SMALL = ("llama-3-8b", "--on", "h100", "--chips", "64", "--tokens", "300B", "--runs", "200")


def test_json_is_the_same_byte_for_byte_by_its_seed(command_line: CommandLine) -> None:
    (a, one, _), (b, two, _) = (command_line("goodput", *SMALL, "--seed", "7", "--json") for _ in range(2))
    assert (a, b) == (0, 0)
    assert one == two
    found = json.loads(one)
    assert found["seed"] == 7
    assert found["days"]["p10"] < found["days"]["p90"]
    tables = [command_line("goodput", *SMALL, "--no-timing")[1:] for _ in range(2)]
    assert tables[0] == tables[1]


def test_csv_has_one_row_a_policy(command_line: CommandLine) -> None:
    code, out, _ = command_line("goodput", *SMALL, "--policy", "memory,restart", "--csv")
    assert code == 0
    rows = list(csv.DictReader(io.StringIO(out)))
    assert [r["policy"] for r in rows] == ["memory", "restart"]
    assert all(float(r["days_p10"]) <= float(r["days_p90"]) for r in rows)


def test_the_table_names_losses_domains_and_what_matters(command_line: CommandLine) -> None:
    code, out, err = command_line("goodput", *SMALL, "--site", "5MW", "--power-cap", "500W", "--grid", "400")
    assert code == 0
    for words in (
        "Where the time goes", "Fault domains", "What matters", "recomputed", "network card", "Young's is",
        "Site 5 MW", "Power cap 500 W", "carbon", "rented",
    ):  # fmt: skip
        assert words in out, words
    assert "200 runs" in err


@pytest.mark.parametrize("columns", ["80", "200"])
def test_it_fits_the_terminal(
    command_line: CommandLine, monkeypatch: pytest.MonkeyPatch, columns: str
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    _, out, _ = command_line("goodput", *SMALL, "--policy", "all")
    assert max(len(line) for line in out.splitlines()) <= int(columns)


def test_no_plan_is_exit_code_3(command_line: CommandLine) -> None:
    code, out, _ = command_line("goodput", "llama-3.1-405b", "--on", "h100", "--chips", "8", "--tokens", "1T")
    assert code == 3
    assert "does not fit" in out


def test_a_mistake_is_exit_code_2(command_line: CommandLine) -> None:
    code, _, err = command_line("goodput", *SMALL, "--policy", "pray")
    assert code == 2
    assert "unknown policy" in err
    assert "hint:" in err


def test_a_log_becomes_a_table_that_a_run_takes(command_line: CommandLine, tmp_path: Path) -> None:
    log, table = tmp_path / "log.csv", tmp_path / "rates.csv"
    log.write_text(
        "node,start,end,cause\n" + "".join(f"n{i % 9},{i},{i + 0.5},GPU\n" for i in range(40)),
        encoding="utf-8",
    )
    code, out, _ = command_line(
        "calibrate",
        "faults",
        str(log),
        "--on",
        "h100",
        "--nodes",
        "20",
        "--days",
        "365.25",
        "--out",
        str(table),
    )
    assert code == 0
    assert "2 faults a node and year over 20.0 node-years" in out
    code, out, _ = command_line("goodput", *SMALL, "--faults", str(table), "--json")
    assert code == 0
    found = json.loads(out)
    assert found["stops_per_node_year"] == pytest.approx(2.0)
    assert [d["domain"] for d in found["domains"]] == ["die"]


def test_compare_with_a_run(command_line: CommandLine) -> None:
    code, out, _ = command_line("compare", "llama-3-8b", "--on", "h100,gb200", "--chips", "72", "--run", "1T")
    assert code == 0
    for words in ("days", "goodput", "energy of the run", "money for the run"):
        assert words in out
    without = command_line("compare", "llama-3-8b", "--on", "h100,gb200", "--chips", "72")[1]
    assert "goodput" not in without

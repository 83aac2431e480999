"""``fullmesh catalog faults`` and ``catalog inputs``: every row with unit, interval, kind, source and date."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest

from fullmesh.catalog.faults import DOMAINS, load_faults
from fullmesh.catalog.run_inputs import RUN_DIR, load_run_inputs

CommandLine = Any


def test_every_rate_has_interval_kind_source_and_date(command_line: CommandLine) -> None:
    code, out, _ = command_line("catalog", "faults", "--json")
    assert code == 0
    rows = {r["domain"]: r for r in json.loads(out)["faults"]}
    assert set(rows) == {*DOMAINS, "site"}
    for r in rows.values():
        assert r["low_per_year"] < r["rate_per_year"] < r["high_per_year"]
        assert r["kind"] in ("measured", "claimed", "derived", "assumed")
        assert r["source"]
        assert r["date"]
        assert r["unit"]


def test_rates_as_csv_are_a_table_that_a_run_takes(command_line: CommandLine, tmp_path: Path) -> None:
    code, out, _ = command_line("catalog", "faults", "--csv")
    assert code == 0
    path = tmp_path / "rates.csv"
    path.write_text(out, encoding="utf-8")
    found, shipped = load_faults(path), load_faults()
    assert found.rates == shipped.rates
    assert found.site_spread == shipped.site_spread


def test_every_input_has_unit_range_kind_source_and_date(command_line: CommandLine) -> None:
    code, out, _ = command_line("catalog", "inputs", "--json")
    assert code == 0
    rows = {r["key"]: r for r in json.loads(out)["inputs"]}
    assert set(rows) == {r.key for r in load_run_inputs().rows}
    for r in rows.values():
        assert r["low"] <= r["value"] <= r["high"]
        assert all(r[k] for k in ("unit", "basis", "kind", "source", "date"))
    assert rows["detection"]["value"] == 300.0
    assert rows["detection"]["stated"] == {"low": 0.5, "value": 5.0, "high": 10.0}


def test_inputs_as_csv_are_the_file(command_line: CommandLine) -> None:
    code, out, _ = command_line("catalog", "inputs", "--csv")
    assert code == 0
    with (RUN_DIR / "inputs.csv").open(encoding="utf-8", newline="") as file:
        shipped = list(csv.DictReader(file))
    found = list(csv.DictReader(io.StringIO(out)))
    for one, other in zip(found, shipped, strict=True):
        for key in ("value", "low", "high"):
            stated, printed = other.pop(key), one.pop(key)
            assert (float(stated) if stated else None) == (float(printed) if printed else None)
        assert one == other


@pytest.mark.parametrize("name", ["faults", "inputs"])
def test_tables_name_source_and_kind(command_line: CommandLine, name: str) -> None:
    code, out, err = command_line("catalog", name)
    assert code == 0
    for words in ("measured", "claimed", "assumed", "P10", "P90", "Sources", "Llama 3 (arXiv 2407.21783)"):
        assert words in out, words
    assert "fullmesh goodput" in err
    assert command_line("catalog", name, "--json", "--csv")[0] == 2

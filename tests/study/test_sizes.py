"""Numbers too large to be meant are refused by name, not by an overflow."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from fullmesh.errors import FullmeshError, ModelError, ResultsError
from fullmesh.evidence.results import SHIPPED_RESULTS, read_results, row_model
from fullmesh.study.api import best_plans, compare
from fullmesh.workload.readers.huggingface import load_model

LLAMA = {
    "model_type": "llama",
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
}
HUGE = 10**20


@pytest.mark.parametrize("value", [HUGE, 10**15])
@pytest.mark.parametrize("key", [k for k in LLAMA if k != "model_type"])
def test_a_configuration_with_a_huge_value(key: str, value: int, tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**LLAMA, key: value}))
    with pytest.raises(ModelError) as caught:
        load_model(path)
    assert key in caught.value.where


def test_a_configuration_whose_product_is_huge(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**LLAMA, "hidden_size": 2**27}))
    with pytest.raises(ModelError, match="parameters"):
        load_model(path)


def test_a_million_layers(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**LLAMA, "num_hidden_layers": 10**6}))
    with pytest.raises(ModelError, match="layers"):
        load_model(path)


@pytest.mark.parametrize("name", ["batch", "seq"])
def test_a_huge_batch_or_sequence(name: str) -> None:
    with pytest.raises(FullmeshError, match="from 1 to"):
        compare(
            "llama-3-8b",
            "h200",
            chips=8,
            batch=HUGE if name == "batch" else None,
            seq=HUGE if name == "seq" else None,
        )
    with pytest.raises(FullmeshError, match="from 1 to"):
        best_plans(
            "llama-3-8b",
            "h200",
            chips=8,
            batch=HUGE if name == "batch" else 8,
            seq=HUGE if name == "seq" else 4096,
        )


def table(path: Path, **changes: str) -> Path:
    """The first row of the shipped table with some cells changed."""
    with SHIPPED_RESULTS[0].open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        row = next(reader)
        with path.open("w", encoding="utf-8", newline="") as out:
            writer = csv.DictWriter(out, reader.fieldnames or ())
            writer.writeheader()
            writer.writerow({**row, **changes})
    return path


@pytest.mark.parametrize(
    "column", ["seq", "gbs", "n_gpus", "hidden", "heads", "layers", "vocab", "TP", "mbs"]
)
def test_a_table_with_a_huge_value(column: str, tmp_path: Path) -> None:
    with pytest.raises(ResultsError) as caught:
        read_results(table(tmp_path / "t.csv", **{column: "1e30"}))
    assert f"column {column}" in caught.value.where


@pytest.mark.parametrize("changes", [{"layers": "1000000"}, {"hidden": "900000000"}])
def test_a_row_whose_model_is_huge(changes: dict[str, str], tmp_path: Path) -> None:
    (row,) = read_results(table(tmp_path / "t.csv", **changes))
    with pytest.raises(ModelError):
        row_model(row)


OWN = """\
id = "dgx-h200"
name = "NAME"
chip = "h200"
software = "nemo"
source = "our own order"
[size]
default_devices = 64
devices_per_node = 8
devices_per_unit = 8
unit_name = "node"
[[tier]]
name = "nvlink"
kind = "switch"
num_devices = 8
bandwidth = "chip:nvlink_bandwidth"
latency = "fact:nvlink4/latency"
[[tier]]
name = "ethernet"
kind = "rail"
num_devices = "all"
bandwidth = "25 GB/s"
latency = "5 us"
source = "switch datasheet"
"""


@pytest.mark.parametrize("name", ["Ours", "DGX H200 cluster"])
def test_a_machine_file_with_the_id_of_another_machine(name: str, tmp_path: Path) -> None:
    path = tmp_path / "ours.toml"
    path.write_text(OWN.replace("NAME", name))
    with pytest.raises(FullmeshError, match="two different machines have the id 'dgx-h200'") as caught:
        compare("llama-3-8b", [str(path), "h200"], chips=64, batch=64)
    assert ("Ours and DGX H200 cluster" in str(caught.value)) == (name == "Ours")
    assert 'change `id = "dgx-h200"` in your machine file' in caught.value.hint
    with pytest.raises(FullmeshError, match="is named twice"):
        compare("llama-3-8b", [str(path), str(path)], chips=64, batch=64)
    path.write_text(OWN.replace("NAME", name).replace('"dgx-h200"', '"ours"'))
    assert len(compare("llama-3-8b", [str(path), "h200"], chips=64, batch=64).columns) == 2

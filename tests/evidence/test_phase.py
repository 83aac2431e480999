"""The phase of a row, however other tables write it."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from fullmesh.evidence.mapping import Case, row_case
from fullmesh.evidence.results import SHIPPED_RESULTS, read_results


def case(path: Path, phase: str) -> Case:
    """The first row of the shipped table in another phase."""
    with SHIPPED_RESULTS[0].open(encoding="utf-8", newline="") as file, path.open("w", newline="") as out:
        reader = csv.DictReader(file)
        writer = csv.DictWriter(out, reader.fieldnames or ())
        writer.writeheader()
        writer.writerow({**next(reader), "phase": phase})
    return row_case(read_results(path)[0])


@pytest.mark.parametrize("phase", ["lora", "LoRA", "LORA", "LoRA SFT"])
def test_adapters(phase: str, tmp_path: Path) -> None:
    assert case(tmp_path / "t.csv", phase).plan.trainable == "lora"


@pytest.mark.parametrize("phase", ["pretrain", "Pretrain", "", "SFT"])
def test_all_parameters(phase: str, tmp_path: Path) -> None:
    found = case(tmp_path / "t.csv", phase)
    assert found.plan.trainable == "all"
    assert found.row.phase in ("pretrain", "sft")
    assert not any("phase" in a for a in found.assumptions)


def test_an_unknown_phase_is_an_assumption(tmp_path: Path) -> None:
    assert any("dpo" in a for a in case(tmp_path / "t.csv", "DPO").assumptions)

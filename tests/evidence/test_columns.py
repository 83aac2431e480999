"""Tables of other people: columns left out, and a hint with every mistake."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from fullmesh import errors
from fullmesh.evidence.results import SHIPPED_RESULTS, read_results
from fullmesh.validate.score import score

NEEDED = (
    "model", "gpu", "n_gpus", "layers", "hidden", "heads", "kv_heads", "head_dim", "ffn", "experts", "topk", "moe_ffn",
    "vocab", "seq", "precision", "TP", "PP", "VPP", "EP", "mbs", "gbs", "step_s", "tok_s_gpu",
)  # fmt: skip


def test_a_table_with_few_columns(tmp_path: Path) -> None:
    path = tmp_path / "few.csv"
    with SHIPPED_RESULTS[0].open(encoding="utf-8", newline="") as file, path.open("w", newline="") as out:
        reader = csv.DictReader(file)
        kept = [c for c in reader.fieldnames or () if c in NEEDED]
        writer = csv.DictWriter(out, kept, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(row for row, _ in zip(reader, range(6), strict=False))
    few = score(read_results(path)).rows
    assert [r.status for r in few].count("ok") >= 5
    assert all(r.predicted_step_s > 0 for r in few if r.status == "ok" and r.predicted_step_s is not None)


@pytest.mark.parametrize(
    "kind",
    [
        errors.CatalogError,
        errors.ModelError,
        errors.PlanError,
        errors.ScenarioError,
        errors.ResultsError,
        errors.TopologyError,
    ],
)
def test_every_mistake_comes_with_a_hint(kind: type[errors.FullmeshError]) -> None:
    assert "hint: " in kind("something is wrong").render()
    assert kind("something is wrong", hint="do this").render().endswith("hint: do this")

"""Golden numbers: what a change must not move unnoticed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fullmesh.machine import load_machine
from fullmesh.outcomes.estimate import Estimate, estimate
from fullmesh.plan import Plan
from fullmesh.workload.readers.huggingface import load_model

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "estimates.json").read_text("utf-8"))
AGAIN = (
    "an estimate has moved. If that is meant, say why in CHANGELOG.md and run `python scripts/golden.py`; "
    "`python scripts/golden.py --compare` shows by how much"
)


@pytest.mark.parametrize("record", GOLDEN["estimates"], ids=[r["name"] for r in GOLDEN["estimates"]])
def test_an_estimate_is_what_it_was(record: dict[str, Any]) -> None:
    fields = {k: tuple(v) if isinstance(v, list) else v for k, v in record["plan"].items()}
    machine = load_machine(record["machine"], num_devices=record["num_devices"])
    found = estimate(load_model(record["model"]), machine, Plan(**fields))
    assert isinstance(found, Estimate), str(found)
    assert found.step_s == pytest.approx(record["step_s"], rel=1e-6), AGAIN
    assert found.memory_bytes == pytest.approx(record["memory_bytes"], rel=1e-6), AGAIN


def test_the_numbers_have_a_passport() -> None:
    passport = GOLDEN["passport"]
    assert set(passport) == {"commit", "date", "versions", "command"}
    assert all(passport.values())
    assert passport["command"] == "python scripts/golden.py"


def test_the_golden_plans_cover_vendors_and_kinds() -> None:
    vendors = {load_machine(r["machine"]).chip.vendor for r in GOLDEN["estimates"]}
    assert vendors == {"nvidia", "huawei"}
    assert {load_model(r["model"]).is_moe for r in GOLDEN["estimates"]} == {True, False}
    assert len({r["machine"] for r in GOLDEN["estimates"]}) >= 6

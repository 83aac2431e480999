"""The fitted constants: what they reproduce, that the fit repeats itself, that broken tables are refused."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from fullmesh.calibrate.collectives import fit as calibrate
from fullmesh.calibrate.collectives.points import (
    COLLECTIVE_COLUMNS,
    Curve,
    read_collectives,
    read_curves,
    read_experts,
    read_nccl,
)
from fullmesh.cost.collectives.constants import PROFILE, parse_profile
from fullmesh.errors import CatalogError, ResultsError
from fullmesh.validate.measured_collectives import BAR_FITTED, BAR_HELD_OUT, score_collectives, summarise


def test_shipped_points_are_reproduced_within_the_bars():
    scores = score_collectives()
    fitted, held = summarise(scores)[-2:]
    assert fitted.fitted_on
    assert not held.fitted_on
    assert fitted.points > 100
    assert held.points > 90
    assert fitted.median_error <= BAR_FITTED
    assert held.median_error <= BAR_HELD_OUT
    assert {s.role for s in scores} == {"fit", "hold", "conflict"}
    for s in scores:
        assert s.error == pytest.approx(s.predicted_s / s.measured_s - 1)


@pytest.mark.parametrize(
    "curve", ["published B200 64x8 ring", "published GB200 NVL72", "HCCL A3 all-gather 16 dies"]
)
def test_each_long_published_curve_is_within_the_bar(curve):
    error = [abs(s.error) for s in score_collectives() if s.curve == curve]
    assert np.median(error) <= BAR_FITTED


def test_profile_says_what_it_was_fitted_on():
    document = json.loads(PROFILE.read_text(encoding="utf-8"))
    assert document["date"]
    roles = {c["role"] for c in document["curves"]}
    assert roles == {"fit", "hold", "conflict"}
    assert all(c["source"] and c["points"] > 0 for c in document["curves"])
    assert document["residuals"]["fit"]["median_error"] <= BAR_FITTED
    assert document["residuals"]["hold"]["median_error"] <= BAR_HELD_OUT
    assert all(f["evidence"] for f in document["fabrics"])


def test_profile_holds_what_the_structure_ties_together():
    document = json.loads(PROFILE.read_text(encoding="utf-8"))
    structure = calibrate.read_start()
    assert len(document["fabrics"]) == len(structure["fabric"])
    mesh, ub = (
        next(f for f in document["fabrics"] if f["kind"] == k and f["vendor"] == "huawei")
        for k in ("mesh", "switch")
    )
    assert mesh["terms"] == ub["terms"]


def test_fit_recovers_known_constants_and_repeats_itself():
    """A small synthetic fabric: the points are the model's own, the start is not."""
    structure = calibrate.read_start()
    truth = json.loads(json.dumps(structure))
    term = next(
        t for t in truth["fabric"][0]["terms"] if t["algorithm"] == "ring" and t["kind"] == "all_gather"
    )
    term.update(fraction=0.61, launch_s=3.1e-5, step_s=2e-6, ramp_s=4e-6, power=0.6, spread=0.4)
    fabrics = parse_profile(calibrate.resolve(truth), "truth")
    num_bytes = np.tile(2.0 ** np.arange(10, 30), 2)
    ranks = np.repeat([2.0, 8.0], 20)
    curve = Curve(
        name="made",
        machine="dgx-a100",
        num_devices=8,
        kind="all_gather",
        algorithm="",
        role="fit",
        harness="",
        source="made",
        ranks=ranks,
        stride=np.ones(40),
        num_bytes=num_bytes,
        seconds=np.ones(40),
    )
    curve = dataclasses.replace(curve, seconds=calibrate.predict(curve, fabrics, {}))
    found = []
    for _ in range(2):
        document = calibrate.read_start()
        calibrate._fit_fabrics(document, ("nvlink-sm80",), ("all_gather", ""), [curve], {}, ())
        found.append(document)
    assert found[0] == found[1]
    error = np.abs(
        calibrate.predict(curve, parse_profile(calibrate.resolve(found[0]), "fit"), {}) / curve.seconds - 1
    )
    assert np.median(error) < 0.01


def test_tables_of_the_schema_are_read(tmp_path):
    table = tmp_path / "nccl_intra_node.csv"
    table.write_text(
        "# a comment, with a comma\n"
        "system,nccl,op_name,num_gpus,bytes,latency_us,busbw_GBps,samples\n"
        "h200_sxm,2.29.2,alltoall,8,1024,8.96,0.1,1\n"
        "h200_sxm,2.29.2,alltoall,8,2048,9.96,0.1,1\n"
        "l40s,2.29.2,alltoall,8,2048,9.96,0.1,1\n"
    )
    (curve,) = read_nccl(table)
    assert curve.kind == "all_to_all"
    assert curve.role == "fit"
    np.testing.assert_allclose(curve.seconds, [8.96e-6, 9.96e-6])
    assert len(read_curves(tmp_path)) == len(read_curves()) + 1


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("system,nccl\n", "is missing"),
        ("system,nccl,op_name,num_gpus,bytes,latency_us\nh200_sxm,1,alltoall,8,1024,fast\n", "latency_us"),
        ("system,nccl,op_name,num_gpus,bytes,latency_us\nh200_sxm,1,alltoall,8,-4,1\n", "bytes"),
        ("system,nccl,op_name,num_gpus,bytes,latency_us\nh200_sxm,1,alltoall\n", "3 fields"),
    ],
)
def test_broken_tables_are_refused(tmp_path, text, says):
    table = tmp_path / "nccl_intra_node.csv"
    table.write_text(text)
    with pytest.raises(ResultsError, match=says):
        read_nccl(table)


def test_unknown_role_and_unit_are_refused(tmp_path):
    row = dict.fromkeys(COLLECTIVE_COLUMNS, "1") | {"kind": "all_reduce", "unit": "us", "role": "guess"}
    table = tmp_path / "points.csv"
    for change, says in (({}, "role"), ({"role": "fit", "unit": "furlongs"}, "unit")):
        values = row | change
        table.write_text(
            ",".join(COLLECTIVE_COLUMNS) + "\n" + ",".join(values[c] for c in COLLECTIVE_COLUMNS) + "\n"
        )
        with pytest.raises(ResultsError, match=says):
            read_collectives(table)


def test_missing_folder_and_tables_are_refused(tmp_path):
    with pytest.raises(ResultsError, match="no such folder"):
        read_curves(tmp_path / "nowhere")
    with pytest.raises(ResultsError, match="missing"):
        calibrate.fit_collectives(tmp_path)
    with pytest.raises(CatalogError, match="structure"):
        calibrate.read_start(tmp_path / "none.toml")


def test_profile_is_written_whole(tmp_path):
    document = json.loads(PROFILE.read_text(encoding="utf-8"))
    path = tmp_path / "p.json"
    calibrate.write_profile(document, path)
    assert path.read_bytes() == PROFILE.read_bytes()
    document["fabrics"][0]["terms"][0]["fraction"] = -1
    with pytest.raises(CatalogError):
        calibrate.write_profile(document, path)
    assert path.read_bytes() == PROFILE.read_bytes()


def test_every_published_point_has_a_source_and_a_machine():
    for curve in read_collectives() + read_experts():
        assert curve.source
        assert (curve.seconds > 0).all()

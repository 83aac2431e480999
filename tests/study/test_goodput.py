"""The whole run through the public function: its keys, its options, its errors, the same bytes by its seed."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import pytest

import fullmesh
from fullmesh.catalog.run_inputs import load_run_inputs
from fullmesh.errors import FullmeshError
from fullmesh.outcomes.goodput.draws import DRAWN
from fullmesh.outcomes.goodput.engine import LOSSES
from fullmesh.outcomes.goodput.forecast import forecast
from fullmesh.outcomes.goodput.policies import POLICIES
from fullmesh.study.goodput import Goodput, read_run_options

SCENARIO = Path(__file__).resolve().parents[2] / "docs" / "examples" / "deepseek-v3-cloudmatrix384.toml"
SMALL: dict[str, Any] = {"tokens": "300B", "runs": 300}


@pytest.fixture(scope="module")
def one() -> Goodput:
    return fullmesh.goodput("llama-3-8b", "h100", units=32, policy="all", grid=400, **SMALL)


def test_keys_of_the_json(one: Goodput) -> None:
    found = json.loads(json.dumps(one.to_dict(), allow_nan=False))
    for key in ("days", "interruptions", "goodput"):
        assert list(found[key]) == ["p10", "p50", "p90"]
        assert found[key]["p10"] <= found[key]["p50"] <= found[key]["p90"]
    for key in (
        "energy_j", "mean_power_w", "peak_power_w", "money_usd", "checkpoint_interval_s", "spares", "seed",
        "tokens_lost", "carbon_kg",
    ):  # fmt: skip
        assert isinstance(found[key], int | float), key
    assert set(found["losses"]) == {f"{k}_s" for k in LOSSES}
    assert found["work_s"] + sum(found["losses"].values()) == pytest.approx(found["wall_s"])
    assert found["checkpoint_interval_flat_s"]["low"] <= found["checkpoint_interval_s"]
    assert [p["policy"] for p in found["policies"]] == list(POLICIES)
    assert found["goodput_definition"]
    assert found["losses_definition"]
    assert all(i["source"] and i["kind"] and i["date"] for i in found["inputs"])


def test_figures_belong_together(one: Goodput) -> None:
    f = one.forecast
    assert f is not None
    for p in f.policies:
        assert p.energy_j is not None
        assert p.mean_power_w is not None
        assert p.peak_power_w is not None
        assert p.mean_power_w.p50 < p.peak_power_w
        assert p.energy_j.p50 == pytest.approx(p.mean_power_w.p50 * p.days.p50 * 86_400, rel=0.1)
        assert p.closed_form_days == pytest.approx(p.days.p50, rel=0.1)
        assert p.money[0].usd.p50 == pytest.approx(p.money[0].usd_per_million_tokens.p50 * 3e5)
        assert p.days.p50 * 86_400 > 0.9 * f.num_tokens / f.estimate.tokens_per_s
    # a run in memory never does worse than one from storage with everything else equal
    by_name = {p.recovery.policy: p for p in f.policies}
    assert (
        by_name["hot-spares"].goodput.p50 >= by_name["memory"].goodput.p50 >= by_name["restart"].goodput.p50
    )
    assert by_name["shrink"].spares == 0


def test_the_same_seed_gives_the_same_bytes() -> None:
    texts = [
        json.dumps(fullmesh.goodput("llama-3-8b", "h100", chips=64, seed=s, **SMALL).to_dict())
        for s in (1, 1, 2)
    ]
    assert texts[0] == texts[1]
    assert texts[0] != texts[2]


def test_a_scenario_and_an_estimate_take_the_place_of_a_model() -> None:
    by_file = fullmesh.goodput(SCENARIO, tokens="100B", runs=50)
    found = fullmesh.simulate(SCENARIO)
    assert isinstance(found, fullmesh.Estimate)
    by_plan = fullmesh.goodput(found, tokens="100B", runs=50)
    assert by_file.to_dict() == by_plan.to_dict()
    assert by_file.num_devices == found.plan.num_devices


def test_a_saved_run_loads_again(one: Goodput, tmp_path: Path) -> None:
    one.save(tmp_path / "run.json")
    assert Goodput.load(tmp_path / "run.json").to_dict() == one.to_dict()


def test_rows_have_the_declared_columns(one: Goodput) -> None:
    from fullmesh.study.goodput_fields import CSV_COLUMNS

    rows = one.to_rows()
    assert len(rows) == len(POLICIES)
    assert all(tuple(row) == CSV_COLUMNS for row in rows)
    assert len(set(CSV_COLUMNS)) == len(CSV_COLUMNS)


def test_no_plan_is_a_result() -> None:
    found = fullmesh.goodput("llama-3.1-405b", "h100", chips=8, tokens="1T", runs=10)
    assert found.forecast is None
    assert found.to_dict()["feasible"] is False
    assert found.to_dict()["limit"]


def days(**changes: Any) -> float:
    found = fullmesh.goodput("llama-3-8b", "h100", units=64, **(SMALL | changes)).forecast
    assert found is not None
    return found.policies[0].closed_form_days


def test_inputs_move_days_as_they_should() -> None:
    plain = days()
    assert days(assume=["detection=0.5 min"]) < plain < days(assume=["detection=30 min"])
    assert days(assume=["asynchronous=0"]) > plain
    assert days(spares=0) > plain
    assert days(power_cap="400W") > plain == days(power_cap="700W")


def test_a_cap_says_what_it_costs_and_a_site_what_it_feeds() -> None:
    f = fullmesh.goodput("llama-3-8b", "h100", units=64, power_cap="400W", site="5MW", **SMALL).forecast
    assert f is not None
    assert f.cap is not None
    assert f.cap.days_with > f.cap.days_without
    assert f.cap.clock < 1
    assert f.site is not None
    assert 300 < f.site.units < 600


def test_twelve_months_of_cooling() -> None:
    winter = fullmesh.goodput("llama-3-8b", "h100", units=64, pue=[1.1] * 6 + [1.6] * 6, **SMALL)
    summer = fullmesh.goodput(
        "llama-3-8b", "h100", units=64, pue=",".join(["1.6"] * 6 + ["1.1"] * 6), **SMALL
    )
    a, b = (g.to_dict()["energy_j"] for g in (winter, summer))
    assert b == pytest.approx(a * 1.6 / 1.1, rel=0.02)


def test_rent_and_purchase_are_never_mixed(tmp_path: Path) -> None:
    both = tmp_path / "prices.csv"
    both.write_text("item,usd,per\nh100-sxm,2.0,device_hour\ndgx-h100,250000,unit\n", encoding="utf-8")
    f = fullmesh.goodput("llama-3-8b", "h100", units=32, prices=both, **SMALL).forecast
    assert f is not None
    rent, purchase = f.policies[0].money
    assert (rent.rented, purchase.rented) == (True, False)
    assert set(rent.parts_usd) == {"rent"}
    assert set(purchase.parts_usd) == {"machines", "network", "electricity", "hosting", "staff"}
    assert all(v > 0 for v in purchase.parts_usd.values())
    assert f.tornado[0].usd_low is not None


def test_the_tornado_is_sorted_and_names_what_moves(one: Goodput) -> None:
    assert one.forecast is not None
    swings = one.forecast.tornado
    sizes = [abs(math.log((s.usd_high or 1) / (s.usd_low or 1))) for s in swings]
    assert sizes == sorted(sizes, reverse=True)
    assert {"step_time", "fault_rates", "price", "detection"} <= {s.key for s in swings}
    # fewer faults are never worse
    rates = next(s for s in swings if s.key == "fault_rates")
    assert rates.days_low <= rates.days_high


def test_ranges_of_inputs_are_in_the_answer() -> None:
    """Recovery times with a range widen what days vary by; given ones have none, and do not."""
    fixed = [
        f"{r.key}={low:g} {r.unit}".removesuffix(" count")
        for r in load_run_inputs().rows
        if r.key in DRAWN and r.unit != "MUSD" and (low := r.stated[1])
    ]

    def goodput_span(assume: list[str]) -> tuple[float, float]:
        found = fullmesh.goodput(
            "llama-3.1-405b", "h100", chips=4096, tokens="3T", runs=600, assume=assume
        ).forecast
        assert found is not None
        p = found.policies[0]
        return p.goodput.p90 - p.goodput.p10, p.closed_form_days

    wide, days_wide = goodput_span([])
    narrow, days_narrow = goodput_span(fixed)
    assert wide > 1.15 * narrow
    assert days_wide == pytest.approx(days_narrow)


def test_a_job_that_shrinks_goes_on_with_the_faster_of_two_plans(one: Goodput) -> None:
    assert one.forecast is not None
    by_name = {p.recovery.policy: p for p in one.forecast.policies}
    smaller = by_name["shrink"].smaller
    assert smaller[0].missing == 1
    assert all(0 < s.speed < 1 for s in smaller)
    assert by_name["shrink"].rejoins_at_once in (True, False)
    assert by_name["restart"].smaller == ()
    assert by_name["restart"].rejoins_at_once is None
    record = one.to_dict()["policies"]
    assert [s["missing"] for s in record[3]["smaller_plans"]] == [s.missing for s in smaller]
    assert "smaller_plans" not in record[0]

    # three ranks of 16 devices leave two without a node; the planner fills five nodes with another layout
    f = fullmesh.goodput("llama-3-70b", "h100", units=6, tokens="1T", policy="shrink", runs=50).forecast
    assert f is not None
    (found,) = f.policies[0].smaller
    assert found.searched
    assert found.devices == 40
    assert found.speed > 2 / 3
    # without a planner there is nothing: the same layout on two ranks does not fit, and the job waits
    options = read_run_options(f.estimate.machine, tokens="1T", policy="shrink", runs=50)
    same = forecast(f.estimate, options).policies[0]
    assert same.smaller == ()
    assert same.closed_form_days > f.policies[0].closed_form_days


def test_a_job_that_cannot_shrink_waits() -> None:
    f = fullmesh.goodput("llama-3-8b", "h100", units=1, tokens="1T", policy="shrink", runs=50).forecast
    assert f is not None
    assert f.policies[0].smaller == ()
    assert f.policies[0].losses_s["fewer_devices"] >= 0


LOG = "node,start,end,cause\n" + "".join(
    f"n{i % 20},{1.0 + 1.7 * i},{1.2 + 1.7 * i},{('GPU', 'NIC', 'kernel panic')[i % 3]}\n" for i in range(60)
)


def test_a_log_is_replayed(tmp_path: Path) -> None:
    log = tmp_path / "faults.csv"
    log.write_text(LOG, encoding="utf-8")
    f = fullmesh.goodput(
        "llama-3-8b", "h100", units=32, tokens="3T", runs=20, faults=log, fault_nodes=32
    ).forecast
    assert f is not None
    assert f.engine == "replay"
    # the log has a fault every 1.7 days
    p = f.policies[0]
    assert p.interruptions.p50 == pytest.approx(p.days.p50 / 1.7, rel=0.1)
    twice = fullmesh.goodput(
        "llama-3-8b", "h100", units=64, tokens="6T", runs=20, faults=log, fault_nodes=32
    ).forecast
    assert twice is not None
    assert twice.policies[0].interruptions.p50 == pytest.approx(2 * twice.policies[0].days.p50 / 1.7, rel=0.1)
    assert any("laid over itself 2 times" in note for note in twice.notes)


def test_supernodes_take_supernodes_as_spares_and_nodes_from_stock() -> None:
    f = fullmesh.goodput(
        "deepseek-v3", "cloudmatrix384", units=4, tokens="1T", runs=50, spares="2 supernodes"
    ).forecast
    assert f is not None
    p = f.policies[0]
    assert (p.spares, p.spare_kind, p.spare_devices) == (2, "supernode", 1536)
    assert p.stock_nodes > 0
    assert any("no power of an Ascend machine" in note for note in f.notes)
    assert any("GPU servers" in note for note in f.notes)
    assert {d.domain: d.effect for d in f.domains}["l2"] == "slow"


def test_a_site_that_swaps_nodes_slowly_keeps_more_supernodes() -> None:
    """Otherwise a slow swap would make a run of many supernodes endless, as nobody would plan it."""
    f = fullmesh.goodput("deepseek-v3", "cloudmatrix384", units=32, tokens="15T", runs=300).forecast
    assert f is not None
    p = f.policies[0]
    assert p.days.p90 < 4 * p.days.p50
    swap = next(s for s in f.tornado if s.key == "node_swap")
    assert swap.usd_low is not None
    assert swap.usd_high is not None
    assert swap.usd_high > 1.05 * swap.usd_low
    assert swap.days_high < 1.2 * swap.days_low
    spares = {}
    for hours in (1, 4, 24):
        found = fullmesh.goodput(
            "deepseek-v3", "cloudmatrix384", units=32, tokens="15T", runs=10, assume=[f"node_swap={hours} h"]
        ).forecast
        assert found is not None
        spares[hours] = found.policies[0].spares
    assert spares[1] < spares[4] == p.spares < spares[24]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"policy": "pray"}, "unknown policy"),
        ({"spares": "many"}, "as spares"),
        ({"spares": "1.5"}, "whole number"),
        ({"units": 2, "chips": 16}, "both given"),
        ({"units": 0}, "out of range"),
        ({"tokens": "much"}, "as tokens"),
        ({"pue": "1.1,1.2"}, "2 figures"),
        ({"pue": 0.9}, "out of range"),
        ({"assume": ["detection"]}, "cannot read"),
        ({"assume": ["detecting=2 min"]}, "unknown input"),
        ({"assume": ["detection=2 GB"]}, "quantity of bytes"),
        ({"assume": ["staff=-1 USD"]}, "not allowed"),
        ({"power_cap": "20W"}, "idle"),
        ({"power_cap": "5 GB"}, "quantity of bytes"),
        ({"site": "-1"}, "negative"),
        ({"runs": 3}, "out of range"),
        ({"seed": -1}, "negative"),
        ({"fault_nodes": 4}, "no log"),
        ({"grid": "nan"}, "not a number"),
        ({"faults": "no-such-file.csv"}, "cannot read"),
    ],
)
def test_mistakes_are_named(changes: dict[str, Any], message: str) -> None:
    asked: dict[str, Any] = {"tokens": "1T", "runs": 10} | changes
    if "units" not in asked:
        asked["chips"] = asked.get("chips", 16)
    with pytest.raises(FullmeshError, match=message):
        fullmesh.goodput("llama-3-8b", "h100", **asked)


def test_more_mistakes() -> None:
    with pytest.raises(FullmeshError, match="no place"):
        fullmesh.goodput("llama-3-8b", "gb200", units=1, tokens="1T", spares="2 nodes")
    with pytest.raises(FullmeshError, match="plan is given"):
        fullmesh.goodput(SCENARIO, "h100", tokens="1T")
    with pytest.raises(FullmeshError, match="no machine"):
        fullmesh.goodput("llama-3-8b", tokens="1T")
    with pytest.raises(FullmeshError, match="is not published"):
        fullmesh.goodput("llama-3-8b", "atlas-800t-a2", chips=16, tokens="1T", site="1MW")


def test_compare_adds_the_run() -> None:
    c = fullmesh.compare("llama-3-8b", "h100,gb200-nvl72", chips=72, run="1T")
    record = c.to_dict()
    assert c.num_tokens == 1e12
    assert all(m["run"]["days"]["p50"] > 0 for m in record["machines"])
    assert [r["figure"] for r in record["run_ratios"]] == [
        "run_days",
        "run_energy",
    ]  # one is rented, one is bought
    for ratio in record["run_ratios"]:
        assert ratio["ratio"] >= 1
        assert ratio["low"] < ratio["ratio"] < ratio["high"]
        assert ratio["tie"] == (ratio["low"] <= 1)
    bought = fullmesh.compare("llama-3-8b", "cloudmatrix384,gb200-nvl72", chips=768, run="1T").run_ratios
    assert [r.figure for r in bought] == ["run_days", "run_energy", "run_money"]
    assert "days_p50" in c.to_rows()[0]
    without = fullmesh.compare("llama-3-8b", "h100,gb200-nvl72", chips=72)
    assert without.to_dict()["run_ratios"] == []
    assert all(m["run"] is None for m in without.to_dict()["machines"])


def test_estimates_without_a_known_error_say_so() -> None:
    found = fullmesh.simulate(SCENARIO)
    assert isinstance(found, fullmesh.Estimate)
    blind = dataclasses.replace(found, interval=dataclasses.replace(found.interval, log_half_width=math.inf))
    f = fullmesh.goodput(blind, tokens="100B", runs=50).forecast
    assert f is not None
    assert any("error of the step is unknown" in note for note in f.notes)

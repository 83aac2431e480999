"""Rates and repair times from a log: counts, censored fits, planned work left out, the file that comes out."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from fullmesh.calibrate.faults import fit_faults, fit_repairs, site_spread
from fullmesh.catalog.fault_log import PLANNED, domain_of, read_fault_log
from fullmesh.catalog.faults import DOMAINS, TRACE_FIT, faults_text, load_faults
from fullmesh.errors import FullmeshError
from fullmesh.machine import load_machine

LOG = """node,start,end,cause,detail
n1,1.0,1.5,GPU,Double Bit ECC
n1,30.0,30.25,GPU,xid error
n2,40.5,,NIC,lost
n3,50,51,Change,cables taken offline
n4,60,62.5,Power Supply,
"""


def written(tmp_path: Path, text: str, name: str = "log.csv") -> Path:
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return path


def test_counts_over_exposure(tmp_path: Path) -> None:
    log = read_fault_log(written(tmp_path, LOG))
    fit = fit_faults(log, load_machine("dgx-h100"), num_nodes=10, span_s=73.05 * 86_400.0)
    assert fit.node_years == pytest.approx(2.0)
    assert fit.counts == {"die": 1, "nic": 1, "package": 1, "power": 1}
    assert fit.planned == 1
    rates = {r.domain: r for r in fit.rates}
    assert rates["power"].rate_per_year == pytest.approx(0.5)
    assert rates["die"].rate_per_year == pytest.approx(1 / 16.0)
    assert fit.per_node_year == pytest.approx(2.0)
    assert math.isnan(fit.site_spread)
    assert rates["site"].kind == "assumed"


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    fit = fit_faults(
        read_fault_log(written(tmp_path, LOG)), load_machine("dgx-h100"), num_nodes=10, span_s=100 * 86_400.0
    )
    table = load_faults(written(tmp_path, faults_text(fit.rates), "rates.csv"))
    assert {r.domain for r in table.rates} == {"die", "nic", "package", "power"}
    assert table.site_spread == 0.5


def test_a_trace_of_events_is_read_as_a_log(tmp_path: Path) -> None:
    def event(node: str, day: float, kind: str) -> dict[str, object]:
        what = {"Level": "Hardware Failure", "Class": "GPU", "Desc": "GPU xid Error"}
        return {"node_id": node, "event_time": day, "event_type": kind, "fault_type": what}

    events = [event("a", 1.0, "fault_start"), event("b", 2.0, "fault_start"), event("a", 3.0, "fault_end")]
    log = read_fault_log(written(tmp_path, json.dumps(events), "trace.json"))
    assert [(f.node, f.start_s / 86400, f.end_s) for f in log.faults] == [
        ("a", 1.0, 3 * 86400.0),
        ("b", 2.0, None),
    ]


def test_dates_are_times(tmp_path: Path) -> None:
    text = "node,start,end,cause\na,2026-03-01T00:00,2026-03-02T12:00,cable\nb,2026-03-03,,GPU\n"
    log = read_fault_log(written(tmp_path, text))
    assert [f.start_s / 86400 for f in log.faults] == [0.0, 2.0]
    assert log.faults[0].end_s == pytest.approx(1.5 * 86400)


def test_censored_repairs_are_not_taken_as_finished() -> None:
    rng = np.random.default_rng(0)
    true = rng.weibull(0.7, 4000) * 20.0
    limit = rng.uniform(0, 60, 4000)
    done = true <= limit
    seen = np.minimum(true, limit)
    fit = fit_repairs(seen, done)
    assert fit.law == "weibull"
    assert fit.parameters == pytest.approx((0.7, 20.0), rel=0.06)
    assert fit.median_h == pytest.approx(20.0 * math.log(2) ** (1 / 0.7), rel=0.06)
    assert fit.censored == int((~done).sum()) > 500
    # the mean of those that were finished alone would be far too short
    assert fit.mean_h > 1.3 * seen[done].mean()


def test_exponential_repairs_are_found_to_be_that() -> None:
    hours = np.random.default_rng(1).exponential(7.0, 300)
    fit = fit_repairs(hours, np.ones(300, dtype=bool))
    assert fit.law == "exponential"
    assert fit.mean_h == pytest.approx(hours.mean())


def test_a_steady_rate_has_no_spread_of_its_own() -> None:
    day = 86_400.0
    steady = np.sort(np.random.default_rng(2).uniform(0, 540 * day, 2000))
    assert site_spread(steady, 540 * day) < 0.1
    bursts = np.concatenate([steady[steady < 270 * day], steady[steady < 54 * day]])
    assert site_spread(bursts, 540 * day) > 0.5


@pytest.mark.parametrize(
    ("cause", "detail", "domain"),
    [
        ("GPU", "GPU DBE(Double Bit ECC) > Threshold", "package"),
        ("GPU", "GPU xid Error", "die"),
        ("GPU", "Silent Data Corruption", "silent"),
        ("Parameter Plane Cable", "Link Down", "cable"),
        ("NIC", "NIC Link Speed low", "nic"),
        ("Change", "Y-cables Taken offline", PLANNED),
        ("Stress Test Failure", "Unknown Error", "node"),
        ("Power Supply", "Redundancy Lost", "power"),
        ("coolant", "", "coolant"),
        ("l2", "", "l2"),
        ("whatever", "", "node"),
    ],
)
def test_causes_name_domains(cause: str, detail: str, domain: str) -> None:
    assert domain_of(cause, detail) == domain


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("node,start\n", "no fault"),
        ("node,start\na,soon\n", "not a number"),
        ("node,start,end\na,2,1\n", "ends before"),
        ("node,when\na,2\n", "when"),
        ("node,start\n,2\n", "empty"),
    ],
)
def test_a_log_that_cannot_be_read_says_where(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(FullmeshError, match=message):
        read_fault_log(written(tmp_path, text))


@pytest.mark.parametrize("text", ["{}", "[1]", '[{"event_type":"x"}]', "[]", "["])
def test_a_trace_that_cannot_be_read_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(FullmeshError):
        read_fault_log(written(tmp_path, text, "t.json"))


def test_more_nodes_than_there_are(tmp_path: Path) -> None:
    with pytest.raises(FullmeshError, match="names 4 nodes"):
        fit_faults(read_fault_log(written(tmp_path, LOG)), load_machine("dgx-h100"), num_nodes=3)


def test_the_shipped_tables_say_where_rates_come_from() -> None:
    shipped, trace = load_faults(), load_faults(TRACE_FIT)
    assert {r.domain for r in shipped.rates} == set(DOMAINS)
    assert all(r.source and r.date != "no date" for r in shipped.rates)
    assert {r.kind for r in shipped.rates} == {"measured", "claimed", "assumed"}
    same = {r.domain: r.rate_per_year for r in shipped.rates}
    assert all(same[r.domain] == r.rate_per_year for r in trace.rates if r.domain != "silent")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("gpu,stop,1,0,0,measured", "unknown domain"),
        ("die,stop,-1,0,0,measured", "negative"),
        ("die,breaks,1,0,0,measured", "effect"),
        ("die,stop,1,0,0,seen", "kind"),
        ("site,stop,1,0,0,measured", "does not belong"),
        ("site,factor,1,0,0,measured", "no rate"),
    ],
)
def test_a_table_of_rates_is_read_strictly(tmp_path: Path, row: str, message: str) -> None:
    head = "domain,effect,rate_per_year,spread,repair_mean_h,kind\n"
    with pytest.raises(FullmeshError, match=message):
        load_faults(written(tmp_path, head + row + "\n", "rates.csv"))

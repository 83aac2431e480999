"""Settings that people ran: what a search picks for them, and the order of their plans."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import pytest

from conftest import CommandLine
from fullmesh.evidence.results import read_results
from fullmesh.validate.decisions import Decisions, decide
from fullmesh.validate.gate import decision_checks
from fullmesh.validate.score import Report


@pytest.fixture(scope="module")
def decided(shipped_report: Report) -> Decisions:
    rows = [r for r in read_results() if r.n_gpus and r.n_gpus <= 16 and r.publisher == "nvidia-nemo"][:40]
    return decide(shipped_report, rows)


def test_every_setting_has_the_best_of_its_rows(decided: Decisions, shipped_report: Report) -> None:
    published = {r.id: r.published_step_s for r in shipped_report.rows}
    assert len(decided.settings) >= 5
    for d in decided.settings:
        assert d.published_s == pytest.approx(min(published[i] or 1e9 for i in d.rows))
        assert d.ratio == pytest.approx(d.published_s / d.best_s)
        assert d.exploratory_s is None or d.exploratory_s < d.best_s


def test_pairs_are_those_that_differ(decided: Decisions) -> None:
    assert 0 <= decided.ordered <= decided.pairs


def test_a_group_has_its_own_quantiles(decided: Decisions) -> None:
    kind = decided.settings[0].kind
    ratios = [d.ratio for d in decided.settings if d.kind == kind]
    assert min(ratios) <= decided.quantile(0.5, kind=kind) <= max(ratios)
    assert math.isnan(decided.quantile(0.5, kind="none"))


def test_a_promise_beyond_what_was_reached_fails_the_gate(decided: Decisions) -> None:
    faster = dataclasses.replace(
        decided,
        settings=tuple(dataclasses.replace(d, best_s=d.published_s / 2.0) for d in decided.settings),
    )
    lost = {c.name for c in decision_checks(faster) if not c.holds}
    assert "best published over best plan, median" in lost
    right = dataclasses.replace(decided, pairs=10, ordered=8)
    assert "pairs ordered rightly" in {c.name for c in decision_checks(right) if not c.holds}


def test_order_is_judged_by_predictions_without_the_configuration(shipped_report: Report) -> None:
    """Predictions turned around order what they ordered wrongly, and nothing else."""
    turned = dataclasses.replace(
        shipped_report,
        rows=tuple(
            dataclasses.replace(
                r, cross_validated_step_s=r.cross_validated_step_s and 1.0 / r.cross_validated_step_s
            )
            for r in shipped_report.rows
        ),
    )
    rows = [r for r in read_results() if r.publisher in ("simumax", "mosaicml")]
    ways = [decide(report, [r for r in rows if r.n_gpus == 8]) for report in (shipped_report, turned)]
    assert ways[0].pairs == ways[1].pairs
    assert ways[0].ordered + ways[1].ordered == ways[0].pairs


def test_the_command_prints_and_writes_decisions(tmp_path: Path, command_line: CommandLine) -> None:
    table = tmp_path / "some.csv"
    from fullmesh.evidence.results import SHIPPED_RESULTS

    lines = SHIPPED_RESULTS[1].read_text("utf-8").splitlines(keepends=True)
    table.write_text(
        "".join([lines[0], *(line for line in lines[1:] if ",ibm-fms," in line)]), encoding="utf-8"
    )
    code, out, _ = command_line(
        "validate", "--results", str(table), "--decisions", "--json", str(tmp_path / "d.json")
    )
    assert code == 0
    assert "ordered rightly" in out
    record = json.loads((tmp_path / "d.json").read_text("utf-8"))
    assert record["groups"][0]["group"] == "all"
    assert record["groups"][0]["settings"] == len(record["settings"]) > 0

"""Scoring: statuses and reasons of a user's own table, the records, the command, and the gate."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from fullmesh.evidence.cases import case_table
from fullmesh.evidence.published import is_headline, published_step_s
from fullmesh.evidence.results import COLUMNS, SHIPPED_RESULTS, read_results
from fullmesh.validate.gate import checks
from fullmesh.validate.naive import naive_step_s
from fullmesh.validate.records import report_record
from fullmesh.validate.score import Refused, Report, RowScore, errors_of, score

CommandLine = Callable[..., tuple[int, str, str]]
# the names that the JSON must have; more may stand beside them
ROW_KEYS = {
    "id",
    "status",
    "reason",
    "tier",
    "phase",
    "published_step_s",
    "predicted_step_s",
    "cross_validated_step_s",
    "low_s",
    "high_s",
    "memory_kind",
    "published_memory_bytes",
    "predicted_memory_bytes",
    "fitted_on",
}
STATUSES = {"ok", "unsupported", "no_step_time", "outlier"}
BASE = {
    "tier": "A",
    "phase": "pretrain",
    "framework": "NeMo 26.04 container, Megatron-Core",
    "gpu": "H100",
    "n_gpus": "64",
    "model": "Llama-3-70B",
    "seq": "8192",
    "precision": "BF16",
    "TP": "4",
    "PP": "4",
    "DP": "4",
    "mbs": "1",
    "gbs": "128",
    "recompute": "none",
    "step_s": "10",
    "publisher": "me",
    "run_key": "mine",
}
# six rows, as a user might write them down
USER = [
    {"id": "good", "mem_reserved_gib": "70"},
    {"id": "moe", "model": "Mixtral-8x7B", "TP": "1", "PP": "1", "DP": "64", "EP": "8", "gbs": "256", "seq": "4096"},
    {"id": "tokens", "step_s": "", "tok_s_gpu": "1500"},
    {"id": "device", "gpu": "TPU v5p"},
    {"id": "silent", "step_s": ""},
    {"id": "contradiction", "n_gpus": "60"},
]  # fmt: skip


def table(*rows: dict[str, str]) -> str:
    out = io.StringIO()
    writer = csv.DictWriter(out, COLUMNS, restval="", extrasaction="ignore")
    writer.writeheader()
    for row in rows:
        writer.writerow(BASE | row)
    return out.getvalue()


@pytest.fixture
def user_file(tmp_path: Path) -> Path:
    path = tmp_path / "mine.csv"
    path.write_text(table(*USER), "utf-8")
    return path


@pytest.fixture
def user_rows(user_file: Path) -> dict[str, RowScore]:
    return {r.id: r for r in score(read_results(user_file)).rows}


def test_every_row_has_a_status_and_the_others_a_reason(user_rows: dict[str, RowScore]) -> None:
    assert {k: r.status for k, r in user_rows.items()} == {
        "good": "ok",
        "moe": "ok",
        "tokens": "ok",
        "device": "unsupported",
        "silent": "no_step_time",
        "contradiction": "unsupported",
    }
    assert "TPU v5p" in user_rows["device"].reason
    assert "does not divide 60" in user_rows["contradiction"].reason
    assert "neither a step time nor tokens" in user_rows["silent"].reason
    for name in ("good", "moe", "tokens"):
        assert user_rows[name].reason == ""


def test_what_is_not_predicted_has_no_figures(user_rows: dict[str, RowScore]) -> None:
    for name in ("device", "contradiction"):
        r = user_rows[name]
        assert r.predicted_step_s is r.cross_validated_step_s is r.low_s is r.high_s is None
        assert math.isnan(r.error())
        assert r.published_step_s == 10
    assert user_rows["silent"].published_step_s is None


def test_what_is_predicted_has_an_interval_around_it(user_rows: dict[str, RowScore]) -> None:
    for name in ("good", "moe", "tokens"):
        r = user_rows[name]
        assert r.predicted_step_s is not None
        assert r.low_s is not None
        assert r.high_s is not None
        assert 0 < r.low_s < r.cross_validated_step_s < r.high_s  # type: ignore[operator]
        assert r.error() == pytest.approx(r.predicted_step_s / r.published_step_s - 1)  # type: ignore[operator]
    assert user_rows["tokens"].published_step_s == pytest.approx(128 * 8192 / 1500 / 64)


def test_nothing_of_a_users_configurations_was_fitted_on(user_rows: dict[str, RowScore]) -> None:
    for r in user_rows.values():
        assert r.fitted_on is False
        assert r.cross_validated_step_s == r.predicted_step_s


def test_memory_is_compared_like_with_like(user_rows: dict[str, RowScore]) -> None:
    good = user_rows["good"]
    assert good.memory_kind == "reserved"
    assert good.published_memory_bytes == 70 * 2**30
    assert good.predicted_memory_bytes is not None
    assert good.predicted_memory_bytes > 0
    allocated = score(_rows({"id": "a", "mem_allocated_gib": "60", "mem_reserved_gib": "70"})).rows[0]
    assert allocated.memory_kind == "allocated"
    assert allocated.predicted_memory_bytes < good.predicted_memory_bytes  # type: ignore[operator]
    assert user_rows["moe"].memory_kind == ""
    assert user_rows["moe"].predicted_memory_bytes is None


def _rows(*rows: dict[str, str]):  # type: ignore[no-untyped-def]
    from fullmesh.evidence.results import _row

    return tuple(
        _row({c: (BASE | r).get(c, "") for c in COLUMNS}, 2 + i, f"table, line {2 + i}")
        for i, r in enumerate(rows)
    )


def test_a_plan_that_ran_but_would_be_refused_is_counted() -> None:
    report = score(_rows({"id": "fits", "recompute": "full"}, {"id": "large", "mbs": "16", "gbs": "512"}))
    shares = {r.id: r.memory_share for r in report.rows}
    assert shares["fits"] is not None
    assert shares["large"] is not None
    assert shares["fits"] < 1.0 < shares["large"]
    assert report.refused["all"] == Refused(rows=2, refused=1, largest_share=shares["large"])


def test_a_row_that_only_publishes_memory_is_not_timed() -> None:
    r = score(_rows({"id": "m", "step_s": "", "mem_allocated_gib": "40"}, {"id": "x"})).rows[0]
    assert (r.status, r.reason) == ("no_step_time", "only memory is published")
    assert r.predicted_memory_bytes is not None


def test_outliers_are_named_and_not_scored() -> None:
    rows = _rows(
        {"id": "a"}, {"id": "b", "step_s": "10.1"}, {"id": "c", "step_s": "9.9"}, {"id": "d", "step_s": "30"}
    )
    report = score(rows)
    assert [r.status for r in report.rows] == ["ok", "ok", "ok", "outlier"]
    assert "times the median" in report.rows[3].reason
    lines = {e.group: e.rows for e in report.headline}
    assert lines["cross-validated over configurations"] == 3
    assert lines["cross-validated, outliers included"] == 4


def test_a_bad_prediction_is_reported_as_bad() -> None:
    report = score(_rows({"id": "a", "step_s": "1000"}, {"id": "b", "step_s": "0.001"}))
    line = report.headline[0]
    assert line.worst > 100
    assert report.shipped is False


def test_a_configuration_that_was_fitted_on_is_marked_by_what_it_ran() -> None:
    """The key of the table alone is not enough: a user may keep it and change the run."""
    shipped = {r.id: r for r in read_results()}
    row = next(
        r for r in shipped.values() if is_headline(r) and r.step_s and r.gbs and r.model == "Llama-3-70B"
    )
    assert score((row,)).rows[0].fitted_on is True
    changed = dataclasses.replace(row, gbs=row.gbs * 2, step_s=(row.step_s or 1) * 2)  # type: ignore[operator]
    assert score((changed,)).rows[0].fitted_on is False


class TestReport:
    def test_all_rows_are_there_in_their_order(self, shipped_report: Report) -> None:
        assert [r.id for r in shipped_report.rows] == [r.id for r in read_results()]
        assert shipped_report.shipped is True

    def test_statuses(self, shipped_report: Report) -> None:
        for r in shipped_report.rows:
            assert r.status in STATUSES
            assert (r.reason == "") == (r.status == "ok")
            if r.status == "ok":
                assert r.published_step_s
                assert r.predicted_step_s
                assert r.cross_validated_step_s

    def test_only_headline_rows_were_fitted_on(self, shipped_report: Report) -> None:
        rows = {r.id: r for r in read_results()}
        fitted = [r for r in shipped_report.rows if r.fitted_on]
        assert len(fitted) > 500
        assert all(is_headline(rows[r.id]) and r.status == "ok" for r in fitted)

    def test_held_out_predictions_differ_from_fitted_ones(self, shipped_report: Report) -> None:
        fitted = [r for r in shipped_report.rows if r.fitted_on]
        differing = sum(r.cross_validated_step_s != r.predicted_step_s for r in fitted)
        assert differing > 0.95 * len(fitted)
        without = sum(r.left_out_publisher_step_s != r.predicted_step_s for r in fitted)
        assert without > 0.95 * len(fitted)

    def test_fitted_error_is_not_above_the_held_out_one(self, shipped_report: Report) -> None:
        by_group = {e.group: e for e in shipped_report.headline}
        held_out, fitted = (
            by_group[k] for k in ("cross-validated over configurations", "fitted on these rows")
        )
        assert fitted.median <= held_out.median
        assert fitted.rows == held_out.rows

    def test_groups_partition_the_headline(self, shipped_report: Report) -> None:
        total = shipped_report.headline[0].rows
        for name, group in shipped_report.groups.items():
            if name != "outside the headline":
                assert sum(e.rows for e in group) == total, name

    def test_coverage_is_that_of_intervals_made_without_the_fold(self, shipped_report: Report) -> None:
        """The recorded coverage is that of intervals made without the results that they are held against."""
        count, share = shipped_report.interval_coverage["all"]
        scored = [
            r for r in shipped_report.rows if r.status == "ok" and r.tier in "AB" and r.phase == "pretrain"
        ]
        assert count == len(scored)
        of_themselves = np.mean([r.low_s <= r.published_step_s <= r.high_s for r in scored])  # type: ignore[operator]
        assert of_themselves == pytest.approx(share, abs=0.03)
        assert 0.75 < share < 0.85
        unseen, of_unseen = shipped_report.interval_coverage["unseen publishers: all"]
        assert unseen == len(scored)
        assert 0.7 < of_unseen < 0.9


def test_errors_of_a_group() -> None:
    e = errors_of("g", np.array([0.1, -0.2, 0.3, np.nan]))
    assert (e.rows, e.median, e.worst) == (3, pytest.approx(0.2), pytest.approx(0.3))
    assert e.mean == pytest.approx(0.2)
    assert e.bias == pytest.approx(0.1)
    assert e.p90 == pytest.approx(np.quantile([0.1, 0.2, 0.3], 0.9))
    empty = errors_of("none", np.array([np.nan]))
    assert empty.rows == 0
    assert math.isnan(empty.median)


def test_the_naive_model_is_one_efficiency_a_class() -> None:
    from fullmesh.workload.flops import model_flop_per_token

    rows = _rows(
        {"id": "a", "step_s": "10"}, {"id": "b", "step_s": "20"}, {"id": "c", "step_s": "40"},
        {"id": "other", "precision": "FP8"}, {"id": "wide", "gbs": "256", "step_s": "1000"},
    )  # fmt: skip
    cases = case_table(rows)[0].cases
    times = np.array([10.0, 20.0, 40.0, 10.0, 1000.0])
    use = np.array([True, True, True, False, False])
    found = naive_step_s(cases, times, use)
    assert found[:3] == pytest.approx([20.0] * 3)
    assert math.isnan(found[3])
    # twice the batch: twice the work, and half the share of the bubble (pp 4: 3 over 32 micro-batches, then 64)
    assert found[4] == pytest.approx(40.0 * (1 + 3 / 64) / (1 + 3 / 32))
    assert model_flop_per_token(cases[0].model, 8192) > 0


def test_the_naive_model_knows_chips_without_bf16() -> None:
    from fullmesh.evidence.mapping import row_case

    case = row_case(
        _rows({"id": "a", "gpu": "Ascend 910A", "model": "Llama-2-7B", "precision": "FP16", "seq": "4096"})[0]
    )
    assert naive_step_s([case], np.array([10.0]), np.array([True]))[0] == pytest.approx(10.0)


def test_records_have_the_agreed_names_and_no_nan(shipped_report: Report, user_file: Path) -> None:
    without_memory = score(_rows({"id": "a"}))
    assert math.isnan(without_memory.memory_median)
    for report in (shipped_report, score(read_results(user_file)), without_memory):
        record = report_record(report)
        assert set(record) == {"rows", "summary"}
        assert len(record["rows"]) == len(report.rows)
        for row in record["rows"]:
            assert set(row) >= ROW_KEYS
            assert isinstance(row["fitted_on"], bool)
        json.dumps(record, allow_nan=False)
    assert {"coverage", "headline", "groups", "memory", "interval_coverage"} <= set(record["summary"])


class TestCommand:
    def test_a_users_table(self, command_line: CommandLine, user_file: Path, tmp_path: Path) -> None:
        out = tmp_path / "out.json"
        code, printed, _ = command_line("validate", "--results", str(user_file), "--json", str(out))
        assert code == 0
        data = json.loads(out.read_text("utf-8"))
        assert [r["id"] for r in data["rows"]] == [r["id"] for r in USER]
        assert "summary" in data
        assert "TPU v5p" in printed
        assert "Gate" not in printed

    def test_a_users_table_is_never_gated(self, command_line: CommandLine, tmp_path: Path) -> None:
        path = tmp_path / "terrible.csv"
        path.write_text(
            table(*({"id": f"r{i}", "step_s": str(1000 + i), "run_key": f"k{i}"} for i in range(20))), "utf-8"
        )
        code, printed, err = command_line("validate", "--results", str(path))
        assert code == 0
        assert "LOST" not in printed + err

    def test_json_to_standard_output_is_json_alone(self, command_line: CommandLine, user_file: Path) -> None:
        code, printed, _ = command_line("validate", "--results", str(user_file), "--json", "-")
        assert code == 0
        assert len(json.loads(printed)["rows"]) == len(USER)

    def test_a_table_of_which_nothing_can_be_predicted_gives_the_reasons(
        self, command_line: CommandLine, tmp_path: Path
    ) -> None:
        path, out = tmp_path / "other.csv", tmp_path / "out.json"
        path.write_text(table({"id": "a", "gpu": "TPU v5p"}, {"id": "b", "step_s": ""}), "utf-8")
        code, _, _ = command_line("validate", "--results", str(path), "--json", str(out))
        assert code == 0
        rows = json.loads(out.read_text("utf-8"))["rows"]
        assert [r["status"] for r in rows] == ["unsupported", "no_step_time"]

    @pytest.mark.parametrize(
        ("spoil", "what"),
        [
            (lambda t: t.replace("n_gpus", "num_gpus", 1), "n_gpus"),
            (lambda t: t.replace(",8192,", ",81x92,", 1), "81x92"),
            (lambda t: t.replace(",8192,", ",-8192,", 1), "-8192"),
            (lambda t: t[: len(t) // 2], "bad.csv:"),
            (lambda t: "", "column"),
            (lambda t: t + '"unclosed', "CSV"),
            (lambda t: t.splitlines()[0], "no rows"),
            (lambda t: "\x00" + t, "NUL"),
        ],
    )
    def test_a_corrupt_table_is_one_clear_error(
        self, command_line: CommandLine, tmp_path: Path, spoil: Callable[[str], str], what: str
    ) -> None:
        path, out = tmp_path / "bad.csv", tmp_path / "out.json"
        path.write_text(spoil(table(*USER)), "utf-8")
        code, printed, err = command_line("validate", "--results", str(path), "--json", str(out))
        assert code == 2
        assert printed == ""
        assert err.startswith("error: ")
        assert err.count("error:") == 1
        assert what in err
        assert "bad.csv" in err
        assert "Traceback" not in err
        assert not out.exists()

    def test_a_missing_table(self, command_line: CommandLine, tmp_path: Path) -> None:
        code, _, err = command_line("validate", "--results", str(tmp_path / "none.csv"))
        assert code == 2
        assert "none.csv" in err

    def test_a_device_without_bf16_is_scored_or_refused_with_a_reason(self) -> None:
        row = {
            "id": "a", "gpu": "Ascend 910A", "n_gpus": "8", "model": "Llama-2-7B", "seq": "4096", "precision": "FP16",
            "TP": "8", "PP": "1", "DP": "1", "gbs": "16", "recompute": "full",
        }  # fmt: skip
        found = {r.id: r for r in score(_rows(row, {"id": "b"})).rows}["a"]
        assert found.status == "ok" or (found.status == "unsupported" and found.reason)

    def test_the_shipped_table_passes_or_names_what_was_lost(
        self,
        command_line: CommandLine,
        shipped_report: Report,
        monkeypatch: pytest.MonkeyPatch,
        tmp_path: Path,
    ) -> None:
        monkeypatch.setattr("fullmesh.validate.score.score", lambda rows=None, own=False: shipped_report)
        out = tmp_path / "out.json"
        code, printed, err = command_line("validate", "--json", str(out))
        lost = [c.name for c in checks(shipped_report) if not c.holds]
        assert code == (1 if lost else 0)
        assert ("accuracy lost: " + "; ".join(lost) in err) == bool(lost)
        assert "Gate" in printed
        assert len(json.loads(out.read_text("utf-8"))["rows"]) == 795 + 118

    def test_a_lost_level_fails(
        self, command_line: CommandLine, shipped_report: Report, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        worse = dataclasses.replace(shipped_report, memory_median=0.9)
        monkeypatch.setattr("fullmesh.validate.score.score", lambda rows=None, own=False: worse)
        code, printed, err = command_line("validate")
        assert code == 1
        assert "LOST" in printed
        assert "peak memory" in err


def worsened(report: Report, **changes: object) -> Report:
    return dataclasses.replace(report, **changes)  # type: ignore[arg-type]


class TestGate:
    def lost(self, report: Report) -> set[str]:
        return {c.name for c in checks(report) if not c.holds}

    def test_each_check_can_be_lost(self, shipped_report: Report) -> None:
        def times(errors, factor):  # type: ignore[no-untyped-def]
            return dataclasses.replace(
                errors, median=errors.median * factor, p90=errors.p90 * factor, bias=errors.bias * factor
            )

        bad = worsened(
            shipped_report,
            coverage={"tier A": (1, 100), "tier B": (1, 100)},
            outliers=(50, 100),
            headline=tuple(
                times(e, 1.0 if e.group.startswith("naive") else 20.0) for e in shipped_report.headline
            ),
            groups={k: tuple(times(e, 20.0) for e in g) for k, g in shipped_report.groups.items()},
            memory_median=0.5,
            memory_left_out=tuple(times(e, 20.0) for e in shipped_report.memory_left_out),
            refused={"all": Refused(rows=10, refused=5, largest_share=2.0)},
            interval_coverage={"all": (100, 0.99), "unseen publishers: torchtitan": (20, 0.4)},
        )
        kept = {c.name for c in checks(bad)} - self.lost(bad)
        assert kept == {"80 % interval covers, at least"}
        narrow = worsened(shipped_report, interval_coverage={"all": (100, 0.5)})
        assert "80 % interval covers, at least" in self.lost(narrow)

    def test_few_results_of_a_publisher_are_not_held_to_a_limit(self, shipped_report: Report) -> None:
        few = {
            "all": (100, 0.8),
            "unseen publishers: deepseek": (2, 0.0),
            "unseen publishers: A100": (50, 0.1),
        }
        assert not any(
            "any publisher" in name for name in self.lost(worsened(shipped_report, interval_coverage=few))
        )

    @pytest.mark.parametrize(
        ("change", "name"),
        [
            ({"memory_median": 0.2}, "peak memory, mean of publishers' medians"),
            ({"memory_median": float("nan")}, "peak memory, mean of publishers' medians"),
            ({"interval_coverage": {"all": (9, 0.95)}}, "80 % interval covers, at most"),
            ({"interval_coverage": {"all": (0, float("nan"))}}, "80 % interval covers, at least"),
        ],
    )
    def test_one_figure_alone(self, shipped_report: Report, change: dict[str, object], name: str) -> None:
        assert name in self.lost(worsened(shipped_report, **change))

    def test_a_small_family_is_not_held_to_the_limit_and_a_large_one_is(self, shipped_report: Report) -> None:
        groups = dict(shipped_report.groups)
        bad = dataclasses.replace(groups["chip family"][0], group="New chip", median=0.9)
        for rows, is_lost in ((9, False), (10, True)):
            groups["chip family"] = (
                *shipped_report.groups["chip family"], dataclasses.replace(bad, rows=rows),
            )  # fmt: skip
            lost = self.lost(worsened(shipped_report, groups=groups))
            assert any("New chip" in name for name in lost) is is_lost

    def test_the_shipped_level_is_kept(self, shipped_report: Report) -> None:
        assert self.lost(shipped_report) == set()


def test_the_shipped_table_is_what_is_scored_by_default() -> None:
    assert SHIPPED_RESULTS[0].is_file()


class TestHeldOut:
    """What is reported of publishers that no fit had seen."""

    def test_the_naive_model_is_held_out_as_ours(self, shipped_report: Report) -> None:
        lines = {e.group: e for e in shipped_report.headline}
        for how in ("cross-validated", "whole publishers left out"):
            ours = lines[
                "whole publishers left out" if how.startswith("whole") else f"{how} over configurations"
            ]
            naive = lines[f"naive model, {how}"]
            assert naive.rows == ours.rows
            assert naive.median > lines["naive model, fitted on these rows"].median
            assert naive.median > 1.5 * ours.median

    def test_memory_of_publishers_left_out(self, shipped_report: Report) -> None:
        everyone, *publishers = shipped_report.memory_left_out
        assert everyone.rows == sum(p.rows for p in publishers) == sum(m.rows for m in publishers)
        fitted = {m.group: m for m in shipped_report.memory}
        # what was never seen is not known better than what was fitted on
        assert all(p.median >= 0.9 * fitted[p.group].median for p in publishers)
        assert 0.0 < shipped_report.memory_short < 1.0

    def test_few_shot(self, shipped_report: Report) -> None:
        assert len(shipped_report.few_shot) >= 12
        for found in shipped_report.few_shot.values():
            assert [f.shots for f in found] == [1, 3]
        gained = [found[-1].after / found[-1].before for found in shipped_report.few_shot.values()]
        assert np.median(gained) < 0.85


def test_naive_model_held_out_sees_no_row_of_its_group() -> None:
    rows = [r for r in read_results() if r.publisher in ("simumax", "torchtitan") and published_step_s(r)]
    table, _ = case_table(rows)
    assert table is not None
    published = np.array([published_step_s(c.row) for c in table.cases])
    who = np.array([c.row.publisher for c in table.cases])
    use = np.ones(len(published), dtype=bool)
    before = naive_step_s(table.cases, published, use, who)
    mine = who == "simumax"
    moved = np.where(mine, published * 3.0, published)
    after = naive_step_s(table.cases, moved, use, who)
    assert after[mine] == pytest.approx(before[mine])
    assert (after[~mine] != before[~mine]).any()
    assert not np.isnan(before).any()

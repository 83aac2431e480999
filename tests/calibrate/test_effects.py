"""Fitting: known parameters come back, slopes are right, the same rows give the same file."""

from __future__ import annotations

import collections
import datetime
import functools
import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fullmesh.calibrate.effects import fit as step_fit
from fullmesh.calibrate.effects import published as published_fit
from fullmesh.calibrate.effects.fit import design, fit_memory, fit_step, profile_of, robust_fit
from fullmesh.calibrate.effects.published import fit_published, write_step_fit
from fullmesh.cost.effects import EffectProfile, effect_keys, load_terms, term_index
from fullmesh.cost.step import step_time
from fullmesh.errors import OutputError
from fullmesh.evidence import published as published_rows
from fullmesh.evidence.cases import CaseTable, case_table
from fullmesh.evidence.published import is_headline, published_step_s
from fullmesh.evidence.results import ResultRow, read_results
from fullmesh.files import write_json

HEADLINE = [r for r in read_results() if is_headline(r) and published_step_s(r)]


def some_rows(count: int) -> list[ResultRow]:
    return HEADLINE[:: len(HEADLINE) // count][:count]


@pytest.fixture(scope="module")
def table() -> CaseTable:
    return case_table(some_rows(40))[0]


class TestRobustFit:
    """A line through points, with a prior too wide to matter."""

    x = np.linspace(-1, 1, 60)
    truth = np.array([0.7, -1.3])
    wide = np.array([100.0, 100.0])

    def fit(
        self, y: np.ndarray, prior: np.ndarray, scatter: float = 0.01, start: np.ndarray | None = None
    ) -> np.ndarray:
        basis = np.stack([np.ones_like(self.x), self.x], axis=1)
        return robust_fit(
            lambda p: (basis @ p - y) / scatter,
            lambda p: basis / scatter,
            np.zeros(2) if start is None else start,
            prior,
        )

    def test_known_parameters_come_back(self) -> None:
        found = self.fit(self.truth[0] + self.truth[1] * self.x, self.wide)
        assert found == pytest.approx(self.truth, abs=1e-3)

    @pytest.mark.parametrize("size", [1.0, 10.0, 1000.0])
    def test_outliers_hardly_move_them(self, size: float) -> None:
        rng = np.random.default_rng(7)
        y = self.truth[0] + self.truth[1] * self.x + rng.normal(0, 0.01, self.x.size)
        spoiled = y.copy()
        spoiled[[3, 17, 30, 44, 58]] += size
        robust = self.fit(spoiled, self.wide)
        least_squares = np.polyfit(self.x, spoiled, 1)[::-1]
        assert robust == pytest.approx(self.truth, abs=0.02)
        assert np.abs(least_squares - self.truth).max() > 3 * np.abs(robust - self.truth).max()

    def test_a_tight_prior_holds_effects_at_zero(self) -> None:
        y = self.truth[0] + self.truth[1] * self.x
        found = self.fit(y, np.array([100.0, 1e-4]))
        assert abs(found[1]) < 0.01
        assert self.fit(np.zeros_like(self.x), self.wide) == pytest.approx([0, 0], abs=1e-9)

    @pytest.mark.parametrize("start", [-2.0, 0.0, 0.9, 3.0])
    def test_one_residual_balances_against_its_prior(self, start: float) -> None:
        # minimum of 2 (sqrt(1 + (x - 1)^2) - 1) + x^2: (x - 1) / sqrt(1 + (x - 1)^2) + x = 0
        found = robust_fit(lambda p: p - 1.0, lambda p: np.ones((1, 1)), np.array([start]), np.ones(1))[0]
        assert (found - 1) / np.sqrt(1 + (found - 1) ** 2) + found == pytest.approx(0, abs=5e-3)

    @settings(max_examples=25, deadline=None)
    @given(st.floats(-3, 3), st.floats(-3, 3), st.floats(-5, 5))
    def test_where_it_starts_does_not_matter(self, a: float, b: float, start: float) -> None:
        found = self.fit(a + b * self.x, self.wide, start=np.array([start, -start]))
        assert found == pytest.approx([a, b], abs=5e-3)

    def test_a_curved_problem(self) -> None:
        truth = np.array([0.4, 0.9])

        def model(p: np.ndarray) -> np.ndarray:
            return np.exp(p[0]) * (2 + np.sin(p[1] + 3 * self.x))

        def slopes(p: np.ndarray) -> np.ndarray:
            return np.stack([model(p), np.exp(p[0]) * np.cos(p[1] + 3 * self.x)], axis=1) / 0.01

        found = robust_fit(lambda p: (model(p) - model(truth)) / 0.01, slopes, np.zeros(2), self.wide)
        assert found == pytest.approx(truth, abs=1e-3)


class TestDesign:
    def test_an_entry_stands_where_an_effect_applies_to_a_term(self, table: CaseTable) -> None:
        d = design("step", table.settings)
        terms = load_terms("step")
        assert d.matrix.shape == (len(table.settings), len(terms), len(d.names))
        assert set(np.unique(d.matrix)) == {0.0, 1.0}
        for s, setting in enumerate(table.settings):
            for t, term in enumerate(terms):
                named = {d.names[i] for i in np.flatnonzero(d.matrix[s, t])}
                assert named == {key for key, _ in effect_keys(term, setting)}

    def test_every_effect_has_a_prior_and_a_row_that_shows_it(self, table: CaseTable) -> None:
        d = design("step", table.settings)
        assert list(d.names) == sorted(set(d.names))
        assert d.matrix.any(axis=(0, 1)).all()
        assert (d.prior_sd > 0).all()
        # an effect belongs to one term
        assert (d.matrix.any(axis=0).sum(axis=0) == 1).all()

    def test_the_order_of_the_settings_does_not_change_the_names(self, table: CaseTable) -> None:
        assert design("step", table.settings[::-1]).names == design("step", table.settings).names

    def test_a_vector_and_a_profile_of_effects_give_the_same_terms(self, table: CaseTable) -> None:
        d = design("step", table.settings)
        effects = np.round(np.random.default_rng(3).normal(0, 0.3, len(d.names)), 4)
        profile = EffectProfile(effects=d.profile(effects), provenance={})
        by_name = profile.table("step", table.settings, table.setting_index)
        by_vector = d.table(effects, table.setting_index)
        np.testing.assert_allclose(by_name.values, by_vector.values, rtol=1e-12)

    def test_zeros_are_left_out_of_the_profile(self, table: CaseTable) -> None:
        d = design("step", table.settings)
        effects = np.zeros(len(d.names))
        effects[0] = 0.12345678
        effects[1] = 1e-6
        assert d.profile(effects) == {d.names[0]: 0.1235}


def test_slopes_of_the_step_are_those_of_finite_differences(
    table: CaseTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    caught: dict[str, Callable[[np.ndarray], np.ndarray]] = {}

    def catch(residuals, jacobian, start, prior_sd, **_):  # type: ignore[no-untyped-def]
        caught.update(residuals=residuals, jacobian=jacobian)
        return start

    monkeypatch.setattr(step_fit, "robust_fit", catch)
    published = np.array([published_step_s(c.row) or 1.0 for c in table.cases])
    d, start = fit_step(table, published, np.ones(len(table.cases), dtype=bool))
    rng = np.random.default_rng(11)
    at = start + rng.normal(0, 0.2, len(start))
    slopes = caught["jacobian"](at)
    assert slopes.shape == (len(table.cases), len(d.names))
    step = 1e-4
    for e in rng.choice(len(d.names), 25, replace=False):
        moved = np.zeros(len(at))
        moved[e] = step
        central = (caught["residuals"](at + moved) - caught["residuals"](at - moved)) / (2 * step)
        np.testing.assert_allclose(slopes[:, e], central, rtol=2e-3, atol=2e-3)


def test_residuals_are_the_logarithm_of_predicted_over_published(
    table: CaseTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    caught = {}

    def catch(residuals, jacobian, start, prior_sd, **_):  # type: ignore[no-untyped-def]
        caught["r"] = residuals(start)
        return start

    monkeypatch.setattr(step_fit, "robust_fit", catch)
    d = design("step", table.settings)
    predicted = step_time(
        table.stages, table.plans, d.table(np.zeros(len(d.names)), table.setting_index)
    ).step_s
    in_order = np.empty(len(table.cases))
    in_order[table.order] = predicted
    use = np.ones(len(table.cases), dtype=bool)
    fit_step(table, in_order, use)
    np.testing.assert_allclose(caught["r"], 0, atol=1e-9)
    fit_step(table, in_order / np.exp(step_fit.STEP_SCATTER), use)
    np.testing.assert_allclose(caught["r"], 1, atol=1e-9)


def test_effects_put_into_step_times_come_back_out_of_them(table: CaseTable) -> None:
    d = design("step", table.settings)
    truth = np.zeros(len(d.names))
    truth[d.names.index("linear")] = 0.2
    truth[d.names.index("launch")] = 0.5
    times = step_time(table.stages, table.plans, d.table(truth, table.setting_index)).step_s
    published = np.empty(len(table.cases))
    published[table.order] = times
    use = np.ones(len(table.cases), dtype=bool)
    _, found = fit_step(table, published, use)
    fitted = step_time(table.stages, table.plans, d.table(found, table.setting_index)).step_s
    before = step_time(table.stages, table.plans, d.table(np.zeros_like(truth), table.setting_index)).step_s
    assert np.abs(np.log(before / times)).max() > 0.1
    assert np.abs(np.log(fitted / times)).max() < 0.02


def test_rows_that_are_not_used_do_not_move_the_fit() -> None:
    table = case_table(some_rows(12))[0]
    published = np.array([published_step_s(c.row) or 1.0 for c in table.cases])
    use = np.arange(len(table.cases)) % 2 == 0
    _, a = fit_step(table, published, use)
    _, b = fit_step(table, np.where(use, published, 1e6), use)
    np.testing.assert_array_equal(a, b)


def test_memory_effects_follow_what_is_published(table: CaseTable) -> None:
    with_memory = [r for r in read_results() if r.mem_reserved_gib or r.mem_allocated_gib][:8]
    t, _ = case_table(with_memory)
    allocated, _ = t.peak_memory(EffectProfile(effects={}, provenance={}))
    nan = np.full(len(t.cases), np.nan)
    use = np.ones(len(t.cases), dtype=bool)
    more = profile_of(fit_memory(t, allocated * 1.1, nan, use))
    same = profile_of(fit_memory(t, allocated, nan, use))
    assert np.abs(np.log(t.peak_memory(same)[0] / allocated)).max() < 0.01
    assert np.median(t.peak_memory(more)[0] / allocated) == pytest.approx(1.1, abs=0.04)


@pytest.fixture(scope="module")
def two_publishers() -> list[ResultRow]:
    counts = collections.Counter(r.publisher for r in HEADLINE)
    names = sorted(counts, key=lambda name: (counts[name], name))[-2:]
    return [r for name in names for r in [q for q in HEADLINE if q.publisher == name][:160:8]]


class TestPublishedFit:
    def fit(self, rows: list[ResultRow], monkeypatch: pytest.MonkeyPatch) -> published_fit.StepFit:
        # two folds and a few steps each show what ten folds fitted to the end do
        few = functools.partial(robust_fit, max_steps=4)
        monkeypatch.setattr(step_fit, "robust_fit", few)
        monkeypatch.setattr(published_fit, "NUM_FOLDS", 2)
        monkeypatch.setattr(published_rows, "NUM_FOLDS", 2)
        return fit_published(rows)

    def test_the_same_rows_give_the_same_files(
        self, two_publishers: list[ResultRow], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        rows, date = two_publishers, datetime.date(2026, 1, 2)
        for folder in ("a", "b"):
            fit = self.fit(rows, monkeypatch)
            write_step_fit(fit, rows, tmp_path / folder, date)
        names = sorted(p.name for p in (tmp_path / "a").iterdir())
        assert names == ["intervals.json", "step.json", "step_held_out.json"]
        for name in names:
            assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
        step = json.loads((tmp_path / "a" / "step.json").read_text("utf-8"))
        assert step["provenance"]["date"] == "2026-01-02"
        ran = {published_rows.configuration(r) for r in rows}
        assert step["provenance"]["configurations"] == len(ran)
        assert list(step["effects"]) == sorted(step["effects"])
        assert step["effects"] == fit.profile.effects
        assert {k.split("|")[0] for k in step["effects"]} <= set(term_index("step")) | set(
            term_index("memory")
        )
        held_out = json.loads((tmp_path / "a" / "step_held_out.json").read_text("utf-8"))
        assert len(held_out["folds"]) == 2
        assert set(held_out["publishers"]) == {r.publisher for r in rows}
        assert set(held_out["configurations"]) == ran
        groups = json.loads((tmp_path / "a" / "intervals.json").read_text("utf-8"))["groups"]
        assert groups["any|any"]["rows"] == len(rows)
        assert groups["any|any"]["low"] < groups["any|any"]["high"]


class TestIntervals:
    def make(self, table: CaseTable, residual: np.ndarray) -> dict[str, dict[str, float]]:
        return published_fit._intervals(table, residual, residual, np.ones(len(residual), dtype=bool))

    def test_levels_leave_a_tenth_on_either_side(self, table: CaseTable) -> None:
        n = len(table.cases)
        residual = np.random.default_rng(5).permutation(np.linspace(-1, 1, n))
        found = self.make(table, residual)["any|any"]
        assert found["rows"] == n
        inside = ((residual >= found["low"]) & (residual <= found["high"])).mean()
        assert 0.75 <= inside <= 0.87
        assert found["low"] == pytest.approx(-found["high"], abs=1e-3)

    def test_small_groups_are_left_to_the_pooled_one(self, table: CaseTable) -> None:
        found = self.make(table, np.zeros(len(table.cases)))
        counts: dict[str, int] = {}
        for case in table.cases:
            kind = "moe" if case.model.is_moe else "dense"
            for key in (f"{case.machine.chip.family}|{kind}", f"any|{kind}"):
                counts[key] = counts.get(key, 0) + 1
        for key, count in counts.items():
            assert (key in found) == (count >= published_fit.MIN_ROWS)

    def test_a_new_result_falls_inside_eight_times_of_ten(self, table: CaseTable) -> None:
        rng = np.random.default_rng(2)
        hits = []
        for _ in range(200):
            found = self.make(table, rng.normal(0, 1, len(table.cases)))["any|any"]
            new = rng.normal(0, 1, 20)
            hits.append(((new >= found["low"]) & (new <= found["high"])).mean())
        assert np.mean(hits) == pytest.approx(0.8, abs=0.02)


def umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


class TestWriting:
    def test_a_file_is_json_with_a_last_line(self, tmp_path: Path) -> None:
        path = tmp_path / "deep" / "x.json"
        write_json(path, {"a": 1, "ü": [1.5]})
        text = path.read_text("utf-8")
        assert json.loads(text) == {"a": 1, "ü": [1.5]}
        assert "ü" in text
        assert text.endswith("\n")
        assert path.stat().st_mode & 0o777 == 0o666 & ~umask()

    def test_what_cannot_be_written_leaves_the_old_file(self, tmp_path: Path) -> None:
        path = tmp_path / "x.json"
        write_json(path, {"a": 1})
        with pytest.raises(TypeError):
            write_json(path, {"a": object()})
        assert json.loads(path.read_text("utf-8")) == {"a": 1}
        assert os.listdir(tmp_path) == ["x.json"]

    def test_a_failing_disk_leaves_no_temporary_file(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail(*_: object) -> None:
            raise OSError("disk full")

        path = tmp_path / "x.json"
        monkeypatch.setattr(os, "replace", fail)
        with pytest.raises(OutputError, match="disk full"):
            write_json(path, {"a": 1})
        assert os.listdir(tmp_path) == []

"""Fitting: known parameters come back, slopes are right, the same rows give the same file."""

from __future__ import annotations

import collections
import dataclasses
import datetime
import functools
import io
import json
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fullmesh.calibrate.effects import fit as step_fit
from fullmesh.calibrate.effects import published as published_fit
from fullmesh.calibrate.effects.fit import (
    StepProblem,
    design,
    fit_memory,
    fit_step,
    profile_of,
    robust_fit,
    step_problem,
)
from fullmesh.calibrate.effects.intervals import (
    COVERAGE,
    LARGEST_NOISE,
    NORMAL,
    HeldOut,
    _ends,
    fit_intervals,
    fit_memory_intervals,
    predict_held_out,
    uncertainty_of,
)
from fullmesh.calibrate.effects.published import fit_published, packed, write_step_fit
from fullmesh.calibrate.effects.spread import WIDEST, estimate_spread
from fullmesh.cost.effects import EffectProfile, effect_keys, level_of, load_terms, term_index
from fullmesh.cost.uncertainty import LEAST_STRENGTH, Uncertainty
from fullmesh.errors import OutputError
from fullmesh.evidence import published as published_rows
from fullmesh.evidence.cases import CaseTable, case_table
from fullmesh.evidence.published import is_headline, published_step_s
from fullmesh.evidence.results import ResultRow, read_results
from fullmesh.files import write_json
from fullmesh.outcomes.support import num_missing

HEADLINE = [r for r in read_results() if is_headline(r) and published_step_s(r)]


def some_rows(count: int) -> list[ResultRow]:
    return HEADLINE[:: len(HEADLINE) // count][:count]


@pytest.fixture(scope="module")
def table() -> CaseTable:
    return case_table(some_rows(40))[0]


def published_of(table: CaseTable) -> np.ndarray:
    return np.array([published_step_s(c.row) or 1.0 for c in table.cases])


def all_of(table: CaseTable) -> np.ndarray:
    return np.ones(len(table.cases), dtype=bool)


def predicted_s(table: CaseTable, effects: dict[str, float]) -> np.ndarray:
    return table.step_times(EffectProfile(effects=effects, provenance={})).step_s


@pytest.fixture(scope="module")
def problem(table: CaseTable) -> StepProblem:
    return step_problem(table, published_of(table), all_of(table))


@pytest.fixture(scope="module")
def fitted(problem: StepProblem) -> np.ndarray:
    return fit_step(problem)


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

    def test_what_is_assumed_of_a_setting_is_there_without_effects(self, table: CaseTable) -> None:
        graphs = tuple(
            dataclasses.replace(s, graph=graph) for s in table.settings for graph in ("none", "full")
        )
        d = design("step", graphs)
        expected = [[term.offset(s) for term in load_terms("step")] for s in graphs]
        np.testing.assert_array_equal(d.summed(np.zeros(len(d.names))), expected)
        issue = d.offsets[:, term_index("step")["issue"]]
        assert (issue[0::2] == 0).all()
        assert (issue[1::2] < -1).all()
        moved = np.zeros(len(d.names))
        moved[d.names.index("issue")] = 0.25
        difference = d.summed(moved) - d.summed(np.zeros(len(d.names)))
        assert difference[:, term_index("step")["issue"]] == pytest.approx(0.25)
        assert np.count_nonzero(difference) == len(graphs)

    def test_a_spread_takes_the_place_of_what_was_expected_of_its_level(self, table: CaseTable) -> None:
        expected = design("step", table.settings)
        given = design("step", table.settings, {"all|publisher": 0.37})
        assert given.names == expected.names
        of_level = np.array([level_of(name) == "all|publisher" for name in given.names])
        assert of_level.any()
        assert (given.prior_sd[of_level] == 0.37).all()
        np.testing.assert_array_equal(given.prior_sd[~of_level], expected.prior_sd[~of_level])

    def test_zeros_are_left_out_of_the_profile(self, table: CaseTable) -> None:
        d = design("step", table.settings)
        effects = np.zeros(len(d.names))
        effects[0] = 0.12345678
        effects[1] = 1e-6
        assert d.profile(effects) == {d.names[0]: 0.1235}


def test_slopes_of_the_step_are_those_of_finite_differences(problem: StepProblem) -> None:
    rng = np.random.default_rng(11)
    count = len(problem.design.names)
    at = rng.normal(0, 0.2, count)
    slopes = problem.jacobian(at)
    assert slopes.shape == (len(problem.table.cases), count)
    np.testing.assert_allclose(slopes, problem.gradients(at) / step_fit.STEP_SCATTER)
    step = 1e-4
    for e in rng.choice(count, 25, replace=False):
        moved = np.zeros(count)
        moved[e] = step
        central = (problem.residuals(at + moved) - problem.residuals(at - moved)) / (2 * step)
        np.testing.assert_allclose(slopes[:, e], central, rtol=2e-3, atol=2e-3)


def test_residuals_are_the_logarithm_of_predicted_over_published(table: CaseTable) -> None:
    predicted, use = predicted_s(table, {}), all_of(table)
    exact = step_problem(table, predicted, use)
    zeros = np.zeros(len(exact.design.names))
    np.testing.assert_allclose(exact.residuals(zeros), 0, atol=1e-9)
    slower = step_problem(table, predicted / np.exp(step_fit.STEP_SCATTER), use)
    np.testing.assert_allclose(slower.residuals(zeros), 1, atol=1e-9)


def test_residuals_and_slopes_are_those_of_the_rows_that_are_used(problem: StepProblem) -> None:
    table = problem.table
    use = np.arange(len(table.cases)) % 3 == 0
    part = step_problem(table, problem.published_s, use)
    zeros = np.zeros(len(part.design.names))
    chosen = use[table.order]
    np.testing.assert_array_equal(part.residuals(zeros), problem.residuals(zeros)[chosen])
    np.testing.assert_array_equal(part.jacobian(zeros), problem.jacobian(zeros)[chosen])


def test_effects_put_into_step_times_come_back_out_of_them(table: CaseTable) -> None:
    times = predicted_s(table, {"linear": 0.2, "issue": 0.5})
    problem = step_problem(table, times, all_of(table))
    d = problem.design
    fitted = predicted_s(table, d.profile(fit_step(problem)))
    before = predicted_s(table, {})
    assert np.abs(np.log(before / times)).max() > 0.1
    assert np.abs(np.log(fitted / times)).max() < 0.02


def test_rows_that_are_not_used_do_not_move_the_fit() -> None:
    table = case_table(some_rows(12))[0]
    published = published_of(table)
    use = np.arange(len(table.cases)) % 2 == 0
    a = fit_step(step_problem(table, published, use))
    b = fit_step(step_problem(table, np.where(use, published, 1e6), use))
    np.testing.assert_array_equal(a, b)
    other = fit_step(step_problem(table, np.where(use, 2 * published, published), use))
    assert np.abs(other - a).max() > 0.1


def test_memory_effects_follow_what_is_published(table: CaseTable) -> None:
    with_memory = [r for r in read_results() if r.mem_reserved_gib or r.mem_allocated_gib][:8]
    t, _ = case_table(with_memory)
    allocated, _, _ = t.peak_memory(EffectProfile(effects={}, provenance={}))
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
            (tmp_path / folder).mkdir()
            write_step_fit(fit, rows, tmp_path / folder, date)
        names = sorted(p.name for p in (tmp_path / "a").iterdir())
        assert names == ["intervals.json", "step.json", "step_fits.npz", "support.json"]
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
        assert step["spread"] == fit.profile.spread
        assert {level_of(name) for name in fit.uncertainty.names} == set(step["spread"])
        with np.load(tmp_path / "a" / "step_fits.npz") as arrays:
            self.check_arrays(fit, dict(arrays))
        assert set(fit.by_publisher) == {r.publisher for r in rows}
        assert set(fit.configurations) == ran
        intervals = json.loads((tmp_path / "a" / "intervals.json").read_text("utf-8"))
        assert intervals["rows"] == len(rows)
        assert intervals["low"] < intervals["high"]
        assert intervals["coverage"]["all"][0] == len(rows)
        assert intervals["coverage"]["unseen publishers: all"][0] == len(rows)
        table, _ = case_table(rows)
        chips = collections.Counter(c.machine.chip.id for c in table.cases)
        assert intervals["chips"] == fit.chips == dict(chips)
        self.check_support(fit, table, json.loads((tmp_path / "a" / "support.json").read_text("utf-8")))

    def check_arrays(self, fit: published_fit.StepFit, arrays: dict[str, np.ndarray]) -> None:
        """Every fit that left rows out, and the covariance, stand in the file."""
        assert tuple(arrays["configurations"]) == fit.configurations
        assert list(arrays["held_out_publishers"]) == list(fit.by_publisher)
        held_out = [
            {n: v for n, v in zip(arrays["held_out_names"], effects, strict=True) if v != 0.0}
            for effects in arrays["held_out_effects"]
        ]
        assert held_out == [p.effects for p in (*fit.by_fold, *fit.by_publisher.values())]
        assert len(fit.by_fold) == 2
        assert held_out[0] != held_out[1]
        u = fit.uncertainty
        assert tuple(arrays["names"]) == u.names
        for name in ("deviation", "directions", "strength"):
            np.testing.assert_allclose(arrays[name], getattr(u, name), rtol=1e-6, atol=1e-6)

    def check_support(self, fit: published_fit.StepFit, table: CaseTable, document: dict) -> None:  # type: ignore[type-arg]
        """What was fitted on is supported, and nothing else is."""
        known = {key: frozenset((a, b) for a, b in pairs) for key, pairs in document["pairs"].items()}
        assert known == {key: frozenset(pairs) for key, pairs in fit.support.items()}
        for group in table.groups:
            assert not num_missing(group.model, group.machine, group.plans, known).any()
        assert document["best_mfu"] == fit.best_mfu
        assert {key.rsplit("|", 1)[0] for key in fit.best_mfu} == set(known)
        assert all(0.02 < mfu < 1.0 for mfu in fit.best_mfu.values())


def spread_of(table: CaseTable, effects: dict[str, float]) -> dict[str, float]:
    return dict(estimate_spread(table, predicted_s(table, effects), all_of(table)))


@pytest.fixture(scope="module")
def alike(table: CaseTable) -> dict[str, float]:
    """Deviations of levels where no effect differs from zero."""
    return spread_of(table, {})


class TestSpread:
    """How much the effects of a level differ, from step times whose effects are known."""

    def test_every_level_has_one_within_bounds(self, table: CaseTable, alike: dict[str, float]) -> None:
        d = design("step", table.settings)
        expected = {level_of(n): sd for n, sd in zip(d.names, d.prior_sd, strict=True)}
        assert set(alike) == set(expected)
        for level, sd in alike.items():
            assert sd >= round(expected[level] / WIDEST, 4) - 1e-9
            # results that a fit without effects explains make no level wider
            assert sd <= expected[level] * 1.01

    def test_publishers_that_differ_widen_their_own_level(
        self, table: CaseTable, alike: dict[str, float]
    ) -> None:
        publishers = sorted({s.publisher for s in table.settings})
        assert len(publishers) > 2
        differ = {f"all|publisher={name}": 0.4 * (-1) ** i for i, name in enumerate(publishers)}
        found = spread_of(table, differ)
        assert found["all|publisher"] > 1.3 * alike["all|publisher"]
        assert (
            found["all|publisher"] == max((found[level] / alike[level], found[level]) for level in found)[1]
        )
        assert found["all|publisher"] <= 0.4


@st.composite
def precisions(draw: st.DrawFn, weakest: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Deviations, a precision whose strengths against them are zero or above the weakest, and gradients."""
    size = draw(st.integers(1, 9))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    deviation = np.exp(rng.uniform(-3, 1, size))
    directions = np.linalg.qr(rng.normal(size=(size, size)))[0]
    strength = np.where(rng.random(size) < 0.3, 0.0, np.exp(rng.uniform(np.log(weakest), np.log(1e4), size)))
    scaled = directions @ np.diag(strength) @ directions.T
    return deviation, scaled / np.outer(deviation, deviation), rng.normal(size=(5, size))


def dense_variance(deviation: np.ndarray, precision: np.ndarray, gradients: np.ndarray) -> np.ndarray:
    covariance = np.linalg.inv(precision + np.diag(deviation**-2.0))
    return np.einsum("ne,ef,nf->n", gradients, covariance, gradients)


class TestUncertainty:
    @settings(max_examples=60, deadline=None)
    @given(precisions(weakest=2 * LEAST_STRENGTH))
    def test_the_variance_is_that_of_the_dense_covariance(
        self, drawn: tuple[np.ndarray, np.ndarray, np.ndarray]
    ) -> None:
        deviation, precision, gradients = drawn
        u = Uncertainty.of([str(i) for i in range(len(deviation))], deviation, precision)
        dense = dense_variance(deviation, precision, gradients)
        before = ((gradients * deviation) ** 2).sum(axis=1)
        # what results take away of the variance is a difference of numbers as large as before them
        assert (np.abs(u.variance(gradients) - dense) <= 1e-6 * dense + 1e-9 * before).all()

    @settings(max_examples=60, deadline=None)
    @given(precisions(weakest=LEAST_STRENGTH / 100))
    def test_weak_directions_left_out_make_it_a_little_larger_never_smaller(
        self, drawn: tuple[np.ndarray, np.ndarray, np.ndarray]
    ) -> None:
        deviation, precision, gradients = drawn
        u = Uncertainty.of([str(i) for i in range(len(deviation))], deviation, precision)
        dense = dense_variance(deviation, precision, gradients)
        slack = 1e-9 * ((gradients * deviation) ** 2).sum(axis=1)
        found = u.variance(gradients)
        assert (found >= dense - slack).all()
        assert (found <= (1.0 + LEAST_STRENGTH) * dense * (1 + 1e-6) + slack).all()

    def test_the_variances_of_step_times_are_those_of_the_covariance_of_the_fit(
        self, problem: StepProblem, fitted: np.ndarray
    ) -> None:
        table = problem.table
        profile = EffectProfile(
            effects=dict(zip(problem.design.names, fitted.tolist(), strict=True)), provenance={}
        )
        found = table.log_variances(profile, uncertainty_of(problem, fitted))[table.order]
        gradients = problem.gradients(fitted)
        dense = np.einsum("re,ef,rf->r", gradients, problem.covariance(fitted), gradients)
        assert (dense > 0).all()
        assert (found > 0.99 * dense).all()
        assert (found < 1.02 * (1.0 + LEAST_STRENGTH) * dense).all()
        # the results have said something
        before = (gradients**2 * problem.design.prior_sd**2).sum(axis=1)
        assert (dense < before / 4).all()

    def test_a_publisher_never_seen_is_less_sure_than_one_that_was(
        self, problem: StepProblem, fitted: np.ndarray
    ) -> None:
        table = problem.table
        new = dataclasses.replace(
            table, settings=tuple(dataclasses.replace(s, publisher="new") for s in table.settings)
        )
        u = uncertainty_of(problem, fitted)
        profile = profile_of((problem.design, fitted))
        seen, unseen = table.log_variances(profile, u), new.log_variances(profile, u)
        assert (unseen > seen).all()
        assert np.median(unseen) > 1.5 * np.median(seen)
        # a step is as uncertain as publishers differ: its logarithm moves by as much as their effect does
        wider = dataclasses.replace(profile, spread={"all|publisher": 0.5})
        (expected,) = {
            sd
            for term in load_terms("step")
            for key, sd in effect_keys(term, new.settings[0])
            if level_of(key) == "all|publisher"
        }
        np.testing.assert_allclose(new.log_variances(wider, u) - unseen, 0.5**2 - expected**2, rtol=1e-3)
        np.testing.assert_array_equal(table.log_variances(wider, u), seen)

    def test_results_of_a_publisher_left_out_are_less_sure_than_with_them(
        self, problem: StepProblem, fitted: np.ndarray
    ) -> None:
        table, published = problem.table, problem.published_s
        publisher = np.array([c.row.publisher for c in table.cases])
        counts = collections.Counter(publisher.tolist())
        held = publisher == sorted(counts, key=lambda name: (counts[name], name))[-1]
        part = step_problem(table, published, ~held)
        found = profile_of((part.design, fit_step(part)))
        piece = predict_held_out(table, found, part, published, held)
        np.testing.assert_array_equal(piece.cases, np.flatnonzero(held))
        predicted = table.step_times(found).step_s
        np.testing.assert_allclose(piece.residual, np.log(published / predicted)[held])
        seen = table.log_variances(profile_of((problem.design, fitted)), uncertainty_of(problem, fitted))
        assert (piece.variance > seen[held]).all()


def piece(residual: np.ndarray, sd: float | np.ndarray, kind: str, group: str, first: int = 0) -> HeldOut:
    count = len(residual)
    return HeldOut(
        cases=np.arange(first, first + count),
        residual=residual,
        variance=np.broadcast_to(np.asarray(sd, dtype=float) ** 2, count).copy(),
        kind=kind,
        group=group,
    )


def normal_pieces(rng: np.random.Generator, count: int, noise: float, bias: float = 0.0) -> list[HeldOut]:
    """Residuals with the variances that they have, and the same noise; some cases are much less sure than others."""
    out = []
    for kind, center in (("configuration", 0.05), ("publisher", 0.15)):
        for group in ("a", "b"):
            sd = center * np.exp(rng.normal(0, 0.3, count))
            scatter = np.sqrt(sd**2 + noise**2)
            out.append(piece(scatter * (rng.normal(0, 1, count) + bias), sd, kind, group))
    return out


def share_inside(pieces: list[HeldOut], ends: tuple[float, float, float]) -> dict[str, float]:
    noise, low, high = ends
    out: dict[str, list[bool]] = {}
    for p in pieces:
        z = p.residual / np.sqrt(p.variance + noise**2)
        out.setdefault(p.kind, []).extend(((z >= low) & (z <= high)).tolist())
    return {kind: float(np.mean(inside)) for kind, inside in out.items()}


class TestIntervals:
    """Noise and ends, from pieces whose distribution is known."""

    @pytest.mark.parametrize("noise", [0.03, 0.08, 0.2])
    def test_noise_and_ends_of_normal_residuals_come_back(self, noise: float) -> None:
        found, low, high = _ends(normal_pieces(np.random.default_rng(5), 6000, noise))
        assert found == pytest.approx(noise, rel=0.08)
        assert low == pytest.approx(-NORMAL, abs=0.05)
        assert high == pytest.approx(NORMAL, abs=0.05)

    @pytest.mark.parametrize("bias", [-0.7, 0.0, 0.4])
    def test_a_tenth_is_left_on_either_side(self, bias: float) -> None:
        pieces = normal_pieces(np.random.default_rng(6), 1500, 0.05, bias)
        noise, low, high = _ends(pieces)
        edge = (1 - COVERAGE) / 2
        below, above = [], []
        for kind in ("configuration", "publisher"):
            z = np.concatenate(
                [p.residual / np.sqrt(p.variance + noise**2) for p in pieces if p.kind == kind]
            )
            below.append((z < low).mean())
            above.append((z > high).mean())
        # a tenth of the kind that needs more, less of the other
        assert max(below) == pytest.approx(edge, abs=0.003)
        assert max(above) == pytest.approx(edge, abs=0.003)
        assert np.sign(low + high) == np.sign(bias) or bias == 0.0

    def test_a_new_result_falls_inside_eight_times_of_ten(self) -> None:
        rng = np.random.default_rng(2)
        inside = collections.defaultdict(list)
        for _ in range(100):
            ends = _ends(normal_pieces(rng, 60, 0.06))
            for kind, share in share_inside(normal_pieces(rng, 60, 0.06), ends).items():
                inside[kind].append(share)
        assert set(inside) == {"configuration", "publisher"}
        for shares in inside.values():
            # the end that reaches further holds for both kinds, so each is held a little oftener
            assert COVERAGE - 0.01 <= np.mean(shares) <= COVERAGE + 0.04

    def test_noise_is_nothing_where_effects_explain_all_and_has_an_end(self) -> None:
        rng = np.random.default_rng(8)
        sure, wild = rng.normal(0, 0.02, 500), rng.normal(0, 50, 500)
        for residual, expected in ((sure, 0.0), (wild, LARGEST_NOISE)):
            pieces = [piece(residual, 0.1, "configuration", "0"), piece(residual, 0.1, "publisher", "a")]
            assert _ends(pieces)[0] == pytest.approx(expected, abs=1e-9)

    @pytest.mark.parametrize("wide", ["configuration", "publisher"])
    def test_an_end_reaches_as_far_as_the_kind_that_needs_more(self, wide: str) -> None:
        near = np.linspace(-0.1, 0.1, 5001)
        far = np.linspace(-1, 1, 1001)
        residual = {"configuration": near, "publisher": near} | {wide: far}
        noise, low, high = _ends([piece(r, 0.2, kind, "0") for kind, r in residual.items()])
        scatter = np.sqrt(0.2**2 + noise**2)
        assert low == pytest.approx(-0.8 / scatter, abs=0.01 / scatter)
        assert high == pytest.approx(0.8 / scatter, abs=0.01 / scatter)

    def test_a_piece_is_held_to_intervals_that_have_not_seen_it(self, table: CaseTable) -> None:
        even = np.linspace(-0.1, 0.1, 10)
        plain = [piece(even, 0.08, "configuration", str(k), 10 * k) for k in range(4)]
        publishers = [piece(even, 0.08, "publisher", "plain", 0), piece(even, 0.08, "publisher", "also", 10)]
        odd = piece(np.full(10, 3.0), 0.08, "publisher", "odd", 20)
        pieces = [*plain, *publishers, odd]
        found = fit_intervals(table, pieces)
        # together with it, a sixth of all weight lies out there: its results would be inside
        noise, _, high = _ends(pieces)
        assert (odd.residual / np.sqrt(odd.variance + noise**2) <= high).all()
        assert found.coverage["unseen publishers: odd"] == (10, 0.0)
        assert found.coverage["unseen publishers: plain"][1] >= 0.8
        assert found.coverage["unseen publishers: all"][0] == 30
        assert found.coverage["all"][0] == found.rows == 40
        assert found.low < 0 < found.high == pytest.approx(high, abs=1e-4)

    def test_coverage_counts_every_result_once_by_family(self, table: CaseTable) -> None:
        rng = np.random.default_rng(4)
        residual = rng.normal(0, 0.1, len(table.cases))
        parts = (slice(0, 15), slice(15, 40))
        pieces = [
            piece(residual[part], 0.1, kind, f"{i}", part.start)
            for kind in ("configuration", "publisher")
            for i, part in enumerate(parts)
        ]
        found = fit_intervals(table, pieces).coverage
        families = collections.Counter(c.machine.chip.family for c in table.cases)
        expected = {"all": 40, **families}
        named = {"0": 15, "1": 25}
        unseen = {f"unseen publishers: {key}": n for key, n in (expected | named).items()}
        assert {key: count for key, (count, _) in found.items()} == expected | unseen
        total, share = found["all"]
        inside = sum(count * part for key, (count, part) in found.items() if key in families)
        assert inside == pytest.approx(total * share, abs=0.01)
        assert list(found) == sorted(found)

    def test_the_deviation_of_publishers_left_out_has_all_causes(self, table: CaseTable) -> None:
        rng = np.random.default_rng(9)
        residual = rng.normal(0, 0.2, 40)
        pieces = [
            piece(rng.normal(0, 0.05, 20), 0.05, "configuration", "0", 0),
            piece(rng.normal(0, 0.05, 20), 0.05, "configuration", "1", 20),
            piece(residual[:20], 0.1, "publisher", "a", 0),
            piece(residual[20:], 0.1, "publisher", "b", 20),
        ]
        found = fit_intervals(table, pieces).unseen
        assert (np.abs(residual) <= NORMAL * found).mean() == pytest.approx(COVERAGE, abs=0.03)
        assert found == pytest.approx(0.2, rel=0.3)

    def test_two_plans_of_one_setting_are_compared_and_no_others(self, table: CaseTable) -> None:
        first = table.cases[0]
        other = dataclasses.replace(first, plan=dataclasses.replace(first.plan, mbs=first.plan.mbs * 2))
        batch = dataclasses.replace(first, plan=dataclasses.replace(first.plan, gbs=first.plan.gbs * 2))
        again = dataclasses.replace(first)

        def within(*cases: object) -> float:
            made = dataclasses.replace(table, cases=cases)
            residual = np.array([0.1, 0.17, 0.9])[: len(cases)]
            pieces = [
                piece(residual[:1], 0.1, "configuration", "0", 0),
                piece(residual[1:], 0.1, "configuration", "1", 1),
                piece(residual[:1], 0.1, "publisher", "a", 0),
                piece(residual[1:], 0.1, "publisher", "b", 1),
            ]
            return fit_intervals(made, pieces).within_setting

        assert within(first, other, batch) == pytest.approx(0.07)
        assert within(first, other, again) == pytest.approx(np.quantile([0.07, 0.73], COVERAGE), abs=1e-4)
        assert within(first, again) is None


class TestPacked:
    arrays = {  # noqa: RUF012
        "names": np.array(["linear", "all|publisher=é"]),
        "effects": np.arange(12, dtype=np.float64).reshape(3, 4).T,
        "nothing": np.zeros((0, 3), dtype=np.float32),
    }

    def test_the_same_arrays_give_the_same_bytes_at_any_time(self, monkeypatch: pytest.MonkeyPatch) -> None:
        made = []
        for now in (1.6e9, 1.7e9):
            with monkeypatch.context() as patch:
                patch.setattr("time.time", lambda now=now: now)
                made.append(packed({name: values.copy() for name, values in self.arrays.items()}))
        assert made[0] == made[1]
        changed = self.arrays | {"effects": self.arrays["effects"] + 1e-9}
        assert packed(changed) != made[0]

    def test_numpy_reads_it_back(self) -> None:
        with np.load(io.BytesIO(packed(self.arrays)), allow_pickle=False) as file:
            assert file.files == list(self.arrays)
            for name, values in self.arrays.items():
                assert file[name].dtype == values.dtype
                np.testing.assert_array_equal(file[name], values)

    def test_it_is_compressed(self) -> None:
        assert len(packed({"zeros": np.zeros(100_000)})) < 10_000

    def test_what_only_pickle_could_hold_is_refused(self) -> None:
        with pytest.raises(ValueError, match="allow_pickle"):
            packed({"objects": np.array([{}], dtype=object)})


def umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


class TestWriting:
    def test_a_file_is_json_with_a_last_line(self, tmp_path: Path) -> None:
        path = tmp_path / "x.json"
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


class TestMemoryIntervals:
    def test_every_publisher_counts_the_same(self) -> None:
        rng = np.random.default_rng(1)
        found = fit_memory_intervals({"many": rng.normal(0.0, 0.01, 900), "few": rng.normal(0.5, 0.01, 9)})
        assert found is not None
        by_level = dict(zip(found.levels, found.quantiles, strict=True))
        assert by_level[0.25] == pytest.approx(0.0, abs=0.03)
        assert by_level[0.75] == pytest.approx(0.5, abs=0.03)
        assert (found.rows, found.publishers) == (909, 2)
        # neither is inside what the other alone says
        assert found.coverage == 0.0

    def test_peaks_alike_are_held_by_intervals_made_without_them(self) -> None:
        rng = np.random.default_rng(2)
        found = fit_memory_intervals({str(i): rng.normal(0.0, 0.1, 200) for i in range(6)})
        assert found is not None
        assert found.coverage == pytest.approx(0.8, abs=0.04)

    def test_without_peaks_there_is_none(self) -> None:
        assert fit_memory_intervals({"a": np.zeros(0)}) is None
        alone = fit_memory_intervals({"a": np.array([0.1, 0.2])})
        assert alone is not None
        assert alone.coverage is None

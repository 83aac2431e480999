"""What a row measured, the rule of outliers, and the folds: none of them looks at a prediction."""

from __future__ import annotations

import collections
import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fullmesh.evidence.published import (
    GIB,
    NUM_FOLDS,
    OUTLIER_RATIO,
    configuration,
    folds,
    is_headline,
    outliers,
    published_memory_bytes,
    published_step_s,
)
from fullmesh.evidence.results import ResultRow, read_results

ROWS = read_results()
ROW = next(r for r in ROWS if r.id == "NV001")


def row(row_id: str = "x", **fields: object) -> ResultRow:
    values: dict[str, object] = {"id": row_id, "step_s": 1.0, "run_key": "k", "overlap_and_flags": ""}
    return dataclasses.replace(ROW, **(values | fields))  # type: ignore[arg-type]


def test_a_printed_step_time_counts_before_tokens() -> None:
    assert published_step_s(row(step_s=3.0, tok_s_gpu=1.0)) == 3.0


def test_tokens_per_second_and_device_give_the_step_time() -> None:
    found = published_step_s(row(step_s=None, tok_s_gpu=500.0, gbs=64, seq=4096, n_gpus=8))
    assert found == pytest.approx(64 * 4096 / (500.0 * 8))


@pytest.mark.parametrize("missing", ["tok_s_gpu", "gbs", "seq", "n_gpus"])
def test_without_one_of_them_there_is_no_step_time(missing: str) -> None:
    assert published_step_s(row(step_s=None, **{missing: None})) is None


def test_printed_and_derived_step_times_of_the_table_agree() -> None:
    both = [r for r in ROWS if r.step_s and r.tok_s_gpu and r.gbs and r.seq and r.n_gpus and r.tier == "A"]
    assert len(both) > 100
    for r in both:
        derived = published_step_s(dataclasses.replace(r, step_s=None))
        assert derived == pytest.approx(r.step_s, rel=0.06), r.id


def test_memory_is_allocated_where_both_are_published() -> None:
    assert published_memory_bytes(row(mem_allocated_gib=40.0, mem_reserved_gib=50.0)) == (
        "allocated",
        40 * GIB,
    )
    assert published_memory_bytes(row(mem_allocated_gib=None, mem_reserved_gib=50.0)) == (
        "reserved",
        50 * GIB,
    )
    assert published_memory_bytes(row(mem_allocated_gib=None, mem_reserved_gib=None)) == ("", None)


@pytest.mark.parametrize(
    ("tier", "phase", "counts"),
    [
        ("A", "pretrain", True),
        ("B", "pretrain", True),
        ("C", "pretrain", False),
        ("A", "lora", False),
        ("B", "sft", False),
    ],
)
def test_the_headline_is_tiers_a_and_b_of_pretraining(tier: str, phase: str, counts: bool) -> None:
    assert is_headline(row(tier=tier, phase=phase)) is counts


class TestOutliers:
    def many(self, *times: float, key: str = "k", flags: str = "") -> list[ResultRow]:
        return [
            row(f"{key}{i}{flags}", step_s=t, run_key=key, overlap_and_flags=flags)
            for i, t in enumerate(times)
        ]

    def test_one_of_three_that_is_far_off(self) -> None:
        found = outliers(self.many(1.0, 1.0, 1.6))
        assert list(found) == ["k2"]
        assert "1.60 times the median of 2 other publications" in found["k2"]

    def test_one_that_is_far_too_fast(self) -> None:
        assert list(outliers(self.many(1.0, 1.05, 0.6))) == ["k2"]

    def test_a_row_is_held_against_the_others_without_itself(self) -> None:
        assert list(outliers(self.many(1.0, 1.4, 2.0))) == ["k0", "k2"]

    def test_just_within_the_ratio(self) -> None:
        assert outliers(self.many(1.0, 1.0, 1.0, OUTLIER_RATIO * 0.999)) == {}
        assert list(outliers(self.many(1.0, 1.0, 1.0, OUTLIER_RATIO * 1.001))) == ["k3"]

    def test_two_are_not_enough_to_tell(self) -> None:
        assert outliers(self.many(1.0, 9.0)) == {}

    def test_configurations_are_not_mixed(self) -> None:
        assert outliers(self.many(1.0, 1.0, key="a") + self.many(5.0, key="b")) == {}

    def test_rows_without_a_configuration_are_left_alone(self) -> None:
        assert outliers(self.many(1.0, 1.0, 9.0, key="")) == {}

    def test_graph_settings_are_compared_apart(self) -> None:
        on = self.many(1.0, 1.0, flags="full-iteration CUDA graph")
        assert outliers(on + self.many(2.0, flags="no CUDA graph")) == {}
        assert len(outliers(on + self.many(2.0, key="k", flags="full CUDA graph; another flag"))) == 1

    def test_rows_without_a_time_do_not_count(self) -> None:
        silent = row("silent", step_s=None, tok_s_gpu=None)
        assert outliers([*self.many(1.0, 9.0), silent]) == {}

    @settings(max_examples=60)
    @given(
        st.lists(st.floats(0.1, 10), min_size=3, max_size=7),
        st.sampled_from([2.0**-9, 0.25, 1.0, 64.0]),
        st.randoms(),
    )
    def test_neither_the_unit_nor_the_order_matters(
        self, times: list[float], scale: float, random: object
    ) -> None:
        rows = self.many(*times)
        shuffled = list(rows)
        random.shuffle(shuffled)  # type: ignore[attr-defined]
        scaled = [dataclasses.replace(r, step_s=(r.step_s or 0) * scale) for r in shuffled]
        # a power of two scales without rounding, so that even a ratio on the edge stays where it is
        assert set(outliers(rows)) == set(outliers(scaled))

    def test_of_the_shipped_table_are_few(self) -> None:
        headline = [r for r in ROWS if is_headline(r) and published_step_s(r)]
        odd = outliers(ROWS)
        assert sum(r.id in odd for r in headline) <= 0.02 * len(headline)
        assert all(reason for reason in odd.values())


KEYS = st.lists(
    st.tuples(st.sampled_from("abcdefghijklmnop"), st.sampled_from(["nvidia", "meta", "huawei"])), max_size=40
)


@settings(max_examples=80)
@given(KEYS, st.randoms())
def test_rows_of_a_configuration_share_a_fold_whoever_published_them(
    pairs: list[tuple[str, str]], random: object
) -> None:
    rows = [row(str(i), run_key=k, publisher=p) for i, (k, p) in enumerate(pairs)]
    found = folds(rows)
    assert set(found) == {k for k, _ in pairs}
    assert all(0 <= f < NUM_FOLDS for f in found.values())
    random.shuffle(rows)  # type: ignore[attr-defined]
    assert folds(rows) == found


def test_folds_of_the_table_are_even_and_every_publisher_is_spread() -> None:
    found = folds(ROWS)
    assert {r.run_key for r in ROWS} == set(found)
    sizes = collections.Counter(found.values())
    assert len(sizes) == NUM_FOLDS
    assert max(sizes.values()) <= 1.3 * min(sizes.values())
    by_publisher: dict[str, set[str]] = {}
    for r in ROWS:
        by_publisher.setdefault(r.publisher, set()).add(r.run_key)
    for keys in by_publisher.values():
        if len(keys) >= 3 * NUM_FOLDS:
            assert {found[k] for k in keys} == set(range(NUM_FOLDS))


@pytest.mark.parametrize(
    "change",
    [
        {"gpu": "H200"},
        {"n_gpus": 8},
        {"model": "other"},
        {"layers": 2},
        {"seq": 128},
        {"precision": "BF16"},
        {"tp": 8},
        {"pp": 16},
        {"ep": 2},
        {"mbs": 7},
        {"gbs": 7},
    ],
)
def test_a_configuration_is_what_ran_and_not_its_key(change: dict[str, object]) -> None:
    assert configuration(row(run_key="a", id="b", step_s=9.0)) == configuration(row(run_key="c"))
    assert configuration(row(**change)) != configuration(row())

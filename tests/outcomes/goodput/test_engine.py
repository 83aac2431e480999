"""Closed form, Monte Carlo and replay of a whole run agree where they should, and more of a good thing never hurts."""

from __future__ import annotations

import dataclasses
import math
import time
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fullmesh.catalog.run_inputs import load_run_inputs
from fullmesh.outcomes.goodput.draws import draw_inputs
from fullmesh.outcomes.goodput.engine import LOSSES, Run, best_intervals, expected
from fullmesh.outcomes.goodput.montecarlo import simulate_runs
from fullmesh.outcomes.goodput.policies import POLICIES, Checkpoint, PolicyName, recovery_of
from fullmesh.outcomes.goodput.rates import Load
from fullmesh.outcomes.goodput.replayed import Stop, joined, replay_stops
from fullmesh.outcomes.goodput.shrinking import batch_for, joins_at_once
from fullmesh.outcomes.goodput.spares import (
    availability,
    cheapest_spares,
    erlang_b,
    mean_over_missing,
    some_missing,
    spares_for,
)

DAY_S, HOUR_S = 86_400.0, 3600.0
INPUTS = load_run_inputs()
CHECKPOINT = Checkpoint(total_bytes=5e12, bytes_per_device=3e8, write_s=60.0, copy_s=0.5, stall_s=4.0)


def load(
    near_h: float = 6.0, wide: float = 0.05, silent: float = 0.0, repair_h: float = 20.0, slow: float = 0.0
) -> Load:
    """Stops every ``near_h`` hours; shares of wide and of silent ones."""
    stops = 1.0 / (near_h * HOUR_S)
    a = np.asarray
    return Load(
        near_per_s=a(stops * (1 - wide - silent)),
        wide_per_s=a(stops * wide),
        silent_per_s=a(stops * silent),
        replaced_per_s=a(stops * (1 - silent) * 0.8),
        repair_s=a(repair_h * HOUR_S),
        slow_nodes=a(slow),
        slow_links=a(0.0),
    )


def run_of(policy: PolicyName = "restart", *, spares: int = 4, spread: float = 0.0, **changes: float) -> Run:
    r = recovery_of(policy, CHECKPOINT, 10.0, INPUTS)
    near, store = (600.0, 600.0) if not r.two_levels else (30.0, 600.0)
    run = Run(
        recovery=r, near_s=near, store_s=store, store_stall_s=4.0, spares=spares, pools=1,
        recovery_spread=spread, planned_per_s=1e-6, planned_s=600.0, silent_s=1800.0,
        speeds=(1.0, 0.98, 0.96, 0.94, 0.9, 0.85, 0.8, 0.7, 0.5),
    )  # fmt: skip
    return dataclasses.replace(run, **changes)


def stops_drawn(run: Run, found: Load, horizon_s: float, rng: np.random.Generator) -> list[Stop]:
    """Memoryless stops one by one, with exponential repairs."""
    rate = float(found.stops_per_s)
    number = int(horizon_s * rate * 1.5) + 50
    at = np.cumsum(rng.exponential(1.0 / rate, number))
    kinds = rng.random(number)
    silent, wide = float(found.silent_per_s) / rate, float(found.wide_share)
    replaced = float(found.replaced_share)
    repairs = rng.exponential(float(found.repair_s), number)
    chosen = rng.random(number) < replaced
    return [
        Stop(at_s=float(t), repair_s=float(x), wide=silent <= k < wide, silent=k < silent, replaced=bool(c))
        for t, x, k, c in zip(at, repairs, kinds, chosen, strict=True)
    ]


@pytest.mark.parametrize("policy", [p for p in POLICIES if p != "shrink"])
@pytest.mark.parametrize(("near_h", "spread"), [(2.0, 0.0), (8.0, 0.5)])
def test_three_engines_agree_on_memoryless_faults(policy: PolicyName, near_h: float, spread: float) -> None:
    run, found, work = (
        run_of(policy, spares=8, spread=spread),
        load(near_h, silent=0.01, repair_h=2.0),
        30 * DAY_S,
    )
    closed = float(expected(run, found, work).wall_s)
    drawn = simulate_runs(run, found, np.full(4000, work), seed=1)
    assert float(drawn.wall_s.mean()) == pytest.approx(closed, rel=0.01)
    rng = np.random.default_rng(2)
    replayed = joined(
        [replay_stops(run, stops_drawn(run, found, 2.5 * work, rng), work, rng=rng) for _ in range(60)]
    )
    assert float(replayed.wall_s.mean()) == pytest.approx(closed, rel=0.01)
    assert float(replayed.stops.mean()) == pytest.approx(float(drawn.stops.mean()), rel=0.05)


def test_waiting_for_spares_agrees_between_engines() -> None:
    # some two thirds of the time at least one unit is in repair: one spare is too few
    run, found, work = run_of(spares=1), load(20.0, wide=0.0, repair_h=10.0), 300 * DAY_S
    closed = expected(run, found, work)
    drawn = simulate_runs(run, found, np.full(3000, work), seed=3)
    assert float(drawn.wall_s.mean()) == pytest.approx(float(closed.wall_s), rel=0.01)
    waited = float(closed.losses_s["waiting_for_repair"])
    assert float(drawn.losses_s["waiting_for_repair"].mean()) == pytest.approx(waited, rel=0.03)
    assert waited > 0.02 * work
    rng = np.random.default_rng(4)
    replayed = joined([replay_stops(run, stops_drawn(run, found, 2 * work, rng), work) for _ in range(150)])
    assert float(replayed.losses_s["waiting_for_repair"].mean()) == pytest.approx(waited, rel=0.05)
    assert float(replayed.wall_s.mean()) == pytest.approx(float(closed.wall_s), rel=0.01)


@pytest.mark.parametrize("at_once", [True, False])
def test_shrinking_agrees_between_engines(at_once: bool) -> None:
    run = dataclasses.replace(run_of("shrink", spares=1), regrows_at_once=at_once)
    found, work = load(8.0, wide=0.0, repair_h=12.0), 200 * DAY_S
    closed = float(expected(run, found, work).wall_s)
    assert float(simulate_runs(run, found, np.full(2000, work), seed=3).wall_s.mean()) == pytest.approx(
        closed, rel=0.01
    )
    rng = np.random.default_rng(5)
    replayed = joined([replay_stops(run, stops_drawn(run, found, 2 * work, rng), work) for _ in range(30)])
    assert float(replayed.wall_s.mean()) == pytest.approx(closed, rel=0.01)


def test_growing_again_costs_a_stop_or_the_time_to_the_next_one() -> None:
    found, work = load(8.0, wide=0.0, repair_h=12.0), 200 * DAY_S
    free = run_of("shrink", spares=0)
    free = dataclasses.replace(free, recovery=dataclasses.replace(free.recovery, regrow_s=0.0))
    once, later = (dataclasses.replace(run_of("shrink", spares=0), regrows_at_once=x) for x in (True, False))
    out = {
        name: expected(run, found, work) for name, run in (("free", free), ("once", once), ("later", later))
    }
    assert float(out["once"].wall_s) > float(out["free"].wall_s) < float(out["later"].wall_s)
    stops = float(out["once"].stops) * float(found.replaced_share)
    more = float(out["once"].losses_s["restart"] - out["free"].losses_s["restart"])
    assert more == pytest.approx(stops * float(once.recovery.regrow_s), rel=0.01)
    assert float(out["later"].losses_s["fewer_devices"]) > float(out["once"].losses_s["fewer_devices"])
    assert joins_at_once(once, found) == (float(out["once"].wall_s) < float(out["later"].wall_s))


def test_runs_with_times_of_their_own_are_each_like_a_run_with_these() -> None:
    """Columns of recovery times, intervals and stalls give what one run after the other gives."""
    work, found = 40 * DAY_S, load(5.0, silent=0.01)
    slow, quick = run_of("memory"), run_of("memory")
    slow = dataclasses.replace(
        slow, recovery=dataclasses.replace(slow.recovery, restart_s=1800.0, detection_s=900.0), near_s=60.0,
        store_s=1200.0, store_stall_s=20.0, silent_s=7200.0,
    )  # fmt: skip
    turn = np.arange(600) % 2 == 0

    def column(name: str) -> np.ndarray[Any, Any]:
        return np.where(turn, getattr(slow, name), getattr(quick, name))

    parts = ("restart_s", "detection_s")
    mixed = dataclasses.replace(
        quick,
        recovery=dataclasses.replace(
            quick.recovery,
            **{k: np.where(turn, getattr(slow.recovery, k), getattr(quick.recovery, k)) for k in parts},
        ),
        **{k: column(k) for k in ("near_s", "store_s", "store_stall_s", "silent_s")},
    )
    columns = np.full(600, work)
    together = simulate_runs(mixed, found, columns, seed=4)
    for one_run, mine in ((slow, turn), (quick, ~turn)):
        alone = simulate_runs(one_run, found, columns, seed=4)
        np.testing.assert_allclose(together.wall_s[mine], alone.wall_s[mine], rtol=1e-6)
        for k in LOSSES:
            np.testing.assert_allclose(
                together.losses_s[k][mine], alone.losses_s[k][mine], rtol=1e-4, atol=1.0
            )
    closed = expected(mixed, found, columns).wall_s
    assert float(closed[0]) == pytest.approx(float(expected(slow, found, work).wall_s))
    assert float(closed[1]) == pytest.approx(float(expected(quick, found, work).wall_s))
    assert mixed.at(0) == slow
    assert mixed.at(1) == quick


@pytest.mark.parametrize("policy", POLICIES)
def test_losses_and_work_add_up_to_wall_time(policy: PolicyName) -> None:
    run, found = run_of(policy, spares=2, spread=0.4), load(5.0, silent=0.02, slow=0.03)
    drawn = simulate_runs(run, found, np.full(200, 20 * DAY_S), seed=0)
    for outcomes in (drawn, expected(run, found, 20 * DAY_S)):
        total = outcomes.work_s + sum(outcomes.losses_s[k] for k in LOSSES)
        np.testing.assert_allclose(total, outcomes.wall_s, rtol=1e-6)
        assert all((outcomes.losses_s[k] > -1.0).all() for k in LOSSES)
    rng = np.random.default_rng(1)
    one = replay_stops(run, stops_drawn(run, found, 60 * DAY_S, rng), 20 * DAY_S, slow=(0.03, 0.0))
    assert float(one.work_s[0] + sum(one.losses_s[k][0] for k in LOSSES)) == pytest.approx(
        float(one.wall_s[0])
    )


def test_without_faults_nothing_is_lost_but_stalls() -> None:
    run = run_of(planned_per_s=0.0)
    none = load(1e12, wide=0.0)
    work = 10 * DAY_S
    out = simulate_runs(run, none, np.array([work]), seed=0)
    assert float(out.wall_s[0]) == pytest.approx(work + 4.0 * math.floor(work / 600.0))
    assert float(out.stops[0]) == 0


def test_youngs_interval_in_its_limit() -> None:
    # a short stall and rare stops: sqrt(2 C M)
    run = run_of(store_stall_s=1.0)
    found = load(100.0, wide=0.0)
    best = best_intervals(run, found, least_near_s=1.0, least_store_s=1.0)
    assert best.store_s == pytest.approx(best.young_s, rel=0.05)
    assert best.young_s == pytest.approx(math.sqrt(2 * 1.0 * 100 * HOUR_S))
    assert best.flat_low_s < best.store_s < best.flat_high_s


def test_best_interval_is_no_worse_than_its_neighbours() -> None:
    run, found = run_of(), load(3.0)
    best = best_intervals(run, found, least_near_s=10.0, least_store_s=60.0)
    at = {
        x: float(
            expected(
                dataclasses.replace(run, near_s=best.store_s * x, store_s=best.store_s * x), found, 30 * DAY_S
            ).wall_s
        )
        for x in (0.5, 0.8, 1.0, 1.25, 2.0)
    }
    assert min(at, key=lambda x: at[x]) == 1.0


near_hours = st.floats(0.7, 500.0)
policies = st.sampled_from(POLICIES)


@settings(max_examples=40, deadline=None)
@given(near_hours, st.floats(1.0, 3.0), policies, st.integers(0, 8), st.integers(0, 5), st.floats(0.3, 1.0))
def test_more_spares_faster_recovery_and_fewer_faults_never_hurt(
    near_h: float, fewer: float, policy: PolicyName, spares: int, more: int, faster: float
) -> None:
    work = 20 * DAY_S
    run, found = run_of(policy, spares=spares, spread=0.3), load(near_h, silent=0.005)
    better_runs = [
        (dataclasses.replace(run, spares=spares + more), found),
        (run, load(near_h * fewer, silent=0.005)),
        (
            dataclasses.replace(
                run,
                recovery=dataclasses.replace(
                    run.recovery,
                    detection_s=run.recovery.detection_s * faster,
                    restart_s=run.recovery.restart_s * faster,
                    wide_restart_s=run.recovery.wide_restart_s * faster,
                ),
            ),
            found,
        ),
    ]
    mean = float(expected(run, found, work).wall_s)
    columns = np.full(400, work)
    lucky = simulate_runs(run, found, columns, seed=7).wall_s
    for better, with_load in better_runs:
        assert float(expected(better, with_load, work).wall_s) <= mean * (1 + 1e-9)
        if math.isfinite(mean):
            # the same luck: what is lost in one run by the place of a checkpoint is won in another
            drawn = simulate_runs(better, with_load, columns, seed=7).wall_s
            assert float(drawn.mean()) <= float(lucky.mean()) * 1.003


def test_the_same_seed_gives_the_same_bytes_and_another_one_does_not() -> None:
    run, found = run_of("memory", spread=0.5), load(4.0)
    one, two, three = (
        simulate_runs(run, found, np.full(700, 10 * DAY_S), seed=s).wall_s.tobytes() for s in (5, 5, 6)
    )
    assert one == two
    assert one != three


def test_a_run_that_makes_no_progress_never_ends() -> None:
    found = load(0.02)
    assert float(expected(run_of(), found, DAY_S).wall_s) == math.inf
    assert np.isinf(simulate_runs(run_of(), found, np.array([DAY_S]), seed=0).wall_s).all()


@pytest.mark.slow
def test_ten_thousand_runs_on_98304_dies_take_less_than_two_seconds() -> None:
    # what 128 CloudMatrix supernodes meet at the shipped rates: some 30 stops a day
    run, found = run_of(spares=60, spread=0.5, near_s=60.0, store_s=60.0), load(24 / 30, wide=0.02)
    # each run with recovery times of its own, as a forecast has them
    c = dataclasses.replace(CHECKPOINT, write_s=np.full(10_000, 60.0), stall_s=np.full(10_000, 4.0))
    drawn = draw_inputs(INPUTS.given({"detection": 300.0, "restart": 360.0}), 0, 10_000)
    run = dataclasses.replace(run, recovery=recovery_of("restart", c, 10.0, drawn), store_stall_s=c.stall_s)
    work = np.full(10_000, 40 * DAY_S)
    seconds = []
    for _ in range(3):
        start = time.process_time()
        out = simulate_runs(run, found, work, seed=0)
        seconds.append(time.process_time() - start)
    assert 55 < float(out.wall_s.mean()) / DAY_S < 75
    assert min(seconds) < 2.0


def test_a_batch_divides_over_many_ranks_and_stays_near() -> None:
    assert batch_for(4096, 16_376) == 4094  # 8 x 2047
    assert batch_for(6144, 2304) == 5760  # 9 x 256
    assert batch_for(6144, 1024) == 6144
    assert batch_for(100, 8 * 1009) == 100  # no rank could have a whole share
    for devices in (24, 120, 1000, 16_256):
        assert 0.9 * 4096 <= batch_for(4096, devices) <= 4096


def test_erlang_b_and_its_inverse() -> None:
    # a textbook value: 10 erlangs offered to 15 servers lose 3.65 %
    assert float(erlang_b(15, 10.0)) == pytest.approx(0.0365, abs=2e-4)
    assert float(erlang_b(0, 3.0)) == 1.0
    np.testing.assert_allclose(
        erlang_b(np.array([0, 15, 3]), np.array([3.0, 10.0, 2.0])),
        [float(erlang_b(n, a)) for n, a in ((0, 3.0), (15, 10.0), (3, 2.0))],
    )
    n = spares_for(10.0, 0.01)
    assert float(erlang_b(n, 10.0)) <= 0.01 < float(erlang_b(n - 1, 10.0))
    draws = np.random.default_rng(0).poisson(6.0, 400_000)
    speeds = (1.0, 0.9, 0.9, 0.5)
    drawn = np.array(speeds)[np.clip(draws - 4, 0, 3)].mean()
    assert float(mean_over_missing(4, 6.0, speeds)) == pytest.approx(drawn, rel=0.002)
    assert float(some_missing(4, 6.0)) == pytest.approx((draws >= 4).mean(), rel=0.01)
    assert float(some_missing(0, 6.0)) == 1.0


@pytest.mark.parametrize(
    ("mtbf_h", "mttr_min", "published"), [(13.8, 75, 0.916), (98.5, 75, 0.988), (98.5, 13, 0.9978)]
)
def test_public_analyses_of_8192_ascend_chips(mtbf_h: float, mttr_min: float, published: float) -> None:
    """UB-Mesh (arXiv 2503.20377): availability of a Clos and of a UB-Mesh system at given MTBF and MTTR."""
    assert availability(mtbf_h * HOUR_S, mttr_min * 60.0) == pytest.approx(published, abs=1e-3)
    # the same from the engine: every stop costs the repair and nothing else
    r = dataclasses.replace(
        recovery_of("in-step", CHECKPOINT, 1e-3, INPUTS),
        restart_s=mttr_min * 60.0, wide_restart_s=mttr_min * 60.0, wide_detection_s=0.0, wide_load_s=0.0,
    )  # fmt: skip
    run = dataclasses.replace(
        run_of("in-step"), recovery=r, near_s=1.0, store_s=1.0, store_stall_s=0.0, planned_per_s=0.0
    )
    found = dataclasses.replace(load(mtbf_h, wide=0.0), replaced_per_s=np.asarray(0.0))
    out = expected(run, found, 100 * DAY_S)
    # time between faults is counted from repair to fault there, from fault to fault here
    up = float(out.work_s / out.wall_s)
    assert up == pytest.approx(math.exp(-mttr_min / 60 / mtbf_h), rel=1e-3)
    assert up == pytest.approx(published, abs=6e-3)


def test_cheapest_spare_units() -> None:
    """A supernode kept beside one costs as much as the job; beside a hundred it pays."""
    assert cheapest_spares(0.05, units=1, most=3) == 0
    assert cheapest_spares(0.05, units=200, most=3) >= 1
    assert cheapest_spares(0.0, units=10, most=3) == 0
    chosen = [cheapest_spares(0.3, units=n, most=6) for n in (1, 10, 100, 1000)]
    assert chosen == sorted(chosen)

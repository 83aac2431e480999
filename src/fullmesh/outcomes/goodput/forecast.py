"""The whole run of one plan: everything joined, from the step and the faults to days, energy and money."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from fullmesh.outcomes.estimate import Estimate
from fullmesh.outcomes.goodput.accounts import energy_of, money_of, power_error, pue_of
from fullmesh.outcomes.goodput.case import (
    DAY_S,
    Case,
    Ready,
    bad_site,
    make_case,
    prepare,
    slowness,
    with_intervals,
)
from fullmesh.outcomes.goodput.costs import offers_of
from fullmesh.outcomes.goodput.draws import DrawnInputs, draw_inputs, generator, lognormal
from fullmesh.outcomes.goodput.engine import LOSSES, Intervals, Outcomes, Run, best_intervals, expected
from fullmesh.outcomes.goodput.montecarlo import simulate_runs
from fullmesh.outcomes.goodput.notes import notes_of
from fullmesh.outcomes.goodput.policies import PolicyName
from fullmesh.outcomes.goodput.power import site_fit
from fullmesh.outcomes.goodput.rates import Load, load_of
from fullmesh.outcomes.goodput.records import (
    CapForecast,
    DomainRow,
    PolicyForecast,
    RunForecast,
    RunOptions,
    SmallerPlan,
    spread_of,
)
from fullmesh.outcomes.goodput.replayed import joined, replay_stops, stops_of_log
from fullmesh.outcomes.goodput.shrinking import Planner, joins_at_once, shrunk
from fullmesh.outcomes.goodput.spares import erlang_b, spares_for
from fullmesh.outcomes.goodput.tornado import mean_days, step_spread, tornado

Floats = npt.NDArray[np.float64]
# targets for which the number of spares is told
SPARE_TARGETS = (0.1, 0.01, 0.001)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Luck:
    """What differs from run to run beside the faults themselves, the same for every policy and machine."""

    factors: Mapping[str, Floats]
    step: Floats
    inputs: DrawnInputs


def _luck(case: Case, o: RunOptions) -> _Luck:
    # in order: runs of one chunk end together
    site = np.sort(lognormal(o.seed, 0, o.faults.site_spread, o.runs))
    places = {d: i for i, d in enumerate(sorted({x.rate.domain for x in case.exposed}))}
    return _Luck(
        factors={
            x.rate.domain: site * lognormal(o.seed, 10 + places[x.rate.domain], x.rate.spread, o.runs)
            for x in case.exposed
        },
        step=lognormal(o.seed, 1, step_spread(case), o.runs, mean_one=False),
        inputs=draw_inputs(o.inputs, o.seed, o.runs),
    )


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Chosen:
    """A policy with all that is decided before the run begins: spares, intervals, smaller plans."""

    ready: Ready
    run: Run
    intervals: Intervals
    smaller: tuple[SmallerPlan, ...]


def _choose(case: Case, o: RunOptions, policy: PolicyName, planner: Planner | None) -> _Chosen:
    ready = prepare(case, o, policy, o.inputs)
    run = ready.run
    smaller: tuple[SmallerPlan, ...] = ()
    if run.recovery.shrinks:
        less = shrunk(case, o, ready.load, planner)
        run, smaller = dataclasses.replace(run, speeds=less.speeds), less.plans
        run = dataclasses.replace(run, regrows_at_once=joins_at_once(run, ready.load))
    found = best_intervals(
        run, ready.load, least_near_s=case.step_s, least_store_s=float(ready.checkpoint.write_s)
    )
    return _Chosen(ready=ready, run=with_intervals(run, found), intervals=found, smaller=smaller)


def forecast(e: Estimate, o: RunOptions, planner: Planner | None = None) -> RunForecast:
    """The whole run of an estimate.

    Parameters
    ----------
    planner : callable, optional
        Gives the best plan on fewer devices, for a policy that shrinks; without it the same layout goes on with fewer
        data-parallel ranks.

    Raises
    ------
    ScenarioError
        A cap or a site is asked of a machine without published power, or a cap lies below idle power.
    """
    case = make_case(e, o)
    luck = _luck(case, o)
    chosen = [_choose(case, o, policy, planner) for policy in o.policies]
    policies = tuple(_policy(case, o, c, luck) for c in chosen)
    first = chosen[0]
    stops = float(load_of(case.exposed, slowness(case, o.inputs)).stops_per_s)
    offers = offers_of(case.machine, o.prices, o.inputs)
    pue = pue_of(case, o)
    return RunForecast(
        estimate=e,
        num_tokens=o.num_tokens,
        policies=policies,
        domains=_domains(case),
        checkpoint=first.ready.checkpoint,
        mtbf_s=1.0 / stops if stops else math.inf,
        stops_per_node_year=stops * 365.25 * DAY_S / case.nodes,
        power=case.power,
        pue=pue,
        cap=_cap(e, case, o, first.run),
        site=None
        if o.site_w is None or case.power is None
        else site_fit(case.machine, case.power, max(pue), o.site_w),
        tornado=tornado(case, o, first.run, offers[0] if offers else None),
        inputs=o.inputs.rows,
        faults_name=o.faults.name if o.log is None else o.log.name,
        engine="monte-carlo" if o.log is None else "replay",
        runs=o.runs,
        seed=o.seed,
        notes=tuple(notes_of(case, o)),
    )


def _domains(case: Case) -> tuple[DomainRow, ...]:
    return tuple(
        DomainRow(
            domain=x.rate.domain,
            members=x.members,
            effect=x.effect,
            per_year=x.per_year,
            bandwidth_lost=x.bandwidth_lost,
            kind=x.rate.kind,
            source=x.rate.source,
        )
        for x in case.exposed
    )


def _cap(e: Estimate, case: Case, o: RunOptions, run: Run) -> CapForecast | None:
    if case.capped is None:
        return None
    free = make_case(e, dataclasses.replace(o, power_cap_w=None))
    return CapForecast(
        cap_w=case.capped.cap_w,
        clock=case.capped.clock,
        step_factor=case.capped.step_factor,
        days_without=mean_days(free, o, o.policies[0], run),
        days_with=mean_days(case, o, o.policies[0], run),
    )


def _policy(case: Case, o: RunOptions, c: _Chosen, luck: _Luck) -> PolicyForecast:
    ready, work = c.ready, case.work_s(o.num_tokens)
    drawn = prepare(case, o, c.run.recovery.policy, luck.inputs, factors=luck.factors, like=c.run)
    if o.log is None:
        outcomes = simulate_runs(drawn.run, drawn.load, work * luck.step, seed=o.seed)
    else:
        outcomes = _replay(case, o, drawn.run, drawn.load, work * luck.step)
    ended = np.isfinite(outcomes.wall_s)
    middle = _middle(outcomes)
    means = {k: float(outcomes.losses_s[k][middle].mean()) for k in LOSSES}
    useful = float(outcomes.work_s[middle].mean())
    energy = energy_of(case, o, outcomes, drawn, luck.inputs, power_error(case, o))
    joules = None if energy is None else spread_of(energy.joules)
    return PolicyForecast(
        recovery=c.run.recovery,
        days=spread_of(outcomes.wall_s / DAY_S),
        goodput=spread_of(outcomes.goodput),
        interruptions=spread_of(outcomes.stops),
        losses_s=means,
        work_s=useful,
        wall_s=float(outcomes.wall_s[middle].mean()),
        mean_days=float(outcomes.wall_s[ended].mean()) / DAY_S if ended.any() else math.inf,
        unfinished_share=1.0 - float(ended.mean()),
        closed_form_days=float(expected(c.run, ready.load, work).wall_s) / DAY_S,
        planned_stops=float(outcomes.planned[middle].mean()),
        tokens_lost=means["recomputed"] / useful * o.num_tokens,
        intervals=c.intervals,
        spares=int(c.run.spares),
        spare_devices=int(ready.spare_devices),
        spare_kind=ready.spare_kind,
        spares_for={f"{t:g}": spares_for(ready.busy * bad_site(o), t) for t in SPARE_TARGETS},
        waiting_share=0.0 if c.run.recovery.shrinks else float(erlang_b(c.run.spares, ready.busy)),
        stock_nodes=ready.stock_nodes,
        energy_j=joules,
        mean_power_w=None if energy is None else spread_of(energy.mean_w),
        peak_power_w=None if energy is None else energy.predicted_peak_w,
        peak_interval_w=None if energy is None else spread_of(energy.peak_w),
        carbon_kg=None
        if joules is None or o.grid_g_per_kwh is None
        else joules.p50 / 3.6e6 * o.grid_g_per_kwh / 1e3,
        money=money_of(case, o, outcomes, drawn, luck.inputs, energy, middle),
        smaller=c.smaller,
        rejoins_at_once=c.run.regrows_at_once if c.run.recovery.shrinks else None,
    )


def _middle(outcomes: Outcomes) -> npt.NDArray[np.intp]:
    """The fifth of the runs around the middle one by length: what a run that lasts as long as told is made of."""
    order = np.argsort(outcomes.wall_s, kind="stable")
    half = max(len(order) // 10, 1)
    centre = len(order) // 2
    return order[max(centre - half, 0) : centre + half]


def _replay(case: Case, o: RunOptions, run: Run, load: Load, work: Floats) -> Outcomes:
    assert o.log is not None
    nodes = math.ceil(case.nodes)
    starts = generator(o.seed, 2).random(len(work))
    out = []
    for i, start in enumerate(starts):
        stops = stops_of_log(o.log, nodes, o.log_nodes, start=float(start))
        slow = (float(load.slow_nodes[i]), float(load.slow_links[i]))
        rng = generator(o.seed, 3, i)
        out.append(replay_stops(run.at(i), stops, float(work[i]), period_s=o.log.span_s, slow=slow, rng=rng))
    return joined(out)

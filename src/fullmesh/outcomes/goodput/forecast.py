"""The whole run of one plan: everything joined, from the step and the faults to days, energy and money."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from fullmesh.catalog.faults import SHIPPED
from fullmesh.catalog.run_inputs import RunInputs
from fullmesh.errors import PlanError, ScenarioError
from fullmesh.machine import Machine
from fullmesh.outcomes.estimate import Estimate, Infeasible, estimate
from fullmesh.outcomes.goodput.costs import NORMAL, Bill, Offer, cost_parts, offers_of
from fullmesh.outcomes.goodput.domains import Exposure, exposures, is_supernode
from fullmesh.outcomes.goodput.engine import LOSSES, Outcomes, Run, best_intervals, expected
from fullmesh.outcomes.goodput.montecarlo import simulate_runs
from fullmesh.outcomes.goodput.policies import Checkpoint, PolicyName, checkpoint_of, recovery_of
from fullmesh.outcomes.goodput.power import (
    Capped,
    DevicePower,
    default_pue,
    device_power,
    mean_pue,
    phases_of,
    site_fit,
)
from fullmesh.outcomes.goodput.rates import Load, Slowness, load_of
from fullmesh.outcomes.goodput.records import (
    CapForecast,
    DomainRow,
    MoneyForecast,
    PolicyForecast,
    RunForecast,
    RunOptions,
    SpareRequest,
    Swing,
    spread_of,
)
from fullmesh.outcomes.goodput.replayed import joined, replay_stops, stops_of_log
from fullmesh.outcomes.goodput.spares import cheapest_spares, erlang_b, spares_for
from fullmesh.outcomes.waterfall import Waterfall, waterfall
from fullmesh.workload.parameters import parameter_counts

Floats = npt.NDArray[np.float64]
DAY_S = 86_400.0
# deviation of the logarithm of a step that no published result says anything about
_UNKNOWN_STEP = 0.3
#: inputs whose ranges the tornado goes through
_SWINGS = (
    "detection",
    "restart",
    "spare_start",
    "process_restart",
    "in_step_recovery",
    "warm_up",
    "planned_stops",
    "checkpoint_bytes",
    "node_storage_bandwidth",
    "silent_detection",
    "straggler_slowdown",
    "straggler_time",
    "flap_stall",
    "node_swap",
    "power_price",
    "hosting",
    "network_share",
    "staff",
    "write_off",
)
# targets for which the number of spares is told
SPARE_TARGETS = (0.1, 0.01, 0.001)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Case:
    """A plan with its faults, before any policy."""

    e: Estimate
    machine: Machine
    nodes: float
    fall: Waterfall
    exposed: tuple[Exposure, ...]
    power: DevicePower | None
    capped: Capped | None
    step_s: float


def _case(e: Estimate, o: RunOptions) -> _Case:
    machine = e.machine.resized(e.plan.num_devices)
    fall = waterfall(e)
    found = device_power(machine, phases_of(fall), o.inputs, o.power_cap_w)
    if found is None and (o.power_cap_w or o.site_w):
        raise ScenarioError(
            f"the power of {machine.name} is not published",
            where="--power-cap" if o.power_cap_w else "--site",
            hint="use a machine file with a [power] table",
        )
    power, capped = found or (None, None)
    return _Case(
        e=e,
        machine=machine,
        nodes=machine.num_devices / machine.devices_per_node,
        fall=fall,
        exposed=exposures(machine, o.faults.rates),
        power=power,
        capped=capped,
        step_s=e.step_s * (capped.step_factor if capped else 1.0),
    )


def _slowness(case: _Case, inputs: RunInputs) -> Slowness:
    """Exposed communication by fabric: groups within the scale-up domain use it, the others the network."""
    plan, machine, fall = case.e.plan, case.machine, case.fall
    inside = machine.scale_up_devices
    step = case.e.step_s
    spans = {
        "tp_s": plan.tp,
        "cp_s": plan.tp * plan.cp,
        "ep_s": plan.tp * plan.cp * plan.ep,
        "fsdp_s": machine.num_devices,
        "data_parallel_s": machine.num_devices,
        "send_s": machine.num_devices,
    }
    up = sum(fall.seconds(k) for k, span in spans.items() if span <= inside)
    out = sum(fall.seconds(k) for k, span in spans.items() if span > inside)
    return Slowness(
        scale_up_share=max(up, 0.0) / step,
        network_share=max(out, 0.0) / step,
        straggler_slowdown=inputs["straggler_slowdown"],
        straggler_s=inputs["straggler_time"],
        flap_s=inputs["flap_stall"],
    )


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Ready:
    """One policy of a case, ready for the engines."""

    run: Run
    load: Load
    checkpoint: Checkpoint
    spare_kind: str
    spare_devices: int
    stock_nodes: int


def _ready(
    case: _Case,
    o: RunOptions,
    policy: PolicyName,
    inputs: RunInputs,
    *,
    factor: float = 1.0,
    like: Run | None = None,
    shrunk: tuple[float, float] = (0.0, 1.0),
) -> _Ready:
    """Everything that the engines need; ``factor`` is on all rates, ``like`` keeps intervals and spares of a run."""
    machine = case.machine
    kind = _spare_kind(machine, o.spares)
    swap = inputs["node_swap"] if kind != "node" and is_supernode(machine) else None
    load = load_of(
        case.exposed,
        _slowness(case, inputs),
        factors={x.rate.domain: np.array(factor) for x in case.exposed},
        swap_s=swap,
    )
    counts = parameter_counts(case.e.model)
    c = checkpoint_of(counts.total, machine.num_devices, case.nodes, machine.chip.host_bytes_per_s, inputs)
    r = recovery_of(policy, c, case.step_s, inputs)
    busy = float(load.replaced_per_s * load.repair_s) * _bad_site(o)
    if like:
        spares = like.spares
    elif r.shrinks and o.spares.kind == "auto" and o.spares.share is None:
        spares = 0
    else:
        spares = _num_spares(o.spares, machine, kind, busy, inputs["spare_target"])
    size = machine.devices_per_node if kind == "node" else machine.devices_per_unit
    part = min(machine.num_devices / 16_384.0, 1.0)
    run = Run(
        recovery=r,
        near_s=like.near_s if like else case.step_s,
        store_s=like.store_s if like else case.step_s,
        store_stall_s=c.stall_s,
        spares=spares,
        pools=1,
        recovery_spread=inputs["recovery_spread"],
        planned_per_s=inputs["planned_stops"] * part / DAY_S,
        planned_s=r.wide_restart_s + r.wide_load_s + r.warm_up_s,
        silent_s=inputs["silent_detection"],
        speed_lost=shrunk[0],
        units_per_replica=shrunk[1],
    )
    stock = 0
    if swap is not None:
        own = load_of(case.exposed, _slowness(case, inputs))
        stock = spares_for(float(own.replaced_per_s * own.repair_s), inputs["spare_target"])
    return _Ready(
        run=run,
        load=load,
        checkpoint=c,
        spare_kind="node" if kind == "node" else machine.unit_name,
        spare_devices=spares * size,
        stock_nodes=stock,
    )


def _bad_site(o: RunOptions) -> float:
    """Factor on the rates of a site that nine of ten stay below: spares are chosen for it."""
    spread = o.faults.site_spread
    return math.exp(NORMAL * spread - spread**2 / 2.0)


def _spare_kind(machine: Machine, asked: SpareRequest) -> str:
    if asked.kind == "auto":
        return "unit" if is_supernode(machine) else "node"
    return asked.kind


def _num_spares(asked: SpareRequest, machine: Machine, kind: str, busy: float, target: float) -> int:
    if asked.kind == "auto" and asked.share is None:
        enough = spares_for(busy, target)
        # a whole supernode that waits may cost more than the job that waits for one
        return enough if kind == "node" else cheapest_spares(busy, math.ceil(machine.num_units), enough)
    if asked.share is not None:
        size = machine.devices_per_node if kind == "node" else machine.devices_per_unit
        return math.ceil(asked.share * machine.num_devices / size)
    return asked.count


def _shrunk(case: _Case, kind: str) -> tuple[float, float, str]:
    """Share of the speed that a data-parallel replica less costs, units in a replica, and the layout that is left.

    The same layout with fewer data-parallel ranks is priced anew; a unit that holds several replicas takes them all.
    """
    plan, machine = case.e.plan, case.machine
    size = machine.devices_per_node if kind == "node" else machine.devices_per_unit
    replica = machine.num_devices // plan.dp
    gone = math.ceil(size / replica)
    for dp in range(plan.dp - gone, 0, -1):
        if dp % max(plan.ep // max(plan.tp * plan.cp, 1), 1) and plan.ep > 1:
            continue
        # the batch stays as near as the ranks allow; tokens a second are compared
        gbs = plan.gbs // (dp * plan.mbs) * dp * plan.mbs
        if gbs == 0:
            continue
        try:
            found = estimate(case.e.model, machine, dataclasses.replace(plan, dp=dp, gbs=gbs))
        except PlanError:  # a layout that contradicts itself: the next smaller one
            continue
        if isinstance(found, Infeasible):
            continue
        lost = max(1.0 - found.tokens_per_s / case.e.tokens_per_s, 0.0)
        units = max(replica / size, 1.0)
        return lost, units, f"{found.plan.label()} on {found.plan.num_devices:,} devices"
    return 1.0, 1.0, "nothing: no smaller layout of this plan fits"


def _generator(seed: int, *place: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64([seed, 1_000_003, *place]))


def _draw(seed: int, place: int, spread: float, runs: int, *, mean_one: bool = True) -> Floats:
    """Lognormal factors of the runs; the same ones for every policy and machine."""
    z = _generator(seed, place).standard_normal(runs)
    return np.exp(spread * z - (spread**2 / 2.0 if mean_one else 0.0))


def _draws(case: _Case, o: RunOptions) -> tuple[dict[str, Floats], Floats]:
    """Factors on the rate of every domain, and on the step, for each run."""
    site = np.sort(_draw(o.seed, 0, o.faults.site_spread, o.runs))  # in order: runs of one chunk end together
    places = {d: i for i, d in enumerate(sorted({x.rate.domain for x in case.exposed}))}
    factors = {
        x.rate.domain: site * _draw(o.seed, 10 + places[x.rate.domain], x.rate.spread, o.runs)
        for x in case.exposed
    }
    half = case.e.interval.log_half_width
    sigma = half / NORMAL if math.isfinite(half) else _UNKNOWN_STEP
    return factors, _draw(o.seed, 1, sigma, o.runs, mean_one=False)


def forecast(e: Estimate, o: RunOptions) -> RunForecast:
    """The whole run of an estimate.

    Raises
    ------
    ScenarioError
        A cap or a site is asked of a machine without published power, or a cap lies below idle power.
    """
    case = _case(e, o)
    pue = o.pue or (default_pue(case.machine, o.inputs),)
    factors, step = _draws(case, o)
    policies = []
    notes = list(_notes(case, o))
    for policy in o.policies:
        shrunk = (0.0, 1.0)
        if policy == "shrink":
            lost, units, text = _shrunk(case, _spare_kind(case.machine, o.spares))
            shrunk = (lost, units)
            notes.append(
                f"shrink: without one {_kind_name(case.machine, o.spares)} the run goes on as {text}"
            )
        policies.append(_policy(case, o, policy, factors, step, pue, shrunk))
    expected_load = load_of(case.exposed, _slowness(case, o.inputs))
    ready = _ready(case, o, o.policies[0], o.inputs)
    stops = float(expected_load.stops_per_s)
    offers = offers_of(case.machine, o.prices, o.inputs)
    found = policies[0].intervals
    first = dataclasses.replace(ready.run, near_s=found.near_s, store_s=found.store_s)
    if o.policies[0] == "shrink":
        lost, units, _ = _shrunk(case, _spare_kind(case.machine, o.spares))
        first = dataclasses.replace(first, speed_lost=lost, units_per_replica=units)
    cap = None
    if case.capped is not None:
        free = _case(e, dataclasses.replace(o, power_cap_w=None))
        days = [_mean_days(x, o, o.policies[0], first) for x in (free, case)]
        cap = CapForecast(
            cap_w=case.capped.cap_w,
            clock=case.capped.clock,
            step_factor=case.capped.step_factor,
            days_without=days[0],
            days_with=days[1],
        )
    return RunForecast(
        estimate=e,
        num_tokens=o.num_tokens,
        policies=tuple(policies),
        domains=tuple(
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
        ),
        checkpoint=ready.checkpoint,
        mtbf_s=1.0 / stops if stops else math.inf,
        stops_per_node_year=stops * 365.25 * DAY_S / case.nodes,
        power=case.power,
        pue=pue,
        cap=cap,
        site=None
        if o.site_w is None or case.power is None
        else site_fit(case.machine, case.power, max(pue), o.site_w),
        tornado=_tornado(case, o, first, pue, offers[0] if offers else None),
        inputs=o.inputs.rows,
        faults_name=o.faults.name if o.log is None else o.log.name,
        engine="monte-carlo" if o.log is None else "replay",
        runs=o.runs,
        seed=o.seed,
        notes=tuple(notes),
    )


def _kind_name(machine: Machine, asked: SpareRequest) -> str:
    return "node" if _spare_kind(machine, asked) == "node" else machine.unit_name


def _work_s(case: _Case, o: RunOptions) -> float:
    return o.num_tokens / case.e.tokens_per_step * case.step_s


def _policy(
    case: _Case,
    o: RunOptions,
    policy: PolicyName,
    factors: Mapping[str, Floats],
    step: Floats,
    pue: tuple[float, ...],
    shrunk: tuple[float, float],
) -> PolicyForecast:
    ready = _ready(case, o, policy, o.inputs, shrunk=shrunk)
    found = best_intervals(
        ready.run, ready.load, least_near_s=case.step_s, least_store_s=ready.checkpoint.write_s
    )
    run = dataclasses.replace(ready.run, near_s=found.near_s, store_s=found.store_s)
    swap = o.inputs["node_swap"] if ready.spare_kind != "node" and is_supernode(case.machine) else None
    work = _work_s(case, o)
    if o.log is None:
        drawn = load_of(case.exposed, _slowness(case, o.inputs), factors=factors, swap_s=swap)
        outcomes = simulate_runs(run, drawn, work * step, seed=o.seed)
    else:
        outcomes = _replay(case, o, run, ready.load, work * step)
    closed = expected(run, ready.load, work)
    ended = np.isfinite(outcomes.wall_s)
    means = {k: _mean(outcomes.losses_s[k], ended) for k in LOSSES}
    energy, mean_w, peak, carbon = _energy(case, o, outcomes, ready, pue)
    busy = float(ready.load.replaced_per_s * ready.load.repair_s)
    blocked = float(erlang_b(run.spares, busy)) if not run.recovery.shrinks else 0.0
    return PolicyForecast(
        recovery=run.recovery,
        days=spread_of(outcomes.wall_s / DAY_S),
        goodput=spread_of(outcomes.goodput),
        interruptions=spread_of(outcomes.stops),
        losses_s=means,
        work_s=_mean(outcomes.work_s, ended),
        wall_s=_mean(outcomes.wall_s, ended),
        closed_form_days=float(closed.wall_s) / DAY_S,
        planned_stops=_mean(outcomes.planned, ended),
        tokens_lost=means["recomputed"] / _mean(outcomes.work_s, ended) * o.num_tokens
        if ended.any()
        else math.inf,
        intervals=found,
        spares=run.spares,
        spare_devices=ready.spare_devices,
        spare_kind=ready.spare_kind,
        spares_for={f"{t:g}": spares_for(busy * _bad_site(o), t) for t in SPARE_TARGETS},
        waiting_share=blocked,
        stock_nodes=ready.stock_nodes,
        energy_j=None if energy is None else spread_of(energy),
        mean_power_w=None if mean_w is None else spread_of(mean_w),
        peak_power_w=peak,
        carbon_kg=carbon,
        money=_money(case, o, outcomes, ready, energy),
    )


def _mean(values: Floats, ended: npt.NDArray[np.bool_]) -> float:
    return float(values[ended].mean()) if ended.any() else math.inf


def _replay(case: _Case, o: RunOptions, run: Run, load: Load, work: Floats) -> Outcomes:
    assert o.log is not None
    slow = (float(load.slow_nodes), float(load.slow_links))
    nodes = math.ceil(case.nodes)
    starts = _generator(o.seed, 2).random(len(work))
    out = []
    for i, start in enumerate(starts):
        stops = stops_of_log(o.log, nodes, o.log_nodes, start=float(start))
        out.append(
            replay_stops(
                run, stops, float(work[i]), period_s=o.log.span_s, slow=slow, rng=_generator(o.seed, 3, i)
            )
        )
    return joined(out)


def _energy(
    case: _Case, o: RunOptions, outcomes: Outcomes, ready: _Ready, pue: tuple[float, ...]
) -> tuple[Floats | None, Floats | None, float | None, float | None]:
    """Energy and mean power of each run at the meter of the site, the peak, and carbon."""
    p = case.power
    if p is None:
        return None, None, None, None
    devices = case.machine.num_devices
    wall, losses = outcomes.wall_s, outcomes.losses_s
    resting = losses["waiting_for_repair"]
    waiting = sum(
        (losses[k] for k in ("detection", "restart", "checkpoint_stalls", "warm_up", "planned_stops")),
        np.zeros_like(wall),
    )
    with np.errstate(invalid="ignore"):
        training = wall - waiting - resting
        joules = devices * (training * p.training_w + waiting * p.waiting_w + resting * p.resting_w)
        joules = joules + ready.spare_devices * p.resting_w * wall
        joules = joules * _draw(o.seed, 4, p.log_error, len(wall)) * mean_pue(pue, wall)
        joules = np.where(np.isfinite(wall), joules, np.inf)
        mean = np.where(np.isfinite(wall), joules / wall, 0.0)
    peak = (devices * p.peak_w + ready.spare_devices * p.resting_w) * max(pue)
    ended = np.isfinite(joules)
    carbon = None
    if o.grid_g_per_kwh is not None:
        carbon = _mean(joules, ended) / 3.6e6 * o.grid_g_per_kwh / 1e3
    return joules, mean, peak, carbon


def _bill(case: _Case, ready: _Ready) -> Bill:
    m = case.machine
    devices = m.num_devices + ready.spare_devices + ready.stock_nodes * m.devices_per_node
    return Bill(
        devices=m.num_devices + ready.spare_devices,
        units=devices / m.devices_per_unit,
        packages=devices / m.devices_per_package,
        peak_w=None if case.power is None else devices * case.power.peak_w,
    )


def _money(
    case: _Case, o: RunOptions, outcomes: Outcomes, ready: _Ready, energy: Floats | None
) -> tuple[MoneyForecast, ...]:
    out = []
    for offer in offers_of(case.machine, o.prices, o.inputs):
        names = ("power_price", "hosting", "network_share", "staff")
        factors = {"price": _draw(o.seed, 5, offer.log_spread, o.runs, mean_one=False)}
        for k, name in enumerate(names):
            row = o.inputs.row(name)
            sigma = math.log(row.high / row.low) / (2 * NORMAL) if row.low > 0 else 0.0
            factors[name] = _draw(o.seed, 50 + k, sigma, o.runs, mean_one=False)
        parts = cost_parts(offer, _bill(case, ready), o.inputs, outcomes.wall_s, energy, factors)
        total = sum(parts.values(), np.zeros_like(outcomes.wall_s))
        ended = np.isfinite(total)
        out.append(
            MoneyForecast(
                rented=offer.rented,
                usd=spread_of(total),
                usd_per_million_tokens=spread_of(total / o.num_tokens * 1e6),
                parts_usd={k: _mean(v, ended) for k, v in parts.items()},
                basis=offer.basis,
            )
        )
    return tuple(out)


def _mean_days(case: _Case, o: RunOptions, policy: PolicyName, like: Run) -> float:
    ready = _ready(case, o, policy, o.inputs, like=like, shrunk=(like.speed_lost, like.units_per_replica))
    return float(expected(ready.run, ready.load, _work_s(case, o)).wall_s) / DAY_S


def _mean_answer(
    case: _Case, o: RunOptions, like: Run, pue: tuple[float, ...], offer: Offer | None, *, factor: float = 1.0,
    step: float = 1.0, price: float = 1.0, power: float = 1.0,
) -> tuple[float, float | None]:  # fmt: skip
    """Mean days and money by the closed form."""
    ready = _ready(
        case, o, o.policies[0], o.inputs, factor=factor, like=like,
        shrunk=(like.speed_lost, like.units_per_replica),
    )  # fmt: skip
    outcomes = expected(ready.run, ready.load, np.array([_work_s(case, o) * step]))
    days = float(outcomes.wall_s[0]) / DAY_S
    if offer is None:
        return days, None
    joules = _energy(case, o, outcomes, ready, pue)[0]
    if joules is not None:
        # the draw of the power's error belongs to runs, not to the mean
        joules = joules / _draw(o.seed, 4, case.power.log_error if case.power else 0.0, 1) * power
    parts = cost_parts(
        offer, _bill(case, ready), o.inputs, outcomes.wall_s, joules, {"price": np.array([price])}
    )
    return days, float(sum(v[0] for v in parts.values()))


def _tornado(
    case: _Case, o: RunOptions, like: Run, pue: tuple[float, ...], offer: Offer | None
) -> tuple[Swing, ...]:
    """Every input at the two ends of its range while the others stay: mean days and money by the closed form."""

    def swing(key: str, range_: tuple[float, float], ends: list[tuple[float, float | None]]) -> Swing:
        return Swing(
            key=key, low=range_[0], high=range_[1], days_low=ends[0][0], days_high=ends[1][0],
            usd_low=ends[0][1], usd_high=ends[1][1],
        )  # fmt: skip

    out = []
    half = case.e.interval.log_half_width
    bar = half if math.isfinite(half) else NORMAL * _UNKNOWN_STEP
    for key, spread, name in (
        ("step_time", bar, "step"),
        ("fault_rates", NORMAL * o.faults.site_spread, "factor"),
    ):
        ends = (math.exp(-spread), math.exp(spread))
        out.append(swing(key, ends, [_mean_answer(case, o, like, pue, offer, **{name: x}) for x in ends]))
    if offer is not None:
        ends = (offer.low_usd / offer.usd, offer.high_usd / offer.usd)
        out.append(swing("price", ends, [_mean_answer(case, o, like, pue, offer, price=x) for x in ends]))
        if not offer.rented:
            rows = (o.inputs.row("pue_liquid" if is_supernode(case.machine) else "pue_air"),)
            for row in rows if not o.pue else ():
                out.append(
                    swing(
                        "pue", (row.low, row.high),
                        [_mean_answer(case, o, like, (x,), offer) for x in (row.low, row.high)],
                    )
                )  # fmt: skip
    for key in _SWINGS:
        row = o.inputs.row(key)
        if row.low == row.high:
            continue
        ends_of = []
        for value in (row.low, row.high):
            changed = dataclasses.replace(o, inputs=o.inputs.with_values({key: value}))
            ends_of.append(_mean_answer(case, changed, like, pue, offer))
        found = swing(key, (row.low, row.high), ends_of)
        moves = found.days_span > 1e-9 or (found.usd_low != found.usd_high)
        if moves:
            out.append(found)
    return tuple(sorted(out, key=_size, reverse=True))


def _size(s: Swing) -> float:
    """How much an input moves money, or days where there is no price, as a share."""
    if s.usd_low and s.usd_high and math.isfinite(s.usd_low + s.usd_high):
        return abs(math.log(s.usd_high / s.usd_low))
    if not math.isfinite(s.days_low + s.days_high):
        return math.inf
    return abs(math.log(s.days_high / s.days_low)) if s.days_low > 0 else 0.0


def _notes(case: _Case, o: RunOptions) -> list[str]:
    notes = []
    m = case.machine
    if case.power is not None:
        notes.append(case.power.basis)
        if m.chip.vendor == "huawei":
            notes.append(
                "no power of an Ascend machine under training and no PUE of one is public: energy may be off by "
                f"{math.expm1(NORMAL * case.power.log_error):.0%} either way (80 %)"
            )
    else:
        notes.append(f"no power of {m.name} is published, so there is no energy")
    if o.log is None and m.chip.vendor == "huawei" and o.faults.name == SHIPPED.name:
        notes.append("fault rates are those of GPU servers: no field data of Ascend machines are public")
    if not math.isfinite(case.e.interval.log_half_width):
        notes.append("the error of the step is unknown; its logarithm is taken to deviate by 0.3")
    if o.log is not None:
        copies = math.ceil(case.nodes / o.log_nodes)
        notes.append(
            f"faults replayed from {o.log.name}, {o.log_nodes:,} nodes over {o.log.span_s / DAY_S:.0f} days, each run "
            "from another day"
            + (f", laid over itself {copies} times for {case.nodes:,.0f} nodes" if copies > 1 else "")
            + "; slow nodes and lost bandwidth as in the table of rates"
        )
    if is_supernode(m) and _spare_kind(m, o.spares) == "unit":
        notes.append(
            f"a fault of a node stops the job until another {m.unit_name} stands in; the node is replaced from stock "
            f"within {o.inputs['node_swap'] / 3600:g} h"
        )
    return notes

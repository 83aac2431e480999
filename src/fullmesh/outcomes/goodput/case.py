"""A plan with its faults, and one way to run it made ready for the engines."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from fullmesh.errors import ScenarioError
from fullmesh.machine import Machine
from fullmesh.outcomes.estimate import Estimate
from fullmesh.outcomes.goodput.domains import Exposure, exposures, is_supernode
from fullmesh.outcomes.goodput.draws import NORMAL, Amount, Inputs, Whole
from fullmesh.outcomes.goodput.engine import Intervals, Run
from fullmesh.outcomes.goodput.policies import Checkpoint, PolicyName, checkpoint_of, recovery_of
from fullmesh.outcomes.goodput.power import Capped, DevicePower, device_power, phases_of
from fullmesh.outcomes.goodput.rates import Load, Slowness, load_of
from fullmesh.outcomes.goodput.records import RunOptions, SpareRequest
from fullmesh.outcomes.goodput.spares import cheapest_spares, spares_for
from fullmesh.outcomes.waterfall import Waterfall, waterfall
from fullmesh.workload.parameters import parameter_counts

Floats = npt.NDArray[np.float64]
DAY_S = 86_400.0
# times of a swap for which spares are chosen
_SWAP_STEPS = 25
# planned stops are counted on a run of so many devices
_PLANNED_DEVICES = 16_384.0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A plan with its faults, before any policy.

    Parameters
    ----------
    e : Estimate
    machine : Machine
        Of the size that the plan uses.
    nodes : float
    fall : Waterfall
        Of the step.
    exposed : tuple of Exposure
    power : DevicePower or None
    capped : Capped or None
    step_s : float
        Under the power cap, where there is one.
    """

    e: Estimate
    machine: Machine
    nodes: float
    fall: Waterfall
    exposed: tuple[Exposure, ...]
    power: DevicePower | None
    capped: Capped | None
    step_s: float

    def work_s(self, num_tokens: float) -> float:
        """Seconds of steps that so many tokens take."""
        return num_tokens / self.e.tokens_per_step * self.step_s


def make_case(e: Estimate, o: RunOptions) -> Case:
    """Everything of a run that no policy changes.

    Raises
    ------
    ScenarioError
        A cap or a site is asked of a machine without published power, or a cap lies below idle power.
    """
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
    return Case(
        e=e,
        machine=machine,
        nodes=machine.num_devices / machine.devices_per_node,
        fall=fall,
        exposed=exposures(machine, o.faults.rates),
        power=power,
        capped=capped,
        step_s=e.step_s * (capped.step_factor if capped else 1.0),
    )


def slowness(case: Case, inputs: Inputs) -> Slowness:
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
class Ready:
    """One policy of a case, ready for the engines."""

    run: Run
    load: Load
    checkpoint: Checkpoint
    spare_kind: str
    spare_devices: Whole
    stock_nodes: int

    @property
    def busy(self) -> float:
        """Mean number of members in repair."""
        return float(self.load.replaced_per_s * self.load.repair_s)


def prepare(
    case: Case,
    o: RunOptions,
    policy: PolicyName,
    inputs: Inputs,
    *,
    factors: Mapping[str, Floats] | None = None,
    like: Run | None = None,
) -> Ready:
    """Everything that the engines need, for one value of each input or for one a run.

    Parameters
    ----------
    factors : mapping of str to array, optional
        On the rate of each domain.
    like : Run, optional
        Whose intervals and speeds are kept: what is decided before the run begins. Spares are decided then too, for the
        time in which a site swaps nodes, which it knows.
    """
    machine = case.machine
    kind = spare_kind(machine, o.spares)
    swaps = _swaps(case, o)
    load = load_of(
        case.exposed,
        slowness(case, inputs),
        factors=factors or {x.rate.domain: np.array(1.0) for x in case.exposed},
        swap_s=inputs["node_swap"] if swaps else None,
    )
    counts = parameter_counts(case.e.model)
    c = checkpoint_of(counts.total, machine.num_devices, case.nodes, machine.chip.host_bytes_per_s, inputs)
    r = recovery_of(policy, c, case.step_s, inputs)
    spares = choose_spares(case, o, policy, inputs)
    size = unit_devices(machine, kind)
    part = min(machine.num_devices / _PLANNED_DEVICES, 1.0)
    near, store = (case.step_s, case.step_s) if like is None else _intervals(like, r.two_levels, c.write_s)
    run = Run(
        recovery=r,
        near_s=near,
        store_s=store,
        store_stall_s=c.stall_s,
        spares=spares,
        pools=1,
        recovery_spread=o.inputs["recovery_spread"],
        planned_per_s=inputs["planned_stops"] * part / DAY_S,
        planned_s=r.wide_restart_s + r.wide_load_s + r.warm_up_s,
        silent_s=inputs["silent_detection"],
        speeds=like.speeds if like else (1.0,),
        regrows_at_once=like.regrows_at_once if like else True,
    )
    stock = 0
    if swaps:
        own = load_of(case.exposed, slowness(case, o.inputs))
        stock = spares_for(float(own.replaced_per_s * own.repair_s), o.inputs["spare_target"])
    return Ready(
        run=run,
        load=load,
        checkpoint=c,
        spare_kind="node" if kind == "node" else machine.unit_name,
        spare_devices=spares * size,
        stock_nodes=stock,
    )


def _swaps(case: Case, o: RunOptions) -> bool:
    """Whether a whole unit stands in until its node is replaced from stock."""
    return spare_kind(case.machine, o.spares) != "node" and is_supernode(case.machine)


def choose_spares(case: Case, o: RunOptions, policy: PolicyName, inputs: Inputs) -> Whole:
    """Spares as asked for, or enough at nine of ten sites; where whole units stand in, those that are cheapest there.

    One number, or one a run where the time of a swap is drawn.
    """
    asked, machine = o.spares, case.machine
    kind = spare_kind(machine, asked)
    if asked.share is not None:
        return math.ceil(asked.share * machine.num_devices / unit_devices(machine, kind))
    if asked.kind != "auto":
        return asked.count
    if policy == "shrink":
        return 0
    target = o.inputs["spare_target"]
    own = load_of(case.exposed, slowness(case, o.inputs))
    rate = float(own.replaced_per_s) * bad_site(o)
    if not _swaps(case, o):
        return spares_for(rate * float(own.repair_s), target)

    def cheapest(busy: float) -> int:
        # a whole supernode that waits may cost more than the job that waits for one
        return cheapest_spares(busy, math.ceil(machine.num_units), spares_for(busy, target))

    busy = np.asarray(rate * inputs["node_swap"])
    if busy.ndim == 0:
        return cheapest(float(busy))
    steps = np.quantile(busy, np.linspace(0.0, 1.0, _SWAP_STEPS))
    chosen = np.array([cheapest(float(x)) for x in steps], dtype=np.int64)
    found: npt.NDArray[np.int64] = chosen[np.searchsorted(steps, busy).clip(0, _SWAP_STEPS - 1)]
    return found


def _intervals(like: Run, two_levels: bool, write_s: Amount) -> tuple[Amount, Amount]:
    """Those that were chosen, longer where storage turns out slower: none starts before the last one is there."""
    if not two_levels:
        both = np.maximum(like.store_s, write_s)
        return both, both
    longer = like.near_s * np.ceil(write_s / np.asarray(like.near_s) - 1e-9)
    return like.near_s, np.maximum(like.store_s, longer)


def with_intervals(run: Run, found: Intervals) -> Run:
    """A run with the intervals that are best for it."""
    return dataclasses.replace(run, near_s=found.near_s, store_s=found.store_s)


def bad_site(o: RunOptions) -> float:
    """Factor on the rates of a site that nine of ten stay below: spares are chosen for it."""
    return site_quantile(o, NORMAL)


def site_quantile(o: RunOptions, deviations: float) -> float:
    """Factor on the rates of a site so many deviations from the middle one; the mean factor is one."""
    spread = o.faults.site_spread
    return math.exp(deviations * spread - spread**2 / 2.0)


def spare_kind(machine: Machine, asked: SpareRequest) -> str:
    """Whether a spare is a node or a unit."""
    if asked.kind == "auto":
        return "unit" if is_supernode(machine) else "node"
    return asked.kind


def spare_name(machine: Machine, asked: SpareRequest) -> str:
    """What a spare is called."""
    return "node" if spare_kind(machine, asked) == "node" else machine.unit_name


def unit_devices(machine: Machine, kind: str) -> int:
    """Devices that go with one fault, and come with one spare."""
    return machine.devices_per_node if kind == "node" else machine.devices_per_unit

"""One plan priced and replayed: the closed form beside the timeline, and why they differ."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import numpy as np

from fullmesh.cost.components import C
from fullmesh.cost.stages import Stages
from fullmesh.errors import PlanError
from fullmesh.outcomes.estimate import Estimate
from fullmesh.outcomes.pipeline import Pipeline, costs_of, pipeline_costs, pipeline_of
from fullmesh.timeline.costs import PipelineCosts
from fullmesh.timeline.engines import Contention, replay
from fullmesh.timeline.perturb import Perturbation
from fullmesh.timeline.profile import OperatorDifference, Profile
from fullmesh.timeline.schedules import build_graph
from fullmesh.timeline.simulate import Simulation
from fullmesh.timeline.simulate import simulate as run_timeline

# Differences below this share of the step are not worth a reason.
NOTABLE = 2e-3
_SHARED = ("contention", "fabric")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Cause:
    """A cause of a difference and its share of the replayed step, negative where it makes the replay longer."""

    name: str
    share: float


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Replayed:
    """A plan with its estimate and its replay.

    Parameters
    ----------
    estimate : Estimate
    simulation : Simulation or None
        None where the schedule cannot run, and ``reason`` says why.
    difference : float
        Closed form over replay, less one.
    causes : tuple of Cause
        What the difference is due to, the largest first.
    """

    estimate: Estimate
    simulation: Simulation | None
    reason: str
    difference: float
    causes: tuple[Cause, ...]


def replay_plan(
    estimate: Estimate,
    *,
    engine: str | None = None,
    perturbation: Perturbation | None = None,
    every_rank: bool = False,
) -> Replayed:
    """Replay the plan of an estimate.

    Parameters
    ----------
    engine : str, optional
        One of ``fullmesh.timeline.engines.ENGINES``. ``contention`` lets hidden communication slow the computation
        beside it, as much as the fitted term says, where the other engines take the closed form's sum.
    perturbation : Perturbation, optional
    every_rank : bool
        A row for every device.

    Raises
    ------
    ScenarioError
        An unknown engine, or devices that do not exist.
    """
    model, machine, plan = estimate.model, estimate.machine, estimate.plan
    shared = engine in _SHARED
    try:
        costs = pipeline_costs(model, machine, plan, contention=shared)
    except PlanError as error:
        return Replayed(
            estimate=estimate, simulation=None, reason=error.what, difference=float("nan"), causes=()
        )
    x = pipeline_of(model, machine, plan)
    slowed = _slowdown(x) if shared else None
    simulation = run_timeline(
        costs, engine=engine, perturbation=perturbation, contention=slowed, every_rank=every_rank
    )
    difference = estimate.step_s / simulation.step_s - 1.0
    causes: list[Cause] = []
    if abs(difference) > NOTABLE:
        causes = _causes(x, simulation, unequal=perturbation is not None)
    return Replayed(
        estimate=estimate, simulation=simulation, reason="", difference=difference, causes=tuple(causes)
    )


def _slowdown(x: Pipeline) -> Contention:
    """The fitted share of hidden communication that computation loses, as a factor while a stream is busy."""
    factor = 1.0 / (1.0 - min(x.term("contention"), 0.9))
    return Contention(compute=dict.fromkeys(("tp", "ep", "cp", "gather"), factor))


def _off_s(x: Pipeline, costs: PipelineCosts | None = None) -> float:
    """Closed form less replay, in seconds."""
    return x.closed_form_step_s() - replay(build_graph(costs_of(x) if costs is None else costs)).step_s


def _causes(x: Pipeline, simulation: Simulation, *, unequal: bool) -> list[Cause]:
    """Take one thing after another out of the plan, from closed form and replay alike, and see what remains.

    What the difference shrinks by is due to it. What devices that differ and an engine of shared resources add is
    measured against the plain replay. Causes that only show together count in full under each name.
    """
    step = simulation.step_s
    plain = replay(build_graph(costs_of(x))).step_s
    uneven = replay(simulation.unfolded.graph).step_s if unequal else plain
    found = [
        Cause(name="computation slowed by what runs beside it", share=(uneven - step) / step),
        Cause(name="devices that differ", share=(plain - uneven) / step),
    ]
    off = x.closed_form_step_s() - plain
    for name, without in _WITHOUT:
        rest = without(x)
        if rest is not None and abs(rest) < abs(off):
            found.append(Cause(name=name, share=math.copysign(abs(off) - abs(rest), off) / step))
    found = [cause for cause in found if abs(cause.share) > NOTABLE / 2]
    return sorted(found, key=lambda cause: -abs(cause.share))


def _with_stages(x: Pipeline, change: Callable[[Stages], Stages]) -> Pipeline:
    return dataclasses.replace(x, whole=change(x.whole), chunks=change(x.chunks))


def _without_sends(x: Pipeline) -> float | None:
    if x.plan.pp == 1:
        return None
    return _off_s(_with_stages(x, lambda s: dataclasses.replace(s, send_s=np.zeros_like(s.send_s))))


def _without_unevenness(x: Pipeline) -> float | None:
    if x.plan.pp == 1:
        return None
    mean = x.chunks.components.mean(axis=0)
    per_stage = len(x.chunks.plan) / len(x.whole.plan)

    def level(s: Stages, row: np.ndarray[tuple[int], np.dtype[np.float64]]) -> Stages:
        return dataclasses.replace(s, components=np.tile(row, (len(s.plan), 1)))

    return _off_s(
        dataclasses.replace(x, whole=level(x.whole, per_stage * mean), chunks=level(x.chunks, mean))
    )


def _without_reduction(x: Pipeline) -> float | None:
    def still(s: Stages) -> Stages:
        zero = np.zeros_like(s.gradient_s)
        return dataclasses.replace(s, gradient_s=zero, parameter_s=zero)

    return _off_s(_with_stages(x, still))


def _without_sharding(x: Pipeline) -> float | None:
    if x.plan.zero != 3:
        return None

    def still(s: Stages) -> Stages:
        components = s.components.copy()
        components[:, [C.FSDP_F, C.FSDP_B]] = 0.0
        return dataclasses.replace(s, components=components)

    return _off_s(_with_stages(x, still))


def _without_hiding(x: Pipeline) -> float | None:
    if not (x.plan.tp_overlap or x.plan.ep_overlap):
        return None
    return _off_s(
        dataclasses.replace(x, plan=dataclasses.replace(x.plan, tp_overlap=False, ep_overlap=False))
    )


_WITHOUT: tuple[tuple[str, Callable[[Pipeline], float | None]], ...] = (
    ("chunks of unequal length", _without_unevenness),
    ("transfers between stages that round trips wait for", _without_sends),
    ("gradients and parameters beside the first and last passes", _without_reduction),
    ("sharded parameters gathered ahead of computation", _without_sharding),
    ("communication beside computation", _without_hiding),
)


def compare_profile(
    replayed: Replayed, profile: Profile, *, step: int | None = None
) -> list[OperatorDifference]:
    """Simulated against real seconds by class of operators; nothing where the plan could not be replayed."""
    if replayed.simulation is None:
        return []
    return replayed.simulation.compare(profile, step=step)

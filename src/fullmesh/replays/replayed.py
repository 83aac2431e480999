"""One plan priced and replayed: the closed form beside the timeline, and why they differ."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from fullmesh.cost.components import C
from fullmesh.cost.stages import Stages
from fullmesh.cost.step import TRAFFIC
from fullmesh.errors import PlanError
from fullmesh.outcomes.estimate import Estimate
from fullmesh.output import formats
from fullmesh.output.result import Result
from fullmesh.output.timing import timing_apart
from fullmesh.replays.chunks import (
    SENDS,
    SHARDED,
    Pipeline,
    after_passes,
    costs_of,
    pipeline_costs,
    pipeline_of,
)
from fullmesh.timeline.changes import Change, changes
from fullmesh.timeline.costs import PipelineCosts
from fullmesh.timeline.engine.engines import Contention, replay
from fullmesh.timeline.perturb import Perturbation, unfold
from fullmesh.timeline.schedule.schedules import build_graph
from fullmesh.timeline.simulate import Simulation
from fullmesh.timeline.simulate import simulate as run_timeline

# Differences below this share of the step are not worth a reason.
NOTABLE = 2e-3
# Communication inside the passes, by the operators that stand for it, and its kind.
_IN_PASSES = {SENDS: "send", SHARDED: "fsdp"}
_SHARED = ("contention", "fabric")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Cause:
    """A cause of a difference and its share of the replayed step, negative where it makes the replay longer."""

    name: str
    share: float


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, repr=False, eq=False)
class Replayed(Result):
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
    undisturbed_step_s : float
        The replay of equal devices that slow each other by nothing but the closed form's sum.
    after_passes : mapping of str to float
        Shares of the time after the last pass: optimizer, what is fixed for every step, traffic that never hides.
    """

    estimate: Estimate
    simulation: Simulation | None
    reason: str
    difference: float
    causes: tuple[Cause, ...]
    undisturbed_step_s: float
    after_passes: Mapping[str, float]

    def __str__(self) -> str:
        if self.simulation is None:
            return f"{self.estimate}; the replay cannot run: {self.reason}"
        off = formats.percent(self.difference, 2)
        return f"{self.estimate}; replayed {formats.seconds(self.simulation.step_s)} (closed form {off} off)"

    def summary(self) -> str:
        """Model, machine and plan with its step, priced and replayed."""
        e = self.estimate
        return f"{e.model.name} on {e.plan.num_devices:,} devices of {e.machine.name}, {self}"

    def to_dict(self) -> dict[str, Any]:
        """All figures as plain values; what the replay itself took stands under ``timing``."""
        from fullmesh.replays.records import replay_record

        return timing_apart(replay_record(self))

    def to_rows(self) -> list[dict[str, Any]]:
        """One row: plan, figures of the estimate, figures of the replay."""
        from fullmesh.replays.records import replay_row

        return [replay_row(self)]

    def html_rows(self) -> list[Sequence[str]]:
        """Labels and figures of the estimate, and where the replayed step goes."""
        path = [(kind, formats.seconds(value)) for kind, value in self.critical_path_s().items()]
        step = "-" if self.simulation is None else formats.seconds(self.simulation.step_s)
        return [*self.estimate.html_rows(), ("replayed step", step), *path]

    def critical_path_s(self) -> dict[str, float]:
        """Seconds of the critical path by kind; the optimizer without the traffic that goes with it."""
        if self.simulation is None:
            return {}
        out = dict(self.simulation.path.seconds)
        last = out.pop("optimizer", 0.0)
        for kind, share in self.after_passes.items():
            if share * last > 0:
                out[kind] = out.get(kind, 0.0) + share * last
        return dict(sorted(out.items(), key=lambda kv: -kv[1]))

    def exposed_s(self) -> dict[str, float]:
        """Seconds of communication that a device waits for in a step, on average, by kind.

        With what never hides: sends and sharded parameters inside the passes, gradients and parameters after them.
        """
        if self.simulation is None:
            return {}
        out = self.simulation.activity.exposed_by_kind()
        costs = self.simulation.costs
        for operator in costs.operators:
            kind = _IN_PASSES.get(operator.name)
            if kind is not None:
                inside = float((operator.forward_s + operator.backward_s).sum())
                inside *= costs.num_microbatches / costs.num_stages
                out[kind] = out.get(kind, 0.0) + inside
        last = float(costs.column("optimizer_s").mean())
        for kind, share in self.after_passes.items():
            if kind not in ("optimizer", "once a step") and share > 0:
                out[kind] = out.get(kind, 0.0) + share * last
        return dict(sorted(out.items(), key=lambda kv: -kv[1]))


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
        One of ``ENGINES``. ``contention`` lets hidden communication slow the computation beside it, as much
        as the fitted term says, where the others take the closed form's sum; ``fabric`` also lets sends between
        stages share the links of the wired machine.
    perturbation : Perturbation, optional
    every_rank : bool
        A row for every device.

    Raises
    ------
    ScenarioError
        An unknown engine, or devices that do not exist.
    TopologyError
        The engine ``fabric`` on a machine without a wired description.
    """
    model, machine, plan = estimate.model, estimate.machine, estimate.plan
    shared = engine in _SHARED
    try:
        costs = pipeline_costs(model, machine, plan, contention=shared)
    except PlanError as error:
        return Replayed(
            estimate=estimate,
            simulation=None,
            reason=error.what,
            difference=float("nan"),
            causes=(),
            undisturbed_step_s=float("nan"),
            after_passes={},
        )
    x = pipeline_of(model, machine, plan)
    slowed = _slowdown(x) if shared else None
    network = None
    if engine == "fabric":
        # the wired graph is read only for the engine that shares its links
        from fullmesh.replays.links import sends_on_links

        network = sends_on_links(machine, costs, perturbation, every_rank=every_rank)
    simulation = run_timeline(
        costs,
        engine=engine,
        perturbation=perturbation,
        contention=slowed,
        network=network,
        every_rank=every_rank,
    )
    at_end = after_passes(x)
    total = max(float(sum(part.sum() for part in at_end.values())), 1e-30)
    step = simulation.step_s
    plain = replay(build_graph(costs_of(x))).step_s if shared or perturbation is not None else step
    difference = estimate.step_s / step - 1.0
    return Replayed(
        estimate=estimate,
        simulation=simulation,
        reason="",
        difference=difference,
        causes=tuple(_causes(x, simulation, plain, perturbation)) if abs(difference) > NOTABLE else (),
        undisturbed_step_s=plain,
        after_passes={kind: float(part.sum() / total) for kind, part in at_end.items()},
    )


def _slowdown(x: Pipeline) -> Contention:
    """The fitted share of hidden communication that computation loses, as a factor while a stream is busy."""
    factor = 1.0 / (1.0 - min(x.term("contention"), 0.9))
    return Contention(compute=dict.fromkeys(("tp", "ep", "cp", "gather"), factor))


def _off_s(x: Pipeline, costs: PipelineCosts | None = None) -> float:
    """Closed form less replay, in seconds."""
    return x.closed_form_step_s() - replay(build_graph(costs_of(x) if costs is None else costs)).step_s


def _alone_s(x: Pipeline, perturbation: Perturbation | None) -> float:
    """The replay in which nothing shares anything, with the closed form's sum for what hidden traffic slows."""
    costs = costs_of(x)
    return replay(unfold(build_graph(costs), costs, perturbation).graph).step_s


def _causes(
    x: Pipeline, simulation: Simulation, plain: float, perturbation: Perturbation | None
) -> list[Cause]:
    """Take one thing after another out of the plan, from closed form and replay alike, and see what remains.

    What the difference shrinks by is due to it. What devices that differ and an engine of shared resources add is
    measured against the plain replay. Causes that only show together count in full under each name.
    """
    step = simulation.step_s
    found = []
    if step != plain:
        shared = simulation.timeline.engine in _SHARED
        uneven = _alone_s(x, perturbation) if shared else step
        found = [
            Cause(name="slowdown and links found by the engine", share=(uneven - step) / step),
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
    off: dict[str, Any] = {
        kind.switch: False for kind in TRAFFIC if kind.switch and getattr(x.plan, kind.switch)
    }
    return _off_s(dataclasses.replace(x, plan=dataclasses.replace(x.plan, **off))) if off else None


_WITHOUT: tuple[tuple[str, Callable[[Pipeline], float | None]], ...] = (
    ("chunks of unequal length", _without_unevenness),
    ("transfers between stages that round trips wait for", _without_sends),
    ("gradients and parameters beside the first and last passes", _without_reduction),
    ("sharded parameters gathered ahead of computation", _without_sharding),
    ("communication beside computation", _without_hiding),
)


def changes_between(before: Replayed, after: Replayed) -> list[Change]:
    """What one run does differently from another; stages are compared where there are as many.

    Empty where one of them could not be replayed.
    """
    a, z = before.simulation, after.simulation
    if a is None or z is None:
        return []
    if a.costs.num_stages == z.costs.num_stages:
        return a.changes_to(z)
    lines = changes((a.activity, a.path), (z.activity, z.path), num_stages=1)
    return [line for line in lines if not line.view.startswith("stage")]

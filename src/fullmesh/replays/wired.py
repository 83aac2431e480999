"""A plan's collectives on the fabric as it is wired, beside the closed form that ranked the plan."""

from __future__ import annotations

import dataclasses
import math
from typing import Literal, cast, get_args

from fullmesh.errors import PlanError, TopologyError, did_you_mean
from fullmesh.machine import Machine
from fullmesh.network.whatif import check_plan
from fullmesh.network.wiring.build import wire_machine
from fullmesh.plan import RECIPES, Plan
from fullmesh.workload import ModelSpec, MoE
from fullmesh.workload.ops import BF16_BYTES

Level = Literal["closed-form", "bottleneck", "max-min"]
LEVELS = get_args(Level)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class WiredCollective:
    """One collective of a plan.

    Parameters
    ----------
    axis : str
        ``tensor parallel``, ``experts``, ``context parallel`` or ``gradients``.
    kind : str
    ranks, stride : int
        Size of the group and distance between its neighbours in ranks.
    num_bytes : float
        Whole buffer of a rank.
    closed_form_s, level_s : float
        By the closed form over tiers, with what a library adds to each message, and on the graph, which knows bandwidth
        and latency alone; NaN where the groups do not fill the graph.
    evidence : str
        What the figure of that level rests on.
    """

    axis: str
    kind: str
    ranks: int
    stride: int
    num_bytes: float
    closed_form_s: float
    level_s: float
    evidence: str

    @property
    def off(self) -> float:
        """How far the closed form was off: closed form over level, minus one."""
        return self.closed_form_s / self.level_s - 1.0 if self.level_s > 0 else 0.0


def plan_collectives(model: ModelSpec, plan: Plan) -> list[tuple[str, str, int, int, float]]:
    """The groups of a plan as (axis, kind, ranks, stride, bytes), one entry an axis that communicates.

    Rank order is Megatron's (tensor, context, expert inside data, pipeline); bytes are those of one layer and one
    micro-batch, and for gradients those of the layers that a stage holds.
    """
    tokens = plan.mbs * plan.seq / plan.cp
    out: list[tuple[str, str, int, int, float]] = []
    if plan.tp > 1:
        out.append(("tensor parallel", "all_gather", plan.tp, 1, BF16_BYTES * tokens * model.hidden))
    moe = next((layer.ffn for layer in model.layers if isinstance(layer.ffn, MoE)), None)
    if moe is not None and plan.ep > 1:
        width = moe.latent or model.hidden
        num_bytes = RECIPES[plan.precision].dispatch_bytes * tokens / plan.tp * moe.topk * width
        out.append(("experts", "all_to_all", plan.ep, plan.etp, num_bytes))
    if plan.cp > 1:
        out.append(
            ("context parallel", "all_gather", plan.cp, plan.tp, BF16_BYTES * tokens * model.hidden / plan.tp)
        )
    ranks = plan.dp * plan.cp
    if ranks > 1:
        from fullmesh.workload.parameters import layer_parameters

        layers = [layer_parameters(model, layer) for layer in model.layers]
        held = sum(p.dense for p in layers) / plan.pp / plan.tp
        out.append(("gradients", "reduce_scatter", ranks, plan.tp, plan.grad_bytes * held))
    return out


def wired_collectives(
    model: ModelSpec, machine: Machine, plan: Plan, level: str
) -> tuple[WiredCollective, ...]:
    """Evaluate a plan's collectives at a level of fidelity.

    Parameters
    ----------
    level : {"closed-form", "bottleneck", "max-min"}
        The largest load over capacity of the wired graph, or max-min fair sharing with completion events.

    Raises
    ------
    PlanError
        An unknown level.
    TopologyError
        The machine has no wired description.
    """
    if level not in LEVELS:
        raise PlanError(f"the level {level!r} is unknown", hint=did_you_mean(level, list(LEVELS)))
    groups = plan_collectives(model, plan)
    topology = wire_machine(machine, plan.num_devices)
    out = []
    for axis, kind, ranks, stride, num_bytes in groups:
        try:
            check = check_plan(topology, [(kind, ranks, stride, num_bytes)], cast(Level, level))[0]
            closed_s, level_s, evidence = check.closed_form_s, check.level_s, check.evidence
        except TopologyError as error:
            # a plan may use a part of a supernode only; its groups then do not fill the graph
            closed_s = level_s = math.nan
            evidence = f"not evaluated: {error.what}"
        out.append(
            WiredCollective(
                axis=axis,
                kind=kind,
                ranks=ranks,
                stride=stride,
                num_bytes=num_bytes,
                closed_form_s=closed_s,
                level_s=level_s,
                evidence=evidence,
            )
        )
    return tuple(out)

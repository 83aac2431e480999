"""Where a step goes: from the time at the peak of the matrix units down to the predicted step."""

from __future__ import annotations

import dataclasses

from fullmesh.outcomes.estimate import Estimate
from fullmesh.workload.flops import model_flop_per_token

# Seconds of the bottleneck stage, which uneven stages lengthen; the others happen once a step or between stages.
_PER_STAGE = (
    "memory_s",
    "route_s",
    "recompute_s",
    "launch_s",
    "tp_s",
    "ep_s",
    "cp_s",
    "fsdp_s",
)
_PER_STEP = ("bubble_s", "send_s", "data_parallel_s", "optimizer_s", "fixed_s", "straggler_s")
_PRODUCTS = ("linear_s", "expert_s", "attention_s", "scan_s")

# Groups of losses with one cause, for the comparison of two machines.
GROUPS: dict[str, tuple[str, ...]] = {
    "peak": ("ideal_s",),
    "kernels": ("kernels_s", "memory_s", "route_s", "launch_s"),
    "recompute": ("recompute_s",),
    "communication": ("tp_s", "ep_s", "cp_s", "fsdp_s", "send_s", "data_parallel_s"),
    "pipeline": ("bubble_s", "uneven_s"),
    "rest": ("optimizer_s", "fixed_s", "straggler_s"),
}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Loss:
    """One line of a waterfall; ``key`` names it in the glossary."""

    key: str
    seconds: float
    share: float


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Waterfall:
    """Lines that add up to the step time, the ideal first.

    ``ideal_s`` is causal model FLOPs without recompute over the dense peak of all devices in the plan's precision;
    ``kernels_s`` is what matrix products, attention and scans take beyond it; ``uneven_s`` what the fullest stage
    takes beyond a mean one.
    """

    losses: tuple[Loss, ...]

    def seconds(self, *keys: str) -> float:
        """Seconds of some lines together."""
        return sum(loss.seconds for loss in self.losses if loss.key in keys)

    def group(self, name: str) -> float:
        """Seconds of one of ``GROUPS``."""
        return self.seconds(*GROUPS[name])


def waterfall(e: Estimate) -> Waterfall:
    """The losses of an estimate, in seconds and as shares of the step."""
    ideal = 3.0 * model_flop_per_token(e.model, e.plan.seq) * e.tokens_per_step
    ideal /= e.plan.num_devices * e.peak_flop_per_s
    totals = [s.forward_s + s.backward_s for s in e.stages]
    longest = max(totals)
    mean_share = sum(totals) / len(totals) / longest if longest else 1.0
    parts = e.parts_s
    busy = sum(parts[k] for k in (*_PRODUCTS, *_PER_STAGE))
    seconds = {"ideal_s": ideal}
    seconds["kernels_s"] = mean_share * sum(parts[k] for k in _PRODUCTS) - ideal
    seconds |= {k: mean_share * parts[k] for k in _PER_STAGE}
    seconds["uneven_s"] = (1.0 - mean_share) * busy
    seconds |= {k: parts[k] for k in _PER_STEP}
    return Waterfall(losses=tuple(Loss(key=k, seconds=v, share=v / e.step_s) for k, v in seconds.items()))

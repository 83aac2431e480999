"""What makes the difference between two machines, in one sentence made from the parts of their steps."""

from __future__ import annotations

from fullmesh.outcomes.estimate import Estimate
from fullmesh.outcomes.waterfall import GROUPS, Waterfall
from fullmesh.plan import Plan
from fullmesh.units import si_prefix

_COMMUNICATION = {
    "tp_s": "tensor-parallel",
    "ep_s": "expert",
    "cp_s": "context-parallel",
    "fsdp_s": "parameter-gathering",
    "send_s": "pipeline-send",
    "data_parallel_s": "gradient",
}
# A difference in shares of the step below this is not worth a word.
_NOTABLE = 0.01


def reason(fast: Estimate, slow: Estimate, a: Waterfall, b: Waterfall) -> str:
    """Why ``fast`` trains more tokens a second than ``slow``.

    Throughput is matrix peak times use (MFU), so the ratio of two machines is the ratio of their peaks times the
    ratio of their uses; the shares of the waterfall say where the uses differ.

    Parameters
    ----------
    fast, slow : Estimate
        Of the same model, batch and sequence.
    a, b : Waterfall
        Their waterfalls.
    """
    ratio = fast.tokens_per_s / slow.tokens_per_s
    mine = fast.peak_flop_per_s * fast.plan.num_devices
    theirs = slow.peak_flop_per_s * slow.plan.num_devices
    peak, use = mine / theirs, fast.mfu / slow.mfu
    joined = "and" if (peak >= 1) == (use >= 1) else "but"
    dtypes = ""
    if fast.plan.precision != slow.plan.precision:
        dtypes = f" in {fast.plan.precision.upper()} against {slow.plan.precision.upper()}"
    sentence = (
        f"{fast.machine.name} trains {ratio:.2f} times the tokens/s of {slow.machine.name}: {peak:.2f} times the "
        f"matrix peak ({si_prefix(mine, 'FLOP/s')} against {si_prefix(theirs, 'FLOP/s')}{dtypes}) {joined} {use:.2f} "
        f"times its use (MFU {_percent(fast.mfu)} against {_percent(slow.mfu)})"
    )
    shares = {
        name: (a.group(name) / fast.step_s, b.group(name) / slow.step_s) for name in GROUPS if name != "peak"
    }
    sign = 1.0 if use >= 1 else -1.0
    gains = {name: sign * (theirs_ - mine_) for name, (mine_, theirs_) in shares.items()}
    leading = sorted((n for n in gains if gains[n] > _NOTABLE), key=lambda n: -gains[n])[:2]
    if leading:
        sentence += ", since " + " and ".join(_phrase(n, shares[n], fast, slow, a, b) for n in leading)
    against = min(gains, key=lambda n: gains[n])
    if gains[against] < -_NOTABLE:
        sentence += f"; the other way, {_phrase(against, shares[against], fast, slow, a, b)}"
    return sentence + "."


def _phrase(
    group: str, shares: tuple[float, float], fast: Estimate, slow: Estimate, a: Waterfall, b: Waterfall
) -> str:
    """What one group of losses takes on either machine, and what lies behind it."""
    takes = f"takes {_percent(shares[0])} of its step against {_percent(shares[1])}"
    if group == "kernels":
        return f"what kernels lose against the peak {takes}"
    if group == "recompute":
        return (
            f"recompute {takes} ({fast.plan.recompute} against {slow.plan.recompute}, at "
            f"{si_prefix(fast.capacity_bytes, 'B')} and {si_prefix(slow.capacity_bytes, 'B')} a device)"
        )
    if group == "communication":
        keys = GROUPS["communication"]
        worst = max(keys, key=lambda k: abs(a.seconds(k) / fast.step_s - b.seconds(k) / slow.step_s))
        return f"exposed communication, mostly {_COMMUNICATION[worst]}, {takes}"
    if group == "pipeline":
        return (
            f"waiting in the pipeline {takes} ({_pipeline(fast.plan)} with {fast.plan.num_microbatches} "
            f"micro-batches against {_pipeline(slow.plan)} with {slow.plan.num_microbatches})"
        )
    return f"optimizer, once-a-step and straggler time {takes}"


def _pipeline(plan: Plan) -> str:
    """Stages, chunks of each where there are several, and another schedule than the usual one."""
    chunks = f"x{plan.vpp}" if plan.vpp > 1 else ""
    return f"PP {plan.pp}{chunks}" + ("" if plan.schedule == "1f1b" else f" {plan.schedule}")


def _percent(value: float) -> str:
    return f"{100 * value:.1f} %"

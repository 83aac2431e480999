"""What a launch file says: a model, the fields of a plan that it decides, and what was not understood."""

from __future__ import annotations

import dataclasses
from typing import Any

from fullmesh.plan import Plan
from fullmesh.plan.layout import layout_text, parse_layout
from fullmesh.plan.plan import FIELDS, MODULES
from fullmesh.workload import ModelSpec

# fields that no option of any framework sets: what its release does by itself
BY_RELEASE = (
    "stack", "kernels", "grad_copy", "issue_ns", "routing_syncs", "weight_cache", "fused_casts", "fsdp_prefetch",
    "p2p_overlap", "fused_loss", "compiled", "flash_attention",
)  # fmt: skip
#: What besides is left to a release: MindSpore's graph compiler hides traffic, the class of the model groups experts.
MORE_BY_RELEASE: dict[str, tuple[str, ...]] = {
    "mindformers": ("tp_overlap", "grad_overlap", "param_overlap"),
    "deepspeed": ("grouped_experts",),
}


def by_release(framework: str) -> tuple[str, ...]:
    """Fields that no option of a framework sets."""
    return BY_RELEASE + MORE_BY_RELEASE.get(framework, ())


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Read:
    """A launch file as it was understood.

    Parameters
    ----------
    framework : str
        ``megatron``, ``mindspeed``, ...
    model : ModelSpec or None
        None where the file has no sizes of one.
    fields : mapping of str to value
        Of the plan, as far as the file decides them; the degree of data parallelism stands in ``devices``.
    devices : int or None
        That the launcher starts.
    assumed : tuple of str
        What was taken where the file is silent or leaves a choice.
    left : tuple of str
        Settings that were not understood.
    """

    framework: str
    model: ModelSpec | None
    fields: dict[str, Any]
    devices: int | None = None
    assumed: tuple[str, ...] = ()
    left: tuple[str, ...] = ()


def settled(plan: Plan, model: ModelSpec) -> Plan:
    """The plan with every field that decides nothing at its default, and one way to write what means the same.

    Two plans that are equal afterwards are the same plan for this model.
    """
    idle: set[str] = set()
    if plan.ep == 1:
        idle.add("ep_overlap")
    if not model.is_moe:
        idle |= {"ep", "etp", "grouped_experts", "routing_syncs", "dispatcher"}
    if plan.tp == 1:
        idle |= {"sequence_parallel", "tp_overlap"}
    if plan.tp == 1 or not plan.sequence_parallel:
        idle.add("tp_overlap")
    if plan.cp == 1:
        idle.add("cp_kind")
    if plan.pp == 1:
        idle |= {"schedule", "p2p_overlap", "layout", "vpp"}
    if plan.zero == 0:
        idle |= {"param_overlap", "shard"}
    if plan.recompute != "selective":
        idle.add("recompute_modules")
    if plan.recompute == "none":
        idle.add("recompute_fraction")
    if plan.dp * plan.cp == 1:
        idle |= {"grad_overlap", "param_overlap"}
    changed: dict[str, Any] = {name: FIELDS[name].default for name in idle}
    if plan.recompute == "selective":
        # the attention core where none is named, and in one order
        changed["recompute_modules"] = tuple(
            m for m in MODULES if m in (plan.recompute_modules or ("core_attn",))
        )
    num_chunks = plan.pp * plan.vpp
    if plan.layout and plan.pp > 1:
        usual = layout_text(model.num_layers, num_chunks, model.mtp_layers)
        same = parse_layout(plan.layout) == parse_layout(usual)
        changed["layout"] = "" if same else "|".join(parse_layout(plan.layout))
    if plan.shard >= plan.dp * plan.cp:
        changed["shard"] = 0
    return dataclasses.replace(plan, **changed)


def plan_differences(a: Plan, b: Plan, model: ModelSpec) -> list[str]:
    """Fields in which two plans differ for a model; shares count as equal to a millionth."""
    one, other = settled(a, model), settled(b, model)
    out = []
    for name, field in FIELDS.items():
        x, y = getattr(one, name), getattr(other, name)
        if x != y and not (field.kind == "share" and abs(x - y) < 1e-6):
            out.append(name)
    return out

"""A plan as settings that Megatron-Core and MindSpeed understand."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any

from fullmesh.errors import ScenarioError
from fullmesh.outcomes.estimate import Estimate
from fullmesh.plan import Plan

Setting = int | str | bool | list[str]


def launch_settings(plan: Plan, num_layers: int) -> dict[str, Setting]:
    """Arguments of Megatron's ``pretrain_gpt.py`` without the leading dashes, only those that a plan decides.

    Parameters
    ----------
    num_layers : int
        Of the model, for the layers of a virtual stage.
    """
    out: dict[str, Setting] = {
        "tensor-model-parallel-size": plan.tp,
        "pipeline-model-parallel-size": plan.pp,
        "context-parallel-size": plan.cp,
        "micro-batch-size": plan.mbs,
        "global-batch-size": plan.gbs,
        "seq-length": plan.seq,
    }
    if plan.ep > 1:
        out |= {"expert-model-parallel-size": plan.ep, "expert-tensor-parallel-size": plan.etp}
        out["moe-token-dispatcher-type"] = {"deepep": "flex", "hybridep": "flex"}.get(
            plan.dispatcher, plan.dispatcher
        )
        if plan.dispatcher in ("deepep", "hybridep"):
            out["moe-flex-dispatcher-backend"] = plan.dispatcher
        if plan.ep_overlap:
            out["overlap-moe-expert-parallel-comm"] = True
    if plan.vpp > 1 and num_layers % (plan.pp * plan.vpp) == 0:
        out["num-layers-per-virtual-pipeline-stage"] = num_layers // (plan.pp * plan.vpp)
    elif plan.vpp > 1:
        out["num-virtual-stages-per-pipeline-rank"] = plan.vpp
    if plan.tp > 1 and plan.sequence_parallel:
        out["sequence-parallel"] = True
        if plan.tp_overlap:
            out["tp-comm-overlap"] = True
    if plan.cp > 1:
        out["cp-comm-type"] = "p2p" if plan.cp_kind == "ring" else "a2a"
    if plan.zero in (1, 2):
        out["use-distributed-optimizer"] = True
    elif plan.zero == 3:
        out |= {"use-megatron-fsdp": True, "data-parallel-sharding-strategy": "optim_grads_params"}
    if plan.grad_overlap:
        out["overlap-grad-reduce"] = True
    if plan.param_overlap and plan.zero:
        out["overlap-param-gather"] = True
    if plan.recompute == "full":
        per_stage = max(1, round(plan.recompute_fraction * num_layers / plan.pp))
        out |= {
            "recompute-granularity": "full",
            "recompute-method": "block",
            "recompute-num-layers": per_stage,
        }
    elif plan.recompute == "selective":
        out["recompute-granularity"] = "selective"
        if plan.recompute_modules:
            out["recompute-modules"] = list(plan.recompute_modules)
    if plan.offload_optimizer:
        out["optimizer-cpu-offload"] = True
    precisions: dict[str, dict[str, Setting]] = {
        "bf16": {"bf16": True},
        "fp16": {"fp16": True},
        "fp8": {"bf16": True, "fp8-format": "hybrid", "fp8-recipe": "tensorwise"},
        "fp8-block": {"bf16": True, "fp8-format": "e4m3", "fp8-recipe": "blockwise"},
        "mxfp8": {"bf16": True, "fp8-format": "e4m3", "fp8-recipe": "mxfp8"},
        "nvfp4": {"bf16": True, "fp4-format": "e2m1", "fp4-recipe": "nvfp4"},
    }
    return out | precisions.get(plan.precision, {})


def write_launch(e: Estimate, path: Path) -> None:
    """Write the launch settings of an estimate, whole or not at all.

    Raises
    ------
    ScenarioError
        The ending is neither ``.json`` nor ``.toml``, or the file cannot be written.
    """
    head: dict[str, Any] = {
        "model": e.model.id,
        "machine": e.machine.id,
        "devices": e.plan.num_devices,
        "predicted_step_s": e.step_s,
    }
    settings = launch_settings(e.plan, e.model.num_layers)
    if path.suffix == ".json":
        text = json.dumps({"scenario": head, "arguments": settings}, indent=2) + "\n"
    elif path.suffix == ".toml":
        text = _toml("scenario", head) + "\n" + _toml("arguments", settings)
    else:
        raise ScenarioError(
            f"cannot export to {path.name!r}", where="--export", expected="a file that ends in .json or .toml"
        )
    try:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=path.name)
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        os.replace(name, path)
    except OSError as error:
        raise ScenarioError(f"cannot write {path}: {error.strerror}", where="--export") from None


def _toml(table: str, values: dict[str, Any]) -> str:
    # JSON writes strings, numbers, booleans and lists of strings as TOML does
    return f"[{table}]\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in values.items())

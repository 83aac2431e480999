"""A plan as settings that Megatron-Core and MindSpeed understand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from fullmesh.files import check_writable, write_text
from fullmesh.outcomes.estimate import Estimate
from fullmesh.plan import Plan
from fullmesh.plan.declare import Setting
from fullmesh.plan.layout import layout_text
from fullmesh.plan.plan import FIELDS

LAUNCH_ENDINGS = (".json", ".toml")


def launch_settings(plan: Plan, num_layers: int, mtp_layers: int = 0) -> dict[str, Setting]:
    """Arguments of Megatron's ``pretrain_gpt.py`` without the leading dashes, only those that a plan decides.

    Their names stand with the fields of a plan; here stands what depends on several fields or on the model.

    Parameters
    ----------
    num_layers, mtp_layers : int
        Of the model, for the layers of a virtual stage.
    """
    out: dict[str, Setting] = {}
    for name, field in FIELDS.items():
        value = getattr(plan, name)
        if not _matters(plan, name):
            continue
        if not isinstance(field.export, str):
            out |= field.export.get(value, {})
        elif field.export and value:
            out[field.export] = list(value) if isinstance(value, tuple) else value
    num_chunks = plan.pp * plan.vpp
    # a layout says all of it: Megatron refuses a number of virtual stages or of their layers beside one
    if plan.layout or num_layers % num_chunks:
        out["pipeline-model-parallel-layout"] = plan.layout or layout_text(num_layers, num_chunks, mtp_layers)
    elif plan.vpp > 1:
        out["num-layers-per-virtual-pipeline-stage"] = num_layers // num_chunks
    if plan.recompute == "full":
        out["recompute-num-layers"] = max(1, round(plan.recompute_fraction * num_layers / plan.pp))
    if plan.offload_optimizer:
        out["optimizer-cpu-offload"] = True
    return out


def _matters(plan: Plan, name: str) -> bool:
    """Whether a field decides anything beside the others of its plan."""
    if name in ("ep", "etp", "dispatcher", "ep_overlap"):
        return plan.ep > 1
    if name in ("sequence_parallel", "tp_overlap"):
        return plan.tp > 1 and plan.sequence_parallel
    return {
        "cp_kind": plan.cp > 1,
        "param_overlap": plan.zero > 0,
        "recompute_modules": plan.recompute == "selective",
    }.get(name, True)


def write_launch(e: Estimate, path: Path) -> None:
    """Write the launch settings of an estimate, whole or not at all.

    Raises
    ------
    OutputError
        The ending is neither ``.json`` nor ``.toml``, or the file cannot be written.
    """
    check_writable(path, where="--export", endings=LAUNCH_ENDINGS)
    head: dict[str, Any] = {
        "model": e.model.id,
        "machine": e.machine.id,
        "devices": e.plan.num_devices,
        "predicted_step_s": e.step_s,
    }
    settings = launch_settings(e.plan, e.model.num_layers, e.model.mtp_layers)
    if path.suffix.lower() == ".json":
        text = json.dumps({"scenario": head, "arguments": settings}, indent=2) + "\n"
    else:
        text = _toml("scenario", head) + "\n" + _toml("arguments", settings)
    write_text(path, text, where="--export")


def _toml(table: str, values: dict[str, Any]) -> str:
    # JSON writes strings, numbers, booleans and lists of strings as TOML does
    return f"[{table}]\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in values.items())

"""A run as one row of the results' columns, which ``fullmesh calibrate results`` reads."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fullmesh.errors import FullmeshError, ResultsError
from fullmesh.evidence.mapping import row_case
from fullmesh.evidence.results import COLUMNS, read_results, row_of_fields
from fullmesh.files import write_text
from fullmesh.machine import Machine
from fullmesh.plan import Plan
from fullmesh.reading import is_file
from fullmesh.study.launch.outline import same_model
from fullmesh.study.launch.read import plan_differences
from fullmesh.workload import MLP, Attention, LatentAttention, ModelSpec, MoE
from fullmesh.workload.readers import shipped

_FRAMEWORKS = {
    "megatron-core": "Megatron-LM", "mindspeed-2026": "MindSpeed-LLM", "mindformers": "MindFormers",
    "torchtitan": "torchtitan", "deepspeed": "DeepSpeed", "fsdp": "FSDP", "automodel": "AutoModel",
}  # fmt: skip
_GRAPHS = {
    "none": "cuda_graph=none",
    "partial": "cuda_graph=transformer_engine:attn",
    "full": "full_iter cuda graph",
}
_SHARDED = {0: "no", 1: "yes", 2: "zero-2", 3: "fsdp"}


def row_of(
    model: ModelSpec, machine: Machine, plan: Plan, step_s: float | None, *, row_id: str = "run-1"
) -> dict[str, str]:
    """All columns as text, empty where there is nothing to say."""
    out = dict.fromkeys(COLUMNS, "")
    entry = shipped.find(model.id)
    out |= {
        "id": row_id, "tier": "A", "source": "own run", "phase": "sft-lora" if plan.trainable == "lora" else "pretrain",
        "framework": _framework(plan.stack), "gpu": machine.chip.name, "machine": machine.id,
        "n_gpus": str(plan.num_devices), "model": entry.name if entry else model.name, "seq": str(plan.seq),
        "precision": plan.precision, "TP": str(plan.tp), "CP": str(plan.cp), "PP": str(plan.pp), "VPP": str(plan.vpp),
        "DP": str(plan.dp), "mbs": str(plan.mbs), "gbs": str(plan.gbs), "recompute": _recompute(plan, model),
        "overlap_and_flags": "; ".join(_flags(plan, model)), "dist_opt": _SHARDED[plan.zero],
        "step_s": "" if step_s is None else f"{step_s:.6g}", "step_from": "step" if step_s is not None else "",
        "mtp_layers": str(model.mtp_layers), **_sizes(model),
    }  # fmt: skip
    if plan.zero == 3:
        group = plan.shard if 0 < plan.shard < plan.dp * plan.cp else plan.dp * plan.cp
        out["fsdp"] = str(max(1, group // plan.cp))
    if model.is_moe:
        out |= {"EP": str(plan.ep), "ETP": str(plan.etp)}
    return out


def _framework(stack: str) -> str:
    if stack.startswith("nemo-"):
        return f"NeMo {stack.removeprefix('nemo-')}"
    return _FRAMEWORKS.get(stack, stack)


def _sizes(model: ModelSpec) -> dict[str, str]:
    out: dict[str, Any] = {"layers": model.num_layers, "hidden": model.hidden, "vocab": model.vocab}
    mixer = next((layer.mixer for layer in model.layers if layer.mixer is not None), None)
    if isinstance(mixer, Attention):
        out |= {"heads": mixer.num_heads, "kv_heads": mixer.num_kv_heads, "head_dim": mixer.head_dim}
    elif isinstance(mixer, LatentAttention):
        out["heads"] = mixer.num_heads
        out["head_dim"] = f"qk{mixer.qk_nope_dim}+{mixer.qk_rope_dim}rope/v{mixer.v_dim}"
        ranks = f"q_lora{mixer.q_lora_rank} " if mixer.q_lora_rank else ""
        out["arch_note"] = f"{ranks}kv_lora{mixer.kv_lora_rank}"
    dense = next((layer.ffn for layer in model.layers if isinstance(layer.ffn, MLP)), None)
    experts = next((layer.ffn for layer in model.layers if isinstance(layer.ffn, MoE)), None)
    if dense is not None:
        out["ffn"] = dense.ffn
    if experts is not None:
        out |= {"experts": experts.num_experts, "topk": experts.topk, "moe_ffn": experts.ffn}
        out["shared_experts"] = f"shared ffn {experts.shared_ffn}" if experts.shared_ffn else "0"
        first = next(i for i, layer in enumerate(model.layers) if isinstance(layer.ffn, MoE))
        if all(isinstance(layer.ffn, MoE) for layer in model.layers[first:]):
            out["dense_layers"] = first
    return {key: str(value) for key, value in out.items()}


def _recompute(plan: Plan, model: ModelSpec) -> str:
    if plan.recompute == "none":
        return "none"
    if plan.recompute == "selective":
        return "selective" + (": " + " ".join(plan.recompute_modules) if plan.recompute_modules else "")
    if plan.recompute_fraction == 1.0:
        return "full"
    return f"full block {round(plan.recompute_fraction * model.num_layers / plan.pp)}"


def _flags(plan: Plan, model: ModelSpec) -> list[str]:
    """Switches in the words that tables of results use."""
    out = [_GRAPHS[plan.cuda_graph], "bf16 grad sync" if plan.grad_bytes == 2 else "fp32 grad"]
    out.append(f"overlap_grad_reduce={str(plan.grad_overlap).lower()}")
    out.append(f"overlap_param_gather={str(plan.param_overlap).lower()}")
    if plan.tp > 1:
        out.append("sequence parallelism" if plan.sequence_parallel else "no sequence parallel")
        out.append("tp overlap" if plan.tp_overlap else "vanilla tp")
    if plan.cp > 1 and plan.cp_kind == "ulysses":
        out.append("ulysses")
    if plan.pp > 1 and not plan.p2p_overlap:
        out.append("sync pp comm")
    if plan.layout and plan.pp > 1:
        out.append(f"pp_layout={plan.layout}")
    if model.is_moe:
        out += [plan.dispatcher] if plan.dispatcher in ("deepep", "hybridep") and plan.ep > 1 else []
        out += ["moe_a2a_overlap"] if plan.ep_overlap and plan.ep > 1 else []
        out += ["grouped"] if plan.grouped_experts else []
    if plan.fp8_params:
        out.append("fp8 param gather")
    if plan.compiled:
        out.append("compile")
    if plan.offload_optimizer:
        out.append(f"optimizer cpu offload {round(100 * plan.offload_optimizer)}%")
    if plan.offload_activations:
        out.append(f"cpu_offload_layers={round(plan.offload_activations * model.num_layers / plan.pp)}")
    return out


def unsaid(model: ModelSpec, plan: Plan, row: Mapping[str, str]) -> tuple[str, ...]:
    """Fields of the plan, and the model, that reading the row back would give otherwise."""
    try:
        case = row_case(row_of_fields({**row, "step_s": row["step_s"] or "1"}, where="--row"))
    except FullmeshError as error:
        return (error.what,)
    out = plan_differences(plan, case.plan, model)
    return (*out, *(() if same_model(model, case.model) else ("model",)))


def row_text(rows: list[Mapping[str, str]]) -> str:
    """Rows as a table with its header."""
    out = io.StringIO(newline="")
    writer = csv.DictWriter(out, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


def append_row(path: Path, row: Mapping[str, str]) -> None:
    """Add a row to a table of one's own results, or begin one; the row gets an id that is still free.

    Raises
    ------
    ResultsError, OutputError
        The file is no table of results or has other columns, or cannot be written.
    """
    rows: list[Mapping[str, str]] = []
    if is_file(path) and path.stat().st_size:
        taken = {r.id for r in read_results(path)}
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            if tuple(reader.fieldnames or ()) != COLUMNS:
                raise ResultsError(
                    "the table has other columns than this command writes",
                    where=str(path),
                    expected="a table that --row began",
                    hint="name a new file",
                )
            rows = list(reader)
        n = len(rows) + 1
        while f"run-{n}" in taken:
            n += 1
        row = {**row, "id": f"run-{n}"}
    write_text(path, row_text([*rows, row]), where="--row")

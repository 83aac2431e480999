"""torchtitan: its TOML job configuration, with the sizes of the model in a TOML file beside it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from fullmesh.errors import LaunchError, shown
from fullmesh.plan import Plan
from fullmesh.plan.layout import chunks_text, default_chunks, layout_text, parse_layout
from fullmesh.study.launch.megatron import cannot
from fullmesh.study.launch.outline import Outline, model_of
from fullmesh.study.launch.read import Read
from fullmesh.study.launch.taken import Settings, Taken, flat, nested
from fullmesh.workload import MLP, Attention, LatentAttention, ModelSpec, MoE
from fullmesh.workload.parameters import MAX_LAYERS
from fullmesh.workload.readers import shipped
from fullmesh.workload.readers.huggingface import load_model

NAME = "torchtitan"
#: Fields of a plan that are a number in both.
SIZES: Mapping[str, str] = MappingProxyType(
    {
        "tp": "parallelism.tensor_parallel_degree",
        "pp": "parallelism.pipeline_parallel_degree",
        "cp": "parallelism.context_parallel_degree",
        "ep": "parallelism.expert_parallel_degree",
        "etp": "parallelism.expert_tensor_parallel_degree",
        "seq": "training.seq_len",
    }
)
#: For each choice the settings that say it; converters are lists that add up.
CHOICES: Mapping[str, Mapping[Any, Settings]] = MappingProxyType(
    {
        "zero": {
            3: {"parallelism.fsdp_reshard_after_forward": "always"},
            2: {"parallelism.fsdp_reshard_after_forward": "never"},
            0: {},
        },
        "precision": {
            "bf16": {},
            "fp8": {"quantize.linear.float8.recipe_name": "tensorwise"},
            "fp8-block": {"quantize.linear.float8.recipe_name": "rowwise"},
            "mxfp8": {"quantize.linear.mx.recipe_name": "mxfp8_cublas"},
        },
        "dispatcher": {
            "alltoall": {"parallelism.expert_parallel_comm_backend": "standard"},
            "deepep": {"parallelism.expert_parallel_comm_backend": "deepep"},
        },
    }
)
_CONVERTERS = {"fp8": "float8", "fp8-block": "float8", "mxfp8": "mx"}
#: Where a model has the sizes that torchtitan's own model classes take.
LLAMA, QWEN, DEEPSEEK = "llama3", "qwen3", "deepseek_v3"
_IDLE = (
    "job.", "profiling.", "metrics.", "optimizer.", "lr_scheduler.", "checkpoint.", "comm.", "validation.", "debug.",
    "experimental.", "fault_tolerance.", "memory_estimation.", "training.dataset", "training.dataset_path",
    "training.steps", "training.max_norm", "training.gc_freq", "training.gc_debug", "training.seed",
    "training.dataloader.", "training.deterministic", "model.hf_assets_path", "model.tokenizer_path",
    "model.print_after_conversion", "model.name", "model.flavor", "activation_checkpoint.early_stop",
    "activation_checkpoint.preserve_rng_state", "activation_checkpoint.per_op_",
    "activation_checkpoint.determinism_check", "activation_checkpoint.debug", "compile.components",
    "compile.backend", "quantize.", "parallelism.disable_loss_parallel",
    "parallelism.context_parallel_load_balancer", "parallelism.context_parallel_rotate_method",
    "parallelism.pipeline_parallel_schedule_csv", "training.mixed_precision_param",
    "training.mixed_precision_reduce", "parallelism.pipeline_parallel_first_stage_less_layers",
    "parallelism.pipeline_parallel_last_stage_less_layers",
)  # fmt: skip


# --- writing -----------------------------------------------------------------------------------------------------


def titan_config(plan: Plan, found: Outline) -> tuple[dict[str, Any], dict[str, Any]]:
    """The job configuration, and the sizes of the model.

    Raises
    ------
    ExportError
        torchtitan has no setting for a choice of the plan or of the model.
    """
    sizes = _model_sizes(found)
    out: Settings = {
        "job.description": "written by fullmesh", "model.name": "fullmesh", "model.flavor": "plan",
        "model.hf_assets_path": "./assets", "experimental.custom_import": "fullmesh_model", "training.steps": 100,
        "training.dataset": "c4_test", "metrics.log_freq": 1,
    }  # fmt: skip
    out |= {path: getattr(plan, field) for field, path in SIZES.items() if field not in ("ep", "etp")}
    for field in ("zero", "precision", *(("dispatcher",) if found.experts else ())):
        choice = CHOICES[field].get(getattr(plan, field))
        if choice is None:
            raise cannot(NAME, f"{field} = {getattr(plan, field)}")
        out |= choice
    shard = plan.shard // plan.cp if plan.shard and plan.shard < plan.dp * plan.cp else plan.dp
    out["parallelism.data_parallel_shard_degree"] = shard if plan.zero else 1
    out["parallelism.data_parallel_replicate_degree"] = plan.dp // shard if plan.zero else plan.dp
    if found.experts:
        out |= {SIZES["ep"]: plan.ep, SIZES["etp"]: plan.etp}
    if name := _CONVERTERS.get(plan.precision):
        converters = [f"quantize.linear.{name}"]
        if found.experts:
            converters.append(f"quantize.grouped_mm.{name}")
            out[f"quantize.grouped_mm.{name}.fqns"] = ["experts"]
        out["model.converters"] = converters
        if plan.fp8_params and name == "float8":
            out["quantize.linear.float8.enable_fsdp_float8_all_gather"] = True
    out["training.mixed_precision_param"] = "bfloat16"
    out["training.local_batch_size"] = plan.gbs // plan.dp if plan.pp > 1 else plan.mbs
    out["training.global_batch_size"] = plan.gbs
    out["training.enable_cpu_offload"] = plan.offload_optimizer == 1.0
    out["compile.enable"] = plan.compiled
    out["parallelism.enable_async_tensor_parallel"] = (
        plan.tp > 1 and plan.sequence_parallel and plan.tp_overlap
    )
    out |= _recompute_settings(plan)
    if plan.pp > 1:
        out |= _chunk_settings(plan, found)
    return nested(out), sizes


def _recompute_settings(plan: Plan) -> Settings:
    if plan.recompute == "none":
        return {"activation_checkpoint.mode": "none"}
    if plan.recompute == "selective":
        raise cannot(NAME, f"recompute = selective ({', '.join(plan.recompute_modules) or 'core_attn'})")
    if plan.recompute_fraction == 1.0:
        return {"activation_checkpoint.mode": "full"}
    every = round(1.0 / plan.recompute_fraction) if plan.recompute_fraction else 0
    return {
        "activation_checkpoint.mode": "selective",
        "activation_checkpoint.selective_ac_option": str(every),
    }


def _chunk_settings(plan: Plan, found: Outline) -> Settings:
    schedule = {
        ("1f1b", False): "1F1B", ("1f1b", True): "Interleaved1F1B", ("gpipe", False): "GPipe",
    }.get((plan.schedule, plan.vpp > 1))  # fmt: skip
    if schedule is None:
        raise cannot(NAME, f"schedule = {plan.schedule} with {plan.vpp} chunks a rank")
    text = plan.layout or layout_text(found.num_layers, plan.pp * plan.vpp)
    parts, layer = [], 0
    for chunk in parse_layout(text):
        names = ["tok_embeddings"] if "E" in chunk else []
        names += [f"layers.{layer + i}" for i in range(chunk.count("t"))]
        layer += chunk.count("t")
        parts.append(names + (["norm", "output"] if "L" in chunk else []))
    return {
        "parallelism.pipeline_parallel_schedule": schedule,
        "parallelism.pipeline_parallel_microbatch_size": plan.mbs,
        "parallelism.module_fqns_per_model_part": parts,
    }


def _model_sizes(found: Outline) -> dict[str, Any]:
    """Arguments of the model class of torchtitan that has such layers."""
    mixer, dense, experts = found.mixer, found.dense, found.experts
    if found.mtp_layers or found.learned_positions or found.norm != "rmsnorm" or any(found.windowed):
        raise cannot(NAME, "prediction modules, learned positions, layer norms or sliding windows")
    gated = all(part.gated and not part.bias for part in (dense, experts) if part)
    if not gated or found.num_dense_first is None:
        raise cannot(NAME, "ungated or biased feed-forward parts, or dense layers behind expert layers")
    out: dict[str, Any] = {
        "dim": found.hidden, "n_layers": found.num_layers, "n_heads": mixer.num_heads, "vocab_size": found.vocab,
    }  # fmt: skip
    if isinstance(mixer, LatentAttention):
        if found.tied or experts is None:
            raise cannot(NAME, "latent attention with tied embeddings or without experts")
        out |= {
            "q_lora_rank": mixer.q_lora_rank or 0, "kv_lora_rank": mixer.kv_lora_rank,
            "qk_nope_head_dim": mixer.qk_nope_dim, "qk_rope_head_dim": mixer.qk_rope_dim, "v_head_dim": mixer.v_dim,
            "inter_dim": dense.ffn if dense else experts.ffn, "moe_inter_dim": experts.ffn,
            "n_dense_layers": found.num_dense_first,
        }  # fmt: skip
        return {"class": DEEPSEEK, "args": out, "moe_args": _expert_sizes(experts)}
    plain = (
        not (mixer.bias or mixer.out_bias or mixer.gated_output or mixer.sinks)
        and mixer.rotary
        and mixer.qk_norm_size is None
    )
    if not plain:
        raise cannot(NAME, "attention with biases, gates or sinks")
    out["n_kv_heads"] = mixer.num_kv_heads
    square = mixer.num_heads * mixer.head_dim == found.hidden
    if not mixer.qk_norm and square and not found.tied and experts is None and dense:
        # the class takes a multiplier on 8/3 of the width
        out |= {"multiple_of": 1, "ffn_dim_multiplier": _multiplier(found.hidden, dense.ffn)}
        return {"class": LLAMA, "args": out, "ffn": dense.ffn}
    if experts and found.num_dense_first:
        raise cannot(NAME, "dense layers in front of expert layers without latent attention")
    out |= {
        "head_dim": mixer.head_dim, "qk_norm": mixer.qk_norm, "enable_weight_tying": found.tied,
        "hidden_dim": dense.ffn if dense else 0,
    }  # fmt: skip
    if experts is None:
        return {"class": QWEN, "args": out}
    out |= {"moe_enabled": True, "moe_inter_dim": experts.ffn}
    return {"class": QWEN, "args": out, "moe_args": _expert_sizes(experts)}


def _multiplier(hidden: int, ffn: int) -> float:
    """What makes int(multiplier x int(8/3 x hidden)) the width, half a unit from either side."""
    return (ffn + 0.5) / int(8 * hidden / 3)


def _expert_sizes(experts: MoE) -> dict[str, Any]:
    if experts.latent or experts.shared_gate or (experts.shared_ffn % experts.ffn):
        raise cannot(NAME, "experts behind a projection, or a gated or uneven shared expert")
    return {
        "num_experts": experts.num_experts,
        "num_shared_experts": experts.shared_ffn // experts.ffn,
        "top_k": experts.topk,
    }


# --- reading -----------------------------------------------------------------------------------------------------


def read_titan(
    config: Mapping[str, Any],
    where: str,
    *,
    sizes: Mapping[str, Any] | None = None,
    model: ModelSpec | None = None,
) -> Read:
    """A model and a plan from a job configuration.

    Parameters
    ----------
    sizes : mapping, optional
        Of the model, from the file beside it; otherwise the name and flavour are looked up.

    Raises
    ------
    LaunchError
    """
    taken = Taken(values=flat(config), where=where, idle=_IDLE)
    assumed: list[str] = []
    if model is None:
        model = model_of(_read_sizes(sizes, where)) if sizes else _flavour(taken)
    tp, pp, cp = (taken.size(SIZES[f]) for f in ("tp", "pp", "cp"))
    out: dict[str, Any] = {"tp": tp, "pp": pp, "cp": cp, "seq": taken.size(SIZES["seq"], 2048)}
    replicate = taken.size("parallelism.data_parallel_replicate_degree")
    shard = taken.whole("parallelism.data_parallel_shard_degree", -1, least=-1)
    assert shard is not None
    if shard == 0:
        raise LaunchError(
            "parallelism.data_parallel_shard_degree = 0", where=where, expected="-1, or 1 and more"
        )
    devices = None if shard == -1 else shard * replicate * tp * pp * cp
    reshard = taken.text("parallelism.fsdp_reshard_after_forward", "default")
    known = {"always": 3, "never": 2, "default": 2 if pp > 1 else 3}
    if reshard not in known:
        raise LaunchError(
            f"parallelism.fsdp_reshard_after_forward = {shown(reshard)}",
            where=where,
            expected="one of " + ", ".join(known),
        )
    out["zero"] = 0 if shard == 1 and cp == 1 else known[reshard]
    if replicate > 1 and out["zero"]:
        out["shard_of"] = replicate
    if model is not None and model.is_moe:
        out |= {"ep": taken.size(SIZES["ep"]), "etp": taken.size(SIZES["etp"])}
        backend = taken.choice(
            "parallelism.expert_parallel_comm_backend", {"deepep": "deepep", "standard": "alltoall"}
        )
        out |= {"dispatcher": backend or "alltoall", "grouped_experts": True, "ep_overlap": False}
    local = taken.size("training.local_batch_size", 8)
    total = taken.whole("training.global_batch_size", -1, least=-1)
    out["gbs"] = total if total and total > 0 else 0
    if not out["gbs"]:
        out["local"] = local
    out["mbs"] = taken.size("parallelism.pipeline_parallel_microbatch_size") if pp > 1 else local
    out |= {
        "sequence_parallel": True, "grad_overlap": True, "param_overlap": True, "cp_kind": "ring", "grad_bytes": 4,
        "optimizer_bytes": 12, "cuda_graph": "none",
        "offload_optimizer": 1.0 if taken.switch("training.enable_cpu_offload") else 0.0,
        "compiled": taken.any_switch("compile.enable", "training.compile"),
        "tp_overlap": taken.any_switch(
            "parallelism.enable_async_tensor_parallel", "experimental.enable_async_tensor_parallel"
        ),
    }  # fmt: skip
    out["precision"], out["fp8_params"] = _read_precision(taken)
    out |= _read_recompute(taken)
    if pp > 1 and model is not None:
        out |= _read_chunks(taken, pp, model, assumed)
    return Read(
        framework=NAME, model=model, fields=out, devices=devices, assumed=tuple(assumed), left=taken.left()
    )  # fmt: skip


def _flavour(taken: Taken) -> ModelSpec | None:
    """The shipped model of a name and flavour (``llama3``, ``8B``)."""
    name, flavour = taken.text("model.name"), taken.text("model.flavor")
    for words in (f"{name}-{flavour}", f"{name.removesuffix('_moe')}-{flavour}", name.replace("_", "-")):
        entry = shipped.find(words)
        # without its size in the name a family has several
        if entry is not None and (words != name.replace("_", "-") or flavour in ("671B", "")):
            return load_model(entry.id)
    return None


def _read_sizes(sizes: Mapping[str, Any], where: str) -> Outline:
    values = flat(sizes)
    taken = Taken(values=values, where=where)
    kind = taken.text("class")
    if kind not in (LLAMA, QWEN, DEEPSEEK):
        raise LaunchError(
            f"class = {shown(kind)}", where=where, expected=f"one of {LLAMA}, {QWEN}, {DEEPSEEK}"
        )
    layers, heads, hidden = (taken.size(f"args.{n}", 1) for n in ("n_layers", "n_heads", "dim"))
    if layers > MAX_LAYERS:
        raise LaunchError(f"n_layers = {layers:,}", where=where, expected=f"at most {MAX_LAYERS:,}")
    experts = None
    if "moe_args.num_experts" in values:
        width = taken.size("args.moe_inter_dim")
        experts = MoE(
            num_experts=taken.size("moe_args.num_experts"),
            topk=taken.size("moe_args.top_k"),
            ffn=width,
            shared_ffn=width * (taken.whole("moe_args.num_shared_experts", 0) or 0),
        )
    first = layers if experts is None else taken.whole("args.n_dense_layers", 0) or 0
    width = (
        taken.size({LLAMA: "ffn", QWEN: "args.hidden_dim", DEEPSEEK: "args.inter_dim"}[kind]) if first else 0
    )
    mixer: Attention | LatentAttention
    if kind == DEEPSEEK:
        mixer = LatentAttention(
            num_heads=heads,
            q_lora_rank=taken.whole("args.q_lora_rank", 0) or None,
            kv_lora_rank=taken.size("args.kv_lora_rank", 512),
            qk_nope_dim=taken.size("args.qk_nope_head_dim", 128),
            qk_rope_dim=taken.size("args.qk_rope_head_dim", 64),
            v_dim=taken.size("args.v_head_dim", 128),
        )
    else:
        mixer = Attention(
            num_heads=heads,
            num_kv_heads=taken.size("args.n_kv_heads", heads),
            head_dim=taken.size("args.head_dim", max(1, hidden // heads)),
            qk_norm=taken.switch("args.qk_norm", kind == QWEN),
        )
    return Outline(
        hidden=hidden,
        vocab=taken.size("args.vocab_size"),
        mixer=mixer,
        dense=MLP(ffn=width) if first else None,
        experts=experts,
        sparse=tuple(experts is not None and i >= first for i in range(layers)),
        windowed=(False,) * layers,
        norm="rmsnorm",
        tied=taken.switch("args.enable_weight_tying"),
        learned_positions=0,
        mtp_layers=0,
    )


def _read_precision(taken: Taken) -> tuple[str, bool]:
    given = taken.raw("model.converters") or []
    converters = given if isinstance(given, list) else str(given).split(",")
    names = " ".join(map(str, converters))
    gathered = taken.switch("quantize.linear.float8.enable_fsdp_float8_all_gather") or taken.switch(
        "float8.enable_fsdp_float8_all_gather"
    )
    if "mx" in names:
        return "mxfp8", False
    if "float8" in names:
        recipe = taken.text("quantize.linear.float8.recipe_name") or taken.text("float8.recipe_name")
        return "fp8-block" if recipe.startswith("rowwise") else "fp8", gathered
    return "bf16", False


def _read_recompute(taken: Taken) -> dict[str, Any]:
    mode = taken.text("activation_checkpoint.mode", "selective")
    option = taken.text("activation_checkpoint.selective_ac_option", "2")
    if mode in ("none", "full"):
        return {"recompute": mode}
    if mode != "selective":
        raise LaunchError(
            f"activation_checkpoint.mode = {shown(mode)}",
            where=taken.where,
            expected="none, selective or full",
        )
    # op by op every second product is kept, as with every second layer
    every = int(option) if re.fullmatch(r"[1-9][0-9]{0,3}", option) else 2
    return {"recompute": "full", "recompute_fraction": 1.0 / every}


def _read_chunks(taken: Taken, pp: int, model: ModelSpec, assumed: list[str]) -> dict[str, Any]:
    schedule = taken.text("parallelism.pipeline_parallel_schedule", "1F1B")
    out: dict[str, Any] = {}
    if schedule.lower() == "gpipe":
        out["schedule"] = "gpipe"
    elif schedule.lower() in ("1f1b", "interleaved1f1b"):
        out["schedule"] = "1f1b"
    else:
        taken.taken.discard("parallelism.pipeline_parallel_schedule")
    parts = taken.raw("parallelism.module_fqns_per_model_part")
    per = taken.whole("parallelism.pipeline_parallel_layers_per_stage", least=1)
    if parts:
        if not isinstance(parts, list) or len(parts) % pp or not all(isinstance(p, list) for p in parts):
            raise LaunchError(
                "the parts of the model do not share out evenly",
                where=taken.where,
                expected=f"a multiple of {pp} lists of names of modules",
            )
        counts = [sum(str(n).startswith("layers.") for n in part) for part in parts]
        if sum(counts) != model.num_layers:
            raise LaunchError(
                f"the parts of the model hold {sum(counts)} layers",
                where=taken.where,
                expected=f"{model.num_layers}",
            )
        out["vpp"] = len(parts) // pp
        if counts != default_chunks(model.num_layers, len(parts)):
            out["layout"] = chunks_text(counts)
        return out
    out["vpp"] = 1
    if schedule.lower().startswith("interleaved"):
        out["vpp"] = 2
        if per is None:
            assumed.append("two chunks a rank, since the number of layers of a chunk is not given")
    if per is not None:
        out["vpp"] = max(1, -(-model.num_layers // (pp * per)))
    return out

"""DeepSpeed: its JSON configuration, the model as a Hugging Face ``config.json``, and what the script decides."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from fullmesh.errors import LaunchError, ModelError, shown
from fullmesh.plan import Plan
from fullmesh.study.launch.megatron import cannot
from fullmesh.study.launch.outline import outline, same_model
from fullmesh.study.launch.read import Read
from fullmesh.study.launch.taken import Settings, Taken, flat, nested
from fullmesh.workload import Attention, LatentAttention, ModelSpec
from fullmesh.workload.readers import shipped
from fullmesh.workload.readers.config import Config
from fullmesh.workload.readers.huggingface import model_from_config

NAME = "deepspeed"
#: Fields of a plan that are a number in both.
SIZES: Mapping[str, str] = MappingProxyType(
    {
        "gbs": "train_batch_size",
        "mbs": "train_micro_batch_size_per_gpu",
        "zero": "zero_optimization.stage",
        "tp": "tensor_parallel.autotp_size",
    }
)
#: What the script decides: sequence length, recomputation, how attention is computed.
SCRIPT_KEYS = ("seq_length", "gradient_checkpointing", "attention")
_IDLE = (
    "gradient_clipping", "steps_per_print", "wall_clock_breakdown", "optimizer.", "scheduler.", "prescale_gradients",
    "gradient_predivide_factor", "zero_allow_untested_optimizer", "zero_force_ds_cpu_optimizer", "dump_state",
    "tensorboard.", "wandb.", "csv_monitor.", "flops_profiler.", "comms_logger.", "checkpoint.", "fp16.loss_scale",
    "fp16.hysteresis", "fp16.initial_scale_power", "fp16.loss_scale_window", "fp16.min_loss_scale", "fp16.auto_cast",
    "elasticity.", "zero_optimization.contiguous_gradients", "zero_optimization.allgather_partitions", "data_types.",
    "zero_optimization.reduce_scatter", "zero_optimization.stage3_", "zero_optimization.sub_group_size",
    "zero_optimization.round_robin_gradients", "zero_optimization.allgather_bucket_size", "sparse_gradients",
    "zero_optimization.reduce_bucket_size", "zero_optimization.offload_optimizer.pin_memory", "seed",
    "zero_optimization.offload_optimizer.buffer_", "zero_optimization.offload_optimizer.fast_init",
)  # fmt: skip


def deepspeed_config(plan: Plan, model: ModelSpec) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """DeepSpeed's configuration, the model's, and the settings of the script.

    Raises
    ------
    ExportError
        DeepSpeed has no setting for a choice of the plan, or no Hugging Face class has such layers.
    """
    for name, on in (
        ("pipeline stages", plan.pp > 1), ("context parallelism", plan.cp > 1), ("expert parallelism", plan.ep > 1),
        (f"precision = {plan.precision}", plan.precision not in ("bf16", "fp16")),
        ("activations in host memory", plan.offload_activations > 0),
        (f"cuda_graph = {plan.cuda_graph}", plan.cuda_graph != "none"),
        (f"recompute = {plan.recompute}", plan.recompute == "selective"),
        # MiCS, which had them, was removed
        (f"groups of {plan.shard} shards", bool(plan.zero and plan.shard and plan.shard < plan.dp)),
        ("recompute in a part of the layers", plan.recompute == "full" and plan.recompute_fraction != 1.0),
    ):  # fmt: skip
        if on:
            raise cannot(NAME, name)
    out: Settings = {
        path: getattr(plan, field) for field, path in SIZES.items() if field != "tp" or plan.tp > 1
    }
    out["gradient_accumulation_steps"] = plan.num_microbatches
    out |= {"bf16.enabled": plan.precision == "bf16", "fp16.enabled": plan.precision == "fp16"}
    out["communication_data_type"] = "fp32" if plan.grad_bytes == 4 else plan.precision
    out["zero_optimization.overlap_comm"] = plan.grad_overlap
    if plan.offload_optimizer:
        out["zero_optimization.offload_optimizer.device"] = "cpu"
        if plan.offload_optimizer < 1.0:
            out["zero_optimization.offload_optimizer.ratio"] = plan.offload_optimizer
    out |= {
        "optimizer.type": "AdamW",
        "optimizer.params.lr": 1e-4,
        "gradient_clipping": 1.0,
        "steps_per_print": 1,
        "wall_clock_breakdown": False,
    }
    script = {
        "seq_length": plan.seq,
        "gradient_checkpointing": plan.recompute == "full",
        "attention": "flash_attention_2" if plan.flash_attention else "eager",
    }
    return nested(out), huggingface_config(model), script


def huggingface_config(model: ModelSpec) -> dict[str, Any]:
    """A ``config.json`` from which this very model is read.

    Raises
    ------
    ExportError
        No class that is known here has such layers.
    """
    for values in _candidates(model):
        try:
            if same_model(model_from_config(Config(values, model.name), fallback=model.id), model):
                return values
        except ModelError:
            continue
    raise cannot(NAME, f"the layers of {model.name}")


def _candidates(model: ModelSpec) -> list[dict[str, Any]]:
    """Configurations that may be the model's: the shipped one with its own number of layers, then plain classes."""
    out = []
    entry = shipped.find(model.id)
    if entry is not None and not model.mtp_layers:
        values = {k: v for k, v in entry.values.items() if not k.startswith("_")}
        out += [values, values | {"num_hidden_layers": model.num_layers}]
    found = outline(model)
    mixer, dense, experts = found.mixer, found.dense, found.experts
    plain: dict[str, Any] = {
        "num_hidden_layers": found.num_layers, "hidden_size": found.hidden, "vocab_size": found.vocab,
        "num_attention_heads": mixer.num_heads, "tie_word_embeddings": found.tied, "hidden_act": "silu",
        "intermediate_size": dense.ffn if dense else experts.ffn if experts else 0,
    }  # fmt: skip
    if isinstance(mixer, LatentAttention) and experts is not None:
        out.append(
            plain | {
                "model_type": "deepseek_v3", "num_key_value_heads": mixer.num_heads, "q_lora_rank": mixer.q_lora_rank,
                "kv_lora_rank": mixer.kv_lora_rank, "qk_nope_head_dim": mixer.qk_nope_dim,
                "qk_rope_head_dim": mixer.qk_rope_dim, "v_head_dim": mixer.v_dim,
                "n_routed_experts": experts.num_experts, "num_experts_per_tok": experts.topk,
                "moe_intermediate_size": experts.ffn,
                "n_shared_experts": experts.shared_ffn // experts.ffn,
                "first_k_dense_replace": found.num_dense_first or 0,
            }
        )  # fmt: skip
    if not isinstance(mixer, Attention):
        return out
    plain |= {"num_key_value_heads": mixer.num_kv_heads, "head_dim": mixer.head_dim}
    if experts is None:
        out.append(
            plain
            | {"model_type": "llama", "attention_bias": mixer.bias, "mlp_bias": bool(dense and dense.bias)}
        )
        out += [plain | {"model_type": kind} for kind in ("qwen2", "qwen3")]
    else:
        number = {"num_experts_per_tok": experts.topk, "intermediate_size": experts.ffn}
        out.append(plain | number | {"model_type": "mixtral", "num_local_experts": experts.num_experts})
        out.append(
            plain | {
                "model_type": "qwen3_moe", "num_experts": experts.num_experts, "num_experts_per_tok": experts.topk,
                "moe_intermediate_size": experts.ffn, "decoder_sparse_step": 1, "mlp_only_layers": [],
            }
        )  # fmt: skip
    return out


def read_deepspeed(
    config: Mapping[str, Any],
    where: str,
    *,
    script: Mapping[str, Any] | None = None,
    model: ModelSpec | None = None,
    seq: int | None = None,
) -> Read:
    """A plan from a configuration of DeepSpeed.

    Parameters
    ----------
    script : mapping, optional
        ``SCRIPT_KEYS``, where they are known.
    seq : int, optional
        Sequence length, where the script does not stand beside the configuration.

    Raises
    ------
    LaunchError
    """
    known = {k: v for k, v in (script or {}).items() if k in SCRIPT_KEYS}
    taken = Taken(
        values=_automatic(flat(config)) | {f"script.{k}": v for k, v in known.items()},
        where=where,
        idle=_IDLE,
    )
    assumed: list[str] = []
    seq = taken.whole("script.seq_length", seq, least=1)
    if seq is None:
        raise LaunchError(
            "DeepSpeed's configuration has no sequence length",
            where=where,
            expected="--seq",
        )
    zero = taken.whole(SIZES["zero"], 0)
    if zero not in (0, 1, 2, 3):
        raise LaunchError(f"{SIZES['zero']} = {zero}", where=where, expected="0, 1, 2 or 3")
    mbs, steps = taken.whole(SIZES["mbs"], least=1), taken.whole("gradient_accumulation_steps", least=1)
    gbs = taken.whole(SIZES["gbs"], least=1)
    out: dict[str, Any] = {
        "tp": taken.size(SIZES["tp"]),
        "pp": 1,
        "cp": 1,
        "vpp": 1,
        "seq": seq,
        "zero": zero,
    }
    if gbs is None and mbs is None:
        raise LaunchError("no batch is given", where=where, expected=f"{SIZES['gbs']} or {SIZES['mbs']}")
    if gbs is None:
        out["local"] = (mbs or 1) * (steps or 1)
    out |= {"gbs": gbs or 0, "mbs": mbs or 0, "steps": steps or 0, "sequence_parallel": out["tp"] == 1}
    out |= _read_rest(taken, zero)
    if not known:
        assumed.append("no recompute, since the script decides on it and is not known")
    out["recompute"] = "full" if taken.switch("script.gradient_checkpointing") else "none"
    if taken.has("script.attention"):
        out["flash_attention"] = taken.text("script.attention") != "eager"
    if model is None:
        raise LaunchError(
            "DeepSpeed's configuration has no model",
            where=where,
            expected="a config.json beside it, or --model",
            hint="name the model with --model",
        )
    if model.is_moe:
        out |= {"ep": 1, "etp": 1, "ep_overlap": False, "dispatcher": "alltoall"}
    return Read(framework=NAME, model=model, fields=out, assumed=tuple(assumed), left=taken.left())


def _automatic(values: Settings) -> Settings:
    """``auto`` is for whoever starts the run to fill in: as good as absent."""
    return {name: value for name, value in values.items() if value != "auto"}


def _read_rest(taken: Taken, zero: int) -> dict[str, Any]:
    bf16, fp16 = (
        taken.switch("bf16.enabled") or taken.switch("bfloat16.enabled"),
        taken.switch("fp16.enabled"),
    )
    if bf16 and fp16:
        raise LaunchError("bf16 and fp16 exclude each other", where=taken.where, expected="one of them")
    out: dict[str, Any] = {"precision": "fp16" if fp16 else "bf16"}
    kind = taken.text("communication_data_type", "bf16")
    if kind not in ("fp32", "fp16", "bf16", "bfp16"):
        raise LaunchError(
            f"communication_data_type = {shown(kind)}", where=taken.where, expected="fp32, fp16 or bf16"
        )
    overlap = taken.switch("zero_optimization.overlap_comm", zero == 3)
    out |= {
        "grad_bytes": 4 if kind == "fp32" else 2, "grad_overlap": overlap, "param_overlap": overlap,
        "tp_overlap": False, "cuda_graph": "none", "optimizer_bytes": 12,
        "fp8_params": False,
    }  # fmt: skip
    shard = taken.whole("zero_optimization.mics_shard_size", -1, least=-1)
    if shard is not None and shard > 0:
        out["shard"] = shard
    device = taken.text("zero_optimization.offload_optimizer.device", "none")
    ratio = taken.real("zero_optimization.offload_optimizer.ratio", 1.0)
    out["offload_optimizer"] = min(1.0, max(0.0, ratio)) if device in ("cpu", "nvme") else 0.0
    return out

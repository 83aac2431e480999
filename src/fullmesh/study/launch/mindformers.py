"""MindFormers: its YAML configuration, in the names of release 1.3 and in those since."""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from fullmesh.errors import LaunchError, shown
from fullmesh.plan import Plan
from fullmesh.plan.layout import chunks_text, default_chunks, parse_layout
from fullmesh.study.launch.megatron import cannot
from fullmesh.study.launch.outline import Outline, model_of
from fullmesh.study.launch.read import Read
from fullmesh.study.launch.taken import Settings, Taken, flat, nested
from fullmesh.workload import MLP, Attention, LatentAttention, ModelSpec, MoE
from fullmesh.workload.parameters import MAX_LAYERS
from fullmesh.workload.readers import shipped
from fullmesh.workload.readers.huggingface import load_model

NAME = "mindformers"
_MODEL = "model.model_config."
#: Fields of a plan that are a number in both.
SIZES: Mapping[str, str] = MappingProxyType(
    {
        "dp": "parallel_config.data_parallel",
        "tp": "parallel_config.model_parallel",
        "cp": "parallel_config.context_parallel",
        "pp": "parallel_config.pipeline_stage",
        "ep": "parallel_config.expert_parallel",
        "etp": "parallel_config.expert_model_parallel",
        "mbs": "runner_config.batch_size",
    }
)
#: Names of the sizes of a model, the current one first.
NAMES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "layers": ("num_hidden_layers", "num_layers", "n_layer"),
        "hidden": ("hidden_size",),
        "heads": ("num_attention_heads", "num_heads", "n_head"),
        "kv_heads": ("num_key_value_heads", "n_kv_heads", "num_query_groups"),
        "head_dim": ("head_dim", "kv_channels"),
        "ffn": ("intermediate_size", "ffn_hidden_size"),
        "vocab": ("vocab_size",),
        "seq": ("seq_length",),
        "qkv_bias": ("attention_bias", "qkv_has_bias", "add_qkv_bias"),
        "qk_norm": ("qk_layernorm", "use_qk_norm"),
        "tied": ("tie_word_embeddings",),
        "mtp": ("num_nextn_predict_layers", "mtp_depth", "mtp_num_layers"),
        "experts": ("num_experts", "expert_num", "n_routed_experts", "num_moe_experts"),
        "topk": ("num_experts_per_tok", "num_experts_chosen", "moe_router_topk"),
        "moe_ffn": ("moe_intermediate_size", "moe_ffn_hidden_size"),
        "shared": ("n_shared_experts", "shared_expert_num"),
        "shared_ffn": ("moe_shared_expert_intermediate_size",),
        "dense_first": ("first_k_dense_replace",),
        "nope": ("qk_nope_head_dim", "qk_head_dim"),
        "rope": ("qk_rope_head_dim", "qk_pos_emb_head_dim"),
        "grouped": ("moe_grouped_gemm", "use_gmm"),
    }
)
_IDLE = (
    "seed", "output_dir", "load_", "src_strategy_path_or_dir", "auto_trans_ckpt", "only_save_strategy",
    "resume_training", "use_parallel", "run_mode", "train_precision_sync", "trainer.", "optimizer.", "lr_schedule.",
    "train_dataset", "train_dataset.", "train_dataset_task.", "callbacks", "runner_wrapper.", "profile", "profile_",
    "init_start_profile", "layer_scale", "layer_decay", "lr_scale", "lr_scale_factor", "eval_", "metric",
    "processor.", "context.", "parallel.strategy_ckpt_config.", "parallel.parallel_mode", "parallel.gradients_mean",
    "parallel.search_mode", "parallel.full_batch", "parallel.dataset_strategy", "parallel.enable_alltoall",
    "runner_config.epochs", "runner_config.sink_", "parallel.parallel_optimizer_config.parallel_optimizer_threshold",
    "micro_batch_interleave_num", "parallel_config.vocab_emb_dp", "parallel_config.gradient_aggregation_group",
    "use_legacy", "do_eval", "remote_save_url", "parallel_config.micro_batch_interleave_num", "monitor_config.",
    "pretrained_model_dir",
    "recompute_config.parallel_optimizer_comm_recompute", "recompute_config.mp_comm_recompute",
    "recompute_config.recompute_slice_activation",
)  # fmt: skip
_IDLE_MODEL = (
    "model_type", "architectures", "type", "rope_theta", "theta", "max_position_embeddings", "rms_norm_eps",
    "hidden_act", "params_dtype", "param_init_type", "layernorm_compute_dtype", "softmax_compute_dtype",
    "rotary_dtype", "initializer_range", "hidden_dropout", "attention_dropout", "position_embedding_type",
    "extend_method", "router_dense_type", "norm_topk_prob", "moe_router_pre_softmax", "moe_token_drop_policy",
    "routed_scaling_factor", "router_aux_loss_coef", "moe_aux_loss_coeff", "moe_router_load_balancing_type",
    "n_group", "topk_group", "mtp_loss_factor", "eos_token_id", "bos_token_id", "pad_token_id", "ignore_token_id",
    "use_cache", "input_sliced_sig", "qkv_concat", "fp32_residual_connection", "moe_router_enable_expert_bias",
    "moe_router_bias_update_rate", "use_attn_mask_compression", "use_contiguous_weight_layout_attention",
    "mla_qkv_concat", "apply_rope_fusion", "bias_swiglu_fusion", "use_fused_ops_topkrouter", "use_pad_tokens",
    "scaling_factor", "repetition_penalty", "max_decode_length", "top_k", "top_p", "do_sample", "is_dynamic",
    "use_past", "batch_size", "block_size", "num_blocks", "checkpoint_name_or_path",
    "untie_embeddings_and_output_weights", "rotary_cos_format",
)  # fmt: skip


# --- writing -----------------------------------------------------------------------------------------------------


def mindformers_config(plan: Plan, found: Outline) -> dict[str, Any]:
    """The whole configuration.

    Raises
    ------
    ExportError
        MindFormers has no setting for a choice of the plan or of the model.
    """
    for name, on in (
        (f"precision = {plan.precision}", plan.precision not in ("bf16", "fp16")),
        ("zero = 3", plan.zero == 3),
        (f"schedule = {plan.schedule}", plan.pp > 1 and plan.schedule not in ("1f1b", "gpipe")),
        (f"dispatcher = {plan.dispatcher}", bool(found.experts) and plan.dispatcher != "alltoall"),
        ("expert overlap", plan.ep > 1 and plan.ep_overlap),
        ("activations in host memory", plan.offload_activations > 0),
        ("a part of the optimizer in host memory", 0 < plan.offload_optimizer < 1),
        ("modules to recompute", plan.recompute == "selective" and bool(plan.recompute_modules)),
        (f"cuda_graph = {plan.cuda_graph}", plan.cuda_graph == "partial"),
    ):  # fmt: skip
        if on:
            raise cannot(NAME, name)
    out: Settings = {
        "seed": 1234, "output_dir": "./output", "load_checkpoint": "", "use_parallel": True, "run_mode": "train",
        "use_legacy": False, "trainer.type": "CausalLanguageModelingTrainer", "trainer.model_name": "fullmesh",
        "runner_config.epochs": 1, "runner_config.sink_mode": True, "runner_config.sink_size": 1,
        "optimizer.type": "AdamW", "optimizer.betas": [0.9, 0.95], "optimizer.eps": 1e-8,
        "optimizer.weight_decay": 0.1, "lr_schedule.type": "ConstantWarmUpLR", "lr_schedule.learning_rate": 1e-4,
        "lr_schedule.warmup_steps": 10, "lr_schedule.total_steps": -1,
        "context.mode": 0 if plan.cuda_graph == "full" else 1, "context.device_target": "Ascend",
        "parallel.parallel_mode": 1, "parallel.gradients_mean": False, "parallel.enable_alltoall": True,
        "parallel.full_batch": False, "parallel.search_mode": "sharding_propagation",
    }  # fmt: skip
    experts = ("ep", "etp") if found.experts else ()
    out |= {path: getattr(plan, f) for f, path in SIZES.items() if f not in ("ep", "etp") or f in experts}
    out["parallel_config.use_seq_parallel"] = plan.tp > 1 and plan.sequence_parallel
    steps = plan.num_microbatches
    if plan.pp > 1:
        out["parallel_config.micro_batch_num"] = steps
    else:
        out["runner_config.gradient_accumulation_steps"] = steps
    if plan.cp > 1:
        algorithm = {"ring": "colossalai_cp", "ulysses": "ulysses_cp"}.get(plan.cp_kind)
        if algorithm is None:
            raise cannot(NAME, f"cp_kind = {plan.cp_kind}")
        out["parallel_config.context_parallel_algo"] = algorithm
    out["parallel.enable_parallel_optimizer"] = plan.zero > 0
    out["parallel.parallel_optimizer_config.gradient_accumulation_shard"] = plan.zero == 2
    if plan.zero and plan.shard and plan.shard < plan.dp * plan.cp:
        out["parallel.parallel_optimizer_config.optimizer_weight_shard_size"] = plan.shard
    if plan.offload_optimizer:
        out["optimizer.swap"] = True
    out |= _recompute_settings(plan, found)
    out |= {f"{_MODEL}{k}": v for k, v in _model_settings(plan, found).items()}
    if plan.pp > 1:
        out |= _chunk_settings(plan, found)
    tree = nested(out)
    tree["train_dataset"] = _dataset(plan)
    tree["train_dataset_task"] = {
        "type": "CausalLanguageModelDataset",
        "dataset_config": tree["train_dataset"],
    }
    tree["runner_wrapper"] = {"type": "MFTrainOneStepCell", "scale_sense": 1.0, "use_clip_grad": True}
    tree["callbacks"] = [{"type": "MFLossMonitor"}]
    return tree


def _dataset(plan: Plan) -> dict[str, Any]:
    return {
        "data_loader": {
            "type": "BlendedMegatronDatasetDataLoader",
            "datasets_type": "GPTDataset",
            "sizes": [100 * plan.gbs, 0, 0],
            "config": {
                "seed": 1234, "split": "1, 0, 0", "seq_length": plan.seq, "eod_mask_loss": False,
                "reset_position_ids": False, "create_attention_mask": False, "reset_attention_mask": False,
                "eod": 1, "pad": -1, "data_path": ["1", "./data/text_document"],
            },
        },
        "input_columns": ["input_ids", "labels", "loss_mask", "position_ids"],
        "construct_args_key": ["input_ids", "labels", "loss_mask", "position_ids"],
        "num_parallel_workers": 8,
        "drop_remainder": True,
    }  # fmt: skip


def _recompute_settings(plan: Plan, found: Outline) -> Settings:
    full, selective = plan.recompute == "full", plan.recompute == "selective"
    counts: list[int] | bool = full or selective
    if plan.recompute_fraction != 1.0 and (full or selective):
        counts = _spread(round(plan.recompute_fraction * found.num_layers), _stage_layers(plan, found))
    return {
        "recompute_config.recompute": counts if full else False,
        "recompute_config.select_recompute": counts if selective else False,
        "recompute_config.parallel_optimizer_comm_recompute": False,
        "recompute_config.mp_comm_recompute": True,
    }


def _stage_layers(plan: Plan, found: Outline) -> list[int]:
    chunks = _chunk_layers(plan, found)
    return [sum(chunks[i :: plan.pp]) for i in range(plan.pp)]


def _spread(number: int, layers: list[int]) -> list[int]:
    """A number of layers over the stages, as even as they allow."""
    out = [0] * len(layers)
    while number > 0:
        open_ones = [i for i, most in enumerate(layers) if out[i] < most]
        if not open_ones:
            break
        each = max(1, number // len(open_ones))
        for i in open_ones:
            more = min(each, layers[i] - out[i], number)
            out[i] += more
            number -= more
    return out


def _chunk_layers(plan: Plan, found: Outline) -> list[int]:
    if plan.layout:
        return [chunk.count("t") for chunk in parse_layout(plan.layout)]
    return default_chunks(found.num_layers, plan.pp * plan.vpp)


def _chunk_settings(plan: Plan, found: Outline) -> Settings:
    counts = _chunk_layers(plan, found)
    average = found.num_layers // len(counts)
    rows = [[n - average for n in counts[v * plan.pp : (v + 1) * plan.pp]] for v in range(plan.vpp)]
    even = not any(any(row) for row in rows)
    offset: Any = 0 if even else rows if plan.vpp > 1 else rows[0]
    out: Settings = {f"{_MODEL}offset": offset}
    if plan.vpp > 1:
        out |= {f"{_MODEL}pp_interleave_num": plan.vpp, "parallel.pipeline_config.pipeline_interleave": True}
    out["parallel.pipeline_config.pipeline_scheduler"] = plan.schedule
    return out


def _model_settings(plan: Plan, found: Outline) -> Settings:
    mixer, dense, experts = found.mixer, found.dense, found.experts
    odd = found.learned_positions or found.norm != "rmsnorm" or any(found.windowed)
    parts = [part for part in (dense, experts) if part]
    if odd or not all(part.gated for part in parts) or (experts and found.num_dense_first is None):
        raise cannot(NAME, "learned positions, layer norms, sliding windows or ungated feed-forward parts")
    bias = all(part.bias for part in parts)
    kind = "deepseek_v3" if isinstance(mixer, LatentAttention) else "qwen3_moe" if experts else "qwen3"
    classes = {
        "deepseek_v3": "DeepseekV3ForCausalLM",
        "qwen3_moe": "Qwen3MoeForCausalLM",
        "qwen3": "Qwen3ForCausalLM",
    }
    out: Settings = {
        "model_type": kind, "architectures": [classes[kind]], "num_hidden_layers": found.num_layers,
        "hidden_size": found.hidden, "num_attention_heads": mixer.num_heads, "vocab_size": found.vocab,
        "intermediate_size": dense.ffn if dense else experts.ffn if experts else 0, "seq_length": plan.seq,
        "max_position_embeddings": plan.seq, "tie_word_embeddings": found.tied, "add_bias_linear": bias,
        "gated_linear_unit": True, "normalization": "RMSNorm", "position_embedding_type": "rope",
        "use_flash_attention": plan.flash_attention, "hidden_dropout": 0.0, "attention_dropout": 0.0,
        "params_dtype": "float32", "compute_dtype": "bfloat16" if plan.precision == "bf16" else "float16",
        "layernorm_compute_dtype": "float32", "softmax_compute_dtype": "float32",
    }  # fmt: skip
    if isinstance(mixer, LatentAttention):
        out |= {
            "multi_latent_attention": True, "qk_layernorm": True, "q_lora_rank": mixer.q_lora_rank,
            "kv_lora_rank": mixer.kv_lora_rank, "qk_nope_head_dim": mixer.qk_nope_dim,
            "qk_rope_head_dim": mixer.qk_rope_dim, "v_head_dim": mixer.v_dim,
        }  # fmt: skip
    else:
        if mixer.out_bias != bias or mixer.gated_output or mixer.sinks or mixer.qk_norm_size is not None:
            raise cannot(NAME, "attention with gates, sinks or a bias of its own behind it")
        out |= {
            "num_key_value_heads": mixer.num_kv_heads, "head_dim": mixer.head_dim, "attention_bias": mixer.bias,
            "qk_layernorm": mixer.qk_norm,
        }  # fmt: skip
    if found.mtp_layers:
        out["num_nextn_predict_layers"] = found.mtp_layers
    if experts:
        if experts.latent or experts.shared_gate:
            raise cannot(NAME, "experts behind a projection or a gated shared expert")
        out |= {
            "num_experts": experts.num_experts, "num_experts_per_tok": experts.topk,
            "moe_intermediate_size": experts.ffn, "moe_grouped_gemm": plan.grouped_experts,
            "first_k_dense_replace": found.num_dense_first, "moe_token_dispatcher_type": "alltoall",
        }  # fmt: skip
        if experts.shared_ffn:
            out["moe_shared_expert_intermediate_size"] = experts.shared_ffn
            out["n_shared_experts"] = max(1, experts.shared_ffn // experts.ffn)
    return out


# --- reading -----------------------------------------------------------------------------------------------------


class _Model:
    """Sizes of the model under any of their names."""

    def __init__(self, taken: Taken) -> None:
        self.taken = taken

    def path(self, key: str) -> str:
        """Where a size stands, or where it would."""
        options = [
            f"{section}{name}" for name in NAMES.get(key, (key,)) for section in (_MODEL, "moe_config.")
        ]
        return next((path for path in options if path in self.taken.values), options[0])

    def size(self, key: str, default: int = 1) -> int:
        return self.taken.size(self.path(key), default)

    def whole(self, key: str, default: int | None = None) -> int | None:
        return self.taken.whole(self.path(key), default)

    def switch(self, key: str, default: bool = False) -> bool:
        return self.taken.switch(self.path(key), default)

    def given(self, key: str) -> bool:
        return self.taken.has(self.path(key))


def read_mindformers(config: Mapping[str, Any], where: str, *, model: ModelSpec | None = None) -> Read:
    """A model and a plan from a configuration.

    Raises
    ------
    LaunchError
        A value is wrong, or values contradict each other.
    """
    taken = Taken(values=flat(config), where=where, idle=(*_IDLE, *(_MODEL + name for name in _IDLE_MODEL)))
    sizes, assumed = _Model(taken), list[str]()
    own = _read_model(sizes, taken, assumed)
    model = model or own
    out: dict[str, Any] = {f: taken.size(p) for f, p in SIZES.items() if f not in ("ep", "etp")}
    seq = sizes.whole("seq") or taken.whole("train_dataset.data_loader.config.seq_length")
    if not seq:
        raise LaunchError(
            "the configuration has no sequence length", where=where, expected="model_config.seq_length"
        )
    out["seq"] = seq
    steps = taken.size("runner_config.gradient_accumulation_steps")
    batches = taken.size("parallel_config.micro_batch_num")
    out["gbs"] = out["mbs"] * out["dp"] * (batches if out["pp"] > 1 else steps)
    if model is not None and model.is_moe:
        out["ep"] = taken.size(SIZES["ep"])
        out["etp"] = taken.size(SIZES["etp"], out["tp"])
        out |= {"grouped_experts": sizes.switch("grouped"), "dispatcher": "alltoall", "ep_overlap": False}
        taken.text(f"{_MODEL}moe_token_dispatcher_type")
    out["sequence_parallel"] = taken.switch("parallel_config.use_seq_parallel") or out["tp"] == 1
    known = {"ulysses_cp": "ulysses", "colossalai_cp": "ring"}
    out["cp_kind"] = taken.choice("parallel_config.context_parallel_algo", known, "ring")
    sharded = taken.switch("parallel.enable_parallel_optimizer")
    gradients = taken.switch("parallel.parallel_optimizer_config.gradient_accumulation_shard")
    out["zero"] = 0 if not sharded else 2 if gradients else 1
    shard = taken.whole("parallel.parallel_optimizer_config.optimizer_weight_shard_size", -1, least=-1)
    if sharded and shard is not None and 0 < shard < out["dp"] * out["cp"]:
        out["shard"] = shard
    kind = taken.text(f"{_MODEL}compute_dtype", "float16")
    out["precision"] = "bf16" if kind in ("bfloat16", "bf16") else "fp16"
    out |= {
        "grad_bytes": 4, "optimizer_bytes": 12, "fp8_params": False,
        "cuda_graph": "none" if str(taken.raw("context.mode")) in ("1", "PYNATIVE_MODE") else "full",
        "offload_optimizer": 1.0 if taken.switch("optimizer.swap") else 0.0,
        "flash_attention": taken.switch(f"{_MODEL}use_flash_attention"),
    }  # fmt: skip
    out |= _read_recompute(taken, model)
    if out["pp"] > 1 and model is not None:
        out |= _read_chunks(taken, sizes, out["pp"], model)
    devices = out["dp"] * out["tp"] * out["cp"] * out["pp"]
    del out["dp"]
    return Read(
        framework=NAME, model=model, fields=out, devices=devices, assumed=tuple(assumed), left=taken.left()
    )  # fmt: skip


def _read_model(sizes: _Model, taken: Taken, assumed: list[str]) -> ModelSpec | None:
    if not (sizes.given("layers") and sizes.given("hidden") and sizes.given("heads")):
        for name in (taken.text(f"{_MODEL}checkpoint_name_or_path"), taken.text("trainer.model_name")):
            entry = shipped.find(name) if name else None
            if entry is not None:
                assumed.append(f"the sizes of {entry.name}, by its name")
                return load_model(entry.id)
        return None
    layers, hidden, heads = sizes.size("layers"), sizes.size("hidden"), sizes.size("heads")
    if layers > MAX_LAYERS or (not sizes.given("head_dim") and hidden % heads):
        raise LaunchError(
            f"{layers:,} layers of {heads:,} heads in a hidden size of {hidden:,}",
            where=taken.where,
            expected=f"at most {MAX_LAYERS:,} layers, and heads that divide the hidden size",
        )
    bias = sizes.switch("add_bias_linear")
    taken.switch(f"{_MODEL}gated_linear_unit", True)
    taken.text(f"{_MODEL}normalization")
    mixer: Attention | LatentAttention
    if sizes.switch("multi_latent_attention") or sizes.given("kv_lora_rank"):
        sizes.switch("qk_norm")
        sizes.given("kv_heads")
        mixer = LatentAttention(
            num_heads=heads,
            q_lora_rank=sizes.whole("q_lora_rank") or None,
            kv_lora_rank=sizes.size("kv_lora_rank", 512),
            qk_nope_dim=sizes.size("nope", 128),
            qk_rope_dim=sizes.size("rope", 64),
            v_dim=sizes.size("v_head_dim", 128),
        )
    else:
        kv = sizes.size("kv_heads", heads)
        if heads % kv:
            raise LaunchError(f"{kv} key-value heads do not divide {heads} heads", where=taken.where)
        mixer = Attention(
            num_heads=heads,
            num_kv_heads=kv,
            head_dim=sizes.size("head_dim", max(1, hidden // heads)),
            bias=sizes.switch("qkv_bias") or bias,
            out_bias=bias,
            qk_norm=sizes.switch("qk_norm"),
        )
    experts, first = _read_experts(sizes, taken, layers, bias=bias)
    width = sizes.whole("ffn") or _usual_width(sizes, hidden)
    found = Outline(
        hidden=hidden,
        vocab=sizes.size("vocab", 32000),
        mixer=mixer,
        dense=MLP(ffn=width, bias=bias) if first else None,
        experts=experts,
        sparse=tuple(experts is not None and i >= first for i in range(layers)),
        windowed=(False,) * layers,
        norm="rmsnorm",
        tied=sizes.switch("tied"),
        learned_positions=0,
        mtp_layers=sizes.whole("mtp", 0) or 0,
    )
    return model_of(found)


def _usual_width(sizes: _Model, hidden: int) -> int:
    """Feed-forward width of Llama's classes where it is not given: 8/3 of the hidden size, rounded up."""
    multiple = sizes.size("multiple_of", 256)
    width = int(8 * hidden / 3 * sizes.taken.real(sizes.path("ffn_dim_multiplier"), 1.0))
    return max(1, -(-width // multiple) * multiple)


def _read_experts(sizes: _Model, taken: Taken, layers: int, *, bias: bool) -> tuple[MoE | None, int]:
    """The experts, and how many layers in front have none."""
    number = sizes.whole("experts", 0) or 0
    if number <= 1:
        return None, layers
    width, topk = sizes.size("moe_ffn", sizes.size("ffn", 1)), sizes.size("topk", 1)
    if topk > number:
        raise LaunchError(f"{topk} experts a token of {number}", where=taken.where)
    shared = sizes.whole("shared_ffn", 0) or (sizes.whole("shared", 0) or 0) * width
    sizes.given("shared")
    experts = MoE(num_experts=number, topk=topk, ffn=width, shared_ffn=shared, bias=bias)
    return experts, min(layers, sizes.whole("dense_first", 0) or 0)


def _read_recompute(taken: Taken, model: ModelSpec | None) -> dict[str, Any]:
    given = {name: taken.raw(f"recompute_config.{name}") for name in ("recompute", "select_recompute")}
    for kind, name in (("full", "recompute"), ("selective", "select_recompute")):
        value = given[name]
        if value is True:
            return {"recompute": kind}
        if isinstance(value, list) and model is not None:
            numbers = [int(n) for n in re.findall("[0-9]{1,6}", str(value))]
            if sum(numbers):
                return {"recompute": kind, "recompute_fraction": min(1.0, sum(numbers) / model.num_layers)}
        elif value not in (None, False, []) and not isinstance(value, list | bool):
            raise LaunchError(
                f"recompute_config.{name} = {shown(value)}",
                where=taken.where,
                expected="true, false or a list",
            )
    return {"recompute": "none"}


def _read_chunks(taken: Taken, sizes: _Model, pp: int, model: ModelSpec) -> dict[str, Any]:
    interleave = taken.switch("parallel.pipeline_config.pipeline_interleave")
    schedule = taken.choice(
        "parallel.pipeline_config.pipeline_scheduler", {"1f1b": "1f1b", "gpipe": "gpipe"}, "1f1b"
    )
    vpp = sizes.size("pp_interleave_num")
    if not interleave and vpp > 1 and taken.has("parallel.pipeline_config.pipeline_interleave"):
        vpp = 1
    out = {"vpp": vpp, "schedule": schedule}
    if not 0 < pp * vpp <= model.num_layers + 2:
        raise LaunchError(
            f"{pp * vpp:,} pipeline chunks for {model.num_layers} layers",
            where=taken.where,
            expected=f"pp * vpp at most {model.num_layers}",
        )
    value = taken.raw(sizes.path("offset"))
    offsets = [int(n) for n in re.findall("-?[0-9]{1,6}", str(value))] if isinstance(value, list) else []
    if not offsets:
        return out
    average = model.num_layers // (pp * vpp)
    counts = [average + n for n in offsets]
    if len(counts) != pp * vpp or sum(counts) != model.num_layers or min(counts) < 0:
        raise LaunchError(
            f"offset = {shown(value)}",
            where=taken.where,
            expected=f"{pp * vpp} numbers that make {model.num_layers} layers of {average} a chunk",
        )
    if counts != default_chunks(model.num_layers, pp * vpp):
        out["layout"] = chunks_text(counts, model.mtp_layers)
    return out

"""Megatron-Bridge: the options of Megatron as fields of its ``ConfigContainer``, in a YAML file or as overrides."""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from fullmesh.plan import Plan
from fullmesh.study.launch.megatron import megatron_settings, read_megatron
from fullmesh.study.launch.outline import Outline
from fullmesh.study.launch.read import Read
from fullmesh.study.launch.taken import Settings, flat, nested
from fullmesh.workload import ModelSpec

_CONFIG = "megatron.bridge.training.config"
#: Classes of the sections.
TARGETS: Mapping[str, str] = MappingProxyType(
    {
        "": f"{_CONFIG}.ConfigContainer",
        "train": f"{_CONFIG}.TrainingConfig",
        "optimizer": f"{_CONFIG}.OptimizerConfig",
        "ddp": f"{_CONFIG}.DistributedDataParallelConfig",
        "dist": f"{_CONFIG}.DistributedInitConfig",
        "scheduler": f"{_CONFIG}.SchedulerConfig",
        "dataset": f"{_CONFIG}.MockGPTDatasetConfig",
        "logger": f"{_CONFIG}.LoggerConfig",
        "checkpoint": f"{_CONFIG}.CheckpointConfig",
        "tokenizer": "megatron.bridge.training.tokenizers.config.TokenizerConfig",
        "rng": f"{_CONFIG}.RNGConfig",
        "comm_overlap": "megatron.bridge.training.comm_overlap.CommOverlapConfig",
    }
)
_PROVIDER = "megatron.bridge.models.gpt_provider.GPTModelProvider"
_MLA_PROVIDER = "megatron.bridge.models.mla_provider.MLAModelProvider"

#: Where an option of Megatron stands, where it is not the field of the model with the option's name.
FIELDS: Mapping[str, str] = MappingProxyType(
    {
        "micro-batch-size": "train.micro_batch_size",
        "global-batch-size": "train.global_batch_size",
        "num-experts": "model.num_moe_experts",
        "swiglu": "model.gated_linear_unit",
        "fp8-format": "model.fp8",
        "fp4-format": "model.fp4",
        "cross-entropy-loss-fusion": "model.cross_entropy_loss_fusion",
        "overlap-grad-reduce": "ddp.overlap_grad_reduce",
        "overlap-param-gather": "ddp.overlap_param_gather",
        "use-distributed-optimizer": "ddp.use_distributed_optimizer",
        "use-megatron-fsdp": "ddp.use_megatron_fsdp",
        "data-parallel-sharding-strategy": "ddp.data_parallel_sharding_strategy",
        "num-distributed-optimizer-instances": "ddp.num_distributed_optimizer_instances",
        "fp8-param-gather": "ddp.fp8_param_gather",
        "tp-comm-overlap": "comm_overlap.tp_comm_overlap",
        "overlap-moe-expert-parallel-comm": "model.overlap_moe_expert_parallel_comm",
        "use-precision-aware-optimizer": "optimizer.use_precision_aware_optimizer",
        "exp-avg-dtype": "optimizer.exp_avg_dtype",
        "exp-avg-sq-dtype": "optimizer.exp_avg_sq_dtype",
        "optimizer-cpu-offload": "optimizer.optimizer_cpu_offload",
        "optimizer-offload-fraction": "optimizer.optimizer_offload_fraction",
        "te-rng-tracker": "rng.te_rng_tracker",
        "ckpt-format": "checkpoint.ckpt_format",
        "tokenizer-type": "tokenizer.tokenizer_type",
        "norm-epsilon": "model.layernorm_epsilon",
        "init-model-with-meta-device": "model.init_model_with_meta_device",
    }
)
#: Options that are off where their field is on.
REVERSED: Mapping[str, str] = MappingProxyType(
    {
        "untie-embeddings-and-output-weights": "model.share_embeddings_and_output_weights",
        "disable-bias-linear": "model.add_bias_linear",
        "no-overlap-p2p-communication": "model.overlap_p2p_comm",
    }
)
_TORCH = {"bf16": "torch.bfloat16", "fp16": "torch.float16", "fp32": "torch.float32"}
# a class or function of PyTorch that a field holds
_CALL = "_target_"
_IDLE = (
    "scheduler.", "logger.", "dist.", "rng.", "checkpoint.", "profiling.", "tokenizer.", "dataset.", "train.",
    "optimizer.", "ddp.check_for_nan_in_grad", "ddp.average_in_collective", "mixed_precision", "model.rotary_base",
    "model.init_method_std",
)  # fmt: skip


def bridge_config(plan: Plan, found: Outline) -> dict[str, Any]:
    """The whole configuration, as ``ConfigContainer.from_yaml`` reads it.

    Raises
    ------
    ExportError
        Megatron has no option for a choice of the plan.
    """
    settings = megatron_settings(plan, found)
    out: Settings = {}
    for name, value in settings.items():
        if name in REVERSED:
            out[REVERSED[name]] = False
        elif name in FIELDS:
            out[FIELDS[name]] = _written(name, value)
        elif name not in (
            "group-query-attention",
            "make-vocab-size-divisible-by",
            "vocab-size",
            "grad-reduce-in-bf16",
            # the table of positions has as many as the sequence
            "max-position-embeddings",
        ):
            out[_own(name)] = _written(name, value)
    # both stand for what Megatron sets from other options
    out.pop("model.accumulate_allreduce_grads_in_fp32", None)
    out["ddp.grad_reduce_in_fp32"] = "accumulate-allreduce-grads-in-fp32" in settings
    out["model.gated_linear_unit"] = "swiglu" in settings
    out["model.activation_func"] = _function("silu" if "swiglu" in settings else "gelu")
    for name, on in (
        ("model.share_embeddings_and_output_weights", True), ("model.add_bias_linear", True),
    ):  # fmt: skip
        out.setdefault(name, on)
    out["model.cross_entropy_loss_fusion"] = "cross-entropy-loss-fusion" in settings
    if per_chunk := settings.get("num-layers-per-virtual-pipeline-stage"):
        del out[_own("num-layers-per-virtual-pipeline-stage")]
        out["model.virtual_pipeline_model_parallel_size"] = found.num_layers // (plan.pp * per_chunk)
    if "model.pipeline_model_parallel_layout" in out and plan.vpp > 1:
        out["model.virtual_pipeline_model_parallel_size"] = plan.vpp
    if plan.precision not in ("fp16",):
        out |= {
            "model.pipeline_dtype": _torch("torch.bfloat16"),
            "model.params_dtype": _torch("torch.bfloat16"),
        }
    else:
        out |= {
            "model.pipeline_dtype": _torch("torch.float16"),
            "model.params_dtype": _torch("torch.float16"),
        }
    for half in ("bf16", "fp16"):
        if half in settings:
            out[f"optimizer.{half}"] = True
    if "use-megatron-fsdp" in settings:
        out["dist.use_megatron_fsdp"] = True
    if "use-distributed-optimizer" in settings:
        out["optimizer.use_distributed_optimizer"] = True
    out |= {
        "model.attention_dropout": 0.0, "model.hidden_dropout": 0.0,
        "model.vocab_size": found.vocab, "model.should_pad_vocab": True, "model.make_vocab_size_divisible_by": 1,
        "tokenizer.vocab_size": found.vocab - 1, "dataset.sequence_length": plan.seq, "dataset.random_seed": 1234,
        "dataset.reset_position_ids": False, "dataset.reset_attention_mask": False, "dataset.eod_mask_loss": False,
        "dataset.dataloader_type": "single", "train.train_iters": 100, "train.eval_iters": 0,
        "optimizer.optimizer": "adam", "optimizer.lr": 1e-4, "optimizer.min_lr": 1e-5,
        "scheduler.lr_decay_style": "cosine", "scheduler.lr_warmup_iters": 10, "logger.log_interval": 1,
    }  # fmt: skip
    out.setdefault("checkpoint.ckpt_format", "torch_dist")
    tree = nested(out)
    for section, target in TARGETS.items():
        if section and (section in tree or section in ("dist", "rng")):
            tree[section] = {_CALL: target, **tree.get(section, {})}
    provider = _MLA_PROVIDER if "multi-latent-attention" in settings else _PROVIDER
    tree["model"] = {_CALL: provider, **tree["model"]}
    return {_CALL: TARGETS[""], **tree}


def _own(name: str) -> str:
    return "model." + name.replace("-", "_")


def _written(name: str, value: Any) -> Any:
    if name in ("exp-avg-dtype", "exp-avg-sq-dtype"):
        return _torch(_TORCH[value])
    if name in ("moe-layer-freq", "window-attn-skip-freq"):
        # runs of zeros and ones, written out
        runs = re.findall(r"\[([01])\]\*(\d+)", str(value))
        return [int(flag) for flag, n in runs for _ in range(int(n))]
    if name == "window-size":
        return [int(n) for n in str(value).split(",")]
    return value


def _torch(name: str) -> dict[str, Any]:
    return {_CALL: name, "_call_": False}


def _function(name: str) -> dict[str, Any]:
    return _torch(f"torch.nn.functional.{name}")


def read_bridge(tree: Mapping[str, Any], where: str, *, model: ModelSpec | None = None) -> Read:
    """A model and a plan from a configuration, or from overrides of one (``model.tensor_model_parallel_size``)."""
    values = flat(tree)
    settings: Settings = {}
    left = []
    back = {path: name for name, path in FIELDS.items()}
    opposite = {path: name for name, path in REVERSED.items()}
    words = {
        key.removesuffix("._target_"): str(value)
        for key, value in values.items()
        if key.endswith("._target_") and str(value).startswith("torch.")
    }
    for path, value in values.items():
        if path.endswith(("._target_", "._call_", "_target_")):
            continue
        if path in opposite:
            settings |= {} if value else {opposite[path]: True}
        elif path in back:
            settings |= _option(back[path], value)
        elif path == "ddp.grad_reduce_in_fp32":
            settings["accumulate-allreduce-grads-in-fp32" if value else "grad-reduce-in-bf16"] = True
        elif path == "model.virtual_pipeline_model_parallel_size":
            settings |= _option("num-virtual-stages-per-pipeline-rank", value)
        elif path == "comm_overlap.overlap_moe_expert_parallel_comm":
            settings |= _option("overlap-moe-expert-parallel-comm", value)
        elif path == "dataset.sequence_length" or path == "dataset.seq_length":
            settings.setdefault("seq-length", value)
        elif path.startswith("model."):
            settings |= _option(path.removeprefix("model.").replace("_", "-"), value)
        elif not path.startswith(_IDLE):
            left.append(f"{path} = {value}"[:100])
    for path, word in words.items():
        name = back.get(path)
        if name is not None:
            settings[name] = word.removeprefix("torch.").replace("bfloat16", "bf16").replace("float", "fp")
    if settings.get("position-embedding-type", "learned_absolute") == "learned_absolute":
        settings.setdefault("max-position-embeddings", settings.get("seq-length"))
    if "num-query-groups" in settings:
        settings["group-query-attention"] = True
    if not settings.get("swiglu") and str(words.get("model.activation_func", "")).endswith("silu"):
        settings["swiglu"] = True
    for name in _BESIDE:
        settings.pop(name, None)
    settings.pop("tokenizer-type", None)
    found = read_megatron(settings, where, "megatron", model=model)
    return Read(
        framework="megatron-bridge",
        model=found.model,
        fields=found.fields,
        assumed=found.assumed,
        left=(*found.left, *left),
    )


# fields of a provider that follow from others
_BESIDE = (
    "pipeline-dtype", "params-dtype", "should-pad-vocab", "activation-func", "autocast-dtype",
    "gradient-accumulation-fusion", "use-te-rng-tracker", "apply-rope-fusion", "bias-activation-fusion",
    "bias-dropout-fusion", "persist-layer-norm", "masked-softmax-fusion", "attention-dropout", "hidden-dropout",
    "variable-seq-lengths", "batch-p2p-comm",
)  # fmt: skip


def _option(name: str, value: Any) -> Settings:
    """A field as an option: off and absent are the same for a switch."""
    if value is None or value is False:
        return {}
    return {name: value}

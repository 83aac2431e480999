"""Options of Megatron-LM's ``pretrain_gpt.py`` and of MindSpeed-LLM, which adds to them: one table for both ways."""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from fullmesh.errors import ExportError, LaunchError, PlanError, shown
from fullmesh.plan import Plan
from fullmesh.plan.layout import chunks_text, default_chunks, layout_text, parse_layout
from fullmesh.study.launch.outline import Outline, model_of
from fullmesh.study.launch.read import Read
from fullmesh.study.launch.taken import Settings, Taken
from fullmesh.workload import MLP, Attention, LatentAttention, ModelSpec, MoE
from fullmesh.workload.parameters import MAX_LAYERS
from fullmesh.workload.readers import shipped
from fullmesh.workload.readers.huggingface import load_model

# --- the table ---------------------------------------------------------------------------------------------------

#: Fields of a plan that are a number in both.
SIZES: Mapping[str, str] = MappingProxyType(
    {
        "tp": "tensor-model-parallel-size",
        "pp": "pipeline-model-parallel-size",
        "cp": "context-parallel-size",
        "mbs": "micro-batch-size",
        "gbs": "global-batch-size",
        "seq": "seq-length",
    }
)
EXPERT_SIZES: Mapping[str, str] = MappingProxyType(
    {"ep": "expert-model-parallel-size", "etp": "expert-tensor-parallel-size"}
)
#: Fields that are an option without a value; its absence is off.
SWITCHES: Mapping[str, str] = MappingProxyType(
    {"grad_overlap": "overlap-grad-reduce", "param_overlap": "overlap-param-gather"}
)
#: For each choice the options that say it.
CHOICES: Mapping[str, Mapping[Any, Settings]] = MappingProxyType(
    {
        "zero": {
            0: {},
            1: {"use-distributed-optimizer": True},
            2: {
                "use-distributed-optimizer": True,
                "use-megatron-fsdp": True,
                "data-parallel-sharding-strategy": "optim_grads",
            },
            3: {
                "use-distributed-optimizer": True,
                "use-megatron-fsdp": True,
                "data-parallel-sharding-strategy": "optim_grads_params",
            },
        },
        "precision": {
            "bf16": {"bf16": True},
            "fp16": {"fp16": True},
            "fp8": {"bf16": True, "fp8-format": "hybrid", "fp8-recipe": "tensorwise"},
            "fp8-block": {"bf16": True, "fp8-format": "e4m3", "fp8-recipe": "blockwise"},
            "mxfp8": {"bf16": True, "fp8-format": "e4m3", "fp8-recipe": "mxfp8"},
            "nvfp4": {"bf16": True, "fp4-format": "e2m1", "fp4-recipe": "nvfp4"},
        },
        "dispatcher": {
            "alltoall": {"moe-token-dispatcher-type": "alltoall"},
            "allgather": {"moe-token-dispatcher-type": "allgather"},
            "deepep": {"moe-token-dispatcher-type": "flex", "moe-flex-dispatcher-backend": "deepep"},
            "hybridep": {"moe-token-dispatcher-type": "flex", "moe-flex-dispatcher-backend": "hybridep"},
        },
        "cp_kind": {"ring": {"cp-comm-type": "p2p"}, "ulysses": {"cp-comm-type": "a2a"}},
        "cuda_graph": {
            "none": {},
            "partial": {"cuda-graph-impl": "transformer_engine", "cuda-graph-scope": ["attn"]},
            "full": {"cuda-graph-impl": "local", "cuda-graph-scope": ["full_iteration"]},
        },
        "grad_bytes": {4: {"accumulate-allreduce-grads-in-fp32": True}, 2: {"grad-reduce-in-bf16": True}},
        "optimizer_bytes": {
            12: {},
            8: {
                "use-precision-aware-optimizer": True,
                "exp-avg-dtype": "bf16",
                "exp-avg-sq-dtype": "bf16",
            },
        },
    }
)
#: Where MindSpeed says it otherwise; None: it has nothing for it.
MINDSPEED_CHOICES: Mapping[str, Mapping[Any, Settings | None]] = MappingProxyType(
    {
        "zero": {2: None, 3: {"use-torch-fsdp2": True}},
        "cp_kind": {
            "ring": {"context-parallel-algo": "megatron_cp_algo"},
            "ulysses": {"context-parallel-algo": "ulysses_cp_algo"},
        },
        "dispatcher": {"deepep": None, "hybridep": None},
        "cuda_graph": {"partial": None, "full": None},
        "precision": {"nvfp4": None},
        "optimizer_bytes": {8: None},
    }
)
_TP_OVERLAP = {"megatron": ("tp-comm-overlap",), "mindspeed": ("use-ascend-mc2", "use-ascend-coc", "use-mc2")}
_EP_OVERLAP = {
    "megatron": ("overlap-moe-expert-parallel-comm",),
    "mindspeed": ("moe-alltoall-overlap-comm", "moe-fb-overlap"),
}
_SHARED_GATE = {"megatron": "moe-shared-expert-gate", "mindspeed": "shared-expert-gate"}
#: What decides nothing that is predicted.
IDLE = (
    "decoupled-", "apply-layernorm-1p", "empty-unused-memory-level", "tiktoken-",
    "lr", "lr-", "min-lr", "weight-decay", "clip-grad", "adam-", "init-method-std", "seed", "train-iters",
    "train-samples", "log-", "eval-", "save", "save-", "load", "tensorboard-", "wandb-", "data-path",
    "data-cache-path", "split", "tokenizer-", "vocab-file", "merge-file", "mock-data", "num-workers", "no-load-",
    "no-save-", "no-create-attention-mask-in-dataloader", "attention-dropout", "hidden-dropout", "distributed-",
    "ckpt-", "async-save", "exit-", "rotary-base", "rotary-percent", "rotary-scaling-factor", "rope-scaling-",
    "use-rope-scaling", "norm-epsilon", "make-vocab-size-divisible-by", "use-mcore-models", "transformer-impl",
    "moe-aux-loss-coeff", "moe-z-loss-coeff", "moe-router-load-balancing-type", "moe-router-score-function",
    "moe-router-topk-scaling-factor", "moe-router-bias-update-rate", "moe-router-enable-expert-bias",
    "moe-router-pre-softmax", "moe-router-dtype", "moe-router-num-groups", "moe-router-group-topk",
    "mtp-loss-scaling-factor", "manual-gc", "manual-gc-interval", "override-opt_param-scheduler", "finetune",
    "use-rotary-position-embeddings", "no-gradient-accumulation-fusion", "no-masked-softmax-fusion",
    "attention-softmax-in-fp32", "no-mmap-bin-files", "timing-log-", "profile", "profile-", "use-fused-",
    "no-bias-swiglu-fusion", "no-shared-storage", "te-rng-tracker", "init-model-with-meta-device",
    "moe-permute-fusion", "moe-router-fusion", "cross-entropy-fusion-impl", "moe-per-layer-logging", "mscale",
    "beta-", "original-max-position-embeddings", "rope-type", "use-distributed-optimizer-",
    "calculate-per-token-loss", "reset-", "eod-mask-loss", "dataloader-type", "no-check-for-nan-in-loss-and-grad",
    "overlap-cpu-optimizer-d2h-h2d", "disable-gloo-process-groups", "no-enable-gloo-process-groups",
    "use-gloo-process-groups", "master-", "rank", "node-rank", "kv-channels-", "fp8-amax-", "fp8-margin",
    "fp8-interval", "moe-token-drop-policy", "optimizer", "spec", "npu-deterministic", "context-parallel-algo",
    "use-cp-send-recv-overlap", "moe-grouped-gemm-",
)  # fmt: skip


# --- writing -----------------------------------------------------------------------------------------------------


def megatron_settings(plan: Plan, found: Outline, dialect: str = "megatron") -> Settings:
    """Options without the leading dashes; a switch that is on is True, several words are a list.

    Parameters
    ----------
    dialect : {"megatron", "mindspeed"}

    Raises
    ------
    ExportError
        The dialect has no option for a choice of the plan.
    """
    return {**_model_settings(found, dialect), **_plan_settings(plan, found, dialect)}


def _model_settings(found: Outline, dialect: str) -> Settings:
    mixer = found.mixer
    out: Settings = {
        "num-layers": found.num_layers,
        "hidden-size": found.hidden,
        "num-attention-heads": mixer.num_heads,
    }
    width = found.dense.ffn if found.dense else found.experts.ffn if found.experts else 0
    out["ffn-hidden-size"] = width
    biases = {part.bias for part in (found.dense, found.experts) if part}
    if isinstance(mixer, Attention):
        out["kv-channels"] = mixer.head_dim
        if mixer.num_kv_heads != mixer.num_heads:
            out |= {"group-query-attention": True, "num-query-groups": mixer.num_kv_heads}
        biases.add(mixer.out_bias)
        if not any(biases) and mixer.bias:
            out["add-qkv-bias"] = True
        # a norm without parameters is one of length alone
        norm = "qk-l2-norm" if mixer.qk_norm_size == 0 else "qk-layernorm"
        for name, on in ((norm, mixer.qk_norm), ("attention-output-gate", mixer.gated_output)):
            if on:
                out[name] = True
        if mixer.sinks:
            out["softmax-type"] = "learnable"
        if mixer.window is not None:
            out["window-size"] = f"{mixer.window - 1},0"
            if not all(found.windowed):
                # one stands for a layer with a window
                out["window-attn-skip-freq"] = frequency_text(found.windowed)
    else:
        out |= {"multi-latent-attention": True, "qk-layernorm": True, "kv-lora-rank": mixer.kv_lora_rank}
        if mixer.q_lora_rank is not None:
            out["q-lora-rank"] = mixer.q_lora_rank
        out |= {
            "qk-head-dim": mixer.qk_nope_dim,
            "qk-pos-emb-head-dim": mixer.qk_rope_dim,
            "v-head-dim": mixer.v_dim,
        }
    if not any(biases):
        out["disable-bias-linear"] = True
    if (found.dense or found.experts or MLP(ffn=1)).gated:
        out["swiglu"] = True
    out["normalization"] = "RMSNorm" if found.norm == "rmsnorm" else "LayerNorm"
    if found.learned_positions:
        out |= {
            "position-embedding-type": "learned_absolute",
            "max-position-embeddings": found.learned_positions,
        }
    elif isinstance(mixer, Attention) and not mixer.rotary:
        out["position-embedding-type"] = "none"
    else:
        out["position-embedding-type"] = "rope"
    if not found.tied:
        out["untie-embeddings-and-output-weights"] = True
    # the null tokenizer adds an entry of its own
    out |= {
        "tokenizer-type": "NullTokenizer",
        "vocab-size": found.vocab - 1,
        "make-vocab-size-divisible-by": 1,
    }
    if found.mtp_layers:
        out["mtp-num-layers"] = found.mtp_layers
    return out | (_expert_settings(found, found.experts, dialect) if found.experts else {})


def _expert_settings(found: Outline, experts: MoE, dialect: str) -> Settings:
    out: Settings = {
        "num-experts": experts.num_experts,
        "moe-router-topk": experts.topk,
        "moe-ffn-hidden-size": experts.ffn,
    }
    if experts.topk == 1:
        # Megatron refuses one expert a token otherwise: behind the softmax its weight would be 1
        out["moe-router-pre-softmax"] = True
    if experts.shared_ffn:
        out["moe-shared-expert-intermediate-size"] = experts.shared_ffn
        if experts.shared_gate:
            out[_SHARED_GATE[dialect]] = True
    if experts.latent:
        out["moe-latent-size"] = experts.latent
    if not all(found.sparse):
        out["moe-layer-freq"] = frequency_text(found.sparse)
    return out


def _plan_settings(plan: Plan, found: Outline, dialect: str) -> Settings:
    out: Settings = {option: getattr(plan, field) for field, option in SIZES.items()}
    fields = ["zero", "precision", "grad_bytes", "optimizer_bytes", "cuda_graph"]
    if found.experts:
        out |= {option: getattr(plan, field) for field, option in EXPERT_SIZES.items()}
        fields.append("dispatcher")
        if plan.grouped_experts:
            out["moe-grouped-gemm"] = True
        if plan.ep > 1 and plan.ep_overlap:
            out[_EP_OVERLAP[dialect][0]] = True
    if plan.cp > 1:
        fields.append("cp_kind")
    for field in fields:
        out |= _said(field, getattr(plan, field), dialect)
    out |= {option: True for field, option in SWITCHES.items() if getattr(plan, field)}
    if not plan.zero:
        out.pop("overlap-param-gather", None)
    if plan.tp > 1 and plan.sequence_parallel:
        out["sequence-parallel"] = True
        if plan.tp_overlap:
            out[_TP_OVERLAP[dialect][0]] = True
    if plan.pp > 1:
        out |= _chunk_settings(plan, found, dialect)
        if plan.vpp > 1 and not plan.p2p_overlap:
            out["no-overlap-p2p-communication"] = True
    if plan.shard and plan.shard < plan.dp * plan.cp:
        out["num-distributed-optimizer-instances"] = plan.dp * plan.cp // plan.shard
    out |= _recompute_settings(plan, found)
    out |= _offload_settings(plan, dialect)
    if plan.cuda_graph != "none":
        out["te-rng-tracker"] = True
    if plan.precision == "nvfp4" or plan.precision.endswith("fp8") or plan.precision == "fp8-block":
        out |= {"fp8-param-gather": True} if plan.fp8_params else {}
    if plan.zero >= 2 and dialect == "megatron":
        out |= {"init-model-with-meta-device": True, "ckpt-format": "fsdp_dtensor"}
    if plan.fused_loss and dialect == "megatron":
        out["cross-entropy-loss-fusion"] = True
    if dialect == "mindspeed":
        out |= {"use-flash-attn": True} if plan.flash_attention else {}
    elif not plan.flash_attention:
        out["attention-backend"] = "unfused"
    return out


def _said(field: str, value: Any, dialect: str) -> Settings:
    """The options for one choice."""
    table: dict[Any, Settings | None] = dict(CHOICES[field])
    if dialect == "mindspeed":
        table |= MINDSPEED_CHOICES.get(field, {})
    found = table.get(value)
    if found is None:
        raise cannot(dialect, f"{field} = {value}")
    return found


def cannot(framework: str, what: str) -> ExportError:
    """The refusal of a framework that has no setting for something."""
    return ExportError(
        f"{framework} has no setting for {what}",
        where="--export",
        expected="a plan that the framework can run as it was priced",
    )


def _chunk_settings(plan: Plan, found: Outline, dialect: str) -> Settings:
    if plan.schedule != "1f1b":
        raise cannot(dialect, f"schedule = {plan.schedule}")
    layers, num_chunks = found.num_layers, plan.pp * plan.vpp
    even = layers % num_chunks == 0
    if not plan.layout and even:
        return {"num-layers-per-virtual-pipeline-stage": layers // num_chunks} if plan.vpp > 1 else {}
    text = plan.layout or layout_text(layers, num_chunks, found.mtp_layers)
    if dialect == "megatron":
        # a layout says all of it: Megatron refuses a number of virtual stages or of their layers beside one
        return {"pipeline-model-parallel-layout": text}
    if plan.vpp > 1:
        raise cannot(dialect, f"uneven chunks ({text})")
    return {"num-layer-list": ",".join(str(chunk.count("t")) for chunk in parse_layout(text))}


def layers_per_chunk(plan: Plan, num_layers: int) -> float:
    """Layers of one chunk of the model, on average."""
    return num_layers / (plan.pp * plan.vpp)


def _recompute_settings(plan: Plan, found: Outline) -> Settings:
    if plan.recompute == "selective":
        if plan.recompute_fraction != 1.0:
            raise cannot("megatron", f"selective recompute in {plan.recompute_fraction:.0%} of the layers")
        modules = {"recompute-modules": list(plan.recompute_modules)} if plan.recompute_modules else {}
        return {"recompute-granularity": "selective", **modules}
    if plan.recompute == "none":
        return {}
    if plan.recompute_fraction == 1.0:
        return {"recompute-granularity": "full", "recompute-method": "uniform", "recompute-num-layers": 1}
    number = round(plan.recompute_fraction * layers_per_chunk(plan, found.num_layers))
    return {"recompute-granularity": "full", "recompute-method": "block", "recompute-num-layers": number}


def _offload_settings(plan: Plan, dialect: str) -> Settings:
    if plan.offload_activations:
        raise cannot(dialect, "activations in host memory")
    if not plan.offload_optimizer:
        return {}
    if dialect == "mindspeed":
        if plan.offload_optimizer != 1.0:
            raise cannot(dialect, "a part of the optimizer in host memory")
        return {"swap-optimizer": True}
    return {
        "optimizer-cpu-offload": True,
        "optimizer-offload-fraction": plan.offload_optimizer,
        "use-precision-aware-optimizer": True,
    }


def frequency_text(flags: Sequence[bool]) -> str:
    """Which layers are of a kind, as Megatron writes it: ``([0]*3+[1]*58)``."""
    runs = [(flag, len(list(same))) for flag, same in itertools.groupby(flags)]
    return "(" + "+".join(f"[{int(flag)}]*{n}" for flag, n in runs) + ")"


# --- reading -----------------------------------------------------------------------------------------------------


def read_megatron(settings: Settings, where: str, dialect: str, *, model: ModelSpec | None = None) -> Read:
    """A model and a plan from options.

    Parameters
    ----------
    model : ModelSpec, optional
        Used instead of what the options say of one.

    Raises
    ------
    LaunchError
        A value is wrong, or values contradict each other.
    """
    taken = Taken(values=settings, where=where, idle=IDLE)
    assumed: list[str] = []
    found = read_outline(taken, dialect, assumed)
    if model is None and found is not None:
        model = model_of(found)
    fields = _read_plan(taken, dialect, model, assumed)
    return Read(
        framework=dialect, model=model, fields=fields, assumed=tuple(assumed), left=taken.left()
    )  # fmt: skip


def read_outline(taken: Taken, dialect: str, assumed: list[str]) -> Outline | None:
    """The model that options describe, None where they do not name its sizes."""
    layers, hidden = taken.whole("num-layers", least=1), taken.whole("hidden-size", least=1)
    heads = taken.whole("num-attention-heads", least=1)
    if layers is None or hidden is None or heads is None:
        return None
    if layers > MAX_LAYERS:
        raise LaunchError(f"num-layers = {layers:,}", where=taken.where, expected=f"at most {MAX_LAYERS:,}")
    gated = taken.any_switch("swiglu", "quick-geglu")
    taken.switch("squared-relu")
    # Megatron's own defaults
    ffn = taken.size("ffn-hidden-size", int(hidden * 4 * 2 / 3 / 64) * 64 if gated else 4 * hidden)
    linear_bias = not taken.switch("disable-bias-linear")
    mixer = _read_mixer(taken, hidden, heads, linear_bias=linear_bias)
    experts, sparse = _read_experts(taken, dialect, layers, ffn, gated=gated, bias=linear_bias)
    positions = taken.text("position-embedding-type", "learned_absolute")
    longest = taken.whole("max-position-embeddings", least=1) or 0
    if positions != "learned_absolute" and isinstance(mixer, Attention):
        mixer = dataclasses.replace(mixer, rotary=positions != "none")
    elif isinstance(mixer, Attention):
        mixer = dataclasses.replace(mixer, rotary=False)
    windowed = (
        _read_frequency(taken, "window-attn-skip-freq", layers, every_but=True)
        if isinstance(mixer, Attention) and mixer.window is not None
        else (False,) * layers
    )
    outline = Outline(
        hidden=hidden,
        vocab=1,
        mixer=mixer,
        dense=None if experts and all(sparse) else MLP(ffn=ffn, gated=gated, bias=linear_bias),
        experts=experts,
        sparse=sparse,
        windowed=windowed,
        norm="rmsnorm" if taken.text("normalization", "LayerNorm") == "RMSNorm" else "layernorm",
        tied=not taken.switch("untie-embeddings-and-output-weights"),
        learned_positions=longest if positions == "learned_absolute" else 0,
        mtp_layers=taken.whole("mtp-num-layers", 0) or 0,
    )
    return dataclasses.replace(outline, vocab=_read_vocabulary(taken, outline, assumed))


def _read_mixer(taken: Taken, hidden: int, heads: int, *, linear_bias: bool) -> Attention | LatentAttention:
    if taken.switch("multi-latent-attention"):
        rank = taken.whole("q-lora-rank", least=1)
        nope = taken.size("qk-nope-head-dim", 128) if taken.has("qk-nope-head-dim") else 128
        rope = taken.size("qk-rope-head-dim", 64) if taken.has("qk-rope-head-dim") else 64
        taken.switch("qk-layernorm")
        taken.has("kv-channels")
        return LatentAttention(
            num_heads=heads,
            q_lora_rank=rank,
            kv_lora_rank=taken.size("kv-lora-rank", 512),
            qk_nope_dim=taken.size("qk-head-dim", nope),
            qk_rope_dim=taken.size("qk-pos-emb-head-dim", rope),
            v_dim=taken.size("v-head-dim", 128),
        )
    grouped = taken.switch("group-query-attention")
    groups = taken.size("num-query-groups", 1)
    if grouped and heads % groups:
        raise LaunchError(
            f"num-query-groups = {groups} does not divide num-attention-heads = {heads}", where=taken.where
        )
    if not taken.has("kv-channels") and hidden % heads:
        raise LaunchError(
            f"num-attention-heads = {heads} does not divide hidden-size = {hidden}",
            where=taken.where,
            expected="a divisor, or kv-channels",
        )
    window = None
    if taken.has("window-size"):
        value = taken.raw("window-size")
        text = ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
        size = re.fullmatch(r"\(?\s*([0-9]{1,9})\s*,\s*0\s*\)?", text)
        if size is None:
            raise LaunchError(
                f"window-size = {shown(value)}",
                where=taken.where,
                expected="tokens before and behind, as 127,0",
            )
        window = int(size[1]) + 1
    length_alone = taken.switch("qk-l2-norm")
    return Attention(
        num_heads=heads,
        num_kv_heads=groups if grouped else heads,
        head_dim=taken.size("kv-channels", hidden // heads or 1),
        bias=taken.switch("add-qkv-bias") or linear_bias,
        out_bias=linear_bias,
        qk_norm=taken.switch("qk-layernorm") or length_alone,
        qk_norm_size=0 if length_alone else None,
        gated_output=taken.switch("attention-output-gate"),
        sinks=taken.text("softmax-type") == "learnable",
        window=window,
    )


def _read_experts(
    taken: Taken, dialect: str, layers: int, ffn: int, *, gated: bool, bias: bool
) -> tuple[MoE | None, tuple[bool, ...]]:
    number = taken.whole("num-experts", least=1)
    if number is None:
        return None, (False,) * layers
    topk = taken.size("moe-router-topk", 2)
    if topk > number:
        raise LaunchError(f"moe-router-topk = {topk} of num-experts = {number}", where=taken.where)
    width = taken.size("moe-ffn-hidden-size", ffn)
    shared = taken.whole("moe-shared-expert-intermediate-size", 0) or 0
    if taken.has("n-shared-experts"):
        shared = shared or (taken.whole("n-shared-experts", 0) or 0) * width
    experts = MoE(
        num_experts=number,
        topk=topk,
        ffn=width,
        shared_ffn=shared,
        gated=gated,
        latent=taken.whole("moe-latent-size", least=1),
        shared_gate=bool(shared) and taken.switch(_SHARED_GATE[dialect]),
        bias=bias,
    )
    sparse = _read_frequency(taken, "moe-layer-freq", layers)
    first = taken.whole("first-k-dense-replace", 0) or 0
    return experts, tuple(flag and i >= first for i, flag in enumerate(sparse))


def _read_frequency(taken: Taken, name: str, layers: int, *, every_but: bool = False) -> tuple[bool, ...]:
    """Which layers are of a kind; ``every_but``: a number N means all but every N-th."""
    value = taken.raw(name)
    if value is None:
        return (True,) * layers
    flags: list[bool] | None
    if isinstance(value, list | tuple):
        flags = [bool(v) for v in value] if all(v in (0, 1) for v in value) else None
    elif re.fullmatch(r"[0-9]{1,4}", str(value)) and int(value) > 0:
        every = int(value)
        flags = [((i + 1) % every != 0) if every_but else i % every == 0 for i in range(layers)]
    else:
        flags = _pattern(str(value))
    if flags is None or len(flags) != layers:
        raise LaunchError(
            f"{name} = {shown(value)}",
            where=taken.where,
            expected=f"a number, or a pattern of {layers} zeros and ones as ([0]*3+[1]*{max(1, layers - 3)})",
        )
    return tuple(flags)


def _pattern(text: str) -> list[bool] | None:
    """``([0]*3+[1]*1)*2`` as flags; None where it is no such pattern or would be too long."""
    out: list[list[bool]] = [[]]
    last: list[bool] = []
    for token in re.findall(r"\[[01](?:,[01])*\]|[()+]|\*[0-9]{1,4}|.", text.replace(" ", "")):
        if token == "(":
            out.append([])
            if len(out) > 8:
                return None
        elif token == ")":
            if len(out) < 2:
                return None
            last = out.pop()
            out[-1] += last
        elif token.startswith("["):
            last = [c == "1" for c in token if c in "01"]
            out[-1] += last
        elif token.startswith("*") and len(token) > 1:
            times = int(token[1:])
            if not last or len(last) * times > 4096:
                return None
            del out[-1][len(out[-1]) - len(last) :]
            last = last * times
            out[-1] += last
        elif token != "+":
            return None
    return out[0] if len(out) == 1 else None


def _read_vocabulary(taken: Taken, found: Outline, assumed: list[str]) -> int:
    size = taken.whole("vocab-size", least=1)
    null = taken.text("tokenizer-type") == "NullTokenizer"
    if size is not None:
        return size + null
    size = taken.whole("padded-vocab-size", least=1)
    if size is not None:
        return size
    # the tokenizer knows it, and it does not stand here: that of a shipped model with all other sizes
    models = [load_model(name) for name in shipped.names()]
    alike = [
        m
        for m in models
        if (m.num_layers, m.hidden) == (found.num_layers, found.hidden)
        and model_of(dataclasses.replace(found, vocab=m.vocab)).id == m.id
    ]
    if alike:
        # several differ in nothing else: the one that a path names, else the one with most entries
        options = ("tokenizer-model", "tokenizer-name-or-path", "load", "data-path")
        paths = " ".join(taken.text(name) for name in options)
        named = [m for m in alike if m.id.split("-")[0] in paths.lower()]
        chosen = max(named or alike, key=lambda m: m.vocab)
        assumed.append(f"vocabulary {chosen.vocab:,} of {chosen.name}, whose other sizes these are")
        return chosen.vocab
    raise LaunchError(
        "the size of the vocabulary is missing",
        where=taken.where,
        expected="vocab-size, or sizes of a shipped model",
        hint="name the model with --model",
    )


def _read_plan(taken: Taken, dialect: str, model: ModelSpec | None, assumed: list[str]) -> dict[str, Any]:
    out: dict[str, Any] = {field: taken.size(option) for field, option in SIZES.items() if taken.has(option)}
    for needed in ("mbs", "gbs", "seq"):
        if needed not in out:
            raise LaunchError(
                f"the option {SIZES[needed]} is missing",
                where=taken.where,
                expected="a launch file that says batch and sequence length",
            )
    for degree in ("tp", "pp", "cp"):
        out.setdefault(degree, 1)
    out["sequence_parallel"] = taken.switch("sequence-parallel") or out["tp"] == 1
    out["tp_overlap"] = taken.any_switch(*_TP_OVERLAP[dialect])
    for field, option in SWITCHES.items():
        out[field] = taken.switch(option)
    if (model is not None and model.is_moe) or taken.has("num-experts"):
        out["ep"] = taken.size(EXPERT_SIZES["ep"])
        # both frameworks split experts as everything else unless they are told otherwise
        out["etp"] = taken.size(EXPERT_SIZES["etp"], out["tp"])
        if taken.switch("moe-tp-extend-ep"):
            out |= {"ep": out["ep"] * out["tp"], "etp": 1}
        out["grouped_experts"] = taken.switch("moe-grouped-gemm")
        out["ep_overlap"] = taken.any_switch(*_EP_OVERLAP[dialect])
        out["dispatcher"] = _read_dispatcher(taken)
    out["cp_kind"] = _read_cp_kind(taken, out["cp"])
    out["zero"], instances = _read_zero(taken), taken.size("num-distributed-optimizer-instances")
    if instances > 1:
        out["shard_of"] = instances
    out["precision"], out["fp8_params"] = _read_precision(taken)
    out["grad_bytes"] = 2 if taken.switch("grad-reduce-in-bf16") else 4
    if taken.switch("accumulate-allreduce-grads-in-fp32") and out["grad_bytes"] == 2:
        raise LaunchError(
            "gradients are reduced in BF16 and in FP32",
            where=taken.where,
            expected="one of grad-reduce-in-bf16 and accumulate-allreduce-grads-in-fp32",
        )
    out["optimizer_bytes"] = _read_optimizer(taken)
    out |= _read_recompute(taken)
    out["cuda_graph"] = _read_graph(taken)
    if taken.switch("no-overlap-p2p-communication"):
        out["p2p_overlap"] = False
    if taken.switch("cross-entropy-loss-fusion"):
        out["fused_loss"] = True
    out["offload_optimizer"] = 0.0
    if taken.switch("optimizer-cpu-offload"):
        out["offload_optimizer"] = min(1.0, taken.real("optimizer-offload-fraction", 1.0))
    if taken.switch("swap-optimizer"):
        out["offload_optimizer"] = 1.0
    backend = taken.text("attention-backend", "auto")
    if dialect == "mindspeed":
        out["flash_attention"] = taken.switch("use-flash-attn")
    elif backend in ("unfused", "local"):
        out["flash_attention"] = False
    else:
        taken.switch("use-flash-attn")
    if model is not None:
        out |= _read_chunks(taken, out["pp"], model, assumed)
        if "recompute_layers" in out:
            per = model.num_layers / (out["pp"] * out["vpp"])
            out["recompute_fraction"] = min(1.0, out.pop("recompute_layers") / per)
    return out


def _read_dispatcher(taken: Taken) -> str:
    kind = taken.text("moe-token-dispatcher-type", "allgather")
    if kind != "flex":
        return "allgather" if kind == "allgather" else "alltoall"
    taken.switch("moe-enable-deepep")
    return "hybridep" if taken.text("moe-flex-dispatcher-backend", "deepep") == "hybridep" else "deepep"


def _read_cp_kind(taken: Taken, cp: int) -> str:
    kind = taken.choice(
        "cp-comm-type", {"p2p": "ring", "a2a": "ulysses", "['p2p']": "ring", "['a2a']": "ulysses"}
    )
    algorithm = taken.choice(
        "context-parallel-algo", {"megatron_cp_algo": "ring", "ulysses_cp_algo": "ulysses"}
    )
    return str(algorithm or kind or "ring")


def _read_zero(taken: Taken) -> int:
    distributed = taken.switch("use-distributed-optimizer")
    if taken.switch("use-torch-fsdp2"):
        return 3
    if taken.any_switch("use-megatron-fsdp", "use-custom-fsdp"):
        known = {"no_shard": 0, "optim": 1, "optim_grads": 2, "optim_grads_params": 3}
        return int(taken.choice("data-parallel-sharding-strategy", known, 0))
    return 1 if distributed else 0


def _read_precision(taken: Taken) -> tuple[str, bool]:
    bf16, fp16 = taken.switch("bf16"), taken.switch("fp16")
    if bf16 and fp16:
        raise LaunchError("bf16 and fp16 exclude each other", where=taken.where, expected="one of them")
    gathered = taken.any_switch("fp8-param-gather", "fp8-param")
    if taken.has("fp4-format"):
        taken.text("fp4-recipe")
        return "nvfp4", gathered
    if taken.has("fp8-format"):
        recipe = taken.text("fp8-recipe", "delayed")
        known = {"blockwise": "fp8-block", "mxfp8": "mxfp8", "tensorwise": "fp8", "delayed": "fp8"}
        if recipe not in known:
            raise LaunchError(
                f"fp8-recipe = {shown(recipe)}", where=taken.where, expected="one of " + ", ".join(known)
            )
        return known[recipe], gathered
    return "fp16" if fp16 else "bf16", gathered


def _read_optimizer(taken: Taken) -> int:
    """Bytes of a parameter's states: the FP32 master and two moments."""
    if not taken.switch("use-precision-aware-optimizer"):
        return 12
    sizes = {
        "fp32": 4,
        "bf16": 2,
        "fp16": 2,
        "fp8": 1,
        "torch.float32": 4,
        "torch.bfloat16": 2,
        "torch.float16": 2,
    }
    moments = [taken.choice(name, sizes, 4) for name in ("exp-avg-dtype", "exp-avg-sq-dtype")]
    taken.choice("main-grads-dtype", sizes)
    return int(taken.choice("main-params-dtype", sizes, 4)) + int(sum(moments))


def _read_recompute(taken: Taken) -> dict[str, Any]:
    kind = taken.text("recompute-granularity")
    if taken.switch("recompute-activations") and not kind:
        kind = "selective"
    if kind == "selective":
        modules = taken.raw("recompute-modules") or []
        listed = modules if isinstance(modules, list | tuple) else str(modules).replace(",", " ").split()
        return {"recompute": "selective", "recompute_modules": tuple(str(m) for m in listed)}
    if kind == "full":
        method = taken.text("recompute-method", "uniform")
        layers = taken.whole("recompute-num-layers", 1)
        if method == "block":
            return {"recompute": "full", "recompute_layers": layers}
        return {"recompute": "full"}
    if kind:
        raise LaunchError(
            f"recompute-granularity = {shown(kind)}", where=taken.where, expected="full or selective"
        )
    return {"recompute": "none"}


def _read_graph(taken: Taken) -> str:
    kind = taken.text("cuda-graph-impl", "none")
    scope = taken.raw("cuda-graph-scope") or []
    words = scope if isinstance(scope, list | tuple) else str(scope).replace(",", " ").split()
    if taken.any_switch("enable-cuda-graph", "external-cuda-graph") and kind == "none":
        kind = "local"
    if kind == "none":
        return "none"
    return "full" if "full_iteration" in words or kind == "full_iteration" else "partial"


def _read_chunks(taken: Taken, pp: int, model: ModelSpec, assumed: list[str]) -> dict[str, Any]:
    """Virtual stages and layout."""
    layers = model.num_layers
    layout = taken.text("pipeline-model-parallel-layout")
    per_chunk = taken.whole("num-layers-per-virtual-pipeline-stage", least=1)
    vpp = taken.whole("num-virtual-stages-per-pipeline-rank", least=1)
    listed = taken.text("num-layer-list")
    ends = [taken.whole(f"decoder-{end}-pipeline-num-layers", least=0) for end in ("first", "last")]
    whole_ends = [taken.switch(f"account-for-{end}-in-pipeline-split") for end in ("embedding", "loss")]
    if pp == 1:
        return {"vpp": 1}
    if layout:
        try:
            chunks = parse_layout(layout)
        except PlanError as error:
            raise LaunchError(error.what, where=taken.where, expected=error.expected) from None
        if len(chunks) % pp:
            raise LaunchError(
                f"the pipeline layout has {len(chunks)} chunks",
                where=taken.where,
                expected=f"a multiple of the {pp} pipeline ranks",
            )
        return {"vpp": len(chunks) // pp, "layout": layout}
    if listed:
        counts = [int(n) for n in re.findall(r"[0-9]{1,6}", listed)]
        if len(counts) != pp or sum(counts) != layers:
            raise LaunchError(
                f"num-layer-list = {shown(listed)}",
                where=taken.where,
                expected=f"{pp} numbers that add up to {layers} layers",
            )
        return {"vpp": 1, "layout": chunks_text(counts, model.mtp_layers)}
    if per_chunk is not None:
        padded = layers + sum(whole_ends)
        if padded % (pp * per_chunk):
            raise LaunchError(
                f"num-layers-per-virtual-pipeline-stage = {per_chunk} with {layers} layers on {pp} pipeline ranks",
                where=taken.where,
                expected="chunks of equal length",
            )
        vpp = padded // (pp * per_chunk)
    vpp = vpp or 1
    if any(end is not None for end in ends):
        return {"vpp": vpp, "layout": _ends_layout(ends, pp, vpp, model, taken.where)}
    counts = default_chunks(layers, pp * vpp)
    if layers % (pp * vpp) and not any(whole_ends):
        assumed.append(
            f"chunks of {min(counts)} to {max(counts)} layers, since {pp * vpp} do not divide {layers}"
        )
    return {"vpp": vpp}


def _ends_layout(ends: list[int | None], pp: int, vpp: int, model: ModelSpec, where: str) -> str:
    """The layout where the first and last stage have numbers of their own."""
    given = [n for n in ends if n is not None]
    between = pp - len(given)
    rest = model.num_layers - sum(given)
    if between < 0 or (between == 0) != (rest == 0) or (between and (rest % between or rest < 0)):
        raise LaunchError(
            f"stages of {' and '.join(map(str, given))} layers at the ends leave {rest} for {between} others",
            where=where,
            expected="equal numbers between them",
        )
    stages = [rest // between if between else 0] * pp
    if ends[0] is not None:
        stages[0] = ends[0]
    if ends[1] is not None:
        stages[-1] = ends[1]
    if any(n % vpp for n in stages):
        raise LaunchError(f"stages of {stages} layers in {vpp} chunks", where=where, expected="whole layers")
    return chunks_text([stages[i % pp] // vpp for i in range(pp * vpp)], model.mtp_layers)


def option_words(settings: Settings) -> Iterator[list[str]]:
    """Options as the words of a command line, one list an option."""
    for name, value in settings.items():
        if value is True:
            yield [f"--{name}"]
        elif isinstance(value, list | tuple):
            yield [f"--{name}", *map(str, value)]
        elif value is not None and value is not False:
            yield [f"--{name}", str(value)]


__all__ = ["cannot", "megatron_settings", "option_words", "read_megatron"]

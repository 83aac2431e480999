"""One plan for people, a table of plans for the cost models. Both have the fields of one declaration."""

# ruff: noqa: RUF009 - what stands as a default is a declaration, made once

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, Generic, TypeVar

import numpy as np
import numpy.typing as npt

from fullmesh.errors import PlanError
from fullmesh.plan.declare import (
    LARGEST,
    SIZE_RANGE,
    choice,
    declarations,
    names,
    number,
    share,
    size,
    switch,
    text,
)
from fullmesh.plan.precision import RECIPES

IntColumn = npt.NDArray[np.int64]
FloatColumn = npt.NDArray[np.float64]
BoolColumn = npt.NDArray[np.bool_]
StrColumn = npt.NDArray[np.str_]

SCHEDULES = ("1f1b", "gpipe", "zero-bubble", "dualpipe")
RECOMPUTES = ("none", "selective", "full")
CUDA_GRAPHS = ("none", "partial", "full")
DISPATCHERS = ("alltoall", "deepep", "hybridep", "allgather")
CP_KINDS = ("ring", "ulysses")
TRAINABLES = ("all", "lora")
KERNELS = ("unknown", "transformer-engine", "megatron", "torch", "xla", "ascend", "mindspore")
PRECISIONS = tuple(RECIPES)

# What `selective` may name; a column of `recompute_modules` is a bit mask over these.
MODULES = ("core_attn", "mlp", "moe", "moe_act", "layernorm", "mla_up_proj")

# The type of a number, a share, a switch, a choice, a tuple of names and a text: values in a plan, columns in a table.
N = TypeVar("N")
S = TypeVar("S")
B = TypeVar("B")
C = TypeVar("C")
M = TypeVar("M")
T = TypeVar("T")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class PlanFields(Generic[N, S, B, C, M, T]):
    """What a plan says, declared once; the order is that of labels, columns and records."""

    tp: N = size(
        1, "tensor-parallel degree", "张量并行度",
        brief="TP{}".format,
    )  # fmt: skip
    cp: N = size(
        1, "context-parallel degree", "上下文并行度",
        brief=lambda v: f" CP{v}" if v > 1 else "",
    )  # fmt: skip
    pp: N = size(
        1, "pipeline-parallel degree", "流水线并行度",
        brief=lambda v: f" PP{v}" if v > 1 else "",
    )  # fmt: skip
    vpp: N = size(
        1, "model chunks per pipeline rank (virtual stages)", "每个流水级的模型分块数(虚拟流水级)",
        brief=lambda v: f"x{v}" if v > 1 else "",
    )  # fmt: skip
    ep: N = size(
        1, "expert-parallel degree", "专家并行度",
        brief=lambda v: f" EP{v}" if v > 1 else "",
    )  # fmt: skip
    etp: N = size(
        1, "expert-tensor-parallel degree", "专家张量并行度",
        brief=lambda v: f" ETP{v}" if v > 1 else "",
    )  # fmt: skip
    dp: N = size(
        1, "data-parallel degree; `tp * cp * pp * dp` devices", "数据并行度;共用 `tp * cp * pp * dp` 个设备",
        brief=" DP{}".format,
    )  # fmt: skip
    zero: N = number(
        1, "0 replicated, 1 optimizer states sharded, 2 gradients too, 3 parameters too (FSDP)",
        "0 不切分,1 切分优化器状态,2 再切分梯度,3 再切分参数(FSDP)",
        allowed=range(4), expected="0, 1, 2 or 3", brief=lambda v: f" ZeRO-{v}" if v else " no ZeRO",
    )  # fmt: skip
    shard: N = number(
        0, "devices over which ZeRO shards; 0 for all data-parallel ranks (fewer: HSDP, or subgroups of ZeRO-1)",
        "ZeRO 切分所跨的设备数;0 表示全部数据并行设备(更少即 HSDP,或 ZeRO-1 的子组)",
        allowed=range(LARGEST + 1), expected="0 for all ranks, or a number of ranks",
    )  # fmt: skip
    mbs: N = size(1, "micro-batch in sequences", "微批大小(序列数)", brief=" mbs {}".format)
    gbs: N = size(1, "global batch in sequences", "全局批大小(序列数)", option="--batch")
    seq: N = size(4096, "sequence length in tokens", "序列长度(词元数)", option="--seq")
    sequence_parallel: B = switch(
        True, "norms and residuals are split over the tensor-parallel group",
        "归一化与残差在张量并行组内切分",
    )  # fmt: skip
    recompute: C = choice(
        RECOMPUTES, "none", "which forward work is done again in the backward pass", "反向时重新计算哪些前向工作",
        brief=lambda v: "" if v == "none" else f" {v} recompute",
    )  # fmt: skip
    recompute_fraction: S = share(
        1.0, "share of the layers that recompute", "重计算的层所占比例",
        detail=lambda v: "" if v == 1.0 else f" ({100 * v:.0f} % of the layers)",
    )  # fmt: skip
    recompute_modules: M = names(
        MODULES, "what `selective` recomputes; the attention core without any",
        "`selective` 重计算的模块;不写则为注意力核心",
        detail=lambda v: f" ({', '.join(v)})" if v else "",
    )  # fmt: skip
    schedule: C = choice(
        SCHEDULES, "1f1b", "order of the passes; `1f1b` with `vpp` above 1 is the interleaved one",
        "流水线调度;`vpp` 大于 1 的 `1f1b` 即交错调度", brief=lambda v: "" if v == "1f1b" else f" {v}",
    )  # fmt: skip
    cp_kind: C = choice(
        CP_KINDS, "ring", "how context-parallel attention exchanges", "上下文并行注意力的交换方式",
        detail=lambda v: ", Ulysses" if v == "ulysses" else "",
    )  # fmt: skip
    layout: T = text(
        "layers of every chunk in Megatron's notation, `Et*4|(t*4|)*14tmL`",
        "以 Megatron 记法给出每个分块的层,如 `Et*4|(t*4|)*14tmL`",
    )
    tp_overlap: B = switch(
        True, "tensor-parallel communication may hide behind computation", "张量并行通信可被计算掩盖",
    )  # fmt: skip
    grad_overlap: B = switch(
        True,
        "the gradient reduction may hide",
        "梯度归约可被掩盖",
    )
    param_overlap: B = switch(
        True,
        "the parameter gather may hide",
        "参数聚合可被掩盖",
    )
    p2p_overlap: B = switch(True, "pipeline sends may hide", "流水线收发可被掩盖")
    ep_overlap: B = switch(
        False, "expert dispatch and combine may hide", "专家分发与合并可被掩盖",
        detail=lambda v: ", EP overlap" if v else "",
    )  # fmt: skip
    offload_optimizer: S = share(
        0.0, "share of the optimizer states in host memory; gradients and weights are copied over the host link",
        "放在主机内存中的优化器状态比例;梯度与权重经主机链路拷贝",
        detail=lambda v: ", optimizer in host memory" if v else "",
    )  # fmt: skip
    offload_activations: S = share(
        0.0, "share of the activations in host memory; the copies are taken to hide",
        "放在主机内存中的激活比例;假定拷贝可被掩盖",
        detail=lambda v: ", activations in host memory" if v else "",
    )  # fmt: skip
    cuda_graph: C = choice(CUDA_GRAPHS, "none", "launches captured", "捕获的内核下发")
    grouped_experts: B = switch(
        True, "one grouped product over all local experts; otherwise they run one after another",
        "本地专家合为一次分组矩阵乘;否则逐个计算",
    )  # fmt: skip
    dispatcher: C = choice(
        DISPATCHERS, "alltoall", "how tokens reach their experts", "词元送达专家的方式",
    )  # fmt: skip
    precision: C = choice(
        PRECISIONS, "bf16", "recipe of the matrix products", "矩阵乘的精度方案", option="--precision",
    )  # fmt: skip
    fp8_params: B = switch(False, "parameters are gathered in FP8", "以 FP8 聚合参数")
    grad_bytes: N = number(
        4, "bytes an element takes in the gradient reduction", "梯度归约中每个元素的字节数",
        allowed=(2, 4), expected="2 (BF16) or 4 (FP32)",
    )  # fmt: skip
    grad_copy: B = switch(
        False,
        "16-bit gradients stay in memory beside the FP32 ones that they are added to",
        "16 位梯度与其累加到的 FP32 梯度同时驻留显存",
    )
    optimizer_bytes: N = number(
        12, "bytes of optimizer states a parameter, the FP32 master included (Adam 12, with BF16 moments 8)",
        "每个参数的优化器状态字节数,含 FP32 主权重(Adam 为 12,BF16 动量为 8)",
        allowed=range(4, 33), expected="4 to 32",
    )  # fmt: skip
    trainable: C = choice(
        TRAINABLES,
        "all",
        "what is trained: all parameters, or adapters alone",
        "训练的参数:全部,或仅适配器(LoRA)",
    )
    fsdp_prefetch: B = switch(
        True,
        "sharded parameters are gathered ahead of the layer that needs them",
        "分片参数在所属层计算之前预取",
    )
    weight_cache: B = switch(
        True, "low-precision copies of weights are kept over the micro-batches of a step, not cast anew for each",
        "权重的低精度副本在一步的各微批间保留,而非每个微批重新转换",
    )  # fmt: skip
    fused_casts: B = switch(
        False,
        "casts to low precision are part of the kernel before them and only write",
        "低精度转换并入前一算子,只写不读",
    )
    issue_ns: N = number(
        0, "host time to issue a kernel in nanoseconds, where it was measured; 0 for what published runs say",
        "主机下发一个算子的时间(纳秒),如已测得;0 表示按公开结果拟合",
        allowed=range(1_000_001), expected="0 to 1,000,000",
    )  # fmt: skip
    routing_syncs: N = number(
        1, "times that a routed layer waits for the host, in each pass", "每个路由层每遍等待主机的次数",
        allowed=range(9), expected="0 to 8",
    )  # fmt: skip
    flash_attention: B = switch(True, "scores are never written to memory", "注意力分数不写入显存")
    fused_loss: B = switch(
        True, "the loss is one kernel whose gradient overwrites its logits",
        "损失为单个算子,其梯度覆盖 logits",
    )  # fmt: skip
    compiled: B = switch(
        True, "element-wise work is fused (a graph compiler, or hand-fused kernels throughout)",
        "逐元素运算已融合(图编译器,或全程手工融合算子)",
    )  # fmt: skip
    kernels: C = choice(
        KERNELS, "unknown", "whose fused kernels and graph the layers run on; `unknown` is uncertain, not average",
        "各层所用的融合算子与图引擎来自何处;`unknown` 表示未知,按不确定处理",
    )  # fmt: skip
    stack: T = text(
        "software stack and generation (`nemo-26.04`), the key of the fitted effects of releases",
        "软件栈与版本(如 `nemo-26.04`),版本拟合效应的键",
    )


FIELDS = declarations(PlanFields)
CHOICES: dict[str, tuple[str, ...]] = {n: f.choices for n, f in FIELDS.items() if f.kind == "choice"}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Plan(PlanFields[int, float, bool, str, tuple[str, ...], str]):
    """One parallel plan."""

    @property
    def num_devices(self) -> int:
        """Devices that the plan uses."""
        return self.tp * self.cp * self.pp * self.dp

    @property
    def num_microbatches(self) -> int:
        """Micro-batches per step and data-parallel rank."""
        return self.gbs // (self.mbs * self.dp)

    def label(self) -> str:
        """The plan as one short line."""
        return "".join(f.brief(getattr(self, name)) for name, f in FIELDS.items())

    def text(self) -> str:
        """The plan as one line, with what the label leaves out."""
        values = {name: getattr(self, name) for name in FIELDS}
        return "".join(f.brief(values[name]) + f.detail(values[name]) for name, f in FIELDS.items())


Plan.__doc__ = (
    "One parallel plan.\n\n    Parameters\n    ----------\n"
    + "".join(
        f"    {f.name} : {'{' + ', '.join(f.choices) + '}' if f.kind == 'choice' else type(f.default).__name__}, "
        f"default {f.default!r}\n        {f.en[:1].upper()}{f.en[1:]}.\n"
        for f in FIELDS.values()
    )
    + "    "
)


def check_plan(plan: Plan, *, where: str = "plan") -> None:
    """Refuse values that no model or machine could make sense of.

    Raises
    ------
    PlanError
        A value of a wrong type or out of range, an unknown choice, a batch that does not divide, or contradicting
        options.
    """
    for name, field in FIELDS.items():
        field.check(getattr(plan, name), where=where)
    if plan.schedule == "dualpipe" and plan.pp > 1 and plan.pp % 2:
        raise PlanError(f"dualpipe on {plan.pp} stages", where=where, expected="an even number of stages")
    if plan.gbs % (plan.mbs * plan.dp):
        near = max(1, round(plan.gbs / (plan.mbs * plan.dp))) * plan.mbs * plan.dp
        raise PlanError(
            f"the global batch {plan.gbs} does not divide into micro-batches of {plan.mbs} on {plan.dp} ranks",
            where=where,
            expected=f"a multiple of mbs * dp = {plan.mbs * plan.dp}",
            hint=f"the nearest global batch is {near}",
        )
    if plan.seq % plan.cp:
        raise PlanError(f"sequence length {plan.seq} does not divide by cp = {plan.cp}", where=where)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Plans(PlanFields[IntColumn, FloatColumn, BoolColumn, IntColumn, IntColumn, StrColumn]):
    """Many plans as columns of equal length; choices are indices into the tuples of this module."""

    def __post_init__(self) -> None:
        for name in FIELDS:
            # a column left out would be the default of one plan
            assert isinstance(getattr(self, name), np.ndarray), f"the column {name} is missing"

    def __len__(self) -> int:
        return len(self.tp)

    @classmethod
    def of(cls, plans: Sequence[Plan]) -> Plans:
        """Columns of a sequence of plans."""
        return cls(**{n: f.column([getattr(p, n) for p in plans]) for n, f in FIELDS.items()})

    @classmethod
    def repeat(cls, plan: Plan, length: int, columns: dict[str, npt.NDArray[Any]]) -> Plans:
        """``length`` copies of a plan, but for the columns given (as codes where a field is a choice or names)."""
        return cls(
            **{
                n: f.cast(columns[n]) if n in columns else f.filled(getattr(plan, n), length)
                for n, f in FIELDS.items()
            }
        )

    @classmethod
    def concatenate(cls, tables: Sequence[Plans]) -> Plans:
        """The plans of several tables, one after another."""
        return cls(**{n: np.concatenate([getattr(t, n) for t in tables]) for n in FIELDS})

    def take(self, index: npt.NDArray[Any]) -> Plans:
        """The plans at ``index`` (integers or a boolean mask)."""
        return Plans(**{n: getattr(self, n)[index] for n in FIELDS})

    def plan(self, i: int) -> Plan:
        """Plan ``i`` as an object."""
        return Plan(**{n: f.value(getattr(self, n)[i]) for n, f in FIELDS.items()})

    @property
    def num_devices(self) -> IntColumn:
        """Devices of each plan."""
        return self.tp * self.cp * self.pp * self.dp

    @property
    def num_microbatches(self) -> IntColumn:
        """Micro-batches per step and data-parallel rank."""
        return self.gbs // (self.mbs * self.dp)

    def recomputes(self, module: str) -> BoolColumn:
        """Whether selective recompute names ``module`` (without any name it means the attention core)."""
        selective = self.recompute == RECOMPUTES.index("selective")
        mask = np.where(selective & (self.recompute_modules == 0), 1, self.recompute_modules)
        named: BoolColumn = selective & ((mask >> MODULES.index(module) & 1) == 1)
        return named


__all__ = ["CHOICES", "FIELDS", "LARGEST", "MODULES", "SIZE_RANGE", "Plan", "Plans", "check_plan"]

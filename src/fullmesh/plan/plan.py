"""One plan for people, a table of plans for the cost models. Both have the same fields."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from fullmesh.errors import PlanError, did_you_mean
from fullmesh.plan.precision import RECIPES

IntColumn = npt.NDArray[np.int64]
FloatColumn = npt.NDArray[np.float64]
BoolColumn = npt.NDArray[np.bool_]

SCHEDULES = ("1f1b", "gpipe", "zero-bubble", "dualpipe")
RECOMPUTES = ("none", "selective", "full")
CUDA_GRAPHS = ("none", "partial", "full")
DISPATCHERS = ("alltoall", "deepep", "hybridep", "allgather")
CP_KINDS = ("ring", "ulysses")
TRAINABLES = ("all", "lora")
PRECISIONS = tuple(RECIPES)

# What `selective` may name; a plan's `recompute_modules` is a bit mask over these.
MODULES = ("core_attn", "mlp", "moe", "moe_act", "layernorm", "mla_up_proj")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """One parallel plan.

    Parameters
    ----------
    tp, cp, pp, dp, ep, etp : int
        Tensor, context, pipeline, data, expert and expert-tensor parallel degrees; ``tp * cp * pp * dp`` devices.
    vpp : int
        Model chunks per pipeline rank (virtual stages).
    mbs, gbs, seq : int
        Micro-batch and global batch in sequences, sequence length in tokens.
    sequence_parallel : bool
        Norms and residuals are split over the tensor-parallel group.
    cp_kind : {"ring", "ulysses"}
    zero : int
        0 replicated, 1 optimizer states sharded, 2 gradients too, 3 parameters too (FSDP).
    shard : int
        Devices over which ZeRO shards; 0 means all data-parallel ranks (smaller: HSDP).
    recompute : {"none", "selective", "full"}
    recompute_fraction : float
        Share of the layers that recompute.
    recompute_modules : tuple of str
        What ``selective`` recomputes, of ``MODULES``.
    offload_optimizer, offload_activations : float
        Share kept in host memory.
    schedule : {"1f1b", "gpipe", "zero-bubble", "dualpipe"}
        ``1f1b`` with ``vpp > 1`` is the interleaved schedule.
    layout : str
        Layers of every chunk in the notation of Megatron's pipeline layout (``Et*4|(t*4|)*14tmL``), or empty.
    tp_overlap, grad_overlap, param_overlap, p2p_overlap, ep_overlap : bool
        Communication hidden behind computation: tensor-parallel, gradient reduction, parameter gather,
        pipeline sends, expert dispatch and combine.
    cuda_graph : {"none", "partial", "full"}
    grouped_experts : bool
        One grouped product over all local experts; otherwise the experts run one after another.
    dispatcher : {"alltoall", "deepep", "hybridep", "allgather"}
    precision : str
        A key of ``RECIPES``.
    fp8_params : bool
        Parameters are gathered in FP8.
    grad_bytes : int
        Bytes an element takes in the gradient reduction.
    trainable : {"all", "lora"}
    flash_attention : bool
        Scores are never written to memory.
    compiled : bool
        Element-wise work is fused (a graph compiler, or hand-fused kernels throughout).
    stack : str
        Software stack and generation (``nemo-26.04``); the key of the fitted effects of releases.
    """

    tp: int = 1
    cp: int = 1
    pp: int = 1
    vpp: int = 1
    dp: int = 1
    ep: int = 1
    etp: int = 1
    mbs: int = 1
    gbs: int = 1
    seq: int = 4096
    sequence_parallel: bool = True
    cp_kind: str = "ring"
    zero: int = 1
    shard: int = 0
    recompute: str = "none"
    recompute_fraction: float = 1.0
    recompute_modules: tuple[str, ...] = ()
    offload_optimizer: float = 0.0
    offload_activations: float = 0.0
    schedule: str = "1f1b"
    layout: str = ""
    tp_overlap: bool = True
    grad_overlap: bool = True
    param_overlap: bool = True
    p2p_overlap: bool = True
    ep_overlap: bool = False
    cuda_graph: str = "none"
    grouped_experts: bool = True
    dispatcher: str = "alltoall"
    precision: str = "bf16"
    fp8_params: bool = False
    grad_bytes: int = 4
    trainable: str = "all"
    flash_attention: bool = True
    compiled: bool = True
    stack: str = ""

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
        parts = [f"TP{self.tp}"]
        if self.cp > 1:
            parts.append(f"CP{self.cp}")
        if self.pp > 1:
            parts.append(f"PP{self.pp}" + (f"x{self.vpp}" if self.vpp > 1 else ""))
        if self.ep > 1:
            parts.append(f"EP{self.ep}" + (f" ETP{self.etp}" if self.etp > 1 else ""))
        parts.append(f"DP{self.dp}")
        parts.append(f"ZeRO-{self.zero}" if self.zero else "no ZeRO")
        parts.append(f"mbs {self.mbs}")
        if self.recompute != "none":
            parts.append(f"{self.recompute} recompute")
        if self.schedule != "1f1b":
            parts.append(self.schedule)
        return " ".join(parts)


CHOICES: dict[str, tuple[str, ...]] = {
    "schedule": SCHEDULES,
    "recompute": RECOMPUTES,
    "cuda_graph": CUDA_GRAPHS,
    "dispatcher": DISPATCHERS,
    "cp_kind": CP_KINDS,
    "precision": PRECISIONS,
    "trainable": TRAINABLES,
}
_POSITIVE = ("tp", "cp", "pp", "vpp", "dp", "ep", "etp", "mbs", "gbs", "seq")
_TEXT = ("layout", "stack")
# batch, sequence and degrees up to here: their products are still exact in the columns
LARGEST = 1_000_000_000
SIZE_RANGE = f"from 1 to {LARGEST:,}"


def check_plan(plan: Plan, *, where: str = "plan") -> None:
    """Refuse values that no model or machine could make sense of.

    Raises
    ------
    PlanError
        A degree below one, an unknown choice, a batch that does not divide, or contradicting options.
    """
    for name in _POSITIVE:
        value = getattr(plan, name)
        if not 1 <= value <= LARGEST:
            raise PlanError(f"{name} = {value}", where=where, expected=f"a whole number {SIZE_RANGE}")
    for name, choices in CHOICES.items():
        value = getattr(plan, name)
        if value not in choices:
            raise PlanError(
                f"{name} = {value!r} is unknown", where=where, hint=did_you_mean(str(value), list(choices))
            )
    for module in plan.recompute_modules:
        if module not in MODULES:
            raise PlanError(
                f"recompute module {module!r} is unknown",
                where=where,
                hint=did_you_mean(module, list(MODULES)),
            )
    if plan.shard < 0:
        raise PlanError(
            f"shard = {plan.shard}", where=where, expected="0 for all ranks, or a number of ranks"
        )
    if plan.grad_bytes not in (2, 4):
        raise PlanError(f"grad_bytes = {plan.grad_bytes}", where=where, expected="2 (BF16) or 4 (FP32)")
    if plan.schedule == "dualpipe" and plan.pp > 1 and plan.pp % 2:
        raise PlanError(f"dualpipe on {plan.pp} stages", where=where, expected="an even number of stages")
    if plan.zero not in (0, 1, 2, 3):
        raise PlanError(f"zero = {plan.zero}", where=where, expected="0, 1, 2 or 3")
    if plan.gbs % (plan.mbs * plan.dp):
        near = max(1, round(plan.gbs / (plan.mbs * plan.dp))) * plan.mbs * plan.dp
        raise PlanError(
            f"the global batch {plan.gbs} does not divide into micro-batches of {plan.mbs} on {plan.dp} ranks",
            where=where,
            expected=f"a multiple of mbs * dp = {plan.mbs * plan.dp}",
            hint=f"the nearest global batch is {near}",
        )
    for name in ("recompute_fraction", "offload_optimizer", "offload_activations"):
        value = getattr(plan, name)
        if not 0.0 <= value <= 1.0:
            raise PlanError(f"{name} = {value}", where=where, expected="a share between 0 and 1")
    if plan.seq % plan.cp:
        raise PlanError(f"sequence length {plan.seq} does not divide by cp = {plan.cp}", where=where)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Plans:
    """Many plans as columns of equal length; choices are indices into the tuples of this module."""

    tp: IntColumn
    cp: IntColumn
    pp: IntColumn
    vpp: IntColumn
    dp: IntColumn
    ep: IntColumn
    etp: IntColumn
    mbs: IntColumn
    gbs: IntColumn
    seq: IntColumn
    sequence_parallel: BoolColumn
    cp_kind: IntColumn
    zero: IntColumn
    shard: IntColumn
    recompute: IntColumn
    recompute_fraction: FloatColumn
    recompute_modules: IntColumn
    offload_optimizer: FloatColumn
    offload_activations: FloatColumn
    schedule: IntColumn
    layout: npt.NDArray[np.str_]
    tp_overlap: BoolColumn
    grad_overlap: BoolColumn
    param_overlap: BoolColumn
    p2p_overlap: BoolColumn
    ep_overlap: BoolColumn
    cuda_graph: IntColumn
    grouped_experts: BoolColumn
    dispatcher: IntColumn
    precision: IntColumn
    fp8_params: BoolColumn
    grad_bytes: IntColumn
    trainable: IntColumn
    flash_attention: BoolColumn
    compiled: BoolColumn
    stack: npt.NDArray[np.str_]

    def __len__(self) -> int:
        return len(self.tp)

    @classmethod
    def of(cls, plans: Sequence[Plan]) -> Plans:
        """Columns of a sequence of plans."""
        columns: dict[str, Any] = {}
        for field in dataclasses.fields(Plan):
            name = field.name
            values: Iterable[Any] = (getattr(p, name) for p in plans)
            if name in CHOICES:
                index = {c: i for i, c in enumerate(CHOICES[name])}
                columns[name] = np.array([index[v] for v in values], dtype=np.int64)
            elif name == "recompute_modules":
                columns[name] = np.array(
                    [sum(1 << MODULES.index(m) for m in set(v)) for v in values], dtype=np.int64
                )
            elif name in _TEXT:
                columns[name] = np.array(list(values), dtype=np.str_)
            else:
                kind = {bool: np.bool_, int: np.int64, float: np.float64}[type(field.default)]
                columns[name] = np.array(list(values), dtype=kind)
        return cls(**columns)

    def take(self, index: npt.NDArray[Any]) -> Plans:
        """The plans at ``index`` (integers or a boolean mask)."""
        return Plans(**{f.name: getattr(self, f.name)[index] for f in dataclasses.fields(self)})

    def plan(self, i: int) -> Plan:
        """Plan ``i`` as an object."""
        values: dict[str, Any] = {}
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)[i]
            if field.name in CHOICES:
                values[field.name] = CHOICES[field.name][int(value)]
            elif field.name == "recompute_modules":
                values[field.name] = tuple(m for b, m in enumerate(MODULES) if int(value) >> b & 1)
            else:
                values[field.name] = value.item() if hasattr(value, "item") else str(value)
        return Plan(**values)

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

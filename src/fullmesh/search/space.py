"""All plans worth asking about, as columns: outer products of the axes, cut by rules before anything is priced."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from fullmesh.machine import Machine
from fullmesh.plan import RECOMPUTES, Plan, Plans
from fullmesh.plan.feasible import rules
from fullmesh.plan.plan import CP_KINDS, FIELDS, MODULES
from fullmesh.plan.shard import reduction_groups
from fullmesh.plan.software import Software
from fullmesh.workload import ModelSpec, MoE
from fullmesh.workload.parameters import parameter_counts

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

# Sequences below this are not split over context-parallel ranks.
LONG_SEQUENCE = 16384
# BF16 weight and gradient, FP32 master weight and two moments, of one parameter.
STATE_BYTES = 2.0 + 2.0 + Plan().optimizer_bytes
MAX_TP = 16
MAX_CP = 32


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What is asked: a model on a machine, with a batch.

    Parameters
    ----------
    model : ModelSpec
    machine : Machine
    gbs, seq : int
        Global batch in sequences, and their length in tokens.
    precision : str
        A recipe that the chip supports.
    num_devices : tuple of int
        Numbers of devices that a plan may use.
    software : Software
    offload : bool
        Consider keeping optimizer states in host memory.
    objective : {"time", "energy", "money"}
    substituted : str
        Which precision was asked for and replaced, empty where none was.
    batch_note : str
        How the batch was chosen, in words.
    """

    model: ModelSpec
    machine: Machine
    gbs: int
    seq: int
    precision: str
    num_devices: tuple[int, ...]
    software: Software
    offload: bool = False
    objective: str = "time"
    substituted: str = ""
    batch_note: str = ""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Candidates:
    """Plans that break no rule, and how many were dropped by which rule.

    ``batch_allows_dp`` says whether the batch lets any layout have more than one data-parallel rank.
    """

    plans: Plans
    num_enumerated: int
    rejected: dict[str, int]
    batch_allows_dp: bool


class _Grid:
    """Columns of equal length that grow by outer products."""

    def __init__(self) -> None:
        self.columns: dict[str, Ints] = {}

    def cross(self, name: str, values: Sequence[int]) -> None:
        """Repeat every row once for each value."""
        length = len(next(iter(self.columns.values()))) if self.columns else 1
        self.columns = {key: np.repeat(column, len(values)) for key, column in self.columns.items()}
        self.columns[name] = np.tile(np.array(values, dtype=np.int64), length)

    def keep(self, mask: Bools) -> None:
        self.columns = {key: column[mask] for key, column in self.columns.items()}

    def __getitem__(self, name: str) -> Ints:
        return self.columns[name]


def _powers(limit: int) -> list[int]:
    return [1 << k for k in range(max(1, limit).bit_length())]


def _divisors(n: int, limit: int) -> list[int]:
    return [d for d in range(1, min(n, limit) + 1) if n % d == 0]


def max_tp(machine: Machine) -> int:
    """The largest tensor-parallel degree considered: inside the scale-up domain, and at most 16."""
    return max(1, min(MAX_TP, machine.scale_up_devices))


def candidates(q: Question) -> Candidates:
    """Enumerate, and cut by the rules of :mod:`fullmesh.plan.feasible` and a lower bound of memory.

    Returns
    -------
    Candidates
        Plans that break no rule. Each dropped one is counted under the first rule that it breaks, or under
        ``memory`` where its states alone exceed the capacity.
    """
    plans = _enumerate(q)
    total = len(plans)
    rejected: dict[str, int] = {}
    alive = np.ones(total, dtype=bool)
    batch_allows_dp = True
    for name, broken, *_ in rules(q.model, q.machine, plans):
        if name == "batch":
            batch_allows_dp = bool((~broken & (plans.dp > 1)).any())
        new = alive & broken
        if new.any():
            rejected[name] = rejected.get(name, 0) + int(new.sum())
        alive &= ~broken
    plans = plans.take(alive)
    too_big = state_bytes(q.model, plans) > q.machine.chip.hbm_bytes
    if too_big.any() and not too_big.all():
        rejected["memory"] = int(too_big.sum())
        plans = plans.take(~too_big)
    elif too_big.all() and len(plans):
        # keep the nearest ones, so that the answer can say how far they are from fitting
        order = np.argsort(state_bytes(q.model, plans), kind="stable")[:256]
        rejected["memory"] = len(plans) - len(order)
        plans = plans.take(np.sort(order))
    return Candidates(plans=plans, num_enumerated=total, rejected=rejected, batch_allows_dp=batch_allows_dp)


def state_bytes(model: ModelSpec, p: Plans) -> npt.NDArray[np.float64]:
    """Weights, gradients and optimizer states of a mean stage, a lower bound of what the fullest one holds."""
    counts = parameter_counts(model)
    experts = float(sum(layer.expert for layer in counts.layers))
    dense = float(counts.total) - experts
    groups = reduction_groups(p)
    on_rank, experts_on_rank = dense / (p.tp * p.pp), experts / (p.ep * p.etp * p.pp)
    owned = on_rank / groups.shard + experts_on_rank / groups.expert_shard
    whole = on_rank + experts_on_rank
    held = np.where(p.zero == 3, (2.0 + 2.0) * owned, (2.0 + p.grad_bytes) * whole)
    states: npt.NDArray[np.float64] = held + p.optimizer_bytes * (1.0 - p.offload_optimizer) * owned
    return states


def devices_for_states(model: ModelSpec, capacity_bytes: float) -> int:
    """Devices that weights, gradients and optimizer states alone fill, sharded over all of them."""
    return math.ceil(STATE_BYTES * parameter_counts(model).total / capacity_bytes)


def _enumerate(q: Question) -> Plans:
    model, machine = q.model, q.machine
    experts = [layer.ffn.num_experts for layer in model.layers if isinstance(layer.ffn, MoE)]
    grid = _Grid()
    grid.cross("n", q.num_devices)
    grid.cross("tp", _powers(max_tp(machine)))
    grid.cross("cp", _powers(min(MAX_CP, q.seq // 4096)) if q.seq >= LONG_SEQUENCE else [1])
    grid.cross("cp_kind", range(len(CP_KINDS)) if q.seq >= LONG_SEQUENCE else [0])
    grid.keep((grid["cp_kind"] == 0) | (grid["cp"] > 1))
    stages = sorted({d for n in q.num_devices for d in _divisors(n, model.num_layers)})
    grid.cross("pp", stages)
    inner = grid["tp"] * grid["cp"] * grid["pp"]
    grid.keep(grid["n"] % inner == 0)
    grid.columns["dp"] = grid["n"] // (grid["tp"] * grid["cp"] * grid["pp"])
    grid.cross("ep", [e for e in _powers(min(experts)) if min(experts) % e == 0] if experts else [1])
    grid.columns["etp"] = np.ones_like(grid["tp"])
    grid.cross("mbs", [1, 2, 4])
    grid.keep(grid["mbs"] <= np.maximum(q.gbs // grid["dp"], 1))
    grid.cross("vpp", [1, 2, 4, 8])
    grid.keep((grid["vpp"] == 1) | ((grid["pp"] > 1) & (grid["pp"] * grid["vpp"] <= model.num_layers + 2)))
    grid.cross("recompute", range(len(RECOMPUTES)))
    grid.cross("percent", [50, 100])
    grid.keep((grid["percent"] == 100) | (grid["recompute"] == RECOMPUTES.index("full")))
    grid.cross("zero", [1, 3])
    grid.keep((grid["zero"] == 1) | (grid["pp"] == 1))
    grid.cross("ep_overlap", [0, 1] if experts else [0])
    # hiding expert traffic takes a second micro-batch, a second chunk where there is a pipeline, and no full recompute
    hides = (grid["ep"] > 1) & (grid["recompute"] != RECOMPUTES.index("full"))
    hides &= (grid["pp"] == 1) | (grid["vpp"] > 1)
    grid.keep((grid["ep_overlap"] == 0) | hides)
    if q.offload:
        grid.cross("offload", [0, 1])
    return _as_plans(q, grid)


def selective_modules(model: ModelSpec) -> tuple[str, ...]:
    """What selective recompute drops first: much memory for little time, as the published recipes do."""
    named = dict.fromkeys(
        m for layer in model.kinds for part in layer.parts for m in part.selective_modules()
    )
    if model.is_moe:
        # the few dense layers of a mixture of experts are left alone
        named.pop("mlp", None)
    return ("layernorm", *named)


def _as_plans(q: Question, grid: _Grid) -> Plans:
    base = Plan(
        gbs=q.gbs, seq=q.seq, precision=q.precision, stack=q.software.stack,
        **q.software.options_for(moe=q.model.is_moe),
    )  # fmt: skip
    mask = sum(1 << MODULES.index(m) for m in selective_modules(q.model))
    columns: dict[str, np.ndarray[Any, Any]] = {n: c for n, c in grid.columns.items() if n in FIELDS}
    columns["recompute_modules"] = np.where(grid["recompute"] == RECOMPUTES.index("selective"), mask, 0)
    columns["recompute_fraction"] = grid["percent"] / 100.0
    if "offload" in grid.columns:
        columns["offload_optimizer"] = grid["offload"]
    return Plans.repeat(base, len(grid["tp"]), columns)

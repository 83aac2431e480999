"""Which plans a model and a machine allow. Infeasible is a result with its reason, not a crash."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from fullmesh.machine import Machine
from fullmesh.plan.plan import CP_KINDS, Plans
from fullmesh.workload import ModelSpec, MoE


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """A limit that a plan breaks.

    ``needed`` and ``available`` are in ``unit``; ``levers`` would make the plan fit.
    """

    name: str
    needed: float
    available: float
    unit: str
    where: str
    levers: tuple[str, ...]

    @property
    def gap(self) -> float:
        """By how much the limit is broken."""
        return self.needed - self.available


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Violations:
    """First broken limit of every plan (None where there is none)."""

    limits: tuple[Limit | None, ...]

    @property
    def ok(self) -> npt.NDArray[np.bool_]:
        """Plans that break no limit, shape ``(num_plans,)``."""
        return np.array([limit is None for limit in self.limits], dtype=bool)


class Broken(NamedTuple):
    """What a rule says of plans; the columns have shape ``(num_plans,)``."""

    name: str
    broken: npt.NDArray[np.bool_]
    needed: npt.NDArray[np.int64]
    available: npt.NDArray[np.int64]
    where: str
    levers: tuple[str, ...]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Sizes:
    """What rules read of a model and a machine; 0 heads or experts where no layer has any."""

    devices: int
    layers: int
    heads: int
    widths: npt.NDArray[np.int64]
    experts: int


class _Rule(NamedTuple):
    """A rule: when it is broken, which columns of a plan ask for how much, and how much there is."""

    name: str
    where: str
    levers: tuple[str, ...]
    broken: Callable[[_Sizes, Plans], npt.NDArray[np.bool_]]
    needed: Callable[[_Sizes, Plans], npt.NDArray[np.int64]]
    available: Callable[[_Sizes, Plans], npt.NDArray[np.int64] | int]
    holds_for: Callable[[_Sizes], bool] = lambda _: True


def _head_parts(p: Plans) -> npt.NDArray[np.int64]:
    """Parts that attention heads are split into."""
    return np.where((p.cp_kind == CP_KINDS.index("ulysses")) & (p.cp > 1), p.tp * p.cp, p.tp)


def _sequence_parts(p: Plans) -> npt.NDArray[np.int64]:
    """Parts of a sequence: two a context-parallel rank for balance, and the ranks of sequence parallelism."""
    return np.where(p.cp > 1, 2 * p.cp, 1) * np.where(p.sequence_parallel, p.tp, 1)


def _first_odd_width(sizes: _Sizes, p: Plans) -> npt.NDArray[np.int64]:
    """The smallest feed-forward width that tensor parallelism does not divide; the smallest of all if it does."""
    first = np.argmax(sizes.widths[:, None] % p.tp != 0, axis=0)
    return np.asarray(sizes.widths[first], dtype=np.int64)


_RULES = (
    _Rule(
        "devices", "{machine}", ("lower a degree", "a larger machine"),
        lambda s, p: p.num_devices > s.devices,
        lambda s, p: p.num_devices,
        lambda s, p: s.devices,
    ),
    _Rule(
        "batch", "global batch against mbs * dp", ("another micro-batch", "another dp"),
        lambda s, p: p.gbs % (p.mbs * p.dp) != 0,
        lambda s, p: p.gbs,
        lambda s, p: (p.gbs // (p.mbs * p.dp)) * p.mbs * p.dp,
    ),
    _Rule(
        "sequence", "tokens of a sequence over its parts", ("lower cp or tp", "a sequence length that divides"),
        lambda s, p: p.seq % _sequence_parts(p) != 0,
        lambda s, p: p.seq,
        lambda s, p: _sequence_parts(p),
    ),
    _Rule(
        "layers", "pipeline chunks against layers", ("lower pp or vpp",),
        lambda s, p: p.pp * p.vpp > s.layers + 2,
        lambda s, p: p.pp * p.vpp,
        lambda s, p: s.layers,
    ),
    _Rule(
        "interleaving", "micro-batches must be a multiple of pp", ("vpp = 1", "another micro-batch"),
        lambda s, p: (p.vpp > 1) & ((p.pp == 1) | (p.num_microbatches % np.maximum(p.pp, 1) != 0)),
        lambda s, p: p.pp,
        lambda s, p: p.num_microbatches,
    ),
    _Rule(
        "sharding", "ZeRO-2 and -3 with a pipeline", ("zero = 1",),
        lambda s, p: (p.zero >= 2) & (p.pp > 1),
        lambda s, p: p.zero,
        lambda s, p: 1,
    ),
    _Rule(
        "heads", "attention heads per tensor-parallel rank", ("lower tp",),
        lambda s, p: (_head_parts(p) > s.heads) | (s.heads % np.maximum(_head_parts(p), 1) != 0),
        lambda s, p: _head_parts(p),
        lambda s, p: s.heads,
        lambda s: s.heads > 0,
    ),
    _Rule(
        "width", "feed-forward width over tp", ("a tp that divides it",),
        lambda s, p: (s.widths[:, None] % p.tp != 0).any(axis=0),
        lambda s, p: p.tp,
        _first_odd_width,
        lambda s: s.widths.size > 0,
    ),
    _Rule(
        "experts", "experts over ep", ("lower ep",),
        lambda s, p: (s.experts % p.ep != 0) | (p.ep > s.experts),
        lambda s, p: p.ep,
        lambda s, p: s.experts,
        lambda s: s.experts > 0,
    ),
    _Rule(
        "expert ranks", "ep * etp over the ranks of a stage", ("lower ep or etp", "fewer pipeline stages"),
        lambda s, p: (p.tp * p.cp * p.dp) % (p.ep * p.etp) != 0,
        lambda s, p: p.ep * p.etp,
        lambda s, p: p.tp * p.cp * p.dp,
        lambda s: s.experts > 0,
    ),
    _Rule(
        "experts", "the model has no experts", ("ep = 1",),
        lambda s, p: p.ep > 1,
        lambda s, p: p.ep,
        lambda s, p: 1,
        lambda s: s.experts == 0,
    ),
)  # fmt: skip


def rules(model: ModelSpec, machine: Machine, p: Plans) -> list[Broken]:
    """Every rule that the model and the machine have a say in, in the order in which they are told."""
    experts = [layer.ffn.num_experts for layer in model.layers if isinstance(layer.ffn, MoE)]
    sizes = _Sizes(
        devices=machine.num_devices,
        layers=model.num_layers,
        heads=_smallest_head_count(model),
        widths=np.array(_widths(model), dtype=np.int64),
        experts=min(experts, default=0),
    )
    return [
        Broken(
            rule.name,
            rule.broken(sizes, p),
            rule.needed(sizes, p),
            np.broadcast_to(rule.available(sizes, p), len(p)),
            rule.where.format(machine=machine.name),
            rule.levers,
        )
        for rule in _RULES
        if rule.holds_for(sizes)
    ]


def violations(model: ModelSpec, machine: Machine, plans: Plans) -> Violations:
    """First broken limit of every plan, memory apart."""
    limits: list[Limit | None] = [None] * len(plans)
    for name, broken, needed, available, where, levers in rules(model, machine, plans):
        for i in np.flatnonzero(broken):
            if limits[i] is None:
                limits[i] = Limit(
                    name=name,
                    needed=float(needed[i]),
                    available=float(available[i]),
                    unit="",
                    where=where,
                    levers=levers,
                )
    return Violations(limits=tuple(limits))


def _smallest_head_count(model: ModelSpec) -> int:
    counts = [layer.mixer.tensor_heads for layer in model.kinds if layer.mixer is not None]
    return min((c for c in counts if c), default=0)


def _widths(model: ModelSpec) -> list[int]:
    return sorted(
        {width for layer in model.kinds if layer.ffn is not None for width in layer.ffn.tensor_widths}
    )

"""Which plans a model and a machine allow. Infeasible is a result with its reason, not a crash."""

from __future__ import annotations

import dataclasses

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


_Rule = tuple[
    str, npt.NDArray[np.bool_], npt.NDArray[np.generic], npt.NDArray[np.generic], str, tuple[str, ...]
]


def rules(model: ModelSpec, machine: Machine, p: Plans) -> list[_Rule]:
    """Every rule as (name, broken, needed, available, where, levers); the columns have shape ``(num_plans,)``."""
    n = len(p)
    one = np.ones(n, dtype=np.int64)
    heads = _smallest_head_count(model)
    widths = _widths(model)
    ulysses = (p.cp_kind == CP_KINDS.index("ulysses")) & (p.cp > 1)
    out: list[_Rule] = [
        (
            "devices",
            p.num_devices > machine.num_devices,
            p.num_devices,
            one * machine.num_devices,
            machine.name,
            ("lower a degree", "a larger machine"),
        ),
        (
            "batch",
            p.gbs % (p.mbs * p.dp) != 0,
            p.gbs,
            (p.gbs // (p.mbs * p.dp)) * p.mbs * p.dp,
            "global batch against mbs * dp",
            ("another micro-batch", "another dp"),
        ),
        (
            "sequence",
            p.seq % _sequence_parts(p) != 0,
            p.seq,
            _sequence_parts(p),
            "tokens of a sequence over its parts",
            ("lower cp or tp", "a sequence length that divides"),
        ),
        (
            "layers",
            p.pp * p.vpp > model.num_layers + 2,
            p.pp * p.vpp,
            one * model.num_layers,
            "pipeline chunks against layers",
            ("lower pp or vpp",),
        ),
        (
            "interleaving",
            (p.vpp > 1) & ((p.pp == 1) | (p.num_microbatches % np.maximum(p.pp, 1) != 0)),
            p.pp,
            p.num_microbatches,
            "micro-batches must be a multiple of pp",
            ("vpp = 1", "another micro-batch"),
        ),
        ("sharding", (p.zero >= 2) & (p.pp > 1), p.zero, one, "ZeRO-2 and -3 with a pipeline", ("zero = 1",)),
    ]
    if heads:
        split = np.where(ulysses, p.tp * p.cp, p.tp)
        out.append(
            (
                "heads",
                (split > heads) | (heads % np.maximum(split, 1) != 0),
                split,
                one * heads,
                "attention heads per tensor-parallel rank",
                ("lower tp",),
            )
        )
    for width in widths:
        out.append(
            (
                "width",
                width % p.tp != 0,
                p.tp,
                one * width,
                "feed-forward width over tp",
                ("a tp that divides it",),
            )
        )
    experts = [layer.ffn.num_experts for layer in model.layers if isinstance(layer.ffn, MoE)]
    if experts:
        num = min(experts)
        inner = p.tp * p.cp * p.dp
        out += [
            ("experts", (num % p.ep != 0) | (p.ep > num), p.ep, one * num, "experts over ep", ("lower ep",)),
            (
                "expert ranks",
                inner % (p.ep * p.etp) != 0,
                p.ep * p.etp,
                inner,
                "ep * etp over the ranks of a stage",
                ("lower ep or etp", "fewer pipeline stages"),
            ),
        ]
    else:
        out.append(("experts", p.ep > 1, p.ep, one, "the model has no experts", ("ep = 1",)))
    return out


def _sequence_parts(p: Plans) -> npt.NDArray[np.int64]:
    """Parts of a sequence: two a context-parallel rank for balance, and the ranks of sequence parallelism."""
    return np.where(p.cp > 1, 2 * p.cp, 1) * np.where(p.sequence_parallel, p.tp, 1)


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


def allowed(model: ModelSpec, machine: Machine, plans: Plans) -> npt.NDArray[np.bool_]:
    """Plans that break no rule, without naming the reasons."""
    ok = np.ones(len(plans), dtype=bool)
    for _, broken, *_rest in rules(model, machine, plans):
        ok &= ~broken
    return ok


def _smallest_head_count(model: ModelSpec) -> int:
    counts = [layer.mixer.tensor_heads for layer in model.kinds if layer.mixer is not None]
    return min((c for c in counts if c), default=0)


def _widths(model: ModelSpec) -> list[int]:
    return sorted(
        {width for layer in model.kinds if layer.ffn is not None for width in layer.ffn.tensor_widths}
    )

"""The space of plans: the values of every axis, the layouts that they span, and the options that each layout has.

A *frame* is what decides the shapes and the place of a stage's work: devices, degrees, micro-batch, virtual stages and
dispatcher. An *option* is what a frame leaves open: schedule, ZeRO with its shards, overlap, recompute. A plan is a
frame with an option, known by one number, so that millions of plans need no columns. The rules of
:mod:`fullmesh.plan.feasible` speak of frames alone.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from fullmesh.errors import PlanError
from fullmesh.machine import Machine
from fullmesh.outcomes.support import key_of, load_tried
from fullmesh.plan import RECOMPUTES, Plan, Plans
from fullmesh.plan.feasible import rules
from fullmesh.plan.plan import CHOICES, CP_KINDS, DISPATCHERS, FIELDS, MODULES, SCHEDULES
from fullmesh.plan.software import Software
from fullmesh.workload import ModelSpec, MoE
from fullmesh.workload.ops import Module
from fullmesh.workload.parameters import parameter_counts

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
Drops = tuple[Module, ...]

# BF16 weight and gradient, FP32 master weight and two moments, of one parameter.
STATE_BYTES = 2.0 + 2.0 + Plan().optimizer_bytes
MAX_TP = 16
MAX_CP = 32
# Sequences below this are split over context-parallel ranks in the wide space alone.
LONG_SEQUENCE = 16384
# Tokens of a sequence that a context-parallel rank keeps at least.
LEAST_TOKENS = 1024
# Larger micro-batches are tried where a published run of such a model on such cores has them.
MAX_MICRO_BATCH = 16
COMMON_MICRO_BATCHES = (1, 2, 4)
COMMON_CHUNKS = (1, 2, 4, 8)
MAX_ETP = 8
# Shares of the layers that full recompute is tried for.
SHARES = tuple(k / 8 for k in range(1, 9))
COMMON_SHARES = (0.5, 1.0)
# Axes that a user may limit, in the order of a plan's fields.
LIMITED = (
    "tp", "cp", "pp", "vpp", "ep", "etp", "dp", "zero", "shard", "mbs", "recompute", "schedule", "cp_kind",
    "tp_overlap", "grad_overlap", "param_overlap", "p2p_overlap", "ep_overlap", "dispatcher",
)  # fmt: skip
_1F1B, _GPIPE, _ZERO_BUBBLE, _DUALPIPE = (
    SCHEDULES.index(s) for s in ("1f1b", "gpipe", "zero-bubble", "dualpipe")
)
_FULL, _NONE, _SELECTIVE = (RECOMPUTES.index(r) for r in ("full", "none", "selective"))
_ULYSSES = CP_KINDS.index("ulysses")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a user leaves of the space.

    Parameters
    ----------
    values : mapping of str to tuple of (int, int)
        By field of a plan, ranges of its values (of choices: of their codes); a range of one is a value that is tried
        even where the search would not try it by itself.
    memory_margin : float
        Share of the memory that a plan has to leave free.
    """

    values: Mapping[str, tuple[tuple[int, int], ...]] = dataclasses.field(default_factory=dict)
    memory_margin: float = 0.0

    def of(self, name: str, default: Sequence[int]) -> list[int]:
        """What is left of an axis, in order."""
        ranges = self.values.get(name)
        if ranges is None:
            return list(dict.fromkeys(default))
        left = {v for v in default if any(low <= v <= high for low, high in ranges)}
        return sorted(left | {low for low, high in ranges if low == high})

    def allow(self, name: str, values: Ints) -> Bools:
        """Which of these values are left, shape of ``values``."""
        ranges = self.values.get(name)
        if ranges is None:
            return np.ones(values.shape, dtype=bool)
        out: Bools = np.zeros(values.shape, dtype=bool)
        for low, high in ranges:
            out |= (values >= low) & (values <= high)
        return out


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
    limits : Limits
    wide : bool
        The whole space, not what published plans are commonly made of: every degree, micro-batch, number of chunks,
        ZeRO stage, schedule and dispatcher, every set of modules and share of layers to recompute, contexts split at
        any length, experts split by tensor, shards inside a domain.
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
    limits: Limits = dataclasses.field(default_factory=Limits)
    wide: bool = False

    @property
    def capacity_bytes(self) -> float:
        """Memory of a device that a plan may fill."""
        return self.machine.chip.hbm_bytes * (1.0 - self.limits.memory_margin)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Recompute:
    """One way to recompute: ``code`` of the choice, bit mask of the modules, share of the layers."""

    code: int
    mask: int = 0
    share: float = 1.0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Sharding:
    """One way to shard: ZeRO stage, share of the domain that the shards span (0: all ranks), states in host memory."""

    zero: int
    domains: int
    offload: bool


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What a frame leaves open; a plan's number is the frame's, then the index in each of these, the last the fastest.

    Parameters
    ----------
    schedules : tuple of int
    shardings : tuple of Sharding
    inside : tuple of (int, int)
        Whether tensor-parallel and expert traffic hide behind computation.
    recomputes : tuple of Recompute
    ends : tuple of (int, int, int)
        Whether gradients, parameters and sends hide.
    """

    schedules: tuple[int, ...]
    shardings: tuple[Sharding, ...]
    inside: tuple[tuple[int, int], ...]
    recomputes: tuple[Recompute, ...]
    ends: tuple[tuple[int, int, int], ...]

    @property
    def shape(self) -> tuple[int, int, int, int, int]:
        """How many there are of each."""
        return (
            len(self.schedules), len(self.shardings), len(self.inside), len(self.recomputes), len(self.ends)
        )  # fmt: skip

    @property
    def size(self) -> int:
        """Options in all, allowed or not."""
        return math.prod(self.shape)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Space:
    """All frames that break no rule with the options of each, and how many plans were dropped by which rule.

    Parameters
    ----------
    frames : Plans
        One row a frame; fields that options decide stand at what the software sets.
    options : Options
    schedule_ok : bool array, shape (frames, schedules)
    sharding_ok : bool array, shape (frames, shardings)
    shard : int array, shape (frames, shardings)
        Ranks that each sharding spans, 0 for all.
    num_enumerated : int
        Plans of the whole space, those that break a rule included.
    rejected : mapping of str to int
        Plans by the first rule that they break.
    batch_allows_dp : bool
        Whether the batch lets any layout have more than one data-parallel rank.
    """

    question: Question
    frames: Plans
    options: Options
    schedule_ok: Bools
    sharding_ok: Bools
    shard: Ints
    num_enumerated: int
    rejected: Mapping[str, int]
    batch_allows_dp: bool

    @property
    def num_plans(self) -> int:
        """Plans that break no rule."""
        return self.num_enumerated - sum(self.rejected.values())

    def plans(self, numbers: npt.NDArray[np.int64]) -> Plans:
        """The plans with these numbers, as columns."""
        o = self.options
        frame, option = np.divmod(numbers, o.size)
        s, z, i, r, e = np.unravel_index(option, o.shape)
        one = self.frames.take(frame)
        shardings = o.shardings
        columns: dict[str, npt.NDArray[Any]] = {
            "schedule": np.array(o.schedules)[s],
            "zero": np.array([x.zero for x in shardings])[z],
            "shard": self.shard[frame, z],
            "offload_optimizer": np.array([float(x.offload) for x in shardings])[z],
            "tp_overlap": np.array([bool(x[0]) for x in o.inside])[i],
            "ep_overlap": np.array([bool(x[1]) for x in o.inside])[i],
            "recompute": np.array([x.code for x in o.recomputes])[r],
            "recompute_modules": np.array([x.mask for x in o.recomputes])[r],
            "recompute_fraction": np.array([x.share for x in o.recomputes])[r],
            "grad_overlap": np.array([bool(x[0]) for x in o.ends])[e],
            "param_overlap": np.array([bool(x[1]) for x in o.ends])[e],
            "p2p_overlap": np.array([bool(x[2]) for x in o.ends])[e],
        }
        return dataclasses.replace(one, **{n: FIELDS[n].cast(c) for n, c in columns.items()})

    def number_of(self, plan: Plan) -> int | None:
        """The number of a plan, None where it is not in the space; fields that software sets are not looked at."""
        one = Plans.of([plan])
        p, o = self.frames, self.options
        same = np.ones(len(p), dtype=bool)
        names = ["tp", "cp", "pp", "dp", "mbs", "ep", "etp"]
        # what one rank does alone has no kind, and one stage no chunks
        names += ["cp_kind"] if plan.cp > 1 else []
        names += ["vpp"] if plan.pp > 1 else []
        names += ["dispatcher"] if plan.ep > 1 else []
        for name in names:
            same &= getattr(p, name) == getattr(one, name)[0]
        schedule = int(one.schedule[0]) if plan.pp > 1 else self.options.schedules[0]
        whole = plan.dp * plan.cp
        shard = 0 if plan.shard >= whole else plan.shard
        inside = (int(plan.tp_overlap), int(plan.ep_overlap and plan.ep > 1))
        mask = int(one.recompute_modules[0]) or 1 << MODULES.index("core_attn")
        # modules that the model does not have change nothing
        mask &= sum(1 << MODULES.index(m) for m in selective_modules(self.question.model))
        selective = plan.recompute == "selective"
        way = Recompute(
            code=_NONE if selective and not mask else int(one.recompute[0]),
            mask=mask if selective else 0,
            share=plan.recompute_fraction if plan.recompute == "full" else 1.0,
        )
        end = (int(plan.grad_overlap), int(plan.param_overlap), int(plan.p2p_overlap))
        for f in np.flatnonzero(same):
            for z, sharding in enumerate(o.shardings):
                if not self.sharding_ok[f, z] or self.shard[f, z] != shard:
                    continue
                # one rank has nothing to shard
                if sharding.zero != (plan.zero if whole > 1 else 1):
                    continue
                if sharding.offload != (plan.offload_optimizer > 0):
                    continue
                if schedule in o.schedules and inside in o.inside and way in o.recomputes and end in o.ends:
                    s, i = o.schedules.index(schedule), o.inside.index(inside)
                    r, e = o.recomputes.index(way), o.ends.index(end)
                    if self.schedule_ok[f, s]:
                        return int(f) * o.size + int(np.ravel_multi_index((s, z, i, r, e), o.shape))
        return None

    def numbers(self) -> npt.NDArray[np.int64]:
        """The numbers of all plans that break no rule: as many as the space is large."""
        o = self.options
        hidden = np.array([bool(ep) for _, ep in o.inside])
        full = np.array([r.code == _FULL for r in o.recomputes])
        # what is recomputed whole leaves nothing that expert traffic could hide behind
        hides = ~hidden[:, None] | (_can_hide(self.frames, o)[:, :, None, None] & ~full)
        ok = (self.schedule_ok[:, :, None] & self.sharding_ok[:, None, :])[..., None, None] & hides[
            :, :, None
        ]
        ok = np.repeat(ok[..., None], len(o.ends), axis=-1)
        return np.flatnonzero(ok.reshape(-1)).astype(np.int64)


def every_plan(q: Question) -> Plans:
    """All plans of a question that break no rule, as columns: for spaces that are small enough."""
    space = span(q)
    return space.plans(space.numbers())


def _powers(limit: int) -> list[int]:
    return [1 << k for k in range(max(1, limit).bit_length())]


@functools.lru_cache(maxsize=256)
def _divisors(n: int, limit: int) -> tuple[int, ...]:
    return tuple(d for d in range(1, min(n, limit) + 1) if n % d == 0)


def _of_any(numbers: Sequence[int], limit: int) -> list[int]:
    """Divisors of any of these numbers, in order."""
    return sorted({d for n in numbers for d in _divisors(n, limit)})


def max_tp(machine: Machine) -> int:
    """The largest tensor-parallel degree considered: inside the scale-up domain, and at most 16."""
    return max(1, min(MAX_TP, machine.scale_up_devices))


def devices_for_states(model: ModelSpec, capacity_bytes: float) -> int:
    """Devices that weights, gradients and optimizer states alone fill, sharded over all of them."""
    return math.ceil(STATE_BYTES * parameter_counts(model).total / capacity_bytes)


def base_plan(q: Question) -> Plan:
    """What the question and the software say of every plan."""
    return Plan(
        gbs=q.gbs, seq=q.seq, precision=q.precision, stack=q.software.stack,
        **q.software.options_for(moe=q.model.is_moe),
    )  # fmt: skip


def span(q: Question) -> Space:
    """Enumerate frames and options, and count what rules drop.

    Returns
    -------
    Space

    Raises
    ------
    PlanError
        The user's limits leave no plan.
    """
    base = base_plan(q)
    options = _options(q, base)
    columns = _frames(q, base)
    frames = Plans.repeat(base, len(columns["tp"]), columns)
    schedule_ok, sharding_ok, shard = _allowed(q, frames, options)
    hidden = sum(ep for _, ep in options.inside)
    plain = len(options.inside) - hidden
    partial = sum(r.code != _FULL for r in options.recomputes)
    ways = plain * len(options.recomputes) + hidden * partial * _can_hide(frames, options)
    each = (ways * schedule_ok).sum(axis=1) * sharding_ok.sum(axis=1) * len(options.ends)
    rejected: dict[str, int] = {}
    alive = np.ones(len(frames), dtype=bool)
    batch_allows_dp = True
    for name, broken, *_ in rules(q.model, q.machine, frames):
        if name == "batch":
            batch_allows_dp = bool((~broken & (frames.dp > 1)).any())
        number = int(each[alive & broken].sum())
        if number:
            rejected[name] = rejected.get(name, 0) + number
        alive &= ~broken
    kept = np.flatnonzero(alive & (each > 0))
    return Space(
        question=q,
        frames=Plans.repeat(base, len(kept), {name: column[kept] for name, column in columns.items()}),
        options=options,
        schedule_ok=schedule_ok[kept],
        sharding_ok=sharding_ok[kept],
        shard=shard[kept],
        num_enumerated=int(each.sum()),
        rejected=rejected,
        batch_allows_dp=batch_allows_dp,
    )


def check_limits(q: Question, space: Space) -> None:
    """Refuse limits that leave no plan, and say which one does.

    Raises
    ------
    PlanError
    """
    if len(space.frames) or not q.limits.values:
        return
    guilty = list(q.limits.values)
    for name in q.limits.values:
        alone = Limits(values={name: q.limits.values[name]})
        if not len(span(dataclasses.replace(q, limits=alone)).frames):
            guilty = [name]
            break
    given = " ".join(f"--{name.replace('_', '-')} {_spelt(name, q.limits.values[name])}" for name in guilty)
    free = span(dataclasses.replace(q, limits=Limits()))
    raise PlanError(
        f"no plan on {q.machine.num_devices:,} devices of {q.machine.name} is within {given}",
        where=f"--{guilty[0].replace('_', '-')}",
        expected=f"a limit that leaves some of the {free.num_plans:,} plans",
        hint=_left(free, guilty[0]),
    )


def _spelt(name: str, ranges: tuple[tuple[int, int], ...]) -> str:
    words = CHOICES.get(name)
    parts = []
    for low, high in ranges:
        first, last = (words[low], words[high]) if words else (str(low), str(high))
        parts.append(first if low == high else f"{first}..{last}")
    return ",".join(parts)


def _left(space: Space, name: str) -> str:
    """Which values of an axis the plans have that break no rule."""
    column = getattr(space.frames, name, None)
    if (
        column is None
        or not len(column)
        or name in ("zero", "shard", "recompute", "schedule")
        or "overlap" in name
    ):
        return "leave a limit out to see what there is"
    values = np.unique(column)[:12].tolist()
    words = CHOICES.get(name)
    return "plans that break no rule have " + ", ".join(words[v] if words else str(v) for v in values)


def selective_modules(model: ModelSpec) -> tuple[Module, ...]:
    """Modules that selective recompute may name in a model: those that some operator or saved tensor is part of."""
    found: set[Module] = set()
    for kind in model.kinds:
        for block in model.blocks(kind):
            found |= {m for op in block.operators for m in op.drops}
        for saved in model.saved(kind):
            found |= set(saved.drops)
    return tuple(m for m in MODULES if m in found)


def common_modules(model: ModelSpec) -> tuple[Module, ...]:
    """What selective recompute drops first: much memory for little time, as the published recipes do."""
    named: dict[Module, None] = dict.fromkeys(
        m for layer in model.kinds for part in layer.parts for m in part.selective_modules()
    )
    if model.is_moe:
        # the few dense layers of a mixture of experts are left alone
        named.pop("mlp", None)
    return ("layernorm", *named)


def _recomputes(q: Question, base: Plan) -> tuple[Recompute, ...]:
    """Ways to recompute that differ: of sets of modules that drop and redo the same, the one that a result has.

    A module that frees no memory in this model is tried alone and where a result has it: added to others it only costs
    time.
    """
    model = q.model
    left = q.limits.of("recompute", range(len(RECOMPUTES)))
    if not q.wide:
        mask = sum(1 << MODULES.index(m) for m in common_modules(model))
        some = [Recompute(code=_NONE), Recompute(code=_SELECTIVE, mask=mask)]
        some += [Recompute(code=_FULL, share=share) for share in COMMON_SHARES]
        return tuple(r for r in some if r.code in left)
    drops: set[Drops] = set()
    frees: set[Drops] = set()
    for kind in model.kinds:
        for block in model.blocks(kind):
            drops |= {op.drops for op in block.operators}
            drops |= {block.exchange.drops} if block.exchange is not None else set()
            drops |= {block.joined} if block.joined is not None else set()
        for saved in model.saved(kind):
            scores = saved.element.value == "scores" and base.flash_attention
            if not scores and not (saved.unfused and base.compiled):
                frees.add(saved.drops)
    drops |= frees
    out = [Recompute(code=_NONE)]
    seen: set[frozenset[Drops]] = set()
    named = selective_modules(model)
    ran = {names for tried in load_tried().values() for names in tried.modules}
    ran = {names for names in ran if set(names) <= set(named)}
    chosen: list[tuple[str, ...]] = [
        *sorted(ran),
        *(some for size in range(1, len(named) + 1) for some in itertools.combinations(named, size)),
    ]
    for i, names in enumerate(chosen):
        hit = frozenset(d for d in drops if set(d) & set(names))
        useless = any(not any(m in d for d in frees) for m in names)
        if hit not in seen and (i < len(ran) or not useless or len(names) == 1):
            seen.add(hit)
            mask = sum(1 << MODULES.index(cast(Module, m)) for m in names)
            out.append(Recompute(code=_SELECTIVE, mask=mask))
    out += [Recompute(code=_FULL, share=share) for share in SHARES]
    return tuple(r for r in out if r.code in left)


def _switch(q: Question, name: str, default: Sequence[bool]) -> list[int]:
    return q.limits.of(name, [int(value) for value in default])


def _options(q: Question, base: Plan) -> Options:
    """Every option of any frame.

    Traffic hides where the stack has it hidden: what does not hide is never faster. Expert traffic is tried both ways,
    since what hides it takes virtual stages and leaves out full recompute.
    """
    tp = _switch(q, "tp_overlap", [base.tp_overlap])
    ep = _switch(q, "ep_overlap", [False, True] if q.model.is_moe else [False])
    grad, param, send = (
        _switch(q, name, [getattr(base, name)]) for name in ("grad_overlap", "param_overlap", "p2p_overlap")
    )
    shards = [0, 1, 4] if q.wide and "shard" not in q.limits.values else [0]
    shardings = [
        Sharding(zero=zero, domains=domains, offload=bool(offload))
        for zero in q.limits.of("zero", [0, 1, 2, 3] if q.wide else [1, 3])
        for domains in (shards if zero else [0])
        for offload in ([0, 1] if q.offload else [0])
    ]
    return Options(
        schedules=tuple(q.limits.of("schedule", [_1F1B, _ZERO_BUBBLE, _DUALPIPE] if q.wide else [_1F1B])),
        shardings=tuple(shardings),
        inside=tuple(itertools.product(tp, ep)),
        recomputes=_recomputes(q, base),
        ends=tuple(itertools.product(grad, param, send)),
    )


def _can_hide(frames: Plans, options: Options) -> Bools:
    """Whether expert traffic may hide, shape (frames, schedules).

    It takes a second chunk of layers (or DualPipe's other direction) where there is a pipeline.
    """
    dual = np.array(options.schedules) == _DUALPIPE
    chunks = (frames.pp == 1) | (frames.vpp > 1)
    out: Bools = (frames.ep > 1)[:, None] & (chunks[:, None] | dual[None, :])
    return out


def _allowed(q: Question, p: Plans, options: Options) -> tuple[Bools, Bools, Ints]:
    """Which schedules and shardings each frame may have, and the ranks that a sharding spans."""
    micro = p.num_microbatches
    runs = {
        _1F1B: np.ones(len(p), dtype=bool),
        _GPIPE: (p.pp > 1) & (p.vpp == 1),
        # both published forms: one chunk a rank, or two laid out as a V
        _ZERO_BUBBLE: (p.pp > 1) & (p.vpp <= 2),
        _DUALPIPE: (p.pp > 1)
        & (p.pp % 2 == 0)
        & (p.vpp <= 2)
        & (micro >= 2 * p.pp)
        & ((p.vpp == 2) | (micro % 2 == 0)),
    }
    schedule_ok = np.stack([runs[s] for s in options.schedules], axis=1)
    size = p.dp * p.cp
    # shards that stay inside one scale-up domain, or inside four of them
    domain = np.maximum(q.machine.scale_up_devices // p.tp, 1)
    fixed = q.limits.values.get("shard")
    columns, oks = [], []
    for sharding in options.shardings:
        ok = (size > 1) if sharding.zero != 1 else np.ones(len(p), dtype=bool)
        ok = ok & ((p.pp == 1) | (sharding.zero < 2))
        shard = np.zeros(len(p), dtype=np.int64)
        if fixed is not None:
            shard = np.full(len(p), fixed[0][0])
            ok = ok & ((shard < size) & (size % np.maximum(shard, 1) == 0)) if fixed[0][0] else ok
        elif sharding.domains:
            shard = domain * sharding.domains
            ok = ok & (shard > 1) & (shard < size) & (size % shard == 0)
        columns.append(np.where(ok, shard, 0))
        oks.append(ok)
    return schedule_ok, np.stack(oks, axis=1), np.stack(columns, axis=1)


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
        """Drop rows."""
        self.columns = {key: column[mask] for key, column in self.columns.items()}

    def __getitem__(self, name: str) -> Ints:
        return self.columns[name]


def _frames(q: Question, base: Plan) -> dict[str, Ints]:
    """Every frame, those that break a rule included, as the columns that vary."""
    model, machine, limits, n = q.model, q.machine, q.limits, q.num_devices
    moe = [layer.ffn for layer in model.layers if isinstance(layer.ffn, MoE)]
    num_experts = min((e.num_experts for e in moe), default=0)
    grid = _Grid()
    grid.cross("n", n)
    grid.cross("tp", limits.of("tp", _tensor_degrees(q, base)))
    grid.cross("cp", limits.of("cp", _context_degrees(q)))
    grid.cross("pp", limits.of("pp", _of_any(n, model.num_layers)))
    inner = grid["tp"] * grid["cp"] * grid["pp"]
    grid.keep(grid["n"] % inner == 0)
    grid.columns["dp"] = grid["n"] // (grid["tp"] * grid["cp"] * grid["pp"])
    grid.keep(limits.allow("dp", grid["dp"]))
    grid.cross("cp_kind", limits.of("cp_kind", range(len(CP_KINDS))))
    # one rank exchanges nothing, and the kind says nothing
    first = int(grid["cp_kind"].min(initial=len(CP_KINDS)))
    grid.keep((grid["cp"] > 1) | (grid["cp_kind"] == first))
    tried = load_tried().get(key_of(model, machine))
    largest = max(MAX_MICRO_BATCH, tried.micro_batch if tried else 0)
    sizes = [m for m in range(1, largest + 1) if q.gbs % m == 0]
    grid.cross("mbs", limits.of("mbs", sizes if q.wide else COMMON_MICRO_BATCHES))
    grid.keep(grid["mbs"] <= np.maximum(q.gbs // grid["dp"], 1))
    chunks = _virtual_stages(model.num_layers, np.unique(grid["pp"]).tolist()) if q.wide else COMMON_CHUNKS
    grid.cross("vpp", limits.of("vpp", chunks))
    given = (
        limits.allow("vpp", grid["vpp"]) if "vpp" in limits.values else np.zeros(len(grid["vpp"]), dtype=bool)
    )
    grid.keep((grid["vpp"] == 1) | given | _chunks_make_sense(model.num_layers, grid["pp"], grid["vpp"]))
    grid.cross("ep", limits.of("ep", _divisors(num_experts, num_experts) if moe else [1]))
    widths = [e.ffn for e in moe]
    tensor = [t for t in _powers(min(MAX_ETP, max_tp(machine))) if all(w % t == 0 for w in widths)]
    grid.cross("etp", limits.of("etp", tensor if moe and q.wide else [1]))
    # experts are split as everything else or not at all, unless a user asks for it
    if "etp" not in limits.values:
        grid.keep((grid["etp"] == 1) | (grid["etp"] == grid["tp"]))
    own = DISPATCHERS.index(base.dispatcher)
    ways = sorted({own, DISPATCHERS.index("alltoall")}) if moe and q.wide else [own]
    grid.cross("dispatcher", limits.of("dispatcher", ways))
    # tokens that stay where they are take no dispatcher
    still = own if own in grid["dispatcher"] else int(grid["dispatcher"].min(initial=len(DISPATCHERS)))
    grid.keep((grid["ep"] > 1) | (grid["dispatcher"] == still))
    return {name: column for name, column in grid.columns.items() if name in FIELDS}


def _tensor_degrees(q: Question, base: Plan) -> list[int]:
    """Divisors of the devices that divide the sequence where it is split: powers of two, in the wide space any."""
    found = _of_any(q.num_devices, max_tp(q.machine))
    if not q.wide:
        return [d for d in found if d & (d - 1) == 0]
    return [d for d in found if not base.sequence_parallel or q.seq % d == 0]


def _context_degrees(q: Question) -> list[int]:
    """The same for context parallelism, which splits a sequence in two parts a rank."""
    if q.wide:
        return [
            d for d in _of_any(q.num_devices, max(1, min(MAX_CP, q.seq // LEAST_TOKENS)))
            if d == 1 or q.seq % (2 * d) == 0
        ]  # fmt: skip
    return _powers(min(MAX_CP, q.seq // 4096)) if q.seq >= LONG_SEQUENCE else [1]


def _virtual_stages(layers: int, stages: Sequence[int]) -> list[int]:
    """Chunks a rank may have on any of these numbers of stages: divisors of its layers, and powers of two to 8."""
    found = set(COMMON_CHUNKS)
    for pp in stages:
        for total in (layers, layers + 1, layers + 2):
            found |= set(_divisors(-(-total // pp), total))
    return sorted(v for v in found if v <= layers + 2)


def _chunks_make_sense(layers: int, pp: Ints, vpp: Ints) -> Bools:
    """Chunks that divide a rank's layers (with embedding and head as layers or not), or two, four or eight of them."""
    even = np.zeros(len(pp), dtype=bool)
    for total in (layers, layers + 1, layers + 2):
        even |= -(-total // pp) % vpp == 0
    few = np.isin(vpp, COMMON_CHUNKS)
    out: Bools = (pp > 1) & (pp * vpp <= layers + 2) & (even | few)
    return out


__all__ = [
    "LIMITED",
    "Limits",
    "Options",
    "Question",
    "Recompute",
    "Sharding",
    "Space",
    "base_plan",
    "check_limits",
    "devices_for_states",
    "every_plan",
    "max_tp",
    "selective_modules",
    "span",
]

"""What is priced once for a space: layers by their shape, stages by their composition, collectives by their group.

A layer's seconds do not depend on pipeline, data parallelism, ZeRO or schedule, and what is computed again does not
depend on what is not: every operator is priced once for each distinct shape, apart by what makes a plan redo it. The
same functions price it that price a single plan.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from fullmesh.cost.components import FORWARD, C
from fullmesh.cost.effects import TermTable, load_effects, settings_of
from fullmesh.cost.memory import head_bytes, held_states
from fullmesh.cost.price import Pricing
from fullmesh.cost.stages import (
    compositions,
    data_parallel_s,
    held_parameters,
    optimizer_s,
    send_s,
    sharded_s,
    tied_ends_s,
)
from fullmesh.cost.step import TRAFFIC, speed_terms
from fullmesh.outcomes.support import attributes, num_missing, untried
from fullmesh.plan import RECIPES, RECOMPUTES, Plans
from fullmesh.plan.layout import stage_layout
from fullmesh.plan.plan import FIELDS, Plan
from fullmesh.plan.shard import Shard, reduction_groups
from fullmesh.search.space import Question, Space, base_plan
from fullmesh.workload import ModelSpec
from fullmesh.workload.ops import (
    BF16_BYTES,
    Axis,
    Block,
    GroupedProduct,
    Module,
    Operator,
    Saved,
    Tokens,
    Width,
)

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

# What a block's seconds are kept as, in this order; the first seven are the forward pass, redone by recompute.
PARTS = (
    "compute_f", "tp_f", "ep_f", "cp_f", "launch_f", "sync_f",
    "compute_b", "tp_b", "ep_b", "cp_b", "launch_b", "sync_b", "weight",
)  # fmt: skip
NUM_FORWARD = 6
# What a sharding costs and holds, in this order.
HELD = ("gradient_s", "parameter_s", "optimizer_s", "weights_bytes", "states_bytes", "gather_s", "scatter_s")
# Operators that no policy redoes.
NEVER: tuple[Module, ...] | None = None
Drops = tuple[Module, ...] | None


class Frames(NamedTuple):
    """What the loop reads of a frame, columns of shape (frames,).

    Attributes
    ----------
    pp, vpp, micro : int64
    devices : float64
    dense, expert : int64
        Rows of the prices of layers.
    setting : int64
        Row of the terms.
    first, stages : int64
        Where its distinct stages begin, and how many there are.
    place, dense_place : int64
        Rows of what shardings cost.
    group : int64
        Row of the attributes that published results are compared by.
    layout : int64
        Number of its layout.
    exchanges : bool
        Whether tokens leave their rank for their experts.
    send_s : float64
    """

    pp: Ints
    vpp: Ints
    micro: Ints
    devices: Floats
    dense: Ints
    expert: Ints
    setting: Ints
    first: Ints
    stages: Ints
    place: Ints
    dense_place: Ints
    group: Ints
    layout: Ints
    exchanges: npt.NDArray[np.bool_]
    send_s: Floats


class StageRows(NamedTuple):
    """Distinct stages of every pipeline; columns of shape (rows,), blocks are kinds of layers, embedding, head, MTP."""

    blocks: Floats  # (rows, blocks)
    multiplicity: Floats
    rank: Floats
    head: Floats
    layers: Ints


class Prices(NamedTuple):
    """Seconds and bytes of blocks; shapes begin with (settings, rows) where terms scale them, with (rows,) elsewhere.

    Attributes
    ----------
    dense_s, expert_s : float64, shape (settings, rows, blocks, PARTS)
    dense_again_s, expert_again_s : float64, shape (settings, rows, blocks, drops, NUM_FORWARD)
    dense_saved, expert_saved : float64, shape (rows, blocks, drops)
    input_bytes : float64, shape (rows,)
        What a layer that is recomputed whole keeps.
    inputs : float64, shape (blocks,)
        How often a block keeps it.
    is_kind : bool, shape (blocks,)
    head_bytes : float64, shape (rows,)
        Logits with what is kept beside them.
    dense_held : float64, shape (places, shardings, stages, HELD)
    expert_held : float64, shape (groups, stages, HELD)
    expert_group : int64, shape (places, shardings)
    """

    dense_s: Floats
    expert_s: Floats
    dense_again_s: Floats
    expert_again_s: Floats
    dense_saved: Floats
    expert_saved: Floats
    input_bytes: Floats
    inputs: Floats
    is_kind: npt.NDArray[np.bool_]
    head_bytes: Floats
    dense_held: Floats
    expert_held: Floats
    expert_group: Ints


class Terms(NamedTuple):
    """Terms of step and memory by setting, columns of shape (settings,)."""

    gap: Floats
    issue: Floats
    contention: Floats
    overlap_tp: Floats
    overlap_ep: Floats
    overlap_send: Floats
    overlap_grad: Floats
    overlap_fsdp: Floats
    send: Floats
    gradient: Floats
    optimizer: Floats
    fixed: Floats
    straggler: Floats
    all: Floats
    fsdp: Floats
    activation: Floats
    head: Floats
    transient: Floats
    static: Floats
    reserved: Floats
    context: Floats


class Choices(NamedTuple):
    """The options as numbers.

    Attributes
    ----------
    schedule : int64, shape (schedules,)
    schedule_ok : bool, shape (frames, schedules)
    zero : int64, shape (shardings,)
    sharding_ok : bool, shape (frames, shardings)
    tp_hides, ep_hides : float64, shape (inside,)
    again : float64, shape (drops, recomputes)
        Share of the layers in which operators with these drops run again.
    kept : float64, shape (drops, recomputes)
        Whether saved tensors with these drops stay.
    full : float64, shape (recomputes,)
        Share of the layers that keep their input alone.
    is_full : bool, shape (recomputes,)
    grad_hides, param_hides, send_hides : float64, shape (ends,)
    missing : int64, shape (groups, schedules, shardings, inside, recomputes)
        Pairs of attributes that no published result has.
    """

    schedule: Ints
    schedule_ok: npt.NDArray[np.bool_]
    zero: Ints
    sharding_ok: npt.NDArray[np.bool_]
    tp_hides: Floats
    ep_hides: Floats
    again: Floats
    kept: Floats
    full: Floats
    is_full: npt.NDArray[np.bool_]
    grad_hides: Floats
    param_hides: Floats
    send_hides: Floats
    missing: Ints


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Tables:
    """All that the loop needs, and the number of layouts."""

    frames: Frames
    stages: StageRows
    prices: Prices
    terms: Terms
    choices: Choices
    num_layouts: int


def tables_of(space: Space) -> Tables:
    """Price everything that the plans of a space are made of, once."""
    q, p = space.question, space.frames
    base = base_plan(q)
    model = q.model
    blocks = _blocks(model)
    drops = _drops(model, blocks)
    rows, first, num_stages, pipeline, held_rows = _pipelines(model, p)
    dense, dense_at = _distinct(p.tp, p.cp, p.cp_kind, p.mbs)
    # what routed tokens take depends on the tokens of a rank and on how experts are split
    split, split_at = _distinct(p.mbs, p.tp, p.cp)
    tokens = np.unique(p.mbs[split] / (p.tp[split] * p.cp[split]), return_inverse=True)[1].reshape(-1)
    expert, expert_at = _distinct(tokens[split_at], p.ep, p.etp, p.dispatcher)
    setting, setting_at = _distinct(p.dispatcher)
    settings, _ = settings_of(model, q.machine, p.take(setting))
    effects = load_effects()
    own = np.arange(len(setting))
    step = effects.table("step", settings, own)
    memory = effects.table("memory", settings, own)

    plain = dataclasses.replace(base, recompute="none")
    dense_plans = _rows(plain, p, dense, ("tp", "cp", "cp_kind", "mbs", "dp"))
    expert_plans = _rows(plain, p, expert, ("tp", "cp", "mbs", "ep", "etp", "dispatcher", "dp"))
    dense_s, dense_again = _seconds(q, dense_plans, blocks, drops, step, routed=False)
    expert_s, expert_again = _seconds(q, expert_plans, blocks, drops, step, routed=True)
    place, place_at = _distinct(p.num_devices, p.tp, p.cp, p.pp, pipeline, p.ep * p.etp)
    dense_place, dense_place_at = _distinct(p.num_devices, p.tp, p.cp, p.pp, pipeline)
    expert_held, expert_group = _expert_held(space, place, pipeline, held_rows)
    layouts = _distinct(p.tp, p.cp, p.pp, p.ep, p.etp, p.dp)[1]
    sends, sends_at = _distinct(p.mbs, p.tp, p.cp, p.pp, p.dp)
    send = send_s(model, q.machine, _rows(base, p, sends, ("mbs", "tp", "cp", "pp", "dp")))[sends_at]
    choices, group_at = _choices(space, drops)
    kinds = len(model.kinds)
    tables = Tables(
        frames=Frames(
            pp=p.pp, vpp=p.vpp, micro=p.num_microbatches, devices=p.num_devices.astype(np.float64), dense=dense_at,
            expert=expert_at, setting=setting_at, first=first, stages=num_stages, place=place_at,
            dense_place=dense_place_at, group=group_at, layout=layouts, exchanges=p.ep > 1,
            send_s=send,
        ),
        stages=rows,
        prices=Prices(
            dense_s=dense_s,
            expert_s=expert_s,
            dense_again_s=dense_again,
            expert_again_s=expert_again,
            dense_saved=_saved(model, dense_plans, drops, routed=False),
            expert_saved=_saved(model, expert_plans, drops, routed=True),
            input_bytes=BF16_BYTES * Shard(dense_plans).tokens(Tokens.LOCAL) * model.hidden,
            inputs=np.array(
                [1.0] * kinds + [0.0, 0.0, float(len(model.prediction_block)) if model.mtp_layers else 0.0]
            ),
            is_kind=np.array([True] * kinds + [False] * 3),
            head_bytes=head_bytes(model, dense_plans),
            dense_held=_dense_held(space, dense_place, pipeline, held_rows),
            expert_held=expert_held,
            expert_group=expert_group,
        ),
        terms=_terms(step, memory, base),
        choices=choices,
        num_layouts=int(layouts.max(initial=-1)) + 1,
    )  # fmt: skip
    # compiled code is made for one order in memory
    parts = ("frames", "stages", "prices", "terms", "choices")
    return dataclasses.replace(tables, **{name: _in_order(getattr(tables, name)) for name in parts})


def _in_order(arrays: Any) -> Any:
    return type(arrays)(*(np.ascontiguousarray(array) for array in arrays))


def _codes(column: Ints) -> tuple[Ints, Ints]:
    """First row of each distinct value, in order of the values, and which value every row has.

    Values are small where they are degrees: a table of all of them takes no sorting.
    """
    if not len(column):
        return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)
    low, high = int(column.min()), int(column.max())
    if high - low > 4 * len(column) + 65536:
        _, first, at = np.unique(column, return_index=True, return_inverse=True)
        return first.astype(np.int64), at.reshape(-1).astype(np.int64)
    place = column - low
    table = np.full(high - low + 1, -1, dtype=np.int64)
    table[place[::-1]] = np.arange(len(column) - 1, -1, -1)
    first = table[table >= 0]
    table[place[first]] = np.arange(len(first))
    return first, table[place]


def _distinct(*columns: Ints) -> tuple[Ints, Ints]:
    """First row of each distinct combination, and which combination every row has."""
    first, at = _codes(columns[0])
    for column in columns[1:]:
        values, code = _codes(column)
        # packed anew with each column, so that no product of many of them overflows
        first, at = _codes(at * len(values) + code)
    return first, at


def _rows(base: Plan, p: Plans, rows: Ints, names: Sequence[str]) -> Plans:
    """Plans that have these columns of some rows, and all else from one plan."""
    return Plans.repeat(base, len(rows), {name: getattr(p, name)[rows] for name in names})


def _blocks(model: ModelSpec) -> list[tuple[Block, ...]]:
    """Blocks of each kind of layer, of embedding, head and MTP module."""
    mtp = model.prediction_blocks() if model.mtp_layers else ()
    return [*(model.blocks(kind) for kind in model.kinds), (model.embedding_block,), (model.head_block,), mtp]


def _is_split(width: Width) -> bool:
    return any(part.axis is Axis.EXPERT_TENSOR for part in width.parts)


def _is_routed(op: Operator) -> bool:
    """Whether an operator's shape depends on how experts are spread."""
    if isinstance(op, GroupedProduct) or getattr(op, "tokens", None) is Tokens.ROUTED:
        return True
    return any(
        _is_split(w) for name in ("n", "k", "width") if isinstance(w := getattr(op, name, None), Width)
    )


def _parts(blocks: Iterable[Block], *, routed: bool) -> dict[Drops, list[Block]]:
    """The work of some blocks apart by what makes a plan redo it: of routed tokens, or all other."""
    out: dict[Drops, list[Block]] = {}
    for block in blocks:
        alone = dataclasses.replace(block, joined=None, exchange=None, vocabulary=False)
        for op in block.operators:
            if _is_routed(op) == routed:
                key = op.drops if block.recomputed else NEVER
                out.setdefault(key, []).append(dataclasses.replace(alone, operators=(op,)))
        empty = dataclasses.replace(alone, operators=())
        if routed and block.exchange is not None:
            moved = dataclasses.replace(empty, exchange=block.exchange)
            out.setdefault(block.exchange.drops, []).append(moved)
        if not routed and block.joined is not None:
            out.setdefault(block.joined, []).append(dataclasses.replace(empty, joined=block.joined))
        if not routed and block.vocabulary:
            out.setdefault(NEVER, []).append(dataclasses.replace(empty, vocabulary=True))
    return out


def _drops(model: ModelSpec, blocks: list[tuple[Block, ...]]) -> list[Drops]:
    """Every distinct set of modules that makes a plan redo an operator or drop a tensor."""
    found: dict[Drops, None] = {}
    for some in blocks:
        for routed in (False, True):
            found |= dict.fromkeys(_parts(some, routed=routed))
    for layer in (*model.kinds, *model.prediction_block):
        found |= dict.fromkeys(saved.drops for saved in model.saved(layer))
    return list(found)


def _seconds(
    q: Question,
    plans: Plans,
    blocks: list[tuple[Block, ...]],
    drops: list[Drops],
    step: TermTable,
    *,
    routed: bool,
) -> tuple[Floats, Floats]:
    """Seconds of blocks on rows of shapes: in all, and of the forward pass by what makes a plan redo it."""
    pricing = Pricing.of(q.machine, plans, q.precision)
    settings, rows = len(step.values), len(plans)
    total = np.zeros((settings, rows, len(blocks), len(PARTS)))
    again = np.zeros((settings, rows, len(blocks), len(drops), NUM_FORWARD))
    for b, some in enumerate(blocks):
        for key, parts in _parts(some, routed=routed).items():
            raw = pricing.blocks(parts)
            for s in range(settings):
                scaled = _scaled(raw, TermTable(model="step", values=step.values[s : s + 1]), plans)
                total[s, :, b] += scaled
                if key is not NEVER:
                    again[s, :, b, drops.index(key)] = scaled[:, :NUM_FORWARD]
    return total, again


def _scaled(raw: Floats, table: TermTable, plans: Plans) -> Floats:
    """Components as the loop adds them up: computation at the speed of training, traffic by its terms."""
    speed = speed_terms(table.column, plans.seq[:1])
    backward = (C.LINEAR_B, C.EXPERT_B, C.ATTENTION_B, C.SCAN_B, C.MEMORY_B, C.ROUTE_B)
    weight = speed[0] * raw[:, C.LINEAR_W] + speed[1] * raw[:, C.EXPERT_W]
    traffic = {kind.name: (table.column(kind.name), kind.columns) for kind in TRAFFIC}
    sync = table.column("sync") * plans.routing_syncs[:1]
    out = np.empty((len(raw), len(PARTS)))
    out[:, 0] = sum(f * raw[:, c] for f, c in zip(speed, FORWARD, strict=True))
    out[:, 6] = sum(f * raw[:, c] for f, c in zip(speed, backward, strict=True)) + weight
    for i, name in enumerate(("tp", "ep", "cp")):
        factor, (f, b, _) = traffic[name]
        out[:, 1 + i], out[:, 7 + i] = factor * raw[:, f], factor * raw[:, b]
    out[:, 4], out[:, 10] = raw[:, C.LAUNCH_F], raw[:, C.LAUNCH_B]
    out[:, 5], out[:, 11] = sync * raw[:, C.SYNC_F], sync * raw[:, C.SYNC_B]
    out[:, 12] = weight
    return out


def _saved(model: ModelSpec, plans: Plans, drops: list[Drops], *, routed: bool) -> Floats:
    """Bytes that blocks keep for their backward pass, by what drops them, shape (rows, blocks, drops)."""
    shard = Shard(plans)
    inputs = np.array([recipe.saved_input_bytes for recipe in RECIPES.values()])[plans.precision]
    kinds = [*((k,) for k in model.kinds), (), (), model.prediction_block if model.mtp_layers else ()]
    out = np.zeros((len(plans), len(kinds), len(drops)))
    for b, layers in enumerate(kinds):
        for layer in layers:
            for saved in model.saved(layer):
                if _is_routed_tensor(saved) == routed:
                    kept = np.where(shard.keeps(saved), shard.saved_bytes(saved, input_bytes=inputs), 0.0)
                    out[:, b, drops.index(saved.drops)] += kept
    return out


def _is_routed_tensor(saved: Saved) -> bool:
    return saved.tokens is Tokens.ROUTED or _is_split(saved.width)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Pipelines:
    """Counts of the distinct stages of every pipeline, shape (rows, blocks), and which rows each pipeline has."""

    counts: Ints
    first: Ints
    num: Ints

    def padded(self, pipeline: Ints) -> tuple[Ints, Ints, Ints]:
        """Rows of some pipelines one after another: which of them, which stage of it, which row."""
        num = self.num[pipeline]
        which = np.repeat(np.arange(len(pipeline)), num)
        stage = np.arange(len(which)) - np.repeat(np.cumsum(num) - num, num)
        return which, stage, self.first[pipeline][which] + stage


def _pipelines(model: ModelSpec, p: Plans) -> tuple[StageRows, Ints, Ints, Ints, _Pipelines]:
    """Distinct stages of the pipelines of all frames, where those of each frame stand, and which pipeline it has.

    Pipelines that hold the same numbers of layers are one, however many chunks a rank has.
    """
    keys, at = _distinct(p.pp, p.vpp)
    known: dict[bytes, int] = {}
    tables: list[tuple[Ints, Ints, Ints]] = []
    of_key = []
    for row in keys:
        table = compositions(stage_layout(model, int(p.pp[row]), int(p.vpp[row])), True)
        name = b"|".join(np.ascontiguousarray(part).tobytes() for part in table)
        if name not in known:
            known[name] = len(tables)
            tables.append(table)
        of_key.append(known[name])
    num = np.array([len(t[0]) for t in tables], dtype=np.int64)
    first = np.cumsum(num) - num
    counts = np.concatenate([t[0] for t in tables])
    k = len(model.kinds)
    pipeline = np.array(of_key, dtype=np.int64)[at]
    rows = StageRows(
        blocks=counts.astype(np.float64),
        multiplicity=np.concatenate([t[2] for t in tables]).astype(np.float64),
        rank=np.concatenate([t[1] for t in tables]).astype(np.float64),
        head=(counts[:, k + 1] + counts[:, k + 2]).clip(0, 1).astype(np.float64),
        layers=(counts[:, :k].sum(axis=1) + counts[:, k + 2]).astype(np.int64),
    )
    return rows, first[pipeline], num[pipeline], pipeline, _Pipelines(counts=counts, first=first, num=num)


def _dense_held(space: Space, places: Ints, pipeline: Ints, pipelines: _Pipelines) -> Floats:
    """What each sharding costs and holds of the dense parameters of every stage."""
    shardings = space.options.shardings
    place, sharding = np.nonzero(space.sharding_ok[places])
    which, stage, row = pipelines.padded(pipeline[places[place]])
    p = _sharded(space, places[place][which], sharding[which])
    counts = pipelines.counts[row]
    dense, _, products = held_parameters(space.question.model, counts, p.pp, p.tp, p.ep * p.etp)
    out = np.zeros((len(places), len(shardings), int(pipelines.num.max(initial=1)), len(HELD)))
    k = len(space.question.model.kinds)
    values = _held(space, p, dense, np.zeros_like(dense), products, counts)
    values[:, 0] += tied_ends_s(
        space.question.model, space.question.machine, p, counts[:, k] + counts[:, k + 1] > 0
    )
    out[place[which], sharding[which], stage] = values
    return out


def _expert_held(space: Space, places: Ints, pipeline: Ints, pipelines: _Pipelines) -> tuple[Floats, Ints]:
    """The same of experts, by distinct groups of ranks, and which of these each place and sharding has."""
    shardings = space.options.shardings
    width = int(pipelines.num.max(initial=1))
    group = np.zeros((len(places), len(shardings)), dtype=np.int64)
    if not space.question.model.is_moe:
        return np.zeros((1, width, len(HELD))), group
    place, sharding = np.nonzero(space.sharding_ok[places])
    p = _sharded(space, places[place], sharding)
    g = reduction_groups(p)
    first, at = _distinct(g.expert_stride, g.expert_size, g.expert_shard, sharding, pipeline[places[place]])
    group[place, sharding] = at
    which, stage, row = pipelines.padded(pipeline[places[place[first]]])
    rows = p.take(first[which])
    counts = pipelines.counts[row]
    _, experts, _ = held_parameters(space.question.model, counts, rows.pp, rows.tp, rows.ep * rows.etp)
    out = np.zeros((len(first), width, len(HELD)))
    out[which, stage] = _held(space, rows, np.zeros_like(experts), experts, np.zeros_like(experts), counts)
    return out, group


def _sharded(space: Space, frames: Ints, sharding: Ints) -> Plans:
    """Plans of some frames with some shardings; nothing but what sharding depends on."""
    one = _rows(base_plan(space.question), space.frames, frames, ("tp", "cp", "pp", "dp", "ep", "etp", "vpp"))
    options = space.options.shardings
    columns: dict[str, npt.NDArray[Any]] = {
        "zero": np.array([s.zero for s in options], dtype=np.int64)[sharding],
        "shard": space.shard[frames, sharding],
        "offload_optimizer": np.array([float(s.offload) for s in options])[sharding],
    }
    return dataclasses.replace(one, **{n: FIELDS[n].cast(c) for n, c in columns.items()})


def _held(space: Space, p: Plans, dense: Floats, experts: Floats, products: Floats, counts: Ints) -> Floats:
    """The columns of ``HELD`` for rows of plans."""
    machine, k = space.question.machine, len(space.question.model.kinds)
    layers = counts[:, :k].sum(axis=1) + counts[:, k + 2]
    states = held_states(p, dense=dense, experts=experts, products=products, layers=layers)
    gradient, parameter = data_parallel_s(machine, p, dense, experts)
    out = np.zeros((len(p), len(HELD)))
    out[:, 0], out[:, 1], out[:, 2] = gradient, parameter, optimizer_s(machine, p, dense, experts)
    out[:, 3], out[:, 4] = states.parameters + states.gradients, states.optimizer
    fsdp = np.flatnonzero(p.zero == 3)
    if len(fsdp):
        out[fsdp, 5], out[fsdp, 6] = sharded_s(machine, p.take(fsdp), dense[fsdp], experts[fsdp])
    return out


def _terms(step: TermTable, memory: TermTable, base: Plan) -> Terms:
    issue = np.full(len(step.values), 1e-9 * base.issue_ns) if base.issue_ns > 0 else step.column("issue")
    beside = step.column("overlap_fsdp") if base.fsdp_prefetch else np.zeros(len(step.values))
    names = (
        "gap", "contention", "overlap_tp", "overlap_ep", "overlap_send", "overlap_grad", "send", "gradient",
        "optimizer", "fixed", "straggler", "all", "fsdp",
    )  # fmt: skip
    parts = ("activation", "head", "transient", "static", "reserved", "context")
    return Terms(
        issue=issue,
        overlap_fsdp=beside,
        **{name: step.column(name).copy() for name in names},
        **{name: memory.column(name).copy() for name in parts},
    )


def _choices(space: Space, drops: list[Drops]) -> tuple[Choices, Ints]:
    """The options as numbers, and which group of attributes every frame has."""
    q, o = space.question, space.options
    again = np.zeros((len(drops), len(o.recomputes)))
    kept = np.ones((len(drops), len(o.recomputes)))
    full = RECOMPUTES.index("full")
    for r, way in enumerate(o.recomputes):
        named = set(FIELDS["recompute_modules"].value(way.mask))
        for d, modules in enumerate(drops):
            if modules is None:
                continue
            hit = bool(named & set(modules))
            again[d, r] = way.share if way.code == full else float(hit)
            kept[d, r] = 0.0 if hit else 1.0
    columns = attributes(q.model, q.machine, space.frames)
    beyond = (column.astype(np.int64) for _, column in untried(q.model, q.machine, space.frames))
    first, group = _distinct(*(a.code for a in columns), *beyond)
    values: tuple[tuple[Any, ...], ...] = (
        o.schedules,
        tuple((s.zero, float(s.offload)) for s in o.shardings),
        tuple(hides for _, hides in o.inside),
        tuple((r.code, r.mask, r.share) for r in o.recomputes),
    )
    missing = _missing(space, first, values)
    array = np.array
    return Choices(
        schedule=array(o.schedules, dtype=np.int64),
        schedule_ok=space.schedule_ok,
        zero=array([s.zero for s in o.shardings], dtype=np.int64),
        sharding_ok=space.sharding_ok,
        tp_hides=array([float(tp) for tp, _ in o.inside]),
        ep_hides=array([float(ep) for _, ep in o.inside]),
        again=again,
        kept=kept,
        full=array([r.share if r.code == full else 0.0 for r in o.recomputes]),
        is_full=array([r.code == full for r in o.recomputes]),
        grad_hides=array([float(e[0]) for e in o.ends]),
        param_hides=array([float(e[1]) for e in o.ends]),
        send_hides=array([float(e[2]) for e in o.ends]),
        missing=missing,
    ), group


def _missing(space: Space, groups: Ints, values: tuple[tuple[Any, ...], ...]) -> Ints:
    """Pairs without a result by group of frames and options; only what attributes see of the options is looked at."""
    q = space.question
    distinct = [list(dict.fromkeys(v)) for v in values]
    index = [np.array([d.index(x) for x in v]) for d, v in zip(distinct, values, strict=True)]
    shape = (len(groups), *(len(d) for d in distinct))
    at = np.unravel_index(np.arange(int(np.prod(shape))), shape)
    frames = space.frames.take(groups[at[0]])
    columns: dict[str, npt.NDArray[Any]] = {
        "schedule": np.array(distinct[0])[at[1]],
        "zero": np.array([z for z, _ in distinct[1]])[at[2]],
        "offload_optimizer": np.array([off for _, off in distinct[1]])[at[2]],
        "ep_overlap": np.array(distinct[2], dtype=bool)[at[3]],
        "recompute": np.array([code for code, _, _ in distinct[3]])[at[4]],
        "recompute_modules": np.array([mask for _, mask, _ in distinct[3]])[at[4]],
        "recompute_fraction": np.array([share for _, _, share in distinct[3]])[at[4]],
    }
    plans = dataclasses.replace(frames, **{n: FIELDS[n].cast(c) for n, c in columns.items()})
    found = num_missing(q.model, q.machine, plans).reshape(shape)
    return np.ascontiguousarray(found[np.ix_(np.arange(len(groups)), *index)])

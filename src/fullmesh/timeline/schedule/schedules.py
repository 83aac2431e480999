"""Schedules as task graphs."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from fullmesh.errors import PlanError, ScenarioError
from fullmesh.timeline.costs import LANES, PipelineCosts
from fullmesh.timeline.schedule import orders
from fullmesh.timeline.schedule import tasks as b
from fullmesh.timeline.schedule.graph import TaskGraph

Ints = npt.NDArray[np.int32]
# Upper bound of the tasks of one graph, of which about a third are real: that many take a gigabyte.
MOST_TASKS = 24_000_000
OP_LETTERS = {"F": orders.FORWARD, "B": orders.BACKWARD, "I": orders.INPUT, "W": orders.WEIGHT}
_CELL = re.compile(r"([FBIW])(\d+)(?:\.(\d+))?")
_PAIR = re.compile(r"(F\d+(?:\.\d+)?)&(B\d+(?:\.\d+)?)")


def parse_table(text: str, *, where: str = "schedule table") -> tuple[tuple[str, ...], ...]:
    """Read a schedule table: one line a rank, operations separated by blanks or commas, ``#`` starts a comment.

    ``F3`` is the forward pass of micro-batch 3, ``B3`` its backward pass, ``I3`` and ``W3`` the two halves of it;
    ``F3.1`` is the same on the rank's second chunk, and ``F3&B1`` overlaps the two.

    Raises
    ------
    ScenarioError
        A cell that is none of these.
    """
    rows = []
    for number, line in enumerate(text.splitlines(), 1):
        cells = line.split("#")[0].replace(",", " ").split()
        for column, cell in enumerate(cells, 1):
            if _CELL.fullmatch(cell) is None and _PAIR.fullmatch(cell) is None:
                raise ScenarioError(
                    f"cannot read the operation {cell!r}",
                    where=f"{where}, line {number}, operation {column}",
                    expected="F, B, I or W, a micro-batch, perhaps a dot and a chunk (F3, B3.1), or F3&B1",
                )
        if cells:
            rows.append(tuple(cells))
    if not rows:
        raise ScenarioError("the schedule table is empty", where=where, expected="one line a rank")
    return tuple(rows)


def schedule_order(costs: PipelineCosts) -> Ints:
    """Operations of every rank in order, shape (3, num_stages, num_ops): operation, slot, micro-batch; -1 pads."""
    p, v, m = costs.num_stages, costs.num_virtual, costs.num_microbatches
    name = costs.schedule
    out: Any
    if name == "gpipe":
        out = orders.gpipe(p, v, m)
    elif name == "1f1b" or (name == "interleaved" and (p == 1 or v == 1)):
        out = orders.one_f_one_b(p, v, m)
    elif name == "interleaved":
        out = orders.interleaved(p, v, m)
    elif name in ("zb-h1", "zb-h2"):
        out = orders.zero_bubble(p, m, int(name == "zb-h2"))
    elif name == "zb-v":
        out = orders.zb_v(p, m)
    elif name == "dualpipe":
        out = orders.dualpipe(p, m)
    elif name == "dualpipev":
        out = orders.dualpipe_v(p, m)
    else:
        out = _order_of_table(costs)
    result: Ints = out
    return result


def placement(costs: PipelineCosts) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Where chunks lie.

    Returns
    -------
    chunk_of : int array, shape (num_stages, num_slots)
        Chunk in each slot of each rank.
    rank_of : int array, shape (2, num_chunks)
        Rank of each chunk, for micro-batches from the first and from the last rank.
    """
    p, v = costs.num_stages, costs.num_virtual
    rank = np.arange(p)
    if costs.schedule == "dualpipe":
        return np.column_stack([rank, p - 1 - rank]), np.stack([rank, p - 1 - rank])
    if costs.schedule in ("zb-v", "dualpipev"):
        chunk_of = np.column_stack([rank, 2 * p - 1 - rank])
    else:
        chunk_of = rank[:, None] + p * np.arange(v)[None, :]
    rank_of = np.empty(costs.num_chunks, dtype=np.int64)
    rank_of[chunk_of.ravel()] = np.repeat(rank, chunk_of.shape[1])
    return chunk_of.astype(np.int64), np.stack([rank_of, rank_of])


def check_tasks(num_tasks: int, most: int = MOST_TASKS) -> None:
    """Refuse a step that would fill the memory, before it is built.

    Raises
    ------
    PlanError
        More tasks than ``most``.
    """
    if num_tasks > most:
        raise PlanError(
            f"a step of {num_tasks:,} tasks or more is too long to replay",
            expected=f"at most {most:,} tasks",
            hint="a smaller global batch, larger micro-batches or fewer rows (without --every-rank or --jitter)",
        )


def build_graph(costs: PipelineCosts) -> TaskGraph:
    """All tasks of one step of one pipeline, each rank standing for ``ranks_per_stage`` devices.

    Raises
    ------
    PlanError
        A schedule (a user's table, above all) whose operations wait for each other in a circle, or that leaves
        some out.
    """
    check_tasks(2 * costs.num_microbatches * costs.num_chunks)
    order = schedule_order(costs)
    chunk_of, rank_of = placement(costs)
    seconds = _durations(costs)
    flags = np.zeros(9, dtype=np.int64)
    flags[b.F_BUCKETS] = costs.grad_buckets
    flags[b.F_GRAD_OVERLAP] = costs.grad_overlap
    flags[b.F_PARAM_OVERLAP] = costs.param_overlap
    flags[b.F_BLOCKS] = costs.fsdp_blocks
    flags[b.F_PREFETCH] = min(costs.fsdp_prefetch, 62)
    flags[b.F_P2P] = costs.p2p_overlap
    flags[b.F_GLOBAL_NORM] = costs.global_norm
    flags[b.F_HALF] = costs.num_microbatches // 2 if costs.schedule == "dualpipe" else costs.num_microbatches
    flags[b.F_MICRO] = costs.num_microbatches
    fsdp = costs.fsdp_gather_s is not None or costs.fsdp_scatter_s is not None
    # sharded units are cut in blocks on every pass; buckets cut the last pass of a slot alone
    most = costs.fsdp_blocks if fsdp else 1
    hidden = seconds[:, b.D_HIDDEN_F : b.D_HIDDEN_B + 3].any(axis=0).sum()
    lanes = int(hidden) + int(seconds[:, [b.D_EPF, b.D_EPB]].any())
    bound = int(b.upper_bound(order, most * (2 if fsdp else 1), 2 * lanes, chunk_of.shape[1]))
    bound += chunk_of.size * 2 * costs.grad_buckets
    check_tasks(bound)
    layout = b.layout_of(order, chunk_of, rank_of, seconds, costs.column("optimizer_s"), flags)
    progress, columns = b.fresh_progress(layout), b.fresh_columns(bound)
    num_ops = int(np.count_nonzero(order[0] >= 0))
    stuck = int(b.build(layout, progress, columns, num_ops, float(costs.grad_norm_s)))
    if stuck >= 0:
        place = int(progress.at[stuck])
        op, slot, mb = (int(x) for x in order[:, stuck, place])
        letter = {v: k for k, v in OP_LETTERS.items()}.get(op, "F&B")
        raise PlanError(
            f"operation {place + 1} of rank {stuck} ({letter}{mb}.{slot}) can never start",
            where="schedule",
            hint="an earlier operation of another rank waits for one that comes later here",
        )
    num = int(progress.num[0])
    assert num <= bound
    return TaskGraph(
        kind=columns.kind[:num],
        stream=columns.stream[:num],
        rank=columns.rank[:num],
        chunk=columns.chunk[:num],
        microbatch=columns.microbatch[:num],
        duration_s=columns.seconds[:num],
        pred=columns.pred[:num],
        num_ranks=costs.num_stages,
        num_stages=costs.num_stages,
    )


def _durations(costs: PipelineCosts) -> npt.NDArray[np.float64]:
    out = np.zeros((costs.num_chunks, len(b.DURATIONS)))
    out[:, b.D_FORWARD] = costs.forward_s
    out[:, b.D_INPUT] = costs.backward_input_s
    out[:, b.D_WEIGHT] = costs.backward_weight_s
    out[:, b.D_RECOMPUTE] = costs.column("recompute_s")
    out[:, b.D_PF] = costs.pair_forward_s
    out[:, b.D_PB] = costs.pair_backward_s
    if costs.schedule in ("dualpipe", "dualpipev", "table"):
        out[:, b.D_EPF] = costs.lane("ep", "forward_s")
        out[:, b.D_EPB] = costs.lane("ep", "backward_s")
    out[: costs.num_chunks - 1, b.D_SEND] = costs.column("send_s")
    for i, name in enumerate(LANES):
        out[:, b.D_HIDDEN_F + i] = costs.lane(name, "hidden_forward_s")
        out[:, b.D_HIDDEN_B + i] = costs.lane(name, "hidden_backward_s")
    out[:, b.D_REDUCE] = costs.column("grad_reduce_s")
    out[:, b.D_GATHER] = costs.column("param_gather_s")
    out[:, b.D_FSDP_GATHER] = costs.column("fsdp_gather_s")
    out[:, b.D_FSDP_SCATTER] = costs.column("fsdp_scatter_s")
    out[:, b.D_OFFLOAD] = costs.column("offload_s")
    return out


def _operations(cell: str) -> Iterable[tuple[int, int, int]]:
    """Operation, slot and micro-batch of a cell of the table (two of them for an overlapped pair)."""
    pair = _PAIR.fullmatch(cell)
    for text in pair.groups() if pair else (cell,):
        match = _CELL.fullmatch(text)
        assert match is not None
        op = OP_LETTERS[match.group(1)]
        if pair:
            op = orders.PAIRED_FORWARD if op == orders.FORWARD else orders.PAIRED_BACKWARD
        yield op, int(match.group(3) or 0), int(match.group(2))


def _order_of_table(costs: PipelineCosts) -> Ints:
    where = "schedule table"
    if len(costs.table) != costs.num_stages:
        raise ScenarioError(
            f"the table has {len(costs.table)} ranks",
            where=where,
            expected=f"one row for each of {costs.num_stages}",
        )
    rows = [[op for cell in row for op in _operations(cell)] for row in costs.table]
    out = np.full((3, costs.num_stages, max(len(r) for r in rows)), -1, dtype=np.int32)
    for r, row in enumerate(rows):
        forward = np.zeros((costs.num_virtual, costs.num_microbatches), dtype=np.int64)
        first_half, second_half = forward.copy(), forward.copy()
        for i, (op, slot, mb) in enumerate(row):
            if slot >= costs.num_virtual or mb >= costs.num_microbatches:
                raise ScenarioError(
                    f"operation {i + 1} names chunk {slot} and micro-batch {mb}",
                    where=f"{where}, line {r + 1}",
                    expected=f"chunks below {costs.num_virtual}, micro-batches below {costs.num_microbatches}",
                )
            out[:, r, i] = op, slot, mb
            forward[slot, mb] += op in (orders.FORWARD, orders.PAIRED_FORWARD)
            first_half[slot, mb] += op in (orders.BACKWARD, orders.PAIRED_BACKWARD, orders.INPUT)
            second_half[slot, mb] += op in (orders.BACKWARD, orders.PAIRED_BACKWARD, orders.WEIGHT)
        for what, count in (("forward", forward), ("backward", first_half), ("weight gradient", second_half)):
            if np.any(count != 1):
                slot, mb = (int(x) for x in np.argwhere(count != 1)[0])
                raise ScenarioError(
                    f"the {what} pass of micro-batch {mb}, chunk {slot}, occurs {int(count[slot, mb])} times",
                    where=f"{where}, line {r + 1}",
                    expected="every pass once",
                )
    return out

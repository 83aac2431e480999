"""Memory of every rank over the time of a step."""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt

from fullmesh.timeline.costs import PipelineCosts
from fullmesh.timeline.engine.engines import Timeline
from fullmesh.timeline.schedule import tasks as b
from fullmesh.timeline.schedule.graph import Floats

# kinds of tasks that take activations or free them
_HOLDS = (
    b.K_FORWARD, b.K_PAIRED_FORWARD, b.K_BACKWARD, b.K_PAIRED_BACKWARD, b.K_INPUT, b.K_WEIGHT, b.K_COPY_OUT,
    b.K_COPY_IN,
)  # fmt: skip


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class MemoryProfile:
    """Bytes held after each change, all rows in one column.

    Parameters
    ----------
    offset : int array, shape (rows + 1,)
        Where the changes of each row begin.
    time_s, held_bytes : float array
        Moments of change, and bytes held from then on.
    peak_bytes, peak_s : float array, shape (rows,)
        The largest amount and the first moment it is reached.
    """

    offset: npt.NDArray[np.int64]
    time_s: Floats
    held_bytes: Floats
    peak_bytes: Floats
    peak_s: Floats

    def row(self, row: int) -> tuple[Floats, Floats]:
        """Moments and bytes of one row."""
        part = slice(int(self.offset[row]), int(self.offset[row + 1]))
        return self.time_s[part], self.held_bytes[part]


def memory_profile(timeline: Timeline, costs: PipelineCosts) -> MemoryProfile:
    """Activations from the start of the forward to the end of the backward pass, above what is always there.

    Where the halves of the backward pass run apart, ``weight_bytes`` are held until the weight half has run. Memory is
    freed before it is taken where both happen at once.
    """
    graph = timeline.graph
    rows, p = graph.num_ranks, graph.num_stages
    whole = costs.column("activation_bytes")
    late = np.minimum(costs.column("weight_bytes"), whole)
    times = [np.zeros(rows)]
    deltas = [np.tile(costs.column("static_bytes"), rows // p)]
    where = [np.arange(rows, dtype=np.int64)]
    if whole.any():
        parts = _num_parts(timeline, costs)
        start, end = timeline.start_s, timeline.end_s
        for k, at, amount in (
            (b.K_FORWARD, start, whole),
            (b.K_PAIRED_FORWARD, start, whole),
            (b.K_BACKWARD, end, -whole),
            (b.K_PAIRED_BACKWARD, end, -whole),
            (b.K_INPUT, end, late - whole),
            (b.K_WEIGHT, end, -late),
            (b.K_COPY_OUT, end, -whole),
            (b.K_COPY_IN, start, whole),
        ):
            mask = graph.kind == k
            times.append(at[mask])
            deltas.append(amount[graph.chunk[mask]] / parts[mask])
            where.append(graph.rank[mask].astype(np.int64))
    time, delta, row = np.concatenate(times), np.concatenate(deltas), np.concatenate(where)
    # the static bytes of a row come first
    first = np.zeros(len(row), dtype=bool)
    first[:rows] = True
    order = np.lexsort((delta, ~first, time, row))
    time, delta, row = time[order], delta[order], row[order]
    offset = np.searchsorted(row, np.arange(rows + 1))
    held = np.cumsum(delta)
    base = np.concatenate([[0.0], held])[offset[:-1]]
    held = held - base[row]
    peak = np.maximum.reduceat(held, offset[:-1])
    tolerance = np.maximum(np.abs(peak), 1.0) * 1e-12
    at_peak = np.flatnonzero(held >= (peak - tolerance)[row])
    firsts = np.searchsorted(row[at_peak], np.arange(rows))
    return MemoryProfile(
        offset=offset.astype(np.int64),
        time_s=time,
        held_bytes=held,
        peak_bytes=peak,
        peak_s=time[at_peak[firsts]],
    )


def _num_parts(timeline: Timeline, costs: PipelineCosts) -> Floats:
    """In how many parts the pass of each task that takes or frees memory was cut, shape (N,); 1 for all others."""
    graph = timeline.graph
    if costs.fsdp_gather_s is None and costs.fsdp_scatter_s is None and costs.grad_buckets == 1:
        return np.ones(len(graph))
    held = np.isin(np.arange(len(b.KINDS)), _HOLDS)
    out: Floats = np.ones(len(graph))
    chosen = np.flatnonzero(held[graph.kind])
    key = graph.rank[chosen].astype(np.int64) * len(b.KINDS) + graph.kind[chosen]
    key = key * (costs.num_chunks + 1) + graph.chunk[chosen]
    key = key * (costs.num_microbatches + 1) + graph.microbatch[chosen] + 1
    _, index, count = np.unique(key, return_inverse=True, return_counts=True)
    out[chosen] = count[index]
    return out

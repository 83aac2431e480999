"""Chrome-trace JSON of a replay, for Perfetto, chrome://tracing and MindStudio Insight.

One process a rank, one thread a stream; slices only nest; flow arrows follow what ranks send each other; counters show
memory and busy links. A trace of a real run can be laid under it (:mod:`fullmesh.timeline.trace.measured`).
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from fullmesh.errors import ScenarioError
from fullmesh.files import write_bytes
from fullmesh.timeline.analysis import GROUP, critical_path
from fullmesh.timeline.costs import LANES, PipelineCosts
from fullmesh.timeline.engine.engines import Network, Timeline
from fullmesh.timeline.memory import MemoryProfile, memory_profile
from fullmesh.timeline.perturb import Unfolded
from fullmesh.timeline.schedule import tasks as b

Event = dict[str, object]

# More rows than this make a trace that no viewer opens in comfort; the most interesting ones are shown then.
MOST_ROWS = 64
MOST_SLICES = 200_000
MOST_LINKS = 32
# Process numbers: viewers take a thread of its process's number for the main thread, so these stay clear of streams.
STEP_PID, LINK_PID, RANK_PID = 100, 101, 1000
_SENDS = (b.K_SEND_FORWARD, b.K_SEND_BACKWARD)
_PASSES = {
    b.K_FORWARD, b.K_BACKWARD, b.K_INPUT, b.K_WEIGHT, b.K_PAIRED_FORWARD, b.K_PAIRED_BACKWARD, b.K_RECOMPUTE,
}  # fmt: skip
_TITLES = {
    "forward": "forward", "paired_forward": "forward", "backward": "backward", "paired_backward": "backward",
    "backward_input": "input gradient", "backward_weight": "weight gradient", "recompute": "recompute",
    "send_forward": "send activations", "send_backward": "send gradients", "tp": "tensor parallel",
    "ep": "expert dispatch and combine", "cp": "context parallel", "grad_reduce": "reduce gradients",
    "param_gather": "gather parameters", "fsdp_gather": "gather shard", "fsdp_scatter": "scatter gradients",
    "optimizer": "optimizer", "grad_norm": "gradient norm", "copy_out": "copy to host", "copy_in": "copy from host",
    "join": "",
}  # fmt: skip


def _ns(seconds: float) -> int:
    return round(seconds * 1e9)


def _us(nanoseconds: int) -> float:
    return nanoseconds / 1000.0


def trace_events(
    timeline: Timeline,
    costs: PipelineCosts,
    *,
    unfolded: Unfolded | None = None,
    network: Network | None = None,
    rows: Sequence[int] | None = None,
) -> list[Event]:
    """All events of a trace, sorted as the format wants them.

    Parameters
    ----------
    unfolded : Unfolded, optional
        Where the replayed graph came from, for device numbers.
    network : Network, optional
        Adds counters of the busiest links.
    rows : sequence of int, optional
        Rows of the graph to show; by default all, or whole pipelines up to ``MOST_ROWS``, those on the critical path
        first.
    """
    graph = timeline.graph
    shown = _worth_showing(timeline, costs) if rows is None else list(rows)
    for row in shown:
        if not 0 <= row < graph.num_ranks:
            raise ScenarioError(f"the timeline has no row {row}", expected=f"0 to {graph.num_ranks - 1}")
    visible = np.zeros(graph.num_ranks, dtype=bool)
    visible[shown] = True
    names: list[Event] = []
    tiers = dict(costs.tiers)
    streams = [f"{stream} ({tiers[stream]})" if stream in tiers else stream for stream in b.STREAMS]
    names += _name(STEP_PID, 0, "step", ["phases", "critical path"])
    for row in shown:
        device = int(unfolded.device(row)) if unfolded else row
        stage = row % graph.num_stages
        copies = (
            costs.ranks_per_stage if unfolded is None else int(unfolded.multiplicity[row // graph.num_stages])
        )
        label = f"stage {stage}, rank {device}" + (f" and {copies - 1} like it" if copies > 1 else "")
        names += _name(RANK_PID + row, row + 1, label, streams)
    events: list[Event] = []
    events += _phases(timeline, costs)
    tasks = np.flatnonzero(
        visible[graph.rank] & (graph.kind != b.K_JOIN) & (timeline.end_s > timeline.start_s)
    )
    if len(tasks) > MOST_SLICES:
        raise ScenarioError(
            f"a trace of {len(tasks):,} tasks is more than a viewer opens",
            where="--trace",
            expected=f"at most {MOST_SLICES:,}",
            hint="a smaller global batch or larger micro-batches",
        )
    for i in tasks.tolist():
        events += _slices(timeline, costs, i)
    events += _flows(timeline, visible)
    events += _memory(memory_profile(timeline, costs), shown)
    events += _busy_links(timeline, shown)
    if network is not None:
        names += _name(LINK_PID, graph.num_ranks + 1, "links", [])
        events += _link_rates(timeline, network, LINK_PID)
    events.sort(key=_order)
    return names + events


def _worth_showing(timeline: Timeline, costs: PipelineCosts) -> list[int]:
    graph = timeline.graph
    if graph.num_ranks <= MOST_ROWS:
        return list(range(graph.num_ranks))
    p = graph.num_stages
    path = critical_path(timeline, costs).tasks
    copies = np.bincount(
        graph.rank[path] // p, weights=timeline.taken_s[path], minlength=graph.num_ranks // p
    )
    chosen = np.sort(np.argsort(-copies, kind="stable")[: max(MOST_ROWS // p, 1)])
    return [int(copy) * p + stage for copy in chosen for stage in range(p)]


def _order(event: Event) -> tuple[float, float, int]:
    duration = event.get("dur", 0.0)
    assert isinstance(duration, float)
    at = event["ts"]
    assert isinstance(at, float)
    # a parent before its children, and both before the arrows that bind to them
    return at, -duration, 0 if event["ph"] == "X" else 1


def _name(pid: int, order: int, process: str, threads: Iterable[str]) -> list[Event]:
    def meta(name: str, tid: int, args: dict[str, object]) -> Event:
        return {"ph": "M", "pid": pid, "tid": tid, "name": name, "args": args}

    out = [meta("process_name", 0, {"name": process}), meta("process_sort_index", 0, {"sort_index": order})]
    for tid, thread in enumerate(threads, 1):
        out.append(meta("thread_name", tid, {"name": thread}))
        out.append(meta("thread_sort_index", tid, {"sort_index": tid}))
    return out


def _slice(
    pid: int, tid: int, name: str, category: str, start_ns: int, end_ns: int, args: dict[str, object]
) -> Event:
    return {
        "ph": "X",
        "pid": pid,
        "tid": tid,
        "name": name,
        "cat": category,
        "ts": _us(start_ns),
        "dur": _us(end_ns - start_ns),
        "args": args,
    }


def _slices(timeline: Timeline, costs: PipelineCosts, i: int) -> Iterator[Event]:
    """A task, and inside a pass what it is made of."""
    graph = timeline.graph
    kind, chunk, mb = b.KINDS[graph.kind[i]], int(graph.chunk[i]), int(graph.microbatch[i])
    start, end = _ns(timeline.start_s[i]), _ns(timeline.end_s[i])
    if end <= start:
        return
    pid, tid = RANK_PID + int(graph.rank[i]), int(graph.stream[i]) + 1
    name = _TITLES[kind] + (f" {mb}" if mb >= 0 else "")
    args: dict[str, object] = {"kind": kind, "chunk": chunk}
    if mb >= 0:
        args["micro-batch"] = mb
    yield _slice(pid, tid, name, GROUP[kind], start, end, args)
    parts = _parts(costs, int(graph.kind[i]), chunk)
    total = _whole(costs, int(graph.kind[i]), chunk)
    if not parts or total <= 0:
        return
    done = 0.0
    for label, lane, seconds in parts:
        a, z = start + round((end - start) * done / total), 0
        done = min(done + seconds, total)
        z = min(start + round((end - start) * done / total), end)
        if z > a:
            yield _slice(pid, tid, label, "communication" if lane else "operators", a, z, {})
            if lane and not _has_tasks(costs, lane):
                stream = b.S_TP + LANES.index(lane) + 1
                yield _slice(pid, stream, f"{label}, exposed", lane, a, z, {})


def _has_tasks(costs: PipelineCosts, lane: str) -> bool:
    return bool(costs.lane(lane, "hidden_forward_s").any() or costs.lane(lane, "hidden_backward_s").any())


def _whole(costs: PipelineCosts, kind: int, chunk: int) -> float:
    if kind in (b.K_FORWARD, b.K_PAIRED_FORWARD):
        return float((costs.forward_s if kind == b.K_FORWARD else costs.pair_forward_s)[chunk])
    if kind in (b.K_BACKWARD, b.K_PAIRED_BACKWARD):
        return float((costs.backward_s if kind == b.K_BACKWARD else costs.pair_backward_s)[chunk])
    return 0.0


def _parts(costs: PipelineCosts, kind: int, chunk: int) -> list[tuple[str, str, float]]:
    """Name, lane and seconds of what a pass is made of; halves of a backward pass are not broken down."""
    if kind not in (b.K_FORWARD, b.K_PAIRED_FORWARD, b.K_BACKWARD, b.K_PAIRED_BACKWARD):
        return []
    forward = kind in (b.K_FORWARD, b.K_PAIRED_FORWARD)
    paired = kind in (b.K_PAIRED_FORWARD, b.K_PAIRED_BACKWARD)
    field = "forward_s" if forward else "backward_s"
    out = [(op.name, "", float(getattr(op, field)[chunk])) for op in costs.operators]
    for lane in costs.lanes:
        if not (paired and lane.name == "ep"):
            out.append((_TITLES[lane.name], lane.name, float(getattr(lane, field)[chunk])))
    return [part for part in out if part[2] > 0]


def _phases(timeline: Timeline, costs: PipelineCosts) -> Iterator[Event]:
    graph = timeline.graph
    forward = np.isin(graph.kind, (b.K_FORWARD, b.K_PAIRED_FORWARD))
    back = np.isin(graph.kind, (b.K_BACKWARD, b.K_INPUT, b.K_PAIRED_BACKWARD))
    passes = np.isin(graph.kind, list(_PASSES))
    marks = [0.0]
    if back.any() and forward.any():
        marks += [float(timeline.start_s[back].min()), float(timeline.start_s[forward].max())]
        marks += [float(timeline.end_s[passes].max())]
    marks.append(timeline.step_s)
    marks = np.maximum.accumulate(np.array(marks)).tolist()
    titles = ["warm-up", "steady", "cool-down", "gradients and optimizer"]
    for title, a, z in zip(titles, marks, marks[1:], strict=False):
        if _ns(z) > _ns(a):
            yield _slice(STEP_PID, 1, title, "phase", _ns(a), _ns(z), {})
    for i in critical_path(timeline, costs).tasks.tolist():
        a, z = _ns(timeline.start_s[i]), _ns(timeline.end_s[i])
        if z > a:
            kind, mb = b.KINDS[graph.kind[i]], int(graph.microbatch[i])
            name = f"rank {int(graph.rank[i])}: {_TITLES[kind]}" + (f" {mb}" if mb >= 0 else "")
            yield _slice(STEP_PID, 2, name, "critical path", a, z, {"kind": kind})


def _flows(timeline: Timeline, visible: np.ndarray[tuple[int, ...], np.dtype[np.bool_]]) -> Iterator[Event]:
    """Arrows from what one rank hands over to the pass of another rank that uses it."""
    graph = timeline.graph
    hands_over = np.isin(graph.kind, (*_SENDS, *_PASSES))
    starts = np.array([_ns(s) for s in timeline.start_s])
    ends = np.array([_ns(s) for s in timeline.end_s])
    drawn = (ends > starts) & (graph.kind != b.K_JOIN)
    # what a join brings together reaches the task behind it
    behind: dict[int, int] = {}
    number = 0
    copies = graph.rank // graph.num_stages
    for j in range(3):
        source = graph.pred[:, j]
        crosses = hands_over[source] & (graph.rank[source] != graph.rank) & (copies[source] == copies)
        for i in np.flatnonzero(crosses & (graph.kind == b.K_JOIN)).tolist():
            behind[i] = int(source[i])
    for j in range(3):
        source = graph.pred[:, j].copy()
        joined = np.flatnonzero(np.isin(source, list(behind))) if behind else np.zeros(0, np.int64)
        for i in joined.tolist():
            source[i] = behind[int(source[i])]
        mask = hands_over[source] & (graph.rank[source] != graph.rank) & (copies[source] == copies)
        mask &= (
            drawn
            & drawn[source]
            & (graph.stream == b.S_COMPUTE)
            & visible[graph.rank]
            & visible[graph.rank[source]]
        )
        for i in np.flatnonzero(mask).tolist():
            k = int(source[i])
            number += 1
            name = "activations" if graph.kind[i] in (b.K_FORWARD, b.K_PAIRED_FORWARD) else "gradients"
            for phase, task in (("s", k), ("f", i)):
                event: Event = {"ph": phase, "name": name, "cat": "transfer", "id": number}
                if phase == "f":
                    event["bp"] = "e"
                event["pid"], event["tid"] = RANK_PID + int(graph.rank[task]), int(graph.stream[task]) + 1
                event["ts"] = _us(int(starts[task]))
                yield event


def _counter(pid: int, name: str, at_ns: int, value: float, unit: str) -> Event:
    return {"ph": "C", "pid": pid, "tid": 0, "name": name, "ts": _us(at_ns), "args": {unit: value}}


def _memory(profile: MemoryProfile, rows: Sequence[int]) -> Iterator[Event]:
    if not profile.held_bytes.any():
        return
    for row in rows:
        times, held = profile.row(row)
        at = np.array([_ns(t) for t in times])
        last = np.append(np.flatnonzero(np.diff(at)), len(at) - 1)
        for i in last.tolist():
            yield _counter(RANK_PID + row, "memory", int(at[i]), round(float(held[i]) / 1e9, 6), "GB")


def _busy_links(timeline: Timeline, rows: Sequence[int]) -> Iterator[Event]:
    """How many communication streams of a rank are busy."""
    graph = timeline.graph
    communicates = (
        (graph.stream != b.S_COMPUTE) & (graph.kind != b.K_JOIN) & (timeline.end_s > timeline.start_s)
    )
    for row in rows:
        mine = np.flatnonzero(communicates & (graph.rank == row))
        if not len(mine):
            continue
        times = np.concatenate([timeline.start_s[mine], timeline.end_s[mine]])
        at = np.rint(times * 1e9).astype(np.int64)
        change = np.repeat([1, -1], len(mine))
        moments, index = np.unique(at, return_inverse=True)
        level = np.cumsum(np.bincount(index, weights=change))
        yield _counter(RANK_PID + row, "busy links", 0, 0.0, "streams")
        for moment, value in zip(moments.tolist(), level.tolist(), strict=True):
            yield _counter(RANK_PID + row, "busy links", moment, value, "streams")


def _link_rates(timeline: Timeline, network: Network, pid: int) -> Iterator[Event]:
    """Average rates of transfers, summed on the links that carry most."""
    tasks = np.flatnonzero((network.route_of >= 0) & (timeline.end_s > timeline.start_s))
    rate = network.bytes[tasks] / timeline.taken_s[tasks]
    route = network.route_of[tasks]
    entries = [np.arange(network.route_ptr[r], network.route_ptr[r + 1]) for r in route.tolist()]
    if not entries:
        return
    owner = np.repeat(np.arange(len(tasks)), [len(e) for e in entries])
    entry = np.concatenate(entries)
    link = network.route_link[entry]
    carried = np.bincount(link, weights=network.bytes[tasks][owner] * network.route_weight[entry])
    for ln in np.argsort(-carried, kind="stable")[:MOST_LINKS].tolist():
        mine = np.flatnonzero(link == ln)
        if not len(mine):
            continue
        task = tasks[owner[mine]]
        flow = rate[owner[mine]] * network.route_weight[entry[mine]]
        at = np.rint(np.concatenate([timeline.start_s[task], timeline.end_s[task]]) * 1e9).astype(np.int64)
        moments, index = np.unique(at, return_inverse=True)
        level = np.cumsum(np.bincount(index, weights=np.concatenate([flow, -flow])))
        for moment, value in zip(moments.tolist(), level.tolist(), strict=True):
            yield _counter(pid, f"link {ln}", moment, round(max(value, 0.0) / 1e9, 6), "GB/s")


def write_json(path: Path | str, document: dict[str, object]) -> None:
    """Write a document whole or not at all; compressed where the name ends in ``.gz``.

    The same document gives the same bytes.

    Raises
    ------
    OutputError
        It cannot be written.
    """
    text = json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode(errors="backslashreplace")
    if str(path).lower().endswith(".gz"):
        text = gzip.compress(text, compresslevel=6, mtime=0)
    write_bytes(path, text, where="--trace")


def write_trace(
    path: Path | str,
    timeline: Timeline,
    costs: PipelineCosts,
    *,
    unfolded: Unfolded | None = None,
    network: Network | None = None,
    rows: Sequence[int] | None = None,
    title: str = "",
) -> int:
    """Write a trace that Perfetto, chrome://tracing and MindStudio Insight open; returns the number of events."""
    events = trace_events(timeline, costs, unfolded=unfolded, network=network, rows=rows)
    write_json(path, document(events, title or f"{costs.schedule}, {costs.num_stages} stages"))
    return len(events)


def document(events: list[Event], title: str) -> dict[str, object]:
    """The outer object of a trace file."""
    return {
        "traceEvents": events,
        "displayTimeUnit": "ms",
        "otherData": {"title": title, "producer": "fullmesh"},
    }

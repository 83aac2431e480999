"""Arrays that the flow kernels work on, grouped: who crosses what, and the state of links and flows.

A flow names segments, a segment names links with weights: a flow of rate r loads link l with r times the sum of the
weights of its entries there. All rates and capacities are in bytes per second. Flows, segments and links are numbered
from 0; ``entries`` are the (segment, link) pairs of the compressed rows.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from fullmesh.network.wiring.links import FloatArray, IntArray, LongArray

TIE = 1e-12  # rates closer than this share of them are one: the rounding of double precision
OPEN = -1.0  # rate of a flow whose share is being worked out


class Paths(NamedTuple):
    """Over which links each flow goes; never changed.

    Attributes
    ----------
    seg : int32, shape (flows, columns)
        Segments of each flow, -1 where it has fewer.
    mult : float64, shape (flows, columns), or (0, 0) for one everywhere
        Equal flows that an entry of ``seg`` stands for.
    ptr : int64, shape (segments + 1,)
        Where the entries of each segment begin.
    link : int32, shape (entries,)
    weight : float64, shape (entries,)
        Share of a flow's bytes that takes the link.
    cap : float64, shape (links,)
        Bytes per second.
    """

    seg: IntArray
    mult: FloatArray
    ptr: LongArray
    link: IntArray
    weight: FloatArray
    cap: FloatArray


class Crossing(NamedTuple):
    """The same the other way round: which flows cross a link.

    Attributes
    ----------
    link_ptr : int64, shape (links + 1,)
        Where the segments of each link begin in ``link_seg``.
    link_seg : int32, shape (entries,)
    flow_ptr : int64, shape (segments + 1,)
        Where the flows of each segment begin in ``flow``.
    flow : int32, shape (used entries of seg,)
    num_flows : int64, shape (segments,)
        Flows that the segment carries now: the first so many of its part of ``flow``.
    """

    link_ptr: LongArray
    link_seg: IntArray
    flow_ptr: LongArray
    flow: IntArray
    num_flows: LongArray


class Links(NamedTuple):
    """What links have given away.

    Attributes
    ----------
    left : float64, shape (links,)
        Bytes per second that no flow of settled rate takes.
    open_weight, num_open : float64, shape (links,)
        Sum of weights, and number of entries, of flows whose rate is being worked out.
    level : float64, shape (links,)
        Bytes per second of the flows that the link limits; of no meaning while it limits none.
    fastest : float64, shape (links,)
        Bytes per second that no settled flow of the link exceeds; may be more than the fastest of them.
    num_limited : int64, shape (links,)
        Flows whose rate this link sets: it is full, and none of its flows is faster.
    """

    left: FloatArray
    open_weight: FloatArray
    num_open: FloatArray
    level: FloatArray
    fastest: FloatArray
    num_limited: LongArray


class Flows(NamedTuple):
    """Rates of flows.

    Attributes
    ----------
    rate : float64, shape (flows,)
        Bytes per second; `OPEN` while it is being worked out.
    limit : int32, shape (flows,)
        The link that sets the rate; during a solve -1 for open flows, and ``-2 - link`` for those settled in it.
    """

    rate: FloatArray
    limit: IntArray


class Queue(NamedTuple):
    """Links by the rate at which they will next matter: a binary heap that knows where each link stands.

    Attributes
    ----------
    key : float64, shape (links,)
        Bytes per second; never more than the true figure, which may have risen since.
    heap : int32, shape (links,)
    place : int32, shape (links,)
        Place in ``heap``; `ABSENT` or `DONE` outside it.
    touched : int32, shape (links,)
        Links that have been in the heap during this solve.
    num : int64, shape (2,)
        Links in the heap, and touched ones.
    """

    key: FloatArray
    heap: IntArray
    place: IntArray
    touched: IntArray
    num: LongArray


class Solve(NamedTuple):
    """What one solve has opened.

    Attributes
    ----------
    flow : int32, shape (flows,)
        Flows that were opened.
    old_rate : float64, shape (flows,)
        Bytes per second of each before.
    delta : float64, shape (segments,)
        Flows of each segment that settle together; 0 between uses.
    segment : int32, shape (segments,)
        Segments of those.
    num : int64, shape (2,)
        Flows that it opened, and those of them still open.
    """

    flow: IntArray
    old_rate: FloatArray
    delta: FloatArray
    segment: IntArray
    num: LongArray


class State(NamedTuple):
    """Everything that a solve reads and changes."""

    paths: Paths
    crossing: Crossing
    links: Links
    flows: Flows
    queue: Queue
    solve: Solve


def paths_of(problem: Any) -> Paths:
    """The record of a `fullmesh.network.flow.solve.Problem`."""
    return Paths(problem.seg, problem.mult, problem.ptr, problem.link, problem.weight, problem.cap)


def fresh_state(paths: Paths, crossing: Crossing) -> State:
    """A state in which no flow runs: every link has its capacity left, every rate is 0."""
    num_flows, num_links, num_segments = len(paths.seg), len(paths.cap), len(paths.ptr) - 1
    return State(
        paths,
        crossing,
        Links(
            left=paths.cap.astype(np.float64),
            open_weight=np.zeros(num_links),
            num_open=np.zeros(num_links),
            level=np.zeros(num_links),
            fastest=np.zeros(num_links),
            num_limited=np.zeros(num_links, np.int64),
        ),
        Flows(
            rate=np.zeros(num_flows),
            limit=np.zeros(num_flows, np.int32),
        ),
        Queue(
            key=np.zeros(num_links),
            heap=np.zeros(num_links, np.int32),
            place=np.full(num_links, -1, np.int32),
            touched=np.zeros(num_links, np.int32),
            num=np.zeros(2, np.int64),
        ),
        Solve(
            flow=np.zeros(num_flows, np.int32),
            old_rate=np.zeros(num_flows),
            delta=np.zeros(num_segments),
            segment=np.zeros(num_segments, np.int32),
            num=np.zeros(2, np.int64),
        ),
    )


def crossing_of(paths: Paths, active: LongArray | IntArray) -> Crossing:
    """Who crosses what, counting the flows ``active`` (shape (some,)) alone; all of them present."""
    num_links, num_segments = len(paths.cap), len(paths.ptr) - 1
    order = np.argsort(paths.link, kind="stable")
    segment_of = np.repeat(np.arange(num_segments, dtype=np.int32), np.diff(paths.ptr))
    used = paths.seg[active]
    place = np.flatnonzero(used.ravel() >= 0)
    segment = used.ravel()[place]
    by_segment = np.argsort(segment, kind="stable")
    num_flows = np.bincount(segment, minlength=num_segments)
    return Crossing(
        link_ptr=_starts(np.bincount(paths.link, minlength=num_links)),
        link_seg=segment_of[order],
        flow_ptr=_starts(num_flows),
        flow=active[place[by_segment] // used.shape[1]].astype(np.int32),
        num_flows=num_flows.astype(np.int64),
    )


def _starts(counts: LongArray) -> LongArray:
    """``[2, 3]`` becomes ``[0, 2, 5]``."""
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)

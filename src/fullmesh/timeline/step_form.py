"""The closed form of a whole step of one plan, and why the replay may differ from it."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from fullmesh.timeline.costs import LANES, Floats, Lane, PipelineCosts
from fullmesh.timeline.engine.engines import replay
from fullmesh.timeline.schedule.closed_form import Passes, pipeline_s
from fullmesh.timeline.schedule.schedules import build_graph, placement

# Differences below this share of the step are rounding of the candidates, not a cause.
NOTABLE = 1e-3


def passes_of(costs: PipelineCosts) -> Passes:
    """The passes of one plan as a table of one row.

    What runs beside a pass lengthens it where it is longer; sends that hold up the sender become part of its passes.
    """
    send = costs.column("send_s")
    weight = costs.backward_weight_s
    again = costs.column("recompute_s")
    split = costs.schedule.startswith("zb")
    forward, inputs = costs.forward_s, costs.backward_input_s
    hidden_f = np.max([costs.lane(n, "hidden_forward_s") for n in LANES], axis=0)
    hidden_b = np.max([costs.lane(n, "hidden_backward_s") for n in LANES], axis=0)
    gather, scatter = costs.column("fsdp_gather_s"), costs.column("fsdp_scatter_s")
    copy = costs.column("offload_s")
    forward = np.max([forward, hidden_f, gather, copy], axis=0)
    whole = inputs if split else inputs + weight
    longest = np.max([whole, hidden_b, np.maximum(gather - again, 0), scatter - again, copy - again], axis=0)
    inputs = inputs + longest - whole + again
    pair_f = costs.pair_forward_s
    pair_b = np.max([costs.pair_backward_s, copy - pair_f, scatter - pair_f], axis=0)
    if not costs.p2p_overlap:
        after, before = np.append(send, 0.0), np.append(0.0, send)
        if costs.num_stages == 1:
            after, before = np.zeros_like(after), np.zeros_like(before)
        forward, inputs = forward + after, inputs + before
        pair_f, pair_b = pair_f + after, pair_b + before
        send = np.zeros_like(send)
    return Passes(
        forward_s=forward[None],
        input_s=inputs[None],
        weight_s=weight[None],
        send_s=send[None],
        pair_forward_s=pair_f[None],
        pair_backward_s=pair_b[None],
        pair_comm_forward_s=np.maximum(costs.lane("ep", "forward_s") + hidden_f, gather)[None],
        pair_comm_backward_s=np.maximum(costs.lane("ep", "backward_s") + hidden_b, gather)[None],
        num_microbatches=np.array([costs.num_microbatches]),
    )


def closed_form_step_s(costs: PipelineCosts) -> float:
    """Seconds of a step without replaying it.

    The pipeline by :func:`pipeline_s`; before it what of the parameters the first passes wait for; after it what of
    the gradients does not fit beside the last backward passes, the norm, the optimizer, and the parameters if they
    come last.
    """
    x = passes_of(costs)
    body = float(pipeline_s(costs.schedule, costs.num_virtual, x)[0])
    start = _wait_for_parameters(costs, x) if costs.param_overlap else 0.0
    ends = start + body - _earlier(costs, x)
    reduced = np.maximum(ends, _reduced(costs, x, ends))
    gather, scatter = costs.column("fsdp_gather_s"), costs.column("fsdp_scatter_s")
    sharded = float(gather.max() + scatter.max()) / costs.fsdp_blocks
    chunk_of, _ = placement(costs)
    last = costs.column("param_gather_s")[chunk_of].sum(axis=1) if not costs.param_overlap else 0.0
    if costs.global_norm:
        reduced = np.full(costs.num_stages, reduced.max() + costs.grad_norm_s)
    return sharded + float((reduced + costs.column("optimizer_s") + last).max())


def _wait_for_parameters(costs: PipelineCosts, x: Passes) -> float:
    gather = costs.column("param_gather_s")
    if not gather.any():
        return 0.0
    chunk_of, _ = placement(costs)
    f = x.forward_s[0]
    hop = np.append(x.send_s[0], 0.0)
    slots = chunk_of.shape[1]
    arrival = np.concatenate([[0.0], np.cumsum((f + hop)[chunk_of[:, 0]])[:-1]])
    if costs.schedule == "dualpipe":
        upper = np.arange(costs.num_stages) >= costs.num_stages // 2
        chunk_of = np.where(upper[:, None], chunk_of[:, ::-1], chunk_of)
    late = 0.0
    done = np.zeros(costs.num_stages)
    for v in range(slots):
        done = done + gather[chunk_of[:, v]]
        if costs.schedule == "dualpipe":
            near, far = np.minimum(arrival, arrival[::-1]), np.maximum(arrival, arrival[::-1])
            need = far if v else near
        elif costs.schedule in ("zb-v", "dualpipev") and v == 1:
            need = arrival[-1] + (arrival[-1] - arrival) + f.mean()
        else:
            need = arrival + v * min(costs.num_stages, costs.num_microbatches) * f.mean()
        late = max(late, float((done - need).max()))
    return max(late, 0.0)


def _earlier(costs: PipelineCosts, x: Passes) -> Floats:
    """By how much every rank ends its last pass before the last of them does, shape (num_stages,)."""
    p = costs.num_stages
    chunk_of, _ = placement(costs)
    whole = (x.input_s + x.weight_s)[0]
    hop = np.append(x.send_s[0], 0.0)
    if costs.schedule in ("zb-h2", "zb-v"):
        return np.zeros(p)
    if costs.schedule in ("zb-h1", "dualpipe", "dualpipev"):
        # a weight half fills the wait for each gradient on the way out
        return _near(costs) * max(float(x.input_s.mean() - x.weight_s.mean()), 0.0)
    steps = (whole + hop)[chunk_of[:, 0]]
    out: Floats = np.concatenate([[0.0], np.cumsum(steps)[:-1]])
    return out


def _near(costs: PipelineCosts) -> Floats:
    """Ranks that lie outside of each rank, shape (num_stages,)."""
    rank = np.arange(costs.num_stages, dtype=np.float64)
    return np.minimum(rank, rank[::-1]) if costs.schedule == "dualpipe" else rank


def _reduced(costs: PipelineCosts, x: Passes, ends: Floats) -> Floats:
    """When the gradients of every rank have been reduced, shape (num_stages,)."""
    reduce = costs.column("grad_reduce_s")
    chunk_of, _ = placement(costs)
    if not costs.grad_overlap:
        out: Floats = ends + reduce[chunk_of].sum(axis=1)
        return out
    split = costs.schedule in ("zb-h1", "zb-h2", "zb-v", "dualpipe", "dualpipev")
    last_pass = (x.weight_s if split else x.input_s + x.weight_s)[0]
    done = np.zeros(costs.num_stages)
    slots = chunk_of.shape[1]
    buckets = costs.grad_buckets
    for v in range(slots - 1, -1, -1):
        c = chunk_of[:, v]
        pause = float((x.input_s + x.weight_s).mean())
        between = np.full(costs.num_stages, costs.num_stages * pause)
        if costs.schedule in ("dualpipe", "dualpipev"):
            depth = costs.num_stages // 2 if costs.schedule == "dualpipe" else costs.num_stages
            between = (depth - 1 - _near(costs)) * pause + x.weight_s.mean()
        elif costs.schedule == "zb-v":
            between = np.full(costs.num_stages, 2 * x.weight_s.mean())
        ready = ends - v * between
        first = ready - last_pass[c] * (buckets - 1) / buckets
        done = np.maximum(np.maximum(done, first) + reduce[c], ready + reduce[c] / buckets)
    return done


def why_different(costs: PipelineCosts) -> tuple[float, list[tuple[str, float]]]:
    """How far the closed form is off, and what it is off by.

    Every possible cause is taken out of the plan in turn, from both the replay and the closed form; what the difference
    shrinks by is due to it.

    Returns
    -------
    relative : float
        ``closed form / replay - 1``.
    causes : list of (str, float)
        Name and share of the step, the largest first; those below 0.1 % of the step are left out.
    """
    step, off = _difference(costs)
    causes = []
    for name, without in _neutral(costs):
        _, rest = _difference(without)
        shrinks = abs(off) - abs(rest)
        if shrinks > NOTABLE * step:
            causes.append((name, shrinks / step))
    if abs(off) > NOTABLE * step and not causes:
        causes.append(("several causes that only show together", abs(off) / step))
    return off / step, sorted(causes, key=lambda c: -c[1])


def _difference(costs: PipelineCosts) -> tuple[float, float]:
    step = replay(build_graph(costs)).step_s
    return step, closed_form_step_s(costs) - step


def _neutral(costs: PipelineCosts) -> list[tuple[str, PipelineCosts]]:
    def even(values: Floats | None) -> Floats | None:
        return None if values is None else np.full(len(values), float(values.mean()))

    names: list[str] = [
        "forward_s",
        "backward_input_s",
        "backward_weight_s",
        "recompute_s",
        "paired_forward_s",
    ]
    names += ["paired_backward_s", "send_s"]
    level: dict[str, Any] = {n: even(getattr(costs, n)) for n in names}
    level["lanes"] = tuple(
        Lane(
            name=lane.name,
            forward_s=np.full_like(lane.forward_s, lane.forward_s.mean()),
            backward_s=np.full_like(lane.backward_s, lane.backward_s.mean()),
            hidden_forward_s=even(lane.hidden_forward_s),
            hidden_backward_s=even(lane.hidden_backward_s),
        )
        for lane in costs.lanes
    )
    out = [("stages or chunks of unequal length", dataclasses.replace(costs, **level))]
    if costs.send_s is not None:
        out.append(
            (
                "transfers between stages that every round trip waits for",
                dataclasses.replace(costs, send_s=None),
            )
        )
    many = 8 * costs.num_stages * max(1, -(-costs.num_microbatches // costs.num_stages))
    if costs.num_microbatches < 4 * costs.num_stages:
        out.append(
            (
                "few micro-batches for the depth of the pipeline",
                dataclasses.replace(costs, num_microbatches=many),
            )
        )
    for name, columns in (
        ("gradients reduced while stages still compute", ["grad_reduce_s"]),
        ("parameters gathered while stages already compute", ["param_gather_s"]),
        ("sharded parameters gathered ahead of computation", ["fsdp_gather_s", "fsdp_scatter_s"]),
        ("activations copied to the host and back", ["offload_s"]),
    ):
        if any(getattr(costs, c) is not None for c in columns):
            changes: dict[str, Any] = dict.fromkeys(columns)
            out.append((name, dataclasses.replace(costs, **changes)))
    if costs.lanes:
        out.append(("communication beside computation", dataclasses.replace(costs, lanes=())))
    return out

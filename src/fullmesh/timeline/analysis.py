"""What a replay says: the critical path, bubbles by cause, exposed communication, slack, who waits for whom."""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt

from fullmesh.timeline.costs import LANES, PipelineCosts
from fullmesh.timeline.engine import walks
from fullmesh.timeline.engine.engines import Timeline
from fullmesh.timeline.schedule import tasks as b
from fullmesh.timeline.schedule.graph import Floats, TaskGraph

Ints = npt.NDArray[np.int64]

# What kinds of tasks are called where people read of them.
GROUP = {
    "forward": "forward", "paired_forward": "forward", "backward": "backward", "backward_input": "backward",
    "paired_backward": "backward", "backward_weight": "weight gradient", "recompute": "recompute",
    "send_forward": "send", "send_backward": "send", "tp": "tp", "ep": "ep", "cp": "cp",
    "grad_reduce": "gradient reduction", "grad_norm": "gradient reduction", "param_gather": "parameter gather",
    "fsdp_gather": "fsdp", "fsdp_scatter": "fsdp", "optimizer": "optimizer", "copy_out": "copy", "copy_in": "copy",
    "join": "start",
}  # fmt: skip
COMMUNICATION = ("tp", "ep", "cp", "send", "gradient reduction", "parameter gather", "fsdp", "copy")
_PASSES = [
    k
    for k, name in enumerate(b.KINDS)
    if GROUP[name] in ("forward", "backward", "weight gradient", "recompute")
]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class CriticalPath:
    """The chain of tasks without a gap that ends last.

    Parameters
    ----------
    tasks : int array
        Task numbers, first to last.
    seconds : dict of str to float
        By group; communication that passes wait for stands under its own name. Adds up to the step.
    """

    tasks: Ints
    seconds: dict[str, float]


def exposed_lanes(graph: TaskGraph, costs: PipelineCosts, taken_s: Floats) -> dict[str, Floats]:
    """Seconds of tensor, expert and context-parallel communication inside every pass, shape (N,) each."""
    out = {}
    for name in LANES:
        forward, backward = costs.lane(name, "forward_s"), costs.lane(name, "backward_s")
        column = np.zeros(len(graph))
        if forward.any() or backward.any():
            hidden_in_pairs = name == "ep"
            for kind, part, whole in (
                (b.K_FORWARD, forward, costs.forward_s),
                (b.K_BACKWARD, backward, costs.backward_s),
                (b.K_INPUT, np.minimum(backward, costs.backward_input_s), costs.backward_input_s),
                (b.K_PAIRED_FORWARD, forward * (not hidden_in_pairs), costs.pair_forward_s),
                (b.K_PAIRED_BACKWARD, backward * (not hidden_in_pairs), costs.pair_backward_s),
            ):
                share = np.divide(part, whole, out=np.zeros_like(part), where=whole > 0).clip(0.0, 1.0)
                mine = graph.kind == kind
                column[mine] = taken_s[mine] * share[graph.chunk[mine]]
        out[name] = column
    return out


def critical_path(timeline: Timeline, costs: PipelineCosts) -> CriticalPath:
    """Walk back from the task that ends last, always to the predecessor that ended last.

    A wait for a stream that something else held (possible in the ``event`` engines only) is ``stream busy``.
    """
    graph = timeline.graph
    out = np.empty(len(graph), np.int32)
    n = walks.critical(graph.pred, graph.kind, timeline.end_s, out)
    tasks = out[:n][::-1].astype(np.int64)
    taken = timeline.taken_s
    lanes = exposed_lanes(graph, costs, taken)
    seconds: dict[str, float] = {}
    rest = taken[tasks].copy()
    for name, column in lanes.items():
        part = float(column[tasks].sum())
        rest -= column[tasks]
        if part > 0:
            seconds[name] = part
    for kind in np.unique(graph.kind[tasks]):
        group = GROUP[b.KINDS[kind]]
        seconds[group] = seconds.get(group, 0.0) + float(rest[graph.kind[tasks] == kind].sum())
    missing = timeline.step_s - sum(seconds.values())
    if missing > 1e-9 * timeline.step_s:
        seconds["stream busy"] = missing
    return CriticalPath(tasks=tasks, seconds=dict(sorted(seconds.items(), key=lambda kv: -kv[1])))


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Activity:
    """What every row of a replay did with its time.

    Parameters
    ----------
    busy_s : float array, shape (rows, kinds)
        Compute stream, by kind of ``build.KINDS``.
    waited_s : float array, shape (rows, 5, kinds)
        Gaps on it, by phase (warm-up, steady, cool-down, after the last task; apart, waits for other devices of the
        same stage) and by the kind of what was waited for.
    exposed_s : dict of str to float array, shape (rows,)
        Communication of each kind that computation waited for, inside passes and between them.
    weight : float array, shape (rows,)
        Devices that a row stands for.
    step_s : float
    span_s : float
        First pass to last pass.
    who, whom, seconds : arrays
        Row, the row it waited for, and how long; one entry for each piece of a gap.
    """

    busy_s: Floats
    waited_s: Floats
    exposed_s: dict[str, Floats]
    weight: Floats
    step_s: float
    span_s: float
    who: npt.NDArray[np.int32]
    whom: npt.NDArray[np.int32]
    seconds: Floats

    def mean(self, values: Floats) -> float:
        """Mean over devices of a value a row."""
        return float(np.average(values, weights=self.weight))

    @property
    def bubble_fraction(self) -> float:
        """Share of the time between first and last pass in which a device, on average, runs none."""
        idle = self.span_s - self.busy_s[:, _PASSES].sum(axis=1)
        return max(self.mean(idle), 0.0) / self.span_s if self.span_s > 0 else 0.0

    def bubble_by_cause(self) -> dict[str, float]:
        """Seconds that a device is idle in a step, on average, by cause.

        Waits for another stage's computation are named by the phase they fall into; waits for transfers by the
        transfer; ``slower peers`` are other devices of the same stage; ``end of step`` is what follows a device's last
        task.
        """
        out: dict[str, float] = {}
        for phase, name in enumerate(("warm-up", "imbalance", "cool-down", "end of step", "slower peers")):
            for k, kind in enumerate(b.KINDS):
                seconds = self.mean(self.waited_s[:, phase, k])
                if seconds > 0:
                    group = GROUP[kind]
                    cause = group if group in COMMUNICATION else name
                    out[cause] = out.get(cause, 0.0) + seconds
        return dict(sorted(out.items(), key=lambda kv: -kv[1]))

    def exposed_by_kind(self) -> dict[str, float]:
        """Seconds of communication that a device waits for in a step, on average."""
        return {k: s for k, v in self.exposed_s.items() if (s := self.mean(v)) > 0}

    def phases(self) -> dict[str, float]:
        """A step as DualPipe's authors publish it: passes alone, overlapped pairs, optimizer, the rest as bubble."""

        def total(*names: str) -> float:
            return self.mean(self.busy_s[:, [b.KINDS.index(n) for n in names]].sum(axis=1))

        beside = self.mean(self.waited_s[:, :, b.K_EP].sum(axis=1))
        out = {
            "forward": total("forward"),
            "backward": total("backward", "backward_input", "recompute"),
            "weight": total("backward_weight"),
            "forward and backward": total("paired_forward", "paired_backward") + beside,
            "optimizer": total("optimizer"),
        }
        out["bubble"] = self.step_s - sum(out.values())
        return out

    def waits(self, top: int = 20) -> list[tuple[int, int, float]]:
        """Who waits for whom for how long: (row, row waited for, seconds), the longest first."""
        if not len(self.who):
            return []
        pairs, index = np.unique(np.stack([self.who, self.whom]), axis=1, return_inverse=True)
        total = np.bincount(index.ravel(), weights=self.seconds)
        order = np.argsort(-total, kind="stable")[:top]
        return [(int(pairs[0, i]), int(pairs[1, i]), float(total[i])) for i in order]


def activity(
    timeline: Timeline, costs: PipelineCosts, multiplicity: npt.NDArray[np.int64] | None = None
) -> Activity:
    """Busy time, gaps and their causes of every row.

    Parameters
    ----------
    multiplicity : int array, shape (num_copies,), optional
        Pipelines that each copy of the graph stands for (:class:`fullmesh.timeline.perturb.Unfolded`).
    """
    graph = timeline.graph
    rows = graph.num_ranks
    busy, waited, who, whom, seconds = walks.gaps(graph, timeline.start_s, timeline.end_s)
    exposed: dict[str, Floats] = {}
    for name, column in exposed_lanes(graph, costs, timeline.taken_s).items():
        exposed[name] = np.bincount(graph.rank, weights=column, minlength=rows).astype(np.float64)
    for k, kind in enumerate(b.KINDS):
        group = GROUP[kind]
        if group in COMMUNICATION:
            exposed[group] = exposed.get(group, np.zeros(rows)) + waited[:, :, k].sum(axis=1)
    if not costs.p2p_overlap:
        held = busy[:, [b.K_SEND_FORWARD, b.K_SEND_BACKWARD]].sum(axis=1)
        exposed["send"] = exposed["send"] + held
    passes = np.isin(graph.kind, _PASSES)
    span = float(timeline.end_s[passes].max() - timeline.start_s[passes].min()) if passes.any() else 0.0
    copies = np.ones(rows // graph.num_stages) if multiplicity is None else multiplicity.astype(np.float64)
    return Activity(
        busy_s=busy,
        waited_s=waited,
        exposed_s=exposed,
        weight=np.repeat(copies, graph.num_stages),
        step_s=timeline.step_s,
        span_s=span,
        who=who,
        whom=whom,
        seconds=seconds,
    )

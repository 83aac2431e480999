"""Traces of real runs: PyTorch's profiler (Kineto) and msprof's ``trace_view.json``, laid under a simulated step.

Both are Chrome-trace JSON. What ran on the device is found by category (Kineto) or by process (msprof); steps by the
``ProfilerStep#N`` marks that both profilers write. Operators are put into classes by the names of their kernels.
"""

from __future__ import annotations

import dataclasses
import gzip
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fullmesh.errors import ResultsError
from fullmesh.timeline.analysis import exposed_lanes
from fullmesh.timeline.costs import PipelineCosts
from fullmesh.timeline.engine.engines import Timeline
from fullmesh.timeline.schedule import tasks as b
from fullmesh.timeline.schedule.graph import Floats

# Class of an operator by its kernel's name; the first match counts.
CLASSES: tuple[tuple[str, str], ...] = (
    ("all-to-all", r"all_?to_?all|a2a|dispatch|combine|sendrecv.*all|notify_dispatch"),
    ("send and receive", r"send|recv|p2p"),
    ("collectives", r"nccl|rccl|hccl|hcom|all_?gather|all_?reduce|reduce_?scatter|broadcast"),
    ("attention", r"flash|fmha|attention|attn|sdpa"),
    ("experts", r"grouped_?(gemm|mat_?mul)|group_?gemm|moe_?(gemm|ffn)|fused_?moe"),
    ("optimizer", r"adam|multi_?tensor_?apply|sgd|lamb|clip_?grad|apply_?fused"),
    ("linear", r"gemm|mat_?mul|matmul|cublas|cutlass|nvjet|xmma|linear|addmm|batch_?mm"),
    ("copy", r"memcpy|memset|h2d|d2h|tensor_?move|async_?copy"),
)
OTHER = "memory-bound"
_PATTERNS = [(name, re.compile(pattern, re.IGNORECASE)) for name, pattern in CLASSES]
# Classes of what a simulated step consists of, beside the operators that the costs name themselves.
SIMULATED = {
    "tp": "collectives", "cp": "collectives", "ep": "all-to-all", "send_forward": "send and receive",
    "send_backward": "send and receive", "grad_reduce": "collectives", "grad_norm": "collectives",
    "param_gather": "collectives", "fsdp_gather": "collectives", "fsdp_scatter": "collectives",
    "optimizer": "optimizer", "copy_out": "copy", "copy_in": "copy",
}  # fmt: skip
_KINETO_DEVICE = {"kernel", "gpu_memcpy", "gpu_memset"}
_MSPROF_DEVICE = re.compile(r"ascend hardware|^hccl|communication|npu", re.IGNORECASE)
_STEP = re.compile(r"ProfilerStep#(\d+)")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """What ran on the device in a profiled run.

    Parameters
    ----------
    source : {"kineto", "msprof"}
    name : tuple of str
        Kernels in order of their start.
    operator : tuple of str
        Class of each.
    stream : tuple of str
    start_s, duration_s : float array, shape (K,)
    steps : dict of int to (float, float)
        Start and end of every marked step; one step, numbered 0, where none is marked.
    """

    source: str
    name: tuple[str, ...]
    operator: tuple[str, ...]
    stream: tuple[str, ...]
    start_s: Floats
    duration_s: Floats
    steps: dict[int, tuple[float, float]]

    def within(self, step: int) -> npt.NDArray[np.int64]:
        """Kernels that start in a step.

        Raises
        ------
        ResultsError
            A step that was not profiled.
        """
        if step not in self.steps:
            raise ResultsError(
                f"step {step} is not in the profile",
                expected="one of " + ", ".join(map(str, sorted(self.steps))),
            )
        first, last = self.steps[step]
        return np.flatnonzero((self.start_s >= first) & (self.start_s < last))


def classify(name: str) -> str:
    """Class of an operator by the name of its kernel."""
    return next((found for found, pattern in _PATTERNS if pattern.search(name)), OTHER)


def read_profile(path: Path | str) -> Profile:
    """Read a Kineto or msprof trace, compressed or not.

    Raises
    ------
    ResultsError
        A file that is missing, is no trace, or holds nothing that ran on a device.
    """
    where = str(path)
    try:
        raw = Path(path).read_bytes()
        if raw[:2] == b"\x1f\x8b":
            raw = gzip.decompress(raw)
        document = json.loads(raw)
    except OSError as error:
        raise ResultsError(f"cannot read the profile: {error.strerror or error}", where=where) from None
    except (ValueError, EOFError):
        raise ResultsError(
            "the profile is not JSON",
            where=where,
            expected="the file that torch.profiler's export_chrome_trace or msprof writes",
        ) from None
    events = document.get("traceEvents") if isinstance(document, dict) else document
    if not isinstance(events, list):
        raise ResultsError("the profile has no list of traceEvents", where=where)
    events = [e for e in events if isinstance(e, dict)]
    processes = {
        e.get("pid"): str(e.get("args", {}).get("name", ""))
        for e in events
        if e.get("ph") == "M" and e.get("name") == "process_name"
    }
    kineto = any(e.get("cat") in _KINETO_DEVICE for e in events)
    found: list[tuple[float, float, str, str]] = []
    marks: dict[int, tuple[float, float]] = {}
    for e in events:
        if e.get("ph") != "X":
            continue
        at, took = _number(e.get("ts"), where), _number(e.get("dur", 0), where)
        name = str(e.get("name", ""))
        step = _STEP.search(name)
        if step is not None:
            number = int(step.group(1))
            first, last = marks.get(number, (at, at + took))
            marks[number] = (min(first, at), max(last, at + took))
        elif _on_device(e, processes, kineto):
            args = e.get("args") or {}
            stream = args.get("stream", args.get("Stream Id", e.get("tid", "")))
            found.append((at, took, name, str(stream)))
    if not found:
        raise ResultsError(
            "nothing in the profile ran on a device",
            where=where,
            expected="events of category kernel (Kineto) or of the process Ascend Hardware (msprof)",
            hint="profile with ProfilerActivity.CUDA, or with the NPU activity of torch_npu",
        )
    found.sort()
    start = np.array([f[0] for f in found])
    taken = np.array([f[1] for f in found])
    origin = float(min(start.min(), *(first for first, _ in marks.values()))) if marks else float(start.min())
    steps = {
        n: ((first - origin) * 1e-6, (last - origin) * 1e-6) for n, (first, last) in sorted(marks.items())
    }
    if not steps:
        steps = {0: (0.0, float((start + taken).max() - origin) * 1e-6 + 1e-9)}
    return Profile(
        source="kineto" if kineto else "msprof",
        name=tuple(f[2] for f in found),
        operator=tuple(classify(f[2]) for f in found),
        stream=tuple(f[3] for f in found),
        start_s=(start - origin) * 1e-6,
        duration_s=taken * 1e-6,
        steps=steps,
    )


def _number(value: object, where: str) -> float:
    try:
        number = float(value)  # type: ignore[arg-type]  # msprof writes times as strings
    except (TypeError, ValueError):
        raise ResultsError(f"an event has the time {value!r}", where=where) from None
    if not np.isfinite(number):
        raise ResultsError(f"an event has the time {value!r}", where=where)
    return number


def _on_device(event: dict[str, Any], processes: dict[object, str], kineto: bool) -> bool:
    if kineto:
        return event.get("cat") in _KINETO_DEVICE
    return _MSPROF_DEVICE.search(processes.get(event.get("pid"), "")) is not None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class OperatorDifference:
    """One class of operators in the simulated and in the real step, seconds of one device."""

    operator: str
    simulated_s: float
    real_s: float

    @property
    def difference_s(self) -> float:
        """Simulated less real."""
        return self.simulated_s - self.real_s


def simulated_operators(timeline: Timeline, costs: PipelineCosts, row: int) -> dict[str, float]:
    """Seconds of every class of operators on one row of a replay.

    ``unexplained`` is computation that the costs do not break down.
    """
    graph = timeline.graph
    taken = timeline.taken_s
    mine = graph.rank == row
    out: dict[str, float] = {}

    def add(name: str, seconds: float) -> None:
        if seconds > 0:
            out[name] = out.get(name, 0.0) + seconds

    for k, kind in enumerate(b.KINDS):
        if kind in SIMULATED:
            add(SIMULATED[kind], float(taken[mine & (graph.kind == k)].sum()))
    lanes = exposed_lanes(graph, costs, taken)
    for name, column in lanes.items():
        add(SIMULATED[name], float(column[mine].sum()))
    exposed = np.sum(list(lanes.values()), axis=0)
    passes: tuple[tuple[int, str, Floats], ...] = (
        (b.K_FORWARD, "forward_s", costs.forward_s),
        (b.K_PAIRED_FORWARD, "forward_s", costs.pair_forward_s),
        (b.K_BACKWARD, "backward_s", costs.backward_s),
        (b.K_PAIRED_BACKWARD, "backward_s", costs.pair_backward_s),
        (b.K_INPUT, "backward_s", costs.backward_s),
        (b.K_WEIGHT, "backward_s", costs.backward_s),
        (b.K_RECOMPUTE, "forward_s", costs.column("recompute_s")),
    )
    for number, field, whole in passes:
        tasks = np.flatnonzero(mine & (graph.kind == number))
        if not len(tasks):
            continue
        chunk = graph.chunk[tasks]
        computed = taken[tasks] - exposed[tasks]
        total = (
            np.sum([getattr(op, field) for op in costs.operators], axis=0) if costs.operators else 0.0 * whole
        )
        explained = np.zeros(len(tasks))
        for op in costs.operators:
            part = getattr(op, field)
            share = np.divide(part, np.maximum(total, whole), out=np.zeros_like(part), where=whole > 0)
            seconds = np.minimum(taken[tasks] * share[chunk], computed)
            explained += seconds
            add(op.name, float(seconds.sum()))
        add("unexplained", float(np.maximum(computed - explained, 0.0).sum()))
    return out


def compare_operators(
    timeline: Timeline, costs: PipelineCosts, profile: Profile, *, step: int | None = None, row: int = 0
) -> list[OperatorDifference]:
    """Simulated against real seconds by class of operators, the largest difference first.

    Parameters
    ----------
    step : int, optional
        Of the profile; by default the last.
    row : int
        Row of the replay that corresponds to the profiled rank.
    """
    chosen = max(profile.steps) if step is None else step
    real: dict[str, float] = {}
    for i in profile.within(chosen).tolist():
        real[profile.operator[i]] = real.get(profile.operator[i], 0.0) + float(profile.duration_s[i])
    simulated = simulated_operators(timeline, costs, row)
    lines = [
        OperatorDifference(operator=name, simulated_s=simulated.get(name, 0.0), real_s=real.get(name, 0.0))
        for name in dict.fromkeys([*simulated, *real])
    ]
    return sorted(lines, key=lambda line: -abs(line.difference_s))


def profile_events(profile: Profile, *, step: int | None = None, pid: int = 102) -> list[dict[str, object]]:
    """The kernels of one step as trace events that begin with the simulated step, one thread a stream.

    Kernels of one stream that overlap (as counted by some profilers) are moved to threads of their own.
    """
    chosen = max(profile.steps) if step is None else step
    first = profile.steps[chosen][0]
    lanes: dict[str, list[tuple[int, int]]] = {}
    names: list[dict[str, object]] = [
        {"ph": "M", "pid": pid, "tid": 0, "name": "process_name", "args": {"name": f"real, step {chosen}"}},
        {"ph": "M", "pid": pid, "tid": 0, "name": "process_sort_index", "args": {"sort_index": 1}},
    ]
    events: list[dict[str, object]] = []
    tid = 0
    for i in profile.within(chosen).tolist():
        start = round((float(profile.start_s[i]) - first) * 1e9)
        end = start + round(float(profile.duration_s[i]) * 1e9)
        free = lanes.setdefault(profile.stream[i], [])
        place = next((k for k, (_, until) in enumerate(free) if until <= start), None)
        if place is None:
            tid += 1
            place = len(free)
            free.append((tid, 0))
            label = f"stream {profile.stream[i]}" + (f" ({place + 1})" if place else "")
            names.append({"ph": "M", "pid": pid, "tid": tid, "name": "thread_name", "args": {"name": label}})
        free[place] = (free[place][0], end)
        events.append(
            {
                "ph": "X", "pid": pid, "tid": free[place][0], "name": profile.name[i], "cat": profile.operator[i],
                "ts": start / 1000.0, "dur": (end - start) / 1000.0, "args": {"class": profile.operator[i]},
            }
        )  # fmt: skip
    return names + events


def lay_under(
    simulated: Sequence[dict[str, object]], profile: Profile, *, step: int | None = None
) -> list[dict[str, object]]:
    """Events of a simulated step with the real one under it, both beginning at 0."""
    real = profile_events(profile, step=step)
    meta = [e for e in (*simulated, *real) if e["ph"] == "M"]
    timed = [e for e in (*simulated, *real) if e["ph"] != "M"]

    def order(event: dict[str, object]) -> tuple[float, float, int]:
        at, duration = event["ts"], event.get("dur", 0.0)
        assert isinstance(at, float)
        assert isinstance(duration, float)
        return at, -duration, 0 if event["ph"] == "X" else 1

    return meta + sorted(timed, key=order)

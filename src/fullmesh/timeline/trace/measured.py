"""Traces of real runs: PyTorch's profiler (Kineto) and msprof's ``trace_view.json``, laid under a simulated step.

Both are Chrome-trace JSON. What ran on the device is found by category (Kineto) or by process (msprof); steps by the
``ProfilerStep#N`` marks that both profilers write. Operators are put into classes by what the trace itself says of
them, then by the names of their kernels.
"""

from __future__ import annotations

import dataclasses
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fullmesh.errors import FullmeshError, ResultsError, TraceError, shown
from fullmesh.timeline.analysis import exposed_lanes
from fullmesh.timeline.costs import PipelineCosts
from fullmesh.timeline.engine.engines import Timeline
from fullmesh.timeline.schedule import tasks as b
from fullmesh.timeline.schedule.graph import Floats
from fullmesh.timeline.trace.events import trace_events
from fullmesh.values import number

OTHER = "memory-bound"
# A kernel communicates when it belongs to one of these libraries, whatever words stand in it; others never do.
_LIBRARY = re.compile(
    r"nccl|rccl|hccl|hcom|lccl|mscclpp|msccl|oneccl|nvshmem|deep_?ep\b|deep_ep::|hybrid_?ep|pplx"
    r"|userbuffers|symm_?mem|multimem_|(one|two)_shot_all_reduce|cross_device_reduce|(quick|custom)_all_?reduce"
    r"|moe_?distribute_?(dispatch|combine)|moe_?all_?to_?all|moe(Prepare|Comm)\w*Kernel|allreduce_fusion_kernel",
    re.IGNORECASE,
)
# Class of what a communication library runs; the first match counts.
_EXCHANGES: tuple[tuple[str, re.Pattern[str]], ...] = (
    ("all-to-all", re.compile(r"all_?to_?all|a2a|dispatch|combine|moe(Prepare|Comm)", re.IGNORECASE)),
    ("send and receive", re.compile(r"send|recv|receive|p2p", re.IGNORECASE)),
    ("collectives", re.compile("")),
)
# Class of a computation by its kernel's name; the first match counts.
_KERNELS: tuple[tuple[str, re.Pattern[str]], ...] = tuple(
    (name, re.compile(pattern, re.IGNORECASE))
    for name, pattern in (
        # generated kernels name everything that was fused into them; only templates are products themselves
        (OTHER, r"^triton_(poi|red|per|spl)_"),
        ("copy", r"^mem(cpy|set)|memcpy_async|h2d|d2h|tensor_?move|async_?copy"),
        ("optimizer", r"adam|multi_?tensor_?apply|sgd(?![a-z])|lamb(?!da)|clip_?grad|muon|adafactor|foreach"),
        (OTHER, r"elementwise_kernel|\breduce_kernel|bilinear|nonlinear|linear_?bias"),
        ("attention", r"flash|fmha|attention|attn|sdpa|\bmla_|flex_decod"),
        (
            "experts",
            r"group(ed|_)?_?(gemm|mat_?mul)|groupproblemshape|moe_?(gemm|ffn)|fused_?moe|GemmType\)[12]|m_grouped",
        ),
        (
            "linear",
            r"gemm|gemv|mat_?mul|cublas|cutlass|nvjet|xmma|linear|addmm|batch_?mm|splitk_?reduce|_(b?mm)(_|\b)|scaled_mm",
        ),
    )
)
# What the profiler itself says of a collective (``Collective name`` of c10d and torch_npu).
_COLLECTIVE_KEYS = ("Collective name", "collective_name")
# Classes of what a simulated step consists of, beside the operators that the costs name themselves.
SIMULATED = {
    "tp": "collectives", "cp": "collectives", "ep": "all-to-all", "send_forward": "send and receive",
    "send_backward": "send and receive", "grad_reduce": "collectives", "grad_norm": "collectives",
    "param_gather": "collectives", "fsdp_gather": "collectives", "fsdp_scatter": "collectives",
    "optimizer": "optimizer", "copy_out": "copy", "copy_in": "copy",
}  # fmt: skip
_KINETO_DEVICE = {"kernel", "gpu_memcpy", "gpu_memset"}
_MSPROF_DEVICE = re.compile(r"ascend hardware|^hccl|communication|npu", re.IGNORECASE)
_STEP = re.compile(r"ProfilerStep#([0-9]{1,15})(?![0-9])")
_LONGEST = 500  # characters of a name that are kept
_LATEST_US = 1e17


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


def classify(name: str, collective: str = "") -> str:
    """Class of an operator.

    Parameters
    ----------
    name : str
        Of its kernel.
    collective : str
        What the trace says that it carries out (``all_to_allv``, ``_allgather_base``), where it does.
    """
    if collective:
        return _exchange(collective)
    kernel = next((found for found, pattern in _KERNELS if pattern.search(name)), OTHER)
    # attention combines and dispatches the parts that it splits, and generated kernels name all that was fused
    if kernel == "attention" or name.startswith("triton_") or not _LIBRARY.search(name):
        return kernel
    return _exchange(name)


def _exchange(text: str) -> str:
    return next(found for found, pattern in _EXCHANGES if pattern.search(text))


def read_profile(path: Path | str) -> Profile:
    """Read a Kineto or msprof trace, compressed or not.

    Raises
    ------
    TraceError
        A file that is missing, damaged or too large, is no trace, has an event that cannot be, or holds nothing that
        ran on a device.
    """
    where = str(path)
    processes: dict[str, str] = {}
    kineto: list[tuple[float, float, str, str, str]] = []
    others: dict[str, list[tuple[float, float, str, str, str]]] = {}
    marks: dict[int, tuple[float, float]] = {}
    classes: dict[tuple[str, str], str] = {}
    for e in trace_events(Path(path)):
        args = _field(e, "args", dict, where) or {}
        phase, pid = e.get("ph"), str(e.get("pid"))[:_LONGEST]
        if phase == "M" and e.get("name") == "process_name":
            processes[pid] = str(args.get("name", ""))[:_LONGEST]
        if phase != "X":
            continue
        name = sys.intern((_field(e, "name", str, where) or "")[:_LONGEST])
        at, took = _time(e, "ts", where), _time(e, "dur", where)
        step = _STEP.search(name)
        if step is not None:
            mark = int(step.group(1))
            first, last = marks.get(mark, (at, at + took))
            marks[mark] = (min(first, at), max(last, at + took))
            continue
        stream = sys.intern(str(args.get("stream", args.get("Stream Id", e.get("tid", ""))))[:_LONGEST])
        key = name, next((str(args[k])[:_LONGEST] for k in _COLLECTIVE_KEYS if args.get(k)), "")
        if key not in classes:
            classes[key] = classify(*key)
        found = (at, took, name, stream, classes[key])
        if _field(e, "cat", str, where) in _KINETO_DEVICE:
            kineto.append(found)
        else:
            others.setdefault(pid, []).append(found)
    source = "kineto" if kineto else "msprof"
    events = kineto or [
        event
        for pid, found_ in others.items()
        if _MSPROF_DEVICE.search(processes.get(pid, ""))
        for event in found_
    ]
    if not events:
        raise TraceError(
            "nothing in the profile ran on a device",
            where=where,
            expected="events of category kernel (Kineto) or of the process Ascend Hardware (msprof)",
            hint="profile with ProfilerActivity.CUDA, or with the NPU activity of torch_npu",
        )
    return _profile(source, events, marks)


def _profile(
    source: str, events: list[tuple[float, float, str, str, str]], marks: dict[int, tuple[float, float]]
) -> Profile:
    events.sort()
    start = np.array([f[0] for f in events])
    taken = np.array([f[1] for f in events])
    origin = float(min(start.min(), *(first for first, _ in marks.values()))) if marks else float(start.min())
    steps = {
        n: ((first - origin) * 1e-6, (last - origin) * 1e-6) for n, (first, last) in sorted(marks.items())
    }
    if not steps:
        steps = {0: (0.0, float((start + taken).max() - origin) * 1e-6 + 1e-9)}
    return Profile(
        source=source,
        name=tuple(f[2] for f in events),
        operator=tuple(f[4] for f in events),
        stream=tuple(f[3] for f in events),
        start_s=(start - origin) * 1e-6,
        duration_s=taken * 1e-6,
        steps=steps,
    )


def _field(event: Mapping[str, Any], key: str, kind: type, where: str) -> Any:
    """A field of an event, None where it is absent."""
    value = event.get(key)
    if value is not None and not isinstance(value, kind):
        raise TraceError(
            f"the {key} of an event is {shown(value)}",
            where=where,
            expected="a text in quotes" if kind is str else "an object",
        )
    return value


def _time(event: Mapping[str, Any], key: str, where: str) -> float:
    """Microseconds of an event; msprof writes them as texts."""
    value = event.get(key, 0 if key == "dur" else None)
    kind = "duration" if key == "dur" else "time"
    try:
        # from 1970 in microseconds is 1.8e15; a duration of a day is none of a kernel
        least, most = (0.0, 86_400e6) if key == "dur" else (-_LATEST_US, _LATEST_US)
        return number(value, least=least, most=most, error=TraceError)
    except FullmeshError as error:
        raise TraceError(
            f"an event has the {kind} {shown(value)}",
            where=where,
            expected=error.expected.replace("number", "number of microseconds"),
        ) from None


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


# What stands in the task of the optimizer beside the optimizer, and the class that a trace shows it as.
_AFTER_PASSES = {"gradient reduction": "collectives", "parameter gather": "collectives"}


def simulated_operators(
    timeline: Timeline, costs: PipelineCosts, row: int, after_passes: Mapping[str, float] | None = None
) -> dict[str, float]:
    """Seconds of every class of operators on one row of a replay.

    ``unexplained`` is computation that the costs do not break down.

    Parameters
    ----------
    row : int
    after_passes : mapping of str to float, optional
        Shares of the time after the last pass, which the costs call the optimizer: the optimizer itself, traffic
        that never hides, what is fixed for every step.
    """
    graph = timeline.graph
    taken = timeline.taken_s
    mine = graph.rank == row
    out: dict[str, float] = {}

    def add(name: str, seconds: float) -> None:
        if seconds > 0:
            out[name] = out.get(name, 0.0) + seconds

    for k, kind in enumerate(b.KINDS):
        if kind not in SIMULATED:
            continue
        seconds = float(taken[mine & (graph.kind == k)].sum())
        if kind == "optimizer" and after_passes:
            for part, share in after_passes.items():
                add(_AFTER_PASSES.get(part, part), share * seconds)
        else:
            add(SIMULATED[kind], seconds)
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
    for task, field, whole in passes:
        tasks = np.flatnonzero(mine & (graph.kind == task))
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
    timeline: Timeline,
    costs: PipelineCosts,
    profile: Profile,
    *,
    step: int | None = None,
    row: int = 0,
    after_passes: Mapping[str, float] | None = None,
) -> list[OperatorDifference]:
    """Simulated against real seconds by class of operators, the largest difference first.

    Parameters
    ----------
    step : int, optional
        Of the profile; by default the last.
    row : int
        Row of the replay that corresponds to the profiled rank.
    after_passes : mapping of str to float, optional
        See :func:`simulated_operators`.
    """
    chosen = max(profile.steps) if step is None else step
    real: dict[str, float] = {}
    for i in profile.within(chosen).tolist():
        real[profile.operator[i]] = real.get(profile.operator[i], 0.0) + float(profile.duration_s[i])
    simulated = simulated_operators(timeline, costs, row, after_passes)
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

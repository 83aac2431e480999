"""What was measured of a run: a time, a rate, a log, a trace, or the tables of the Ascend profiler."""

from __future__ import annotations

import dataclasses
import re
import statistics
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from fullmesh.errors import FullmeshError, LaunchError, TraceError, shown
from fullmesh.plan import Plan
from fullmesh.reading import LARGEST_CSV_BYTES, csv_rows, read_text
from fullmesh.timeline.schedule.graph import Floats
from fullmesh.timeline.trace.measured import Profile, classify, read_profile
from fullmesh.values import number

_SECONDS = {"": 1.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "min": 60.0, "h": 3600.0}
# a step of a week is none
_LONGEST_S = 7 * 86_400.0
_ESCAPES = re.compile(r"\x1b\[[0-9;]{0,20}m")
_FIGURE = r"([0-9][0-9,]{0,15}(?:\.[0-9]{1,9})?)"
# the first steps compile, allocate and load
WARM_UP_STEPS = 2
# tables of torch_npu and of MindSpore's profiler
STEP_TABLE, KERNEL_TABLE, OPERATOR_TABLE = "step_trace_time.csv", "kernel_details.csv", "op_statistic.csv"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What is known of a run's speed.

    Parameters
    ----------
    step_s : float or None
    basis : str
        Where it comes from, in words.
    steps : int
        That it is the median of.
    classes : mapping of str to float
        Seconds of one device in a step by class of operators; empty without a profile.
    shares : mapping of str to float
        Seconds of a step in which the device computes, waits for communication, and does neither; empty where no
        table says so.
    """

    step_s: float | None
    basis: str
    steps: int = 1
    classes: Mapping[str, float] = dataclasses.field(default_factory=dict)
    shares: Mapping[str, float] = dataclasses.field(default_factory=dict)


def read_step_time(value: float | str) -> float:
    """A time with its unit: ``12.3s``, ``850 ms``; without one it is in seconds.

    Raises
    ------
    LaunchError
    """
    text = str(value).strip()
    found = re.fullmatch(r"([0-9]{1,9}(?:\.[0-9]{1,9})?(?:[eE][+-]?[0-9]{1,2})?)\s*([a-z]*)", text)
    if isinstance(value, bool) or found is None or found[2] not in _SECONDS:
        raise LaunchError(
            f"cannot read {shown(value)} as a time",
            where="--step-time",
            expected="a number with s, ms or min",
            hint="for instance 12.3s",
        )
    return _step(float(found[1]) * _SECONDS[found[2]], "--step-time")


def read_rate(value: float | str, plan: Plan) -> float:
    """Seconds of a step from the tokens that the whole run trains on in a second.

    Raises
    ------
    LaunchError
    """
    text = str(value).strip().replace(",", "")
    try:
        rate = number(text, least=0.0, error=LaunchError)
    except FullmeshError:
        rate = 0.0
    if not rate > 0:
        raise LaunchError(
            f"cannot read {shown(value)} as tokens a second",
            where="--tokens-per-s",
            expected="a number above 0, of all devices together",
        )
    return _step(plan.gbs * plan.seq / rate, "--tokens-per-s")


def _step(seconds: float, where: str) -> float:
    if not 1e-6 <= seconds <= _LONGEST_S:
        raise LaunchError(
            f"a step of {seconds:.3g} s", where=where, expected="a step of a microsecond to a week"
        )
    return seconds


# --- logs --------------------------------------------------------------------------------------------------------

# framework, what stands in a line, and seconds of a step from the figure
_LOGS: tuple[tuple[str, re.Pattern[str], Callable[[float, Plan], float]], ...] = (
    (
        "Megatron",
        re.compile(rf"elapsed time per iteration \(ms\): *{_FIGURE}"),
        lambda figure, plan: figure * 1e-3,
    ),
    ("MindFormers", re.compile(rf"per_step_time: *{_FIGURE} *ms"), lambda figure, plan: figure * 1e-3),
    (
        "torchtitan",
        re.compile(rf"\btps: *{_FIGURE}"),
        lambda figure, plan: plan.gbs * plan.seq / (figure * plan.num_devices),
    ),
    ("DeepSpeed", re.compile(rf"iter time \(s\): *{_FIGURE}"), lambda figure, plan: figure),
    (
        "DeepSpeed",
        re.compile(rf"CurrSamplesPerSec={_FIGURE}"),
        lambda figure, plan: plan.gbs / figure,
    ),
    ("Megatron-Bridge", re.compile(rf"Step Time *: *{_FIGURE} *s"), lambda figure, plan: figure),
)


def read_log(path: Path, plan: Plan) -> Measured:
    """The median step of a log, its first steps left out.

    Raises
    ------
    LaunchError
        The file cannot be read, or no line has the time of a step.
    """
    text = read_text(
        path, what="the log", most_bytes=LARGEST_CSV_BYTES, error=LaunchError, expected="a text file"
    )
    text = _ESCAPES.sub("", text)
    for framework, pattern, seconds in _LOGS:
        figures = [float(f.replace(",", "")) for f in pattern.findall(text)]
        times = [seconds(f, plan) for f in figures if f > 0]
        if not times:
            continue
        kept = times[WARM_UP_STEPS:] or times[-1:]
        return Measured(
            step_s=_step(statistics.median(kept), str(path)),
            basis=f"median of {len(kept):,} steps of a log of {framework}",
            steps=len(kept),
        )
    raise LaunchError(
        "no line of the log has the time of a step",
        where=str(path),
        expected="'elapsed time per iteration (ms)', 'per_step_time', 'tps', 'iter time (s)' or 'CurrSamplesPerSec'",
        hint="give the time itself with --step-time",
    )


# --- profiles ----------------------------------------------------------------------------------------------------


def read_measured_profile(path: Path) -> Measured:
    """Classes of operators in one step, from a trace or from a folder of the Ascend profiler's tables.

    Raises
    ------
    LaunchError, TraceError
    """
    try:
        folder = path.is_dir()
    except (OSError, ValueError):
        folder = False
    return _of_folder(path) if folder else _of_trace(read_profile(path))


def _of_trace(profile: Profile) -> Measured:
    step = max(profile.steps)
    first, last = profile.steps[step]
    classes: dict[str, float] = {}
    for i in profile.within(step).tolist():
        name = profile.operator[i]
        classes[name] = classes.get(name, 0.0) + float(profile.duration_s[i])
    marked = len(profile.steps) > 1 or step != 0
    return Measured(
        step_s=last - first if marked else None,
        basis=f"step {step} of a trace",
        classes=classes,
        shares=_shares(profile, step) if marked else {},
    )


def _shares(profile: Profile, step: int) -> dict[str, float]:
    """Seconds in which a device computes, only communicates, and does neither."""
    first, last = profile.steps[step]
    inside = profile.within(step)
    communicates = np.array([profile.operator[i] in _EXCHANGES for i in inside.tolist()], dtype=bool)
    start = profile.start_s[inside]
    end = np.minimum(start + profile.duration_s[inside], last)
    busy = _covered(start, end)
    computing = _covered(start[~communicates], end[~communicates])
    return {"computing": computing, "communication": busy - computing, "idle": max(0.0, last - first - busy)}


_EXCHANGES = ("collectives", "all-to-all", "send and receive")


def _covered(start: Floats, end: Floats) -> float:
    """Length of the union of intervals."""
    if not len(start):
        return 0.0
    order = np.argsort(start, kind="stable")
    start, latest = start[order], np.maximum.accumulate(end[order])
    before = np.concatenate(([start[0]], latest[:-1]))
    return float(np.maximum(latest - np.maximum(start, before), 0.0).sum())


def _of_folder(folder: Path) -> Measured:
    """The tables may lie in the folder or in ``ASCEND_PROFILER_OUTPUT`` below it."""
    places = [folder, folder / "ASCEND_PROFILER_OUTPUT"]
    names = (STEP_TABLE, KERNEL_TABLE, OPERATOR_TABLE)
    found = {name: place / name for name in names for place in reversed(places) if (place / name).is_file()}
    if not found:
        raise LaunchError(
            "the folder holds no table of the Ascend profiler",
            where=str(folder),
            expected="one of " + ", ".join(names),
            hint="name the folder ASCEND_PROFILER_OUTPUT, or a trace file",
        )
    shares, step_s, steps = _step_table(found[STEP_TABLE]) if STEP_TABLE in found else ({}, None, 1)
    classes: dict[str, float] = {}
    if KERNEL_TABLE in found:
        classes = _kernel_table(found[KERNEL_TABLE])
    elif OPERATOR_TABLE in found:
        classes = {k: v / steps for k, v in _operator_table(found[OPERATOR_TABLE]).items()}
    named = " and ".join(sorted(path.name for path in found.values()))
    return Measured(step_s=step_s, basis=f"{named} of the Ascend profiler", classes=classes, shares=shares)


def _step_table(path: Path) -> tuple[dict[str, float], float | None, int]:
    """Shares and length of a step, and how many steps there are: the last step without a zero."""
    needed = ("Computing", "Communication(Not Overlapped)", "Free")
    rows = [
        [_microseconds(fields[name], f"{path}:{line}") for name in needed]
        for line, fields in csv_rows(path, required=needed, error=LaunchError, what="the table of steps")
    ]
    if not rows:
        raise LaunchError("the table of steps has no rows", where=str(path))
    middle = [statistics.median(column) for column in zip(*rows, strict=True)]
    computing, communication, idle = middle
    total = sum(middle)
    shares = {"computing": computing, "communication": communication, "idle": idle}
    return shares, _step(total, str(path)) if total > 0 else None, len(rows)


def _kernel_table(path: Path) -> dict[str, float]:
    """Seconds by class, a step on average where steps are told apart."""
    needed = ("Name", "Duration(us)")
    out: dict[str, float] = {}
    steps: set[str] = set()
    classes: dict[tuple[str, str], str] = {}
    for line, fields in csv_rows(path, required=needed, error=LaunchError, what="the table of kernels"):
        seconds = _microseconds(fields["Duration(us)"], f"{path}:{line}")
        steps.add(fields.get("Step Id", fields.get("Step ID", "")))
        key = fields["Name"][:500], fields.get("Type", "")[:500]
        if key not in classes:
            classes[key] = _class_of(*key)
        out[classes[key]] = out.get(classes[key], 0.0) + seconds
    return {name: seconds / max(1, len(steps)) for name, seconds in out.items()}


def _operator_table(path: Path) -> dict[str, float]:
    """Seconds by class, over all steps."""
    needed = ("OP Type", "Total Time(us)")
    out: dict[str, float] = {}
    for line, fields in csv_rows(path, required=needed, error=LaunchError, what="the table of operators"):
        name = _class_of(fields["OP Type"][:500], "")
        out[name] = out.get(name, 0.0) + _microseconds(fields["Total Time(us)"], f"{path}:{line}")
    return out


def _class_of(name: str, kind: str) -> str:
    """By the type of the operator where that says more than the name of its kernel."""
    plain = classify(name)
    return classify(kind) if kind and plain == classify("") else plain


def _microseconds(text: str, where: str) -> float:
    try:
        return (
            number(text.strip() or "0", least=0.0, most=_LONGEST_S * 1e6, where=where, error=TraceError)
            * 1e-6
        )
    except FullmeshError:
        raise LaunchError(
            f"{shown(text, 60)} is no time", where=where, expected="microseconds from 0 on"
        ) from None

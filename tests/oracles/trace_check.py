"""The rules of the Chrome-trace format that viewers rely on, as a check."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

# Viewers compare times as doubles in microseconds; half a nanosecond is equal.
_SAME_US = 5e-4


def check_trace(document: Mapping[str, object]) -> list[str]:
    """What is wrong with a trace; nothing if all is well.

    Checked are: required fields and their types, order by time, slices of a thread that only nest, arrows that begin
    and end inside a slice and never point back in time, counters that are numbers, a name for every process and thread.
    """
    events = document.get("traceEvents")
    if not isinstance(events, list):
        return ["there is no list of traceEvents"]
    wrong: list[str] = []
    slices: dict[tuple[object, object], list[tuple[float, float, str]]] = defaultdict(list)
    flows: dict[tuple[object, object], list[tuple[str, float, object, object]]] = defaultdict(list)
    processes, threads = set(), set()
    used: set[tuple[object, object]] = set()
    last = -float("inf")
    for i, event in enumerate(events):
        phase = event.get("ph")
        missing = [f for f in ("ph", "pid", "name") if f not in event]
        if missing:
            wrong.append(f"event {i} has no {', '.join(missing)}")
            continue
        if phase == "M":
            if event["name"] == "process_name":
                processes.add(event["pid"])
            elif event["name"] == "thread_name":
                threads.add((event["pid"], event.get("tid")))
            continue
        at = event.get("ts")
        if not isinstance(at, (int, float)) or at != at or at < 0:
            wrong.append(f"event {i} ({event['name']}) has the time {at!r}")
            continue
        if at < last:
            wrong.append(f"event {i} ({event['name']}) is earlier than the one before it")
        last = at
        where = (event["pid"], event.get("tid"))
        if phase == "X":
            duration = event.get("dur")
            if not isinstance(duration, (int, float)) or duration < 0:
                wrong.append(f"slice {i} ({event['name']}) has the duration {duration!r}")
                continue
            slices[where].append((at, at + duration, str(event["name"])))
            used.add(where)
        elif phase in ("s", "t", "f"):
            if "id" not in event:
                wrong.append(f"arrow {i} has no id")
                continue
            flows[(event.get("cat"), event["id"])].append((str(phase), at, *where))
        elif phase == "C":
            args = event.get("args")
            if not isinstance(args, dict) or not args:
                wrong.append(f"counter {i} ({event['name']}) has no values")
            elif not all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in args.values()):
                wrong.append(f"counter {i} ({event['name']}) has values that are no numbers")
        else:
            wrong.append(f"event {i} ({event['name']}) is of the unknown phase {phase!r}")
    for pid, tid in sorted(used, key=str):
        if pid not in processes:
            wrong.append(f"process {pid} has no name")
        if (pid, tid) not in threads:
            wrong.append(f"thread {tid} of process {pid} has no name")
    for where, found in slices.items():
        wrong += _nesting(where, found)
    wrong += _arrows(flows, slices)
    return wrong


def _nesting(where: tuple[object, object], found: Sequence[tuple[float, float, str]]) -> list[str]:
    wrong = []
    open_slices: list[tuple[float, float, str]] = []
    for start, end, name in found:
        while open_slices and open_slices[-1][1] <= start + _SAME_US:
            open_slices.pop()
        if open_slices and end > open_slices[-1][1] + _SAME_US:
            wrong.append(
                f"{name!r} at {start} overlaps {open_slices[-1][2]!r} on thread {where} without nesting"
            )
        open_slices.append((start, end, name))
    return wrong


def _arrows(
    flows: Mapping[tuple[object, object], Sequence[tuple[str, float, object, object]]],
    slices: Mapping[tuple[object, object], Sequence[tuple[float, float, str]]],
) -> list[str]:
    import bisect

    starts = {where: [s[0] for s in found] for where, found in slices.items()}
    wrong = []
    for key, points in flows.items():
        phases = sorted(p[0] for p in points)
        if phases.count("s") != 1 or phases.count("f") != 1:
            wrong.append(f"arrow {key} has the points {phases}")
            continue
        begin = next(p for p in points if p[0] == "s")
        finish = next(p for p in points if p[0] == "f")
        if finish[1] < begin[1]:
            wrong.append(f"arrow {key} points back in time")
        for point in points:
            where = (point[2], point[3])
            at = bisect.bisect_right(starts.get(where, []), point[1] + _SAME_US) - 1
            # the enclosing slice may be a parent that began earlier
            inside = any(
                slices[where][k][0] - _SAME_US <= point[1] <= slices[where][k][1] + _SAME_US
                for k in range(at, max(at - 64, -1), -1)
            )
            if not inside:
                wrong.append(f"arrow {key} is bound to no slice on thread {where}")
    return wrong

"""Faults that happened: a log of one's own (CSV), or a public trace (JSON of events), node by node."""

from __future__ import annotations

import dataclasses
import datetime
import re
from collections import defaultdict
from pathlib import Path
from typing import Any

from fullmesh.catalog.facts import read_csv
from fullmesh.catalog.faults import DOMAINS
from fullmesh.errors import CatalogError, shown
from fullmesh.reading import LARGEST_JSON_BYTES, parse_json, read_text
from fullmesh.values import number

DAY_S = 86_400.0
COLUMNS = ("node", "start", "end", "cause", "detail")
_OPTIONAL = ("end", "cause", "detail")
_HINT = "docs/reference.md describes fault logs"
# planned work is no fault
PLANNED = "planned"
# words of a cause or its detail -> domain; the first that matches counts
_WORDS: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"silent|data corruption|\bsdc\b"), "silent"),
    (re.compile(r"\bchange\b|maintenance|\btest\b(?! failure)|taken offline|planned"), PLANNED),
    (re.compile(r"straggl|slow node"), "straggler"),
    (re.compile(r"\becc\b|\bhbm\b|\bdbe\b|\bsbe\b"), "package"),
    (re.compile(r"\bgpu\b|\bnpu\b|\bxid\b|accelerator|aicore"), "die"),
    (re.compile(r"flap"), "flap"),
    (re.compile(r"\bnic\b|rnic|rdma|network card"), "nic"),
    (re.compile(r"\bcable\b|optical|transceiver|link down"), "cable"),
    (re.compile(r"power|\bpsu\b"), "power"),
    (re.compile(r"coolant|\bcdu\b|leak"), "coolant"),
    (re.compile(r"\bswitch\b"), "switch"),
    (re.compile(r"motherboard|riser|raid|baseboard|chassis|\bboard\b"), "board"),
    (
        re.compile(r"software|kernel|firmware|kubelet|file system|\bfs\b|operating system|troubleshooting"),
        "software",
    ),
    (re.compile(r"\bother failures\b"), "software"),
)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class NodeFault:
    """One fault of one node.

    Parameters
    ----------
    node : str
    start_s : float
        Since the log began.
    end_s : float or None
        When the node was back; None where it was not when the log ended.
    domain : str
        One of ``DOMAINS``, or ``planned``.
    cause : str
        As the log says.
    """

    node: str
    start_s: float
    end_s: float | None
    domain: str
    cause: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class FaultLog:
    """Faults in order of time.

    Parameters
    ----------
    faults : tuple of NodeFault
    nodes : tuple of str
        Nodes that had any.
    span_s : float
        From the beginning to the last event.
    name : str
    """

    faults: tuple[NodeFault, ...]
    nodes: tuple[str, ...]
    span_s: float
    name: str


def domain_of(cause: str, detail: str = "") -> str:
    """The domain that a cause names: itself where it is one, else by its words, else the node as a whole."""
    if cause.strip().lower() in DOMAINS:
        return cause.strip().lower()
    text = f"{cause} {detail}".lower()
    return next((domain for words, domain in _WORDS if words.search(text)), "node")


def read_fault_log(path: str | Path) -> FaultLog:
    """Read a fault log: CSV with node, start and end, or a JSON list of events as public traces have it.

    Raises
    ------
    CatalogError
        The file cannot be read, a time is no time, a fault ends before it starts; with file and line.
    """
    path = Path(path)
    found = _from_json(path) if path.suffix.lower() == ".json" else _from_csv(path)
    if not found:
        raise CatalogError("the log has no fault", where=str(path), hint=_HINT)
    found.sort(key=lambda f: (f.start_s, f.node))
    span = max(max(f.start_s, f.end_s or 0.0) for f in found)
    return FaultLog(
        faults=tuple(found),
        nodes=tuple(sorted({f.node for f in found})),
        span_s=span,
        name=path.name,
    )


def _time_s(text: str, where: str) -> float:
    """Days as a number, or a date with a time."""
    try:
        when = datetime.datetime.fromisoformat(text)
    except ValueError:
        days = number(
            text, where=where, least=0.0, most=1e6, error=CatalogError,
            hint="days since the log began, or a date such as 2026-03-01T12:30",
        )  # fmt: skip
        return days * DAY_S
    if when.tzinfo is None:
        when = when.replace(tzinfo=datetime.UTC)
    return when.timestamp()


def _from_csv(path: Path) -> list[NodeFault]:
    out = []
    for line, row in read_csv(path, COLUMNS, _OPTIONAL):
        where = f"{path}:{line}"
        if not row["node"]:
            raise CatalogError("column 'node' is empty", where=where, expected="a name of the node")
        start = _time_s(row["start"], where)
        end = _time_s(row["end"], where) if row.get("end") else None
        if end is not None and end < start:
            raise CatalogError("the fault ends before it starts", where=where, expected="start <= end")
        cause, detail = row.get("cause", ""), row.get("detail", "")
        out.append(
            NodeFault(
                node=row["node"], start_s=start, end_s=end, domain=domain_of(cause, detail), cause=cause
            )
        )
    first = min((f.start_s for f in out), default=0.0)
    if first > 1e6 * DAY_S / 100:  # dates: the log begins with its first fault
        out = [
            dataclasses.replace(
                f, start_s=f.start_s - first, end_s=None if f.end_s is None else f.end_s - first
            )
            for f in out
        ]
    return out


def _from_json(path: Path) -> list[NodeFault]:
    text = read_text(
        path, what="the fault log", most_bytes=LARGEST_JSON_BYTES, error=CatalogError, hint=_HINT
    )
    data = parse_json(text, where=str(path), error=CatalogError, expected="a list of events", hint=_HINT)
    if not isinstance(data, list):
        raise CatalogError("the log is no list", where=str(path), expected="a list of events", hint=_HINT)
    open_faults: dict[tuple[str, str], list[tuple[float, str, str]]] = defaultdict(list)
    out: list[NodeFault] = []
    events = [_event(entry, f"{path}: event {i + 1:,}") for i, entry in enumerate(data)]
    for time_s, starts, node, cause, detail in sorted(events, key=lambda e: (e[0], not e[1])):
        key = (node, f"{cause}/{detail}")
        if starts:
            open_faults[key].append((time_s, cause, detail))
        elif open_faults[key]:
            start, _, _ = open_faults[key].pop(0)
            out.append(_fault(node, start, time_s, cause, detail))
    for (node, _), left in open_faults.items():
        out += [_fault(node, start, None, cause, detail) for start, cause, detail in left]
    return out


def _fault(node: str, start_s: float, end_s: float | None, cause: str, detail: str) -> NodeFault:
    return NodeFault(node=node, start_s=start_s, end_s=end_s, domain=domain_of(cause, detail), cause=cause)


def _event(entry: Any, where: str) -> tuple[float, bool, str, str, str]:
    if not isinstance(entry, dict):
        raise CatalogError(f"{shown(entry)} is no event", where=where, hint=_HINT)
    kind, node = entry.get("event_type"), entry.get("node_id")
    if kind not in ("fault_start", "fault_end") or not isinstance(node, str | int) or isinstance(node, bool):
        raise CatalogError(
            "an event is not readable",
            where=where,
            expected="node_id, event_time in days, event_type fault_start or fault_end",
            hint=_HINT,
        )
    days = number(entry.get("event_time"), where=where, least=0.0, most=1e6, error=CatalogError)
    what = entry.get("fault_type")
    words = what if isinstance(what, dict) else {"Class": what or ""}
    return (
        days * DAY_S,
        kind == "fault_start",
        str(node),
        str(words.get("Class", "")),
        str(words.get("Desc", "")),
    )

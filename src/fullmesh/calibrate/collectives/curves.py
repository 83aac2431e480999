"""Curves of measured times, one for each machine, library, operation and number of ranks: the profile's ``times``.

Each curve is fitted to the logarithm of its times. Held out, and never seen by a fit: every curve of a middle number
of ranks (4 of 2, 4, 8; and so on), the curves of another publisher where they repeat a configuration, and every third
size of every fitted curve.
"""

from __future__ import annotations

import collections
import dataclasses
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from fullmesh.calibrate.collectives.points import DTYPE_BYTES, NCCL_SYSTEMS, number, read_rows
from fullmesh.catalog.facts import one_of
from fullmesh.errors import ResultsError
from fullmesh.files import write_text
from fullmesh.network.curves import POINTS, Curve, Point, points, predict
from fullmesh.network.wiring.links import FloatArray

AIC = "aiconfigurator-core 0.12.0 (NVIDIA, Apache-2.0)"
MODEL = "seconds = floor_s + bytes / bytes_per_s + slope * bytes ** power"
#: The machines whose DeepEP tables a folder may hold, by the end of the file's name.
DEEPEP_SYSTEMS = {"h100": "dgx-h100", "h200": "dgx-h200"}
HELD_RANKS = {
    "nccl": {4},
    "deepep": {32},
    "deepep-ll": {32},
    "nvl72-moe": {8, 32},
    "sgl-ep": {16, 64},
}


def gather(folder: Path) -> list[Point]:
    """The measured points to fit on; ``fitted`` still says nothing.

    Points of the tables that the folder holds, and the shipped points of everything else.

    Raises
    ------
    ResultsError
        The folder holds none of the tables, or one cannot be read.
    """
    found: list[Point] = []
    for name, reader in _READERS.items():
        if (folder / name).is_file():
            found += reader(folder / name)
    if not found:
        raise ResultsError(
            "no table of measured times", where=str(folder), expected="one of " + ", ".join(_READERS)
        )
    measured = {(p.machine, p.family) for p in found}
    kept = [p for p in points() if p.source != AIC or (p.machine, p.family) not in measured]
    return found + [dataclasses.replace(p, fitted=False) for p in kept]


def _point(machine: str, family: str, kind: str, ranks: float, size: float, seconds: float) -> Point:
    return Point(
        machine=machine,
        family=family,
        kind=kind,
        ranks=int(ranks),
        num_bytes=size,
        seconds=seconds,
        fitted=False,
        source=AIC,
    )


def _nccl(path: Path) -> Iterator[Point]:
    """The newest release of each system."""
    rows = [
        (line, r)
        for line, r in read_rows(path, ("system", "nccl", "op_name", "num_gpus", "bytes", "latency_us"))
        if r["system"] in NCCL_SYSTEMS
    ]
    newest: dict[str, tuple[int, ...]] = {}
    for _, r in rows:
        newest[r["system"]] = max(newest.get(r["system"], ()), _release(r["nccl"]))
    for line, r in rows:
        if _release(r["nccl"]) == newest[r["system"]]:
            ranks, size, latency_us = _numbers(r, line, path, "num_gpus", "bytes", "latency_us")
            kind = r["op_name"].replace("alltoall", "all_to_all")
            yield _point(NCCL_SYSTEMS[r["system"]][0], "nccl", kind, ranks, size, latency_us * 1e-6)


def _release(text: str) -> tuple[int, ...]:
    return tuple(int(part) if re.fullmatch("[0-9]{1,9}", part) else 0 for part in text.split("."))


def _numbers(row: dict[str, str], line: int, path: Path, *keys: str) -> tuple[float, ...]:
    return tuple(number(row, key, f"{path.name}:{line}") for key in keys)


_NVL72 = ("num_tokens", "hidden_size", "topk", "moe_ep_size", "latency")


def _nvl72(path: Path) -> Iterator[Point]:
    for line, r in read_rows(path, ("op_name", "kernel_source", "moe_dtype", *_NVL72)):
        if r["op_name"] == "alltoall_prepare":
            continue
        tokens, hidden, topk, ranks, latency_ms = _numbers(r, line, path, *_NVL72)
        operation = r["op_name"].removeprefix("alltoall_")
        kind = f"{operation} {r['kernel_source'].removeprefix('NVLink')} {r['moe_dtype']}"
        dtype = one_of(r["moe_dtype"], tuple(DTYPE_BYTES), "moe_dtype", f"{path.name}:{line}")
        size = tokens * hidden * topk * DTYPE_BYTES[dtype]
        yield _point("gb200-nvl72", "nvl72-moe", kind, ranks, size, latency_ms * 1e-3)


_TOKENS = ("node_num", "num_token", "hidden_size", "num_topk")


def _deepep(path: Path) -> Iterator[Point]:
    """Normal kernels, on 20 streaming multiprocessors."""
    machine = DEEPEP_SYSTEMS[path.stem.rsplit("_", 1)[-1]]
    times = {"dispatch": "dispatch_transmit_us", "combine": "combine_transmit_us"}
    for line, r in read_rows(path, (*_TOKENS, *times.values(), "dispatch_sms", "combine_sms")):
        for operation, column in times.items():
            if r[f"{operation}_sms"] == "20":
                yield _exchange(machine, "deepep", operation, _numbers(r, line, path, *_TOKENS, column))


def _deepep_low_latency(path: Path) -> Iterator[Point]:
    machine = DEEPEP_SYSTEMS[path.stem.rsplit("_", 1)[-1]]
    times = {"dispatch": "dispatch_avg_t_us", "combine": "combine_avg_t_us"}
    for line, r in read_rows(path, (*_TOKENS, *times.values())):
        for operation, column in times.items():
            yield _exchange(machine, "deepep-ll", operation, _numbers(r, line, path, *_TOKENS, column))


def _exchange(machine: str, family: str, operation: str, numbers: tuple[float, ...]) -> Point:
    """A dispatch in FP8 or a combine in BF16 of eight ranks a node, every token counted once for each expert."""
    nodes, tokens, hidden, topk, microseconds = numbers
    width = DTYPE_BYTES["fp8" if operation == "dispatch" else "bfloat16"]
    return _point(machine, family, operation, 8 * nodes, tokens * hidden * topk * width, microseconds * 1e-6)


_READERS = {
    "nccl_intra_node.csv": _nccl,
    "nvl72_moe_alltoall.csv": _nvl72,
    **{f"deepep_normal_{chip}.csv": _deepep for chip in DEEPEP_SYSTEMS},
    **{f"deepep_low_latency_{chip}.csv": _deepep_low_latency for chip in DEEPEP_SYSTEMS},
}


def _model(x: FloatArray, size: FloatArray) -> FloatArray:
    return np.asarray(np.exp(x[0]) + size / np.exp(x[1]) + np.exp(x[2]) * size ** (0.9 / (1 + np.exp(-x[3]))))


def fit_curve(points: list[Point]) -> Curve:
    """Least squares on the logarithm of the time, robust, from three starts."""
    from scipy.optimize import least_squares

    size = np.array([p.num_bytes for p in points])
    seconds = np.array([p.seconds for p in points])
    order = np.argsort(size)
    size, seconds = size[order], seconds[order]
    sizes = len(np.unique(size))
    first = points[0]
    if (
        sizes < 4
    ):  # too few sizes for four numbers: a floor as small as the wire of the largest message leaves it
        floor = float(seconds.min() * 0.2) if sizes > 1 else 0.0
        rate = float(size[-1] / max(seconds[-1] - floor, 1e-9))
        x = np.array([np.log(max(floor, 1e-12)), np.log(rate), -60.0, 0.0])
    else:
        fastest = float(np.log(2 * (size / seconds).max()))
        bounds = ([-np.inf, -np.inf, -np.inf, -6.0], [np.inf, fastest, np.inf, 6.0])
        best = None
        for power in (-1.0, 0.0, 1.5):
            start = np.array([np.log(seconds.min()), np.log(size[-1] / seconds[-1]), np.log(1e-9), power])
            found = least_squares(
                lambda v: np.log(_model(v, size) / seconds),
                start,
                bounds=bounds,
                loss="soft_l1",
                f_scale=0.05,
                max_nfev=2000,
            )
            if best is None or found.cost < best.cost:
                best = found
        assert best is not None
        x = best.x
    error = float(np.median(np.abs(_model(x, size) / seconds - 1)))
    return Curve(
        machine=first.machine,
        family=first.family,
        kind=first.kind,
        ranks=first.ranks,
        floor_s=float(f"{np.exp(x[0]):.6g}"),
        bytes_per_s=float(f"{np.exp(x[1]):.6g}"),
        slope=float(f"{np.exp(x[2]):.6g}"),
        power=float(f"{0.9 / (1 + np.exp(-x[3])):.6g}"),
        low_bytes=float(size[0]),
        high_bytes=float(size[-1]),
        num_points=len(points),
        median_error=float(f"{error:.4g}"),
    )


def fit(points: list[Point]) -> tuple[list[Curve], list[Point]]:
    """Curves, and all points marked by whether a curve has seen them."""
    groups: dict[tuple[str, str, str, int], list[Point]] = collections.defaultdict(list)
    for p in points:
        groups[(p.machine, p.family, p.kind, p.ranks)].append(p)
    spans: dict[tuple[str, str, str], set[int]] = collections.defaultdict(set)
    for machine, family, kind, ranks in groups:
        spans[(machine, family, kind)].add(ranks)
    curves: list[Curve] = []
    marked: list[Point] = []
    for (machine, family, kind, ranks), members in sorted(groups.items()):
        span = spans[(machine, family, kind)]
        middle = ranks in HELD_RANKS.get(family, set()) and min(span) < ranks < max(span)
        own = [p for p in members if not p.source.startswith("dgxc")]
        other = [p for p in members if p.source.startswith("dgxc")]
        ordered = sorted(own, key=lambda p: p.num_bytes)
        seen = [] if middle else [p for i, p in enumerate(ordered) if len(ordered) < 6 or i % 3 != 1]
        if seen:
            curves.append(fit_curve(seen))
        chosen = set(map(id, seen))
        marked += [dataclasses.replace(p, fitted=id(p) in chosen) for p in ordered] + other
    return curves, marked


def fit_times(points: list[Point]) -> tuple[dict[str, Any], list[Point]]:
    """The profile's section of curves, and the points marked by whether a curve has seen them.

    Points that no curve speaks of are left out.
    """
    curves, marked = fit(points)
    shown = [p for p in marked if _predicted(p, tuple(curves)) is not None]
    section = {
        "model": MODEL,
        "notice": f"NCCL, DeepEP and NVL72 curves derive from {AIC}; see NOTICE",
        "residuals": _residuals(shown, tuple(curves)),
        "curves": [dataclasses.asdict(c) for c in curves],
    }
    return section, shown


def _predicted(p: Point, curves: tuple[Curve, ...]) -> float | None:
    return predict(p.machine, p.family, p.kind, p.ranks, p.num_bytes, among=curves)


def _residuals(shown: list[Point], curves: tuple[Curve, ...]) -> dict[str, dict[str, float]]:
    out = {}
    for role, flag in (("fit", True), ("hold", False)):
        error = [abs((_predicted(p, curves) or np.nan) / p.seconds - 1) for p in shown if p.fitted is flag]
        if error:
            out[role] = {
                "points": len(error),
                "median_error": round(float(np.median(error)), 4),
                "p90_error": round(float(np.quantile(error, 0.9)), 4),
            }
    return out


def write_points(shown: list[Point], path: Path = POINTS) -> None:
    """Write measured points whole or not at all."""
    lines = [
        f"# measured points; NCCL, DeepEP and NVL72 rows are a rounded subset of {AIC}",
        "# fitted = 1 where a curve has seen the point",
        "machine,family,kind,ranks,bytes,seconds,fitted,source",
    ]
    for p in shown:
        cells = (
            p.machine,
            p.family,
            p.kind,
            p.ranks,
            f"{p.num_bytes:.10g}",
            f"{p.seconds:.5g}",
            int(p.fitted),
        )
        lines.append(",".join(map(str, cells)) + f',"{p.source}"')
    write_text(path, "\n".join(lines) + "\n")

"""Fit the shipped profile of measured collectives: ``python -m fullmesh.calibrate.collectives.curves FOLDER``.

The folder holds ``fabric_tables.json`` and ``measured/*.csv``. Each curve is fitted to the logarithm of its times. Held
out, and never seen by a fit: every curve of a middle number of ranks (4 of 2, 4, 8; and so on), the curves of another
publisher where they repeat a configuration, and every third size of every fitted curve.
"""

from __future__ import annotations

import collections
import csv
import dataclasses
import datetime
import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np

from fullmesh.data import DATA_DIR
from fullmesh.errors import FullmeshError, ResultsError
from fullmesh.network.curves import Curve, Point, predict
from fullmesh.network.wiring.links import FloatArray

SYSTEMS = {
    "a100_sxm": "dgx-a100",
    "h100_sxm": "dgx-h100",
    "h200_sxm": "dgx-h200",
    "b200_sxm": "dgx-b200",
    "b300_sxm": "dgx-b300",
    "gb200": "gb200-nvl72",
    "gb300": "gb300-nvl72",
}
AIC = "aiconfigurator-core 0.12.0 (NVIDIA, Apache-2.0)"
HELD_RANKS = {
    "nccl": {4},
    "deepep": {32},
    "deepep-ll": {32},
    "nvl72-moe": {8, 32},
    "sgl-ep": {16, 64},
}


def _rows(path: Path) -> list[dict[str, str]]:
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ResultsError(f"cannot read the table: {error}", where=str(path)) from None
    return list(csv.DictReader(line for line in text.splitlines() if not line.startswith("#")))


def gather(folder: Path) -> list[Point]:
    """All measured points of a folder; ``fitted`` still says nothing."""
    out: list[Point] = []

    def add(
        machine: str, family: str, kind: str, ranks: int, size: float, seconds: float, source: str
    ) -> None:
        out.append(
            Point(
                machine=machine,
                family=family,
                kind=kind,
                ranks=ranks,
                num_bytes=size,
                seconds=seconds,
                fitted=False,
                source=source,
            )
        )

    rows = _rows(folder / "measured" / "nccl_intra_node.csv")
    newest = {
        s: max(tuple(map(int, r["nccl"].split("."))) for r in rows if r["system"] == s) for s in SYSTEMS
    }
    for r in rows:
        if r["system"] in SYSTEMS and tuple(map(int, r["nccl"].split("."))) == newest[r["system"]]:
            kind = r["op_name"].replace("alltoall", "all_to_all")
            add(
                SYSTEMS[r["system"]],
                "nccl",
                kind,
                int(r["num_gpus"]),
                float(r["bytes"]),
                float(r["latency_us"]) * 1e-6,
                AIC,
            )
    for r in _rows(folder / "measured" / "nvl72_moe_alltoall.csv"):
        if r["op_name"] == "alltoall_prepare":
            continue
        width = {"bfloat16": 2.0, "fp8": 1.0, "nvfp4": 0.5625}[r["moe_dtype"]]
        size = float(r["num_tokens"]) * float(r["hidden_size"]) * float(r["topk"]) * width
        kind = f"{r['op_name'].removeprefix('alltoall_')} {r['kernel_source'].removeprefix('NVLink')} {r['moe_dtype']}"
        add("gb200-nvl72", "nvl72-moe", kind, int(r["moe_ep_size"]), size, float(r["latency"]) * 1e-3, AIC)
    for chip, machine in (("h100", "dgx-h100"), ("h200", "dgx-h200")):
        for r in _rows(folder / "measured" / f"deepep_normal_{chip}.csv"):
            for op, width in (("dispatch", 1.0), ("combine", 2.0)):
                if r[f"{op}_sms"] != "20":
                    continue
                size = float(r["num_token"]) * float(r["hidden_size"]) * float(r["num_topk"]) * width
                ranks = 8 * int(r["node_num"])
                add(machine, "deepep", op, ranks, size, float(r[f"{op}_transmit_us"]) * 1e-6, AIC)
        for r in _rows(folder / "measured" / f"deepep_low_latency_{chip}.csv"):
            for op, width in (("dispatch", 1.0), ("combine", 2.0)):
                size = float(r["num_token"]) * float(r["hidden_size"]) * float(r["num_topk"]) * width
                ranks = 8 * int(r["node_num"])
                add(machine, "deepep-ll", op, ranks, size, float(r[f"{op}_avg_t_us"]) * 1e-6, AIC)
    tables: dict[str, Any] = json.loads((folder / "fabric_tables.json").read_text(encoding="utf-8"))
    named = (
        ("A100x8", "dgx-a100", "nccl-tests", "all_reduce", 8),
        ("H200x8", "dgx-h200", "nccl-tests", "all_reduce", 8),
        ("B200x8", "dgx-b200", "nccl-tests", "all_reduce", 8),
        ("B200_4x8", "dgx-b200", "nccl-tests-efa", "all_reduce", 32),
        ("NVL72", "gb200-nvl72", "nccl-tests", "all_reduce", 72),
        ("B200_64x8_ring", "dgx-b200", "nccl-tests-ring", "all_reduce", 512),
        ("B200_64x8_nvls", "dgx-b200", "nccl-tests-nvls", "all_reduce", 512),
    )
    for key, machine, family, kind, ranks in named:
        source = next(
            (v for k, v in tables["sources"].items() if key.split("_ring")[0].split("_nvls")[0] in k), ""
        )
        for size, microseconds in tables[key]:
            add(machine, family, kind, ranks, float(size), microseconds * 1e-6, source)
    # DGX Cloud benchmarking, 8 x H100, float sum: another publisher than the curve it is held against.
    for size, microseconds in (
        (2**20, 27.4), (2**22, 54.2), (2**24, 123.8), (2**26, 324.7), (2**28, 1112.5), (2**29, 2151.0), (2**30, 4029.0),
        (2**32, 15749.0), (2**34, 62648.0),
    ):  # fmt: skip
        add(
            "dgx-h100",
            "nccl",
            "all_reduce",
            8,
            float(size),
            microseconds * 1e-6,
            "dgxc-benchmarking@841f5466cd86",
        )
    token = 7168.0 * 8
    for op, width in (("dispatch", 1.0), ("combine", 2.0)):
        for ranks, microseconds in tables["cm384_cann_ep_us"][op].items():
            source = "arXiv 2506.12708 through published notes"
            add("cloudmatrix384", "cann-ep", op, int(ranks), 128 * token * width, microseconds * 1e-6, source)
        for ranks, microseconds in tables["deepep_ascend_ll_us"][op].items():
            source = "sgl-project/sgl-kernel-npu README @f425bdf"
            add(
                "cloudmatrix384",
                "sgl-ep-ll",
                op,
                int(ranks),
                128 * token * width,
                microseconds * 1e-6,
                source,
            )
        for ranks, rates in tables["deepep_ascend_normal_GBps"].items():
            size = 4096 * token * width
            seconds = size / (rates[0 if op == "dispatch" else 1] * 1e9)
            add(
                "cloudmatrix384",
                "sgl-ep",
                op,
                int(ranks),
                size,
                seconds,
                "sgl-project/sgl-kernel-npu README @f425bdf",
            )
        for ranks, microseconds in tables["deepep_ll_us"][op].items():
            source = "deepseek-ai/DeepEP docs/legacy.md @dd758ca"
            add("h800-cluster", "deepep-ll", op, int(ranks), 128 * token * width, microseconds * 1e-6, source)
    # HCCL on one A3 node, CANN 8.5: MiB per rank and microseconds of the microbenchmark.
    mib = 2.0**20
    hccl = "Ascend/msmodeling fork, comm_alignment_report"
    gathered = ((1.3, 176.7), (3.8, 366.6), (5.0, 435.1), (8.8, 679.0), (21.4, 1628.0), (40.0, 3080.0))
    scattered = ((1.3, 216.3), (3.8, 440.7), (8.8, 808.5), (21.4, 2044.0), (40.0, 3665.0))
    for part, microseconds in gathered:
        add("cloudmatrix384", "hccl", "all_gather", 16, 16 * part * mib, microseconds * 1e-6, hccl)
    for part, microseconds in scattered:
        add("cloudmatrix384", "hccl", "reduce_scatter", 16, 16 * part * mib, microseconds * 1e-6, hccl)
    return out


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


def main(arguments: list[str]) -> int:
    """Fit and write the profile and its points; prints the errors."""
    if len(arguments) not in (1, 2):
        print("usage: python -m fullmesh.calibrate.collectives.curves FOLDER [OUT]", file=sys.stderr)
        return 2
    folder = Path(arguments[0])
    target = Path(arguments[1]) if len(arguments) == 2 else DATA_DIR / "topologies"
    curves, points = fit(gather(folder))
    predicted = [
        predict(p.machine, p.family, p.kind, p.ranks, p.num_bytes, among=tuple(curves)) for p in points
    ]
    usable = [(p, seconds) for p, seconds in zip(points, predicted, strict=True) if seconds is not None]
    for flag, name in ((True, "fitted"), (False, "not fitted")):
        errors = [abs(seconds / p.seconds - 1) for p, seconds in usable if p.fitted is flag]
        median, high = np.median(errors), np.quantile(errors, 0.9)
        print(f"{name}: {len(errors)} points, median {median:.1%}, 90th percentile {high:.1%}")
    passport = {
        "made_by": "python -m fullmesh.calibrate.collectives.curves",
        "date": datetime.date.today().isoformat(),
        "numpy": np.__version__,
        "notice": f"NCCL, DeepEP and NVL72 curves derive from {AIC}; see NOTICE",
        "model": "seconds = floor_s + bytes / bytes_per_s + slope * bytes ** power",
    }
    profile = {"passport": passport, "curves": [dataclasses.asdict(c) for c in curves]}
    lines = [
        f"# measured points; NCCL, DeepEP and NVL72 rows are a rounded subset of {AIC}",
        "# fitted = 1 where a curve has seen the point",
    ]
    lines.append("machine,family,kind,ranks,bytes,seconds,fitted,source")
    for p, _ in usable:
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
    for name, text in (
        ("collective_profile.json", json.dumps(profile, indent=1) + "\n"),
        ("measured_points.csv", "\n".join(lines) + "\n"),
    ):
        temporary = target / (name + ".tmp")
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, target / name)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except FullmeshError as error:
        print(error.render(), file=sys.stderr)
        sys.exit(2)

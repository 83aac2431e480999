"""Measured points of collectives and of expert exchange, as curves: the shipped tables and a folder of larger ones."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from fullmesh import values
from fullmesh.cost.collectives.constants import Column
from fullmesh.cost.collectives.experts import expected_hit
from fullmesh.data import DATA_DIR
from fullmesh.errors import ResultsError
from fullmesh.reading import csv_rows

SHIPPED = DATA_DIR / "results" / "points"
CURVE_COLUMNS = ("curve", "machine", "num_devices", "kind", "algorithm", "role", "harness", "source")
COLLECTIVE_COLUMNS = (*CURVE_COLUMNS, "ranks", "stride", "bytes", "value", "unit")
EXPERT_CURVE_COLUMNS = ("curve", "machine", "num_devices", "dispatcher", "phase", "routing", "role", "source")
EXPERT_NUMBERS = ("tokens", "token_bytes", "topk", "ep", "num_experts")
EXPERT_COLUMNS = (*EXPERT_CURVE_COLUMNS, *EXPERT_NUMBERS, "node_limit", "value", "unit")
# bytes, tokens, microseconds: beyond it nothing was measured; devices as machine files allow
_LARGEST = 1e15
MAX_DEVICES = 10_000_000
ROLES = ("fit", "hold", "conflict")
#: Larger tables that a folder may hold.
TABLES = (
    "nccl_intra_node.csv",
    "deepep_normal_h100.csv",
    "deepep_low_latency_h100.csv",
    "nvl72_moe_alltoall.csv",
)
#: Systems of the NCCL table, the machine that stands for each, and the release whose curves are fitted on.
NCCL_SYSTEMS = {
    "a100_sxm": ("dgx-a100", "2.27.3"),
    "h100_sxm": ("dgx-h100", ""),
    "h200_sxm": ("dgx-h200", "2.29.2"),
    "b200_sxm": ("dgx-b200", "2.29.2"),
    "b300_sxm": ("dgx-b300", ""),
    "gb200": ("gb200-nvl72", ""),
    "gb300": ("gb300-nvl72", ""),
}
#: Group sizes fitted on; the sizes between them are held out.
FITTED_RANKS = (2, 8)
#: Bytes of one hidden value as curves of expert exchange count them: scales only where they are packed with it.
DTYPE_BYTES = {"bfloat16": 2.0, "fp8": 1.0, "nvfp4": 0.5625}
#: Bytes of one hidden value on the wire: FP8 with an FP32 scale per 128, BF16, NVFP4 with an FP8 scale per 16.
WIRE_BYTES = {"fp8": 1.0 + 4.0 / 128.0, "bfloat16": 2.0, "nvfp4": 0.5 + 1.0 / 16.0}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """Points of one operation on one machine from one source.

    ``harness`` names a way of measuring that adds a constant start to every point; ``role`` is ``fit``, ``hold`` or
    ``conflict`` (contradicted by another source, listed and not judged). Expert curves have a ``phase`` and hits.
    """

    name: str
    machine: str
    num_devices: int
    kind: str
    algorithm: str
    role: str
    harness: str
    source: str
    ranks: Column
    stride: Column
    num_bytes: Column
    seconds: Column
    phase: str = ""
    tokens: Column | None = None
    hit_ranks: Column | None = None
    hit_nodes: Column | None = None


def read_rows(path: Path, columns: tuple[str, ...]) -> Iterator[tuple[int, dict[str, str]]]:
    """Rows of a CSV file with their line numbers, after a check of the header; lines that start with # are skipped.

    Raises
    ------
    ResultsError
        The file cannot be read, lacks a column, or has a short row.
    """
    yield from csv_rows(path, required=columns, error=ResultsError, comments=[])


def number(
    row: dict[str, str], key: str, where: str, default: float | None = None, *, zero: bool = False
) -> float:
    """A figure above 0 (with ``zero``: of at least 0); ``default`` for an empty cell."""
    text = row[key]
    if not text and default is not None:
        return default
    above = -1.0 if zero else 0.0
    return values.number(
        text, where=f"{where}, column {key}", least=0.0, above=above, most=_LARGEST, error=ResultsError
    )


def count(row: dict[str, str], key: str, where: str) -> int:
    """A number of devices or nodes."""
    return values.whole(
        row[key], where=f"{where}, column {key}", least=1, most=MAX_DEVICES, error=ResultsError
    )


def _bus_factor(kind: str, ranks: float) -> float:
    if kind in ("send_recv", "broadcast"):
        return 1.0
    return (2.0 if kind == "all_reduce" else 1.0) * (ranks - 1.0) / ranks


def _published_seconds(
    kind: str, ranks: float, num_bytes: float, value: float, unit: str, where: str
) -> float:
    if unit == "us":
        return value * 1e-6
    if unit == "busbw_gb_per_s":
        return num_bytes * _bus_factor(kind, ranks) / (value * 1e9)
    if unit == "gb_per_s":
        return num_bytes / (value * 1e9)
    raise ResultsError(f"unknown unit {unit!r}", where=where, expected="us, busbw_gb_per_s or gb_per_s")


#: What makes a curve, and the numbers of one of its points.
Point = tuple[tuple[str, ...], tuple[float, ...]]


def _grouped(rows: list[Point]) -> dict[tuple[str, ...], np.ndarray]:
    groups: dict[tuple[str, ...], list[tuple[float, ...]]] = {}
    for key, figures in rows:
        groups.setdefault(key, []).append(figures)
    return {key: np.asarray(figures, dtype=np.float64).T for key, figures in groups.items()}


def read_collectives(path: Path = SHIPPED / "collectives.csv") -> list[Curve]:
    """Curves of the shipped table of published points."""
    rows: list[Point] = []
    for line, row in read_rows(path, COLLECTIVE_COLUMNS):
        where = f"{path.name}:{line}"
        if row["role"] not in ROLES:
            raise ResultsError(f"unknown role {row['role']!r}", where=where, expected=", ".join(ROLES))
        ranks, num_bytes = float(count(row, "ranks", where)), number(row, "bytes", where)
        seconds = _published_seconds(
            row["kind"], ranks, num_bytes, number(row, "value", where), row["unit"], where
        )
        key = tuple(str(count(row, c, where)) if c == "num_devices" else row[c] for c in CURVE_COLUMNS)
        rows.append((key, (ranks, float(count(row, "stride", where)), num_bytes, seconds)))
    return [
        Curve(
            name=k[0],
            machine=k[1],
            num_devices=int(k[2]),
            kind=k[3],
            algorithm=k[4],
            role=k[5],
            harness=k[6],
            source=k[7],
            ranks=v[0],
            stride=v[1],
            num_bytes=v[2],
            seconds=v[3],
        )
        for k, v in _grouped(rows).items()
    ]


def read_nccl(path: Path) -> list[Curve]:
    """Curves of a table of NCCL measurements inside one NVLink domain (``nccl_intra_node.csv``)."""
    rows: list[Point] = []
    for line, row in read_rows(path, ("system", "nccl", "op_name", "num_gpus", "bytes", "latency_us")):
        if row["system"] not in NCCL_SYSTEMS:
            continue
        where = f"{path.name}:{line}"
        kind = "all_to_all" if row["op_name"] == "alltoall" else row["op_name"]
        figures = (
            float(count(row, "num_gpus", where)),
            1.0,
            number(row, "bytes", where),
            number(row, "latency_us", where) * 1e-6,
        )
        rows.append(((row["system"], row["nccl"], kind, str(int(figures[0]))), figures))
    curves = []
    for (system, release, kind, ranks), v in _grouped(rows).items():
        machine, fitted = NCCL_SYSTEMS[system]
        fits = release == fitted and int(ranks) in FITTED_RANKS
        curves.append(
            Curve(
                name=f"NCCL {release} {system} x{ranks}",
                machine=machine,
                num_devices=72 if "nvl72" in machine else 8,
                kind=kind,
                algorithm="",
                role="fit" if fits else "hold",
                harness="",
                source=f"{path.name} (aiconfigurator-core 0.12.0)",
                ranks=v[0],
                stride=v[1],
                num_bytes=v[2],
                seconds=v[3],
            )
        )
    return curves


def _expert_curve(key: tuple[str, ...], v: np.ndarray, seconds: Column) -> Curve:
    """A curve from columns tokens, token_bytes, topk, ep, num_experts, node_limit, nodes; key ends with the routing."""
    name, machine, devices, dispatcher, phase, routing, role, source = key
    tokens, width, topk, ep, experts, limit, nodes = v[:7]
    chosen = np.minimum(nodes, limit)
    if routing == "balanced" or dispatcher == "lowlatency":
        # balanced benchmarks send every token to as many ranks as there are; low-latency kernels send every copy
        hit_ranks = topk if dispatcher == "lowlatency" else np.minimum(topk, ep)
        hit_nodes = topk if dispatcher == "lowlatency" else np.minimum(topk, nodes)
    else:
        drawn = experts * chosen / nodes
        hit_nodes = expected_hit(chosen, drawn, topk)
        hit_ranks = expected_hit(ep * chosen / nodes, drawn, topk)
    return Curve(
        name=name,
        machine=machine,
        num_devices=int(devices),
        kind=dispatcher,
        algorithm="",
        role=role,
        harness="",
        source=source,
        ranks=ep,
        stride=np.ones_like(ep),
        num_bytes=tokens * width,
        seconds=seconds,
        phase=phase,
        tokens=tokens,
        hit_ranks=hit_ranks,
        hit_nodes=hit_nodes,
    )


def _domain(machine: str) -> float:
    from fullmesh.machine import load_machine

    return float(load_machine(machine).scale_up_devices)


def read_experts(path: Path = SHIPPED / "experts.csv") -> list[Curve]:
    """Curves of the shipped table of published dispatch and combine figures."""
    rows: list[Point] = []
    for line, row in read_rows(path, EXPERT_COLUMNS):
        where = f"{path.name}:{line}"
        if row["role"] not in ROLES:
            raise ResultsError(f"unknown role {row['role']!r}", where=where, expected=", ".join(ROLES))
        numbers = [number(row, c, where) for c in EXPERT_NUMBERS]
        limit = number(row, "node_limit", where, default=np.inf)
        nodes = np.ceil(numbers[3] / _domain(row["machine"]))
        key = tuple(str(count(row, c, where)) if c == "num_devices" else row[c] for c in EXPERT_CURVE_COLUMNS)
        rows.append(((*key, row["unit"]), (*numbers, limit, nodes, number(row, "value", where))))
    curves = []
    for key, v in _grouped(rows).items():
        curve, unit = _expert_curve(key[:-1], v, v[7]), key[-1]
        assert curve.hit_ranks is not None
        assert curve.hit_nodes is not None
        copies = {"gb_per_s_ranks": curve.hit_ranks, "gb_per_s_nodes": curve.hit_nodes}
        if unit != "us" and unit not in copies:
            raise ResultsError(f"unknown unit {unit!r}", where=path.name, expected="us, " + ", ".join(copies))
        seconds = v[7] * 1e-6 if unit == "us" else curve.num_bytes * copies[unit] / (v[7] * 1e9)
        curves.append(dataclasses.replace(curve, seconds=seconds))
    return curves


def read_deepep(path: Path) -> list[Curve]:
    """Curves of a table of DeepEP's normal kernels with the cores its authors tune it to (``deepep_normal_*.csv``)."""
    columns = ("node_num", "hidden_size", "num_token", "num_topk", "num_experts", "dispatch_sms")
    times = ("dispatch_transmit_us", "dispatch_notify_us", "combine_transmit_us", "combine_notify_us")
    rows: list[Point] = []
    for line, row in read_rows(path, columns + times):
        where = f"{path.name}:{line}"
        nodes = float(count(row, "node_num", where))
        if row["dispatch_sms"] != ("20" if nodes == 1 else "24"):
            continue
        # at eight nodes the table's own synchronisation times exceed the transfer, and published figures are half
        role = {1: "fit", 2: "fit", 4: "fit"}.get(int(nodes), "conflict")
        for phase, kind in (("dispatch", "fp8"), ("combine", "bfloat16")):
            width = number(row, "hidden_size", where) * WIRE_BYTES[kind]
            seconds = 1e-6 * sum(number(row, c, where, zero=True) for c in times if c.startswith(phase))
            key = (f"DeepEP normal H100 x{int(8 * nodes)}", "dgx-h100", str(int(max(8 * nodes, 8))), "deepep")
            shape = (number(row, "num_token", where), width, number(row, "num_topk", where), 8.0 * nodes)
            rest = (number(row, "num_experts", where), np.inf, nodes, seconds)
            rows.append(((*key, phase, "random", role, path.name), (*shape, *rest)))
    return [_expert_curve(k, v, v[7]) for k, v in _grouped(rows).items()]


def read_deepep_low_latency(path: Path) -> list[Curve]:
    """Curves of a table of DeepEP's low-latency kernels (``deepep_low_latency_*.csv``)."""
    columns = ("node_num", "hidden_size", "num_token", "num_topk", "num_experts")
    rows: list[Point] = []
    for line, row in read_rows(path, (*columns, "dispatch_avg_t_us", "combine_avg_t_us")):
        where = f"{path.name}:{line}"
        nodes, tokens, hidden, topk, experts = (
            number(row, c, where) for c in ("node_num", "num_token", "hidden_size", "num_topk", "num_experts")
        )
        role = "hold" if nodes == 4 else "fit"
        for phase, kind in (("dispatch", "fp8"), ("combine", "bfloat16")):
            seconds = 1e-6 * number(row, f"{phase}_avg_t_us", where)
            name = f"DeepEP low latency H100 x{int(8 * nodes)}"
            key = (name, "dgx-h100", str(int(8 * nodes)), "lowlatency", phase, "random", role, path.name)
            fixed = (topk, 8.0 * nodes, experts, np.inf, nodes, seconds)
            rows.append((key, (tokens, hidden * WIRE_BYTES[kind], *fixed)))
    return [_expert_curve(k, v, v[7]) for k, v in _grouped(rows).items()]


def read_nvl72(path: Path) -> list[Curve]:
    """Curves of a table of two-sided expert exchange on GB200 NVL72 (``nvl72_moe_alltoall.csv``)."""
    names = ("op_name", "kernel_source", "moe_dtype", "num_tokens", "hidden_size", "topk", "num_experts")
    prepare: dict[tuple[str, ...], float] = {}
    found = []
    for line, row in read_rows(path, (*names, "moe_ep_size", "latency")):
        if row["kernel_source"] != "NVLinkTwoSided":
            continue
        where = f"{path.name}:{line}"
        seconds = number(row, "latency", where) * 1e-3
        shape = (row["moe_dtype"], row["moe_ep_size"], row["num_tokens"])
        if row["op_name"] == "alltoall_prepare":
            prepare[shape] = seconds
        elif row["op_name"] in ("alltoall_dispatch", "alltoall_combine"):
            found.append((where, row, shape, seconds))
    rows: list[Point] = []
    for where, row, shape, seconds in found:
        phase = row["op_name"].removeprefix("alltoall_")
        dtype = row["moe_dtype"] if phase == "dispatch" else "bfloat16"
        if phase == "combine" and row["moe_dtype"] != "bfloat16":
            continue  # the same kernel measured three times
        ep = float(count(row, "moe_ep_size", where))
        role = "fit" if dtype == "bfloat16" and int(ep) in (2, 8, 64) else "hold"
        key = (
            f"NVL72 two-sided {dtype}",
            "gb200-nvl72",
            "72",
            "twosided",
            phase,
            "balanced",
            role,
            path.name,
        )
        tokens = number(row, "num_tokens", where)
        if dtype not in WIRE_BYTES:
            raise ResultsError(
                f"unknown dtype {dtype!r}", where=f"{where}, column moe_dtype", expected=", ".join(WIRE_BYTES)
            )
        width = number(row, "hidden_size", where) * WIRE_BYTES[dtype]
        total = seconds + (prepare.get(shape, 0.0) if phase == "dispatch" else 0.0)
        fixed = (number(row, "topk", where), ep, number(row, "num_experts", where), np.inf, 1.0, total)
        rows.append((key, (tokens, width, *fixed)))
    return [_expert_curve(k, v, v[7]) for k, v in _grouped(rows).items()]


def read_curves(folder: Path | None = None) -> list[Curve]:
    """All curves: the shipped points, and what is found of the larger tables in a folder.

    Raises
    ------
    ResultsError
        The folder does not exist, or a table cannot be read.
    """
    curves = read_collectives() + read_experts()
    if folder is None:
        return curves
    if not folder.is_dir():
        raise ResultsError("no such folder of measured tables", where=str(folder))
    for name, reader in zip(
        TABLES, (read_nccl, read_deepep, read_deepep_low_latency, read_nvl72), strict=True
    ):
        if (folder / name).is_file():
            curves += reader(folder / name)
    return curves

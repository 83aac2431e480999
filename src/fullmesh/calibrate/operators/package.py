"""Measured tables out of an installed ``aiconfigurator-core`` (NVIDIA, Apache-2.0), reduced to what the fits read.

The package holds one Parquet file per system, operator, framework and release. Here they become the CSV files that
``fullmesh calibrate operators FOLDER`` and ``collectives FOLDER`` take, so both ways share one fit.
"""

from __future__ import annotations

import csv
import dataclasses
import importlib.metadata
import importlib.util
import io
import re
import statistics
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fullmesh.calibrate.collectives.points import NCCL_SYSTEMS
from fullmesh.calibrate.operators.tables import CHIP_IDS, DTYPES
from fullmesh.cost.operators.profile import ELEMENT_BYTES, PEAK_OF
from fullmesh.cost.operators.routing import DISTRIBUTION
from fullmesh.errors import ResultsError
from fullmesh.files import make_folder, write_text
from fullmesh.machine.chips import load_chip

DISTRIBUTION_NAME = "aiconfigurator-core"
MODULE = "aiconfigurator_core"
#: The release whose layout was read when this was written.
TRIED_VERSION = "0.12.0"
LICENCE = "Apache-2.0, Copyright (c) NVIDIA CORPORATION & AFFILIATES"

_INSTALL = f"pip install {DISTRIBUTION_NAME} pyarrow"
# below these, launch and host time hide what the operator costs in training
_LEAST_SEQUENCE = 512
_LEAST_TOKENS = 64
# the one head width that every framework measured on every chip
_HEAD_DIM = 128
# bytes of an element of an NCCL message; only half precision is taken
_HALF_BYTES = 2

GEMM = ("gemm_dtype", "m", "n", "k")
ATTENTION_SHAPE = ("batch_size", "isl", "num_heads", "num_key_value_heads", "head_dim")
ATTENTION = ("source", "kernel_source", "attn_dtype", *ATTENTION_SHAPE)
EXPERT_SHAPE = ("hidden_size", "inter_size", "topk", "num_experts")
EXPERTS = ("moe_dtype", "num_tokens", *EXPERT_SHAPE, "moe_ep_size", "distribution")
NCCL = ("system", "nccl", "op_name", "num_gpus", "bytes")
DEEPEP = ("node_num", "kernel_source", "hidden_size", "num_token", "num_topk", "num_experts")
DEEPEP_NORMAL = (
    *DEEPEP,
    "dispatch_sms",
    "dispatch_transmit_us",
    "dispatch_notify_us",
    "combine_sms",
    "combine_transmit_us",
    "combine_notify_us",
)
DEEPEP_LOW_LATENCY = (*DEEPEP, "combine_avg_t_us", "dispatch_avg_t_us")
ALL_TO_ALL_SHAPE = ("num_tokens", "hidden_size", "topk", "num_experts", "moe_ep_size")
ALL_TO_ALL = ("op_name", "kernel_source", "moe_dtype", *ALL_TO_ALL_SHAPE, "distribution", "latency")

Array = npt.NDArray[Any]
Row = dict[str, Any]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """Measurements of one operator by one release of one framework on one system.

    Parameters
    ----------
    system : str
        As the package names it, such as ``h100_sxm``.
    framework, release : str
    columns : mapping of str to array, shape (n,)
        As in the file; ``latency`` is in milliseconds.
    """

    system: str
    framework: str
    release: str
    columns: Mapping[str, Array]

    @property
    def source(self) -> str:
        """Framework and release."""
        return f"{self.framework} {self.release}"


def gemm_rows(parts: Iterable[Part]) -> list[Row]:
    """Matrix products of one system: the fastest framework per dtype and shape.

    Weight-only quantised products are left out, and so are row counts that are neither a power of two nor a
    multiple of 1024: those were measured to show the edge of a tile, which a smooth model does not have.
    """
    rows = _Fastest(GEMM)
    for part in parts:
        c = _need(part, (*GEMM, "latency"))
        m = c["m"].astype(np.int64)
        keep = (((m & (m - 1)) == 0) | (m % 1024 == 0)) & _timed(c)
        rows.add(part, {**c, "gemm_dtype": _dtypes(part, c["gemm_dtype"])}, keep)
    return rows.found()


def attention_rows(parts: Iterable[Part]) -> list[Row]:
    """Causal forward attention of one system in BF16, every kernel by itself.

    Only whole attention: no window, no cached prefix, no narrower cache. A file that does not say its window is left
    out.
    """
    rows = _Fastest(ATTENTION)
    for part in parts:
        if "window_size" not in part.columns:
            continue
        conditions = ("kv_cache_dtype", "window_size", "step", "beam_width")
        c = _need(part, (*ATTENTION[1:], *conditions, "latency"))
        keep = (c["attn_dtype"] == "bfloat16") & (c["kv_cache_dtype"] == "bfloat16")
        keep &= (c["window_size"] == 0) & (c["step"] == 0) & (c["beam_width"] == 1)
        keep &= (c["isl"] >= _LEAST_SEQUENCE) & (c["head_dim"] == _HEAD_DIM) & _timed(c)
        named = {"source": np.full(len(keep), part.source, dtype=object)}
        rows.add(part, {**c, **named, "attn_dtype": _dtypes(part, c["attn_dtype"])}, keep)
    return rows.found()


def expert_rows(parts: Sequence[Part]) -> list[Row]:
    """Gated expert layers of one system without tensor parallelism: the fastest framework per dtype and shape.

    Shapes that any framework measured with an ungated kernel belong to models whose experts have two matrices instead
    of three; not every framework says so, so those shapes are left out as a whole. So are points of a single
    framework: its fallback kernel would pass for what the chip can do.
    """
    tables = [(part, _need(part, (*EXPERTS, "kernel_source", "moe_tp_size", "latency"))) for part in parts]
    ungated: set[tuple[Any, ...]] = set()
    for _, c in tables:
        marked = np.array(["nongated" in str(k) for k in c["kernel_source"]], dtype=np.bool_)
        ungated.update(zip(*(c[n][marked].tolist() for n in EXPERT_SHAPE), strict=True))
    rows = _Fastest(EXPERTS)
    for part, c in tables:
        keep = (c["moe_tp_size"] == 1) & (c["num_tokens"] >= _LEAST_TOKENS) & _timed(c)
        shapes = zip(*(c[n].tolist() for n in EXPERT_SHAPE), strict=True)
        keep &= np.array([s not in ungated for s in shapes], dtype=np.bool_)
        keep &= np.array([bool(DISTRIBUTION.fullmatch(str(d))) for d in c["distribution"]], dtype=np.bool_)
        rows.add(part, {**c, "moe_dtype": _dtypes(part, c["moe_dtype"])}, keep)
    return rows.found(frameworks=2)


def nccl_rows(parts: Iterable[Part]) -> list[Row]:
    """NCCL inside one domain, half precision, messages in bytes; repeats of a point are one row with their median."""
    found: dict[tuple[Any, ...], list[float]] = {}
    for part in parts:
        c = _need(part, ("op_name", "nccl_dtype", "num_gpus", "message_size", "latency"))
        keep = (c["nccl_dtype"] == "half") & _timed(c)
        columns = (c[n][keep].tolist() for n in ("op_name", "num_gpus", "message_size", "latency"))
        for name, ranks, elements, latency in zip(*columns, strict=True):
            key = (part.system, part.release, name, ranks, _HALF_BYTES * elements)
            found.setdefault(key, []).append(latency)
    return [
        {**dict(zip(NCCL, key, strict=True)), "latency_us": _us(statistics.median(v)), "samples": len(v)}
        for key, v in sorted(found.items())
    ]


def latest(parts: Iterable[Part]) -> list[Part]:
    """The latest release, as a list of at most one."""
    return sorted(parts, key=_release)[-1:]


def widest(parts: Iterable[Part]) -> list[Part]:
    """The release that measured the most node counts, the latest of those, as a list of at most one."""
    nodes = [(len(set(_need(part, ("node_num",))["node_num"].tolist())), part) for part in parts]
    most = max((n for n, _ in nodes), default=0)
    return latest(part for n, part in nodes if n == most)


def _release(part: Part) -> tuple[list[int], bool, int]:
    """Order of releases: a candidate before the release itself, a post-release after it."""
    base, _, candidate = part.release.partition("rc")
    numbers = [int(n) for n in re.findall(r"\d+", base)]
    return numbers, not candidate, int(re.sub(r"\D", "", candidate) or 0)


def plain_rows(parts: Iterable[Part], columns: Sequence[str]) -> list[Row]:
    """The rows as they are, of the named columns."""
    rows: list[Row] = []
    for part in parts:
        c = _need(part, columns)
        rows += [
            dict(zip(columns, v, strict=True)) for v in zip(*(c[n].tolist() for n in columns), strict=True)
        ]
    return rows


class _Fastest:
    """The least latency per key, and who measured it."""

    def __init__(self, key: Sequence[str]) -> None:
        self._key = tuple(key)
        self._best: dict[tuple[Any, ...], tuple[float, str]] = {}
        self._frameworks: dict[tuple[Any, ...], set[str]] = {}

    def add(self, part: Part, columns: Mapping[str, Array], keep: npt.NDArray[np.bool_]) -> None:
        """Rows of a part that ``keep`` marks; a key with an empty dtype is none."""
        names = [n for n in self._key if n.endswith("_dtype")]
        for name in names:
            keep = keep & (columns[name] != "")
        kept = [columns[n][keep].tolist() for n in (*self._key, "latency")]
        for *values, latency in zip(*kept, strict=True):
            key = tuple(values)
            # equal times go to the first name, so the order of the files does not matter
            self._best[key] = min(self._best.get(key, (latency, part.source)), (latency, part.source))
            self._frameworks.setdefault(key, set()).add(part.framework)

    def found(self, *, frameworks: int = 1) -> list[Row]:
        """Rows in the order of their keys, of keys that at least so many frameworks measured."""
        return [
            {"source": source, **dict(zip(self._key, key, strict=True)), "latency_us": _us(latency)}
            for key, (latency, source) in sorted(self._best.items())
            if len(self._frameworks[key]) >= frameworks
        ]


def _us(latency_ms: float) -> str:
    return f"{latency_ms * 1e3:.6g}"


def _timed(columns: Mapping[str, Array]) -> npt.NDArray[np.bool_]:
    latency = columns["latency"].astype(np.float64)
    return np.asarray(np.isfinite(latency) & (latency > 0.0))


def _dtypes(part: Part, names: Array) -> Array:
    """Our spelling of the dtypes, empty where we do not know one or the chip has no unit for it."""
    peaks = load_chip(CHIP_IDS[part.system]).matrix_flop_per_s
    known = {n: d for n, d in DTYPES.items() if d in ELEMENT_BYTES and PEAK_OF.get(d, d) in peaks}
    return np.array([known.get(str(n), "") for n in names], dtype=object)


def _need(part: Part, names: Sequence[str]) -> Mapping[str, Array]:
    missing = [n for n in names if n not in part.columns]
    if missing:
        raise ResultsError(
            "the measurements lack columns: " + ", ".join(missing),
            where=f"{DISTRIBUTION_NAME}: {part.system}, {part.source}",
            hint=f"the layout of {DISTRIBUTION_NAME} {TRIED_VERSION} is known: pip install "
            f"{DISTRIBUTION_NAME}=={TRIED_VERSION}",
        )
    return {n: part.columns[n] for n in names}


def find_package() -> tuple[Path, str]:
    """Folder of the measurements of the installed package, and its version; the package itself is not imported.

    Raises
    ------
    ResultsError
        It is not installed, or holds no measurements where they are expected.
    """
    spec = importlib.util.find_spec(MODULE)
    try:
        version = importlib.metadata.version(DISTRIBUTION_NAME)
    except importlib.metadata.PackageNotFoundError:
        version = ""
    if spec is None or not spec.submodule_search_locations or not version:
        raise ResultsError(f"the package {DISTRIBUTION_NAME} is not installed", hint=_INSTALL)
    data = Path(next(iter(spec.submodule_search_locations))) / "systems" / "data"
    if not data.is_dir():
        raise ResultsError(
            f"{DISTRIBUTION_NAME} {version} holds no measurements", where=str(data), hint=_INSTALL
        )
    return data, version


def read_parts(data: Path, system: str, operator: str, file: str) -> list[Part]:
    """Files ``data/system/operator/framework/release/file``, in the order of their paths.

    Raises
    ------
    ResultsError
        pyarrow is not installed, or a file is no Parquet file.
    """
    try:
        import pyarrow.parquet as parquet
    except ImportError:
        raise ResultsError("reading Parquet files needs pyarrow", hint=_INSTALL) from None
    parts = []
    for path in sorted((data / system / operator).glob(f"*/*/{file}")):
        try:
            table = parquet.read_table(path)
        except (OSError, ValueError) as error:
            raise ResultsError(
                f"cannot read the measurements: {str(error).splitlines()[0]}", where=str(path), hint=_INSTALL
            ) from None
        columns = {n: table.column(n).to_numpy() for n in table.column_names}
        framework, release = path.parts[-3:-1]
        parts.append(Part(system=system, framework=framework, release=release, columns=columns))
    return parts


def write_rows(path: Path, comment: str, rows: Sequence[Row]) -> None:
    """Write a table whole or not at all: a comment line, a header, the rows.

    Raises
    ------
    OutputError
        The file cannot be written.
    """
    stream = io.StringIO()
    stream.write(f"# {comment}\n")
    writer = csv.DictWriter(stream, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, stream.getvalue())


def _comment(version: str, rule: str) -> str:
    return (
        f"Source: {DISTRIBUTION_NAME} {version} (PyPI, NVIDIA Corporation & Affiliates), Apache-2.0; {rule}"
    )


def operator_tables(out_folder: Path, *, report: Callable[[str], None] = lambda _: None) -> list[Path]:
    """Write ``gemm_CHIP.csv``, ``attn_ctx_CHIP.csv`` and ``moe_CHIP.csv`` of every chip that the catalog knows.

    Parameters
    ----------
    out_folder : Path
        Made where it is missing.
    report : callable, optional
        Told what is being read.

    Returns
    -------
    list of Path
        The files, with the schema of ``calibrate.tables``.

    Raises
    ------
    ResultsError
        The package or pyarrow is missing, or a file has another layout.
    """
    data, version = find_package()
    comment = _comment(version, "reduced to the fastest framework per shape (attention: every kernel)")
    kinds: tuple[tuple[str, str, str, Callable[[Sequence[Part]], list[Row]]], ...] = (
        ("gemm", "gemm", "gemm_perf.parquet", gemm_rows),
        ("attn_ctx", "attention", "context_attention_perf.parquet", attention_rows),
        ("moe", "moe", "moe_perf.parquet", expert_rows),
    )
    written = []
    for system in CHIP_IDS:
        for prefix, operator, file, reduce in kinds:
            report(f"reading {operator} {system}")
            rows = reduce(read_parts(data, system, operator, file))
            written += _written(out_folder / f"{prefix}_{system}.csv", comment, rows)
    return written


def collective_tables(out_folder: Path) -> list[Path]:
    """Write the tables of NCCL, DeepEP and expert exchange that ``calibrate.collectives_points`` reads.

    Parameters, returns and errors as ``operator_tables``.
    """
    data, version = find_package()
    comment = _comment(version, "repeats reduced to their median")
    as_is = _comment(version, "rows of one release, columns selected")

    def comm(system: str, file: str) -> list[Part]:
        return read_parts(data, system, "comm", f"{file}_perf.parquet")

    nccl = [p for s in NCCL_SYSTEMS for p in comm(s, "nccl") if p.framework == "nccl"]
    normal = plain_rows(widest(comm("h100_sxm", "wideep_deepep_normal")), DEEPEP_NORMAL)
    low_latency = plain_rows(widest(comm("h100_sxm", "wideep_deepep_ll")), DEEPEP_LOW_LATENCY)
    return [
        *_written(out_folder / "nccl_intra_node.csv", comment, nccl_rows(nccl)),
        *_written(out_folder / "deepep_normal_h100.csv", as_is, normal),
        *_written(out_folder / "deepep_low_latency_h100.csv", as_is, low_latency),
        *_written(
            out_folder / "nvl72_moe_alltoall.csv",
            as_is,
            plain_rows(latest(comm("gb200", "trtllm_alltoall")), ALL_TO_ALL),
        ),
    ]


def _written(path: Path, comment: str, rows: Sequence[Row]) -> list[Path]:
    if not rows:
        return []
    make_folder(path.parent)
    write_rows(path, comment, rows)
    return [path]


def fit_operators_to_package(*, report: Callable[[str], None] = lambda _: None) -> dict[str, Any]:
    """Operator profiles fitted to the installed package, with its version and licence in their provenance.

    Returns and errors as ``calibrate.operators.fit_operator_profiles``.
    """
    from fullmesh.calibrate.operators.fit import fit_operator_profiles

    with tempfile.TemporaryDirectory(prefix="fullmesh-") as folder:
        operator_tables(Path(folder), report=report)
        content = fit_operator_profiles(Path(folder), report=report)
    content["versions"][DISTRIBUTION_NAME] = find_package()[1]
    return content


def fit_collectives_to_package() -> dict[str, Any]:
    """The profile of collectives fitted to the installed package and the published points that are shipped.

    Returns and errors as ``calibrate.collectives.fit_collectives``.
    """
    from fullmesh.calibrate.collectives.fit import fit_collectives

    with tempfile.TemporaryDirectory(prefix="fullmesh-") as folder:
        collective_tables(Path(folder))
        profile = fit_collectives(Path(folder))
    version = find_package()[1]
    profile["tables"] = {"source": _comment(version, "reduced").removeprefix("Source: "), "licence": LICENCE}
    # curves name the release that the shipped profile was fitted to
    for curve in profile["curves"]:
        named = f"{DISTRIBUTION_NAME} {TRIED_VERSION}"
        curve["source"] = curve["source"].replace(named, f"{DISTRIBUTION_NAME} {version}")
    return profile

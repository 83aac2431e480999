"""What a published row measured, which rows are outliers, and how rows fall into folds: nothing here predicts."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

from fullmesh.evidence.mapping import graph_setting
from fullmesh.evidence.results import ResultRow

GIB = 2.0**30

# A configuration that was published several times shows what it takes; a result that differs from the median of the
# others by more than this is a broken release or another experiment. Near-repeats differ by 4.8 % (90th percentile).
OUTLIER_RATIO = 1.5
OUTLIER_MIN_REPEATS = 3
NUM_FOLDS = 10


def published_step_s(row: ResultRow) -> float | None:
    """Seconds per step as published, or from tokens per second and device."""
    if row.step_s:
        return row.step_s
    if row.tok_s_gpu and row.gbs and row.seq and row.n_gpus:
        return row.gbs * row.seq / (row.tok_s_gpu * row.n_gpus)
    return None


def published_memory_bytes(row: ResultRow) -> tuple[str, float | None]:
    """Kind (``allocated`` or ``reserved``) and peak bytes; allocated where both are published."""
    if row.mem_allocated_gib:
        return "allocated", row.mem_allocated_gib * GIB
    if row.mem_reserved_gib:
        return "reserved", row.mem_reserved_gib * GIB
    return "", None


def configuration(row: ResultRow) -> str:
    """What ran, as a digest: device, model, precision, degrees and batch, whatever key the table gives it."""
    fields = (
        row.gpu, row.n_gpus, row.model, row.layers, row.hidden, row.heads, row.seq, row.precision, row.tp, row.cp,
        row.pp, row.vpp, row.dp, row.ep, row.etp, row.fsdp, row.mbs, row.gbs, row.phase,
    )  # fmt: skip
    return hashlib.sha256("|".join(map(str, fields)).encode()).hexdigest()[:12]


def is_headline(row: ResultRow) -> bool:
    """Rows that count for the headline: tier A or B, pre-training."""
    return row.tier in ("A", "B") and row.phase == "pretrain"


def outliers(rows: Sequence[ResultRow]) -> dict[str, str]:
    """Rows that contradict other publications of the same configuration, with the reason.

    The rule sees published figures alone: at least three results of one ``run_key`` under the same CUDA-graph setting,
    and this one differs from the median of the others by more than ``OUTLIER_RATIO``.
    """
    groups: dict[tuple[str, str], list[ResultRow]] = {}
    for row in rows:
        if row.run_key and published_step_s(row):
            groups.setdefault((row.run_key, graph_setting(row.overlap_and_flags)), []).append(row)
    found = {}
    for members in groups.values():
        if len(members) < OUTLIER_MIN_REPEATS:
            continue
        times = np.array([published_step_s(r) or np.nan for r in members])
        for i, row in enumerate(members):
            ratio = float(times[i] / np.median(np.delete(times, i)))
            if max(ratio, 1 / ratio) > OUTLIER_RATIO:
                found[row.id] = (
                    f"{ratio:.2f} times the median of {len(members) - 1} other publications of this configuration"
                )
    return found


def folds(rows: Sequence[ResultRow]) -> dict[str, int]:
    """Fold of every ``run_key``: the configurations of each publisher are dealt out in turn.

    Rows of one configuration never fall into two folds, whoever published them.
    """
    publishers: dict[str, list[str]] = {}
    seen: set[str] = set()
    for row in sorted(rows, key=lambda r: (r.publisher, r.run_key)):
        if row.run_key not in seen:
            seen.add(row.run_key)
            publishers.setdefault(row.publisher, []).append(row.run_key)
    out = {}
    for offset, keys in enumerate(publishers.values()):
        for i, key in enumerate(keys):
            out[key] = (i + offset) % NUM_FOLDS
    return out

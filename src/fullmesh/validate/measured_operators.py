"""Operator models against measured tables: ``fullmesh validate --operators DIR``."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path
from typing import Any

import numpy as np

from fullmesh.calibrate.operators.fit import predict
from fullmesh.calibrate.operators.tables import CHIP_IDS, Table, find_tables, read_table
from fullmesh.cost.operators.profile import PROFILES_FILE, load_profile, read_profiles
from fullmesh.errors import PlanError
from fullmesh.machine.chips import load_chip


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class OperatorScore:
    """How far the model is off on one operator, chip and dtype.

    Parameters
    ----------
    table : str
        File name.
    chip : str
        Catalog id.
    dtype : str
    operator : str
        ``gemm``, ``attention`` (forward, causal) or ``grouped`` (fused expert layers).
    points : int
    median, mean, p90, worst : float
        Of the absolute relative error ``|predicted / measured - 1|``.
    bias : float
        Median of ``predicted / measured - 1``.
    fitted_on : bool
        The shipped profile was fitted on this very file.
    """

    table: str
    chip: str
    dtype: str
    operator: str
    points: int
    median: float
    mean: float
    p90: float
    worst: float
    bias: float
    fitted_on: bool


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class OperatorScores:
    """Scores of a folder.

    Parameters
    ----------
    rows : tuple of OperatorScore
        By table and dtype, in the order of the file names.
    skipped : mapping of str to str
        Other files of the folder, and dtypes that a chip has no unit for, and why they were not scored.
    """

    rows: tuple[OperatorScore, ...]
    skipped: dict[str, str]


def score_operator_tables(folder: Path) -> OperatorScores:
    """Score the shipped operator profiles on every table of a folder.

    Parameters
    ----------
    folder : Path
        Holds ``gemm_CHIP.csv``, ``attn_ctx_CHIP.csv``, ``moe_CHIP.csv``; other files are skipped with a reason.

    Returns
    -------
    OperatorScores

    Raises
    ------
    ResultsError
        The folder is missing, holds no table, or a table cannot be read (with file and line).
    Notes
    -----
    A row names the attention kernel that it timed, and is compared with the model of that kernel; a kernel that the
    profile does not know is compared with the profile's usual one. Nothing is fitted here.
    """
    paths, skipped = find_tables(folder)
    rows: list[OperatorScore] = []
    for path in paths:
        table = read_table(path)
        for dtype in sorted(set(table.dtype.tolist())):
            try:
                rows.append(score_table(table, dtype))
            except PlanError as error:
                skipped[f"{path.name} ({dtype})"] = error.what
    return OperatorScores(rows=tuple(rows), skipped=skipped)


def score_table(table: Table, dtype: str) -> OperatorScore:
    """Score the rows of one dtype.

    Raises
    ------
    PlanError
        The chip has no matrix unit for the dtype.
    """
    chip = load_chip(CHIP_IDS[table.chip])
    part = table.where(table.dtype == dtype)
    relative = predict(load_profile(chip), part) / part.seconds - 1.0
    error = np.abs(relative)
    known = read_profiles(PROFILES_FILE)["tables"].get(table.path.name, {})
    return OperatorScore(
        table=table.path.name,
        chip=chip.id,
        dtype=dtype,
        operator=table.operator,
        points=len(part),
        median=float(np.median(error)),
        mean=float(np.mean(error)),
        p90=float(np.percentile(error, 90)),
        worst=float(np.max(error)),
        bias=float(np.median(relative)),
        fitted_on=known.get("sha256") == hashlib.sha256(table.path.read_bytes()).hexdigest(),
    )


def fit_residuals() -> tuple[dict[str, Any], ...]:
    """Residuals that the shipped profiles record by chip, operator and dtype: on fitted and on held-out points."""
    return tuple(read_profiles(PROFILES_FILE)["residuals"])

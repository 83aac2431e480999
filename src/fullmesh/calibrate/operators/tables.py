"""Measured operator tables: CSV files ``gemm_CHIP.csv``, ``attn_ctx_CHIP.csv`` and ``moe_CHIP.csv``, read strictly."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt

from fullmesh.cost.operators.routing import DISTRIBUTION
from fullmesh.errors import ResultsError, did_you_mean
from fullmesh.reading import csv_rows
from fullmesh.values import number

Floats = npt.NDArray[np.float64]

# chip names of the tables -> catalog
CHIP_IDS: Mapping[str, str] = {
    "a100_sxm": "a100-80",
    "h100_sxm": "h100-sxm",
    "h200_sxm": "h200",
    "b200_sxm": "b200",
    "gb200": "gb200",
    "gb300": "gb300",
}
# dtype names of the tables -> ours
DTYPES: Mapping[str, str] = {
    "bfloat16": "bf16",
    "float16": "fp16",
    "half": "fp16",
    "bf16": "bf16",
    "fp16": "fp16",
    "fp8": "fp8",
    "fp8_static": "fp8",
    "fp8_block": "fp8_block",
    "mxfp8": "mxfp8",
    "nvfp4": "nvfp4",
    "int8": "int8",
    "sq": "int8",
    "float32": "fp32",
    "fp32": "fp32",
}
_PREFIXES: Mapping[str, str] = {"gemm_": "gemm", "attn_ctx_": "attention", "moe_": "grouped"}
_NUMBERS: Mapping[str, tuple[str, ...]] = {
    "gemm": ("m", "n", "k"),
    "attention": ("batch_size", "isl", "num_heads", "num_key_value_heads", "head_dim"),
    "grouped": ("num_tokens", "hidden_size", "inter_size", "topk", "num_experts", "moe_ep_size"),
}
_WORDS: Mapping[str, tuple[str, ...]] = {
    "gemm": (),
    "attention": ("kernel_source",),
    "grouped": ("distribution",),
}
_DTYPE_COLUMN: Mapping[str, str] = {"gemm": "gemm_dtype", "attention": "attn_dtype", "grouped": "moe_dtype"}
_LATENCY = "latency_us"
# extents and microseconds: beyond it no operator was measured
_LARGEST = 1e12


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Measurements of one operator on one chip.

    Parameters
    ----------
    path : Path
    operator : str
        ``gemm``, ``attention`` or ``grouped`` (expert layers).
    chip : str
        As the file name has it, a key of ``CHIP_IDS``.
    source : str
        The comment on the first line.
    dtype : array of str, shape (n,)
        In our spelling.
    numbers : mapping of str to float array, shape (n,)
        The extents, all positive.
    words : mapping of str to array of str, shape (n,)
    seconds : float array, shape (n,)
    """

    path: Path
    operator: str
    chip: str
    source: str
    dtype: npt.NDArray[np.str_]
    numbers: Mapping[str, Floats]
    words: Mapping[str, npt.NDArray[np.str_]]
    seconds: Floats

    def __len__(self) -> int:
        return len(self.seconds)

    def where(self, chosen: npt.NDArray[np.bool_]) -> Table:
        """The rows that ``chosen`` marks."""
        return dataclasses.replace(
            self,
            dtype=self.dtype[chosen],
            numbers={k: v[chosen] for k, v in self.numbers.items()},
            words={k: v[chosen] for k, v in self.words.items()},
            seconds=self.seconds[chosen],
        )


def operator_of(path: Path) -> tuple[str, str] | None:
    """Operator and chip that a file name stands for, or None where it is no operator table."""
    for prefix, operator in _PREFIXES.items():
        match = re.fullmatch(re.escape(prefix) + r"(\w+)\.csv", path.name)
        if match:
            return operator, match.group(1)
    return None


def find_tables(folder: Path) -> tuple[list[Path], dict[str, str]]:
    """The operator tables of a folder, and the other files with the reason why they are none.

    Raises
    ------
    ResultsError
        The folder does not exist or holds no operator table.
    """
    if not folder.is_dir():
        raise ResultsError("no such folder", where=str(folder), expected="a folder of measured tables")
    tables, skipped = [], {}
    for path in sorted(p for p in folder.iterdir() if p.is_file()):
        if operator_of(path) is None:
            skipped[path.name] = "not an operator table (gemm_CHIP.csv, attn_ctx_CHIP.csv, moe_CHIP.csv)"
        else:
            tables.append(path)
    if not tables:
        raise ResultsError(
            "no operator table in this folder",
            where=str(folder),
            expected="files named gemm_CHIP.csv, attn_ctx_CHIP.csv or moe_CHIP.csv",
        )
    return tables, skipped


def read_table(path: Path) -> Table:
    """Read one table.

    Raises
    ------
    ResultsError
        With file and line: the file is no text, a column is missing, a row has too few or too many cells, a number is
        none or not positive, a dtype or the chip is unknown.
    """
    named = operator_of(path)
    if named is None:
        raise ResultsError(
            "the file name names no operator and chip", where=str(path), expected="gemm_CHIP.csv"
        )
    operator, chip = named
    if chip not in CHIP_IDS:
        raise ResultsError(f"unknown chip {chip!r}", where=str(path), hint=did_you_mean(chip, list(CHIP_IDS)))
    needed = (_DTYPE_COLUMN[operator], *_NUMBERS[operator], *_WORDS[operator], _LATENCY)
    comments: list[str] = []
    dtypes: list[str] = []
    numbers: dict[str, list[float]] = {c: [] for c in (*_NUMBERS[operator], _LATENCY)}
    words: dict[str, list[str]] = {c: [] for c in _WORDS[operator]}
    for line, row in csv_rows(path, required=needed, error=ResultsError, comments=comments):
        where = f"{path}:{line}"
        dtype = DTYPES.get(row[_DTYPE_COLUMN[operator]])
        if dtype is None:
            unknown = row[_DTYPE_COLUMN[operator]]
            raise ResultsError(
                f"unknown dtype {unknown!r}", where=where, hint=did_you_mean(unknown, list(DTYPES))
            )
        dtypes.append(dtype)
        for column, values in numbers.items():
            values.append(_positive(row[column], f"{where}, column {column}"))
        for column, texts in words.items():
            word = row[column]
            if column == "distribution" and not DISTRIBUTION.fullmatch(word):
                raise ResultsError(
                    f"unknown routing distribution {word!r}",
                    where=where,
                    expected="balanced, or power_law_1.2",
                )
            texts.append(word)
    if not dtypes:
        raise ResultsError("the table has no rows", where=str(path))
    latency_us = np.asarray(numbers.pop(_LATENCY))
    return Table(
        path=path,
        operator=operator,
        chip=chip,
        source=next(filter(None, comments), ""),
        dtype=np.asarray(dtypes),
        numbers={k: np.asarray(v) for k, v in numbers.items()},
        words={k: np.asarray(v) for k, v in words.items()},
        seconds=latency_us * 1e-6,
    )


def _positive(text: str, where: str) -> float:
    return number(text, where=where, above=0.0, most=_LARGEST, error=ResultsError)

"""Published training results: the table, read strictly, and the model that each row trains."""

from __future__ import annotations

import dataclasses
import difflib
import re
import typing
from collections.abc import Collection
from pathlib import Path

from fullmesh.data import DATA_DIR
from fullmesh.errors import ModelError, ResultsError, shown
from fullmesh.reading import csv_rows
from fullmesh.values import number
from fullmesh.workload import ModelSpec
from fullmesh.workload.parameters import MAX_LAYERS, check_size
from fullmesh.workload.readers import shipped
from fullmesh.workload.readers.config import LARGEST
from fullmesh.workload.readers.huggingface import load_model
from fullmesh.workload.variants import Shape, apply_shape, model_of_shape

SHIPPED_RESULTS = (
    DATA_DIR / "results" / "training_results.csv",
    DATA_DIR / "results" / "training_results_more.csv",
)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ResultRow:
    """One published result. Fields have the names of the columns in lower case; None means not published.

    Degrees (``tp`` ... ``fsdp``), batch (``mbs``, ``gbs``, ``ga``) and the texts ``vpp``, ``recompute``,
    ``overlap_and_flags`` and ``dist_opt`` are as the source prints them; what they mean is decided elsewhere.

    Parameters
    ----------
    line : int
        Where the row ends in its file.
    ffn_factor : float, optional
        Feed-forward width over hidden size, where the table gives that instead (``8h/3``).
    machine : str
        A machine of the catalog or a machine file, where that is to be used instead of the one that ``gpu`` stands for:
        it has the network that the run had.
    """

    line: int
    id: str
    tier: str
    source: str
    source_ref: str
    read_status: str
    phase: str
    framework: str
    gpu: str
    n_gpus: int | None
    model: str
    layers: int | None
    hidden: int | None
    heads: int | None
    kv_heads: int | None
    head_dim: str
    ffn: int | None
    ffn_factor: float | None
    experts: int | None
    topk: int | None
    shared_experts: str
    moe_ffn: int | None
    dense_layers: int | None
    vocab: int | None
    arch_note: str
    arch_status: str
    seq: int | None
    precision: str
    tp: int | None
    cp: int | None
    pp: int | None
    vpp: str
    dp: int | None
    ep: int | None
    etp: int | None
    fsdp: int | None
    mbs: int | None
    gbs: int | None
    ga: int | None
    recompute: str
    overlap_and_flags: str
    dist_opt: str
    step_s: float | None
    step_status: str
    tok_s_gpu: float | None
    tok_status: str
    tflops_gpu: float | None
    tflops_status: str
    mfu_pct: float | None
    hfu_pct: float | None
    mem_gib: str
    ttt_min: float | None
    notes: str
    missing: str
    device_basis: str
    chip_bin_note: str
    publisher: str
    run_key: str
    step_from: str
    mem_allocated_gib: float | None
    mem_reserved_gib: float | None
    mtp_layers: int | None
    machine: str


_PRINTED = {
    "tp": "TP", "cp": "CP", "pp": "PP", "vpp": "VPP", "dp": "DP", "ep": "EP", "etp": "ETP", "mem_gib": "mem_GiB",
}  # fmt: skip
# seconds, tokens per second, minutes: beyond it a figure is no measurement
_LARGEST_NUMBER = 1e15
_DIGITS = "[0-9]{1,9}"  # what `\d` and isdigit take besides is no number to int()
_DERIVED = ("line", "ffn_factor")
# names this much alike are slips of the pen
_NEARLY = 0.8
_KINDS = typing.get_type_hints(ResultRow)
COLUMNS = tuple(_PRINTED.get(f.name, f.name) for f in dataclasses.fields(ResultRow) if f.name not in _DERIVED)
# a zero is a statement here; everywhere else it would be nonsense
_MAY_BE_ZERO = ("experts", "topk", "dense_layers", "fsdp", "mtp_layers", "moe_ffn")
_REQUIRED = ("model", "gpu")


def read_results(path: str | Path | None = None) -> tuple[ResultRow, ...]:
    """Read a table of published results.

    Parameters
    ----------
    path : str or Path, optional
        A CSV file with columns of the shipped tables, which are read without it. ``model``, ``gpu`` (or ``machine``)
        and what was measured suffice; what a row does not say is assumed, and the assumption listed. Columns with
        names of their own are ignored.

    Raises
    ------
    ResultsError
        The file cannot be read, a column is missing, a row is too short or too long, an id stands twice, a value is
        no number, negative, or zero where zero means nothing.
    """
    if path is None:
        return tuple(row for file in SHIPPED_RESULTS for row in read_results(file))
    file = Path(path)
    rows: list[ResultRow] = []
    seen: dict[str, int] = {}
    hint = "the columns are those of the shipped table, data/results/training_results.csv"
    for line, fields in csv_rows(file, required=(), error=ResultsError, hint=hint):
        where = f"{file}, line {line}"
        if not rows:
            _check_columns(fields, str(file), hint)
        row = _row(fields, line, where)
        if row.id in seen:
            raise ResultsError(
                f"the id {row.id!r} stands twice, first on line {seen[row.id]}", where=f"{where}, column id"
            )
        seen[row.id] = line
        rows.append(row)
    if not rows:
        raise ResultsError("the table has no rows", where=str(file))
    return tuple(rows)


def _check_columns(names: Collection[str], file: str, hint: str) -> None:
    """Refuse a table without what every row needs, and names that are nearly those of columns."""
    low = [name.lower() for name in names]
    twice = [name for name in low if low.count(name) > 1]
    if twice:
        raise ResultsError(f"the column {twice[0]!r} stands twice", where=file, hint=hint)
    for name in _REQUIRED:
        if name not in low and not (name == "gpu" and "machine" in low):
            raise ResultsError(f"the column {name!r} is missing", where=file, hint=hint)
    known = [c.lower() for c in COLUMNS]
    for name in low:
        if name not in known and (near := difflib.get_close_matches(name, known, 1, _NEARLY)):
            raise ResultsError(
                f"unknown column {shown(name)}",
                where=file,
                expected="a column of the results, or one with a name of its own",
                hint=f"did you mean {near[0]!r}?",
            )


def row_of_fields(fields: dict[str, str], *, where: str) -> ResultRow:
    """One result from texts by column, read as a row of a table is.

    Raises
    ------
    ResultsError
    """
    return _row(fields, 1, where)


def _row(fields: dict[str, str], line: int, where: str) -> ResultRow:
    values: dict[str, object] = {"line": line, "ffn_factor": None}
    said = {name.lower(): text for name, text in fields.items() if text.strip()}
    fields = {"id": f"line {line}", "tier": "A"} | said
    for field in dataclasses.fields(ResultRow):
        if field.name in _DERIVED:
            continue
        column = _PRINTED.get(field.name, field.name)
        text = fields.get(column.lower(), "").strip()
        at = f"{where}, column {column}"
        if field.name in _REQUIRED and not text and not (column == "gpu" and "machine" in fields):
            raise ResultsError("the value is missing", where=at)
        factor = re.fullmatch(rf"({_DIGITS})h(?:/({_DIGITS}))?", text) if field.name == "ffn" else None
        if factor and int(factor.group(2) or 1) > 0:
            values["ffn"] = None
            values["ffn_factor"] = int(factor.group(1)) / int(factor.group(2) or 1)
        elif _KINDS[field.name] is str:
            values[field.name] = text
        else:
            values[field.name] = _number(
                text, _KINDS[field.name] == (int | None), field.name in _MAY_BE_ZERO, at
            )
    # other tables write LoRA or Pretrain; without a word a result is of pre-training
    values["phase"] = str(values["phase"]).lower() or "pretrain"
    if values["tier"] not in ("A", "B", "C"):
        raise ResultsError(
            f"{values['tier']!r} is no tier", where=f"{where}, column tier", expected="A, B or C"
        )
    return ResultRow(**values)  # type: ignore[arg-type]


def _number(text: str, whole: bool, zero: bool, where: str) -> float | int | None:
    if not text:
        return None
    kind = "a whole number" if whole else "a number"
    value = number(text, where=where, error=ResultsError)
    if whole and not value.is_integer():
        raise ResultsError(f"{shown(text)} is not {kind}", where=where, expected=f"{kind}, or nothing")
    if value < 0 or (value == 0 and not zero):
        raise ResultsError(
            f"{shown(text)} is out of range", where=where, expected=f"{kind} above 0, or nothing"
        )
    if value > (LARGEST if whole else _LARGEST_NUMBER):
        raise ResultsError(
            f"{shown(text)} is out of range", where=where, expected=f"{kind} up to {LARGEST:,}, or nothing"
        )
    return int(value) if whole else value


def row_model(row: ResultRow) -> ModelSpec:
    """The model that a row trains: the named one, with whatever the row's own columns say instead.

    Layers fewer than the named model's are its first ones. Rows of models that are not shipped are built from their
    columns. A learned position table has as many rows as the sequence has tokens. Multi-token-prediction modules are
    those of the row; where it is silent, those that the model's file names for the software of the run, else none.

    Raises
    ------
    ModelError
        The name is unknown and the columns do not suffice; the message names what is missing.
    """
    where = f"row {row.id}"
    entry = _named(row.model)
    try:
        if (row.layers or 0) > MAX_LAYERS:
            raise ModelError(f"{row.layers:,} layers", expected=f"at most {MAX_LAYERS:,}")
        if entry is not None:
            run = f"{row.framework} | {row.source} | {row.gpu}"
            mtp = next((n for pattern, n in entry.benchmark_mtp_layers.items() if re.search(pattern, run)), 0)
            return check_size(apply_shape(load_model(entry.id, mtp_layers=mtp), _shape(row)), where=where)
        if row.head_dim == "MLA":
            raise ModelError(
                f"the model {row.model!r} is not shipped, and the dimensions of its latent attention are missing",
                expected="head_dim as qk128+64rope/v128",
            )
        return check_size(model_of_shape(_shape(row), name=row.model), where=where)
    except ModelError as error:
        raise ModelError(
            error.what, where=error.where or where, expected=error.expected, hint=error.hint
        ) from None


def _named(name: str) -> shipped.ShippedModel | None:
    """The shipped model of a name as tables print it: with a variant letter, a chip count or a context length."""
    plain = re.sub(r"\s*\((?:C|[A-Z])\)$", "", name.strip())
    plain = re.sub(r"[_-](?:\d+p|\d+k)$", "", plain, flags=re.IGNORECASE)
    return shipped.find(name) or shipped.find(plain)


def _shape(row: ResultRow) -> Shape:
    head_dim, latent = _head_dim(row.head_dim)
    shared, shared_ffn = _shared(row.shared_experts, row.arch_note)
    ffn = row.ffn
    if ffn is None and row.ffn_factor is not None and row.hidden is not None:
        ffn = round(row.ffn_factor * row.hidden)
    mtp = row.mtp_layers
    trained = re.search(rf"trains mtp_num_layers ({_DIGITS})(?![0-9])", row.arch_note)
    if mtp is None and trained:
        mtp = int(trained.group(1))
    return Shape(
        layers=row.layers,
        hidden=row.hidden,
        heads=row.heads,
        kv_heads=row.kv_heads,
        head_dim=head_dim,
        latent=latent,
        ffn=ffn,
        experts=row.experts,
        topk=row.topk,
        moe_ffn=row.moe_ffn,
        shared_experts=shared,
        shared_ffn=shared_ffn,
        dense_layers=row.dense_layers,
        vocab=row.vocab,
        mtp_layers=mtp,
        seq=row.seq,
        note=row.arch_note,
    )


def _head_dim(text: str) -> tuple[int | None, tuple[int, int, int] | None]:
    """Head dimension, or the dimensions of latent attention (``qk128+64rope/v128``)."""
    if text in ("", "MLA"):
        return None, None
    match = re.fullmatch(rf"qk({_DIGITS})\+({_DIGITS})(?:rope)?/v({_DIGITS})", text)
    if match:
        return None, (int(match.group(1)), int(match.group(2)), int(match.group(3)))
    if re.fullmatch(_DIGITS, text) and int(text) > 0:
        return int(text), None
    raise ModelError(f"the head dimension {text!r} cannot be read", expected="a number or qkA+Brope/vC")


def _shared(text: str, note: str) -> tuple[int | None, int | None]:
    """Number of shared experts and their width together."""
    width = re.search(rf"shared ffn ({_DIGITS})(?![0-9])", text) or re.search(
        rf"shared ffn ({_DIGITS})(?![0-9])", note
    )
    if re.fullmatch(_DIGITS, text):
        return int(text), int(width.group(1)) if width else None
    if text and not width:
        raise ModelError(
            f"the shared experts {text!r} cannot be read",
            expected="a number or 'shared ffn WIDTH'",
        )
    return None, int(width.group(1)) if width else None

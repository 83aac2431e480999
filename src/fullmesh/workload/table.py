"""The operators of a whole model as one table of columns, to be read, saved and compared."""

from __future__ import annotations

import csv
import dataclasses
import io
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from fullmesh.errors import ModelError
from fullmesh.files import write_text
from fullmesh.reading import csv_rows
from fullmesh.values import number, whole
from fullmesh.workload.ops import (
    BF16_BYTES,
    FP32_BYTES,
    Block,
    Element,
    Phase,
    Row,
    Saved,
    optimizer_row,
    rows,
)
from fullmesh.workload.parameters import layer_parameters, parameter_counts
from fullmesh.workload.spec import ModelSpec

# Bytes of an element of a saved tensor before a precision recipe narrows it.
_SAVED_BYTES = {Element.BF16: BF16_BYTES, Element.FP32: FP32_BYTES, Element.INPUT: BF16_BYTES}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class OperatorTable:
    """Operators of a model in every phase, before any split; each column has one entry a row.

    Parameters
    ----------
    layers : tuple of str
        Layers that share the row, as ``0-2,5``; ``embedding``, ``head`` or ``prediction`` otherwise.
    count : tuple of int
        How many layers that are.
    name, kind, phase, dtype : tuple of str
        ``recipe`` is the dtype that the precision recipe of a plan gives a product.
    shape : tuple of tuple of float
        As :class:`~fullmesh.workload.ops.Row` says.
    read_bytes, written_bytes, flop : tuple of float
        Of one layer, in 16 bits unless ``dtype`` says otherwise.
    saved_bytes : tuple of float
        What one layer keeps for its backward pass under the name of this row, without recompute.
    """

    layers: tuple[str, ...]
    count: tuple[int, ...]
    name: tuple[str, ...]
    kind: tuple[str, ...]
    phase: tuple[Phase, ...]
    shape: tuple[tuple[float, ...], ...]
    dtype: tuple[str, ...]
    read_bytes: tuple[float, ...]
    written_bytes: tuple[float, ...]
    flop: tuple[float, ...]
    saved_bytes: tuple[float, ...]

    def __len__(self) -> int:
        return len(self.name)

    def records(self) -> Iterator[dict[str, object]]:
        """One dictionary a row."""
        names = [f.name for f in dataclasses.fields(self)]
        for values in zip(*(getattr(self, n) for n in names), strict=True):
            yield dict(zip(names, values, strict=True))

    def save(self, path: Path) -> None:
        """Write the table as CSV, whole or not at all."""
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow([f.name for f in dataclasses.fields(self)])
        for record in self.records():
            writer.writerow(
                " x ".join(repr(v) for v in value) if isinstance(value, tuple) else value
                for value in record.values()
            )
        write_text(path, out.getvalue())

    @classmethod
    def load(cls, path: Path) -> OperatorTable:
        """Read a table that :meth:`save` wrote.

        Raises
        ------
        ModelError
            The file cannot be read, or a column or a value is wrong.
        """
        names = [f.name for f in dataclasses.fields(cls)]
        figures = ("read_bytes", "written_bytes", "flop", "saved_bytes")

        def read(name: str, text: str, where: str) -> object:
            if name == "count":
                return whole(text, where=where, error=ModelError)
            if name in figures:
                return number(text, where=where, error=ModelError)
            if name == "shape":
                parts = text.split(" x ") if text else []
                return tuple(number(part, where=where, error=ModelError) for part in parts)
            return text

        try:
            records = [
                tuple(read(name, row[name], f"{path}:{line}, column {name}") for name in names)
                for line, row in csv_rows(path, required=names, allowed=names, error=ModelError)
            ]
        except ModelError as error:
            raise ModelError(
                f"cannot read the operator table: {error.what}",
                where=error.where,
                expected=error.expected,
                hint="write it again with catalog model NAME --ops --csv FILE",
            ) from None
        columns: list[Any] = list(zip(*records, strict=True)) if records else [()] * len(names)
        return cls(**dict(zip(names, columns, strict=True)))


def operator_table(model: ModelSpec, *, batch: int = 1, seq: int = 4096) -> OperatorTable:
    """All operators of a model for ``batch`` sequences of ``seq`` tokens, by kind of layer.

    The optimizer's step stands as one row for each kind of layer, over all of its parameters.
    """
    out: list[tuple[str, int, Row, float]] = []

    def add(
        layers: str, count: int, blocks: Iterable[Block], saved: tuple[Saved, ...], parameters: int
    ) -> None:
        kept = {s.name: _saved_bytes(s, batch, seq) for s in saved}
        for block in blocks:
            for op in block.operators:
                for i, row in enumerate(rows(op, batch=batch, seq=seq)):
                    out.append((layers, count, row, kept.pop(row.name, 0.0) if i == 0 else 0.0))
        for name, size in kept.items():
            row = Row(
                name=name, kind="saved tensor", phase="forward", shape=(), dtype="", read_bytes=0.0,
                written_bytes=0.0, flop=0.0,
            )  # fmt: skip
            out.append((layers, count, row, size))
        if parameters:
            out.append((layers, count, optimizer_row("optimizer", parameters), 0.0))

    counts = parameter_counts(model)
    add("embedding", 1, [model.embedding_block], (), counts.embedding)
    for kind in model.kinds:
        at = [i for i, layer in enumerate(model.layers) if layer == kind]
        add(_ranges(at), len(at), model.blocks(kind), model.saved(kind), layer_parameters(model, kind).total)
    add("head", 1, [model.head_block], (), counts.head + counts.final_norm)
    if model.mtp_layers:
        saved = tuple(s for layer in model.prediction_block for s in model.saved(layer))
        each = counts.mtp // model.mtp_layers
        add("prediction", model.mtp_layers, model.prediction_blocks(), saved, each)
    return OperatorTable(
        layers=tuple(o[0] for o in out),
        count=tuple(o[1] for o in out),
        saved_bytes=tuple(o[3] for o in out),
        **{f.name: tuple(getattr(o[2], f.name) for o in out) for f in dataclasses.fields(Row)},
    )


def _saved_bytes(saved: Saved, batch: int, seq: int) -> float:
    """Bytes of a saved tensor in fused 16-bit training; scores are never written there."""
    if saved.element is Element.SCORES:
        return 0.0
    return _SAVED_BYTES[saved.element] * batch * seq * saved.width.total


def _ranges(numbers: list[int]) -> str:
    """``[0, 1, 2, 5]`` as ``0-2,5``."""
    out: list[list[int]] = []
    for n in numbers:
        if out and out[-1][1] == n - 1:
            out[-1][1] = n
        else:
            out.append([n, n])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in out)

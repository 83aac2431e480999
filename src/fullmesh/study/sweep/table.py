"""Rows as one file: Parquet, DuckDB or CSV by its ending, written whole or not at all."""

from __future__ import annotations

import csv
import importlib
import io
import itertools
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from fullmesh.errors import OutputError
from fullmesh.files import TEMPORARY_PREFIX, write_bytes
from fullmesh.study.sweep.columns import COLUMNS, ELAPSED, NAMES

ENDINGS = (".parquet", ".duckdb", ".csv")
# what each ending needs beside the standard library
_NEEDED = {".parquet": ("pyarrow",), ".duckdb": ("pyarrow", "duckdb"), ".csv": ()}
TABLE = "sweep"
_BATCH = 20_000

Row = Sequence[Any]


def check_table(path: Path, *, where: str) -> None:
    """Refuse, before the work, a file that could not be written at its end.

    Raises
    ------
    OutputError
        What its ending needs is not installed; or a database that is open, or was not closed, stands there.
    """
    ending = path.suffix.lower()
    for name in _NEEDED[ending]:
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise OutputError(
                f"writing {ending[1:]} needs {name}, which is not installed" if error.name == name else
                f"writing {ending[1:]} needs {name}, which cannot be imported: {error}",
                where=where,
                expected=f"{name}, or a name that ends in .csv",
                hint="pip install 'fullmesh[data]'",
            ) from None  # fmt: skip
    if ending == ".duckdb" and os.path.exists(f"{path}.wal"):
        raise OutputError(
            f"the database has changes beside it that would be lost: {path}.wal",
            where=where,
            expected="a database that nothing has open",
            hint="close whatever has it open, or name another file",
        )


def write_table(
    path: Path, rows: Iterable[Row], about: Mapping[str, str], *, timing: bool, where: str
) -> None:
    """Write rows with the columns of a sweep.

    Parameters
    ----------
    rows : iterable of rows
    about : mapping of str to str
        What the file says of itself: metadata of Parquet, the table ``about`` of DuckDB.
    timing : bool
        Whether the time that each row took is a column.

    Raises
    ------
    OutputError
    """
    names = NAMES if timing else tuple(n for n in NAMES if n != ELAPSED)
    kept = [NAMES.index(n) for n in names]
    picked = ([row[i] for i in kept] for row in rows)
    ending = path.suffix.lower()
    if ending == ".csv":
        data = _csv(names, picked)
    elif ending == ".parquet":
        data = _parquet(names, picked, about)
    else:
        data = _duckdb(path, names, picked, about, where)
    write_bytes(path, data, where=where)


def _csv(names: Sequence[str], rows: Iterable[Row]) -> bytes:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(names)
    writer.writerows(rows)
    return out.getvalue().encode()


def _batches(names: Sequence[str], rows: Iterable[Row], about: Mapping[str, str]) -> Iterator[Any]:
    """The schema, then record batches of Arrow."""
    import pyarrow as pa

    types = {"text": pa.string(), "whole": pa.int64(), "number": pa.float64(), "flag": pa.bool_()}
    kinds = {c.name: types[c.kind] for c in COLUMNS}
    schema = pa.schema(
        [(n, kinds[n]) for n in names], metadata={f"fullmesh.{k}": v for k, v in about.items()}
    )
    yield schema
    rest = iter(rows)
    while batch := tuple(itertools.islice(rest, _BATCH)):
        columns = zip(*batch, strict=True)
        yield pa.record_batch(
            [pa.array(c, type=f.type) for c, f in zip(columns, schema, strict=True)], schema=schema
        )


def _parquet(names: Sequence[str], rows: Iterable[Row], about: Mapping[str, str]) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as parquet

    batches = _batches(names, rows, about)
    out = pa.BufferOutputStream()
    with parquet.ParquetWriter(out, next(batches), compression="zstd") as writer:
        for batch in batches:
            writer.write_batch(batch)
    return bytes(out.getvalue())


def _duckdb(
    path: Path, names: Sequence[str], rows: Iterable[Row], about: Mapping[str, str], where: str
) -> bytes:
    import duckdb
    import pyarrow as pa

    schema, *batches = _batches(names, rows, about)
    found = pa.Table.from_batches(batches, schema=schema)
    said = pa.table({"name": list(about), "value": list(about.values())})
    target = Path(os.path.realpath(path)).parent
    try:
        # beside the file: there is room, and it is known as ours
        folder = Path(tempfile.mkdtemp(prefix=TEMPORARY_PREFIX, suffix=".tmp", dir=target))
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror}", where=where) from None
    try:
        with duckdb.connect(str(folder / "rows.duckdb"), config={"threads": 1}) as database:
            database.register("found", found)
            database.register("said", said)
            database.execute(f"CREATE TABLE {TABLE} AS SELECT * FROM found")
            database.execute("CREATE TABLE about AS SELECT * FROM said")
            database.unregister("found")
            database.unregister("said")
        return (folder / "rows.duckdb").read_bytes()
    except (OSError, duckdb.Error) as error:
        raise OutputError(f"cannot write {path}: {error}", where=where) from None
    finally:
        shutil.rmtree(folder, ignore_errors=True)

"""Text, TOML, JSON and CSV files as data, read strictly and within stated limits.

Whatever stands in a file, reading it ends in data or in one error that names the file and where possible the line. The
limits are far above any file of their kind and are checked before the memory is taken.
"""

from __future__ import annotations

import csv
import io
import json
import re
import stat
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from fullmesh.errors import FullmeshError, shown

MIB = 1 << 20
# of a scenario, machine or topology; of a model's configuration; of a table
LARGEST_TOML_BYTES = 1 * MIB
LARGEST_JSON_BYTES = 16 * MIB
LARGEST_CSV_BYTES = 64 * MIB
DEEPEST = 64
# whole numbers beyond 64 bits are slips of the pen in every format
LARGEST_INTEGER = 2**63 - 1

Error = type[FullmeshError]


def read_text(
    path: Path, *, what: str, most_bytes: int, error: Error, expected: str = "a file in UTF-8", hint: str = ""
) -> str:
    """A UTF-8 file as text, a byte-order mark left out.

    Parameters
    ----------
    what : str
        What is being read (``"the scenario"``), for messages.
    most_bytes : int
        Limit; a pipe or device is read up to it.

    Raises
    ------
    FullmeshError
        Of the class ``error``: the file is missing, a folder, unreadable, too large, or not UTF-8.
    """
    raw = read_bytes(path, what=what, most_bytes=most_bytes, error=error, expected=expected, hint=hint)
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as found:
        line = raw.count(b"\n", 0, found.start) + 1
        raise error(
            f"{what} is not UTF-8 text",
            where=f"{path}:{line}",
            expected=expected,
            hint=hint,
        ) from None


def read_bytes(
    path: Path, *, what: str, most_bytes: int, error: Error, expected: str = "a file", hint: str = ""
) -> bytes:
    """A file's content; errors as :func:`read_text`."""
    try:
        with path.open("rb") as file:
            raw = file.read(most_bytes + 1)
    except (OSError, ValueError) as found:  # ValueError: a NUL character in the name
        reason = getattr(found, "strerror", None) or str(found)
        raise error(f"cannot read {what}: {reason}", where=str(path), expected=expected, hint=hint) from None
    if len(raw) > most_bytes:
        raise error(
            f"{what} is larger than {size_text(most_bytes)}",
            where=str(path),
            expected=f"at most {size_text(most_bytes)}",
            hint=hint,
        )
    return raw


def is_file(path: Path) -> bool:
    """Whether a name is that of a readable file or pipe; False for names that no file can have."""
    try:
        return not stat.S_ISDIR(path.stat().st_mode)
    except (OSError, ValueError):
        return False


def size_text(num_bytes: int) -> str:
    """``"16 MiB"``."""
    return f"{num_bytes // (1024 * MIB)} GiB" if num_bytes >= 1024 * MIB else f"{num_bytes // MIB} MiB"


def parse_toml(text: str, *, where: str, error: Error, hint: str = "") -> dict[str, Any]:
    """TOML as data: no repeated key, at most ``DEEPEST`` levels, whole numbers of 64 bits.

    Raises
    ------
    FullmeshError
        Of the class ``error``, with the line.
    """
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as found:
        line = re.search(r"line (\d+)", str(found))
        at = line[1] if line else str(len(text.splitlines()) or 1)
        raise error(
            f"not a TOML file: {found}", where=f"{where}:{at}", expected="a TOML file", hint=hint
        ) from None
    except RecursionError:
        raise _too_deep(where, error, hint) from None
    except ValueError as found:  # digits beyond Python's own limit, an impossible date
        raise error(
            f"a value cannot be read: {str(found).partition(';')[0]}",
            where=where,
            expected="numbers of at most 64 bits, real dates",
            hint=hint,
        ) from None
    check_data(data, where=where, error=error, hint=hint)
    return data


def parse_json(text: str, *, where: str, error: Error, expected: str = "JSON", hint: str = "") -> Any:
    """JSON as data: no repeated key, at most ``DEEPEST`` levels, whole numbers of 64 bits.

    ``NaN`` and ``Infinity`` are read as floats; whoever uses a value checks that it is finite.

    Raises
    ------
    FullmeshError
        Of the class ``error``, with the line where possible.
    """

    def pairs(members: list[tuple[str, Any]]) -> dict[str, Any]:
        out = dict(members)
        if len(out) != len(members):
            seen: set[str] = set()
            twice = next(k for k, _ in members if k in seen or seen.add(k))  # type: ignore[func-returns-value]
            raise error("a key stands twice", where=f"{where}, key {shown(twice)}", hint=hint)
        return out

    try:
        data = json.loads(text, object_pairs_hook=pairs)
    except json.JSONDecodeError as found:
        raise error(
            f"this is not valid JSON: {found.msg}",
            where=f"{where}, line {found.lineno}",
            expected=expected,
            hint=hint,
        ) from None
    except RecursionError:
        raise _too_deep(where, error, hint) from None
    except ValueError as found:
        raise error(
            f"a number has too many digits: {str(found).partition(';')[0]}",
            where=where,
            expected="numbers of at most 64 bits",
            hint=hint,
        ) from None
    check_data(data, where=where, error=error, hint=hint)
    return data


def check_data(data: Any, *, where: str, error: Error, hint: str = "") -> None:
    """Check depth and whole numbers of what a parser returned, without recursion.

    Raises
    ------
    FullmeshError
        Of the class ``error``.
    """
    todo: list[tuple[Any, int, str]] = [(data, 0, "")]  # a value, its depth, the nearest key around it
    while todo:
        value, depth, key = todo.pop()
        if isinstance(value, dict | list):
            if depth >= DEEPEST:
                raise _too_deep(where, error, hint)
            inner = value.items() if isinstance(value, dict) else ((key, v) for v in value)
            todo.extend((v, depth + 1, k) for k, v in inner if isinstance(v, dict | list | int))
        elif isinstance(value, int) and abs(value) > LARGEST_INTEGER:
            raise error(
                f"the whole number {shown(value, 40)} does not fit 64 bits",
                where=f"{where}, key {shown(key)}" if key else where,
                expected=f"at most {LARGEST_INTEGER:,}",
                hint=hint,
            )


def _too_deep(where: str, error: Error, hint: str) -> FullmeshError:
    return error(
        f"lists and tables are nested more than {DEEPEST} levels deep",
        where=where,
        expected=f"at most {DEEPEST} levels",
        hint=hint,
    )


def read_toml(path: Path, *, what: str, error: Error, hint: str = "") -> tuple[dict[str, Any], str]:
    """A TOML file as data, and its text for the lines of errors."""
    text = read_text(
        path, what=what, most_bytes=LARGEST_TOML_BYTES, error=error, expected="a TOML file", hint=hint
    )
    return parse_toml(text, where=str(path), error=error, hint=hint), text


def read_json(
    path: Path, *, what: str, error: Error, expected: str = "a JSON object", hint: str = ""
) -> dict[str, Any]:
    """A JSON file that holds one object."""
    text = read_text(
        path, what=what, most_bytes=LARGEST_JSON_BYTES, error=error, expected=expected, hint=hint
    )
    data = parse_json(text, where=str(path), error=error, expected=expected, hint=hint)
    if not isinstance(data, dict):
        raise error("this is no JSON object", where=str(path), expected=expected, hint=hint)
    return data


def _check_header(
    header: list[str],
    required: Sequence[str],
    allowed: Sequence[str] | None,
    *,
    where: str,
    error: Error,
    hint: str,
) -> None:
    """Refuse a header with an unknown column, without a required one, or with one twice."""
    columns = f"the columns {', '.join(allowed or required)}"
    for name in header:
        if allowed is not None and name not in allowed:
            raise error(f"unknown column {shown(name)}", where=where, expected=columns, hint=hint)
    if absent := [c for c in required if c not in header]:
        more = f", and {len(absent) - 1} more" if len(absent) > 1 else ""
        raise error(f"the column {absent[0]!r} is missing{more}", where=where, expected=columns, hint=hint)
    if len(set(header)) != len(header):
        twice = next(c for c in header if header.count(c) > 1)
        raise error(f"the column {shown(twice)} stands twice", where=where, expected="every column once")


def csv_rows(
    path: Path,
    *,
    required: Sequence[str],
    allowed: Sequence[str] | None = None,
    what: str = "the table",
    error: Error,
    hint: str = "",
    comments: list[str] | None = None,
) -> Iterator[tuple[int, dict[str, str]]]:
    """Rows of a CSV file with the line on which each ends; fields without the blanks around them.

    Parameters
    ----------
    required : sequence of str
        Columns that the header must name.
    allowed : sequence of str, optional
        All columns that it may name; any by default.
    comments : list of str, optional
        Lines that start with ``#`` are skipped, and collected here; without a list they are rows like any other.

    Raises
    ------
    FullmeshError
        Of the class ``error``: the file cannot be read, a column is missing, unknown or stands twice, a row has
        another number of fields than the header, a field is longer than 128 KiB, the text is not CSV or holds a NUL.
    """
    text = read_text(
        path, what=what, most_bytes=LARGEST_CSV_BYTES, error=error, expected="a CSV file in UTF-8", hint=hint
    )
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise error("a NUL character", where=f"{path}:{line}", expected="a CSV file in UTF-8", hint=hint)
    lines = io.StringIO(text, newline="")
    read = 0

    def kept() -> Iterator[str]:
        nonlocal read
        for line in lines:
            read += 1
            if comments is not None and line.startswith("#"):
                comments.append(line.lstrip("# ").strip())
                continue
            yield line

    reader = csv.reader(kept(), strict=True)
    try:
        header = [c.strip() for c in next(reader, [])]
        _check_header(header, required, allowed, where=f"{path}:{max(read, 1)}", error=error, hint=hint)
        for fields in reader:
            if not fields:
                continue
            if len(fields) != len(header):
                raise error(
                    f"the row has {len(fields)} fields",
                    where=f"{path}:{read}",
                    expected=f"{len(header)} fields, as in the header",
                    hint="put a field that contains a comma in double quotes",
                )
            yield read, dict(zip(header, (f.strip() for f in fields), strict=True))
    except csv.Error as found:
        raise error(
            f"not a CSV file: {found}", where=f"{path}:{max(read, 1)}", expected="a CSV file", hint=hint
        ) from None

"""The rows of a sweep as they come: a file beside the output that a kill at any moment leaves usable.

A line of JSON each: first a header with the program that answered, then rows in the order in which they were answered.
A key stands once. A torn last line, which a kill may leave, is cut off when the file is opened again.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from fullmesh import __version__
from fullmesh.errors import ScenarioError, shown
from fullmesh.files import AppendedFile
from fullmesh.study.sweep.columns import KEY_AT, NAMES, STATUS_AT, fault_of
from fullmesh.study.sweep.grid import program_digest

ENDING = ".journal"
FORMAT = "fullmesh sweep journal 1"
# rows reach the disk at least that often; what a killed process has written is there anyhow
TO_DISK_S = 0.2
_LONGEST_LINE = 1 << 20
_BUFFER = 4 << 20


def header() -> bytes:
    """The first line of a journal of this program."""
    record = {"format": FORMAT, "fullmesh": __version__, "program": program_digest(), "columns": list(NAMES)}
    return json.dumps(record).encode() + b"\n"


class Journal:
    """An open journal.

    Parameters
    ----------
    path : Path
    where : str
        The option, for messages.

    Raises
    ------
    FullmeshError
        It cannot be opened; another process writes it; it is no journal, one of another program, or damaged.
    """

    def __init__(self, path: Path, *, where: str = "") -> None:
        self.path = path
        self.cut_bytes = 0
        # where each row begins, and how it ended
        self.places: dict[str, int] = {}
        self.statuses: dict[str, str] = {}
        self._synced = 0.0
        self._file = AppendedFile(path, where=where)
        try:
            self._end = self._read()
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def _read(self) -> int:
        """Take over what is there; where it ends."""
        end = 0
        for number, line in enumerate(self._lines(), 1):
            if not line.endswith(b"\n"):
                if number == 1 and not header().startswith(line[: len(header())]):
                    self._check_header(line)
                self.cut_bytes = len(line)
                self._file.cut(end)
                break
            if number == 1:
                self._check_header(line)
            else:
                self._take(line, end, number)
            end += len(line)
        if not end:
            self._file.append(header(), to_disk=True)
            end = len(header())
        return end

    def _lines(self) -> Iterator[bytes]:
        """Lines of the file; the last one may have no end."""
        offset, rest = 0, b""
        while piece := self._file.read(offset, _BUFFER):
            offset += len(piece)
            *lines, rest = (rest + piece).split(b"\n")
            yield from (line + b"\n" for line in lines)
            if len(rest) > _LONGEST_LINE:
                break
        if rest:
            yield rest

    def _check_header(self, line: bytes) -> None:
        hint = "name another output, or move this file away"
        try:
            found = _parsed(line)
        except ValueError:
            found = None
        if not isinstance(found, dict) or found.get("format") != FORMAT:
            raise ScenarioError(
                "this is no journal of a sweep", where=str(self.path), expected=repr(FORMAT), hint=hint
            )
        if line != header():
            version, program = (shown(str(found.get(k)), 40).strip("'") for k in ("fullmesh", "program"))
            raise ScenarioError(
                f"the rows are answers of fullmesh {version} ({program[:12]}), "
                f"this is {__version__} ({program_digest()[:12]})",
                where=str(self.path),
                expected="rows of one program, with one set of facts and fits",
                hint="name another output; or delete the journal, and all points are asked again",
            )

    def _take(self, line: bytes, place: int, number: int) -> None:
        try:
            row = _parsed(line)
            fault = fault_of(row)
        except ValueError:
            fault = "this is no JSON in UTF-8"
        if not fault and row[KEY_AT] in self.places:
            fault = f"the key {row[KEY_AT]} stands twice"
        if fault:
            raise ScenarioError(
                f"the row is damaged: {fault}",
                where=f"{self.path}:{number}",
                expected="a row of a sweep",
                hint="delete the line, and its point is asked again",
            )
        self.places[row[KEY_AT]] = place
        self.statuses[row[KEY_AT]] = row[STATUS_AT]

    def append(self, lines: Sequence[bytes]) -> None:
        """Keep rows that have come.

        Raises
        ------
        OutputError
        """
        now = time.monotonic()
        to_disk = now - self._synced >= TO_DISK_S
        self._synced = now if to_disk else self._synced
        self._file.append(b"".join(lines), to_disk=to_disk)
        for line in lines:
            row = json.loads(line)
            self.places[row[KEY_AT]] = self._end
            self.statuses[row[KEY_AT]] = row[STATUS_AT]
            self._end += len(line)

    def sync(self) -> None:
        """All rows have reached the disk when this returns."""
        self._file.append(b"", to_disk=True)

    def rows(self, keys: Sequence[str]) -> Iterator[list[Any]]:
        """The rows of these keys, in their order."""
        start, buffer = 0, b""
        for key in keys:
            place = self.places[key]
            inside = place - start
            end = buffer.find(b"\n", inside) if 0 <= inside < len(buffer) else -1
            if end < 0:
                start, inside = place, 0
                buffer = self._file.read(place, _BUFFER)
                end = buffer.index(b"\n")
            row: list[Any] = json.loads(buffer[inside:end])
            yield row


def _parsed(line: bytes) -> Any:
    """A line as data; ValueError where it is none."""
    if len(line) > _LONGEST_LINE:
        raise ValueError("too long")
    try:
        return json.loads(line.decode("utf-8"))
    except RecursionError:
        raise ValueError("too deep") from None

"""The line of a key in a TOML text, for error messages."""

from __future__ import annotations

import re
from pathlib import Path

Location = tuple[str | int, ...]


class SourceLines:
    """Finds the line of a key in a TOML text, for error messages.

    Parameters
    ----------
    path : pathlib.Path
    text : str
    """

    def __init__(self, path: Path, text: str) -> None:
        self._path = path
        self._lines: dict[Location, int] = {}
        table: Location = ()
        num_entries: dict[str, int] = {}
        for number, line in enumerate(text.splitlines(), 1):
            if header := re.match(r"\s*(\[\[?)\s*([\w.-]+)\s*\]", line):
                table = tuple(header[2].split("."))
                if header[1] == "[[":
                    index = num_entries.get(header[2], 0)
                    num_entries[header[2]] = index + 1
                    table = (*table, index)
                self._lines.setdefault(table, number)
            elif key := re.match(r"\s*([\w-]+)\s*=", line):
                self._lines.setdefault((*table, key[1]), number)

    def where(self, location: Location) -> str:
        """``FILE:LINE: key.path``; the line of the closest enclosing table when the key itself is absent."""
        for length in range(len(location), 0, -1):
            if line := self._lines.get(location[:length]):
                break
        else:
            line = 1
        key = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location).lstrip(".")
        return f"{self._path}:{line}: {key}" if key else f"{self._path}:{line}"

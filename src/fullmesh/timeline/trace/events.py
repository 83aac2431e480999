"""Events of a Chrome trace, one after the other, from a file of any size in little memory.

A trace is a list of events, or an object with a list ``traceEvents``. It may be compressed. It is read in pieces, and
limits hold for what it unfolds to, whatever its size on disk.
"""

from __future__ import annotations

import codecs
import gzip
import json
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, cast

from fullmesh.errors import TraceError
from fullmesh.reading import DEEPEST, MIB, check_data, size_text

# profiles of one training step take 10 to 500 MB unfolded
LARGEST_UNFOLDED_BYTES = 1024 * MIB
LARGEST_EVENT_CHARS = 4 * MIB
MOST_EVENTS = 4_000_000
_PIECE_BYTES = 1 * MIB
_BLANK = re.compile(r"[ \t\n\r]*")
_WANTED = "the file that torch.profiler's export_chrome_trace or msprof writes"


def trace_events(path: Path) -> Iterator[dict[str, Any]]:
    """The events of a trace that are objects, in order.

    Raises
    ------
    TraceError
        The file cannot be read, is damaged, is no trace, or is larger than the limits.
    """
    try:
        with path.open("rb") as file:
            packed = file.peek(2)[:2] == b"\x1f\x8b"
            stream = cast("IO[bytes]", gzip.GzipFile(fileobj=file)) if packed else file
            yield from _Text(stream, str(path)).events()
    except (zlib.error, EOFError, gzip.BadGzipFile) as error:
        raise TraceError(
            f"the compressed trace is damaged: {error}",
            where=str(path),
            expected="a whole gzip file",
            hint="copy it again, or unpack what is left with gunzip and look at its end",
        ) from None
    except (OSError, ValueError) as error:  # ValueError: a NUL character in the name
        if isinstance(error, UnicodeDecodeError):
            raise TraceError("the trace is not UTF-8 text", where=str(path), expected=_WANTED) from None
        reason = getattr(error, "strerror", None) or error
        raise TraceError(f"cannot read the profile: {reason}", where=str(path), expected=_WANTED) from None


class _Text:
    """The text of a trace: what has been read and not yet used, and more on demand."""

    def __init__(self, stream: IO[bytes], where: str) -> None:
        self.stream, self.where = stream, where
        self.decode = codecs.getincrementaldecoder("utf-8-sig")()
        self.json = json.JSONDecoder()
        self.text, self.at, self.ended = "", 0, False
        self.num_bytes = self.line = 0

    def events(self) -> Iterator[dict[str, Any]]:
        first = self.next_char()
        if first == "[":
            yield from self.items()
        elif first == "{":
            yield from self.members()
        else:
            raise self.fault("the profile is not JSON")
        if self.next_char():
            raise self.fault("there is more after the end of the trace")

    def members(self) -> Iterator[dict[str, Any]]:
        """The members of the outer object, up to the events and past them."""
        found = False
        self.at += 1
        while (char := self.next_char()) != "}":
            key = self.value()
            if not isinstance(key, str) or self.next_char() != ":":
                raise self.fault("the profile is not JSON")
            self.at += 1
            char = self.next_char()
            if key == "traceEvents":
                if char != "[" or found:
                    raise self.fault(
                        "traceEvents stands twice" if found else "the profile has no list of traceEvents"
                    )
                found = True
                yield from self.items()
            else:
                self.value()
            self.separator("}")
        self.at += 1
        if not found:
            raise self.fault("the profile has no list of traceEvents")

    def items(self) -> Iterator[dict[str, Any]]:
        """The elements of the list of events that are objects."""
        count = 0
        self.at += 1
        while self.next_char() != "]":
            value = self.value()
            count += 1
            if count > MOST_EVENTS:
                raise self.fault(
                    f"the trace has more than {MOST_EVENTS:,} events",
                    hint="profile fewer steps or fewer ranks",
                )
            if isinstance(value, dict):
                yield value
            self.separator("]")
        self.at += 1

    def separator(self, close: str) -> None:
        char = self.next_char()
        if char == ",":
            self.at += 1
            if self.next_char() == close:
                raise self.fault("the profile is not JSON")
        elif char != close:
            raise self.fault("the profile is not JSON" if char else "the trace ends in the middle")

    def next_char(self) -> str:
        """The next character that is no blank, which is not taken; empty at the end."""
        while True:
            blank = _BLANK.match(self.text, self.at)
            self.at = blank.end() if blank else self.at
            if self.at < len(self.text):
                return self.text[self.at]
            if not self.more():
                return ""

    def value(self) -> Any:
        """The next value."""
        while True:
            try:
                value, end = self.json.raw_decode(self.text, self.at)
            except RecursionError:
                raise self.fault(f"an event is nested more than {DEEPEST} levels deep") from None
            except json.JSONDecodeError:
                end = -1
            except ValueError:
                raise self.fault("a number of the trace has thousands of digits") from None
            # a number that ends where the text so far ends may go on
            if end >= 0 and (end < len(self.text) or self.ended):
                self.at = end
                if isinstance(value, dict | list):
                    check_data(value, where=self.where, error=TraceError)
                return value
            if len(self.text) - self.at > LARGEST_EVENT_CHARS:
                raise self.fault("the profile is not JSON, or one of its events is larger than 4 MiB")
            if not self.more():
                raise self.fault("the profile is not JSON, or ends in the middle")

    def more(self) -> bool:
        """Read another piece, as long again as what is not used yet; False at the end."""
        if self.ended:
            return False
        size = max(_PIECE_BYTES, len(self.text) - self.at)
        piece = self.stream.read(size)
        self.num_bytes += len(piece)
        if self.num_bytes > LARGEST_UNFOLDED_BYTES:
            raise self.fault(
                f"the trace is larger than {size_text(LARGEST_UNFOLDED_BYTES)}, unfolded",
                expected=f"at most {size_text(LARGEST_UNFOLDED_BYTES)}",
                hint="profile fewer steps, or switch with_stack and record_shapes off",
            )
        self.ended = len(piece) == 0
        self.line += self.text.count("\n", 0, self.at)
        self.text = self.text[self.at :] + self.decode.decode(piece, final=self.ended)
        self.at = 0
        return not self.ended or bool(self.text)

    def fault(self, what: str, *, expected: str = _WANTED, hint: str = "") -> TraceError:
        line = self.line + self.text.count("\n", 0, self.at) + 1
        return TraceError(what, where=f"{self.where}:{line}", expected=expected, hint=hint)

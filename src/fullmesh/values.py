"""One reader for each kind of value that a user can write: type, range, finiteness and length, each with its message.

Values come from TOML and JSON (typed) or from options and tables (text). The readers raise the error class that they
are given, so that a mistake in a topology is a mistake in a topology.
"""

from __future__ import annotations

import math
import re
from typing import Any

from fullmesh.errors import FullmeshError, ScenarioError, shown

# beyond it nothing in a file or option counts anything, and sums still fit 64 bits
LARGEST_WHOLE = 10**15
# names, paths and notes
LONGEST_TEXT = 4_096
LONGEST_LIST = 100_000

Error = type[FullmeshError]
_WHOLE = re.compile(r"[+-]?[0-9]{1,18}")
_NUMBER = re.compile(r"[+-]?(?:[0-9]{1,40}(?:\.[0-9]{0,40})?|\.[0-9]{1,40})(?:[eE][+-]?[0-9]{1,4})?")


def whole(
    value: Any,
    *,
    where: str = "",
    least: int = 0,
    most: int = LARGEST_WHOLE,
    error: Error = ScenarioError,
    hint: str = "",
) -> int:
    """A whole number within its range, from a number or from text of ASCII digits.

    Raises
    ------
    FullmeshError
        Of the class ``error``: something else, or out of range.
    """
    expected = _range_words("a whole number", least, most)
    if isinstance(value, str):
        text = value.strip()
        if not _WHOLE.fullmatch(text):
            raise error(f"{shown(value)} is not a whole number", where=where, expected=expected, hint=hint)
        value = int(text)
    if isinstance(value, bool) or not isinstance(value, int):
        raise error(f"{shown(value)} is not a whole number", where=where, expected=expected, hint=hint)
    if not least <= value <= most:
        fault = "is negative" if value < 0 == least else "is out of range"
        raise error(f"{shown(value)} {fault}", where=where, expected=expected, hint=hint)
    return value


def number(
    value: Any,
    *,
    where: str = "",
    least: float = -math.inf,
    above: float = -math.inf,
    most: float = math.inf,
    error: Error = ScenarioError,
    hint: str = "",
) -> float:
    """A finite number within its range (``least`` and ``most`` belong to it, ``above`` does not).

    Raises
    ------
    FullmeshError
        Of the class ``error``: no number, infinite, nan, or out of range.
    """
    words = "a positive, finite number" if above == 0 else "a finite number"
    if above > 0:
        words += f" above {above:g}"
    elif least > -math.inf:
        words += f" of at least {least:g}"
    if most < math.inf:
        words += f" and at most {most:g}"
    if isinstance(value, str):
        text = value.strip()
        if not _NUMBER.fullmatch(text):
            raise error(f"{shown(value)} is not a number", where=where, expected=words, hint=hint)
        out = float(text)
    elif isinstance(value, bool) or not isinstance(value, int | float):
        raise error(f"{shown(value)} is not a number", where=where, expected=words, hint=hint)
    else:
        try:
            out = float(value)
        except OverflowError:
            out = math.inf
    if not math.isfinite(out):
        raise error(f"{shown(value)} is not finite", where=where, expected=words, hint=hint)
    if out < least or out <= above or out > most:
        fault = "is negative" if out < 0 == max(least, above) else "is out of range"
        raise error(f"{shown(value)} {fault}", where=where, expected=words, hint=hint)
    return out


def share(value: Any, *, where: str = "", error: Error = ScenarioError, zero: bool = False) -> float:
    """A number above 0 (with ``zero``: from 0) and at most 1."""
    return number(
        value,
        where=where,
        least=0.0,
        above=-math.inf if zero else 0.0,
        most=1.0,
        error=error,
        hint="a share is written as 0.9, not as a percentage",
    )


def text(
    value: Any,
    *,
    where: str = "",
    most: int = LONGEST_TEXT,
    empty: bool = False,
    error: Error = ScenarioError,
    expected: str = "a text in quotes",
) -> str:
    """A text of at most ``most`` characters without control characters."""
    if not isinstance(value, str):
        raise error(f"{shown(value)} is not a text", where=where, expected=expected)
    if not value.strip() and not empty:
        raise error("the text is empty", where=where, expected=expected)
    if len(value) > most:
        raise error(
            f"a text of {len(value):,} characters", where=where, expected=f"at most {most:,} characters"
        )
    if any(ord(c) < 32 and c not in "\t\n\r" for c in value) or "\x7f" in value:
        raise error(f"{shown(value)} holds a control character", where=where, expected=expected)
    return value


def flag(value: Any, *, where: str = "", error: Error = ScenarioError) -> bool:
    """True or false."""
    if not isinstance(value, bool):
        raise error(f"{shown(value)} is neither true nor false", where=where, expected="true or false")
    return value


def items(
    value: Any,
    *,
    where: str = "",
    most: int = LONGEST_LIST,
    error: Error = ScenarioError,
    expected: str = "a list",
) -> list[Any]:
    """A list of at most ``most`` elements."""
    if not isinstance(value, list):
        raise error(f"{shown(value)} is not a list", where=where, expected=expected)
    if len(value) > most:
        raise error(f"a list of {len(value):,} elements", where=where, expected=f"at most {most:,}")
    return value


def _range_words(kind: str, least: int, most: int) -> str:
    return f"{kind} of at least {least:,}" if most >= LARGEST_WHOLE else f"{kind} from {least:,} to {most:,}"

"""Texts with wide letters in lines of a given width."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator

from fullmesh.language.letters import WIDE, cells, is_chinese

# a figure with its unit
_AMOUNT = r"[-+]?\d[\d.,]*(?: (?:%|[A-Za-z]{1,2}(?:/s)?(?![A-Za-z])))?(?!\w)"
_OPENING, _CLOSING = "（“《", "，。；：、）”》！？…％"


@functools.cache
def _unit() -> re.Pattern[str]:
    # compiled for texts that need it: such a pattern takes longer than a short command
    return re.compile(
        f"[{_OPENING}]*(?:[{WIDE}]|{_AMOUNT}|[^\\s{WIDE}{_OPENING}{_CLOSING}]+|(?=[{_CLOSING}]))[{_CLOSING}]*\\s*"
        r"|\s+|."
    )


def wrapped(text: str, width: int) -> list[str]:
    """A text in lines of at most ``width`` cells: broken at blanks and between wide letters, no closing sign first.

    A word that is longer than a line is cut.
    """
    lines: list[str] = []
    for paragraph in text.split("\n"):
        line = ""
        for unit in _units(paragraph, max(width, 2)):
            if line and cells(line + unit.rstrip(" ")) > width:
                lines.append(line.rstrip(" "))
                line = unit.lstrip(" ")
            else:
                line += unit
        lines.append(line.rstrip(" "))
    return lines


def words(text: str) -> list[str]:
    """What is not broken where a text is wrapped."""
    return [unit.rstrip() for unit in _units(text, 10_000)] if is_chinese(text) else text.split()


def fold(text: str, width: int) -> str:
    """A text wrapped to a width where it has wide letters; others are wrapped by whoever prints them."""
    return "\n".join(wrapped(text, width)) if is_chinese(text) else text


def _units(text: str, width: int) -> Iterator[str]:
    """Pieces of a text that stay on one line, with the blanks behind them."""
    for unit in _unit().findall(text):
        rest = unit
        while cells(rest.rstrip(" ")) > width:
            cut = 1
            while cells(rest[: cut + 1]) <= width:
                cut += 1
            yield rest[:cut]
            rest = rest[cut:]
        yield rest

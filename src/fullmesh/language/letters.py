"""Chinese and Latin letters beside each other: how wide they are, and what stands between them."""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence

WIDE = "\u2e80-\u9fff\uf900-\ufaff"
FULL = "，。；：、（）“”《》！？…"


def is_chinese(text: str) -> bool:
    """Whether a text holds a Chinese or Japanese letter or sign."""
    return not text.isascii() and any(
        "\u2e80" <= letter <= "\u9fff" or "\uf900" <= letter <= "\ufaff" for letter in text
    )


@functools.cache
def _two_cells() -> re.Pattern[str]:
    # compiled for texts that need it: such a pattern takes longer than a short command
    return re.compile(
        "[\u1100-\u115f\u2e80-\ua4cf\uac00-\ud7a3\uf900-\ufaff\ufe30-\ufe6f\uff00-\uff60\uffe0-\uffe6]"
    )


@functools.cache
def _half_width() -> re.Pattern[str]:
    return re.compile(f"(?<=[{WIDE}）])(?:, |: )")


def cells(text: str) -> int:
    """Cells of a terminal that a text takes: wide letters take two."""
    return len(text) if text.isascii() else len(text) + len(_two_cells().findall(text))


def signed(text: str) -> str:
    """Full-width signs behind Chinese, but where the text quotes something."""
    return text if "'" in text else _half_width().sub(lambda m: "，" if m[0] == ", " else "：", text)


def ended(text: str) -> str:
    """A sentence with its full stop."""
    if not is_chinese(text[-1:]) and not text.endswith(tuple(FULL)):
        # the sentence ends in what is not Chinese: it may still be one
        return text + ("。" if is_chinese(text) else ".")
    return text if text.endswith(("。", "！", "？", "……")) else text + "。"


def joined(sentences: Sequence[str]) -> str:
    """Sentences in a row."""
    out = sentences[0]
    for sentence in sentences[1:]:
        out += ("" if out.endswith(("。", "！", "？")) else " ") + sentence
    return out


def side_by_side(pieces: Sequence[str]) -> str:
    """Pieces in a row: a blank between Chinese and Latin letters or digits, none beside full-width signs."""
    out = ""
    for piece in pieces:
        if not piece:
            continue
        if not out:
            out = piece
            continue
        left, right = out.rstrip(" "), piece.lstrip(" ")
        if not left or not right:
            out += piece
            continue
        a, b = left[-1], right[0]
        if a in FULL or b in FULL or (is_chinese(a) and is_chinese(b)):
            out = left + right
        elif is_chinese(a) != is_chinese(b) and _spaced(a) and _spaced(b):
            out = f"{left} {right}"
        else:
            out += piece
    return out


def _spaced(letter: str) -> bool:
    return is_chinese(letter) or letter.isalnum() or letter in "%$'\"`+-"

"""The Chinese of every sentence, from ``data/sentences.zh.po``, and what counts as a sentence of ours."""

from __future__ import annotations

import functools
import importlib.resources
import json
import re

SENTENCES = "sentences.zh.po"

# what is said to a program or by another: no sentence of ours
VERBATIM = re.compile(r"'[^']*'|\"[^\"]*\"|`[^`]*`|\S*[/\\]\S*")
_PROSE = re.compile(r"(?<![\w-])[a-z]{2,}(?: [a-z]{2,}){2,}(?![\w-]|\.\w)")


def is_prose(text: str) -> bool:
    """Whether a text holds three English words in a row that are no name, quotation, path or command."""
    return bool(_PROSE.search(VERBATIM.sub(" ", text)))


def templates(text: str) -> list[str]:
    """The entries of a text that is written in the source: its paragraphs, on one line, without the last full stop."""
    found = []
    for paragraph in re.split(r"\n\s*\n", text):
        line = re.sub(r"\s+", " ", paragraph.removeprefix("- "))
        line = line.strip() if "\n" in text or text.startswith("  ") else line
        found.append(line if line.endswith("..") else line.removesuffix("."))
    return found


@functools.cache
def entries() -> dict[str, str]:
    """All English templates with their Chinese, in the order of the file."""
    text = importlib.resources.files("fullmesh.data").joinpath(SENTENCES).read_text("utf-8")
    lines = re.findall(r'^msgid (".*")\nmsgstr (".*")$', text, re.MULTILINE)
    return {json.loads(en): json.loads(zh) for en, zh in lines[1:]}

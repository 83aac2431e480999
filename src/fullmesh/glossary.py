"""One vocabulary: terms with symbol, unit, English, 中文 and meaning, which label tables and documents."""

from __future__ import annotations

import functools
from typing import Literal, NamedTuple

Language = Literal["en", "zh"]
LANGUAGES: tuple[Language, ...] = ("en", "zh")


class GlossaryTerm(NamedTuple):
    """One term of the field: a row of the file, as light as one, for every command imports this module."""

    key: str
    symbol: str
    unit: str
    en: str
    zh: str
    meaning: str


@functools.cache
def load_glossary() -> dict[str, GlossaryTerm]:
    """All terms by key, in the order of the file."""
    # neither is needed by a command that prints its help
    import csv
    import importlib.resources

    resource = importlib.resources.files("fullmesh.data").joinpath("glossary.csv")
    rows = csv.DictReader(resource.read_text("utf-8").splitlines(), strict=True)
    return {row["key"]: GlossaryTerm(**row) for row in rows}


def label(key: str, lang: Language = "en") -> str:
    """The term of a key in a language.

    Raises
    ------
    KeyError
        No such term: labels are ours, so this is our mistake.
    """
    term = load_glossary()[key]
    return term.zh if lang == "zh" else term.en


def meaning(key: str) -> str:
    """What a term means, in English."""
    return load_glossary()[key].meaning

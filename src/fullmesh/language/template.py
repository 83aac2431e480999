"""Templates of sentences: English with holes, found again in a finished sentence, and its Chinese."""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Iterator, Sequence

from fullmesh.glossary import load_glossary
from fullmesh.language.sentences import entries

WORD = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")
# a template with fewer letters than that says little of itself, so that nothing in it may stay English; one with more
# may hold several sentences
TELLING, _LENGTHY = 10, 20
# a hole by its number; in Chinese also what stands before and behind a text that continues another, and a hole whose
# words stay as they are
_HOLE = re.compile(r"\{(\d+|<|>|=\d+)\}")
# a bracket with two more inside each other
PAIR = r"\((?:[^()]|\((?:[^()]|\([^()]*\))*\))*\)"
IN_BRACKETS = re.compile(PAIR)
# signs that join what was said before; a text that begins with one, or with a blank, continues another
_CONTINUES = (" ", ",", ";", ":", ")", ".")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Template:
    """One sentence with holes.

    Parameters
    ----------
    words : frozenset of str
        Whole words that a text must hold to be such a sentence.
    literals : tuple of str
        The English around the holes, one more than there are holes.
    holes : tuple of str
        Their numbers, ``<`` for what stands before and ``>`` for what stands behind.
    parts, order : tuple of str
        The Chinese around the holes, and which holes stand between.
    telling : int
        Letters of the English.
    """

    words: frozenset[str]
    literals: tuple[str, ...]
    holes: tuple[str, ...]
    parts: tuple[str, ...]
    order: tuple[str, ...]
    telling: int

    @property
    def short(self) -> bool:
        """Whether it says so little that other ways to read a text come first; one of names does not."""
        return self.telling < TELLING and not any(name.startswith("=") for name in self.order)

    def match(self, text: str) -> list[str] | None:
        """What stands in the holes, in order: as little as may be in each but in what stands before."""
        first, *rest = self.literals
        if self.holes[0] == "<":
            end = len(text)
            while (end := text.rfind(rest[0], 0, end)) >= 0:
                inner = self._inner(text, end + len(rest[0]), rest[1:])
                if inner is not None and _is_whole(text[:end]):
                    return [text[:end], *inner]
                end += len(rest[0]) - 1
            return None
        if not text.startswith((first, first[:1].upper() + first[1:])):
            return None
        return self._inner(text, len(first), rest)

    def _inner(self, text: str, start: int, literals: Sequence[str]) -> list[str] | None:
        """What stands between the literals, the first way that fits."""
        failed: set[tuple[int, int]] = set()

        def fits(start: int, end: int) -> bool:
            # "NAME: sentence" and "A, B" are told apart before
            group = text[start:end]
            return self._fits(group) and (start > 0 or not any(sign in group for sign in self._apart))

        def rest(number: int, start: int) -> list[str] | None:
            literal = literals[number]
            if number == len(literals) - 1:
                end = len(text) - len(literal)
                found = (
                    text.endswith(literal, start)
                    and fits(start, end)
                    and (end > start or self.holes[-1] != ">")
                )
                return [text[start:end]] if found else None
            if (number, start) in failed:
                return None
            place = text.find(literal, start)
            while place >= 0:
                # a blank before % belongs to the figure
                figure = text[place : place + 2] == " %" != literal[:2]
                if not figure and fits(start, place):
                    found_rest = rest(number + 1, place + len(literal))
                    if found_rest is not None:
                        return [text[start:place], *found_rest]
                place = text.find(literal, place + 1)
            failed.add((number, start))
            return None

        if not literals:
            return [] if start == len(text) else None
        return rest(0, start)

    @property
    def _apart(self) -> tuple[str, ...]:
        return (": ",) if self.telling >= _LENGTHY else (": ", ", ")

    def _fits(self, group: str) -> bool:
        # what is short holds no end of a sentence
        ends = () if self.telling >= _LENGTHY else (". ",) if self.holes[0] == "<" else (". ", ";")
        if any(end in group for end in ends):
            bare = IN_BRACKETS.sub("", group)
            if any(end in bare for end in ends):
                return False
        return _is_whole(group)


def _is_whole(text: str) -> bool:
    """Whether brackets stand in pairs."""
    opening = text.count("(")
    if opening != text.count(")"):
        return False
    if not opening:
        return True
    depth = 0
    for letter in text:
        depth += (letter == "(") - (letter == ")")
        if depth < 0:
            return False
    return not depth


def _template(en: str, zh: str) -> Template:
    literals, holes = _HOLE.split(en)[::2], _HOLE.split(en)[1::2]
    words = frozenset(w.lower() for s in literals for w in _inner_words(s, en))
    telling = sum(c.isalpha() for s in literals for c in s)
    literals[0] = small_first(literals[0])
    if en.startswith(_CONTINUES):
        literals, holes = ["", *literals], ["<", *holes]
        zh = zh if "{<}" in zh else "{<}" + zh
    if en.endswith(" "):
        literals, holes = [*literals, ""], [*holes, ">"]
        zh = zh if "{>}" in zh else zh + "{>}"
    parts = _HOLE.split(zh)
    return Template(
        words=words,
        literals=tuple(literals),
        holes=tuple(holes),
        parts=tuple(parts[::2]),
        order=tuple(parts[1::2]),
        telling=telling,
    )


def _open(en: str) -> bool:
    """Whether something of a user or of another text stands in or beside it."""
    return bool(_HOLE.search(en)) or en.startswith(_CONTINUES) or en.endswith(" ")


def _inner_words(literal: str, en: str) -> Iterator[str]:
    """Whole words of the text between two holes: one that touches a hole may be part of a longer word."""
    for word in WORD.finditer(literal):
        touches = (word.start() == 0 and not en.startswith(literal)) or (
            word.end() == len(literal) and not en.endswith(literal)
        )
        if not touches:
            yield word[0]


def small_first(text: str) -> str:
    """A text whose first letter is small."""
    return text[:1].lower() + text[1:]


@functools.cache
def phrases() -> dict[str, str]:
    """Texts without holes, of sentences and of the glossary, by their English with a small first letter."""
    out = {term.en: term.zh for term in reversed(load_glossary().values())}
    out |= {en: zh for en, zh in entries().items() if not _open(en)}
    return {small_first(en): zh for en, zh in out.items()}


@functools.cache
def _index() -> dict[str, list[Template]]:
    """Templates by one word that each must hold, the rarest; by an empty word where there is none."""
    found = [_template(en, zh) for en, zh in entries().items() if _open(en)]
    count: dict[str, int] = {}
    for template in found:
        for word in template.words:
            count[word] = count.get(word, 0) + 1
    out: dict[str, list[Template]] = {}
    for template in found:
        anchor = min(template.words, key=lambda w: (count[w], -len(w), w), default="")
        out.setdefault(anchor, []).append(template)
    return out


@functools.lru_cache(maxsize=2048)
def matches(text: str, short: bool) -> tuple[tuple[Template, list[str]], ...]:
    """Templates that fit a text, short ones or the rest, with what stands in their holes; the most telling first."""
    index = _index()
    words = {w.lower() for w in WORD.findall(text)}
    near = [t for word in (*words, "") for t in index.get(word, ()) if t.words <= words and t.short == short]
    fitting = ((t, t.match(text)) for t in sorted(near, key=lambda t: -t.telling))
    return tuple(
        (template, groups) for template, groups in fitting if groups is not None and text not in groups
    )

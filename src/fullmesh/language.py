"""English sentences in Chinese, where they are printed: by templates, in the terms of the glossary.

Sentences are written once, in English, where they belong. ``data/sentences.zh.po`` holds each of them with numbered
holes and its Chinese; a finished sentence is found again by these templates, what stands in its holes is looked up in
the same way, and numbers, names, paths and commands stay as they are. What has no template stays English.
"""

from __future__ import annotations

import contextvars
import dataclasses
import functools
import importlib.resources
import json
import os
import re
from collections.abc import Iterator, Sequence

from fullmesh.errors import FullmeshError, ScenarioError
from fullmesh.glossary import LANGUAGES, Language, load_glossary

VARIABLE = "FULLMESH_LANG"
SENTENCES = "sentences.zh.po"

_current: contextvars.ContextVar[Language] = contextvars.ContextVar("language", default="en")

# a hole by its number; in Chinese also what stands before and behind a text that continues another, and a hole whose
# words stay as they are
_HOLE = re.compile(r"\{(\d+|<|>|=\d+)\}")
_PAIR = r"\((?:[^()]|\((?:[^()]|\([^()]*\))*\))*\)"
_IN_BRACKETS = re.compile(_PAIR)
_BRACKET_BEHIND = re.compile(rf"((?:{_PAIR}|[^()])*)(?<=\S) ({_PAIR})")
_WORD = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")
# what is said to a program or by another: no sentence of ours
_VERBATIM = re.compile(r"'[^']*'|\"[^\"]*\"|`[^`]*`|\S*[/\\]\S*")
_PROSE = re.compile(r"(?<![\w-])[a-z]{2,}(?: [a-z]{2,}){2,}(?![\w-]|\.\w)")
_SMALL = re.compile(r"(?<![\w.=-])(?!(?:ms|us|ns|min)\b)[a-z]{2,}(?![\w.=-])")
_FIGURE_BEHIND = re.compile(r"(\D.*\S) ([-+]?\d[\d.,]*(?: %)?)")
# English that is more than a name
_ROUGH = re.compile(
    r"(?<![\w-])(?:[a-z]{2,} [a-z]{2,}|(?:the|an?|of|in|at|on|for|to|and|with|is|its|by|as|that|it|not|no|be)(?![\w-]))"
)
_WIDE = "\u2e80-\u9fff\uf900-\ufaff\u3040-\u30ff"
_CHINESE = re.compile(f"[{_WIDE}]")
_TWO_CELLS = re.compile(
    "[\u1100-\u115f\u2e80-\ua4cf\uac00-\ud7a3\uf900-\ufaff\ufe30-\ufe6f\uff00-\uff60\uffe0-\uffe6]"
)
_HALF_WIDTH = re.compile(f"(?<=[{_WIDE}）])(?:, |: )")
_FULL = "，。；：、（）“”《》！？…"
# signs that join what was said before; a text that begins with one, or with a blank, continues another
_CONTINUES = (" ", ",", ";", ":", ")", ".")
_SENTENCE_END = re.compile(r"(?<=[.。])\s+(?=[A-Z`“\"'\u4e00-\u9fff])")
# between what stands side by side, outside quotes and brackets, loosest first
_JOINTS = (("; ", "；"), (": ", "："), (", and ", "，"), (" and ", " 和 "), (" or ", " 或 "), (", ", "，"))
_OF_LISTS = (", and ", " and ", " or ", ", ")
# a template with fewer letters than that says little of itself, so that nothing in it may stay English; one with more
# may hold several sentences
_TELLING, _LENGTHY = 10, 20
# parts side by side that take more cells than that are clauses
_LONG = 24


def current() -> Language:
    """The language of what is printed."""
    return _current.get()


def use(lang: Language) -> None:
    """Print in a language from here on."""
    _current.set(lang)


def chosen(arguments: Sequence[str]) -> Language:
    """The language that a command line or the environment asks for, before options are read.

    An explicit ``--lang`` wins; one that is wrong is left to whoever reads the options.

    Raises
    ------
    ScenarioError
        ``FULLMESH_LANG`` names no language.
    """
    asked = os.environ.get(VARIABLE, "").strip()
    found: Language = "en"
    for i, argument in enumerate(arguments):
        if argument == "--":
            break
        name, equal, value = argument.partition("=")
        if name == "--lang":
            value = value if equal else "".join(arguments[i + 1 : i + 2])
            if value in LANGUAGES:
                found, asked = LANGUAGES[LANGUAGES.index(value)], ""
    if asked and asked not in LANGUAGES:
        raise ScenarioError(
            f"unknown language {asked[:40]!r}",
            where=VARIABLE,
            expected="en or zh",
            hint="unset it, or use --lang",
        )
    return LANGUAGES[LANGUAGES.index(asked)] if asked else found


def say(text: str) -> str:
    """A text of ours in the language of what is printed."""
    return text if current() == "en" else "\n".join(render(line) for line in text.split("\n"))


def say_error(error: FullmeshError) -> str:
    """An error as the command line prints it, each of its parts in the language of what is printed."""
    if current() == "en":
        return error.render()
    what = render(error.what)
    head = f"{_place(error.where)}：{what}" if error.where else what
    expected = [f"  应为：{render(error.expected)}"] if error.expected else []
    return "\n".join([f"错误：{head}", *expected, "", f"提示：{render(error.hint or error.default_hint)}"])


def _place(where: str) -> str:
    """Where a mistake stands: the words around names of files, keys and options, which stay as they are."""
    if " " in where and where in entries():
        return entries()[where]
    for template, groups in (*_matches(where, False), *_matches(where, True)):
        named = dataclasses.replace(
            template, order=tuple(f"={n}" if n.isdigit() else n for n in template.order)
        )
        return _filled(named, groups)
    return where


def is_prose(text: str) -> bool:
    """Whether a text holds three English words in a row that are no name, quotation, path or command."""
    return bool(_PROSE.search(_VERBATIM.sub(" ", text)))


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


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Template:
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
        return self.telling < _TELLING and not any(name.startswith("=") for name in self.order)

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
            bare = _IN_BRACKETS.sub("", group)
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


def _template(en: str, zh: str) -> _Template:
    literals, holes = _HOLE.split(en)[::2], _HOLE.split(en)[1::2]
    words = frozenset(w.lower() for s in literals for w in _inner_words(s, en))
    telling = sum(c.isalpha() for s in literals for c in s)
    literals[0] = _lower(literals[0])
    if en.startswith(_CONTINUES):
        literals, holes = ["", *literals], ["<", *holes]
        zh = zh if "{<}" in zh else "{<}" + zh
    if en.endswith(" "):
        literals, holes = [*literals, ""], [*holes, ">"]
        zh = zh if "{>}" in zh else zh + "{>}"
    parts = _HOLE.split(zh)
    return _Template(
        words=words,
        literals=tuple(literals),
        holes=tuple(holes),
        parts=tuple(parts[::2]),
        order=tuple(parts[1::2]),
        telling=telling,
    )


@functools.cache
def _phrases() -> dict[str, str]:
    """Texts without holes, of sentences and of the glossary, by their English with a small first letter."""
    out = {term.en: term.zh for term in reversed(load_glossary().values())}
    out |= {en: zh for en, zh in entries().items() if not _open(en)}
    return {_lower(en): zh for en, zh in out.items()}


@functools.cache
def _index() -> dict[str, list[_Template]]:
    """Templates by one word that each must hold, the rarest; by an empty word where there is none."""
    found = [_template(en, zh) for en, zh in entries().items() if _open(en)]
    count: dict[str, int] = {}
    for template in found:
        for word in template.words:
            count[word] = count.get(word, 0) + 1
    out: dict[str, list[_Template]] = {}
    for template in found:
        anchor = min(template.words, key=lambda w: (count[w], -len(w), w), default="")
        out.setdefault(anchor, []).append(template)
    return out


def _open(en: str) -> bool:
    """Whether something of a user or of another text stands in or beside it."""
    return bool(_HOLE.search(en)) or en.startswith(_CONTINUES) or en.endswith(" ")


def _inner_words(literal: str, en: str) -> Iterator[str]:
    """Whole words of the text between two holes: one that touches a hole may be part of a longer word."""
    for word in _WORD.finditer(literal):
        touches = (word.start() == 0 and not en.startswith(literal)) or (
            word.end() == len(literal) and not en.endswith(literal)
        )
        if not touches:
            yield word[0]


def _lower(text: str) -> str:
    return text[:1].lower() + text[1:]


@functools.lru_cache(maxsize=8192)
def render(text: str) -> str:
    """A finished English text in Chinese; what is not understood stays as it is.

    Sentences of ours only: numbers, names, units, commands and paths in them are left alone.
    """
    if not _WORD.search(text):
        return text
    margin = len(text) - len(text.lstrip(" "))
    if margin and (whole := _found(text) or _best(text)) is not None:
        return _signed(whole)
    return text[:margin] + _signed(_sentence(text[margin:]))


def _signed(text: str) -> str:
    """Full-width signs behind Chinese, but where the text quotes something."""
    return text if "'" in text else _HALF_WIDTH.sub(lambda m: "，" if m[0] == ", " else "：", text)


def render_cell(text: str) -> str:
    """A cell of a table: as a sentence, but a single word only where it is one of ours and no name of a thing."""
    return render(text) if " " in text else entries().get(text, text)


def _sentence(text: str) -> str:
    phrase = _phrases().get(_lower(text))
    if phrase is not None:
        return phrase
    if text.startswith("(") and _IN_BRACKETS.fullmatch(text):
        return f"（{render(text[1:-1])}）"
    stop = text.endswith(".") and not text.endswith("..")
    bare = text[:-1] if stop else text
    whole = _found(bare)
    if whole is None:
        pieces = _SENTENCE_END.split(text)
        if len(pieces) > 1:
            return _joined([render(piece) for piece in pieces])
        whole = _best(bare)
    return text if whole is None else _ended(whole) if stop else whole


def _ended(text: str) -> str:
    if not _CHINESE.search(text[-1:]) and not text.endswith(tuple(_FULL)):
        # the sentence ends in what is not Chinese: it may still be one
        return text + ("。" if _CHINESE.search(text) else ".")
    return text if text.endswith(("。", "！", "？", "……")) else text + "。"


def _joined(sentences: Sequence[str]) -> str:
    out = sentences[0]
    for sentence in sentences[1:]:
        out += ("" if out.endswith(("。", "！", "？")) else " ") + sentence
    return out


def _found(text: str) -> str | None:
    """The text by a phrase, or by a template that says enough and whose holes are understood, or are names."""
    phrase = _phrases().get(_lower(text))
    if phrase is not None:
        return phrase
    for template, groups in _matches(text, False):
        if template.telling < _TELLING or not any(is_prose(render(g)) for g in groups):
            return _filled(template, groups)
    return None


@functools.lru_cache(maxsize=2048)
def _matches(text: str, short: bool) -> tuple[tuple[_Template, list[str]], ...]:
    """Templates that fit a text, short ones or the rest, with what stands in their holes; the most telling first."""
    index = _index()
    words = {w.lower() for w in _WORD.findall(text)}
    near = [t for word in (*words, "") for t in index.get(word, ()) if t.words <= words and t.short == short]
    fitting = ((t, t.match(text)) for t in sorted(near, key=lambda t: -t.telling))
    return tuple(
        (template, groups) for template, groups in fitting if groups is not None and text not in groups
    )


def _best(text: str) -> str | None:
    """The text part by part, or by a template in which something stays English: the fewest words that do."""
    best, fewest = None, _unknown(text) + 1
    for option in _options(text):
        unknown = _unknown(option)
        # Chinese labels inside a text want Chinese signs, even where nothing else of it is known
        if unknown < fewest and (_CHINESE.search(text) or _CHINESE.search(option)):
            best, fewest = option, unknown
        if not fewest:
            break
    return best


def _options(text: str) -> Iterator[str]:
    for template, groups in _matches(text, False):
        yield _filled(template, groups)
    # Chinese beside a whole English sentence only where a label stands before it already
    labelled = bool(_CHINESE.search(text))
    yield from (whole for whole in _by_parts(text, labelled) if labelled or not is_prose(whole))
    for template, groups in sorted(_matches(text, True), key=lambda found: -len(found[1])):
        # a short template says little: what stands in it must be a name, a figure or understood
        if all(_is_clear(render(g)) for g in groups):
            whole = _filled(template, groups)
            if not _is_rough(whole):
                yield whole


def _by_parts(text: str, labelled: bool) -> Iterator[str]:
    for parts, joint, sign in _cuts(text):
        done = [render(part) for part in parts]
        listed = joint in _OF_LISTS
        between = "，" if listed and max(map(_cells, done)) > _LONG else sign
        whole = _side_by_side([piece for part in done for piece in (between, part)][1:])
        if not listed or ((done != parts or labelled) and not _is_rough(whole)):
            yield whole
    if text.endswith(")") and (found := _BRACKET_BEHIND.fullmatch(text)):
        yield f"{render(found[1])}（{render(found[2][1:-1])}）"
    if found := _FIGURE_BEHIND.fullmatch(text):
        yield _side_by_side([render(found[1]), f" {found[2]}"])


def _is_rough(text: str) -> bool:
    return bool(_ROUGH.search(_VERBATIM.sub(" ", text)))


def _is_clear(text: str) -> bool:
    return " " not in text.strip() or not _unknown(text) or bool(_CHINESE.search(text))


def _unknown(text: str) -> int:
    """Words of a text that are neither Chinese nor a name, a quotation, a path or a command."""
    return len(_SMALL.findall(_VERBATIM.sub(" ", text)))


def _filled(template: _Template, groups: Sequence[str]) -> str:
    by_name = dict(zip(template.holes, groups, strict=True))
    pieces = [template.parts[0]]
    for name, part in zip(template.order, template.parts[1:], strict=True):
        names = name.startswith("=")
        pieces += [by_name[name[1:]].replace(" or ", " 或 ") if names else render(by_name[name]), part]
    return _side_by_side(pieces)


def _side_by_side(pieces: Sequence[str]) -> str:
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
        if a in _FULL or b in _FULL or (_CHINESE.match(a) and _CHINESE.match(b)):
            out = left + right
        elif bool(_CHINESE.match(a)) != bool(_CHINESE.match(b)) and _spaced(a) and _spaced(b):
            out = f"{left} {right}"
        else:
            out += piece
    return out


def _spaced(letter: str) -> bool:
    return bool(_CHINESE.match(letter)) or letter.isalnum() or letter in "%$'\"`+-"


def _cuts(text: str) -> Iterator[tuple[list[str], str, str]]:
    """Ways to cut a text in parts, with the joint between them in both languages."""
    for joint, sign in _JOINTS:
        parts = _parts(text, joint)
        # a list of single words is one of names
        if len(parts) < 2 or (joint == ", " and not any(" " in part for part in parts)):
            continue
        pairs = ([joint.join(parts[:i]), joint.join(parts[i:])] for i in range(1, len(parts)))
        if joint not in _OF_LISTS:
            yield next(pairs), joint, sign
            continue
        yield parts, joint, sign
        if joint == " and " and len(parts) > 2:
            yield from ((pair, joint, sign) for pair in pairs)


def _parts(text: str, joint: str) -> list[str]:
    """A text cut at a joint where that stands outside brackets and quotes."""
    spans = [
        m.span()
        for m in re.finditer(r"'[^']*'|\"[^\"]*\"|`[^`]*`|\([^()]*\)|\[[^\[\]]*\]|（[^（）]*）", text)
    ]
    parts, start = [], 0
    for found in re.finditer(re.escape(joint), text):
        if not any(a <= found.start() < b for a, b in spans):
            parts.append(text[start : found.start()])
            start = found.end()
    return [*parts, text[start:]]


def _cells(text: str) -> int:
    """Cells of a terminal that a text takes: wide letters take two."""
    return len(text) if text.isascii() else len(text) + len(_TWO_CELLS.findall(text))


def wrapped(text: str, width: int) -> list[str]:
    """A text in lines of at most ``width`` cells: broken at blanks and between wide letters, no closing sign first.

    A word that is longer than a line is cut.
    """
    lines: list[str] = []
    for paragraph in text.split("\n"):
        line = ""
        for unit in _units(paragraph, max(width, 2)):
            if line and _cells(line + unit.rstrip(" ")) > width:
                lines.append(line.rstrip(" "))
                line = unit.lstrip(" ")
            else:
                line += unit
        lines.append(line.rstrip(" "))
    return lines


def words(text: str) -> list[str]:
    """What is not broken where a text is wrapped."""
    return [unit.rstrip() for unit in _units(text, 10_000)] if _CHINESE.search(text) else text.split()


def fold(text: str, width: int) -> str:
    """A text wrapped to a width where it has wide letters; others are wrapped by whoever prints them."""
    return "\n".join(wrapped(text, width)) if _CHINESE.search(text) else text


# a figure with its unit
_AMOUNT = r"[-+]?\d[\d.,]*(?: (?:%|[A-Za-z]{1,2}(?:/s)?(?![A-Za-z])))?(?!\w)"
_OPENING, _CLOSING = "（“《", "，。；：、）”》！？…％"


_UNIT = re.compile(
    f"[{_OPENING}]*(?:[{_WIDE}]|{_AMOUNT}|[^\\s{_WIDE}{_OPENING}{_CLOSING}]+|(?=[{_CLOSING}]))[{_CLOSING}]*\\s*"
    r"|\s+|."
)


def _units(text: str, width: int) -> Iterator[str]:
    """Pieces of a text that stay on one line, with the blanks behind them."""
    for unit in _UNIT.findall(text):
        rest = unit
        while _cells(rest.rstrip(" ")) > width:
            cut = 1
            while _cells(rest[: cut + 1]) <= width:
                cut += 1
            yield rest[:cut]
            rest = rest[cut:]
        yield rest

"""Finished English sentences in Chinese: whole by a template, else part by part."""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Iterator, Sequence

from fullmesh.errors import FullmeshError
from fullmesh.language.letters import cells, ended, is_chinese, joined, side_by_side, signed
from fullmesh.language.sentences import VERBATIM, entries, is_prose
from fullmesh.language.template import (
    IN_BRACKETS,
    PAIR,
    TELLING,
    WORD,
    Template,
    matches,
    phrases,
    small_first,
)

_BRACKET_BEHIND = re.compile(rf"((?:{PAIR}|[^()])*)(?<=\S) ({PAIR})")
_SMALL = re.compile(r"(?<![\w.=-])(?!(?:ms|us|ns|min)\b)[a-z]{2,}(?![\w.=-])")
_FIGURE_BEHIND = re.compile(r"(\D.*\S) ([-+]?\d[\d.,]*(?: %)?)")
# English that is more than a name
_ROUGH = re.compile(
    r"(?<![\w-])(?:[a-z]{2,} [a-z]{2,}|(?:the|an?|of|in|at|on|for|to|and|with|is|its|by|as|that|it|not|no|be)(?![\w-]))"
)
_SENTENCE_END = re.compile(r"(?<=[.。])\s+(?=[A-Z`“\"'\u4e00-\u9fff])")
# between what stands side by side, outside quotes and brackets, loosest first
_JOINTS = (("; ", "；"), (": ", "："), (", and ", "，"), (" and ", " 和 "), (" or ", " 或 "), (", ", "，"))
_OF_LISTS = (", and ", " and ", " or ", ", ")
# parts side by side that take more cells than that are clauses
_LONG = 24


@functools.lru_cache(maxsize=8192)
def render(text: str) -> str:
    """A finished English text in Chinese; what is not understood stays as it is.

    Sentences of ours only: numbers, names, units, commands and paths in them are left alone.
    """
    if not WORD.search(text):
        return text
    margin = len(text) - len(text.lstrip(" "))
    if margin and (whole := _found(text) or _best(text)) is not None:
        return signed(whole)
    return text[:margin] + signed(_sentence(text[margin:]))


def render_cell(text: str) -> str:
    """A cell of a table: as a sentence, but a single word only where it is one of ours and no name of a thing."""
    return render(text) if " " in text else entries().get(text, text)


def render_error(error: FullmeshError) -> str:
    """An error as the command line prints it, in Chinese."""
    what = render(error.what)
    head = f"{_place(error.where)}：{what}" if error.where else what
    expected = [f"  应为：{render(error.expected)}"] if error.expected else []
    return "\n".join([f"错误：{head}", *expected, "", f"提示：{render(error.hint or error.default_hint)}"])


def _place(where: str) -> str:
    """Where a mistake stands: the words around names of files, keys and options, which stay as they are."""
    if " " in where and where in entries():
        return entries()[where]
    for template, groups in (*matches(where, False), *matches(where, True)):
        named = dataclasses.replace(
            template, order=tuple(f"={n}" if n.isdigit() else n for n in template.order)
        )
        return _filled(named, groups)
    return where


def _sentence(text: str) -> str:
    phrase = phrases().get(small_first(text))
    if phrase is not None:
        return phrase
    if text.startswith("(") and IN_BRACKETS.fullmatch(text):
        return f"（{render(text[1:-1])}）"
    stop = text.endswith(".") and not text.endswith("..")
    bare = text[:-1] if stop else text
    whole = _found(bare)
    if whole is None:
        pieces = _SENTENCE_END.split(text)
        if len(pieces) > 1:
            return joined([render(piece) for piece in pieces])
        whole = _best(bare)
    return text if whole is None else ended(whole) if stop else whole


def _found(text: str) -> str | None:
    """The text by a phrase, or by a template that says enough and whose holes are understood, or are names."""
    phrase = phrases().get(small_first(text))
    if phrase is not None:
        return phrase
    for template, groups in matches(text, False):
        if template.telling < TELLING or not any(is_prose(render(g)) for g in groups):
            return _filled(template, groups)
    return None


def _best(text: str) -> str | None:
    """The text part by part, or by a template in which something stays English: the fewest words that do."""
    best, fewest = None, _unknown(text) + 1
    for option in _options(text):
        unknown = _unknown(option)
        # Chinese labels inside a text want Chinese signs, even where nothing else of it is known
        if unknown < fewest and (is_chinese(text) or is_chinese(option)):
            best, fewest = option, unknown
        if not fewest:
            break
    return best


def _options(text: str) -> Iterator[str]:
    for template, groups in matches(text, False):
        yield _filled(template, groups)
    # Chinese beside a whole English sentence only where a label stands before it already
    labelled = is_chinese(text)
    yield from (whole for whole in _by_parts(text, labelled) if labelled or not is_prose(whole))
    for template, groups in sorted(matches(text, True), key=lambda found: -len(found[1])):
        # a short template says little: what stands in it must be a name, a figure or understood
        if all(_is_clear(render(g)) for g in groups):
            whole = _filled(template, groups)
            if not _is_rough(whole):
                yield whole


def _by_parts(text: str, labelled: bool) -> Iterator[str]:
    for parts, joint, sign in _cuts(text):
        done = [render(part) for part in parts]
        listed = joint in _OF_LISTS
        between = "，" if listed and max(map(cells, done)) > _LONG else sign
        whole = side_by_side([piece for part in done for piece in (between, part)][1:])
        if not listed or ((done != parts or labelled) and not _is_rough(whole)):
            yield whole
    if text.endswith(")") and (found := _BRACKET_BEHIND.fullmatch(text)):
        yield f"{render(found[1])}（{render(found[2][1:-1])}）"
    if found := _FIGURE_BEHIND.fullmatch(text):
        yield side_by_side([render(found[1]), f" {found[2]}"])


def _is_rough(text: str) -> bool:
    return bool(_ROUGH.search(VERBATIM.sub(" ", text)))


def _is_clear(text: str) -> bool:
    return " " not in text.strip() or not _unknown(text) or is_chinese(text)


def _unknown(text: str) -> int:
    """Words of a text that are neither Chinese nor a name, a quotation, a path or a command."""
    return len(_SMALL.findall(VERBATIM.sub(" ", text)))


def _filled(template: Template, groups: Sequence[str]) -> str:
    by_name = dict(zip(template.holes, groups, strict=True))
    pieces = [template.parts[0]]
    for name, part in zip(template.order, template.parts[1:], strict=True):
        names = name.startswith("=")
        pieces += [by_name[name[1:]].replace(" or ", " 或 ") if names else render(by_name[name]), part]
    return side_by_side(pieces)


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

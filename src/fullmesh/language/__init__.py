"""What is printed, in the language that is asked for: English as it is written, Chinese by templates.

Sentences are written once, in English, where they belong. ``data/sentences.zh.po`` holds each of them with numbered
holes and its Chinese (:mod:`~fullmesh.language.sentences`); a finished sentence is found again by these templates
(:mod:`~fullmesh.language.template`), what stands in its holes is looked up in the same way
(:mod:`~fullmesh.language.rendering`), and numbers, names, paths and commands stay as they are. What has no template
stays English. Whoever prints English loads none of this.
"""

from __future__ import annotations

import contextvars
import os
from collections.abc import Sequence

from fullmesh.errors import FullmeshError, ScenarioError
from fullmesh.glossary import LANGUAGES, Language

VARIABLE = "FULLMESH_LANG"

_current: contextvars.ContextVar[Language] = contextvars.ContextVar("language", default="en")


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
    if current() == "en":
        return text
    from fullmesh.language.rendering import render

    return "\n".join(render(line) for line in text.split("\n"))


def say_error(error: FullmeshError) -> str:
    """An error as the command line prints it, each of its parts in the language of what is printed."""
    if current() == "en":
        return error.render()
    from fullmesh.language.rendering import render_error

    return render_error(error)

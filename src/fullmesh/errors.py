"""The errors a user can cause. Each says what is wrong, where, what was expected, and how to mend it."""

from __future__ import annotations

import re

# characters of a user's value that a message repeats
ECHO = 200
# what is longer than any sentence of ours holds somebody's value
_MOST = 1_000
# a quoted value, a list or table, or a run without a blank, longer than a message repeats; possessive, so linear;
# compiled by the first error, which most runs have not
_LONG = rf"""'(?:[^'\\]|\\.){{{ECHO},}}+'|"(?:[^"\\]|\\.){{{ECHO},}}+"|[\[{{(][^\n]{{{ECHO},}}+|\S{{{ECHO + 1},}}+"""


def shown(value: object, most: int = ECHO) -> str:
    """A value as a message repeats it: what Python would write for it, but at most ``most`` characters.

    Control characters are written as escapes. A whole number of thousands of digits is only described.
    """
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # too many digits, or too deep, for Python to write out
        text = f"a {type(value).__name__} too large to write out"
    return text if len(text) <= most else text[: most - 4] + " ..."


def _cut(text: str) -> str:
    """A message with every overlong value in it cut to ``ECHO`` characters, and control characters escaped."""
    text = "".join(c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text)
    if len(text) > ECHO:
        text = re.sub(_LONG, lambda m: m[0][: ECHO - 4] + " ...", text)
    return text if len(text) <= _MOST else text[: _MOST - 4] + " ..."


class FullmeshError(Exception):
    """A mistake in the input, never a bug of ours.

    Parameters
    ----------
    what : str
        One sentence: what is wrong.
    where : str, optional
        File and line, row, option or key.
    expected : str, optional
        What was expected there.
    hint : str, optional
        What the user can do about it.
    """

    # where to look when the place that raises knows nothing better
    default_hint = "`fullmesh COMMAND --help` explains the options, docs/reference.md the files"

    def __init__(self, what: str, *, where: str = "", expected: str = "", hint: str = "") -> None:
        self.what = _cut(what)
        self.where = _cut(where)
        self.expected = _cut(expected)
        self.hint = _cut(hint)
        super().__init__(self.render())

    def render(self) -> str:
        """The message as the command line prints it."""
        head = f"{self.where}: {self.what}" if self.where else self.what
        lines = [f"error: {head}"]
        if self.expected:
            lines.append(f"  expected: {self.expected}")
        lines += ["", f"hint: {self.hint or self.default_hint}"]
        return "\n".join(lines)


class CatalogError(FullmeshError):
    """A fact, chip, machine or price that is unknown or badly written."""

    default_hint = (
        "`fullmesh catalog` lists what is known, docs/reference.md describes machine and price files"
    )


class ModelError(FullmeshError):
    """A model that is unknown, or a configuration that cannot be read."""

    default_hint = "compare with a config.json of the same model type, or name a shipped model"


class PlanError(FullmeshError):
    """A parallel plan that contradicts itself, the model or the machine."""


class ExportError(PlanError):
    """A plan or a model that a training framework has no settings for."""

    default_hint = "another --export may have them; docs/reference.md says what each framework can express"


class ScenarioError(FullmeshError):
    """A scenario file or a command-line option that cannot be understood."""


class LaunchError(ScenarioError):
    """A launch file, a log or a profile of a training run that cannot be understood."""

    default_hint = "docs/reference.md lists what `fullmesh check` reads"


class ResultsError(FullmeshError):
    """A table of published results or measurements that cannot be read."""

    default_hint = "the columns are those of the shipped table, which the README beside it explains"


class TraceError(ResultsError):
    """A trace of a real run that cannot be read."""

    default_hint = "write it again: export_chrome_trace of torch.profiler, or trace_view.json of msprof"


class OutputError(ScenarioError):
    """A place where nothing can be written."""

    default_hint = "name a file in a folder where you may write"


class TopologyError(FullmeshError):
    """A fabric description that is contradictory or incomplete."""

    default_hint = "docs/fabric.md describes how fabrics are written and the options of `fullmesh fabric`"


def did_you_mean(name: str, known: list[str]) -> str:
    """A hint that names the closest known names, or lists them all when there are few."""
    import difflib

    name = name[:ECHO]
    close = difflib.get_close_matches(name.lower(), [k.lower() for k in known], n=3, cutoff=0.5)
    if close:
        by_lower = {k.lower(): k for k in known}
        return "did you mean " + " or ".join(by_lower[c] for c in close) + "?"
    if len(known) <= 12:
        return "known: " + ", ".join(sorted(known))
    return "known, for instance: " + ", ".join(sorted(known)[:12]) + ", ..."

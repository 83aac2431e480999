"""How a field of a plan is declared: its kind, default, range and documentation, in one place.

A declaration is what :func:`size`, :func:`number`, :func:`share`, :func:`switch`, :func:`choice`, :func:`names` and
:func:`text` return; :class:`fullmesh.plan.plan.PlanFields` is the list of them. Checks, columns, scenario files,
labels and the reference follow from it.
"""

from __future__ import annotations

import dataclasses
import math
import numbers
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from fullmesh.errors import PlanError, did_you_mean

Kind = Literal["number", "share", "switch", "choice", "names", "text"]
Label = Callable[[Any], str]

# batch, sequence and degrees up to here: their products are still exact in the columns
LARGEST = 1_000_000_000
SIZE_RANGE = f"from 1 to {LARGEST:,}"

_DTYPES: dict[Kind, Any] = {
    "number": np.int64, "share": np.float64, "switch": np.bool_, "choice": np.int64, "names": np.int64,
    "text": np.str_,
}  # fmt: skip


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class PlanField:
    """One field of a plan.

    Parameters
    ----------
    name : str
        In Python, in scenario files and in columns.
    kind : str
        A column holds numbers, shares and switches as they are, choices as their index, names as a bit mask.
    default : object
    choices : tuple of str
        Of a choice, or what a tuple of names may hold.
    allowed : range or tuple of int
        Of a number.
    expected : str
        What is allowed, in words.
    en, zh : str
        What it means, in one line.
    option : str
        The option of the command line that sets it, empty without one.
    brief, detail : callable
        Its part of a plan's label, and what the longer line that tables print puts behind it; with the blank or comma
        in front, empty where there is nothing to say.
    """

    name: str = ""
    kind: Kind
    default: Any
    choices: tuple[str, ...] = ()
    allowed: range | tuple[int, ...] = ()
    expected: str
    en: str
    zh: str
    option: str = ""
    brief: Label = lambda value: ""
    detail: Label = lambda value: ""

    def column(self, values: Sequence[Any]) -> npt.NDArray[Any]:
        """Values as a column, shape ``(len(values),)``."""
        return np.array([self.code(v) for v in values], dtype=_DTYPES[self.kind])

    def filled(self, value: Any, length: int) -> npt.NDArray[Any]:
        """A column that holds one value ``length`` times, in the memory of one."""
        return np.broadcast_to(self.column([value]), (length,))

    def cast(self, column: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Codes of any numeric type as the column's own type."""
        return column.astype(_DTYPES[self.kind], copy=False)

    def code(self, value: Any) -> Any:
        """A value as a column holds it."""
        if self.kind == "choice":
            return self.choices.index(value)
        if self.kind == "names":
            return sum(1 << self.choices.index(name) for name in set(value))
        return value

    def value(self, code: Any) -> Any:
        """The value of an entry of a column."""
        if self.kind == "choice":
            return self.choices[int(code)]
        if self.kind == "names":
            return tuple(name for bit, name in enumerate(self.choices) if int(code) >> bit & 1)
        return code.item() if hasattr(code, "item") else str(code)

    def check(self, value: Any, *, where: str, called: str = "") -> None:
        """Refuse a value that is of another type or out of range.

        Parameters
        ----------
        where : str
            File, option or object that holds the value.
        called : str
            What the field is called there, if not by its name.

        Raises
        ------
        PlanError
        """
        name = called or self.name
        if self.kind in ("choice", "names"):
            unknown = self._unknown_names(value)
            if unknown:
                wrong = unknown[0]
                word = "recompute module" if self.kind == "names" else f"{name} ="
                raise PlanError(
                    f"{word} {_shown(wrong)} is unknown",
                    where=where,
                    expected=self.expected,
                    hint=did_you_mean(str(wrong)[:50], list(self.choices)),
                )
        elif not self._in_range(value):
            raise PlanError(f"{name} = {_shown(value)}", where=where, expected=self.expected)

    def _unknown_names(self, value: Any) -> list[Any]:
        """What of a choice or of a tuple of names is not known."""
        if self.kind == "choice" or isinstance(value, str) or not isinstance(value, Sequence):
            known = self.kind == "choice" and isinstance(value, str) and value in self.choices
            return [] if known else [value]
        return [v for v in value if not isinstance(v, str) or v not in self.choices]

    def _in_range(self, value: Any) -> bool:
        is_bool = isinstance(value, bool | np.bool_)
        if self.kind == "number":
            return isinstance(value, numbers.Integral) and not is_bool and int(value) in self.allowed
        if self.kind == "share":
            real = isinstance(value, numbers.Real) and not is_bool
            return real and math.isfinite(value) and 0.0 <= value <= 1.0
        return is_bool if self.kind == "switch" else isinstance(value, str)


def _shown(value: Any) -> str:
    """A value as an error repeats it."""
    text_ = repr(value)
    return text_ if len(text_) <= 200 else text_[:200] + "..."


def _declared(default: Any, **about: Any) -> Any:
    """A dataclass field with its declaration, typed so that the class may give the type."""
    return dataclasses.field(default=default, metadata={"plan": PlanField(default=default, **about)})


def size(default: int, en: str, zh: str, **about: Any) -> Any:
    """A number of at least 1."""
    allowed, expected = range(1, LARGEST + 1), f"a whole number {SIZE_RANGE}"
    return _declared(default, kind="number", allowed=allowed, expected=expected, en=en, zh=zh, **about)


def number(
    default: int, en: str, zh: str, *, allowed: range | tuple[int, ...], expected: str, **about: Any
) -> Any:
    """A number of another range, with that range in words."""
    return _declared(default, kind="number", allowed=allowed, expected=expected, en=en, zh=zh, **about)


def share(default: float, en: str, zh: str, **about: Any) -> Any:
    """A number from 0 to 1."""
    return _declared(default, kind="share", expected="a share between 0 and 1", en=en, zh=zh, **about)


def switch(default: bool, en: str, zh: str, **about: Any) -> Any:
    """On or off."""
    return _declared(default, kind="switch", expected="true or false", en=en, zh=zh, **about)


def choice(choices: Sequence[str], default: str, en: str, zh: str, **about: Any) -> Any:
    """One of several names."""
    expected = "one of " + ", ".join(choices)
    return _declared(default, kind="choice", choices=tuple(choices), expected=expected, en=en, zh=zh, **about)


def names(choices: Sequence[str], en: str, zh: str, **about: Any) -> Any:
    """Any of several names, none by default."""
    expected = "a list of " + ", ".join(choices)
    return _declared((), kind="names", choices=tuple(choices), expected=expected, en=en, zh=zh, **about)


def text(en: str, zh: str, **about: Any) -> Any:
    """A text, empty by default."""
    return _declared("", kind="text", expected="a text", en=en, zh=zh, **about)


def declarations(owner: type) -> dict[str, PlanField]:
    """The declared fields of a class by name, in order."""
    return {f.name: dataclasses.replace(f.metadata["plan"], name=f.name) for f in dataclasses.fields(owner)}

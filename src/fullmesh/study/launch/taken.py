"""Settings of a launch file, taken out one after another: what nobody took was not understood."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping
from typing import Any

from fullmesh.errors import LaunchError, shown
from fullmesh.plan.declare import LARGEST

Value = str | int | float | bool | list[Any] | dict[str, Any] | None
Settings = dict[str, Any]
_WHOLE = re.compile(r"[+-]?[0-9]{1,12}")
_REAL = re.compile(r"[+-]?(?:[0-9]{1,15}(?:\.[0-9]{0,15})?|\.[0-9]{1,15})(?:[eE][+-]?[0-9]{1,2})?")
_WORDS = {
    "true": True,
    "yes": True,
    "on": True,
    "1": True,
    "false": False,
    "no": False,
    "off": False,
    "0": False,
}
# what is repeated of the settings that were not understood
MOST_LISTED = 40


@dataclasses.dataclass(slots=True, kw_only=True)
class Taken:
    """Settings by name, those of tables with a dot between (``parallelism.tensor_parallel_degree``).

    Parameters
    ----------
    values : mapping
    where : str
        The file, for messages.
    idle : tuple of str
        Names, or beginnings of names that end in a dot or a dash, which decide nothing that is predicted.
    """

    values: Mapping[str, Any]
    where: str
    idle: tuple[str, ...] = ()
    taken: set[str] = dataclasses.field(default_factory=set)

    def has(self, name: str) -> bool:
        """Whether a setting is given; it then counts as understood."""
        self.taken.add(name)
        return name in self.values

    def raw(self, name: str) -> Any:
        """A setting as it stands, None without one."""
        return self.values[name] if self.has(name) else None

    def text(self, name: str, default: str = "") -> str:
        """A setting as a word."""
        value = self.raw(name)
        return default if value is None else str(value).strip()

    def whole(self, name: str, default: int | None = None, *, least: int = 0) -> int | None:
        """A whole number from ``least``.

        Raises
        ------
        LaunchError
        """
        value = self.raw(name)
        if value is None or value == "None":
            return default
        text = str(value).strip()
        if isinstance(value, bool) or (isinstance(value, float) and not value.is_integer()):
            raise self._wrong(name, value, "a whole number")
        if isinstance(value, float):
            text = str(int(value)) if abs(value) <= LARGEST else "x"
        if _WHOLE.fullmatch(text) is None or not least <= int(text) <= LARGEST:
            raise self._wrong(name, value, f"a whole number from {least} to {LARGEST:,}")
        return int(text)

    def size(self, name: str, default: int = 1) -> int:
        """A whole number of at least 1.

        Raises
        ------
        LaunchError
        """
        found = self.whole(name, default, least=1)
        assert found is not None
        return found

    def real(self, name: str, default: float) -> float:
        """A finite number.

        Raises
        ------
        LaunchError
        """
        value = self.raw(name)
        if value is None:
            return default
        text = str(value).strip()
        if isinstance(value, bool) or _REAL.fullmatch(text) is None or not math.isfinite(float(text)):
            raise self._wrong(name, value, "a number")
        return float(text)

    def switch(self, name: str, default: bool = False) -> bool:
        """On or off; an option without a value is on.

        Raises
        ------
        LaunchError
        """
        value = self.raw(name)
        if value is None:
            return default
        found = _WORDS.get(str(value).strip().lower())
        if found is None:
            raise self._wrong(name, value, "true or false")
        return found

    def any_switch(self, *names: str) -> bool:
        """Whether one of several switches is on; all count as understood."""
        return any([self.switch(name) for name in names])  # noqa: C419  # every one is to be read

    def choice(self, name: str, known: Mapping[str, Any], default: Any = None) -> Any:
        """What a word stands for; an unknown one is left among what was not understood, and the default taken.

        Names of words are compared in lower case.
        """
        if name not in self.values:
            return default
        word = str(self.values[name]).strip().lower()
        if word not in known:
            return default
        self.taken.add(name)
        return known[word]

    def left(self) -> tuple[str, ...]:
        """Settings that nobody took, in order, as ``name = value``."""
        out = []
        for name, value in self.values.items():
            idle = any(name == i or (i.endswith((".", "-", "_")) and name.startswith(i)) for i in self.idle)
            if name in self.taken or idle:
                continue
            out.append(name if value is True else f"{name} = {shown(value, 60)}")
        return tuple(out[:MOST_LISTED])

    def _wrong(self, name: str, value: Any, expected: str) -> LaunchError:
        return LaunchError(f"{name} = {shown(value)}", where=self.where, expected=expected)


def flat(table: Mapping[str, Any], before: str = "") -> Settings:
    """Nested tables as one, with dots between the names; lists stay lists."""
    out: Settings = {}
    todo = [(before, table)]
    while todo:
        head, level = todo.pop()
        for key, value in level.items():
            name = f"{head}.{key}" if head else str(key)
            if isinstance(value, Mapping):
                todo.append((name, value))
            else:
                out[name] = value
    return out


def nested(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The reverse of :func:`flat`."""
    out: dict[str, Any] = {}
    for name, value in settings.items():
        *levels, last = name.split(".")
        level = out
        for key in levels:
            level = level.setdefault(key, {})
        level[last] = value
    return out

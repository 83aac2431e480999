"""A Hugging Face ``config.json`` as checked values: every complaint names file and key."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from fullmesh.errors import ModelError

_MISSING = object()
# where multimodal configurations keep their language model
_TEXT_PARTS = ("text_config", "llm_config", "language_config")
# more than any model has of anything: beyond it a value is a slip of the pen
LARGEST = 1_000_000_000


class Config:
    """Values of one configuration. A key with ``null`` counts as absent, as it does upstream.

    Parameters
    ----------
    values : dict
    where : str
        File or name, for error messages.
    """

    def __init__(self, values: dict[str, Any], where: str) -> None:
        self.where = where
        self.values = values
        for part in _TEXT_PARTS:
            inner = values.get(part)
            if isinstance(inner, dict):
                outer = {k: v for k, v in values.items() if k != part and not k.endswith("_config")}
                self.values = {**outer, **inner}
                break
        inner = values.get("attn_config")
        if isinstance(inner, dict):
            self.values = {**self.values, **inner}

    def find(self, *keys: str) -> str | None:
        """The first of ``keys`` that is present."""
        return next((k for k in keys if self.values.get(k) is not None), None)

    def error(self, key: str, what: str, *, expected: str = "", hint: str = "") -> ModelError:
        """An error at ``key``."""
        return ModelError(what, where=f"{self.where}, key {key!r}", expected=expected, hint=hint)

    def _number(self, keys: tuple[str, ...], default: object, least: int) -> int:
        key = self.find(*keys)
        if key is None:
            if default is _MISSING:
                others = f" (or {', '.join(keys[1:])})" if len(keys) > 1 else ""
                raise self.error(
                    keys[0], f"the key {keys[0]!r}{others} is missing", expected="a whole number"
                )
            assert isinstance(default, int)
            return default
        value = self.values[key]
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int):
            raise self.error(key, f"{value!r} is not a whole number", expected=f"a whole number from {least}")
        if not least <= value <= LARGEST:
            raise self.error(
                key, f"{value} is out of range", expected=f"a whole number from {least} to {LARGEST:,}"
            )
        return value

    def size(self, *keys: str, default: int | object = _MISSING) -> int:
        """A positive whole number."""
        return self._number(keys, default, 1)

    def count(self, *keys: str, default: int | object = _MISSING) -> int:
        """A whole number from 0."""
        return self._number(keys, default, 0)

    def flag(self, *keys: str, default: bool) -> bool:
        """True or false."""
        key = self.find(*keys)
        if key is None:
            return default
        value = self.values[key]
        if not isinstance(value, bool):
            raise self.error(key, f"{value!r} is not true or false")
        return value

    def text(self, *keys: str, default: str = "") -> str:
        """A string."""
        key = self.find(*keys)
        if key is None:
            return default
        value = self.values[key]
        if not isinstance(value, str):
            raise self.error(key, f"{value!r} is not a text")
        return value

    def numbers(self, key: str) -> list[int] | None:
        """A list of whole numbers from 0, or None where the key is absent."""
        value = self.values.get(key)
        if value is None:
            return None
        if not isinstance(value, list) or any(isinstance(v, bool) or not isinstance(v, int) for v in value):
            raise self.error(key, "a list of whole numbers was expected")
        return [int(v) for v in value]

    def texts(self, key: str) -> list[str] | None:
        """A list of strings, or None where the key is absent."""
        value = self.values.get(key)
        if value is None:
            return None
        if not isinstance(value, list) or not all(isinstance(v, str) for v in value):
            raise self.error(key, "a list of texts was expected")
        return [str(v) for v in value]

    def refuse(self, key: str, why: str) -> None:
        """Raise where ``key`` is present and neither false, 0 nor empty: it changes the computation."""
        if self.values.get(key):
            raise self.error(key, f"{key} = {self.values[key]!r} is not supported: {why}")


def read_json(path: Path) -> dict[str, Any]:
    """Read one JSON object strictly: no repeated key, no NaN.

    Raises
    ------
    ModelError
        The file cannot be read or is no JSON object.
    """
    where = str(path)

    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        out = dict(items)
        if len(out) != len(items):
            names = [k for k, _ in items]
            twice = next(k for k in names if names.count(k) > 1)
            raise ModelError("a key stands twice", where=f"{where}, key {twice!r}")
        return out

    def constant(text: str) -> Any:
        raise ModelError(f"{text} is not a number", where=where)

    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ModelError(f"cannot read the configuration: {error}", where=where) from None
    try:
        values = json.loads(text, object_pairs_hook=pairs, parse_constant=constant)
    except (json.JSONDecodeError, RecursionError) as error:
        line = getattr(error, "lineno", 0)
        raise ModelError(
            f"this is not valid JSON: {getattr(error, 'msg', error)}",
            where=f"{where}, line {line}" if line else where,
            expected="a Hugging Face config.json",
        ) from None
    if not isinstance(values, dict):
        raise ModelError("a JSON object was expected", where=where)
    return values

"""A Hugging Face ``config.json`` as checked values: every complaint names file and key.

A :class:`Config` remembers which keys were read and which values were assumed because a key was absent, so that what a
configuration says and nobody understood can be told from what has no influence.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

from fullmesh.errors import ModelError, shown

_MISSING = object()
# where multimodal configurations keep their language model
_TEXT_PARTS = ("text_config", "llm_config", "language_config")
# what the configuration around a language model may say of it too; the outer value comes first
_OUTER_FIRST = ("tie_word_embeddings",)
# what is taken from the configuration around it where the inner one is silent
_OUTER_LAST = (
    "vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "intermediate_size",
    "_name", "_name_or_path", "_source", "quantization_config",
)  # fmt: skip
# keys of nested parts of a language model's own configuration
_INNER = {
    "attn_config": ("alibi", "kv_n_heads", "qk_ln", "attn_type"),
    "ffn_config": ("ffn_hidden_size", "moe_num_experts", "moe_top_k", "ffn_type"),
}
# parts of multimodal models beside their language model
_TOWER = re.compile(
    r"vision|visual|image|video|audio|speech|sound|(^|_)vq|vae|codec|mimi|token2wav|talker|depth_decoder|projector"
    r"|perceiver|resampler|encoder|adapter|diffusion"
)
# more than any model has of anything: beyond it a value is a slip of the pen
LARGEST = 1_000_000_000


class Config:
    """Values of one configuration. A key with ``null`` counts as absent, as it does upstream.

    Parameters
    ----------
    values : dict
    where : str
        File or name, for error messages.

    Attributes
    ----------
    read : set of str
        Keys whose values were used.
    assumed : dict
        What was used for keys that are absent, by the key's usual name.
    dropped : list of str
        Parts of a multimodal model that were left out.
    remarks : list of str
        What was settled between two keys.

    Raises
    ------
    ModelError
        A nested part is no object, or says the opposite of what stands around it.
    """

    def __init__(self, values: dict[str, Any], where: str) -> None:
        self.where = where
        self.values = values
        self.read: set[str] = set()
        self.assumed: dict[str, object] = {}
        self.dropped: list[str] = []
        self.remarks: list[str] = []
        self._take_text_part()
        self.dropped += [k for k, v in self.values.items() if _is_part(k, v)]
        self.values = {k: v for k, v in self.values.items() if k not in self.dropped}
        for part, keys in _INNER.items():
            inner = self.values.get(part)
            if inner is None:
                continue
            if not isinstance(inner, dict):
                raise self.error(part, f"{shown(inner)} is no object")
            self.read.add(part)
            self._merge(inner, [k for k in keys if inner.get(k) is not None], part)
        self.keys = frozenset(self.values)

    def _take_text_part(self) -> None:
        """The language model of a multimodal configuration, with what the outer one says of it."""
        parts = [p for p in _TEXT_PARTS if self.values.get(p) is not None]
        if not parts:
            return
        if len(parts) > 1:
            raise self.error(parts[1], f"a language model stands in {parts[0]!r} already")
        outer, inner = self.values, self.values[parts[0]]
        if not isinstance(inner, dict):
            raise self.error(
                parts[0], f"{shown(inner)} is no object", expected="the configuration of a text model"
            )
        self.values = dict(inner)
        self.dropped = [
            k for k, v in outer.items() if k != parts[0] and isinstance(v, dict) and k.endswith("_config")
        ]
        self.dropped = [k for k in self.dropped if k != "quantization_config"]
        for key in _OUTER_FIRST:
            if outer.get(key) is not None:
                self.values[key] = outer[key]
        self._merge(outer, [k for k in _OUTER_LAST if outer.get(k) is not None], "")
        if not isinstance(inner.get("model_type"), str) or not inner["model_type"]:
            self.values["model_type"] = outer.get("model_type")

    def _merge(self, source: dict[str, Any], keys: Sequence[str], part: str) -> None:
        merged = dict(self.values)
        for key in keys:
            here, there = merged.get(key), source[key]
            if (
                here is not None
                and here != there
                and not key.startswith("_")
                and key != "quantization_config"
            ):
                raise self.error(
                    key, f"{shown(here)} here and {shown(there)} in {part or 'the configuration around it'}"
                )
            merged[key] = there if here is None else here
        self.values = merged

    def default(self, key: str, value: object) -> None:
        """Give an absent key the value of its configuration class."""
        if self.values.get(key) is None:
            self.values = {**self.values, key: value}
            self.assumed[key] = value

    def find(self, *keys: str) -> str | None:
        """The first of ``keys`` that is present; all of them count as read.

        Raises
        ------
        ModelError
            Two of them are present and differ.
        """
        present = [k for k in keys if self.values.get(k) is not None]
        self.read.update(present)
        for other in present[1:]:
            if self.values[other] != self.values[present[0]]:
                raise self.error(
                    other,
                    f"{shown(self.values[other])}, but {present[0]!r} says {shown(self.values[present[0]])}",
                    expected="one value for what both keys mean",
                )
        return present[0] if present else None

    def has(self, *keys: str) -> bool:
        """Whether one of ``keys`` is present, without reading it."""
        return any(self.values.get(k) is not None for k in keys)

    def error(self, key: str, what: str, *, expected: str = "", hint: str = "") -> ModelError:
        """An error at ``key``."""
        return ModelError(what, where=f"{self.where}, key {shown(key)}", expected=expected, hint=hint)

    def _number(self, keys: tuple[str, ...], default: object, least: int) -> int:
        key = self.find(*keys)
        if key is None:
            if default is _MISSING:
                others = f" (or {', '.join(keys[1:])})" if len(keys) > 1 else ""
                raise self.error(
                    keys[0], f"the key {keys[0]!r}{others} is missing", expected="a whole number"
                )
            assert isinstance(default, int)
            self.assumed[keys[0]] = default
            return default
        return self._whole(key, self.values[key], least)

    def _whole(self, key: str, value: object, least: int) -> int:
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int):
            raise self.error(
                key, f"{shown(value)} is not a whole number", expected=f"a whole number from {least}"
            )
        if not least <= value <= LARGEST:
            raise self.error(
                key, f"{shown(value)} is out of range", expected=f"a whole number from {least} to {LARGEST:,}"
            )
        return value

    def size(self, *keys: str, default: int | object = _MISSING) -> int:
        """A positive whole number."""
        return self._number(keys, default, 1)

    def count(self, *keys: str, default: int | object = _MISSING) -> int:
        """A whole number from 0."""
        return self._number(keys, default, 0)

    def flag(self, *keys: str, default: bool, quiet: bool = False) -> bool:
        """True or false; ``quiet`` where the key belongs to few families and its absence says nothing."""
        key = self.find(*keys)
        if key is None:
            if not quiet:
                self.assumed[keys[0]] = default
            return default
        value = self.values[key]
        if not isinstance(value, bool):
            raise self.error(key, f"{shown(value)} is not true or false")
        return value

    def text(self, *keys: str, default: str = "") -> str:
        """A string."""
        key = self.find(*keys)
        if key is None:
            return default
        value = self.values[key]
        if not isinstance(value, str):
            raise self.error(key, f"{shown(value)} is not a text")
        return value

    def numbers(self, key: str) -> list[int] | None:
        """A list of whole numbers from 0, or None where the key is absent."""
        value = self.values.get(key)
        if value is None:
            return None
        self.read.add(key)
        if not isinstance(value, list) or any(isinstance(v, bool) or not isinstance(v, int) for v in value):
            raise self.error(key, "a list of whole numbers was expected")
        return [self._whole(key, v, 0) for v in value]

    def texts(self, key: str) -> list[str] | None:
        """A list of strings, or None where the key is absent."""
        value = self.values.get(key)
        if value is None:
            return None
        self.read.add(key)
        if not isinstance(value, list) or not all(isinstance(v, str) for v in value):
            raise self.error(key, "a list of texts was expected")
        return [str(v) for v in value]

    def layer_list(self, key: str, num_layers: int) -> list[str] | None:
        """One text a layer, or None where the key is absent; entries for prediction modules behind them are dropped."""
        listed = self.texts(key)
        if listed is None:
            return None
        more = self.values.get("num_nextn_predict_layers")
        padded = num_layers + (more if isinstance(more, int) else 0)
        if len(listed) not in (num_layers, padded):
            raise self.error(key, f"{len(listed)} entries", expected=f"{num_layers}, one a layer")
        return listed[:num_layers]

    def indices(self, key: str, num_layers: int) -> list[int] | None:
        """Numbers of layers, or None where the key is absent."""
        listed = self.numbers(key)
        for i in listed or ():
            if i >= num_layers:
                raise self.error(
                    key, f"there is no layer {i}", expected=f"numbers from 0 to {num_layers - 1}"
                )
        return listed

    def refuse(self, key: str, why: str) -> None:
        """Raise where ``key`` is present and neither false, 0 nor empty: it changes the computation."""
        if self.values.get(key):
            raise self.error(key, f"{key} = {shown(self.values[key])} is not supported: {why}")

    def check_rope(self) -> None:
        """Factors of rotary embeddings decide no shape, but a negative one is a mistake.

        Raises
        ------
        ModelError
            ``rope_scaling`` or ``rope_parameters`` is no object, or its factor is no positive number.
        """
        for key in ("rope_scaling", "rope_parameters"):
            value = self.values.get(key)
            if value is None:
                continue
            if not isinstance(value, dict):
                raise self.error(key, f"{shown(value)} is no object")
            for part in (value, *(v for v in value.values() if isinstance(v, dict))):
                factor = part.get("factor")
                if factor is None or (key == "rope_parameters" and isinstance(factor, dict)):
                    continue
                if (
                    isinstance(factor, bool)
                    or not isinstance(factor, int | float)
                    or not 0 < factor < math.inf
                ):
                    raise self.error(key, f"a factor of {shown(factor)}", expected="a number above 0")


def _is_part(key: str, value: object) -> bool:
    """Whether a key holds a part of a multimodal model that is no language model: a tower, a codec, a depth decoder."""
    return key.endswith("_config") and isinstance(value, dict) and _TOWER.search(key) is not None

"""Results as JSON that loads again: every frozen record once, by its content, and references to it."""

from __future__ import annotations

import base64
import binascii
import dataclasses
import json
import math
import types
import typing
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

Json = Any
# What one array of a saved result may unfold to.
MAX_ARRAY_BYTES = 1 << 30


def record_types(*roots: type, late: Mapping[str, type] | None = None) -> dict[str, type]:
    """The dataclasses that the annotations of ``roots`` reach, by name: nothing else is ever made while loading.

    ``late`` are those that annotations name and that their modules do not import.
    """
    found: dict[str, type] = {}
    todo: list[Any] = list(roots)
    # annotations are made when they are asked for: kept, so that no other takes the place of one seen
    seen: dict[int, Any] = {}
    while todo:
        kind = todo.pop()
        if id(kind) in seen:
            continue
        seen[id(kind)] = kind
        if dataclasses.is_dataclass(kind) and isinstance(kind, type):
            found[kind.__name__] = kind
            todo.extend(typing.get_type_hints(kind, localns=dict(late or {})).values())
        else:
            todo.extend(typing.get_args(kind))
    return found


def encode(root: Any) -> Json:
    """A tree of frozen dataclasses as plain JSON values.

    Returns
    -------
    dict
        ``objects``: one entry a record, inner ones first, equal ones once; ``root``: the reference to the last.
    """
    objects: list[Json] = []
    by_content: dict[str, int] = {}
    by_id: dict[int, int] = {}

    def plain(value: Any) -> Json:
        if value is None or isinstance(value, bool | int | str):
            return value
        if isinstance(value, float):
            return value if math.isfinite(value) else {"number": str(value)}
        if isinstance(value, tuple):
            return [plain(v) for v in value]
        if isinstance(value, np.generic):
            return plain(value.item())
        if isinstance(value, np.ndarray):
            return {"array": _packed(value)}
        if isinstance(value, Mapping):
            kind = "fixed" if isinstance(value, types.MappingProxyType) else "map"
            return {kind: {k: plain(v) for k, v in value.items()}}
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            return {"object": reference(value)}
        raise TypeError(f"{type(value).__name__} has no place in a saved result")

    def reference(value: Any) -> int:
        if id(value) not in by_id:
            inner = {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
            entry = {"type": type(value).__name__, "fields": inner}
            key = json.dumps(entry, ensure_ascii=False)
            if key not in by_content:
                by_content[key] = len(objects)
                objects.append(entry)
            by_id[id(value)] = by_content[key]
        return by_id[id(value)]

    top = plain(root)
    return {"objects": objects, "root": top}


def _packed(values: npt.NDArray[Any]) -> Json:
    """A column of numbers as text: its type, its shape, its bytes compressed."""
    values = np.ascontiguousarray(values)
    little = values.astype(values.dtype.newbyteorder("<"), copy=False)
    return {
        "dtype": little.dtype.str,
        "shape": list(values.shape),
        "zlib": base64.b64encode(zlib.compress(little.tobytes(), 6)).decode("ascii"),
    }


def _unpacked(packed: Json) -> npt.NDArray[Any]:
    dtype, shape = np.dtype(str(packed["dtype"])), [int(n) for n in packed["shape"]]
    num_bytes = math.prod(shape) * dtype.itemsize
    if dtype.kind not in "biuf" or min(shape, default=0) < 0 or num_bytes > MAX_ARRAY_BYTES:
        raise ValueError(f"no array of {dtype} has the shape {shape}"[:200])
    try:
        data = zlib.decompressobj().decompress(base64.b64decode(packed["zlib"], validate=True), num_bytes + 1)
    except (binascii.Error, zlib.error) as error:
        raise ValueError(f"an array is damaged: {error}") from None
    if len(data) != num_bytes:
        raise ValueError(f"an array of {num_bytes} bytes holds another number of them")
    return np.frombuffer(data, dtype=dtype).reshape(shape).copy()


def decode(state: Json, known: Mapping[str, type]) -> Any:
    """What :func:`encode` was given.

    Parameters
    ----------
    known : mapping of str to type
        The records that may be made (:func:`record_types`).

    Raises
    ------
    ValueError
        The state is not of that form, or names a record that is not known.
    """
    made: list[Any] = []

    def value(item: Json) -> Any:
        if isinstance(item, list):
            return tuple(value(v) for v in item)
        if not isinstance(item, dict):
            return item
        ((kind, inner),) = item.items()
        if kind == "object":
            # only what stands before, so that nothing contains itself
            if not isinstance(inner, int) or not 0 <= inner < len(made):
                raise ValueError(f"no record has the number {inner!r}")
            return made[inner]
        if kind == "number":
            return float(inner)
        if kind == "array":
            return _unpacked(inner)
        fields = {k: value(v) for k, v in inner.items()}
        return types.MappingProxyType(fields) if kind == "fixed" else fields

    try:
        for entry in state["objects"]:
            kind = known.get(entry["type"])
            if kind is None:
                raise ValueError(f"unknown record {entry['type']!r}")
            made.append(kind(**{k: value(v) for k, v in entry["fields"].items()}))
        return value(state["root"])
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(str(error)) from None

"""Numerical kernels as machine code: compiled where one is first needed, kept on disk, and never silently.

In comes a plain function over NumPy arrays, out goes the same function compiled by Numba. A kernel is compiled when it
is first called with arguments of new types; what comes of it is kept beside the source (or in the user's cache folder
where that cannot be written), so that the next process loads it in milliseconds. The first compilation of a process is
announced in one line on stderr; so is a folder that cannot be read or written, once, and then work goes on without it.
"""

# mypy: disable-error-code="no-untyped-call"
# (the insides of Numba that a cache stands on have no annotations)

from __future__ import annotations

import functools
import hashlib
import importlib
import math
import os
import pickle
import sys
import types as python_types
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np
from numba import njit, types
from numba.core import event
from numba.core.caching import FunctionCache, IndexDataCacheFile
from numba.np import linalg

from fullmesh.language import say


def _load_array_functions() -> None:
    """Load Numba's array functions without their look for BLAS, which imports all of SciPy's linear algebra.

    They look for convolutions alone, and what is compiled for one looks again.
    """
    look = getattr(linalg, "ensure_blas", None)
    if look is None:
        return
    linalg.ensure_blas = lambda: None
    try:
        importlib.import_module("numba.np.arraymath")
    finally:
        linalg.ensure_blas = look


_load_array_functions()

Function = TypeVar("Function", bound=Callable[..., Any])

_PACKAGE = Path(__file__).parent
_DIGEST_BYTES = 32
_said: set[str] = set()
# Kernels allocate nothing, so that arrays need no counting of references, and division by zero gives infinity.
_OPTIONS: dict[str, Any] = {"_nrt": False, "error_model": "numpy", "no_cfunc_wrapper": True}
_njit: Callable[..., Callable[[Callable[..., Any]], Any]] = njit  # its stubs know neither of these options


def _say(key: str, text: str) -> None:
    """One line on stderr, once in a process for each ``key``; a closed stderr is no reason to stop."""
    if key in _said:
        return
    _said.add(key)
    try:
        print(say(f"fullmesh: {text}"), file=sys.stderr, flush=True)
    except (OSError, ValueError, AttributeError):
        return


class _Announce(event.Listener):
    """Says that a kernel of this package is being compiled."""

    def on_start(self, event: Any) -> None:
        function = getattr(event.data.get("dispatcher"), "py_func", None)
        if function is not None and function.__module__.startswith("fullmesh."):
            _say(
                "compile",
                "compiling numerical kernels for this machine (a few seconds, kept for the next time) ...",
            )

    def on_end(self, event: Any) -> None:
        """Nothing to say."""


event.register("numba:compile", _Announce())


@functools.cache
def _stamp(room: Path) -> tuple[tuple[str, int, int], ...]:
    """Names, times and sizes of a room's sources: kernels take constants and helpers from each other's files."""
    found = [(path, path.stat()) for path in sorted(room.rglob("*.py"))]
    return tuple((str(path.relative_to(room)), info.st_mtime_ns, info.st_size) for path, info in found)


class _CheckedFile(IndexDataCacheFile):
    """Entries that end with their checksum: damaged machine code would not raise, it would run."""

    def _load_data(self, name: str) -> Any:
        with open(self._data_path(name), "rb") as file:
            data = file.read()
        body, digest = data[:-_DIGEST_BYTES], data[-_DIGEST_BYTES:]
        if hashlib.sha256(body).digest() != digest:
            raise ValueError("the checksum does not fit")
        return pickle.loads(body)

    def _save_data(self, name: str, data: Any) -> None:
        body: bytes = self._dump(data)
        with self._open_for_write(self._data_path(name)) as file:
            file.write(body + hashlib.sha256(body).digest())


class _Cache(FunctionCache):
    """Numba's cache of one function that goes out of date with its whole room, and that never stops a run."""

    def __init__(self, function: Callable[..., Any], rooms: Sequence[str] = ()) -> None:
        super().__init__(function)
        source = Path(function.__code__.co_filename)
        own = _PACKAGE / source.relative_to(_PACKAGE).parts[0]
        stamp = _stamp(own) if own.is_dir() else self._impl.locator.get_source_stamp()
        self._cache_file = _CheckedFile(
            cache_path=self._cache_path,
            filename_base=self._impl.filename_base,
            source_stamp=(stamp, *(_stamp(_PACKAGE / room) for room in rooms)) if rooms else stamp,
        )

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        try:
            return super().load_overload(sig, target_context)
        except Exception as error:  # whatever a torn or foreign pickle raises
            _say(
                "read",
                f"compiled code in {self.cache_path} cannot be read ({type(error).__name__}); made anew",
            )
            return None

    def save_overload(self, sig: Any, data: Any) -> None:
        try:
            try:
                super().save_overload(sig, data)
            except OSError:
                raise
            except Exception:  # a damaged index: begin a new one
                self._cache_file.flush()
                FunctionCache.save_overload(self, sig, data)
        except Exception as error:
            reason = getattr(error, "strerror", None) or type(error).__name__
            _say(
                "write",
                f"compiled code cannot be kept in {self.cache_path} ({reason}); it is made in every run",
            )


def kernel(function: Function, *, rooms: Sequence[str] = ()) -> Function:
    """Compile a function on first use and keep the result.

    Parameters
    ----------
    function : callable
        Array arguments alone or in named tuples, scalars; no other Python objects.
    rooms : sequence of str
        Further rooms that it takes parts from: it goes out of date with them too.

    Returns
    -------
    callable
        A Numba dispatcher: calls compile or load as needed; ``py_func`` is the function as written.
    """
    dispatcher = _njit(**_OPTIONS)(function)
    if os.environ.get("NUMBA_DISABLE_JIT", "0") in ("", "0"):
        try:
            dispatcher._cache = _Cache(function, rooms)
        except (RuntimeError, OSError, ValueError):  # no folder at all can be written
            _say("write", "no folder can be written to keep compiled code in; it is made in every run")
    return cast(Function, dispatcher)


def _widened(kind: Any) -> Any:
    """The type that an argument of a part is passed as: whole numbers of any size and constants as one."""
    plain: Any = getattr(kind, "literal_type", kind)
    return types.int64 if plain in types.signed_domain else plain


def inlined(function: Callable[..., Any]) -> Callable[..., Any]:
    """A part of kernels: put in place of its calls there, not to be called from Python.

    It is compiled once for all integer arguments and constants, not once for each, and can return whole numbers of one
    size alone.
    """
    dispatcher = _njit(**_OPTIONS, no_cpython_wrapper=True, forceinline=True)(function)
    find = getattr(dispatcher, "get_call_template", None)
    if find is not None:
        dispatcher.get_call_template = lambda args, kws: find(
            tuple(_widened(arg) for arg in args), {name: _widened(arg) for name, arg in kws.items()}
        )
    return cast(Callable[..., Any], dispatcher)


def _lower(a: Any, b: Any) -> Any:
    return a if a < b else b


def _higher(a: Any, b: Any) -> Any:
    return a if a > b else b


@functools.cache
def _plain_numpy() -> python_types.ModuleType:
    """What formulas take of NumPy, for plain numbers: its own functions there look for nan, and compile slowly."""
    out = python_types.ModuleType("plain_numpy")
    for name, function in (
        ("minimum", inlined(_lower)), ("maximum", inlined(_higher)), ("sqrt", math.sqrt), ("log2", np.log2)
    ):  # fmt: skip
        setattr(out, name, function)
    return out


@functools.cache
def part_of(function: Callable[..., Any]) -> Callable[..., Any]:
    """A plain formula as a part of kernels, with the formulas of its module that it calls.

    The formula itself stays as it is, for columns.
    """
    parts = {**function.__globals__, "np": _plain_numpy()}
    for name in function.__code__.co_names:
        other = parts.get(name)
        if isinstance(other, python_types.FunctionType) and other.__module__ == function.__module__:
            parts[name] = part_of(other)
    copy = python_types.FunctionType(
        function.__code__, parts, function.__name__, function.__defaults__, function.__closure__
    )
    return inlined(copy)

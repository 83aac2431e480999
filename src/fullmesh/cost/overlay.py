"""What is shipped with the program, and what is used in its place inside a ``with`` block."""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Iterator
from typing import Generic, TypeVar

T = TypeVar("T")


class Overlay(Generic[T]):
    """A place for a value that stands for a shipped one, each thread and task with its own."""

    def __init__(self, name: str) -> None:
        self._value: contextvars.ContextVar[T | None] = contextvars.ContextVar(name, default=None)

    def get(self) -> T | None:
        """The value that is laid over, None outside any block."""
        return self._value.get()

    @contextlib.contextmanager
    def use(self, value: T) -> Iterator[None]:
        """Use this value inside the ``with`` block."""
        token = self._value.set(value)
        try:
            yield
        finally:
            self._value.reset(token)

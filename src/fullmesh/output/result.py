"""What every result can do: short texts, plain records, data frames, files that load again."""

from __future__ import annotations

import abc
import html
import importlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

from fullmesh import __version__
from fullmesh.errors import ScenarioError
from fullmesh.files import check_writable, write_json
from fullmesh.output.state import decode, encode, record_types

_FRAMES = ("pandas", "polars")


class Result(abc.ABC):
    """A result of the public functions. ``str()`` gives its lines, ``repr()`` one short line."""

    __slots__ = ()

    @abc.abstractmethod
    def to_dict(self) -> dict[str, Any]:
        """All figures as plain values, as ``--json`` prints them: SI units, named in the keys."""

    @abc.abstractmethod
    def to_rows(self) -> list[dict[str, Any]]:
        """The figures as flat rows, as ``--csv`` prints them; None where there is no figure."""

    @abc.abstractmethod
    def summary(self) -> str:
        """What it is, in one short line."""

    @abc.abstractmethod
    def html_rows(self) -> list[Sequence[str]]:
        """Header and lines of the table that a notebook shows."""

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self.summary()}>"

    def _repr_html_(self) -> str:
        head, *lines = self.html_rows()

        def line(cells: Sequence[str], tag: str) -> str:
            return "<tr>" + "".join(f"<{tag}>{html.escape(c)}</{tag}>" for c in cells) + "</tr>"

        body = "".join(line(cells, "td") for cells in lines)
        return (
            f"<table><caption>{html.escape(self.summary())}</caption>"
            f"<thead>{line(head, 'th')}</thead><tbody>{body}</tbody></table>"
        )

    def to_frame(self) -> Any:
        """The rows as a data frame of pandas, or of polars where only that is installed.

        Raises
        ------
        ScenarioError
            Neither is installed.
        """
        for name in _FRAMES:
            try:
                return importlib.import_module(name).DataFrame(self.to_rows())
            except ModuleNotFoundError as error:
                if error.name != name:
                    raise
        raise ScenarioError(
            "a data frame needs pandas or polars, and neither is installed",
            where="to_frame",
            hint="pip install pandas; to_rows() gives the same figures as plain dictionaries",
        )

    @classmethod
    def _late_types(cls) -> dict[str, type]:
        """Records that such a result may hold and that are imported only where they are."""
        return {}

    def save(self, path: str | Path) -> None:
        """Write the result as JSON, whole or not at all: ``figures`` as :meth:`to_dict`, ``state`` for :meth:`load`.

        Raises
        ------
        OutputError
            The file cannot be written: its folder is missing, for instance.
        """
        check_writable(path)
        data = {
            "kind": type(self).__name__,
            "fullmesh": __version__,
            "figures": self.to_dict(),
            "state": encode(self),
        }
        write_json(path, data)

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """What :meth:`save` has written, with the figures of that time.

        Raises
        ------
        ScenarioError
            The file cannot be read, or holds something else.
        """
        expected = f"a file that {cls.__name__}.save wrote"
        try:
            data = json.loads(Path(path).read_text(encoding="utf-8"))
        except OSError as error:
            raise ScenarioError(
                f"cannot read the result: {error.strerror}", where=str(path), expected=expected
            ) from None
        except (ValueError, RecursionError):
            raise ScenarioError("the file is not JSON text", where=str(path), expected=expected) from None
        kind = data.get("kind") if isinstance(data, dict) else None
        if kind != cls.__name__:
            raise ScenarioError(
                f"the file holds {kind if isinstance(kind, str) else 'no result'}"[:200],
                where=str(path),
                expected=expected,
            )
        try:
            found = decode(data.get("state"), record_types(cls, late=cls._late_types()))
            if not isinstance(found, cls):
                raise ValueError("the root is another record")
        except ValueError as error:
            raise ScenarioError(
                f"the state cannot be read: {str(error)[:200]}",
                where=str(path),
                expected=expected,
                hint=f"it was written by release {str(data.get('fullmesh'))[:20]}, this is {__version__}",
            ) from None
        return found

"""A sweep from its grid to its file: what is kept is not asked again, what is asked is kept at once."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from fullmesh import __version__
from fullmesh.errors import ScenarioError, did_you_mean, shown
from fullmesh.files import check_writable
from fullmesh.output import formats
from fullmesh.output.result import Result
from fullmesh.study.sweep.columns import ELAPSED, ERROR, ERROR_AT, KEY_AT, NAMES, NO_PLAN, OK, STATUS_AT
from fullmesh.study.sweep.grid import Grid, program_digest, read_grid
from fullmesh.study.sweep.journal import ENDING, Journal
from fullmesh.study.sweep.local import default_jobs, local_answers
from fullmesh.study.sweep.on_ray import check_ray, ray_answers
from fullmesh.study.sweep.table import ENDINGS, check_table, write_table
from fullmesh.values import whole

ENGINES = ("local", "ray")
MAX_JOBS = 4096
# messages of points that cannot be answered, the most frequent ones
_TOLD = 10

# rows there are, rows there will be, and how many of them were kept before
Progress = Callable[[int, int, int], None]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Sweep(Result):
    """What a sweep gave.

    Parameters
    ----------
    num_points : int
        Distinct points of the grid; ``num_repeated`` more stood in it again.
    num_ok, num_no_plan, num_error : int
        How they ended.
    num_kept : int
        Rows that were there before and were not asked again.
    num_left_out : int
        Rows of the journal that are of no point of this grid: they stay there, and are not in the file.
    cut_bytes : int
        Of a torn last row that was cut off.
    errors : mapping of str to int
        The most frequent messages of points that cannot be answered, and how many have them.
    out, journal : str
        Files; empty where none was named.
    columns : tuple of str
    values : tuple of tuple
        One row a point, in the order of the grid.
    elapsed_s : float or None
    """

    source: str
    num_points: int
    num_repeated: int
    num_ok: int
    num_no_plan: int
    num_error: int
    num_kept: int
    num_left_out: int
    cut_bytes: int
    errors: Mapping[str, int]
    out: str
    journal: str
    columns: tuple[str, ...]
    values: tuple[tuple[Any, ...], ...]
    elapsed_s: float | None

    def __str__(self) -> str:
        lines = [self.summary()]
        lines += [f"{count:,} x {message}" for message, count in self.errors.items()]
        return "\n".join([*lines, *([self.out] if self.out else [])])

    def summary(self) -> str:
        """Points, and how they ended."""
        points = formats.count(self.num_points, "point")
        return (
            f"{points}: {self.num_ok:,} with a plan, {self.num_no_plan:,} without one, "
            f"{self.num_error:,} that cannot be answered"
        )

    def to_dict(self) -> dict[str, Any]:
        """How the points ended and where their rows are, as plain values; the rows are those of :meth:`to_rows`."""
        out: dict[str, Any] = {
            "grid": self.source or None,
            "points": self.num_points,
            "repeated": self.num_repeated,
            "ok": self.num_ok,
            "no_plan": self.num_no_plan,
            "error": self.num_error,
            "kept": self.num_kept,
            "left_out": self.num_left_out,
            "errors": [{"error": message, "points": count} for message, count in self.errors.items()],
            "out": self.out or None,
            "journal": self.journal or None,
            "columns": list(self.columns),
            "fullmesh": __version__,
            "program": program_digest(),
        }
        return out if self.elapsed_s is None else out | {ELAPSED: self.elapsed_s}

    def to_rows(self) -> list[dict[str, Any]]:
        """One row a point, in the order of the grid."""
        return [dict(zip(self.columns, row, strict=True)) for row in self.values]

    def html_rows(self) -> list[Sequence[str]]:
        """One line a point: the question, how it ended, the plan and its step time."""
        names = ("model", "machine", "chips", "asked_precision", "status", "plan", "step_s")
        shown_rows = ([("" if r[n] is None else str(r[n])) for n in names] for r in self.to_rows())
        return [names, *shown_rows]


class _Memory:
    """Rows of a sweep without a file."""

    def __init__(self) -> None:
        self._rows: dict[str, list[Any]] = {}
        self.statuses: dict[str, str] = {}
        self.cut_bytes = 0

    def append(self, lines: Sequence[bytes]) -> None:
        for line in lines:
            row = json.loads(line)
            self._rows[row[KEY_AT]] = row
            self.statuses[row[KEY_AT]] = row[STATUS_AT]

    def sync(self) -> None:
        """Nothing to do."""

    def rows(self, keys: Sequence[str]) -> Iterator[list[Any]]:
        return (self._rows[key] for key in keys)


def sweep_grid(
    source: str | Path | Mapping[str, Any],
    out: str | Path | None,
    *,
    jobs: int | str | None = None,
    engine: str = "local",
    ray_address: str | None = None,
    profile: str | Path | None = None,
    timing: bool = True,
    keep_rows: bool = True,
    progress: Progress | None = None,
) -> Sweep:
    """Answer every point of a grid; see :func:`fullmesh.study.api.sweep`.

    Parameters
    ----------
    keep_rows : bool
        Whether the result holds the rows that the file holds.
    """
    began = time.perf_counter()
    workers = None if jobs is None else whole(jobs, where="--jobs", least=1, most=MAX_JOBS)
    _check_engine(engine, ray_address)
    path, journal_path = _files(source, out)
    grid = read_grid(source, profile)
    with _rows_of(journal_path) as rows:
        asked = {p.key for p in grid.points}
        kept = len(asked & rows.statuses.keys())
        left_out = len(rows.statuses) - kept
        todo = [p for p in grid.points if p.key not in rows.statuses]
        if progress is not None:
            progress(kept, len(grid.points), kept)
        if todo:
            answers = (
                ray_answers(grid.inputs, todo, workers, ray_address)
                if engine == "ray"
                else local_answers(grid.inputs, todo, workers or default_jobs())
            )
            with answers as lines:
                for number, line in enumerate(lines, kept + 1):
                    rows.append([line])
                    if progress is not None:
                        progress(number, len(grid.points), kept)
        rows.sync()
        keys = [p.key for p in grid.points]
        if path is not None:
            write_table(path, rows.rows(keys), _about(grid), timing=timing, where="--out")
        counts = Counter(rows.statuses[key] for key in keys)
        names = NAMES if timing else tuple(n for n in NAMES if n != ELAPSED)
        failed = [key for key in keys if rows.statuses[key] == ERROR]
        messages = Counter(row[ERROR_AT] for row in rows.rows(failed))
        return Sweep(
            source=grid.source,
            num_points=len(keys),
            num_repeated=grid.num_repeated,
            num_ok=counts[OK],
            num_no_plan=counts[NO_PLAN],
            num_error=counts[ERROR],
            num_kept=kept,
            num_left_out=left_out,
            cut_bytes=rows.cut_bytes,
            errors=dict(messages.most_common(_TOLD)),
            out="" if path is None else str(path),
            journal="" if journal_path is None else str(journal_path),
            columns=names,
            values=tuple(tuple(row[: len(names)]) for row in rows.rows(keys)) if keep_rows else (),
            elapsed_s=time.perf_counter() - began if timing else None,
        )


def _rows_of(journal: Path | None) -> contextlib.AbstractContextManager[Journal | _Memory]:
    return contextlib.nullcontext(_Memory()) if journal is None else Journal(journal, where="--out")


def _check_engine(engine: str, ray_address: str | None) -> None:
    if engine not in ENGINES:
        raise ScenarioError(
            f"unknown engine {shown(engine)}",
            where="--engine",
            expected="one of " + ", ".join(ENGINES),
            hint=did_you_mean(str(engine)[:50], list(ENGINES)),
        )
    if engine == "ray":
        check_ray()
    elif ray_address is not None:
        raise ScenarioError(
            "an address of Ray is named, and Ray is not to be used",
            where="--ray-address",
            expected="--engine ray",
        )


def _files(source: Any, out: str | Path | None) -> tuple[Path | None, Path | None]:
    """The file and its journal, after a look whether both can be written."""
    if out is None:
        return None, None
    path = Path(out)
    grid = None if isinstance(source, Mapping) else source
    check_writable(path, where="--out", endings=ENDINGS, inputs=[grid])
    check_table(path, where="--out")
    journal = Path(f"{path}{ENDING}")
    check_writable(journal, where="--out", inputs=[grid])
    return path, journal


def _about(grid: Grid) -> dict[str, str]:
    about = {"version": __version__, "program": program_digest()}
    personal = grid.inputs.personal
    return about if personal is None else about | {"profile": personal.note}

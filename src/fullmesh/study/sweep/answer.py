"""One point's row: the question, how it ended, and the best plan with its figures."""

from __future__ import annotations

import contextlib
import json
import time
import traceback
from collections.abc import Iterator
from typing import Any

from fullmesh.cost.personal import personal_profile
from fullmesh.errors import FullmeshError, shown
from fullmesh.machine import Machine
from fullmesh.outcomes.fields import limit_text
from fullmesh.output.state import decode, encode, record_types
from fullmesh.search import SearchResult
from fullmesh.search.fields import search_rows
from fullmesh.study import pipeline
from fullmesh.study.options import DEFAULT_TOKENS, Options
from fullmesh.study.sizing import BASES
from fullmesh.study.sweep.columns import BEST, ELAPSED, ERROR, NAMES, NO_PLAN, OK
from fullmesh.study.sweep.grid import DEFAULT, Inputs, Point, asked_batch, one_line


class Answerer:
    """Answers points with inputs that are loaded once."""

    def __init__(self, inputs: Inputs) -> None:
        self._inputs = inputs
        self._machines: dict[tuple[int, int], Machine] = {}

    @classmethod
    def from_text(cls, text: str | bytes) -> Answerer:
        """From what :func:`inputs_text` wrote."""
        inputs = decode(json.loads(text), record_types(Inputs))
        assert isinstance(inputs, Inputs)
        return cls(inputs)

    @contextlib.contextmanager
    def profile(self) -> Iterator[None]:
        """Inside, points are answered under the personal profile, where there is one."""
        with personal_profile(self._inputs.personal):
            yield

    def line(self, point: Point) -> str:
        """The row as one line of JSON."""
        return json.dumps(self.row(point), ensure_ascii=False, allow_nan=False, separators=(",", ":")) + "\n"

    def row(self, point: Point) -> list[Any]:
        """The values of all columns."""
        began = time.perf_counter()
        values = self._question(point)
        try:
            values |= (
                {"status": ERROR, "error": point.refusal} if point.refusal else _outcome(self._search(point))
            )
        except FullmeshError as error:
            values |= {"status": ERROR, "error": one_line(error)}
        except MemoryError:
            raise
        except Exception as error:  # one point that breaks the program leaves a million others their answers
            last = traceback.extract_tb(error.__traceback__)[-1]
            at = f"{last.filename.rpartition('fullmesh/')[2]}:{last.lineno}"
            values |= {
                "status": ERROR,
                "error": f"internal error: {type(error).__name__}: {shown(str(error))} ({at})",
            }
        values[ELAPSED] = time.perf_counter() - began
        return [values.get(name) for name in NAMES]

    def _question(self, point: Point) -> dict[str, Any]:
        inputs = self._inputs
        return {
            "key": point.key,
            "model": inputs.models[point.model].id,
            "machine": inputs.machines[point.machine].id,
            "chips": point.chips,
            "asked_batch": asked_batch(point),
            "asked_seq": point.seq,
            "asked_precision": point.precision,
            "asked_software": DEFAULT if point.software < 0 else inputs.software[point.software].name,
            "objective": point.objective,
            "asked_offload": point.offload,
        }

    def _search(self, point: Point) -> SearchResult:
        size = (point.machine, point.chips)
        if size not in self._machines:
            self._machines[size] = self._inputs.machines[point.machine].resized(point.chips)
        options = Options(
            gbs=point.gbs,
            batch_tokens=point.batch_tokens,
            seq=point.seq,
            precision=point.precision,
            objective=point.objective,
            basis=BASES[0],
            num_tokens=DEFAULT_TOKENS,
            offload=point.offload,
            software=None if point.software < 0 else self._inputs.software[point.software],
        )
        return pipeline.search_machine(self._inputs.models[point.model], self._machines[size], options, top=1)


def _outcome(found: SearchResult) -> dict[str, Any]:
    out: dict[str, Any] = {
        "status": NO_PLAN if found.best is None else OK,
        "limit": None if found.closest is None else limit_text(found.closest),
        "software": found.software.label,
        "substituted": found.substituted or None,
        "notes": ". ".join(found.notes) or None,
        "plans_enumerated": found.num_enumerated,
        "plans_priced": found.num_priced,
        "plans_fitting": found.num_fitting,
        "ties": found.num_ties,
        "tie_ratio": found.tie_ratio if found.tie_ratio == found.tie_ratio else None,
    }
    best = search_rows(found)[:1]
    return out | {c.name: best[0][c.name] for c in BEST if best}


def inputs_text(inputs: Inputs) -> str:
    """Inputs as one line of JSON, for another process."""
    return json.dumps(encode(inputs)) + "\n"

"""A replayed step and its collectives as plain records and rows: SI units, named in the keys."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, Any

from fullmesh.outcomes.fields import ESTIMATE_FIELDS, estimate_record, plan_row
from fullmesh.output.fields import row

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fullmesh.replays.replayed import Replayed
    from fullmesh.replays.wired import WiredCollective
    from fullmesh.timeline.changes import Change
    from fullmesh.timeline.trace.measured import OperatorDifference


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None


def replay_record(
    r: Replayed, operators: Sequence[OperatorDifference] = (), changes: Sequence[Change] = ()
) -> dict[str, Any]:
    """One plan in full with its replay.

    The keys of :func:`estimate_record`, but ``step_s`` is the replay's; the closed form's is
    ``closed_form_step_s``. All keys of the replay are null where the schedule cannot run.
    """
    out = estimate_record(r.estimate)
    keys = ("step_s", "bubble_fraction", "critical_path", "tasks", "engine", "engine_s")
    figures = dict.fromkeys(keys) if r.simulation is None else r.simulation.summary()
    out |= {key: figures[key] for key in keys} | {"closed_form_step_s": r.estimate.step_s}
    if r.simulation is not None:
        out["critical_path"] = r.critical_path_s()
    out["replay"] = {
        "cannot_run": r.reason or None,
        "difference": _number(r.difference),
        "causes": [dataclasses.asdict(cause) for cause in r.causes],
        "undisturbed_step_s": _number(r.undisturbed_step_s),
        **{k: v for k, v in figures.items() if k not in (*keys, "closed_form_step_s")},
        "exposed_s": r.exposed_s(),
    }
    if operators:
        out["profile"] = [dataclasses.asdict(o) | {"difference_s": o.difference_s} for o in operators]
    if changes:
        out["against"] = [dataclasses.asdict(c) | {"change_s": c.change_s} for c in changes]
    return out


def replay_row(r: Replayed) -> dict[str, Any]:
    """A replayed plan as one flat row: the columns of an estimate, but ``step_s`` is the replay's, and what it adds."""
    run = r.simulation
    figures = {} if run is None else run.summary()
    return (
        plan_row(r.estimate.plan)
        | row(ESTIMATE_FIELDS, r.estimate)
        | {
            "step_s": figures.get("step_s"),
            "closed_form_step_s": r.estimate.step_s,
            "difference": _number(r.difference),
            "undisturbed_step_s": _number(r.undisturbed_step_s),
            "cannot_run": r.reason or None,
        }
        | {key: figures.get(key) for key in ("bubble_fraction", "peak_bytes", "peak_rank", "tasks", "engine")}
    )


def wired_record(collectives: Sequence[WiredCollective]) -> list[dict[str, Any]]:
    """A plan's collectives on the wired graph, one record each; ``off`` is closed form over level, minus one."""
    return [
        {
            "axis": c.axis,
            "kind": c.kind,
            "ranks": c.ranks,
            "stride": c.stride,
            "bytes": c.num_bytes,
            "closed_form_s": _number(c.closed_form_s),
            "level_s": _number(c.level_s),
            "off": _number(c.off),
            "evidence": c.evidence,
        }
        for c in collectives
    ]

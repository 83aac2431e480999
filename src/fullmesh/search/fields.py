"""What a search found as plain records and flat rows."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from fullmesh.outcomes.fields import (
    ESTIMATE_COLUMNS,
    ESTIMATE_FIELDS,
    estimate_record,
    infeasible_record,
    plan_record,
    plan_row,
)
from fullmesh.output.fields import row
from fullmesh.plan.plan import FIELDS
from fullmesh.search.engine import SearchResult
from fullmesh.workload.parameters import parameter_counts

PLAN_CSV_COLUMNS = ("rank", "plan", "devices", *FIELDS, *ESTIMATE_COLUMNS)


def effort_record(found: SearchResult, *, timing: bool) -> dict[str, Any]:
    """How many plans a search looked at and, with ``timing``, what that took."""
    out: dict[str, Any] = {
        "plans": found.num_enumerated,
        "priced": found.num_priced,
        "fit": found.num_fitting,
        "wide": found.wide,
    }
    if timing:
        took = found.effort
        out["cpu_s"] = took.cpu_s
        out["plans_per_cpu_s"] = found.num_priced / took.cpu_s if took.cpu_s > 0 else None
        out["peak_bytes"] = took.peak_bytes if math.isfinite(took.peak_bytes) else None
    return out


def search_record(found: SearchResult, *, timing: bool = True) -> dict[str, Any]:
    """What a search found; without ``timing`` the same question gives the same record."""
    counts = parameter_counts(found.model)
    return {
        "model": found.model.id,
        "parameters": counts.total,
        "active_parameters": counts.active,
        "machine": found.machine.id,
        "num_devices": found.machine.num_devices,
        "global_batch": found.gbs,
        "seq": found.seq,
        "batch_note": found.batch_note,
        "precision": found.precision,
        "substituted": found.substituted,
        "objective": found.objective,
        "software": found.software.label,
        "stack": found.software.stack,
        "search": effort_record(found, timing=timing),
        "rejected": [dataclasses.asdict(r) for r in found.rejected],
        "ties": found.num_ties,
        "tie_ratio": found.tie_ratio if math.isfinite(found.tie_ratio) else None,
        "ranked": [estimate_record(e) for e in found.ranked],
        "replayed_step_s": list(found.replayed_s),
        "notes": list(found.notes),
        "exploratory": None if found.exploratory is None else estimate_record(found.exploratory),
        "exploratory_missing": list(found.missing) if found.exploratory is not None else [],
        "second": None if found.second is None else estimate_record(found.second),
        "with_memory_to_spare": None if found.roomy is None else estimate_record(found.roomy),
        "with_all_devices": None if found.whole is None else estimate_record(found.whole),
        "pareto": [
            {"plan": plan_record(e.plan), "step_s": e.step_s, "memory_bytes": e.memory_bytes}
            for e in found.pareto
        ],
        "closest": None if found.closest is None else infeasible_record(found.closest),
    }


def search_rows(found: SearchResult) -> list[dict[str, Any]]:
    """The ranked plans as flat rows with the columns of ``PLAN_CSV_COLUMNS``."""
    return [
        {"rank": rank} | plan_row(e.plan) | row(ESTIMATE_FIELDS, e) for rank, e in enumerate(found.ranked, 1)
    ]

"""Results as plain records for ``--json`` and ``--csv``: SI units, named in the keys."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, Any

from fullmesh.outcomes.estimate import Estimate, Infeasible
from fullmesh.outcomes.waterfall import waterfall
from fullmesh.plan import Plan
from fullmesh.plan.feasible import Limit
from fullmesh.search import SearchResult
from fullmesh.study.compare import Column, Comparison, Ratio

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fullmesh.replay.replayed import Replayed
    from fullmesh.replay.wired import WiredCollective
    from fullmesh.timeline.changes import Change
    from fullmesh.timeline.trace.measured import OperatorDifference

MFU_DEFINITION = (
    "causal model FLOPs without recompute over the dense peak of the devices used, in the plan's precision"
)
HFU_DEFINITION = "as MFU, with recomputed FLOPs counted too"


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None


def plan_record(plan: Plan) -> dict[str, Any]:
    """All fields of a plan, and its label."""
    return {"label": plan.label(), "num_devices": plan.num_devices} | dataclasses.asdict(plan)


def limit_record(limit: Limit) -> dict[str, Any]:
    """A broken limit."""
    return dataclasses.asdict(limit) | {"gap": limit.gap}


def estimate_record(e: Estimate) -> dict[str, Any]:
    """One plan in full."""
    return {
        "feasible": True,
        "model": e.model.id,
        "machine": e.machine.id,
        "machine_devices": e.machine.num_devices,
        "plan": plan_record(e.plan),
        "step_s": e.step_s,
        "interval_80": {
            "low_s": _number(e.interval.low_s),
            "high_s": _number(e.interval.high_s),
            "basis": e.interval.basis,
        },
        "bounds": {"low_s": e.low_s, "high_s": e.high_s},
        "parts_s": e.parts_s,
        "waterfall": [dataclasses.asdict(loss) for loss in waterfall(e).losses],
        "tokens_per_step": e.tokens_per_step,
        "tokens_per_s": e.tokens_per_s,
        "tokens_per_s_per_device": e.tokens_per_s_per_device,
        "mfu": e.mfu,
        "mfu_definition": MFU_DEFINITION,
        "hfu": e.hfu,
        "hfu_definition": HFU_DEFINITION,
        "peak_flop_per_s_per_device": e.peak_flop_per_s,
        "memory_bytes": e.memory_bytes,
        "capacity_bytes": e.capacity_bytes,
        "stages": [dataclasses.asdict(stage) for stage in e.stages],
        "energy_per_step_j": e.energy_per_step_j,
        "energy_per_token_j": e.energy_per_token_j,
        "energy_basis": e.energy_basis,
        "borrowed": [{"what": b.what, "from": b.source} for b in e.borrowed],
        "notes": list(e.notes),
    }


def infeasible_record(e: Infeasible) -> dict[str, Any]:
    """A plan that cannot run, with its limit."""
    return {
        "feasible": False,
        "model": e.model.id,
        "machine": e.machine.id,
        "machine_devices": e.machine.num_devices,
        "plan": plan_record(e.plan),
        "limit": limit_record(e.limit),
    }


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


def search_record(found: SearchResult) -> dict[str, Any]:
    """What a search found."""
    return {
        "model": found.model.id,
        "machine": found.machine.id,
        "num_devices": found.machine.num_devices,
        "global_batch": found.gbs,
        "seq": found.seq,
        "precision": found.precision,
        "substituted": found.substituted,
        "objective": found.objective,
        "software": found.software.label,
        "stack": found.software.stack,
        "notes": list(found.notes),
        "plans_enumerated": found.num_enumerated,
        "plans_priced": found.num_priced,
        "plans_fitting": found.num_fitting,
        "rejected": [dataclasses.asdict(r) for r in found.rejected],
        "ties": found.num_ties,
        "tie_ratio": _number(found.tie_ratio),
        "ranked": [estimate_record(e) for e in found.ranked],
        "second": None if found.second is None else estimate_record(found.second),
        "with_memory_to_spare": None if found.roomy is None else estimate_record(found.roomy),
        "pareto": [
            {"plan": plan_record(e.plan), "step_s": e.step_s, "memory_bytes": e.memory_bytes}
            for e in found.pareto
        ],
        "closest": None if found.closest is None else infeasible_record(found.closest),
    }


def column_record(c: Column) -> dict[str, Any]:
    """One machine of a comparison."""
    m, best = c.machine, c.best
    return {
        "machine": m.id,
        "name": m.name,
        "devices": m.num_devices,
        "device_basis": m.chip.basis,
        "packages": m.num_packages,
        "units": m.num_units,
        "unit_name": m.unit_name,
        "racks": c.racks,
        "power_w": c.power_w,
        "power_basis": m.power_basis,
        "software": c.found.software.label,
        "stack": c.found.software.stack,
        "notes": list(c.found.notes),
        "precision": c.found.precision,
        "substituted": c.found.substituted,
        "matrix_flop_per_s": c.matrix_flop_per_s,
        "matrix_flop_per_s_per_device": c.matrix_flop_per_s / m.num_devices,
        "published_bf16_flop_per_s": m.unit_published_flop_per_s
        and m.unit_published_flop_per_s * m.num_units,
        "published_basis": m.published_flop_basis,
        "feasible": best is not None,
        "best": None if best is None else estimate_record(best),
        "second": None if c.found.second is None else estimate_record(c.found.second),
        "with_memory_to_spare": None if c.found.roomy is None else estimate_record(c.found.roomy),
        "limit": None if c.found.closest is None else infeasible_record(c.found.closest),
        "plans_enumerated": c.found.num_enumerated,
        "plans_priced": c.found.num_priced,
        "plans_fitting": c.found.num_fitting,
        "rejected": [dataclasses.asdict(r) for r in c.found.rejected],
        "ties": c.found.num_ties,
        "money": None if c.money is None else dataclasses.asdict(c.money),
        "time_to_tokens_s": c.time_to_tokens_s,
    }


def ratio_record(r: Ratio) -> dict[str, Any]:
    """Two machines against each other."""
    return {
        "faster": r.a.id,
        "slower": r.b.id,
        "tokens_per_s_ratio": r.ratio,
        "low": _number(r.low),
        "high": _number(r.high),
        "per_package_ratio": r.per_package,
        "tie": r.tie,
        "reason": r.reason,
    }


def comparison_record(c: Comparison) -> dict[str, Any]:
    """A whole comparison."""
    return {
        "model": c.model.id,
        "name": c.model.name,
        "parameters": c.parameters,
        "active_parameters": c.active_parameters,
        "global_batch": c.gbs,
        "seq": c.seq,
        "tokens_per_step": c.gbs * c.seq,
        "batch_note": c.batch_note,
        "precision": c.precision,
        "objective": c.objective,
        "basis": c.basis,
        "num_tokens": c.num_tokens,
        "machines": [column_record(col) for col in c.columns],
        "ratios": [ratio_record(r) for r in c.ratios],
        "equal_packages": {
            "machines": [column_record(col) for col in c.equal_packages],
            "ratios": [ratio_record(r) for r in c.equal_ratios],
        },
    }


CSV_COLUMNS = (
    "basis", "machine", "devices", "packages", "racks", "software", "precision", "substituted", "feasible", "plan",
    "second_plan", "step_s", "low_80_s", "high_80_s", "bound_low_s", "bound_high_s", "tokens_per_s",
    "tokens_per_s_per_device", "mfu", "hfu", "memory_bytes", "capacity_bytes", "energy_per_token_j",
    "usd_per_million_tokens", "time_to_tokens_s", "limit",
)  # fmt: skip


def comparison_rows(c: Comparison) -> list[dict[str, Any]]:
    """A comparison as flat rows with the columns of ``CSV_COLUMNS``; empty where there is no figure."""
    return [_row(col, c.basis) for col in c.columns] + [_row(col, "packages") for col in c.equal_packages]


def _row(c: Column, basis: str) -> dict[str, Any]:
    best, second = c.best, c.found.second
    row: dict[str, Any] = dict.fromkeys(CSV_COLUMNS, "")
    row |= {
        "basis": basis,
        "machine": c.machine.id,
        "devices": c.machine.num_devices,
        "packages": c.machine.num_packages,
        "racks": "" if c.racks is None else c.racks,
        "software": c.found.software.label,
        "precision": c.found.precision,
        "substituted": c.found.substituted,
        "feasible": best is not None,
    }
    if best is None:
        limit = c.found.closest.limit if c.found.closest else None
        return row | {"limit": "" if limit is None else f"{limit.name}: {limit.where}"}
    return row | {
        "plan": best.plan.label(),
        "second_plan": "" if second is None else second.plan.label(),
        "step_s": best.step_s,
        "low_80_s": _number(best.interval.low_s) or "",
        "high_80_s": _number(best.interval.high_s) or "",
        "bound_low_s": best.low_s,
        "bound_high_s": best.high_s,
        "tokens_per_s": best.tokens_per_s,
        "tokens_per_s_per_device": best.tokens_per_s_per_device,
        "mfu": best.mfu,
        "hfu": best.hfu,
        "memory_bytes": best.memory_bytes,
        "capacity_bytes": best.capacity_bytes,
        "energy_per_token_j": "" if best.energy_per_token_j is None else best.energy_per_token_j,
        "usd_per_million_tokens": "" if c.money is None else c.money.usd_per_million_tokens,
        "time_to_tokens_s": "" if c.time_to_tokens_s is None else c.time_to_tokens_s,
    }


PLAN_CSV_COLUMNS = (
    "rank", "plan", "devices", "tp", "cp", "pp", "vpp", "dp", "ep", "etp", "zero", "mbs", "gbs", "seq", "recompute",
    "precision", "step_s", "low_80_s", "high_80_s", "bound_low_s", "bound_high_s", "tokens_per_s", "mfu", "hfu",
    "memory_bytes", "capacity_bytes",
)  # fmt: skip


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


def search_rows(found: SearchResult) -> list[dict[str, Any]]:
    """The ranked plans as flat rows with the columns of ``PLAN_CSV_COLUMNS``."""
    rows = []
    for rank, e in enumerate(found.ranked, 1):
        rows.append(
            dataclasses.asdict(e.plan)
            | {
                "rank": rank,
                "plan": e.plan.label(),
                "devices": e.plan.num_devices,
                "step_s": e.step_s,
                "low_80_s": _number(e.interval.low_s) or "",
                "high_80_s": _number(e.interval.high_s) or "",
                "bound_low_s": e.low_s,
                "bound_high_s": e.high_s,
                "tokens_per_s": e.tokens_per_s,
                "mfu": e.mfu,
                "hfu": e.hfu,
                "memory_bytes": e.memory_bytes,
                "capacity_bytes": e.capacity_bytes,
            }
        )
    return rows

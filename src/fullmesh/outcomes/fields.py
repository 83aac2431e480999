"""The fields of an estimate: what tables, JSON, CSV and data frames show of it. A new column is one entry here."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from fullmesh.glossary import Language, label
from fullmesh.outcomes.estimate import Estimate, Infeasible
from fullmesh.outcomes.waterfall import waterfall
from fullmesh.output import formats
from fullmesh.output.fields import Field, columns, figure, record
from fullmesh.plan import Plan
from fullmesh.plan.feasible import Limit
from fullmesh.units import si_prefix

MFU_DEFINITION = (
    "causal model FLOPs without recompute over the dense peak of the devices used, in the plan's precision"
)
HFU_DEFINITION = "as MFU, with recomputed FLOPs counted too"
# Above this share of the step the time that passes once a step deserves a word.
NOTABLE_FIXED_SHARE = 0.2

_EVERY = ("compare", "plan", "simulate")
_WHOLE = ("compare", "simulate")


def interval_text(e: Estimate, lang: Language) -> str:
    """The 80 % interval, or that there is none."""
    if not math.isfinite(e.interval.low_s):
        return label("unknown_error", lang)
    return f"{formats.seconds(e.interval.low_s)} to {formats.seconds(e.interval.high_s)}"


def memory_interval_text(e: Estimate, lang: Language) -> str:
    """The 80 % interval of the memory with the chance that it fits, or that there is none."""
    m = e.memory_interval
    if not math.isfinite(m.low_bytes):
        return label("unknown_error", lang)
    return f"{formats.gigabytes(m.low_bytes)} to {formats.gigabytes(m.high_bytes)}, {_chance(e, lang)} likely to fit"


def _chance(e: Estimate, lang: Language) -> str:
    m = e.memory_interval
    if not math.isfinite(m.fits):
        return label("unknown_error", lang)
    return ("" if m.is_within_evidence else "≥ " if m.fits > 0.5 else "≤ ") + formats.percent(m.fits, 0)


def _batch(e: Estimate, lang: Language) -> str:
    p = e.plan
    return (
        f"{p.gbs:,} x {p.seq:,} = {e.tokens_per_step / 1e6:,.1f} M tokens, {p.num_microbatches} micro-batches of "
        f"{p.mbs} on each of {p.dp} data-parallel ranks"
    )


def _energy(joules: float | None, lang: Language) -> str:
    return formats.energy(joules, label("not_published", lang))


ESTIMATE_FIELDS: tuple[Field[Estimate], ...] = (
    Field(
        key="batch",
        tables=("simulate",),
        text=_batch,
        figures=(figure("tokens_per_step", lambda e: e.tokens_per_step),),
    ),
    Field(
        key="step_time",
        tables=_EVERY,
        text=lambda e, lang: formats.seconds(e.step_s),
        figures=(figure("step_s", lambda e: e.step_s),),
    ),
    Field(
        key="interval",
        tables=_EVERY,
        optional=True,
        text=interval_text,
        figures=(
            figure("low_80_s", lambda e: e.interval.low_s, path="interval_80.low_s"),
            figure("high_80_s", lambda e: e.interval.high_s, path="interval_80.high_s"),
            figure("", lambda e: e.interval.basis, path="interval_80.basis"),
        ),
    ),
    Field(
        key="bounds",
        tables=_WHOLE,
        text=lambda e, lang: f"{formats.seconds(e.low_s)} to {formats.seconds(e.high_s)}",
        figures=(
            figure("bound_low_s", lambda e: e.low_s, path="bounds.low_s"),
            figure("bound_high_s", lambda e: e.high_s, path="bounds.high_s"),
        ),
    ),
    Field(
        key="tokens_per_s",
        tables=_EVERY,
        text=lambda e, lang: f"{e.tokens_per_s:,.0f}",
        figures=(figure("tokens_per_s", lambda e: e.tokens_per_s),),
    ),
    Field(
        key="tokens_per_s_per_device",
        tables=_WHOLE,
        text=lambda e, lang: f"{e.tokens_per_s_per_device:,.0f}",
        figures=(figure("tokens_per_s_per_device", lambda e: e.tokens_per_s_per_device),),
    ),
    Field(
        key="mfu",
        tables=_EVERY,
        text=lambda e, lang: formats.percent(e.mfu),
        figures=(
            figure("mfu", lambda e: e.mfu),
            figure("", lambda e: MFU_DEFINITION, path="mfu_definition"),
        ),
    ),
    Field(
        key="hfu",
        tables=_EVERY,
        optional=True,
        text=lambda e, lang: formats.percent(e.hfu),
        figures=(
            figure("hfu", lambda e: e.hfu),
            figure("", lambda e: HFU_DEFINITION, path="hfu_definition"),
        ),
    ),
    Field(
        key="device_peak",
        tables=("simulate",),
        text=lambda e, lang: si_prefix(e.peak_flop_per_s, "FLOP/s", 4),
        figures=(figure("peak_flop_per_s_per_device", lambda e: e.peak_flop_per_s),),
    ),
    Field(
        key="memory",
        tables=_EVERY,
        text=lambda e, lang: f"{formats.gigabytes(e.memory_bytes)} of {formats.gigabytes(e.capacity_bytes)}",
        cell=lambda e, lang: formats.gigabytes(e.memory_bytes),
        figures=(
            figure("memory_bytes", lambda e: e.memory_bytes),
            figure("capacity_bytes", lambda e: e.capacity_bytes),
        ),
    ),
    Field(
        key="memory_range",
        tables=_WHOLE,
        text=memory_interval_text,
        figures=(
            figure(
                "memory_low_80_bytes",
                lambda e: e.memory_interval.low_bytes,
                path="memory_interval_80.low_bytes",
            ),
            figure(
                "memory_high_80_bytes",
                lambda e: e.memory_interval.high_bytes,
                path="memory_interval_80.high_bytes",
            ),
            figure("", lambda e: e.memory_interval.basis, path="memory_interval_80.basis"),
        ),
    ),
    Field(
        key="memory_fits",
        tables=("plan",),
        optional=True,
        text=_chance,
        figures=(figure("memory_fits", lambda e: e.memory_interval.fits),),
    ),
    Field(
        key="energy_per_step",
        tables=_WHOLE,
        section=True,
        text=lambda e, lang: _energy(e.energy_per_step_j, lang),
        figures=(figure("energy_per_step_j", lambda e: e.energy_per_step_j),),
    ),
    Field(
        key="energy_per_token",
        tables=_WHOLE,
        text=lambda e, lang: _energy(e.energy_per_token_j, lang),
        figures=(
            figure("energy_per_token_j", lambda e: e.energy_per_token_j),
            figure("", lambda e: e.energy_basis, path="energy_basis"),
            figure("", lambda e: [{"what": b.what, "from": b.source} for b in e.borrowed], path="borrowed"),
            figure("", lambda e: list(e.notes), path="notes"),
        ),
    ),
)

ESTIMATE_COLUMNS = columns(ESTIMATE_FIELDS)


def plan_record(plan: Plan) -> dict[str, Any]:
    """All fields of a plan, and its label."""
    values = dataclasses.asdict(plan)
    fields = {n: list(v) if isinstance(v, tuple) else v for n, v in values.items()}
    return {"label": plan.label(), "num_devices": plan.num_devices} | fields


def plan_row(plan: Plan) -> dict[str, Any]:
    """A plan as cells of a flat row: label, devices, every field."""
    values = dataclasses.asdict(plan)
    cells = {n: " ".join(v) if isinstance(v, tuple | list) else v for n, v in values.items()}
    return {"plan": plan.label(), "devices": plan.num_devices} | cells


def limit_record(limit: Limit) -> dict[str, Any]:
    """A broken limit."""
    return dataclasses.asdict(limit) | {"levers": list(limit.levers), "gap": limit.gap}


def _head(e: Estimate | Infeasible) -> dict[str, Any]:
    return {
        "feasible": isinstance(e, Estimate),
        "model": e.model.id,
        "machine": e.machine.id,
        "machine_devices": e.machine.num_devices,
        "plan": plan_record(e.plan),
    }


def estimate_record(e: Estimate) -> dict[str, Any]:
    """One plan in full."""
    return (
        _head(e)
        | record(ESTIMATE_FIELDS, e)
        | {
            "parts_s": dict(e.parts_s),
            "waterfall": [dataclasses.asdict(loss) for loss in waterfall(e).losses],
            "stages": [dataclasses.asdict(stage) for stage in e.stages],
        }
    )


def infeasible_record(e: Infeasible) -> dict[str, Any]:
    """A plan that cannot run, with its limit."""
    return _head(e) | {"limit": limit_record(e.limit)}


def fixed_share_note(e: Estimate) -> str:
    """A word where the time once a step is a large share of it, empty elsewhere."""
    share = e.part_share("fixed_s")
    if share < NOTABLE_FIXED_SHARE:
        return ""
    return (
        f"{formats.seconds(e.parts_s['fixed_s'])} ({formats.percent(share, 0)}) of this step pass once a step (data "
        "loading, logging, synchronisation), a time fitted on steps of many seconds; a short step may do with less, so "
        "take the figure as an upper one, or raise the global batch"
    )


def limit_text(e: Infeasible) -> str:
    """Which limit the nearest plan breaks, by how much, and what would help."""
    limit = e.limit
    if limit.unit == "B":
        there = f"{formats.gigabytes(limit.needed)} needed, {formats.gigabytes(limit.available)} there"
    else:
        there = f"{limit.needed:g} against {limit.available:g}"
    return (
        f"{limit.name}, {there} ({limit.where}), with the plan {e.plan.text()}; "
        f"would help: {', '.join(limit.levers)}"
    )

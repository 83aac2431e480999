"""What ``fullmesh simulate`` prints."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fullmesh.faces.cli.tables import (
    COMMUNICATION,
    OFFLOAD_NOTE,
    energy_text,
    gigabytes,
    interval_text,
    limit_text,
    percent,
    plan_text,
    seconds,
    table,
    title,
)
from fullmesh.glossary import Language, label, meaning
from fullmesh.outcomes.estimate import Estimate, Infeasible
from fullmesh.outcomes.waterfall import Waterfall, waterfall
from fullmesh.units import si_prefix

if TYPE_CHECKING:
    from rich.table import Table

# A longer pipeline shows its first and last stages only.
_MAX_STAGES = 16


def infeasible_line(e: Infeasible, lang: Language) -> str:
    """Why a plan cannot run."""
    return f"{e.model.name}, {e.machine.name}. {title('does_not_fit', lang)}: {limit_text(e)}."


def report(e: Estimate, lang: Language) -> list[Table | str]:
    """Tables and lines of an estimate."""
    fall = waterfall(e)
    out: list[Table | str] = [
        f"{e.model.name}, {e.plan.num_devices:,} of {e.machine.num_devices:,} devices of {e.machine.name}: "
        f"{plan_text(e.plan)}; {e.plan.precision.upper()}; software {e.plan.stack or 'not stated'}.",
        "",
        _summary(e, lang),
        _waterfall_table(e, fall, lang),
        _communication_table(e, fall, lang),
        _stage_table(e, lang),
        _memory_table(e, lang),
        "MFU: " + meaning("mfu") + "; HFU: " + meaning("hfu") + ".",
        f"{label('interval', lang)}: {e.interval.basis}. {title('power', lang)}: {e.energy_basis}.",
    ]
    if e.plan.offload_optimizer:
        out.append(OFFLOAD_NOTE)
    return out


def _summary(e: Estimate, lang: Language) -> Table:
    out = table("", "", "")
    out.show_header = False
    plan = e.plan
    rows = {
        "batch": f"{plan.gbs:,} x {plan.seq:,} = {e.tokens_per_step / 1e6:,.1f} M tokens, "
        f"{plan.num_microbatches} micro-batches of {plan.mbs} on each of {plan.dp} data-parallel ranks",
        "step_time": seconds(e.step_s),
        "interval": interval_text(e, label("unknown_error", lang)),
        "bounds": f"{seconds(e.low_s)} to {seconds(e.high_s)}",
        "tokens_per_s": f"{e.tokens_per_s:,.0f}",
        "tokens_per_s_per_device": f"{e.tokens_per_s_per_device:,.0f}",
        "mfu": f"{percent(e.mfu)} of {si_prefix(e.peak_flop_per_s, 'FLOP/s', 4)} a device",
        "hfu": percent(e.hfu),
        "memory": f"{gigabytes(e.memory_bytes)} of {gigabytes(e.capacity_bytes)}",
        "energy_per_step": energy_text(e.energy_per_step_j, "not published"),
        "energy_per_token": energy_text(e.energy_per_token_j, "not published"),
    }
    for key, text in rows.items():
        out.add_row(label(key, lang), text)
    return out


def _waterfall_table(e: Estimate, fall: Waterfall, lang: Language) -> Table:
    out = table(
        label("waterfall", lang),
        "",
        label("step_time", lang) + ">",
        label("share", lang) + ">",
        label("meaning", lang),
    )
    for loss in fall.losses:
        if loss.seconds:
            out.add_row(label(loss.key, lang), seconds(loss.seconds), percent(loss.share), meaning(loss.key))
    out.add_section()
    out.add_row(label("step", lang), seconds(e.step_s), "100.0 %")
    return out


def _communication_table(e: Estimate, fall: Waterfall, lang: Language) -> Table:
    out = table(label("communication", lang), "", label("step_time", lang) + ">", label("share", lang) + ">")
    for key in COMMUNICATION:
        out.add_row(label(key, lang), seconds(e.parts_s[key]), percent(e.part_share(key)))
    return out


def _stage_rows(e: Estimate) -> list[int]:
    """Stages to print: all, or the first and last ones of a long pipeline."""
    n = len(e.stages)
    return list(range(n)) if n <= _MAX_STAGES else [*range(_MAX_STAGES // 2), *range(n - _MAX_STAGES // 2, n)]


def _stage_table(e: Estimate, lang: Language) -> Table:
    out = table(
        label("stages", lang),
        label("stage", lang) + ">",
        label("layers", lang) + ">",
        label("parameters", lang) + ">",
        label("forward", lang) + ">",
        label("backward", lang) + ">",
        label("used", lang) + ">",
    )
    for i in _stage_rows(e):
        s = e.stages[i]
        out.add_row(
            str(s.index),
            str(s.layers),
            si_prefix(s.parameters, "").replace("G", "B"),
            seconds(s.forward_s),
            seconds(s.backward_s),
            gigabytes(s.used_bytes),
        )
    return out


def _memory_table(e: Estimate, lang: Language) -> Table:
    names = list(e.stages[0].memory)
    out = table(
        f"{label('memory_ledger', lang)} (GB; {label('capacity', lang)} {gigabytes(e.capacity_bytes)})",
        label("stage", lang) + ">",
        *(label("weights" if n == "parameters" else n, lang) + ">" for n in names),
        label("used", lang) + ">",
    )
    for i in _stage_rows(e):
        s = e.stages[i]
        cells = [gigabytes(v).removesuffix(" GB") for v in (*s.memory.values(), s.used_bytes)]
        out.add_row(str(s.index), *cells)
    return out

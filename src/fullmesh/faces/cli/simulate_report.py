"""What ``fullmesh simulate`` prints."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fullmesh.faces.cli.tables import OFFLOAD_NOTE, gigabytes, percent, seconds, table, title
from fullmesh.glossary import Language, label, meaning
from fullmesh.outcomes.estimate import Estimate, Infeasible
from fullmesh.outcomes.fields import ESTIMATE_FIELDS, fixed_share_note, limit_text
from fullmesh.outcomes.waterfall import GROUPS, Waterfall, waterfall
from fullmesh.output import formats
from fullmesh.output.fields import pairs
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
        f"{e.plan.text()}; {formats.precision(e.plan.precision)}; software {e.plan.stack or 'not stated'}.",
        "",
        _summary(e, lang),
        _waterfall_table(e, fall, lang),
        _communication_table(e, fall, lang),
        _stage_table(e, lang),
        _memory_table(e, lang),
        "MFU: " + meaning("mfu") + "; HFU: " + meaning("hfu") + ".",
        f"{label('interval', lang)}: {e.interval.basis}. {title('power', lang)}: {e.energy_basis}.",
    ]
    out.append(f"{title('bounds', lang)}: {meaning('bounds')}.")
    out += [note[:1].upper() + note[1:] + "." for note in e.notes]
    if note := fixed_share_note(e):
        out.append(note[:1].upper() + note[1:] + ".")
    if e.plan.offload_optimizer:
        out.append(OFFLOAD_NOTE)
    return out


def _summary(e: Estimate, lang: Language) -> Table:
    out = table("", "", "", leading=1)
    out.show_header = False
    for name, text in pairs(ESTIMATE_FIELDS, e, "simulate", lang):
        out.add_row(name, text)
    return out


def _waterfall_table(e: Estimate, fall: Waterfall, lang: Language) -> Table:
    out = table(
        label("waterfall", lang),
        "",
        label("step_time", lang) + ">",
        label("share", lang) + ">",
        label("meaning", lang),
        leading=1,
    )
    for loss in fall.losses:
        if loss.seconds:
            out.add_row(label(loss.key, lang), seconds(loss.seconds), percent(loss.share), meaning(loss.key))
    out.add_section()
    out.add_row(label("step", lang), seconds(e.step_s), "100.0 %")
    return out


def _communication_table(e: Estimate, fall: Waterfall, lang: Language) -> Table:
    out = table(label("communication", lang), "", label("step_time", lang) + ">", label("share", lang) + ">")
    for key in GROUPS["communication"]:
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
    """One row a part and one column a stage: there are few parts, and a pipeline may be long."""
    chosen = [e.stages[i] for i in _stage_rows(e)]
    stage = label("stage", lang)
    out = table(
        f"{label('memory_ledger', lang)} (GB; {label('capacity', lang)} {gigabytes(e.capacity_bytes)})",
        stage,
        *(f"{s.index}>" for s in chosen),
        leading=1,
    )
    for name in chosen[0].memory:
        key = "weights" if name == "parameters" else name
        out.add_row(label(key, lang), *(f"{s.memory[name] / 1e9:.1f}" for s in chosen))
    out.add_section()
    out.add_row(label("used", lang), *(f"{s.used_bytes / 1e9:.1f}" for s in chosen))
    return out

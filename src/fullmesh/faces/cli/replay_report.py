"""What ``fullmesh simulate`` prints of the replayed step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from fullmesh.faces.cli.tables import gigabytes, percent, seconds, table
from fullmesh.glossary import Language, label, load_glossary
from fullmesh.output.formats import change
from fullmesh.timeline.changes import Change
from fullmesh.timeline.simulate import Simulation
from fullmesh.timeline.trace.measured import OperatorDifference
from fullmesh.units import si_prefix

if TYPE_CHECKING:
    from rich.table import Table

    from fullmesh.replays.replayed import Replayed
    from fullmesh.replays.wired import WiredCollective

# Lines of a comparison, and pairs of devices that wait, before the rest is left to --json.
_MOST_LINES = 24
_MOST_WAITS = 8


def replay_report(
    r: Replayed,
    operators: Sequence[OperatorDifference],
    changes: Sequence[Change],
    lang: Language,
    *,
    timing: bool = True,
) -> list[Table | str]:
    """Tables of the replay, of a profile laid under it and of the difference to another run."""
    if r.simulation is None:
        return [f"{label('replay', lang)}: {label('cannot_run', lang)} ({r.reason})."]
    out: list[Table | str] = [_summary(r, r.simulation, lang, timing=timing), _kinds(r, r.simulation, lang)]
    if r.undisturbed_step_s != r.simulation.step_s:
        out.append(_waits(r.simulation, lang))
    if operators:
        out.append(_operators(operators, lang))
    if changes:
        out.append(_changes(changes, lang))
    return out


def wired_table(collectives: Sequence[WiredCollective], lang: Language) -> list[Table | str]:
    """The plan's collectives on the wired graph beside the closed form over tiers, and what either rests on."""
    t = table(
        label("wired_graph", lang),
        label("axis", lang),
        label("collective", lang),
        label("ranks", lang) + ">",
        label("size", lang) + ">?",
        label("closed_form", lang) + ">",
        label("on_links", lang) + ">",
        label("closed_form_off", lang) + ">",
    )
    for c in collectives:
        known = c.level_s == c.level_s
        t.add_row(
            c.axis,
            c.kind.replace("_", " "),
            f"{c.ranks:,} / {c.stride:,}",
            si_prefix(c.num_bytes, "B"),
            seconds(c.closed_form_s) if known else "-",
            seconds(c.level_s) if known else "-",
            change(c.off) if known else "-",
        )
    evidence: dict[str, list[str]] = {}
    for c in collectives:
        evidence.setdefault(c.evidence, []).append(c.axis)
    return [t, *(f"- {', '.join(axes)}: {text}." for text, axes in evidence.items() if text)]


def name_of(kind: str, lang: Language) -> str:
    """What a kind of task or a cause of idling is called."""
    key = "kind_" + kind.replace(" ", "_").replace("-", "_")
    return label(key, lang) if key in load_glossary() else kind


def _summary(r: Replayed, run: Simulation, lang: Language, *, timing: bool) -> Table:
    out = table(label("replay", lang), "", "", leading=1)
    out.show_header = False
    memory = run.memory
    peak = int(memory.peak_bytes.argmax())
    causes = "; ".join(f"{name_of(c.name, lang)} {c.share:+.1%}".replace("%", " %") for c in r.causes)
    rows = {
        "step_time": si_prefix(run.step_s, "s", 4),
        "closed_form": f"{si_prefix(r.estimate.step_s, 's', 4)} ({r.difference:+.2%})".replace("%", " %"),
        "difference_reason": causes,
        "undisturbed": "" if r.undisturbed_step_s == run.step_s else si_prefix(r.undisturbed_step_s, "s", 4),
        "bubble_fraction": percent(run.activity.bubble_fraction),
        "memory_peak": f"{gigabytes(memory.peak_bytes[peak])}, rank {int(run.unfolded.device(peak))}, "
        f"{label('at_time', lang)} {seconds(memory.peak_s[peak])}",
        "engine": f"{run.timeline.engine}, {len(run.timeline.graph) - 1:,} {label('tasks', lang)}"
        + (f", {seconds(run.engine_s)}" if timing else "")
        + ("" if run.unfolded.exact else f"; {label('bounded', lang)}"),
    }
    for key, text in rows.items():
        if text:
            out.add_row(label(key, lang), text)
    return out


def _kinds(r: Replayed, run: Simulation, lang: Language) -> Table:
    out = table("", "", "", label("step_time", lang) + ">", label("share", lang) + ">")
    views: tuple[tuple[str, Mapping[str, float]], ...] = (
        ("critical_path", r.critical_path_s()),
        ("exposed_communication", r.exposed_s()),
        ("idle", run.activity.bubble_by_cause()),
    )
    for view, values in views:
        first = label(view, lang)
        for kind, value in values.items():
            if value > 1e-4 * run.step_s:
                out.add_row(first, name_of(kind, lang), seconds(value), percent(value / run.step_s))
                first = ""
        out.add_section()
    return out


def _waits(run: Simulation, lang: Language) -> Table:
    out = table(
        label("waits", lang),
        label("rank", lang) + ">",
        label("waits_for", lang) + ">",
        label("step_time", lang) + ">",
    )
    for a, z, value in run.activity.waits(_MOST_WAITS):
        out.add_row(f"{int(run.unfolded.device(a))}", f"{int(run.unfolded.device(z))}", seconds(value))
    return out


def _operators(operators: Sequence[OperatorDifference], lang: Language) -> Table:
    out = table(
        label("profile", lang),
        label("operator", lang),
        label("simulated", lang) + ">",
        label("real", lang) + ">",
        label("difference", lang) + ">",
    )
    for line in operators:
        out.add_row(
            name_of(line.operator, lang),
            seconds(line.simulated_s),
            seconds(line.real_s),
            seconds(line.difference_s),
        )
    return out


def _changes(changes: Sequence[Change], lang: Language) -> Table:
    out = table(
        label("against", lang),
        "",
        "",
        label("before", lang) + ">",
        label("after", lang) + ">",
        label("difference", lang) + ">",
    )
    last = ""
    for line in changes[:_MOST_LINES]:
        view = "" if line.view == last else name_of(line.view, lang)
        last = line.view
        out.add_row(
            view,
            name_of(line.what, lang),
            seconds(line.before_s),
            seconds(line.after_s),
            seconds(line.change_s),
        )
    return out

"""What ``fullmesh check`` prints."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fullmesh.faces.cli.simulate_report import infeasible_line
from fullmesh.faces.cli.tables import gigabytes, percent, table, title
from fullmesh.glossary import Language, label
from fullmesh.outcomes.estimate import Estimate, Infeasible
from fullmesh.outcomes.fields import memory_interval_text
from fullmesh.output import formats
from fullmesh.study.check.checked import CANNOT_RUN, IN_RANGE, NOT_MEASURED, UNKNOWN_RANGE, Checked, Part

if TYPE_CHECKING:
    from rich.table import Table


def report(r: Checked, lang: Language) -> list[Table | str]:
    """Tables and lines of a check."""
    run, e = r.run, r.predicted
    out: list[Table | str] = [
        f"{run.model.name} on {run.plan.num_devices:,} devices of {run.machine.name}: {run.plan.text()}, "
        f"{label('batch', lang)} {run.plan.gbs:,} x {run.plan.seq:,}, {formats.precision(run.plan.precision)}.",
        f"Expected of {run.software}.",
        "",
    ]
    if r.verdict == CANNOT_RUN:
        limit = e if isinstance(e, Infeasible) else r.too_large
        assert limit is not None, "what cannot run breaks a limit"
        out.append(infeasible_line(limit, lang))
        if r.step_s is not None:
            out.append(f"Measured: {formats.seconds(r.step_s)} a step ({_basis(r)}).")
    elif isinstance(e, Estimate):
        out += _verdict(r, e, lang)
    if r.near:
        out.append(f"Nearest published result: {r.near}.")
    for heading, parts in (("What the device does in a step", r.shares), ("Where the gap sits", r.classes)):
        if parts:
            out += ["", _parts_table(heading, parts)]
    if r.changes:
        out += ["", _changes_table(r, lang)]
    elif r.verdict != CANNOT_RUN:
        out.append("No single step from this plan is predicted to gain anything.")
    out += [""] if run.assumed or run.left or r.row_unsaid else []
    out += [f"Assumed: {text}." for text in run.assumed]
    if run.left:
        out.append(f"Not understood, and not part of the prediction: {', '.join(run.left)}.")
    if r.row_unsaid:
        out.append(f"A row of results cannot say: {', '.join(r.row_unsaid)}.")
    return out


def _basis(r: Checked) -> str:
    assert r.measured is not None, "a speed comes from somewhere"
    return r.measured.basis


def _verdict(r: Checked, e: Estimate, lang: Language) -> list[str]:
    interval = e.interval
    span = f"{formats.seconds(interval.low_s)} to {formats.seconds(interval.high_s)}"
    out = []
    if r.verdict == NOT_MEASURED:
        out.append("No speed is given: what follows is what to expect.")
    elif r.step_s is not None and r.ratio is not None:
        measured = f"{formats.seconds(r.step_s)} a step ({_basis(r)})"
        apart = abs(r.ratio - 1.0)
        side = "longer" if r.ratio >= 1.0 else "shorter"
        if r.verdict == UNKNOWN_RANGE:
            out.append(f"Measured: {measured}; no range is known for this machine.")
        elif r.verdict == IN_RANGE:
            out.append(f"In the range: {measured}, {percent(apart)} {side} than predicted.")
        elif r.ratio >= 1.0:
            out.append(
                f"Slower than expected: {measured}, {percent(apart)} longer than predicted and "
                f"{percent(r.step_s / interval.high_s - 1.0)} beyond the range."
            )
        else:
            out.append(
                f"Faster than expected: {measured}, {percent(apart)} shorter than predicted and "
                f"{percent(1.0 - r.step_s / interval.low_s)} below the range."
            )
    predicted = f"{formats.seconds(e.step_s)} predicted"
    out.append(f"{title('step_time', lang)}: {predicted}, 80 % of results like it from {span}.")
    used, all_of_it = gigabytes(e.memory_bytes), gigabytes(e.capacity_bytes)
    left = gigabytes(e.capacity_bytes - e.memory_bytes)
    if r.too_large is not None:
        out.append(
            f"By the memory formulas it takes {used} of {all_of_it}; it ran, so they are too high for it."
        )
    else:
        out.append(f"It fits: {used} of {all_of_it} are used, {left} are left.")
        out.append(f"{label('memory_range', lang)}: {memory_interval_text(e, lang)}.")
    out.append(f"{label('interval', lang)}: {interval.basis}.")
    return out


def _parts_table(heading: str, parts: tuple[Part, ...]) -> Table:
    out = table(heading, "what", "predicted>", "measured>", "gap>")
    for p in parts:
        sign = "+" if p.gap_s >= 0 else "-"
        out.add_row(
            p.name,
            formats.seconds(p.predicted_s),
            formats.seconds(p.measured_s),
            f"{sign}{formats.seconds(abs(p.gap_s))}",
        )
    return out


def _changes_table(r: Checked, lang: Language) -> Table:
    fits = r.verdict != CANNOT_RUN
    out = table(
        "Changes with the largest predicted gain" if fits else "Changes that make it fit, the fastest first",
        "change",
        label("step_time", lang) + ">",
        "gain>",
        label("memory_short", lang) + ">",
        "published results",
    )
    for c in r.changes:
        out.add_row(
            ", ".join(c.fields),
            formats.seconds(c.estimate.step_s),
            percent(c.gain) if fits else "-",
            gigabytes(c.estimate.memory_bytes),
            "speak for it" if c.supported else f"exploratory: none has {'; '.join(c.missing)}",
        )
    return out

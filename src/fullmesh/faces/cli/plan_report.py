"""What ``fullmesh plan`` prints."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from fullmesh.faces.cli.tables import OFFLOAD_NOTE, gigabytes, percent, table, title
from fullmesh.glossary import Language, label
from fullmesh.outcomes.estimate import Estimate
from fullmesh.outcomes.fields import ESTIMATE_FIELDS, fixed_share_note, limit_text
from fullmesh.output import formats
from fullmesh.output.fields import cells, shown
from fullmesh.search import SearchResult
from fullmesh.workload.parameters import parameter_counts

if TYPE_CHECKING:
    from rich.table import Table


def report(r: SearchResult, lang: Language) -> list[Table | str]:
    """Tables and lines of a search."""
    counts = parameter_counts(r.model)
    active = f", {formats.parameters(counts.active)} active" if r.model.is_moe else ""
    said = f" ({r.batch_note})" if r.batch_note else ""
    out: list[Table | str] = [
        f"{r.model.name}: {formats.parameters(counts.total)} parameters{active}. On {r.machine.num_devices:,} devices "
        f"of {r.machine.name} with {gigabytes(r.machine.chip.hbm_bytes)} each, {label('batch', lang)} {r.gbs:,} x "
        f"{r.seq:,} tokens{said}, {formats.precision(r.precision)}, {r.software.label}; {r.num_enumerated:,} plans "
        f"enumerated, {r.num_priced:,} break no rule and are priced, {r.num_fitting:,} of them fit the memory.",
    ]
    if r.substituted:
        out.append(r.substituted + ".")
    out.append("")
    if r.best is None:
        assert r.closest is not None
        out.append(f"{title('does_not_fit', lang)}: {limit_text(r.closest)}.")
        return [*out, _rejected_table(r, lang)]
    out += [_plans_table(r, r.ranked, label("best_plans", lang), lang)]
    losses = [r.against_best(e) for e in r.ranked]
    if losses != sorted(losses):
        out.append(
            "Ordered by the far end of the interval: what fewer published results speak for stands further back."
        )
    out.append(_tie_text(r, lang))
    out.append(f"{label('interval', lang)}: {r.best.interval.basis}.")
    if r.exploratory is not None:
        gain = percent(-r.against_best(r.exploratory))
        out.append(
            f"{title('exploratory_plan', lang)}: {r.exploratory.plan.text()}, predicted {gain} "
            f"{'faster' if r.objective == 'time' else 'cheaper'}; no published result has {'; '.join(r.missing)}."
        )
    out += [note[:1].upper() + note[1:] + "." for note in r.notes]
    if r.whole is not None:
        out.append(
            f"{title('whole_plan', lang)}: {r.whole.plan.text()}, {r.best.step_s / r.whole.step_s:.3g} times as fast "
            f"for {formats.change(r.against_best(r.whole))} {r.objective}."
        )
    if note := fixed_share_note(r.best):
        out.append(note[:1].upper() + note[1:] + ".")
    if any(e.plan.offload_optimizer for e in (*r.ranked, *r.pareto)):
        out.append(OFFLOAD_NOTE)
    out += ["", _plans_table(r, r.pareto, label("pareto", lang), lang)]
    return [*out, _rejected_table(r, lang)]


def _tie_text(r: SearchResult, lang: Language) -> str:
    if r.tie_ratio != r.tie_ratio:
        return f"{title('ties', lang)}: {label('unknown_error', lang)}."
    return (
        f"{title('ties', lang)}: {r.num_ties} (within a factor of {r.tie_ratio:.2f} of the best; "
        "plans of one machine share most of that error, so the order is surer than this)."
    )


def _plans_table(r: SearchResult, estimates: Sequence[Estimate], heading: str, lang: Language) -> Table:
    best = r.best
    assert best is not None
    fields = shown(ESTIMATE_FIELDS, "plan")
    by_time = r.objective == "time"
    out = table(
        heading,
        label("plan", lang),
        *([] if by_time else [label("devices", lang) + ">"]),
        *(_heading(f.key, lang) + (">?" if f.optional else ">") for f in fields),
        label("against_best" if by_time else f"{r.objective}_against_best", lang) + ">",
    )
    for e in estimates:
        cost = e.step_s / best.step_s
        if not by_time:
            cost *= e.plan.num_devices / best.plan.num_devices
        out.add_row(
            e.plan.text(),
            *([] if by_time else [f"{e.plan.num_devices:,}"]),
            *cells(fields, e, lang),
            percent(cost),
        )
    return out


def _heading(key: str, lang: Language) -> str:
    """A column's label; how much memory there is stands above the table."""
    return label("memory_short" if key == "memory" else key, lang)


def _rejected_table(r: SearchResult, lang: Language) -> Table:
    out = table(
        label("rejected", lang), label("reason", lang), label("plans", lang) + ">", label("meaning", lang)
    )
    for rejection in r.rejected:
        out.add_row(rejection.reason, f"{rejection.num_plans:,}", rejection.meaning)
    return out

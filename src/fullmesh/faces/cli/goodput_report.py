"""What ``fullmesh goodput`` prints."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from fullmesh.faces.cli.tables import percent, table, title
from fullmesh.glossary import Language, label
from fullmesh.outcomes.fields import limit_text
from fullmesh.outcomes.goodput.engine import LOSSES
from fullmesh.outcomes.goodput.records import PolicyForecast, RunForecast
from fullmesh.output import formats
from fullmesh.output.fields import shown
from fullmesh.study.goodput import Goodput
from fullmesh.study.goodput_fields import GOODPUT_DEFINITION, POLICY_FIELDS, days_text
from fullmesh.units import duration, si_prefix

if TYPE_CHECKING:
    from rich.table import Table

# inputs of the tornado that are shown
_LARGEST = 8
# a mean that is so many times the median is told
_FAR = 1.05
# domains with fewer stops than this share of all are left out of the table
_LEAST_SHARE = 0.001


def report(g: Goodput, lang: Language) -> list[Table | str]:
    """Tables and lines of a run."""
    f = g.forecast
    if f is None:
        limit = "" if g.infeasible is None else f": {limit_text(g.infeasible)}"
        return [f"{g.model}, {g.machine}: {label('does_not_fit', lang)}{limit}."]
    e = f.estimate
    m = e.machine
    units = formats.count(e.plan.num_devices / m.devices_per_unit, m.unit_name)
    out: list[Table | str] = [
        f"{e.model.name}, {formats.tokens(f.num_tokens)} on {units} of {m.name} ({e.plan.num_devices:,} devices)",
        f"{title('best_plan', lang)}: {e.plan.text()}; {formats.seconds(e.step_s)} a step, "
        f"{e.tokens_per_s:,.0f} tokens/s; {label('mtbf', lang)} {duration(f.mtbf_s)}.",
        "",
        _policies(f, lang),
        _losses(f, lang),
        _domains(f, lang),
    ]
    if f.tornado:
        out.append(_tornado(f, lang))
    return [*out, *_notes(f, lang)]


def _policies(f: RunForecast, lang: Language) -> Table:
    out = table("", "", *(label(f"policy_{p.recovery.policy}", lang) for p in f.policies), leading=1)
    for field in shown(POLICY_FIELDS, "goodput"):
        assert field.text is not None
        cells = [field.text(p, lang) for p in f.policies]
        if set(cells) != {"-"}:
            out.add_row(field.label(lang), *cells)
    return out


def _losses(f: RunForecast, lang: Language) -> Table:
    out = table(
        label("losses", lang),
        "",
        *(label(f"policy_{p.recovery.policy}", lang) + ">" for p in f.policies),
        leading=1,
    )

    def cell(seconds: float, wall: float) -> str:
        if not math.isfinite(wall):
            return "-"
        if seconds == 0:
            return "0    0.0 %"
        return f"{days_text(seconds / 86400)} {percent(seconds / wall):>7}"

    out.add_row(label("useful_steps", lang), *(cell(p.work_s, p.wall_s) for p in f.policies))
    for key in LOSSES:
        if any(p.losses_s[key] > 1e-4 * p.wall_s for p in f.policies):
            out.add_row(label(key, lang), *(cell(p.losses_s[key], p.wall_s) for p in f.policies))
    out.add_section()
    out.add_row(label("wall_time", lang), *(cell(p.wall_s, p.wall_s) for p in f.policies))
    return out


def _domains(f: RunForecast, lang: Language) -> Table:
    out = table(
        label("fault_domains", lang),
        label("fault_domain", lang),
        label("fault_effect", lang),
        label("members", lang) + ">",
        label("faults_per_year", lang) + ">",
        label("kind", lang) + "?",
    )
    most = max(d.per_year for d in f.domains)
    for d in sorted(f.domains, key=lambda d: -d.per_year):
        if d.per_year >= _LEAST_SHARE * most:
            effect = label(f"effect_{d.effect}", lang)
            if d.effect == "slow":
                effect += f" (-{percent(d.bandwidth_lost)})"
            out.add_row(
                label(f"domain_{d.domain}", lang), effect, f"{d.members:,.0f}", _rate(d.per_year), d.kind
            )
    return out


def _rate(per_year: float) -> str:
    return f"{per_year:,.0f}" if per_year >= 100 else f"{per_year:.3g}"


def _tornado(f: RunForecast, lang: Language) -> Table:
    out = table(
        label("tornado", lang),
        label("input", lang),
        label("run_days", lang) + ">",
        label("run_money", lang) + ">?",
    )
    for s in f.tornado[:_LARGEST]:
        usd = "-"
        if s.usd_low is not None and s.usd_high is not None and math.isfinite(s.usd_low + s.usd_high):
            usd = f"{formats.money(s.usd_low)} to {formats.money(s.usd_high)}"
        days = "-" if s.days_span < 1e-9 else f"{days_text(s.days_low)} to {days_text(s.days_high)}"
        out.add_row(label(f"input_{s.key}", lang), days, usd)
    return out


def _notes(f: RunForecast, lang: Language) -> list[str]:
    p, m = f.policies[0], f.estimate.machine
    lines = [
        label("notes", lang),
        f"- {title('goodput', lang)}: {GOODPUT_DEFINITION}.",
        "- Figures are the median of the runs, with P10 and P90 in brackets; they vary with the step's own error, with "
        "fault rates, with recovery times, prices and other inputs within their ranges, and with luck "
        f"({f.runs:,} runs, seed {f.seed}). Losses are means of the fifth of the runs around the middle one.",
        f"- {title('checkpoint_interval', lang)}: in brackets where it costs at most half a per cent of the time more; "
        f"Young's is {duration(p.intervals.young_s)}. A checkpoint of "
        f"{si_prefix(float(f.checkpoint.total_bytes), 'B')} takes {duration(float(f.checkpoint.write_s))} to storage.",
    ]
    lines += [f"- {line}." for line in (*_mean_line(p), *_spare_lines(p))]
    if p.energy_j is not None:
        pue = "/".join(f"{x:g}" for x in f.pue)
        lines.append(
            f"- {title('run_energy', lang)}: at the meter of the site, PUE {pue}, spares included. Power is by what "
            "devices do in a step; before the semicolon the mean, behind it the peak."
        )
    for price in p.money:
        parts = ", ".join(
            f"{label('cost_' + k, lang)} {formats.money(v)}" for k, v in price.parts_usd.items() if v
        )
        kind = label("rented" if price.rented else "bought", lang)
        lines.append(
            f"- {title('run_money', lang)}, {kind}: {formats.money(price.usd.p50)} ({parts}); {price.basis}."
        )
    if len(p.money) > 1:
        lines.append(
            "- A rent covers power, hosting and network; a purchase is written off and pays them apart."
        )
    if f.cap is not None:
        c = f.cap
        lines.append(
            f"- {title('power_cap', lang)} {si_prefix(c.cap_w, 'W')} a device: clock {percent(c.clock)}, step "
            f"{formats.change(c.step_factor - 1)}, {days_text(c.days_without)} become {days_text(c.days_with)}."
        )
    if f.site is not None:
        s = f.site
        lines.append(
            f"- {title('site', lang)} {si_prefix(s.site_w, 'W')}: {formats.count(s.units, m.unit_name)} of "
            f"{si_prefix(s.unit_peak_w, 'W')} each at their peak with cooling ({s.units_low:,} to "
            f"{s.units_high:,}); {s.units_nameplate:,} by nameplate."
        )
    lines += [f"- {line}." for policy in f.policies for line in _smaller_lines(policy, lang)]
    lines += [f"- {note[:1].upper() + note[1:]}." for note in f.notes]
    return lines


def _spare_lines(p: PolicyForecast) -> list[str]:
    """Spares by target, and what else lies in stock."""
    if p.recovery.shrinks:
        return []
    needed = ", ".join(
        f"{n:,} for {percent(float(t), 0 if float(t) >= 0.01 else 1)}" for t, n in p.spares_for.items()
    )
    lines = [
        f"Spares that are needed so that no more than such a share of faults finds none, at nine of ten sites: {needed}"
    ]
    if not p.spares:
        lines.append("There is no spare: after a fault that takes a part out the job waits for the repair")
    elif p.waiting_share >= 0.01:
        lines.append(
            f"With {formats.count(p.spares, p.spare_kind)} to spare {percent(p.waiting_share)} of the faults find none "
            "at the expected rates, and the job waits for a repair"
        )
    if p.stock_nodes:
        lines.append(f"Nodes in stock, while others are repaired: {p.stock_nodes:,}")
    return lines


def _mean_line(p: PolicyForecast) -> list[str]:
    """The mean where it lies far from the middle."""
    lines = []
    if p.unfinished_share > 0:
        lines.append(
            f"{percent(p.unfinished_share, 2)} of the runs never end: faults come faster there than they are repaired"
        )
    if not (math.isfinite(p.mean_days) and p.mean_days > _FAR * p.days.p50):
        return lines
    return [
        *lines,
        f"The mean of all runs that end is {days_text(p.mean_days)}: some last far longer, where steps are slow, or "
        "faults so frequent that spares run out",
    ]


def _smaller_lines(p: PolicyForecast, lang: Language) -> list[str]:
    """What a job goes on as that shrinks, and when it grows again."""
    if not p.recovery.shrinks:
        return []
    lines = []
    for s in p.smaller:
        by = "the best plan for them" if s.searched else "the same layout with fewer data-parallel ranks"
        lines.append(
            f"{title('policy_shrink', lang)}: without {formats.count(s.missing, p.spare_kind)} the job goes on as "
            f"{s.plan} on {s.devices:,} devices at {percent(s.speed)} of the speed ({by})"
        )
    if not p.smaller:
        lines.append(
            f"{title('policy_shrink', lang)}: no plan fits on fewer devices, so the job waits for the repair"
        )
    elif p.rejoins_at_once:
        lines.append(
            f"{title('policy_shrink', lang)}: the job stops for {duration(float(p.recovery.regrow_s))} to take a "
            f"repaired {p.spare_kind} in again"
        )
    else:
        lines.append(
            f"{title('policy_shrink', lang)}: a repaired {p.spare_kind} joins with the restart after the next fault"
        )
    return lines

"""What ``fullmesh compare`` prints."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from fullmesh.faces.cli.tables import OFFLOAD_NOTE, percent, seconds, table, title
from fullmesh.glossary import Language, label
from fullmesh.outcomes.estimate import Estimate
from fullmesh.outcomes.fields import fixed_share_note
from fullmesh.outcomes.waterfall import waterfall
from fullmesh.output import formats
from fullmesh.output.fields import cells, shown
from fullmesh.search.engine import MEMORY_MARGIN
from fullmesh.study.compare import Column, Comparison, Ratio
from fullmesh.study.fields import RUN_KEYS, best_text, column_fields, devices_text, racks_text
from fullmesh.units import si_prefix

if TYPE_CHECKING:
    from rich.table import Table

# Rows that only a comparison with something to say there has.
_ONLY_WHERE_SAID = ("exploratory_plan", "roomy_plan", "whole_plan", *RUN_KEYS)
# What the table of equal packages repeats; a narrow terminal leaves out the last two.
_SHORT = ("step_time", "tokens_per_s", "mfu", "energy_per_token")


def report(c: Comparison, lang: Language) -> list[Table | str]:
    """Tables and lines of a comparison."""
    active = f", {formats.parameters(c.active_parameters)} active" if c.model.is_moe else ""
    batch = f"{c.gbs:,} x {c.seq:,} = {c.gbs * c.seq / 1e6:,.1f} M tokens"
    head = (
        f"{c.model.name}: {formats.parameters(c.parameters)} parameters{active}. "
        f"{title('batch', lang)} {batch} on every machine ({c.batch_note})."
    )
    out: list[Table | str] = [head, "", _main_table(c, lang)]
    if any(column.best for column in c.columns):
        out.append(_waterfall_table(c.columns, lang))
    if c.ratios:
        out += [_ratio_table(c.ratios, label("ratios", lang), lang), *_reasons(c.ratios), *_saved(c)]
    out += [
        f"- {title(r.figure, lang)}: {r.more} takes {r.ratio:.2f} times as much as {r.less} ({r.low:.2f} to "
        f"{r.high:.2f}): {label('tie' if r.tie else 'differs', lang)}."
        for r in c.run_ratios
    ]
    if c.equal_packages:
        out += ["", _short_table(c.equal_packages, lang)]
        if c.equal_ratios:
            out.append(_ratio_table(c.equal_ratios, "", lang))
            known = {r.reason for r in c.ratios}
            out += _reasons([r for r in c.equal_ratios if r.reason not in known])
    return [*out, "", *_notes(c, lang)]


def _main_table(c: Comparison, lang: Language) -> Table:
    out = table("", "", *(column.machine.name for column in c.columns), leading=1)
    fits = any(column.best for column in c.columns)
    for field in shown(column_fields(c.num_tokens), "compare"):
        assert field.text is not None
        cells = [field.text(column, lang) for column in c.columns]
        if field.key in _ONLY_WHERE_SAID and set(cells) == {"-"}:
            continue
        if field.section:
            if field.key != "best_plan" and not fits:
                break
            out.add_section()
        out.add_row(field.label(lang) + field.suffix(c.columns[0]), *cells)
    return out


def _best(c: Column) -> Estimate:
    assert c.best is not None
    return c.best


def _waterfall_table(columns: Sequence[Column], lang: Language) -> Table:
    fitting = [c for c in columns if c.best is not None]
    out = table(label("waterfall", lang), "", *(f"{c.machine.name}>" for c in fitting), leading=1)
    falls = [waterfall(_best(c)) for c in fitting]
    for i, loss in enumerate(falls[0].losses):
        lines = [fall.losses[i] for fall in falls]
        if any(abs(line.share) >= 0.0005 for line in lines):
            out.add_row(
                label(loss.key, lang),
                *(f"{seconds(line.seconds)} {percent(line.share):>8}" for line in lines),
            )
    out.add_section()
    out.add_row(label("step", lang), *(f"{seconds(_best(c).step_s)} {'100 %':>8}" for c in fitting))
    return out


def _ratio_table(ratios: Sequence[Ratio], heading: str, lang: Language) -> Table:
    out = table(
        heading,
        label("faster", lang),
        label("slower", lang),
        label("ratio", lang) + ">",
        label("interval", lang) + ">",
        label("per_package_ratio", lang) + ">?",
        label("verdict", lang),
    )
    for r in ratios:
        verdict = "unknown_error" if r.tie is None else "tie" if r.tie else "differs"
        spread = "-" if r.tie is None else f"{r.low:.2f} to {r.high:.2f}"
        out.add_row(
            r.a.name, r.b.name, f"{r.ratio:.2f}", spread, f"{r.per_package:.2f}", label(verdict, lang)
        )
    return out


def _reasons(ratios: Sequence[Ratio]) -> list[str]:
    return [f"- {r.reason}" for r in ratios]


def _saved(c: Comparison) -> list[str]:
    """Where energy or money is asked for: how the machines compare in that, which the ratios of tokens/s do not say."""
    found: list[tuple[str, float]] = []
    for x in c.columns:
        each = None if x.best is None else x.best.energy_per_token_j
        if c.objective == "money":
            each = None if x.money is None else x.money.usd_per_million_tokens
        if each:
            found.append((x.machine.name, each))
    if c.objective == "time" or len(found) < 2:
        return []
    (first, least), *others = sorted(found, key=lambda pair: pair[1])
    return [
        f"- {first} takes the least {c.objective} a token; "
        + ", ".join(f"{name} takes {each / least:.3g} times as much" for name, each in others)
        + "."
    ]


def _short_table(columns: Sequence[Column], lang: Language) -> Table:
    fields = [f for f in column_fields(1.0) if f.key in _SHORT]
    out = table(
        label("equal_packages", lang),
        label("machine", lang),
        label("best_plan", lang),
        *(f.label(lang) + (">?" if f.key in _SHORT[2:] else ">") for f in fields),
    )
    for c in columns:
        size = f"{c.machine.name}: {devices_text(c)}, {racks_text(c)}"
        out.add_row(size, best_text(c, lang), *cells(fields, c, lang))
    return out


def _notes(c: Comparison, lang: Language) -> list[str]:
    lines = [
        label("notes", lang),
        "- MFU: causal model FLOPs without recompute over the dense matrix peak of the devices used, in the precision "
        "above; HFU counts recomputed FLOPs too.",
        f"- {title('bounds', lang)}: the step if all communication that may overlap did, and if none did, with "
        "kernels and collectives as predicted. The 80 % interval also covers what those may be off by, so it may "
        "reach further.",
        "- Step times are without failures and restarts. The best plan is the one that does best at the far end "
        "of its interval, which is further for each pair of attributes that no published result has together on "
        "chips with the same cores; which pairs the best plan lacks is said below.",
    ]
    if any(x.run for x in c.columns):
        lines.append(
            f"- {title('run_days', lang)}, goodput, energy and money of the run: restarts from storage, spares "
            "included; the median, with P10 and P90 in brackets. A purchase also pays network, electricity, hosting "
            "and staff."
        )
    if any(x.found.num_enumerated for x in c.columns):
        lines.append(
            f"- {title('plans', lang)}: all combinations are enumerated, those that break no rule priced; those within "
            "the memory fit."
        )
    if any(x.found.exploratory for x in c.columns):
        lines.append(
            f"- {title('exploratory_plan', lang)}: predicted faster, but of all plans the one most likely to be "
            "predicted too fast; what no published result has tried stands in brackets."
        )
    for x in c.columns:
        lines += [f"- {x.machine.name}: {note}." for note in x.found.notes]
    if any(x.found.roomy for x in c.columns):
        lines.append(
            f"- {title('roomy_plan', lang)}: the best plan that leaves {percent(MEMORY_MARGIN, 0)} of the memory, "
            "where the best one leaves less than the memory model may be off by."
        )
    if any(x.found.whole for x in c.columns):
        lines.append(
            f"- {title('whole_plan', lang)}: what is saved by leaving devices unused goes with longer training; the "
            "figures in brackets are what all devices cost more, and what they save in time. Racks, power and peak "
            "above are those of the whole machine; step time, tokens/s, energy, money and ratios those of the devices "
            "that a plan uses."
        )
    for x in c.columns:
        if x.best and (note := fixed_share_note(x.best)):
            lines.append(f"- {x.machine.name}: {note}.")
    if any(x.best and x.best.plan.offload_optimizer for x in c.columns):
        lines.append(f"- {OFFLOAD_NOTE}")
    by_basis: dict[str, list[str]] = {}
    for x in c.columns:
        if x.best:
            by_basis.setdefault(x.best.interval.basis, []).append(x.machine.name)
    for basis, names in by_basis.items():
        lines.append(f"- {label('interval', lang)} ({', '.join(names)}): {basis}.")
    if len({x.money.rented for x in c.columns if x.money}) > 1:
        lines.append(
            "- Money is not like for like here: one machine is rented, another bought, and a purchase covers neither "
            "power nor hosting; prices of your own go into a file (--prices)."
        )
    for x in c.columns:
        if x.found.substituted:
            lines.append(f"- {x.machine.name}: {x.found.substituted}.")
        published = x.machine.unit_published_flop_per_s
        if published is not None and x.published_differs:
            lines.append(
                f"- {x.machine.name}: {si_prefix(published, 'FLOP/s')} BF16 is {x.machine.published_flop_basis}; its "
                f"matrix units alone reach {si_prefix(x.unit_matrix_flop_per_s, 'FLOP/s')}."
            )
        lines.append(f"- {title('power', lang)}, {x.machine.name}: {x.machine.power_basis}.")
        if x.money:
            lines.append(f"- {title('money', lang)}, {x.machine.name}: {x.money.basis}.")
    return lines

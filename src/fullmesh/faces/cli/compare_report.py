"""What ``fullmesh compare`` prints."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from fullmesh.faces.cli.tables import (
    OFFLOAD_NOTE,
    count_text,
    energy_text,
    gigabytes,
    interval_text,
    limit_text,
    money_text,
    percent,
    plan_text,
    seconds,
    table,
    title,
    tokens_text,
)
from fullmesh.glossary import Language, label
from fullmesh.outcomes.estimate import Estimate
from fullmesh.outcomes.waterfall import waterfall
from fullmesh.search.engine import MEMORY_MARGIN
from fullmesh.study.compare import Column, Comparison, Ratio
from fullmesh.units import duration, si_prefix

if TYPE_CHECKING:
    from rich.table import Table

_DEVICE_WORDS = {"die": "die", "gpu": "GPU", "npu": "NPU"}


def report(c: Comparison, lang: Language) -> list[Table | str]:
    """Tables and lines of a comparison."""
    active = f", {c.active_parameters / 1e9:,.1f} B active" if c.model.is_moe else ""
    batch = f"{c.gbs:,} x {c.seq:,} = {c.gbs * c.seq / 1e6:,.1f} M tokens"
    head = (
        f"{c.model.name}: {c.parameters / 1e9:,.1f} B parameters{active}. "
        f"{title('batch', lang)} {batch} on every machine ({c.batch_note})."
    )
    out: list[Table | str] = [head, "", _main_table(c, c.columns, lang)]
    if any(column.best for column in c.columns):
        out.append(_waterfall_table(c.columns, lang))
    if c.ratios:
        out += [_ratio_table(c.ratios, label("ratios", lang), lang), *_reasons(c.ratios)]
    if c.equal_packages:
        out += ["", _short_table(c.equal_packages, lang)]
        if c.equal_ratios:
            out.append(_ratio_table(c.equal_ratios, "", lang))
            known = {r.reason for r in c.ratios}
            out += _reasons([r for r in c.equal_ratios if r.reason not in known])
    return [*out, "", *_notes(c, lang)]


def _main_table(c: Comparison, columns: Sequence[Column], lang: Language) -> Table:
    out = table("", "", *(column.machine.name for column in columns))

    def row(key: str, cell: Callable[[Column], str], suffix: str = "") -> None:
        out.add_row(label(key, lang) + suffix, *(cell(column) for column in columns))

    row("devices", _devices)
    row("racks", _racks)
    row("power", lambda x: "not published" if x.power_w is None else si_prefix(x.power_w, "W"))
    row("software", lambda x: x.found.software.label)
    row("precision", lambda x: x.found.precision.upper() + (" (substituted)" if x.found.substituted else ""))
    row("matrix_peak", _peak)
    row("published_peak", _published)
    out.add_section()
    row("best_plan", lambda x: plan_text(x.best.plan) + _unused(x) if x.best else _limit(x, lang))
    row("second_plan", _second)
    if any(column.found.roomy for column in columns):
        row("roomy_plan", _roomy)
    row("ties", lambda x: _ties(x, lang))
    row(
        "plans",
        lambda x: f"{x.found.num_enumerated:,} enumerated, {x.found.num_fitting:,} fit",
    )
    if not any(column.best for column in columns):
        return out
    out.add_section()
    unknown = label("unknown_error", lang)

    def fitting(cell: Callable[[Column], str]) -> Callable[[Column], str]:
        return lambda x: "-" if x.best is None else cell(x)

    row("step_time", fitting(lambda x: seconds(_best(x).step_s)))
    row("interval", fitting(lambda x: interval_text(_best(x), unknown)))
    row("bounds", fitting(lambda x: f"{seconds(_best(x).low_s)} to {seconds(_best(x).high_s)}"))
    row("tokens_per_s", fitting(lambda x: f"{_best(x).tokens_per_s:,.0f}"))
    row("tokens_per_s_per_device", fitting(lambda x: f"{_best(x).tokens_per_s_per_device:,.0f}"))
    row("mfu", fitting(lambda x: percent(_best(x).mfu)))
    row("hfu", fitting(lambda x: percent(_best(x).hfu)))
    row(
        "memory",
        fitting(lambda x: f"{gigabytes(_best(x).memory_bytes)} of {gigabytes(_best(x).capacity_bytes)}"),
    )
    out.add_section()
    row("energy_per_step", fitting(lambda x: energy_text(_best(x).energy_per_step_j, "not published")))
    row("energy_per_token", fitting(lambda x: energy_text(_best(x).energy_per_token_j, "not published")))
    no_price = label("no_price", lang)
    row("money", fitting(lambda x: money_text(x.money.usd_per_million_tokens) if x.money else no_price))
    tokens = " " + tokens_text(c.num_tokens)
    row("money_total", fitting(lambda x: money_text(x.money.usd_total) if x.money else no_price), tokens)
    row("time_to_tokens", fitting(lambda x: duration(x.time_to_tokens_s or 0.0)), tokens)
    return out


def _best(c: Column) -> Estimate:
    assert c.best is not None
    return c.best


def _devices(c: Column) -> str:
    m = c.machine
    text = count_text(m.num_devices, _DEVICE_WORDS[m.chip.basis])
    return text + (f" ({m.num_packages:,} packages)" if m.devices_per_package > 1 else "")


def _racks(c: Column) -> str:
    m = c.machine
    units = count_text(m.num_units, m.unit_name)
    if c.racks is None or (m.unit_name == "rack" and c.racks == m.num_units):
        return units
    return f"{count_text(c.racks, 'rack')} ({units})"


def _peak(c: Column) -> str:
    m = c.machine
    each = c.found.precision_flop_per_s
    return f"{si_prefix(c.matrix_flop_per_s, 'FLOP/s')} ({m.num_devices:,} x {si_prefix(each, 'FLOP/s', 4)})"


def _published(c: Column) -> str:
    value = c.published_flop_per_s
    return "-" if value is None else si_prefix(value, "FLOP/s")


def _unit_published(c: Column) -> str:
    return si_prefix(c.machine.unit_published_flop_per_s or 0.0, "FLOP/s")


def _unused(c: Column) -> str:
    used = _best(c).plan.num_devices
    return "" if used == c.machine.num_devices else f" ({used} of {c.machine.num_devices} devices used)"


def _ties(c: Column, lang: Language) -> str:
    if c.best is None:
        return "-"
    return f"{c.found.num_ties}" if math.isfinite(c.found.tie_ratio) else label("unknown_error", lang)


def _limit(c: Column, lang: Language) -> str:
    closest = c.found.closest
    text = label("does_not_fit", lang)
    return text if closest is None else f"{text}: {limit_text(closest)}"


def _second(c: Column) -> str:
    second = c.found.second
    if second is None:
        return "-"
    return f"{plan_text(second.plan)} (+{percent(c.found.second_loss)})"


def _roomy(c: Column) -> str:
    roomy = c.found.roomy
    if roomy is None:
        return "-"
    return f"{plan_text(roomy.plan)} (+{percent(c.found.roomy_loss)}, {gigabytes(roomy.memory_bytes)})"


def _waterfall_table(columns: Sequence[Column], lang: Language) -> Table:
    fitting = [c for c in columns if c.best is not None]
    out = table(label("waterfall", lang), "", *(f"{c.machine.name}>" for c in fitting))
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
        label("per_package_ratio", lang) + ">",
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


def _short_table(columns: Sequence[Column], lang: Language) -> Table:
    out = table(
        label("equal_packages", lang),
        label("machine", lang),
        label("best_plan", lang),
        label("step_time", lang) + ">",
        label("tokens_per_s", lang) + ">",
        "MFU>",
        label("energy_per_token", lang) + ">",
    )
    for c in columns:
        size = f"{c.machine.name}: {_devices(c)}, {_racks(c)}"
        if c.best is None:
            out.add_row(size, _limit(c, lang), *["-"] * 4)
            continue
        out.add_row(
            size,
            plan_text(c.best.plan) + _unused(c),
            seconds(c.best.step_s),
            f"{c.best.tokens_per_s:,.0f}",
            percent(c.best.mfu),
            energy_text(c.best.energy_per_token_j, "-"),
        )
    return out


def _notes(c: Comparison, lang: Language) -> list[str]:
    lines = [
        label("notes", lang),
        "- MFU: causal model FLOPs without recompute over the dense matrix peak of the devices used, in the precision "
        "above; HFU counts recomputed FLOPs too.",
        "- Bounds: everything that could overlap does, and nothing does. Step times are without failures and restarts.",
        "- The best of thousands of predicted plans tends to be one that is predicted too fast: intervals are those of "
        "plans that others chose and ran.",
    ]
    if any(x.found.roomy for x in c.columns):
        lines.append(
            f"- {title('roomy_plan', lang)}: the fastest plan that leaves {percent(MEMORY_MARGIN, 0)} of the memory, "
            "where the best one leaves less than the memory model may be off by."
        )
    if any(x.best and x.best.plan.offload_optimizer for x in c.columns):
        lines.append(f"- {OFFLOAD_NOTE}")
    by_basis: dict[str, list[str]] = {}
    for x in c.columns:
        if x.best:
            by_basis.setdefault(x.best.interval.basis, []).append(x.machine.name)
    for basis, names in by_basis.items():
        lines.append(f"- {label('interval', lang)} ({', '.join(names)}): {basis}.")
    for x in c.columns:
        if x.found.substituted:
            lines.append(f"- {x.machine.name}: {x.found.substituted}.")
        if x.machine.unit_published_flop_per_s is not None and x.published_differs:
            lines.append(
                f"- {x.machine.name}: {_unit_published(x)} BF16 is {x.machine.published_flop_basis}; its matrix units "
                f"alone reach {si_prefix(x.unit_matrix_flop_per_s, 'FLOP/s')}."
            )
        lines.append(f"- {title('power', lang)}, {x.machine.name}: {x.machine.power_basis}.")
        if x.money:
            lines.append(f"- {title('money', lang)}, {x.machine.name}: {x.money.basis}.")
    return lines

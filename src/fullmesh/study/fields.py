"""The fields of a comparison's columns: what tables, JSON, CSV and data frames show of a machine.

A new column is one entry, here or, where it is about one plan, in :mod:`fullmesh.outcomes.fields`.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

from fullmesh.glossary import Language, label
from fullmesh.outcomes.estimate import Estimate
from fullmesh.outcomes.fields import ESTIMATE_FIELDS, estimate_record, infeasible_record, limit_text
from fullmesh.output import formats
from fullmesh.output.fields import Field, columns, figure, lifted, record, row
from fullmesh.search import SearchResult
from fullmesh.study.compare import Column, Comparison, Ratio
from fullmesh.study.goodput_fields import POLICY_FIELDS, plain, policy_record
from fullmesh.units import duration, si_prefix

DEVICE_WORDS = {"die": "die", "gpu": "GPU", "npu": "NPU"}


def devices_text(c: Column) -> str:
    """Devices, packages where they differ, and how many the best plan uses where it leaves some."""
    m = c.machine
    text = formats.count(m.num_devices, DEVICE_WORDS[m.chip.basis])
    more = [f"{m.num_packages:,} packages"] if m.devices_per_package > 1 else []
    if c.best is not None and c.best.plan.num_devices != m.num_devices:
        more.append(f"{c.best.plan.num_devices:,} used")
    return text + (f" ({', '.join(more)})" if more else "")


def _power(c: Column, lang: Language) -> str:
    """Power of the machine, and of the devices that the best plan uses where it leaves some."""
    if c.power_w is None:
        return label("not_published", lang)
    text, best = si_prefix(c.power_w, "W"), c.best
    if best is None or best.plan.num_devices == c.machine.num_devices or best.energy_per_step_j is None:
        return text
    return f"{text} ({si_prefix(best.energy_per_step_j / best.step_s, 'W')} of those used)"


def racks_text(c: Column) -> str:
    """Racks, and units where these are something else."""
    m = c.machine
    units = formats.count(m.num_units, m.unit_name)
    if c.racks is None or (m.unit_name == "rack" and c.racks == m.num_units):
        return units
    return f"{formats.count(c.racks, 'rack')} ({units})"


def best_text(c: Column, lang: Language) -> str:
    """The best plan, or the limit that the nearest one breaks."""
    if c.best is None:
        closest = c.found.closest
        text = label("does_not_fit", lang)
        return text if closest is None else f"{text}: {limit_text(closest)}"
    return c.best.plan.text() + unused_text(c)


def unused_text(c: Column) -> str:
    """That the best plan leaves devices unused, empty where it uses all."""
    assert c.best is not None
    used = c.best.plan.num_devices
    return "" if used == c.machine.num_devices else f" ({used} of {c.machine.num_devices} devices used)"


def _peak(c: Column, lang: Language) -> str:
    each = si_prefix(c.found.precision_flop_per_s, "FLOP/s", 4)
    return f"{si_prefix(c.matrix_flop_per_s, 'FLOP/s')} ({c.machine.num_devices:,} x {each})"


def against_best(found: SearchResult, e: Estimate, lang: Language) -> str:
    """How much more a plan takes than the best, with its sign, and of what where that is not time."""
    what = "" if found.objective == "time" else f" {label(f'objective_{found.objective}', lang)}"
    return formats.change(found.against_best(e)) + what


def _second(c: Column, lang: Language) -> str:
    second = c.found.second
    return "-" if second is None else f"{second.plan.text()} ({against_best(c.found, second, lang)})"


def _roomy(c: Column, lang: Language) -> str:
    roomy = c.found.roomy
    if roomy is None:
        return "-"
    more = f"{against_best(c.found, roomy, lang)}, {formats.gigabytes(roomy.memory_bytes)}"
    return f"{roomy.plan.text()} ({more})"


def _exploratory(c: Column, lang: Language) -> str:
    plan = c.found.exploratory
    if plan is None:
        return "-"
    return f"{plan.plan.text()} ({against_best(c.found, plan, lang)}; {'; '.join(c.found.missing)})"


def whole_text(c: Column, lang: Language) -> str:
    """The best plan on all devices beside one that leaves some unused: how much dearer and faster it is."""
    whole, best = c.found.whole, c.best
    if whole is None or best is None:
        return "-"
    faster = f"{best.step_s / whole.step_s:.3g} times as fast"
    days = ""
    if c.time_to_tokens_s is not None:
        run = formats.tokens(round(c.time_to_tokens_s * best.tokens_per_s))
        days = f"; {run} in {duration(c.time_to_tokens_s * whole.step_s / best.step_s)}"
    return f"{whole.plan.text()} ({against_best(c.found, whole, lang)}, {faster}{days})"


def _ties(c: Column, lang: Language) -> str:
    if c.best is None:
        return "-"
    if not math.isfinite(c.found.tie_ratio):
        return label("unknown_error", lang)
    return f"{c.found.num_ties} within a factor of {c.found.tie_ratio:.2f}"


def _plan_label(found: Callable[[Column], Estimate | None]) -> Callable[[Column], Any]:
    def get(c: Column) -> Any:
        e = found(c)
        return None if e is None else e.plan.label()

    return get


def _full(found: Callable[[Column], Estimate | None]) -> Callable[[Column], Any]:
    def get(c: Column) -> Any:
        e = found(c)
        return None if e is None else estimate_record(e)

    return get


def _limit_line(c: Column) -> str | None:
    limit = c.found.closest.limit if c.found.closest else None
    return None if limit is None else f"{limit.name}: {limit.where}"


def _limit_full(c: Column) -> dict[str, Any] | None:
    return None if c.found.closest is None else infeasible_record(c.found.closest)


_COMPARE = ("compare",)

MACHINE_FIELDS: tuple[Field[Column], ...] = (
    Field(
        key="machine",
        figures=(
            figure("machine", lambda c: c.machine.id),
            figure("", lambda c: c.machine.name, path="name"),
        ),
    ),
    Field(
        key="devices",
        tables=_COMPARE,
        text=lambda c, lang: devices_text(c),
        figures=(
            figure("devices", lambda c: c.machine.num_devices),
            figure("", lambda c: c.machine.chip.basis, path="device_basis"),
            figure("packages", lambda c: c.machine.num_packages),
        ),
    ),
    Field(
        key="racks",
        tables=_COMPARE,
        text=lambda c, lang: racks_text(c),
        figures=(
            figure("racks", lambda c: c.racks),
            figure("", lambda c: c.machine.num_units, path="units"),
            figure("", lambda c: c.machine.unit_name, path="unit_name"),
        ),
    ),
    Field(
        key="power",
        tables=_COMPARE,
        text=_power,
        figures=(
            figure("power_w", lambda c: c.power_w),
            figure("", lambda c: c.machine.power_basis, path="power_basis"),
        ),
    ),
    Field(
        key="software",
        tables=_COMPARE,
        text=lambda c, lang: c.found.software.label,
        figures=(
            figure("software", lambda c: c.found.software.label),
            figure("stack", lambda c: c.found.software.stack),
            figure("", lambda c: list(c.found.notes), path="notes"),
        ),
    ),
    Field(
        key="precision",
        tables=_COMPARE,
        text=lambda c, lang: (
            formats.precision(c.found.precision)
            + (f" ({label('substituted', lang)})" if c.found.substituted else "")
        ),
        figures=(
            figure("precision", lambda c: c.found.precision),
            figure("substituted", lambda c: c.found.substituted),
        ),
    ),
    Field(
        key="matrix_peak",
        tables=_COMPARE,
        text=_peak,
        figures=(
            figure("matrix_flop_per_s", lambda c: c.matrix_flop_per_s),
            figure("matrix_flop_per_s_per_device", lambda c: c.found.precision_flop_per_s),
        ),
    ),
    Field(
        key="published_peak",
        tables=_COMPARE,
        text=lambda c, lang: (
            "-" if c.published_flop_per_s is None else si_prefix(c.published_flop_per_s, "FLOP/s")
        ),
        figures=(
            figure("published_bf16_flop_per_s", lambda c: c.published_flop_per_s),
            figure("", lambda c: c.machine.published_flop_basis, path="published_basis"),
        ),
    ),
)

PLAN_FIELDS: tuple[Field[Column], ...] = (
    Field(
        key="best_plan",
        tables=_COMPARE,
        section=True,
        text=best_text,
        figures=(
            figure("feasible", lambda c: c.best is not None),
            figure("plan", _plan_label(lambda c: c.best), path=""),
            figure("", _full(lambda c: c.best), path="best"),
            figure("limit", _limit_line, path=""),
            figure("", _limit_full, path="limit"),
        ),
    ),
    Field(
        key="second_plan",
        tables=_COMPARE,
        text=_second,
        figures=(
            figure("second_plan", _plan_label(lambda c: c.found.second), path=""),
            figure("", _full(lambda c: c.found.second), path="second"),
        ),
    ),
    Field(
        key="exploratory_plan",
        tables=_COMPARE,
        text=_exploratory,
        figures=(
            figure("", _full(lambda c: c.found.exploratory), path="exploratory"),
            figure(
                "", lambda c: list(c.found.missing) if c.found.exploratory else [], path="exploratory_missing"
            ),
        ),
    ),
    Field(
        key="roomy_plan",
        tables=_COMPARE,
        text=_roomy,
        figures=(figure("", _full(lambda c: c.found.roomy), path="with_memory_to_spare"),),
    ),
    Field(
        key="whole_plan",
        tables=_COMPARE,
        text=whole_text,
        figures=(figure("", _full(lambda c: c.found.whole), path="with_all_devices"),),
    ),
    Field(
        key="ties",
        tables=_COMPARE,
        text=_ties,
        figures=(
            figure("ties", lambda c: c.found.num_ties),
            figure("tie_ratio", lambda c: c.found.tie_ratio),
        ),
    ),
    Field(
        key="plans",
        tables=_COMPARE,
        text=lambda c, lang: f"{c.found.num_enumerated:,} enumerated, {c.found.num_fitting:,} fit",
        figures=(
            figure("plans_enumerated", lambda c: c.found.num_enumerated),
            figure("plans_priced", lambda c: c.found.num_priced),
            figure("plans_fitting", lambda c: c.found.num_fitting),
            figure("", lambda c: [dataclasses.asdict(r) for r in c.found.rejected], path="rejected"),
        ),
    ),
)


def money_fields(num_tokens: float) -> tuple[Field[Column], ...]:
    """Money and time of a run of that many tokens."""
    run = f" {formats.tokens(num_tokens)}"

    def cell(c: Column, usd: Callable[[Any], float], lang: Language) -> str:
        if c.best is None:
            return "-"
        return label("no_price", lang) if c.money is None else formats.money(usd(c.money))

    return (
        Field(
            key="money",
            tables=_COMPARE,
            text=lambda c, lang: cell(c, lambda money: money.usd_per_million_tokens, lang),
            figures=(
                figure(
                    "usd_per_million_tokens", lambda c: c.money and c.money.usd_per_million_tokens, path=""
                ),
                figure("", lambda c: None if c.money is None else dataclasses.asdict(c.money), path="money"),
            ),
        ),
        Field(
            key="money_total",
            tables=_COMPARE,
            suffix=lambda c: run,
            text=lambda c, lang: cell(c, lambda money: money.usd_total, lang),
            figures=(figure("usd_total", lambda c: c.money and c.money.usd_total, path=""),),
        ),
        Field(
            key="time_to_tokens",
            tables=_COMPARE,
            suffix=lambda c: run,
            text=lambda c, lang: "-" if c.time_to_tokens_s is None else duration(c.time_to_tokens_s),
            figures=(figure("time_to_tokens_s", lambda c: c.time_to_tokens_s),),
        ),
    )


# rows that only a comparison with `--run` has
RUN_KEYS = ("run_days", "goodput", "interruptions", "run_energy", "run_money")


def _run_fields() -> tuple[Field[Column], ...]:
    found: tuple[Field[Column], ...] = lifted(
        [dataclasses.replace(f, tables=_COMPARE) for f in POLICY_FIELDS if f.key in RUN_KEYS],
        lambda c: c.run,
        "-",
    )
    whole: Field[Column] = Field(
        key="policy",
        figures=(figure("", lambda c: None if c.run is None else plain(policy_record(c.run)), path="run"),),
    )
    return (*found, whole)


def column_fields(num_tokens: float) -> tuple[Field[Column], ...]:
    """All fields of a machine in a comparison, in the order of its table."""
    estimates: tuple[Field[Column], ...] = lifted(ESTIMATE_FIELDS, lambda c: c.best, "-")
    first = dataclasses.replace(next(f for f in estimates if f.key == "step_time"), section=True)
    return (
        *MACHINE_FIELDS,
        *PLAN_FIELDS,
        *(first if f.key == "step_time" else f for f in estimates),
        *money_fields(num_tokens),
        *_run_fields(),
    )


CSV_COLUMNS = ("basis", *columns(column_fields(1.0)))


def column_record(c: Column, num_tokens: float) -> dict[str, Any]:
    """One machine of a comparison."""
    return record(column_fields(num_tokens), c)


def ratio_record(r: Ratio) -> dict[str, Any]:
    """Two machines against each other."""
    return {
        "faster": r.a.id,
        "slower": r.b.id,
        "tokens_per_s_ratio": r.ratio,
        "low": r.low if math.isfinite(r.low) else None,
        "high": r.high if math.isfinite(r.high) else None,
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
        "machines": [column_record(col, c.num_tokens) for col in c.columns],
        "ratios": [ratio_record(r) for r in c.ratios],
        "run_ratios": [dataclasses.asdict(r) for r in c.run_ratios],
        "equal_packages": {
            "machines": [column_record(col, c.num_tokens) for col in c.equal_packages],
            "ratios": [ratio_record(r) for r in c.equal_ratios],
        },
    }


def comparison_rows(c: Comparison) -> list[dict[str, Any]]:
    """A comparison as flat rows with the columns of ``CSV_COLUMNS``; None where there is no figure."""
    fields = column_fields(c.num_tokens)
    named = [(col, c.basis) for col in c.columns] + [(col, "packages") for col in c.equal_packages]
    return [{"basis": basis} | row(fields, col) for col, basis in named]

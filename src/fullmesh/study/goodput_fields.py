"""The fields of a whole run: what tables, JSON, CSV and data frames show of it."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

from fullmesh.glossary import Language, label
from fullmesh.outcomes.fields import estimate_record, infeasible_record
from fullmesh.outcomes.goodput.engine import LOSSES
from fullmesh.outcomes.goodput.records import MoneyForecast, PolicyForecast, RunForecast, Spread
from fullmesh.output import formats
from fullmesh.output.fields import Field, columns, figure, row
from fullmesh.study.goodput import Goodput, finite
from fullmesh.units import duration, si_prefix

DAY_S = 86_400.0
GOODPUT_DEFINITION = (
    "seconds of steps that counted, at the speed of the healthy machine, over wall time: tokens trained once over what "
    "the machine would train in that time without a stop"
)
LOSSES_DEFINITION = (
    "seconds of wall time by cause, mean of the fifth of the runs around the middle one by length; with work_s they "
    "add up to wall_s"
)


def days_text(days: float) -> str:
    """Days with three digits, hours below two days; a dash where it never ends."""
    return duration(days * DAY_S) if math.isfinite(days) else "-"


def spread_text(s: Spread, show: Callable[[float], str]) -> str:
    """The middle, and where eight of ten runs lie."""
    return f"{show(s.p50)} ({show(s.p10)} to {show(s.p90)})"


def _spread(name: str, get: Callable[[PolicyForecast], Spread | None]) -> tuple[Any, ...]:
    def at(q: str) -> Callable[[PolicyForecast], Any]:
        def value(p: PolicyForecast) -> Any:
            found = get(p)
            return None if found is None else getattr(found, q)

        return value

    base, _, unit = name.partition("/")
    return tuple(figure(f"{base}_{q}{unit}", at(q), path=f"{base}{unit}.{q}") for q in ("p10", "p50", "p90"))


def _watts(value: float) -> str:
    return si_prefix(value, "W")


def _money(p: PolicyForecast) -> MoneyForecast | None:
    return p.money[0] if p.money else None


def _money_text(p: PolicyForecast, lang: Language) -> str:
    found = _money(p)
    if found is None:
        return label("no_price", lang)
    return f"{spread_text(found.usd, formats.money)}, {label('rented' if found.rented else 'bought', lang)}"


def _token_money(p: PolicyForecast, lang: Language) -> str:
    found = _money(p)
    return "-" if found is None else spread_text(found.usd_per_million_tokens, formats.money)


def _interval(p: PolicyForecast, lang: Language) -> str:
    i = p.intervals
    return f"{duration(i.store_s)} ({duration(i.flat_low_s)} to {duration(i.flat_high_s)})"


def _spares(p: PolicyForecast, lang: Language) -> str:
    return f"{formats.count(p.spares, p.spare_kind)} ({p.spare_devices:,})"


POLICY_FIELDS: tuple[Field[PolicyForecast], ...] = (
    Field(key="policy", figures=(figure("policy", lambda p: p.recovery.policy),)),
    Field(
        key="run_days",
        tables=("goodput",),
        text=lambda p, lang: spread_text(p.days, days_text),
        figures=_spread("days", lambda p: p.days),
    ),
    Field(
        key="goodput",
        tables=("goodput",),
        text=lambda p, lang: spread_text(p.goodput, formats.percent),
        figures=_spread("goodput", lambda p: p.goodput),
    ),
    Field(
        key="interruptions",
        tables=("goodput",),
        text=lambda p, lang: spread_text(p.interruptions, lambda n: f"{n:,.0f}" if math.isfinite(n) else "-"),
        figures=_spread("interruptions", lambda p: p.interruptions),
    ),
    Field(
        key="planned_stops",
        figures=(figure("planned_stops", lambda p: p.planned_stops),),
    ),
    Field(
        key="tokens_lost",
        tables=("goodput",),
        text=lambda p, lang: formats.tokens(p.tokens_lost) if math.isfinite(p.tokens_lost) else "-",
        figures=(figure("tokens_lost", lambda p: p.tokens_lost),),
    ),
    Field(
        key="checkpoint_interval",
        tables=("goodput",),
        text=_interval,
        figures=(
            figure("checkpoint_interval_s", lambda p: p.intervals.store_s),
            figure(
                "checkpoint_interval_flat_low_s",
                lambda p: p.intervals.flat_low_s,
                path="checkpoint_interval_flat_s.low",
            ),
            figure(
                "checkpoint_interval_flat_high_s",
                lambda p: p.intervals.flat_high_s,
                path="checkpoint_interval_flat_s.high",
            ),
            figure("young_interval_s", lambda p: p.intervals.young_s),
        ),
    ),
    Field(
        key="memory_interval",
        tables=("goodput",),
        text=lambda p, lang: duration(p.intervals.near_s) if p.recovery.two_levels else "-",
        figures=(
            figure(
                "memory_checkpoint_interval_s",
                lambda p: p.intervals.near_s if p.recovery.two_levels else None,
            ),
        ),
    ),
    Field(
        key="spares",
        tables=("goodput",),
        text=_spares,
        figures=(
            figure("spares", lambda p: p.spares),
            figure("spare_kind", lambda p: p.spare_kind),
            figure("spare_devices", lambda p: p.spare_devices),
            figure("", lambda p: p.spares_for, path="spares_for_target"),
            figure("no_spare_share", lambda p: p.waiting_share),
            figure("stock_nodes", lambda p: p.stock_nodes),
        ),
    ),
    Field(
        key="run_energy",
        tables=("goodput",),
        text=lambda p, lang: (
            label("not_published", lang)
            if p.energy_j is None
            else spread_text(p.energy_j, lambda j: si_prefix(j / 3.6e3, "Wh"))
        ),
        figures=(
            figure("energy_j", lambda p: None if p.energy_j is None else p.energy_j.p50),
            *_spread("energy_interval/_j", lambda p: p.energy_j),
        ),
    ),
    Field(
        key="run_power",
        tables=("goodput",),
        text=lambda p, lang: (
            "-"
            if p.mean_power_w is None or p.peak_interval_w is None
            else f"{spread_text(p.mean_power_w, _watts)}; {spread_text(p.peak_interval_w, _watts)}"
        ),
        figures=(
            figure("mean_power_w", lambda p: None if p.mean_power_w is None else p.mean_power_w.p50),
            *_spread("mean_power_interval/_w", lambda p: p.mean_power_w),
            figure("peak_power_w", lambda p: p.peak_power_w),
            *_spread("peak_power_interval/_w", lambda p: p.peak_interval_w),
        ),
    ),
    Field(
        key="carbon",
        tables=("goodput",),
        text=lambda p, lang: "-" if p.carbon_kg is None else f"{p.carbon_kg / 1e3:,.4g} t",
        figures=(figure("carbon_kg", lambda p: p.carbon_kg),),
    ),
    Field(
        key="run_money",
        tables=("goodput",),
        text=_money_text,
        figures=(
            figure("money_usd", lambda p: p.money[0].usd.p50 if p.money else None),
            *_spread("money_interval/_usd", lambda p: p.money[0].usd if p.money else None),
            figure(
                "money_basis", lambda p: ("rented" if p.money[0].rented else "bought") if p.money else None
            ),
        ),
    ),
    Field(
        key="money",
        tables=("goodput",),
        text=_token_money,
        figures=(
            *_spread(
                "usd_per_million_tokens", lambda p: p.money[0].usd_per_million_tokens if p.money else None
            ),
        ),
    ),
    Field(
        key="losses",
        figures=(
            *(
                figure(f"{name}_s", lambda p, name=name: p.losses_s[name], path=f"losses.{name}_s")  # type: ignore[misc]
                for name in LOSSES
            ),
            figure("work_s", lambda p: p.work_s),
            figure("wall_s", lambda p: p.wall_s),
            figure("mean_days", lambda p: p.mean_days),
            figure("unfinished_share", lambda p: p.unfinished_share),
            figure("closed_form_days", lambda p: p.closed_form_days),
        ),
    ),
)

CSV_COLUMNS = ("model", "machine", "devices", "tokens", *columns(POLICY_FIELDS), "seed")


def plain(value: Any) -> Any:
    """A record with numbers that JSON cannot hold as null."""
    if isinstance(value, float):
        return finite(value)
    if isinstance(value, dict):
        return {k: plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    return value


def policy_record(p: PolicyForecast) -> dict[str, Any]:
    """One policy."""
    from fullmesh.output.fields import record

    out = record(POLICY_FIELDS, p)
    out["recovery"] = dataclasses.asdict(p.recovery)
    out["money"] = [dataclasses.asdict(m) for m in p.money]
    if p.recovery.shrinks:
        out["smaller_plans"] = [dataclasses.asdict(s) for s in p.smaller]
        out["rejoins_at_once"] = p.rejoins_at_once
    return out


def forecast_record(f: RunForecast) -> dict[str, Any]:
    """A whole run; the figures of its first policy stand at the top."""
    first = policy_record(f.policies[0])
    nodes = f.estimate.plan.num_devices / f.estimate.machine.devices_per_node
    out = {
        **first,
        "seed": f.seed,
        "runs": f.runs,
        "engine": f.engine,
        "tokens": f.num_tokens,
        "goodput_definition": GOODPUT_DEFINITION,
        "losses_definition": LOSSES_DEFINITION,
        "mean_time_between_stops_s": f.mtbf_s,
        "stops_per_node_year": f.stops_per_node_year,
        "nodes": nodes,
        "checkpoint": dataclasses.asdict(f.checkpoint),
        "device_power": None if f.power is None else dataclasses.asdict(f.power),
        "pue": list(f.pue),
        "power_cap": None if f.cap is None else dataclasses.asdict(f.cap),
        "site": None if f.site is None else dataclasses.asdict(f.site),
        "domains": [dataclasses.asdict(d) for d in f.domains],
        "tornado": [dataclasses.asdict(s) for s in f.tornado],
        "policies": [policy_record(p) for p in f.policies],
        "faults": f.faults_name,
        "inputs": [dataclasses.asdict(i) for i in f.inputs],
        "notes": list(f.notes),
        "plan": estimate_record(f.estimate),
    }
    found: dict[str, Any] = plain(out)
    return found


def goodput_record(g: Goodput) -> dict[str, Any]:
    """Everything of a run as plain values."""
    head = {
        "model": g.model,
        "machine": g.machine,
        "devices": g.num_devices,
        "feasible": g.forecast is not None,
    }
    if g.forecast is None:
        return head | {"limit": None if g.infeasible is None else infeasible_record(g.infeasible)}
    return head | forecast_record(g.forecast)


def goodput_rows(g: Goodput) -> list[dict[str, Any]]:
    """One flat row a policy, with the columns of ``CSV_COLUMNS``."""
    if g.forecast is None:
        return []
    head = {"model": g.model, "machine": g.machine, "devices": g.num_devices, "tokens": g.num_tokens}
    return [head | row(POLICY_FIELDS, p) | {"seed": g.forecast.seed} for p in g.forecast.policies]

"""The whole run of a model: options read, the plan searched or taken, and the forecast of its run."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from fullmesh.catalog.fault_log import FaultLog, read_fault_log
from fullmesh.catalog.faults import FaultTable, load_faults
from fullmesh.catalog.run_inputs import load_run_inputs, read_assumptions
from fullmesh.errors import CatalogError, ScenarioError, did_you_mean, shown
from fullmesh.machine import Machine, load_machine
from fullmesh.outcomes.estimate import Estimate, Infeasible
from fullmesh.outcomes.goodput.forecast import forecast
from fullmesh.outcomes.goodput.policies import POLICIES, PolicyName
from fullmesh.outcomes.goodput.records import RunForecast, RunOptions, SpareRequest
from fullmesh.outcomes.goodput.shrinking import Planner
from fullmesh.output import formats
from fullmesh.output.result import Result
from fullmesh.reading import LARGEST_CSV_BYTES, read_text
from fullmesh.study.options import read_machines, read_prices, read_tokens
from fullmesh.units import duration, parse_quantity
from fullmesh.values import number, whole

DEFAULT_RUNS = 2000
MOST_RUNS = 100_000
# a log is replayed event by event
_MOST_REPLAYED = 200
_SPARES = re.compile(r"\s*(\d{1,6}(?:\.\d{1,6})?)\s*(%|nodes?|units?|racks?|supernodes?)?\s*", re.ASCII)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Goodput(Result):
    """Everything that ``fullmesh goodput`` prints.

    Parameters
    ----------
    model, machine : str
        Names.
    num_devices : int
    forecast : RunForecast or None
        None where no plan fits.
    infeasible : Infeasible or None
        The nearest plan then, with the limit that it breaks.
    """

    model: str
    machine: str
    num_devices: int
    num_tokens: float
    forecast: RunForecast | None
    infeasible: Infeasible | None

    def __str__(self) -> str:
        f = self.forecast
        if f is None:
            return f"{self.model} on {self.machine}: no plan fits"
        p = f.policies[0]
        money = f", {formats.money(p.money[0].usd.p50)}" if p.money else ""
        return (
            f"{self.model}, {formats.tokens(f.num_tokens)} on {self.num_devices:,} devices of {self.machine}: "
            f"{duration(p.days.p50 * 86400)} ({duration(p.days.p10 * 86400)} to {duration(p.days.p90 * 86400)}), "
            f"goodput {formats.percent(p.goodput.p50)}, {p.interruptions.p50:,.0f} interruptions{money}"
        )

    def summary(self) -> str:
        """Model, machine, days and goodput."""
        return str(self)

    def to_dict(self) -> dict[str, Any]:
        """All figures as plain values."""
        from fullmesh.study.goodput_fields import goodput_record

        return goodput_record(self)

    def to_rows(self) -> list[dict[str, Any]]:
        """One row a policy."""
        from fullmesh.study.goodput_fields import goodput_rows

        return goodput_rows(self)

    def html_rows(self) -> list[Sequence[str]]:
        """One column a policy."""
        from fullmesh.study.goodput_fields import POLICY_FIELDS

        if self.forecast is None:
            return [("", self.machine), ("limit", str(self.infeasible))]
        policies = self.forecast.policies
        return [
            ("", *(p.recovery.policy for p in policies)),
            *((f.label(), *(f.text(p, "en") for p in policies)) for f in POLICY_FIELDS if f.text is not None),
        ]


def read_units(on: str | Machine, units: int | str | None, chips: int | str | None) -> Machine:
    """The machine of a run: so many whole units, or so many devices, or its default size.

    Raises
    ------
    FullmeshError
        Both are given, or the machine is unknown or cannot have that size.
    """
    if units is not None and chips is not None:
        raise ScenarioError(
            "--units and --chips are both given",
            where="--units",
            expected="one of them",
            hint="leave one out",
        )
    if units is None:
        named = read_machines(on, chips)
        if len(named) > 1:
            raise ScenarioError(
                f"{len(named)} machines are named",
                where="--on",
                expected="one machine",
                hint="`fullmesh compare --run TOKENS` sets the runs of several side by side",
            )
        return named[0]
    count = whole(units, where="--units", least=1, most=1_000_000)
    machine = read_machines(on)[0]
    devices = count * machine.devices_per_unit
    return machine.resized(devices) if isinstance(on, Machine) else load_machine(on, num_devices=devices)


def read_policies(value: str | Sequence[str]) -> tuple[PolicyName, ...]:
    """Policies by name, separated by commas; ``all`` is every one.

    Raises
    ------
    ScenarioError
    """
    names = [n.strip() for n in value.split(",")] if isinstance(value, str) else list(value)
    if names == ["all"]:
        return POLICIES
    for name in names:
        if name not in POLICIES:
            raise ScenarioError(
                f"unknown policy {shown(name)}",
                where="--policy",
                expected="all, or some of " + ", ".join(POLICIES),
                hint=did_you_mean(str(name)[:50], [*POLICIES, "all"]),
            )
    by_name: dict[str, PolicyName] = {n: n for n in POLICIES}
    return tuple(dict.fromkeys(by_name[n] for n in names))


def read_spares(value: int | str | None, machine: Machine) -> SpareRequest:
    """Spares: ``auto``, a number (``8``), with its kind (``8 nodes``, ``1 supernode``), or a share (``5%``).

    Raises
    ------
    ScenarioError
        Not of that form, or nodes are asked for in a machine whose units a plan needs whole.
    """
    text = "auto" if value is None else str(value)
    if text.strip() == "auto":
        return SpareRequest()
    match = _SPARES.fullmatch(text)
    expected = "auto, a number, or a number of nodes, units or %"
    if match is None or isinstance(value, bool):
        raise ScenarioError(
            f"cannot read {shown(value)} as spares",
            where="--spares",
            expected=expected,
            hint='for instance 8, "2 supernodes" or 5%',
        )
    amount, word = float(match[1]), match[2] or ""
    supernode = machine.devices_per_unit > machine.devices_per_node
    kind: Literal["unit", "node"] = "unit" if supernode else "node"
    if word.startswith("node") and supernode:
        raise ScenarioError(
            f"a plan uses whole units of {machine.name}, so a spare node has no place in one",
            where="--spares",
            expected=f"a number of {machine.unit_name}s",
            hint="nodes in stock come with the forecast; a policy that shrinks needs no spares",
        )
    if word == "%":
        if amount > 100:
            raise ScenarioError("more than 100 % of spares", where="--spares", expected=expected)
        return SpareRequest(kind=kind, share=amount / 100.0)
    if amount != int(amount):
        raise ScenarioError(f"{match[1]} is no whole number", where="--spares", expected=expected)
    return SpareRequest(kind=kind, count=int(amount))


def read_pue(value: float | str | Sequence[float] | None) -> tuple[float, ...]:
    """Power usage effectiveness: one figure, or twelve from the month in which the run begins.

    Raises
    ------
    ScenarioError
    """
    if value is None:
        return ()
    given = [value] if isinstance(value, int | float) else value
    parts: Sequence[Any] = given.split(",") if isinstance(given, str) else list(given)
    if len(parts) not in (1, 12):
        raise ScenarioError(
            f"{len(parts)} figures of PUE", where="--pue", expected="one figure, or twelve, one a month"
        )
    return tuple(number(p, where="--pue", least=1.0, most=5.0) for p in parts)


def read_faults(path: str | Path | None, nodes: int | str | None) -> tuple[FaultTable, FaultLog | None, int]:
    """Rates from a table, or a log to replay; without a file, the shipped rates.

    Raises
    ------
    CatalogError
    """
    log_nodes = None if nodes is None else whole(nodes, where="--fault-nodes", least=1, most=10_000_000)
    if path is None:
        if log_nodes is not None:
            raise ScenarioError("there is no log", where="--fault-nodes", expected="a log with --faults")
        return load_faults(), None, 0
    file = Path(path)
    if file.suffix.lower() != ".json":
        head = read_text(file, what="the faults", most_bytes=LARGEST_CSV_BYTES, error=CatalogError).partition(
            "\n"
        )[0]
        if "node" not in [c.strip() for c in head.split(",")]:
            return load_faults(file), None, 0
    log = read_fault_log(file)
    count = log_nodes or len(log.nodes)
    if count < len(log.nodes):
        raise ScenarioError(
            f"the log names {len(log.nodes):,} nodes",
            where="--fault-nodes",
            expected=f"at least {len(log.nodes):,}",
        )
    if log.span_s <= 0:
        raise CatalogError("all faults of the log fall on one moment", where=str(path))
    return load_faults(), log, count


def read_run_options(
    machine: Machine,
    *,
    tokens: float | str,
    policy: str | Sequence[str] = "restart",
    spares: int | str | None = None,
    faults: str | Path | None = None,
    fault_nodes: int | str | None = None,
    power_cap: str | float | None = None,
    site: str | float | None = None,
    pue: float | str | Sequence[float] | None = None,
    grid: float | str | None = None,
    power_price: float | str | None = None,
    assume: Sequence[str] = (),
    prices: str | Path | None = None,
    runs: int | str = DEFAULT_RUNS,
    seed: int | str = 0,
) -> RunOptions:
    """Check the options of a forecast.

    Raises
    ------
    FullmeshError
        One of them is out of range, unknown or cannot be read.
    """
    inputs = load_run_inputs()
    given = read_assumptions(assume, inputs)
    if power_price is not None:
        given["power_price"] = number(power_price, where="--power-price", least=0.0, most=100.0) / 3.6e6
    table, log, log_nodes = read_faults(faults, fault_nodes)
    count = whole(runs, where="--runs", least=10, most=MOST_RUNS)
    return RunOptions(
        num_tokens=read_tokens(tokens),
        policies=read_policies(policy),
        spares=read_spares(spares, machine),
        faults=table,
        log=log,
        log_nodes=log_nodes,
        inputs=inputs.given(given),
        pue=read_pue(pue),
        power_cap_w=_watts(power_cap, "--power-cap"),
        site_w=_watts(site, "--site"),
        grid_g_per_kwh=None if grid is None else number(grid, where="--grid", least=0.0, most=5_000.0),
        runs=count if log is None else min(count, _MOST_REPLAYED),
        seed=whole(seed, where="--seed", least=0, most=2**31 - 1),
        prices=read_prices(prices),
    )


def _watts(value: str | float | None, where: str) -> float | None:
    if value is None:
        return None
    if isinstance(value, str) and re.search(r"[a-zA-Z]", value.partition("e")[0]):
        found = parse_quantity(value, "w", where=where)
        return number(found, where=where, above=0.0, most=1e12)
    return number(value, where=where, above=0.0, most=1e12)


def run_of(e: Estimate, options: RunOptions, planner: Planner) -> Goodput:
    """The run of a plan; the planner is asked for what a job goes on as where it shrinks."""
    return Goodput(
        model=e.model.name,
        machine=e.machine.name,
        num_devices=e.plan.num_devices,
        num_tokens=options.num_tokens,
        forecast=forecast(e, options, planner),
        infeasible=None,
    )


def no_run(found: Infeasible | None, machine: Machine, model: str, num_tokens: float) -> Goodput:
    """Where no plan fits."""
    return Goodput(
        model=model,
        machine=machine.name,
        num_devices=machine.num_devices,
        num_tokens=num_tokens,
        forecast=None,
        infeasible=found,
    )


def finite(value: float | None) -> float | None:
    """A number as JSON can hold it."""
    return value if value is not None and math.isfinite(value) else None

"""Scenario files: a model, a machine and a plan in TOML, read strictly. Errors name the file, the line and the key."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

from fullmesh.cost.effects import UNKNOWN, known_stacks
from fullmesh.errors import FullmeshError, PlanError, ScenarioError, did_you_mean, shown
from fullmesh.machine import Machine, load_machine
from fullmesh.machine.source_lines import SourceLines
from fullmesh.outcomes.estimate import supported_precision
from fullmesh.plan import Plan
from fullmesh.plan.declare import LARGEST, PlanField
from fullmesh.plan.plan import FIELDS, check_plan
from fullmesh.plan.software import Software, software_of
from fullmesh.reading import read_toml
from fullmesh.values import text as text_value
from fullmesh.values import whole
from fullmesh.workload import ModelSpec
from fullmesh.workload.readers.huggingface import load_model

_HINT = "docs/examples/deepseek-v3-cloudmatrix384.toml shows a whole scenario"
_TABLES = ("model", "machine", "plan")
_KEYS = {"model": ("name", "config", "mtp_layers"), "machine": ("name", "chips", "chip")}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """A model on a machine under a plan."""

    model: ModelSpec
    machine: Machine
    plan: Plan
    source: str


def load_scenario(path: str | Path, *, software: Software | None = None) -> Scenario:
    """Read a scenario file.

    ``[model]`` has ``name`` or ``config`` (a path relative to the file) and may have ``mtp_layers``; ``[machine]``
    has ``name`` and may have ``chips`` (devices) and ``chip``; ``[plan]`` has the fields of
    :class:`fullmesh.plan.Plan`. Without ``chips`` a machine has its default size; ``dp`` may be left out and then
    follows from the devices. Unless the plan says otherwise, what ``software`` switches on stands in, or else the
    machine's.

    Raises
    ------
    ScenarioError
        The file cannot be read, a key is unknown or missing, or has a wrong type or a negative value.
    PlanError, ModelError, CatalogError
        A value contradicts the model, the machine or the rest of the plan; with file, line and key.
    """
    path = Path(path)
    data, lines = _read(path)
    for table, keys in _KEYS.items():
        for key in data[table]:
            if key not in keys:
                raise ScenarioError(
                    f"unknown key {key!r}",
                    where=lines.where((table, key)),
                    hint=did_you_mean(key, list(keys)),
                )
    model = _model(path, data["model"], lines)
    machine = _machine(path, data["machine"], lines)
    return Scenario(
        model=model,
        machine=machine,
        plan=_plan(data["plan"], machine, model, software or software_of(machine), lines),
        source=str(path),
    )


def _read(path: Path) -> tuple[dict[str, dict[str, Any]], SourceLines]:
    data, text = read_toml(path, what="the scenario", error=ScenarioError, hint=_HINT)
    lines = SourceLines(path, text)
    for key, value in data.items():
        if key not in _TABLES:
            raise ScenarioError(
                f"unknown table {key!r}", where=lines.where((key,)), hint=did_you_mean(key, list(_TABLES))
            )
        if not isinstance(value, dict):
            raise ScenarioError(f"{key!r} is no table", where=lines.where((key,)), expected=f"[{key}]")
    for table in _TABLES:
        if table not in data:
            raise ScenarioError(
                f"the table [{table}] is missing",
                where=str(path),
                expected="[model], [machine] and [plan]",
                hint=_HINT,
            )
    return data, lines


def _model(path: Path, table: dict[str, Any], lines: SourceLines) -> ModelSpec:
    if ("name" in table) == ("config" in table):
        raise ScenarioError(
            "a model needs either a name or a config",
            where=lines.where(("model",)),
            expected='name = "deepseek-v3"',
        )
    key = "name" if "name" in table else "config"
    value = _typed(table[key], str, lines.where(("model", key)))
    mtp = table.get("mtp_layers")
    if mtp is not None:
        mtp = _typed(mtp, int, lines.where(("model", "mtp_layers")))
    try:
        return load_model(path.parent / value if key == "config" else value, mtp_layers=mtp)
    except FullmeshError as error:
        raise _placed(error, lines.where(("model", key))) from None


def _machine(path: Path, table: dict[str, Any], lines: SourceLines) -> Machine:
    if "name" not in table:
        raise ScenarioError(
            "a machine needs a name", where=lines.where(("machine",)), expected='name = "gb200-nvl72"'
        )
    name: str = _typed(table["name"], str, lines.where(("machine", "name")))
    chips = table.get("chips")
    if chips is not None:
        chips = _typed(chips, int, lines.where(("machine", "chips")))
    chip: str | None = table.get("chip")
    if chip is not None:
        chip = _typed(chip, str, lines.where(("machine", "chip")))
    if name.endswith(".toml"):
        name = str(path.parent / name)
    try:
        return load_machine(name, num_devices=chips, chip=chip)
    except FullmeshError as error:
        key = "chips" if chips is not None and "devices" in error.what else "name"
        raise _placed(error, lines.where(("machine", key))) from None


def _plan(
    table: dict[str, Any], machine: Machine, model: ModelSpec, software: Software, lines: SourceLines
) -> Plan:
    values: dict[str, Any] = {"stack": software.stack, **software.options_for(moe=model.is_moe)}
    for key, value in table.items():
        where = lines.where(("plan", key))
        if key not in FIELDS:
            raise ScenarioError(f"unknown key {key!r}", where=where, hint=did_you_mean(key, list(FIELDS)))
        values[key] = _plan_value(FIELDS[key], value, where)
        if key == "stack" and value not in (*known_stacks(), UNKNOWN):
            raise ScenarioError(
                f"unknown software stack {value!r}",
                where=where,
                expected="one of " + ", ".join((*known_stacks(), UNKNOWN)),
                hint=f'stack = "{UNKNOWN}" stands for one that no published result speaks of',
            )
    if "gbs" not in table:
        raise ScenarioError(
            "the plan has no global batch",
            where=lines.where(("plan",)),
            expected="gbs = a number of sequences",
        )
    inner = values.get("tp", 1) * values.get("cp", 1) * values.get("pp", 1)
    if "dp" not in table:
        if inner > machine.num_devices or machine.num_devices % inner:
            raise PlanError(
                f"tp x cp x pp = {inner} does not divide the {machine.num_devices} devices of {machine.name}",
                where=lines.where(("plan",)),
                expected="degrees whose product divides the devices, or an explicit dp",
            )
        values["dp"] = machine.num_devices // inner
    plan = Plan(**values)
    if plan.num_devices > machine.num_devices:
        raise PlanError(
            f"the plan needs {plan.num_devices:,} devices, {machine.name} has {machine.num_devices:,}",
            where=lines.where(("plan", "dp" if "dp" in table else "tp")),
            expected=f"tp x cp x pp x dp of at most {machine.num_devices:,}",
            hint="lower a degree, or raise chips in [machine]",
        )
    try:
        check_plan(plan)
        recipe, substituted = supported_precision(machine, plan.precision)
    except FullmeshError as error:
        named = [k for k in table if re.search(rf"\b{k}\b", error.what)]
        key = "gbs" if "global batch" in error.what else named[0] if named else ""
        raise _placed(error, lines.where(("plan", key) if key else ("plan",))) from None
    if substituted:
        raise PlanError(
            substituted.split(";")[0],
            where=lines.where(("plan", "precision")),
            expected="a precision of this chip",
            hint=f"the nearest is precision = {recipe!r}",
        )
    return plan


def _plan_value(field: PlanField, value: Any, where: str) -> Any:
    """A value of the file as the plan holds it; the field itself says what is allowed."""
    if field.kind == "names" and isinstance(value, list):
        value = tuple(value)
    if field.kind == "share" and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    try:
        field.check(value, where=where)
    except PlanError as error:
        raise PlanError(error.what, where=where, expected=error.expected, hint=error.hint or _HINT) from None
    return value


def _typed(value: Any, kind: type, where: str) -> Any:
    """A whole number or a text, checked for its range and length."""
    if kind is str:
        return text_value(value, where=where, empty=True, expected="a string")
    if isinstance(value, str):  # a number in quotes is a text
        raise ScenarioError(
            f"{shown(value)} is not allowed", where=where, expected="a whole number", hint=_HINT
        )
    return whole(value, where=where, most=LARGEST, hint=_HINT)


def _placed(error: FullmeshError, where: str) -> FullmeshError:
    """The same error, with the place in the scenario in front."""
    inner = "" if error.where in ("", "plan") else f" ({error.where})"
    return type(error)(error.what + inner, where=where, expected=error.expected, hint=error.hint)

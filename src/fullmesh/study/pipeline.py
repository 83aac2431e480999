"""The pipeline on one screen: names in, a comparison, a search or one estimate out."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fullmesh.catalog import Price, load_prices
from fullmesh.errors import ScenarioError
from fullmesh.machine import load_machine
from fullmesh.outcomes.estimate import Estimate, Infeasible, estimate
from fullmesh.search import SearchResult, search
from fullmesh.study.compare import DEFAULT_TOKENS, Comparison, choose_batch, compare_machines, default_seq
from fullmesh.study.launch import write_launch
from fullmesh.study.scenario import Scenario, load_scenario
from fullmesh.workload import ModelSpec
from fullmesh.workload.readers.huggingface import load_model

if TYPE_CHECKING:
    from fullmesh.replay.replayed import Replayed

DEFAULT_MACHINES = ("cloudmatrix384", "gb200-nvl72", "h200")


def compare(
    model: str | Path | ModelSpec,
    on: str | Sequence[str] = DEFAULT_MACHINES,
    *,
    chips: int | Sequence[int] | None = None,
    batch: int | None = None,
    seq: int | None = None,
    precision: str = "bf16",
    objective: str = "time",
    basis: str = "units",
    tokens: float | str = DEFAULT_TOKENS,
    prices: str | Path | None = None,
    offload: bool = False,
) -> Comparison:
    """The best plan for a model on each machine, side by side.

    Parameters
    ----------
    model : str, path or ModelSpec
        A shipped name, a ``config.json`` or a folder that holds one.
    on : str or sequence of str
        Machines of the catalog or machine files; a string may name several, separated by commas.
    chips : int or sequence of int, optional
        Devices (dies of a 910C) on every machine, or one number for each; otherwise ``basis`` decides.
    batch, seq : int, optional
        Global batch in sequences, sequence length in tokens.
    precision : str
        A recipe; what a chip lacks is substituted, and the result says so.
    objective : {"time", "energy", "money"}
    basis : {"units", "devices", "packages", "power", "money"}
    tokens : float or str
        Tokens of a training run (``"15T"``).
    prices : path, optional
        A price file instead of the shipped one.
    offload : bool
        Consider optimizer states in host memory.

    Raises
    ------
    FullmeshError
        Something is unknown or does not divide; the message says what and what would.
    """
    names = [n.strip() for n in (on.split(",") if isinstance(on, str) else on) if n.strip()]
    counts = _counts(chips, len(names))
    machines = [load_machine(n, num_devices=c) for n, c in zip(names, counts, strict=True)]
    return compare_machines(
        model if isinstance(model, ModelSpec) else load_model(model),
        machines,
        basis=basis,
        resize=chips is None,
        gbs=batch,
        seq=seq,
        precision=precision,
        objective=objective,
        num_tokens=parse_tokens(tokens),
        prices=price_list(prices),
        offload=offload,
    )


def best_plans(
    model: str | Path | ModelSpec,
    on: str,
    *,
    chips: int | None = None,
    batch: int | None = None,
    seq: int | None = None,
    precision: str = "bf16",
    objective: str = "time",
    top: int = 10,
    offload: bool = False,
) -> SearchResult:
    """The best plans for a model on one machine, ties, Pareto front, and why the rest was rejected.

    Parameters are those of :func:`compare`; ``top`` is the number of layouts, ``offload`` considers optimizer states
    in host memory.
    """
    spec = model if isinstance(model, ModelSpec) else load_model(model)
    machine = load_machine(on, num_devices=chips)
    length = default_seq(spec) if seq is None else seq
    gbs = batch
    if gbs is None:
        gbs, _ = choose_batch(spec, [machine], length)
    return search(
        spec,
        machine,
        gbs=gbs,
        seq=length,
        precision=precision,
        objective=objective,
        top=top,
        offload=offload,
    )


def simulate(scenario: str | Path | Scenario) -> Estimate | Infeasible:
    """One plan in full, from a scenario file.

    Raises
    ------
    FullmeshError
        The file has a mistake, or the plan contradicts itself or needs more devices than there are.
    """
    s = scenario if isinstance(scenario, Scenario) else load_scenario(scenario)
    return estimate(s.model, s.machine, s.plan)


def replay(
    scenario: str | Path | Scenario,
    *,
    stragglers: Sequence[str] = (),
    jitter: str = "",
    engine: str | None = None,
    every_rank: bool = False,
) -> Replayed | Infeasible:
    """One plan in full with its step replayed task by task.

    Parameters
    ----------
    stragglers : sequence of str
        What differs, as ``rank=17:1.2``, ``stage=3:1.1``, ``link=17:2``, ``link=17-25:2`` or ``expert=17:1.5``.
    jitter : str
        A spread of every task, as ``0.05`` or ``lognormal:0.05:7``.
    engine : str, optional
        ``maxplus``, ``event``, ``contention`` or ``fabric``; the cheapest exact one if absent.
    every_rank : bool
        A row for every device, even for equal ones.

    Raises
    ------
    FullmeshError
        As :func:`simulate`; or something cannot be read, or names a device that the plan does not use.
    """
    # the timeline compiles its kernels when it is imported; a comparison does without
    from fullmesh.replay.replayed import replay_plan
    from fullmesh.timeline.perturb import parse_perturbation

    disturbed = bool(stragglers or jitter)
    perturbation = parse_perturbation(tuple(stragglers), jitter) if disturbed else None
    result = simulate(scenario)
    if isinstance(result, Infeasible):
        return result
    return replay_plan(result, engine=engine, perturbation=perturbation, every_rank=every_rank)


def export_launch(found: SearchResult, path: Path) -> None:
    """Write the best plan of a search as launch settings: JSON or TOML by the file's ending.

    Raises
    ------
    ScenarioError
        Nothing fits, or the file cannot be written or has another ending.
    """
    if found.best is None:
        raise ScenarioError("no plan fits, so there is nothing to export", where=str(path))
    write_launch(found.best, path)


def price_list(path: str | Path | None) -> tuple[Price, ...] | None:
    """A user's price file, None for the shipped one."""
    return None if path is None else load_prices(path)


def parse_tokens(value: float | str) -> float:
    """``"15T"`` is 15e12, ``"300B"`` 300e9, ``"1e12"`` itself.

    Raises
    ------
    ScenarioError
        Not a positive number of tokens.
    """
    if isinstance(value, int | float):
        return float(value)
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?(?:[eE]\+?\d+)?)\s*([KMGBTkmgbt]?)(?:tokens)?\s*", value)
    if match is None or float(match[1]) <= 0:
        raise ScenarioError(
            f"cannot read {value!r} as tokens", expected="a positive number", hint="for instance 300B or 15T"
        )
    factor = {"": 1.0, "k": 1e3, "m": 1e6, "g": 1e9, "b": 1e9, "t": 1e12}[match[2].lower()]
    return float(match[1]) * factor


def _counts(chips: int | Sequence[int] | None, num: int) -> list[int | None]:
    if chips is None:
        return [None] * num
    counts = [chips] if isinstance(chips, int) else list(chips)
    if len(counts) == 1:
        counts *= num
    if len(counts) != num:
        raise ScenarioError(
            f"{len(counts)} numbers of chips for {num} machines",
            where="--chips",
            expected="one number for all machines, or one for each",
            hint="separate them by commas, in the order of --on",
        )
    return list(counts)

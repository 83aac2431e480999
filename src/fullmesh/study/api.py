"""The public functions: names and numbers in, results out. What they do stands in :mod:`fullmesh.study.pipeline`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fullmesh.cost.personal import personal_profile
from fullmesh.errors import ScenarioError
from fullmesh.machine import Machine, list_machines
from fullmesh.machine.chips import list_chips
from fullmesh.outcomes.estimate import Estimate, Infeasible
from fullmesh.plan.software import Software
from fullmesh.search import SearchResult
from fullmesh.study import pipeline
from fullmesh.study.compare import Comparison
from fullmesh.study.launch import write_launch
from fullmesh.study.options import (
    DEFAULT_MACHINES,
    DEFAULT_TOKENS,
    named_software,
    read_machines,
    read_model,
    read_options,
    read_prices,
)
from fullmesh.study.scenario import Scenario
from fullmesh.workload import ModelSpec
from fullmesh.workload.readers import shipped

if TYPE_CHECKING:
    from fullmesh.replays.replayed import Replayed


def compare(
    model: str | Path | ModelSpec,
    on: str | Machine | Sequence[str | Machine] = DEFAULT_MACHINES,
    *,
    chips: int | str | Sequence[int] | None = None,
    batch: int | str | None = None,
    seq: int | str | None = None,
    precision: str = "bf16",
    objective: str = "time",
    basis: str = "units",
    tokens: float | str = DEFAULT_TOKENS,
    prices: str | Path | None = None,
    offload: bool = False,
    software: str | Path | Software | None = None,
    profile: str | Path | None = None,
) -> Comparison:
    """The best plan for a model on each machine, side by side.

    Parameters
    ----------
    model : str, path or ModelSpec
        A shipped name, a ``config.json`` or a folder that holds one.
    on : str, Machine or sequence of them
        Machines of the catalog or machine files; a text may name several, separated by commas. A Machine keeps its
        size.
    chips : int or sequence of int, optional
        Devices (dies of a 910C) on every machine, or one number for each; otherwise ``basis`` decides.
    batch : int or str, optional
        Global batch in sequences, or tokens that it shall be near (``"4M tokens"``).
    seq : int or str, optional
        Sequence length in tokens (``8192`` or ``"8k"``).
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
    software : str, path or Software, optional
        What the plans are for on every machine, instead of each one's own: a name of the catalog, a stack of the
        published results, ``"unknown"``, or a capability file.
    profile : path, optional
        A personal profile, as ``fullmesh calibrate results`` writes it.

    Raises
    ------
    FullmeshError
        Something is unknown or does not divide; the message says what and what would.
    """
    given = isinstance(on, Machine) or (
        not isinstance(on, str) and any(isinstance(name, Machine) for name in on)
    )
    with personal_profile(profile):
        options = read_options(
            batch=batch, seq=seq, precision=precision, objective=objective, basis=basis, tokens=tokens,
            offload=offload, software=software,
        )  # fmt: skip
        return pipeline.compare_machines(
            read_model(model),
            read_machines(on, chips),
            options,
            resize=chips is None and not given,
            prices=read_prices(prices),
        )


def best_plans(
    model: str | Path | ModelSpec,
    on: str | Machine,
    *,
    chips: int | str | None = None,
    batch: int | str | None = None,
    seq: int | str | None = None,
    precision: str = "bf16",
    objective: str = "time",
    top: int = 10,
    offload: bool = False,
    software: str | Path | Software | None = None,
    profile: str | Path | None = None,
) -> SearchResult:
    """The best plans for a model on one machine, ties, Pareto front, and why the rest was rejected.

    Parameters are those of :func:`compare`; ``top`` is the number of layouts, ``offload`` considers optimizer states
    in host memory.

    Raises
    ------
    FullmeshError
        As :func:`compare`.
    """
    named = read_machines(on, chips)
    if len(named) > 1:
        raise ScenarioError(
            f"{len(named)} machines are named",
            where="--on",
            expected="one machine",
            hint="`fullmesh compare` sets several side by side",
        )
    with personal_profile(profile):
        options = read_options(
            batch=batch, seq=seq, precision=precision, objective=objective, offload=offload, software=software
        )
        return pipeline.search_machine(read_model(model), named[0], options, top=top)


def simulate(
    scenario: str | Path | Scenario,
    *,
    software: str | Path | Software | None = None,
    profile: str | Path | None = None,
) -> Estimate | Infeasible:
    """One plan in full, from a scenario file.

    Parameters
    ----------
    software : str, path or Software, optional
        What stands in where the plan of a file is silent, as in :func:`compare`.
    profile : path, optional
        A personal profile, as in :func:`compare`.

    Raises
    ------
    FullmeshError
        The file has a mistake, or the plan contradicts itself or needs more devices than there are.
    """
    with personal_profile(profile):
        return pipeline.simulate_scenario(scenario, named_software(software))


def replay(
    scenario: str | Path | Scenario,
    *,
    stragglers: Sequence[str] = (),
    jitter: str = "",
    engine: str | None = None,
    every_rank: bool = False,
    software: str | Path | Software | None = None,
    profile: str | Path | None = None,
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
    software, profile
        As in :func:`simulate`.

    Raises
    ------
    FullmeshError
        As :func:`simulate`; or something cannot be read, or names a device that the plan does not use.
    """
    # the timeline compiles its kernels when it is imported
    from fullmesh.timeline.perturb import parse_perturbation

    disturbed = bool(stragglers or jitter)
    with personal_profile(profile):
        return pipeline.replay_scenario(
            scenario,
            perturbation=parse_perturbation(tuple(stragglers), jitter) if disturbed else None,
            engine=engine,
            every_rank=every_rank,
            software=named_software(software),
        )


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


def models() -> list[str]:
    """Names of the shipped models."""
    return shipped.names()


def machines() -> list[str]:
    """Names of the machines of the catalog."""
    return list(list_machines())


def chips() -> list[str]:
    """Names of the chips of the catalog."""
    return list(list_chips())

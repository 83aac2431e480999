"""The public functions: names and numbers in, results out. What they do stands in :mod:`fullmesh.study.pipeline`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fullmesh.cost.personal import personal_profile
from fullmesh.errors import ScenarioError
from fullmesh.machine import Machine, list_machines
from fullmesh.machine.chips import list_chips
from fullmesh.outcomes.estimate import Estimate, Infeasible
from fullmesh.plan.software import Software
from fullmesh.search import SearchResult
from fullmesh.study import pipeline
from fullmesh.study.compare import Comparison
from fullmesh.study.launch.folder import export_estimate
from fullmesh.study.options import (
    DEFAULT_MACHINES,
    DEFAULT_TOKENS,
    named_software,
    read_chips,
    read_machines,
    read_model,
    read_options,
    read_prices,
    read_seq,
)
from fullmesh.study.scenario import Scenario
from fullmesh.workload import ModelSpec
from fullmesh.workload.readers import shipped

if TYPE_CHECKING:
    from fullmesh.replays.replayed import Replayed
    from fullmesh.study.check.checked import Checked
    from fullmesh.study.goodput import Goodput
    from fullmesh.study.launch.run import Run
    from fullmesh.study.sweep.run import Sweep

# changes that one answer lists
MOST_CHANGES = 50


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
    run: float | str | None = None,
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
    run : float or str, optional
        Tokens of a whole run with its faults (``"15T"``): days, goodput, energy and money, as :func:`goodput` with
        its defaults gives them; ``tokens`` is then the same.

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
            batch=batch, seq=seq, precision=precision, objective=objective, basis=basis,
            tokens=tokens if run is None else run, offload=offload, software=software,
        )  # fmt: skip
        whole_run = None
        if run is not None:
            from fullmesh.study.goodput import read_run_options

            def whole_run(machine: Machine) -> Any:
                return read_run_options(machine, tokens=run, prices=prices)

        return pipeline.compare_machines(
            read_model(model),
            read_machines(on, chips),
            options,
            resize=chips is None and not given,
            prices=read_prices(prices),
            run=whole_run,
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
    limits: Mapping[str, Any] | None = None,
    memory_margin: float | str | None = None,
    chip: str | None = None,
    wide: bool = False,
) -> SearchResult:
    """The best plans for a model on one machine, ties, Pareto front, and why the rest was rejected.

    Parameters are those of :func:`compare`, and

    Parameters
    ----------
    top : int
        Layouts to return.
    limits : mapping, optional
        What is left of the axes of the search, by field of a plan: ``{"tp": 8, "pp": "4..16", "recompute": ("none",
        "selective")}``.
    memory_margin : float or str, optional
        Share of the memory that a plan leaves free (``"10%"``).
    chip : str, optional
        Another chip of the catalog in the machine.
    wide : bool
        Search what few plans ever use too: every micro-batch and degree, contexts split at any length, experts split by
        tensor, other dispatchers, shards inside a domain.

    Raises
    ------
    FullmeshError
        As :func:`compare`.
    """
    named = read_machines(on, chips, chip)
    if len(named) > 1:
        raise ScenarioError(
            f"{len(named)} machines are named",
            where="--on",
            expected="one machine",
            hint="`fullmesh compare` sets several side by side",
        )
    with personal_profile(profile):
        options = read_options(
            batch=batch, seq=seq, precision=precision, objective=objective, offload=offload, software=software,
            limits=limits, memory_margin=memory_margin, wide=wide,
        )  # fmt: skip
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


def goodput(
    model: str | Path | ModelSpec | Estimate | Scenario,
    on: str | Machine | None = None,
    *,
    tokens: float | str,
    units: int | str | None = None,
    chips: int | str | None = None,
    batch: int | str | None = None,
    seq: int | str | None = None,
    precision: str = "bf16",
    objective: str = "time",
    offload: bool = False,
    software: str | Path | Software | None = None,
    profile: str | Path | None = None,
    policy: str | Sequence[str] = "restart",
    spares: int | str | None = None,
    faults: str | Path | None = None,
    fault_nodes: int | str | None = None,
    power_cap: float | str | None = None,
    site: float | str | None = None,
    pue: float | str | Sequence[float] | None = None,
    grid: float | str | None = None,
    power_price: float | str | None = None,
    assume: Sequence[str] = (),
    prices: str | Path | None = None,
    runs: int | str = 2000,
    seed: int | str = 0,
) -> Goodput:
    """The whole training run: days, interruptions, goodput, spares, checkpoints, energy and money, with their spread.

    Parameters
    ----------
    model : str, path, ModelSpec, Estimate or Scenario
        A model, whose best plan is searched; or a scenario file (``.toml``) or an estimate, whose plan is taken.
    on : str or Machine, optional
        One machine; with a scenario or an estimate it is known.
    tokens : float or str
        Tokens of the run (``"15T"``).
    units : int, optional
        Whole units of the machine (supernodes, racks, nodes), instead of ``chips``.
    policy : str or sequence of str
        What happens after a fault: ``restart``, ``memory``, ``hot-spares``, ``shrink``, ``process``, ``in-step``, or
        ``all``; the first is the answer.
    spares : int or str, optional
        ``auto``, a number, ``"2 supernodes"`` or ``"5%"``.
    faults : path, optional
        Rates as ``fullmesh calibrate faults`` writes them, or a log of faults to replay.
    fault_nodes : int, optional
        Nodes that such a log is of, those without a fault included.
    power_cap, site : float or str, optional
        Watts a device may draw, and watts that the site can give (``"5MW"``).
    pue : float, str or sequence, optional
        Power usage effectiveness; twelve figures are months from that in which the run begins.
    grid, power_price : float or str, optional
        Grams of CO2 and US dollars a kWh.
    assume : sequence of str
        Other inputs, as ``"detection=2 min"``.
    runs, seed : int
        Runs that are simulated, and the seed of their luck.
    chips, batch, seq, precision, objective, offload, software, profile, prices
        As in :func:`best_plans`.

    Raises
    ------
    FullmeshError
        Something is unknown, out of range or does not belong together.
    """
    from fullmesh.study.goodput import no_run, read_run_options, read_units, run_of

    def options_on(machine: Machine) -> Any:
        return read_run_options(
            machine, tokens=tokens, policy=policy, spares=spares, faults=faults, fault_nodes=fault_nodes,
            power_cap=power_cap, site=site, pue=pue, grid=grid, power_price=power_price, assume=assume,
            prices=prices, runs=runs, seed=seed,
        )  # fmt: skip

    with personal_profile(profile):
        found: Estimate | Infeasible | None
        if not isinstance(model, ModelSpec) and (
            isinstance(model, Estimate | Scenario) or str(model).endswith(".toml")
        ):
            if (on, units, chips, batch, seq) != (None,) * 5:
                raise ScenarioError(
                    "the plan is given, and with it machine, size and batch",
                    where="--on",
                    expected="no --on, --units, --chips, --batch and --seq",
                    hint="change them in the scenario",
                )
            if isinstance(model, Estimate):
                found = model
            else:
                found = pipeline.simulate_scenario(model, named_software(software))
            machine, name = found.machine, found.model.name
            run_options = options_on(machine)
        else:
            if on is None:
                raise ScenarioError(
                    "no machine is named",
                    where="--on",
                    expected="a machine, or a scenario file in place of the model",
                )
            machine = read_units(on, units, chips)
            run_options = options_on(machine)
            options = read_options(
                batch=batch,
                seq=seq,
                precision=precision,
                objective=objective,
                offload=offload,
                software=software,
            )
            search = pipeline.search_machine(read_model(model), machine, options, top=1)
            found, name = search.best or search.closest, search.model.name
        if isinstance(found, Estimate):
            return run_of(found, run_options, pipeline.replanner(found))
        return no_run(found, machine, name, run_options.num_tokens)


def check(
    run: str | Path | Run,
    on: str | Machine | None = None,
    *,
    chips: int | None = None,
    model: str | Path | ModelSpec | None = None,
    seq: int | str | None = None,
    step_time: float | str | None = None,
    tokens_per_s: float | str | None = None,
    log: str | Path | None = None,
    trace: str | Path | None = None,
    software: str | Path | Software | None = None,
    profile: str | Path | None = None,
    top: int = 3,
) -> Checked:
    """Whether a run is as fast as its plan should be, where the gap sits and what would change it.

    Parameters
    ----------
    run : str or path
        A launch file of Megatron, MindSpeed, Megatron-Bridge, MindFormers, torchtitan or DeepSpeed, a folder of such
        files, a command line, or a scenario file.
    on : str or Machine, optional
        Where it runs; a scenario file names its machine.
    chips : int, optional
        Devices of the whole run, where the launcher does not say.
    model, seq : optional
        A model and a sequence length, where the file does not say.
    step_time, tokens_per_s, log : optional
        The speed: ``"12.3s"``, tokens a second of all devices, or a log of one of these frameworks.
    trace : str or path, optional
        A trace of one device (Kineto, msprof), or a folder with tables of the Ascend profiler.
    software, profile : optional
        As in :func:`best_plans`.
    top : int
        Changes to list.

    Raises
    ------
    FullmeshError
        Something cannot be read, or contradicts itself.
    """
    from fullmesh.study.check.checked import check_run

    (devices,) = read_chips(chips, 1)
    if isinstance(top, bool) or not isinstance(top, int) or not 0 <= top <= MOST_CHANGES:
        raise ScenarioError(
            f"{top} changes", where="--top", expected=f"a whole number from 0 to {MOST_CHANGES}"
        )
    with personal_profile(profile):
        return check_run(
            run, on, chips=devices, model=model, seq=read_seq(seq), software=named_software(software),
            step_time=step_time, tokens_per_s=tokens_per_s, log=None if log is None else Path(log),
            trace=None if trace is None else Path(trace), top=top,
        )  # fmt: skip


def sweep(
    grid: str | Path | Mapping[str, Any],
    out: str | Path | None = None,
    *,
    jobs: int | str | None = None,
    engine: str = "local",
    ray_address: str | None = None,
    profile: str | Path | None = None,
    timing: bool = True,
    progress: Callable[[int, int, int], None] | None = None,
) -> Sweep:
    """The best plan for every point of a grid of models, machines, sizes and options.

    Parameters
    ----------
    grid : str, path or mapping
        A grid file, or the same as a mapping: ``{"grid": {"model": [...], "machine": [...], "chips": [...]}}``.
    out : path, optional
        A file for the rows: ``.parquet``, ``.duckdb`` or ``.csv``. Rows are kept in ``OUT.journal`` as they come, and
        not asked again by another sweep to the same file. Without one they are in the result alone.
    jobs : int, optional
        Processes; one for each processor by default. With Ray, processors of the cluster to use.
    engine : {"local", "ray"}
    ray_address : str, optional
        Where the cluster is, otherwise what ``RAY_ADDRESS`` says, otherwise the one that runs on this machine.
    profile : path, optional
        A personal profile, as in :func:`compare`.
    timing : bool
        Whether the time that each row took is a column; without it the same grid gives the same rows, and the same
        bytes of Parquet and CSV.
    progress : callable, optional
        Called with the rows that there are, those that there will be, and those that were kept before.

    Raises
    ------
    FullmeshError
        The grid has a mistake, the file cannot be written, or a process that answers points has ended. A point that
        cannot be answered is no error: its row says why.
    """
    from fullmesh.study.sweep.run import sweep_grid

    return sweep_grid(
        grid,
        out,
        jobs=jobs,
        engine=engine,
        ray_address=ray_address,
        profile=profile,
        timing=timing,
        progress=progress,
    )


def export_launch(found: SearchResult, framework: str, folder: str | Path) -> None:
    """Write the best plan of a search as a folder that starts.

    Parameters
    ----------
    framework : {"megatron", "megatron-bridge", "mindspeed", "mindformers", "torchtitan", "deepspeed"}
    folder : str or path
        A new folder.

    Raises
    ------
    ScenarioError
        Nothing fits, the framework is unknown, or the folder cannot be written.
    ExportError
        The framework has no settings for the plan or the model.
    """
    if found.best is None:
        raise ScenarioError("no plan fits, so there is nothing to export", where=str(folder))
    export_estimate(found.best, framework, folder)


def models() -> list[str]:
    """Names of the shipped models."""
    return shipped.names()


def machines() -> list[str]:
    """Names of the machines of the catalog."""
    return list(list_machines())


def chips() -> list[str]:
    """Names of the chips of the catalog."""
    return list(list_chips())

"""The pipeline on one screen: every stage by name and in order, with what it takes and what it gives.

    read_options, read_model,       words, numbers, files          Options, ModelSpec,
    read_machines, read_prices                                     Machines, Prices
    size_machines                   Machines, basis                Machines of comparable size
    choose_batch                    ModelSpec, Machines, Options   Batch
    ask                             ModelSpec, Machine, Batch      Question
    explore                         Question                       Space: frames that break no rule, their options
    walk_space                      Space                          Walked: what matters of all plans priced
    rank                            Question, Walked               SearchResult: the best plans as Estimates
    weigh                           SearchResult, tokens, Prices   Column: waterfall, money, time of a run
    side_by_side                    Columns                        Comparison: ratios, ties, reasons
    replanner                       Estimate                       Planner: its job on fewer devices
    forecast                        Estimate, RunOptions, Planner  RunForecast: days, goodput, energy, money of a run
    estimate, replay_plan           one plan                       Estimate, Replayed

The functions of :mod:`fullmesh.study.api` and the commands call what stands here; :mod:`fullmesh.output` prints it.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from fullmesh.catalog import Price
from fullmesh.errors import PlanError
from fullmesh.machine import Machine
from fullmesh.outcomes.estimate import Estimate, Infeasible, estimate
from fullmesh.plan.software import CAPABILITIES, Software
from fullmesh.search.engine import SearchResult, ask, best_of
from fullmesh.search.space import Question
from fullmesh.study.batch import Batch, choose_batch
from fullmesh.study.compare import Column, Comparison, side_by_side, weigh
from fullmesh.study.options import Options
from fullmesh.study.scenario import Scenario, load_scenario
from fullmesh.study.sizing import Sizes, size_machines
from fullmesh.workload import ModelSpec

if TYPE_CHECKING:
    from fullmesh.outcomes.goodput.records import RunOptions
    from fullmesh.outcomes.goodput.shrinking import Planner
    from fullmesh.replays.replayed import Replayed
    from fullmesh.timeline.perturb import Perturbation

# Layouts that a comparison keeps of each machine.
COMPARED_LAYOUTS = 5


def ask_about(model: ModelSpec, machine: Machine, batch: Batch, options: Options) -> Question:
    """The question that the options put to one machine."""
    question = ask(
        model,
        machine,
        gbs=batch.gbs,
        seq=batch.seq,
        precision=options.precision,
        objective=options.objective,
        offload=options.offload,
        software=options.software,
        limits=options.limits,
        wide=options.wide,
    )
    return dataclasses.replace(question, batch_note=batch.note)


def search_machine(model: ModelSpec, machine: Machine, options: Options, *, top: int) -> SearchResult:
    """The best plans for a model on one machine, the first of them by their replay."""
    # the timeline loads its compiled kernels when it is imported
    from fullmesh.replays.order import replayed_s

    batch: Batch = choose_batch(model, [machine], options)
    return best_of(ask_about(model, machine, batch, options), top=top, replay=replayed_s)


def replanner(e: Estimate) -> Planner:
    """Asks for the best plan of the same job on fewer devices, with what the software of its plan switches on."""
    plan = e.plan
    software = Software(
        name=plan.stack,
        stack=plan.stack,
        label=plan.stack,
        families=(),
        vendor="",
        options=MappingProxyType({key: getattr(plan, key) for key in CAPABILITIES}),
    )

    @functools.cache
    def best(num_devices: int, gbs: int) -> Estimate | None:
        question = ask(
            e.model,
            e.machine.resized(num_devices),
            gbs=gbs,
            seq=plan.seq,
            precision=plan.precision,
            offload=bool(plan.offload_optimizer),
            software=software,
        )
        try:
            return best_of(question, top=1).best
        except PlanError:  # the batch divides over no ranks of so many devices
            return None

    return best


def compare_machines(
    model: ModelSpec,
    machines: Sequence[Machine],
    options: Options,
    *,
    resize: bool,
    prices: tuple[Price, ...] | None,
    run: Callable[[Machine], RunOptions] | None = None,
) -> Comparison:
    """The best plan for a model on each machine, for the same batch; ``resize`` sizes the machines by the basis.

    With ``run``, which gives the options for a machine, each best plan gets its whole run too.
    """
    sizes: Sizes = size_machines(machines, options.basis, prices, resize=resize)
    batch: Batch = choose_batch(model, sizes.distinct, options)
    columns: list[Column] = []
    for machine in sizes.distinct:
        found: SearchResult = best_of(ask_about(model, machine, batch, options), top=COMPARED_LAYOUTS)
        column = weigh(found, options.num_tokens, prices)
        if run is not None and found.best is not None:
            # whole runs are asked for by few; nobody else waits for what they import
            from fullmesh.outcomes.goodput.forecast import forecast

            whole = forecast(found.best, run(machine), replanner(found.best))
            column = dataclasses.replace(column, run=whole.policies[0])
        columns.append(column)
    return side_by_side(model, options, batch, sizes, columns)


def simulate_scenario(
    scenario: str | Path | Scenario, software: Software | None = None
) -> Estimate | Infeasible:
    """One plan in full, from a scenario file; ``software`` is what switches on where the plan is silent."""
    s = scenario if isinstance(scenario, Scenario) else load_scenario(scenario, software=software)
    return estimate(s.model, s.machine, s.plan)


def replay_scenario(
    scenario: str | Path | Scenario,
    *,
    perturbation: Perturbation | None,
    engine: str | None,
    every_rank: bool,
    software: Software | None = None,
) -> Replayed | Infeasible:
    """One plan in full with its step replayed task by task."""
    # the timeline compiles its kernels when it is imported; everything above does without
    from fullmesh.replays.replayed import replay_plan

    result = simulate_scenario(scenario, software)
    if isinstance(result, Infeasible):
        return result
    return replay_plan(result, engine=engine, perturbation=perturbation, every_rank=every_rank)

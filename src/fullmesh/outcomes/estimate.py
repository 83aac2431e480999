"""Step time, memory, throughput and utilisation of plans: columns for many, an object for one."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from fullmesh.cost.components import C
from fullmesh.cost.effects import load_effects, settings_of
from fullmesh.cost.memory import MemoryLedger, memory_ledger
from fullmesh.cost.operators.kernels import gemm_s, load_profile
from fullmesh.cost.stages import Stages, stage_table
from fullmesh.cost.step import PARTS, StepTime, step_time
from fullmesh.cost.uncertainty import load_uncertainty, log_step_variance
from fullmesh.errors import PlanError
from fullmesh.machine import Borrowed, Machine
from fullmesh.outcomes.caveats import caveats_of
from fullmesh.outcomes.intervals import Interval, MemoryInterval, interval_for, memory_interval_for
from fullmesh.outcomes.support import above_published, beyond_published, missing_variance, num_missing
from fullmesh.output import formats
from fullmesh.output.result import Result
from fullmesh.plan import RECIPES, Plan, Plans
from fullmesh.plan.feasible import Limit, violations
from fullmesh.plan.plan import check_plan
from fullmesh.workload import ModelSpec
from fullmesh.workload.flops import model_flop_per_token

Floats = npt.NDArray[np.float64]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """Many plans of one model on one machine, as columns of shape ``(num_plans,)``.

    Parameters
    ----------
    times : StepTime
    stages : Stages
    memory_bytes : float array
        Largest use over the stages, held against the capacity.
    fits : bool array
    """

    model: ModelSpec
    machine: Machine
    plans: Plans
    times: StepTime
    stages: Stages
    ledger: MemoryLedger
    memory_bytes: Floats
    fits: npt.NDArray[np.bool_]


def evaluate(model: ModelSpec, machine: Machine, plans: Plans, *, distinct: bool = True) -> Evaluation:
    """Price every plan; the same code for one plan and for a million.

    The plans must already pass :func:`fullmesh.plan.feasible.violations`.

    Raises
    ------
    PlanError
        The chip has no such precision.
    """
    stages = stage_table(model, machine, plans, distinct=distinct)
    settings, index = settings_of(model, machine, plans)
    effects = load_effects()
    times = step_time(stages, plans, effects.table("step", settings, index))
    ledger = memory_ledger(model, stages, plans, effects.table("memory", settings, index))
    used = stages.max(ledger.used)
    return Evaluation(
        model=model,
        machine=machine,
        plans=plans,
        times=times,
        stages=stages,
        ledger=ledger,
        memory_bytes=used,
        fits=used <= machine.chip.hbm_bytes,
    )


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class StageEstimate:
    """One pipeline stage: what it holds and how long a micro-batch takes on it."""

    index: int
    layers: int
    parameters: float
    forward_s: float
    backward_s: float
    memory: dict[str, float]
    used_bytes: float


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Estimate(Result):
    """One plan in full.

    ``parts_s`` are the seconds of the waterfall and add up to ``step_s``; ``low_s`` and ``high_s`` are the bounds
    where everything that could overlap does and where nothing does; ``interval`` is the error bar from published
    results, ``memory_interval`` that of the memory. ``mfu`` counts causal model FLOPs without recompute, ``hfu`` the
    recomputed ones too, both over the dense peak of the recipe's dtype.
    """

    model: ModelSpec
    machine: Machine
    plan: Plan
    step_s: float
    low_s: float
    high_s: float
    interval: Interval
    parts_s: dict[str, float]
    tokens_per_step: float
    tokens_per_s: float
    tokens_per_s_per_device: float
    mfu: float
    hfu: float
    peak_flop_per_s: float
    memory_bytes: float
    memory_interval: MemoryInterval
    capacity_bytes: float
    stages: tuple[StageEstimate, ...]
    energy_per_step_j: float | None
    energy_per_token_j: float | None
    energy_basis: str
    borrowed: tuple[Borrowed, ...] = ()
    notes: tuple[str, ...] = ()

    def part_share(self, part: str) -> float:
        """Share of the step that one of ``parts_s`` takes."""
        return self.parts_s[part] / self.step_s

    def __str__(self) -> str:
        return (
            f"{self.plan.label()}: {formats.seconds(self.step_s)} a step, {self.tokens_per_s:,.0f} tokens/s, "
            f"MFU {formats.percent(self.mfu)}, {formats.gigabytes(self.memory_bytes)} of "
            f"{formats.gigabytes(self.capacity_bytes)}"
        )

    def summary(self) -> str:
        """Model, machine and plan with its step."""
        return f"{self.model.name} on {self.plan.num_devices:,} devices of {self.machine.name}, {self}"

    def to_dict(self) -> dict[str, Any]:
        """All figures as plain values; see :class:`fullmesh.output.result.Result`."""
        from fullmesh.outcomes.fields import estimate_record

        return estimate_record(self)

    def to_rows(self) -> list[dict[str, Any]]:
        """One row: plan and figures."""
        from fullmesh.outcomes.fields import ESTIMATE_FIELDS, plan_row
        from fullmesh.output.fields import row

        return [plan_row(self.plan) | row(ESTIMATE_FIELDS, self)]

    def html_rows(self) -> list[Sequence[str]]:
        """Labels and figures."""
        from fullmesh.outcomes.fields import ESTIMATE_FIELDS
        from fullmesh.output.fields import pairs

        return [("", self.plan.text()), *pairs(ESTIMATE_FIELDS, self, "simulate")]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Infeasible(Result):
    """A plan that cannot run: which limit, what is needed, what there is, and what would help."""

    model: ModelSpec
    machine: Machine
    plan: Plan
    limit: Limit

    def __str__(self) -> str:
        from fullmesh.outcomes.fields import limit_text

        return f"cannot run: {limit_text(self)}"

    def summary(self) -> str:
        """Model, machine, plan and the limit that it breaks."""
        return f"{self.model.name} on {self.machine.name}, {self.plan.label()}: {self.limit.name}"

    def to_dict(self) -> dict[str, Any]:
        """Plan and limit as plain values."""
        from fullmesh.outcomes.fields import infeasible_record

        return infeasible_record(self)

    def to_rows(self) -> list[dict[str, Any]]:
        """One row: plan and limit."""
        from fullmesh.outcomes.fields import plan_row

        limit = {"limit": self.limit.name, "needed": self.limit.needed, "available": self.limit.available}
        return [plan_row(self.plan) | limit]

    def html_rows(self) -> list[Sequence[str]]:
        """The limit and what would help."""
        return [("", self.plan.text()), ("limit", str(self))]


def estimate(model: ModelSpec, machine: Machine, plan: Plan) -> Estimate | Infeasible:
    """Price one plan, or say which limit it breaks.

    Raises
    ------
    PlanError
        The plan contradicts itself or asks for more devices than the machine has.
    """
    check_plan(plan)
    if plan.num_devices > machine.num_devices:
        raise PlanError(
            f"the plan needs {plan.num_devices:,} devices",
            where=plan.label(),
            expected=f"at most {machine.num_devices:,}, all that {machine.name} has",
            hint="lower a degree, or ask for a larger machine with --chips",
        )
    plans = Plans.of([plan])
    broken = violations(model, machine, plans)
    if broken.limits[0] is not None:
        return Infeasible(model=model, machine=machine, plan=plan, limit=broken.limits[0])
    result = evaluate(model, machine, plans, distinct=False)
    if not result.fits[0]:
        return Infeasible(model=model, machine=machine, plan=plan, limit=memory_limit(result, 0))
    return estimates_of(result)[0]


def memory_limit(result: Evaluation, i: int) -> Limit:
    """The memory limit that plan ``i`` breaks, with what takes the space and what would free some."""
    rows = np.flatnonzero(result.stages.plan == i)
    worst = rows[np.argmax(result.ledger.used[rows])]
    parts = {
        name: float(getattr(result.ledger, name)[worst])
        for name in ("parameters", "gradients", "optimizer", "activations", "head", "transient")
    }
    biggest = max(parts, key=lambda k: parts[k])
    plan = result.plans.plan(i)
    levers = {
        "parameters": ["more tp or pp", "more ep" if result.model.is_moe else "zero = 3"],
        "gradients": ["zero = 2 or 3", "more tp or pp"],
        "optimizer": ["zero = 1", "offload_optimizer"],
        "activations": ["recompute = full", "more tp or cp", "a smaller micro-batch"],
        "head": ["more tp", "a smaller micro-batch"],
        "transient": ["more tp or cp", "a smaller micro-batch"],
    }[biggest]
    taken = set()
    if plan.recompute == "full":
        taken.add("recompute = full")
    if plan.zero >= 1:
        taken.add("zero = 1")
    if plan.zero == 3:
        taken |= {"zero = 3", "zero = 2 or 3"}
    if plan.offload_optimizer == 1.0:
        taken.add("offload_optimizer")
    if plan.mbs == 1:
        taken.add("a smaller micro-batch")
    levers = [*(lever for lever in levers if lever not in taken), "more devices"]
    return Limit(
        name="memory",
        needed=float(result.ledger.used[worst]),
        available=float(result.machine.chip.hbm_bytes),
        unit="B",
        where=f"pipeline stage {int(result.stages.index[worst])}, mostly {biggest}",
        levers=tuple(levers),
    )


def log_variances(result: Evaluation) -> Floats:
    """Variance of the logarithm of each plan's step time; infinite without a fit.

    What the fitted effects leave, and more for pairs of attributes that no published result has.
    """
    model, machine, plans = result.model, result.machine, result.plans
    uncertainty = load_uncertainty()
    if uncertainty is None:
        return np.full(len(plans), math.inf)
    settings, index = settings_of(model, machine, plans)
    left = log_step_variance(result.stages, plans, settings, index, load_effects(), uncertainty)
    out: Floats = left + missing_variance(num_missing(model, machine, plans))
    return out


def estimates_of(result: Evaluation, more: Floats | None = None) -> tuple[Estimate, ...]:
    """All plans of an evaluation as objects; ``more`` is variance of their log step time beyond their own."""
    variances = log_variances(result) + (0.0 if more is None else more)
    return tuple(_estimate_of(result, i, float(variances[i])) for i in range(len(result.plans)))


def _estimate_of(result: Evaluation, i: int, variance: float) -> Estimate:
    plan = result.plans.plan(i)
    model, machine = result.model, result.machine
    t = result.times
    step = float(t.step_s[i])
    caveats = caveats_of(machine, plan.stack)
    tokens = float(plan.gbs * plan.seq)
    recipe = RECIPES[plan.precision]
    peak = machine.chip.matrix_flop_per_s[recipe.linear]
    model_flop = 3.0 * model_flop_per_token(model, plan.seq) * tokens
    rows = np.flatnonzero(result.stages.plan == i)
    x = result.stages.components
    again = (x[rows, C.FLOP_R] * result.stages.multiplicity[rows]).sum()
    recomputed = float(again) * plan.num_microbatches * plan.num_devices / plan.pp
    budget = plan.num_devices * peak * step
    power = machine_power_w(machine)
    energy = power * plan.num_devices / machine.num_devices * step if power else None
    high = above_published(model, machine, plan.precision, model_flop / budget)
    return Estimate(
        model=model,
        machine=machine,
        plan=plan,
        step_s=step,
        low_s=float(t.low_s[i]),
        high_s=float(t.high_s[i]),
        interval=interval_for(step, variance, unproven=caveats.unproven),
        parts_s={name: float(getattr(t, name)[i]) for name in PARTS},
        tokens_per_step=tokens,
        tokens_per_s=tokens / step,
        tokens_per_s_per_device=tokens / step / plan.num_devices,
        mfu=model_flop / budget,
        hfu=(model_flop + recomputed) / budget,
        peak_flop_per_s=peak,
        memory_bytes=float(result.memory_bytes[i]),
        memory_interval=memory_interval_for(float(result.memory_bytes[i]), machine.chip.hbm_bytes),
        capacity_bytes=machine.chip.hbm_bytes,
        stages=tuple(_stage(result, int(r)) for r in rows),
        energy_per_step_j=energy,
        energy_per_token_j=energy / tokens if energy is not None else None,
        energy_basis=machine.power_basis if power else "power not published",
        borrowed=caveats.borrowed,
        notes=caveats.notes + tuple(note for note in (beyond_published(machine, plan.seq), high) if note),
    )


def machine_power_w(machine: Machine) -> float | None:
    """All-in power of the machine under load, None where it is not published."""
    if machine.unit_power_w is None:
        return None
    return machine.unit_power_w * machine.num_units


def _stage(result: Evaluation, row: int) -> StageEstimate:
    ledger = result.ledger
    names = ("parameters", "gradients", "optimizer", "activations", "head", "transient", "buffers")
    memory = {name: float(getattr(ledger, name)[row]) for name in names}
    memory["fragmentation"] = float(ledger.reserved[row] - ledger.allocated[row])
    memory["context"] = float(ledger.used[row] - ledger.reserved[row])
    stages = result.stages
    return StageEstimate(
        index=int(stages.index[row]),
        layers=int(stages.layers[row]),
        parameters=float(stages.dense_parameters[row] + stages.expert_parameters[row]),
        forward_s=float(result.times.stage_forward_s[row]),
        backward_s=float(result.times.stage_backward_s[row]),
        memory=memory,
        used_bytes=float(ledger.used[row]),
    )


def supported_precision(machine: Machine, wanted: str) -> tuple[str, str]:
    """The recipe a machine really runs, and what was substituted (empty when nothing was).

    Follows the recipe's fallbacks until the chip has the dtype; ``bf16`` falls back to ``fp16`` on chips without it.
    """
    name = wanted
    seen = []
    while not _runs(machine, name):
        seen.append(name)
        name = "fp16" if name == "bf16" else RECIPES[name].fallback
        if name in seen:
            raise PlanError(f"{machine.name} has none of the precisions {', '.join(seen)}")
    note = (
        "" if name == wanted else f"{machine.chip.name} has no {wanted.upper()}; {name.upper()} used instead"
    )
    return name, note


def _runs(machine: Machine, name: str) -> bool:
    """Whether the chip has the dtype and a kernel for the recipe (block scales need more than FP8 units)."""
    recipe = RECIPES[name]
    if recipe.linear not in machine.chip.matrix_flop_per_s:
        return False
    try:
        gemm_s(load_profile(machine.chip), 128.0, 128.0, 128.0, recipe.kernel)
    except PlanError:
        return False
    return True


def is_close(a: Estimate, b: Estimate) -> bool:
    """Whether the difference of two estimates lies within the model's own error: a tie."""
    spread = math.hypot(a.interval.log_half_width, b.interval.log_half_width)
    return abs(math.log(a.tokens_per_s / b.tokens_per_s)) <= spread


__all__ = [
    "Estimate",
    "Evaluation",
    "Infeasible",
    "StageEstimate",
    "estimate",
    "estimates_of",
    "evaluate",
    "is_close",
    "machine_power_w",
    "memory_limit",
    "supported_precision",
]

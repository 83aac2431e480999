"""Published rows as one table that the cost models evaluate at once."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from fullmesh.cost.effects import EffectProfile, Setting, TermTable, settings_of
from fullmesh.cost.memory import MemoryLedger, memory_ledger
from fullmesh.cost.stages import Stages, stage_table
from fullmesh.cost.step import StepTime, step_time
from fullmesh.cost.uncertainty import Uncertainty, log_step_variance
from fullmesh.errors import FullmeshError
from fullmesh.evidence.mapping import NO_RECOMPUTE_SAID, Case, row_case
from fullmesh.evidence.results import ResultRow
from fullmesh.machine import Machine
from fullmesh.plan import Plan, Plans
from fullmesh.workload import ModelSpec

Floats = npt.NDArray[np.float64]

# Need of memory over capacity that the formulas hardly reach by error: before anything is fitted they exceed 2 of the
# 82 published peaks by more than a quarter.
SURELY_TOO_LARGE = 1.25


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """A row that cannot be predicted, and why."""

    row: ResultRow
    reason: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class CaseGroup:
    """Cases of one model on one machine; ``members`` are their positions in the table."""

    model: ModelSpec
    machine: Machine
    plans: Plans
    stages: Stages
    members: npt.NDArray[np.int64]
    settings: tuple[Setting, ...]
    setting_index: npt.NDArray[np.intp]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class CaseTable:
    """All predictable rows, grouped by model and machine, and joined in one table of stages.

    ``stages`` and ``plans`` are those of all groups, one after another; ``order`` says which case each plan is.
    """

    cases: tuple[Case, ...]
    groups: tuple[CaseGroup, ...]
    stages: Stages
    plans: Plans
    order: npt.NDArray[np.int64]
    settings: tuple[Setting, ...]
    setting_index: npt.NDArray[np.intp]

    def step_times(self, profile: EffectProfile) -> StepTime:
        """Predictions in the order of ``cases``."""
        table = profile.table("step", self.settings, self.setting_index)
        return self.reorder(step_time(self.stages, self.plans, table))

    def log_variances(self, profile: EffectProfile, uncertainty: Uncertainty) -> Floats:
        """Variance of the logarithm of the step times that the effects leave, in the order of ``cases``."""
        out = np.empty(len(self.cases))
        out[self.order] = log_step_variance(
            self.stages, self.plans, self.settings, self.setting_index, profile, uncertainty
        )
        return out

    def reorder(self, times: StepTime) -> StepTime:
        """From the order of the joined plans to the order of ``cases``; stage columns stay as they are."""
        back = np.argsort(self.order)
        columns = {f.name: getattr(times, f.name) for f in dataclasses.fields(StepTime)}
        return StepTime(**{k: v if k.startswith("stage_") else v[back] for k, v in columns.items()})

    def peak_memory(self, profile: EffectProfile) -> tuple[Floats, Floats, Floats]:
        """Largest allocated, reserved and used bytes over the stages of every case, shape ``(num_cases,)`` each."""
        allocated = np.zeros(len(self.cases))
        reserved = np.zeros(len(self.cases))
        used = np.zeros(len(self.cases))
        for group in self.groups:
            ledger = group_ledger(group, profile.table("memory", group.settings, group.setting_index))
            allocated[group.members] = group.stages.max(ledger.allocated)
            reserved[group.members] = group.stages.max(ledger.reserved)
            used[group.members] = group.stages.max(ledger.used)
        return allocated, reserved, used


def group_ledger(group: CaseGroup, table: TermTable) -> MemoryLedger:
    """Memory of all stages of a group."""
    return memory_ledger(group.model, group.stages, group.plans, table)


def case_table(
    rows: Sequence[ResultRow], *, alternative: bool = False, own: bool = False
) -> tuple[CaseTable | None, tuple[Refusal, ...]]:
    """Map and cost all rows; what cannot be mapped comes back with its reason (no table where nothing can).

    With ``own`` the runs are those of whoever asks, whatever publisher the rows name.
    """
    cases: list[Case] = []
    refusals: list[Refusal] = []
    for row in [dataclasses.replace(r, publisher="") for r in rows] if own else rows:
        try:
            cases.append(row_case(row, alternative=alternative))
        except FullmeshError as error:
            refusals.append(Refusal(row=row, reason=_reason(error)))
    keys: dict[tuple[str, str, int, ModelSpec], list[int]] = {}
    for i, case in enumerate(cases):
        machine = case.machine
        keys.setdefault((machine.id, machine.chip.id, machine.num_devices, case.model), []).append(i)
    groups: list[CaseGroup] = []
    failed: set[int] = set()
    for members in keys.values():
        try:
            groups.append(_group(cases, members))
        except FullmeshError:
            # one bad plan must not take the others of its group with it
            for i in members:
                try:
                    groups.append(_group(cases, [i]))
                except FullmeshError as error:
                    failed.add(i)
                    refusals.append(Refusal(row=cases[i].row, reason=_reason(error)))
    _assume_recompute(cases, groups)
    kept = [i for i in range(len(cases)) if i not in failed]
    if not kept:
        return None, tuple(refusals)
    position = {old: new for new, old in enumerate(kept)}
    groups = [
        dataclasses.replace(g, members=np.array([position[int(i)] for i in g.members], dtype=np.int64))
        for g in groups
    ]
    return _join([cases[i] for i in kept], groups), tuple(refusals)


def _assume_recompute(cases: list[Case], groups: list[CaseGroup]) -> None:
    """Full recompute for runs that do not say what they recompute and cannot have fitted without.

    Judged by the memory formulas alone, before anything is fitted to published results.
    """
    prior = EffectProfile(effects={}, provenance={})
    for number, group in enumerate(groups):
        open_ones = [i for i, m in enumerate(group.members) if NO_RECOMPUTE_SAID in cases[m].assumptions]
        if not open_ones:
            continue

        def need(group: CaseGroup) -> Floats:
            ledger = group_ledger(group, prior.table("memory", group.settings, group.setting_index))
            return group.stages.max(ledger.used) / group.machine.chip.hbm_bytes

        before = need(group)
        changed = [i for i in open_ones if before[i] > SURELY_TOO_LARGE]
        if not changed:
            continue
        trial = list(cases)
        for i in changed:
            case = cases[group.members[i]]
            said = tuple(
                f"recompute not published; without any the plan takes {before[i]:.1f} times the memory: full assumed"
                if text == NO_RECOMPUTE_SAID
                else text
                for text in case.assumptions
            )
            plan = dataclasses.replace(case.plan, recompute="full")
            trial[group.members[i]] = dataclasses.replace(case, plan=plan, assumptions=said)
        again = _group(trial, [int(m) for m in group.members])
        after = need(again)
        # a plan that is too large all the same says nothing of what it recomputes
        kept = [i for i in changed if after[i] <= SURELY_TOO_LARGE]
        for i in kept:
            cases[group.members[i]] = trial[group.members[i]]
        if kept:
            groups[number] = _group(cases, [int(m) for m in group.members])


def _reason(error: FullmeshError) -> str:
    return error.what + (f" ({error.expected})" if error.expected else "")


def _group(cases: Sequence[Case], members: list[int]) -> CaseGroup:
    plans: list[Plan] = [cases[i].plan for i in members]
    columns = Plans.of(plans)
    model, machine = cases[members[0]].model, cases[members[0]].machine
    settings, index = settings_of(model, machine, columns, [cases[i].row.publisher for i in members])
    return CaseGroup(
        model=model,
        machine=machine,
        plans=columns,
        stages=stage_table(model, machine, columns),
        members=np.array(members, dtype=np.int64),
        settings=settings,
        setting_index=index,
    )


def _join(cases: list[Case], groups: list[CaseGroup]) -> CaseTable:
    width = max(g.stages.kind_counts.shape[1] for g in groups)
    columns: dict[str, list[npt.NDArray[np.generic]]] = {f.name: [] for f in dataclasses.fields(Stages)}
    settings: list[Setting] = []
    setting_index = []
    offset = 0
    for g in groups:
        for name, values in columns.items():
            value = getattr(g.stages, name)
            if name == "plan":
                value = value + offset
            elif name == "kind_counts":
                value = np.pad(value, ((0, 0), (0, width - value.shape[1])))
            values.append(value)
        setting_index.append(g.setting_index + len(settings))
        settings.extend(g.settings)
        offset += len(g.plans)
    plans = Plans.concatenate([g.plans for g in groups])
    distinct = {s: i for i, s in enumerate(dict.fromkeys(settings))}
    remap = np.array([distinct[s] for s in settings], dtype=np.intp)
    return CaseTable(
        cases=tuple(cases),
        groups=tuple(groups),
        stages=Stages(**{name: np.concatenate(values) for name, values in columns.items()}),
        plans=plans,
        order=np.concatenate([g.members for g in groups]),
        settings=tuple(distinct),
        setting_index=remap[np.concatenate(setting_index)],
    )

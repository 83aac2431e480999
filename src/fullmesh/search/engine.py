"""Search: price every candidate, keep the best, the next really different one, the Pareto front and the reasons."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from fullmesh.errors import PlanError, did_you_mean
from fullmesh.machine import Machine
from fullmesh.outcomes.caveats import caveats_of
from fullmesh.outcomes.estimate import (
    Estimate,
    Evaluation,
    Infeasible,
    estimates_of,
    evaluate,
    log_variances,
    memory_limit,
    supported_precision,
)
from fullmesh.outcomes.intervals import far_deviations, selection_variance, within_setting
from fullmesh.outcomes.support import (
    beyond_published,
    missing_variance,
    missing_words,
    nearest,
    num_missing,
)
from fullmesh.output.result import Result
from fullmesh.plan import RECIPES, Plan, Plans
from fullmesh.plan.feasible import Limit, violations
from fullmesh.plan.plan import FIELDS, LARGEST, SIZE_RANGE
from fullmesh.plan.software import Software, software_of
from fullmesh.search.space import Candidates, Question, candidates, devices_for_states, max_tp
from fullmesh.workload import ModelSpec

Floats = npt.NDArray[np.float64]

OBJECTIVES = ("time", "energy", "money")
# A plan that leaves less of the memory than this may not fit in truth: it is what the memory model may be off by.
MEMORY_MARGIN = 0.08
# Layouts of which the uncertainty is weighed, from the cheapest on.
WEIGHED = 64
# Plans of the front of step time against memory that are kept.
FRONT = 12
# Plans priced at once: large enough to be quick, small enough to stay in cache and memory.
CHUNK = 4096


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Rejection:
    """How many plans broke a limit first, and what that limit means."""

    reason: str
    num_plans: int
    meaning: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class SearchResult(Result):
    """What a search found on one machine.

    Parameters
    ----------
    caveats : tuple of str
        What the machine and its software borrow, and whether they are announced or never seen.
    best : Estimate or None
        The plan whose step is shortest at the far end of its interval, which is further the less published results
        speak for it: the best supported plan, unless one that is hardly less supported is far better.
        None where nothing fits; then ``closest`` is the plan that comes nearest, with its limit and levers.
    exploratory : Estimate or None
        The plan that is predicted fastest of all, where that is another: ``missing`` says what no result has tried.
    missing : tuple of str
        What of the exploratory plan no published result has, in words.
    unproven : tuple of str
        The same of the best plan.
    second : Estimate or None
        The best plan of a really different layout (another tp, cp or pp, or parameters sharded instead) beside these.
    roomy : Estimate or None
        Where the best plan leaves less memory than the model may be off by: the cheapest as proven that leaves more.
    whole : Estimate or None
        Where the best plan leaves devices unused: the best one that uses all of them.
    ranked : tuple of Estimate
        The best plans, at most one for each layout (tp, cp, pp, ep, zero).
    pareto : tuple of Estimate
        Plans that no other beats in both step time and memory, fastest first, at most ``FRONT``; of those that miss
        no more published results than the best.
    num_ties : int
        Layouts whose step time differs from the best by less than the model's own error.
    tie_ratio : float
        Ratio of two step times below which they cannot be told apart; nan where no published result says.
    """

    model: ModelSpec
    machine: Machine
    gbs: int
    seq: int
    batch_note: str
    precision: str
    substituted: str
    objective: str
    software: Software
    caveats: tuple[str, ...]
    num_enumerated: int
    num_priced: int
    num_fitting: int
    rejected: tuple[Rejection, ...]
    best: Estimate | None
    exploratory: Estimate | None
    missing: tuple[str, ...]
    unproven: tuple[str, ...]
    second: Estimate | None
    roomy: Estimate | None
    whole: Estimate | None
    ranked: tuple[Estimate, ...]
    pareto: tuple[Estimate, ...]
    num_ties: int
    tie_ratio: float
    closest: Infeasible | None

    @property
    def precision_flop_per_s(self) -> float:
        """Dense peak of one device in the precision used."""
        return self.machine.chip.matrix_flop_per_s[RECIPES[self.precision].linear]

    @property
    def notes(self) -> tuple[str, ...]:
        """What the machine and its software borrow, whether they are announced or never seen, and what no run tried."""
        longer = beyond_published(self.machine, self.seq)
        said = (*self.caveats, *((longer,) if longer else ()))
        if not self.unproven or self.best is None:
            return said
        near = nearest(self.model, self.machine, self.best.plan)
        tried = f"no published result with {'; '.join(self.unproven)}" + (
            f". Nearest: {near}" if near else ""
        )
        return (*said, tried)

    def against_best(self, e: Estimate | None) -> float:
        """How much more of what the objective saves a plan takes than the best, as a share; nan without one of them.

        Energy and money go with the device-seconds.
        """
        if self.best is None or e is None:
            return math.nan
        ratio = e.step_s / self.best.step_s
        if self.objective != "time":
            ratio *= e.plan.num_devices / self.best.plan.num_devices
        return ratio - 1.0

    def __str__(self) -> str:
        head = (
            f"{self.model.name} on {self.machine.num_devices:,} devices of {self.machine.name}, global batch "
            f"{self.gbs:,} x {self.seq:,} tokens: {self.num_enumerated:,} plans enumerated, {self.num_fitting:,} fit"
        )
        return "\n".join([head, *(str(e) for e in self.ranked or (self.closest,))])

    def summary(self) -> str:
        """Model, machine and the best plan."""
        return (
            f"{self.model.name} on {self.machine.num_devices:,} devices of {self.machine.name}, "
            f"best of {self.num_enumerated:,} plans: {self.best or self.closest}"
        )

    def to_dict(self) -> dict[str, Any]:
        """All figures as plain values."""
        from fullmesh.search.fields import search_record

        return search_record(self)

    def to_rows(self) -> list[dict[str, Any]]:
        """One row a ranked plan."""
        from fullmesh.search.fields import search_rows

        return search_rows(self)

    def html_rows(self) -> list[Sequence[str]]:
        """One line a ranked plan."""
        from fullmesh.outcomes.fields import ESTIMATE_FIELDS
        from fullmesh.output.fields import cells, shown

        fields = shown(ESTIMATE_FIELDS, "plan")
        head = ["", *(f.label() for f in fields)]
        lines = [[e.plan.text(), *cells(fields, e)] for e in self.ranked]
        return [head, *lines] if lines else [head, [str(self.closest)]]


_MEANING = {
    "devices": "more devices than the machine has",
    "batch": "the global batch does not divide by mbs x dp",
    "sequence": "the sequence does not divide over cp and tp",
    "layers": "more pipeline chunks than layers",
    "interleaving": "micro-batches are no multiple of pp (virtual stages)",
    "sharding": "ZeRO-2 or -3 with a pipeline",
    "heads": "attention heads do not divide over tp",
    "width": "a feed-forward width does not divide over tp",
    "experts": "experts do not divide over ep",
    "expert ranks": "ep x etp does not divide the ranks of a stage",
    "memory": "more memory than a device has",
}


def search(
    model: ModelSpec,
    machine: Machine,
    *,
    gbs: int,
    seq: int,
    precision: str = "bf16",
    objective: str = "time",
    top: int = 10,
    offload: bool = False,
    software: Software | None = None,
) -> SearchResult:
    """The best plans for a model on a machine.

    Parameters
    ----------
    gbs, seq : int
        Global batch in sequences, sequence length in tokens.
    precision : str
        A recipe; what the chip lacks is substituted, and the result says so.
    objective : {"time", "energy", "money"}
        Energy and money go with the device-seconds of a step, so these two may leave devices unused.
    top : int
        Layouts to return.
    offload : bool
        Consider optimizer states in host memory.

    Raises
    ------
    PlanError
        The objective is unknown, or the batch does not divide on this machine.
    """
    question = ask(
        model, machine, gbs=gbs, seq=seq, precision=precision, objective=objective, offload=offload,
        software=software,
    )  # fmt: skip
    found = candidates(question)
    return rank(question, found, price(question, found), top=top)


def ask(
    model: ModelSpec,
    machine: Machine,
    *,
    gbs: int,
    seq: int,
    precision: str = "bf16",
    objective: str = "time",
    offload: bool = False,
    software: Software | None = None,
) -> Question:
    """The question of a search, with the precision that the chip has and the numbers of devices to consider.

    Raises
    ------
    PlanError
        A value is out of range.
    """
    if objective not in OBJECTIVES:
        raise PlanError(
            f"unknown objective {objective!r}",
            where="--objective",
            expected="one of " + ", ".join(OBJECTIVES),
            hint=did_you_mean(str(objective), list(OBJECTIVES)),
        )
    for name, value in (("gbs", gbs), ("seq", seq), ("precision", precision)):
        FIELDS[name].check(value, where=FIELDS[name].option)
    recipe, substituted = supported_precision(machine, precision)
    return Question(
        model=model,
        machine=machine,
        gbs=gbs,
        seq=seq,
        precision=recipe,
        num_devices=_sizes(machine, objective),
        software=software or software_of(machine),
        offload=offload,
        objective=objective,
        substituted=substituted,
    )


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Priced:
    """Every candidate with its price, columns of shape ``(num_plans,)``.

    Parameters
    ----------
    step_s, memory_bytes, cost : float array
        ``cost`` is what the objective saves: seconds, or device-seconds for energy and money.
    fits : bool array
    nearest : Infeasible or None
        Where nothing fits, the plan that comes nearest.
    """

    step_s: Floats
    memory_bytes: Floats
    cost: Floats
    fits: npt.NDArray[np.bool_]
    nearest: Infeasible | None


def price(q: Question, found: Candidates) -> Priced:
    """Price every candidate.

    Raises
    ------
    PlanError
        The batch divides over no layout.
    """
    _check_batch(q, found)
    evaluations = [
        evaluate(q.model, q.machine, found.plans.take(np.arange(start, min(start + CHUNK, len(found.plans)))))
        for start in range(0, len(found.plans), CHUNK)
    ]
    step, memory, fits = _joined(evaluations)
    return Priced(
        step_s=step,
        memory_bytes=memory,
        cost=step if q.objective == "time" else step * found.plans.num_devices,
        fits=fits,
        nearest=None if fits.any() else _closest(q, evaluations),
    )


def rank(q: Question, found: Candidates, priced: Priced, *, top: int) -> SearchResult:
    """The best plans of those priced, in full.

    Parameters
    ----------
    top : int
        Layouts to return.
    """
    if not isinstance(top, int) or isinstance(top, bool) or not 1 <= top <= LARGEST:
        raise PlanError(f"number of plans = {top!r}", where="--top", expected=f"a whole number {SIZE_RANGE}")
    nothing = SearchResult(
        model=q.model,
        machine=q.machine,
        gbs=q.gbs,
        seq=q.seq,
        batch_note=q.batch_note,
        precision=q.precision,
        substituted=q.substituted,
        objective=q.objective,
        software=q.software,
        caveats=caveats_of(q.machine, q.software.stack).notes,
        num_enumerated=found.num_enumerated,
        num_priced=len(priced.fits),
        num_fitting=int(priced.fits.sum()),
        rejected=_rejections(found, priced),
        best=None,
        exploratory=None,
        missing=(),
        unproven=(),
        second=None,
        roomy=None,
        whole=None,
        ranked=(),
        pareto=(),
        num_ties=0,
        tie_ratio=math.nan,
        closest=priced.nearest,
    )
    if priced.nearest is not None:
        return nothing
    plans, cost, feasible = found.plans, priced.cost, np.flatnonzero(priced.fits)
    # the cheapest first; among equals the one that needs less memory, then the order of enumeration
    order = feasible[np.lexsort((priced.memory_bytes[feasible], cost[feasible]))]
    missing = num_missing(q.model, q.machine, plans)
    leaders = _surest_first(q, plans, cost, missing, feasible)
    best, fastest = int(leaders[0]), int(order[0])
    proven = feasible[missing[feasible] <= missing[best]]
    spread = within_setting()
    ties = int((np.log(cost[leaders] / cost[best]) <= spread).sum()) - 1 if math.isfinite(spread) else 0

    exploratory = fastest if cost[fastest] < cost[best] and missing[fastest] > missing[best] else None
    others = (int(i) for i in leaders if i != exploratory)
    second = next((i for i in others if _really_different(plans, i, best)), None)
    room = proven[priced.memory_bytes[proven] <= (1.0 - MEMORY_MARGIN) * q.machine.chip.hbm_bytes]
    roomy = None if best in room or not len(room) else int(room[np.argmin(cost[room])])
    all_devices = plans.num_devices[leaders] == plans.num_devices[feasible].max()
    whole = None if all_devices[0] else int(leaders[all_devices][0])
    front = _pareto(priced.step_s, priced.memory_bytes, proven)
    chosen = dict.fromkeys((best, exploratory), selection_variance(ties + 1))
    full = _estimates(q, plans, [*leaders[:top], *front, exploratory, second, roomy, whole], chosen)
    return dataclasses.replace(
        nothing,
        best=full[best],
        exploratory=full.get(exploratory),
        missing=() if exploratory is None else missing_words(q.model, q.machine, plans.plan(exploratory)),
        unproven=missing_words(q.model, q.machine, plans.plan(best)),
        second=full.get(second),
        roomy=full.get(roomy),
        whole=full.get(whole),
        ranked=tuple(full[int(i)] for i in leaders[:top]),
        pareto=tuple(full[int(i)] for i in front),
        num_ties=ties,
        tie_ratio=math.exp(spread) if math.isfinite(spread) else math.nan,
    )


def _estimates(
    q: Question, plans: Plans, index: Iterable[int | None], more: Mapping[int | None, float]
) -> dict[int | None, Estimate]:
    """The plans of these rows in full, priced together, by row; ``more`` is variance beyond their own."""
    rows = sorted({int(i) for i in index if i is not None})
    chosen = evaluate(q.model, q.machine, plans.take(np.array(rows, dtype=np.intp)), distinct=False)
    extra = np.array([more.get(i, 0.0) for i in rows])
    return dict(zip(rows, estimates_of(chosen, extra), strict=True))


def _surest_first(
    q: Question, plans: Plans, cost: Floats, missing: npt.NDArray[np.int64], feasible: npt.NDArray[np.intp]
) -> npt.NDArray[np.intp]:
    """The best plan of every layout, those in front whose cost is lowest at the far end of its interval.

    The winner of thousands is predicted too fast by selection: a plan that leads by an effect that few results know, or
    by a combination that none has, steps back behind one that many speak for.
    """
    far = np.log(cost[feasible]) + far_deviations() * np.sqrt(missing_variance(missing[feasible]))
    order = feasible[np.argsort(far, kind="stable")]
    leaders = _first_of_each(_layout(plans, order), order)
    chosen = leaders[:WEIGHED]
    variance = log_variances(evaluate(q.model, q.machine, plans.take(chosen)))
    if not np.isfinite(variance).all():
        return leaders
    far = np.log(cost[chosen]) + far_deviations() * np.sqrt(variance)
    return np.concatenate([chosen[np.argsort(far, kind="stable")], leaders[WEIGHED:]])


def _rejections(found: Candidates, priced: Priced) -> tuple[Rejection, ...]:
    """How many plans broke which limit first, the most frequent first."""
    rejected = dict(found.rejected)
    if not priced.fits.all():
        rejected["memory"] = rejected.get("memory", 0) + int((~priced.fits).sum())
    return tuple(
        Rejection(reason=k, num_plans=v, meaning=_MEANING[k])
        for k, v in sorted(rejected.items(), key=lambda item: -item[1])
    )


def _sizes(machine: Machine, objective: str) -> tuple[int, ...]:
    """Numbers of devices to consider: all, and fewer where that divides better or costs less."""
    n = machine.num_devices
    sizes = {n, 1 << (n.bit_length() - 1)}
    if objective != "time":
        sizes |= {size for size in (n // 2, n // 4, n // 8) if size >= 1}
    return tuple(sorted(sizes, reverse=True))


def _check_batch(q: Question, found: Candidates) -> None:
    """Refuse a batch that no layout with data parallelism can divide."""
    n = q.machine.num_devices
    if found.batch_allows_dp or q.gbs == 1 or n <= max_tp(q.machine):
        return
    near = _nearest_batch(q)
    raise PlanError(
        f"the global batch {q.gbs} does not divide over data-parallel ranks on {n} devices of {q.machine.name}",
        where="--batch",
        expected="a multiple of mbs x dp for some layout of these devices",
        hint=f"the nearest global batches that do are {' and '.join(str(b) for b in near)}",
    )


def _nearest_batch(q: Question) -> list[int]:
    """The nearest batches below and above that split over as many ranks as a pipeline of one node leaves."""
    step = 1
    for n in q.num_devices:
        while step < 16 and n % (step * 2) == 0:
            step *= 2
    below = q.gbs // step * step
    return [b for b in (below, below + step) if b > 0]


def _joined(evaluations: list[Evaluation]) -> tuple[Floats, Floats, npt.NDArray[np.bool_]]:
    if not evaluations:
        return np.zeros(0), np.zeros(0), np.zeros(0, dtype=bool)
    return (
        np.concatenate([e.times.step_s for e in evaluations]),
        np.concatenate([e.memory_bytes for e in evaluations]),
        np.concatenate([e.fits for e in evaluations]),
    )


def _layout(p: Plans, index: npt.NDArray[np.intp]) -> npt.NDArray[np.int64]:
    """What makes two plans the same layout, one row a plan."""
    return np.column_stack([c[index] for c in (p.tp, p.cp, p.pp, p.ep, p.etp, p.zero, p.dp)])


def _first_of_each(keys: npt.NDArray[np.int64], order: npt.NDArray[np.intp]) -> npt.NDArray[np.intp]:
    """The first of ``order`` for each distinct key, in order."""
    _, first = np.unique(keys, axis=0, return_index=True)
    return order[np.sort(first)]


def _really_different(p: Plans, i: int, best: int) -> bool:
    return any(column[i] != column[best] for column in (p.tp, p.cp, p.pp, p.zero))


def _pareto(step: Floats, memory: Floats, feasible: npt.NDArray[np.intp]) -> npt.NDArray[np.intp]:
    """Plans up to twice the best step time that no other beats in both; a gain below 2 % of memory is none."""
    near = feasible[step[feasible] <= 2.0 * step[feasible].min()]
    order = near[np.lexsort((memory[near], step[near]))]
    kept = []
    lowest = math.inf
    floor = np.minimum.accumulate(memory[order])
    # only the rows where the running minimum falls can be on the front
    falls = np.flatnonzero(np.diff(floor, prepend=math.inf) < 0)
    for i in order[falls]:
        if memory[i] < 0.98 * lowest:
            kept.append(int(i))
            lowest = float(memory[i])
    return np.array(kept[:FRONT], dtype=np.intp)


def _closest(q: Question, evaluations: list[Evaluation]) -> Infeasible:
    """The plan that comes nearest to fitting, with the limit that it breaks."""
    if evaluations:
        nearest = min(evaluations, key=lambda e: float(e.memory_bytes.min()))
        i = int(np.argmin(nearest.memory_bytes))
        limit = memory_limit(nearest, i)
        least = devices_for_states(q.model, q.machine.chip.hbm_bytes)
        if least > q.machine.num_devices:
            more = f"more devices (weights, gradients and optimizer states alone fill {least:,})"
            levers = tuple(more if lever == "more devices" else lever for lever in limit.levers)
            limit = dataclasses.replace(limit, levers=levers)
        return Infeasible(model=q.model, machine=q.machine, plan=nearest.plans.plan(i), limit=limit)
    plan = Plan(gbs=q.gbs, seq=q.seq, precision=q.precision, dp=q.machine.num_devices)
    broken = violations(q.model, q.machine, Plans.of([plan])).limits[0]
    limit = broken or Limit(
        name="layout",
        needed=float(q.machine.num_devices),
        available=0.0,
        unit="",
        where="no layout of all devices divides the model and the batch",
        levers=("another number of devices", "another global batch"),
    )
    return Infeasible(model=q.model, machine=q.machine, plan=plan, limit=limit)

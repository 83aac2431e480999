"""Search: all plans of a space priced, the best in full, the next really different one, the front and the reasons."""

from __future__ import annotations

import dataclasses
import math
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from fullmesh.errors import PlanError, did_you_mean
from fullmesh.machine import Machine
from fullmesh.outcomes.caveats import caveats_of
from fullmesh.outcomes.estimate import (
    Estimate,
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
    missing_words,
    nearest,
    num_missing,
)
from fullmesh.output.result import Result
from fullmesh.plan import RECIPES, Plan, Plans
from fullmesh.plan.feasible import Limit, violations
from fullmesh.plan.plan import FIELDS, LARGEST, SIZE_RANGE
from fullmesh.plan.software import Software, software_of
from fullmesh.search.space import Limits, Question, Space, check_limits, devices_for_states, max_tp, span
from fullmesh.workload import ModelSpec

if TYPE_CHECKING:
    from fullmesh.search.walk import Walked

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

#: Steps of plans replayed task by task: given the plans, and by how much each one's value exceeds its predicted step;
#: nan for plans that cannot come first.
Replay = Callable[[ModelSpec, Machine, Sequence[Plan], Floats], Floats]

OBJECTIVES = ("time", "energy", "money")
# A plan that leaves less of the memory than this may not fit in truth: it is what the memory model may be off by.
MEMORY_MARGIN = 0.08
# Layouts of which the uncertainty is weighed, from the cheapest on.
WEIGHED = 64
# Of these the first so many are replayed, where a replay is at hand.
REPLAYED = 20
# Plans of the front of step time against memory that are kept.
FRONT = 12


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Effort:
    """What a search took: CPU seconds of this process, and the most memory that it has held (nan where nobody says)."""

    cpu_s: float
    peak_bytes: float

    @classmethod
    def since(cls, began_s: float) -> Effort:
        """The effort since ``time.process_time()`` was ``began_s``."""
        peak = math.nan
        if sys.platform != "win32":
            import resource

            unit = 1 if sys.platform == "darwin" else 1024
            peak = float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit)
        return cls(cpu_s=time.process_time() - began_s, peak_bytes=peak)


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
    replayed_s : tuple of float or None
        Their steps replayed task by task, which decides between the first of them; None where that was not needed.
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
    wide: bool
    effort: Effort = dataclasses.field(compare=False)
    rejected: tuple[Rejection, ...]
    best: Estimate | None
    exploratory: Estimate | None
    missing: tuple[str, ...]
    unproven: tuple[str, ...]
    second: Estimate | None
    roomy: Estimate | None
    whole: Estimate | None
    ranked: tuple[Estimate, ...]
    replayed_s: tuple[float | None, ...]
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
    limits: Limits | None = None,
    wide: bool = False,
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
    limits : Limits, optional
        What is left of the space.
    wide : bool
        Search what few plans ever use too, see :class:`fullmesh.search.space.Question`.

    Raises
    ------
    PlanError
        The objective is unknown, the batch does not divide on this machine, or the limits leave no plan.
    """
    question = ask(
        model, machine, gbs=gbs, seq=seq, precision=precision, objective=objective, offload=offload,
        software=software, limits=limits, wide=wide,
    )  # fmt: skip
    return best_of(question, top=top)


def best_of(question: Question, *, top: int, replay: Replay | None = None) -> SearchResult:
    """The answer to a question, stage by stage: the space, all of its plans priced, the best of them in full.

    ``replay`` decides between those that are best by the closed form.
    """
    # the loop loads its compiled code when it is imported
    from fullmesh.search.walk import walk_space

    began_s = time.process_time()
    space: Space = explore(question)
    walked: Walked = walk_space(space, roomy_share=1.0 - MEMORY_MARGIN)
    found: SearchResult = rank(question, walked, top=top, replay=replay)
    return dataclasses.replace(found, effort=Effort.since(began_s))


def explore(question: Question) -> Space:
    """The space of a question.

    Raises
    ------
    PlanError
        The batch divides over no layout, or the user's limits leave no plan.
    """
    space = span(question)
    _check_batch(question, space)
    check_limits(question, space)
    return space


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
    limits: Limits | None = None,
    wide: bool = False,
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
        limits=limits or Limits(),
        wide=wide,
    )


def rank(q: Question, walked: Walked, *, top: int, replay: Replay | None = None) -> SearchResult:
    """The best of all plans, in full.

    Parameters
    ----------
    top : int
        Layouts to return.
    """
    if not isinstance(top, int) or isinstance(top, bool) or not 1 <= top <= LARGEST:
        raise PlanError(f"number of plans = {top!r}", where="--top", expected=f"a whole number {SIZE_RANGE}")
    space = walked.space
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
        num_enumerated=space.num_enumerated,
        num_priced=walked.num_priced,
        num_fitting=walked.num_fitting,
        wide=q.wide,
        effort=Effort(cpu_s=math.nan, peak_bytes=math.nan),
        rejected=_rejections(walked),
        best=None,
        exploratory=None,
        missing=(),
        unproven=(),
        second=None,
        roomy=None,
        whole=None,
        ranked=(),
        replayed_s=(),
        pareto=(),
        num_ties=0,
        tie_ratio=math.nan,
        closest=None,
    )
    if walked.num_fitting == 0:
        return dataclasses.replace(nothing, closest=_closest(q, walked))
    leaders, cost, plans, replayed = _surest_first(q, walked, replay)
    best, fastest = int(leaders[0]), walked.fastest
    missing = num_missing(q.model, q.machine, space.plans(np.array([best, fastest])))
    spread = within_setting()
    ties = int((np.log(cost / cost[0]) <= spread).sum()) - 1 if math.isfinite(spread) else 0

    exploratory = fastest if walked.fastest_cost < cost[0] and missing[1] > missing[0] else None
    second = next(
        (int(n) for i, n in enumerate(leaders) if n != exploratory and _really_different(plans, i, 0)), None
    )
    roomy = walked.roomy(int(missing[0]))
    all_devices = plans.num_devices == plans.num_devices.max()
    whole = None if all_devices[0] else int(leaders[all_devices][0])
    front = _pareto(*walked.front(int(missing[0])))
    chosen = dict.fromkeys((best, exploratory), selection_variance(ties + 1))
    full = _estimates(q, space, [*leaders[:top], *front, exploratory, second, roomy, whole], chosen)
    if full[best].memory_bytes <= (1.0 - MEMORY_MARGIN) * q.machine.chip.hbm_bytes:
        roomy = None
    return dataclasses.replace(
        nothing,
        best=full[best],
        exploratory=full.get(exploratory),
        missing=() if exploratory is None else missing_words(q.model, q.machine, full[exploratory].plan),
        unproven=missing_words(q.model, q.machine, full[best].plan),
        second=full.get(second),
        roomy=full.get(roomy),
        whole=full.get(whole),
        ranked=tuple(full[int(i)] for i in leaders[:top]),
        replayed_s=tuple(None if math.isnan(s) else s for s in replayed[:top].tolist()),
        pareto=tuple(full[int(i)] for i in front),
        num_ties=ties,
        tie_ratio=math.exp(spread) if math.isfinite(spread) else math.nan,
    )


def _estimates(
    q: Question, space: Space, numbers: Iterable[int | None], more: Mapping[int | None, float]
) -> dict[int | None, Estimate]:
    """These plans in full, priced together, by number; ``more`` is variance beyond their own."""
    rows = sorted({int(i) for i in numbers if i is not None})
    plans = space.plans(np.array(rows, dtype=np.int64))
    extra = np.array([more.get(i, 0.0) for i in rows])
    priced = evaluate(q.model, q.machine, plans, distinct=False)
    return dict(zip(rows, estimates_of(priced, extra), strict=True))


def _surest_first(q: Question, walked: Walked, replay: Replay | None) -> tuple[Ints, Floats, Plans, Floats]:
    """The best plan of every layout, those in front whose cost is lowest at the far end of its interval.

    The winner of millions is predicted too fast by selection: a plan that leads by an effect that few results know, or
    by a combination that none has, steps back behind one that many speak for. Between the first ones the replayed step
    decides instead of the closed form.

    Returns
    -------
    numbers, cost, plans, replayed_s
        Of each, in order.
    """
    leaders, cost = walked.leaders()
    plans = walked.space.plans(leaders)
    order = np.arange(len(leaders))
    replayed = np.full(len(leaders), math.nan)
    first = order[:WEIGHED]
    priced = evaluate(q.model, q.machine, plans.take(first))
    variance = log_variances(priced)
    far = np.log(cost[first])
    if np.isfinite(variance).all():
        far = far + far_deviations() * np.sqrt(variance)
        order[: len(first)] = first[np.argsort(far, kind="stable")]
        far = np.sort(far, kind="stable")
    if replay is not None:
        few = order[:REPLAYED]
        step = priced.times.step_s[few]
        doubt = np.exp(far[: len(few)]) / step
        replayed[few] = replay(q.model, q.machine, [plans.plan(int(i)) for i in few], doubt)
        value = doubt * np.where(np.isnan(replayed[few]), step, replayed[few])
        # what could not come first stays behind what was replayed
        order[: len(few)] = few[np.lexsort((value, np.isnan(replayed[few])))]
    return leaders[order], cost[order], plans.take(order), replayed[order]


def _rejections(walked: Walked) -> tuple[Rejection, ...]:
    """How many plans broke which limit first, the most frequent first."""
    rejected = dict(walked.space.rejected)
    too_large = walked.num_priced - walked.num_fitting
    if too_large:
        rejected["memory"] = rejected.get("memory", 0) + too_large
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


def _check_batch(q: Question, found: Space) -> None:
    """Refuse a batch that no layout with data parallelism can divide."""
    n = q.machine.num_devices
    if found.batch_allows_dp or q.gbs == 1 or n <= max_tp(q.machine) or q.limits.values:
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


def _really_different(p: Plans, i: int, best: int) -> bool:
    return any(column[i] != column[best] for column in (p.tp, p.cp, p.pp, p.zero))


def _pareto(step: Floats, memory: Floats, number: Ints) -> list[int]:
    """Plans up to twice the best step time that no other beats in both; a gain below 2 % of memory is none."""
    order = np.lexsort((number, memory, step))
    order = order[step[order] <= 2.0 * step.min()]
    kept: list[int] = []
    lowest = math.inf
    for i in order:
        if memory[i] < 0.98 * lowest:
            kept.append(int(number[i]))
            lowest = float(memory[i])
    return kept[:FRONT]


def _closest(q: Question, walked: Walked) -> Infeasible:
    """The plan that comes nearest to fitting, with the limit that it breaks."""
    if walked.num_priced:
        nearest = evaluate(q.model, q.machine, walked.space.plans(np.array([walked.least_memory])))
        limit = memory_limit(nearest, 0)
        least = devices_for_states(q.model, q.machine.chip.hbm_bytes)
        if least > q.machine.num_devices:
            more = f"more devices (weights, gradients and optimizer states alone fill {least:,})"
            levers = tuple(more if lever == "more devices" else lever for lever in limit.levers)
            limit = dataclasses.replace(limit, levers=levers)
        if q.limits.memory_margin:
            where = f"{limit.where}, with {q.limits.memory_margin:.0%} of the memory left free"
            limit = dataclasses.replace(limit, available=q.capacity_bytes, where=where)
        return Infeasible(model=q.model, machine=q.machine, plan=nearest.plans.plan(0), limit=limit)
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

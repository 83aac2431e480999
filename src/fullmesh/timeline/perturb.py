"""Ranks that differ: stragglers, slow stages and links, jitter. Equal ranks stay folded where that is exact.

A stage stands for ``ranks_per_stage`` devices. Device j of every stage makes up pipeline j; devices of one lockstep
block exchange within every pass, so each pass of the block ends when its slowest device ends; reductions join all
devices of a stage. Unfolding copies the graph of one pipeline and puts those joins in.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from fullmesh.errors import ScenarioError, did_you_mean
from fullmesh.timeline.costs import PipelineCosts
from fullmesh.timeline.schedule import tasks as b
from fullmesh.timeline.schedule.graph import Floats, TaskGraph
from fullmesh.timeline.schedule.schedules import check_tasks
from fullmesh.timeline.schedule.unfold import (
    DISTRIBUTIONS,
    Copies,
    Factors,
    Parts,
    joins_of,
    unfold_tasks,
)

Ints = npt.NDArray[np.int64]

_PASSES = (b.K_FORWARD, b.K_BACKWARD, b.K_INPUT, b.K_PAIRED_FORWARD, b.K_PAIRED_BACKWARD, b.K_RECOMPUTE)
_COMMUNICATION = (
    b.K_SEND_FORWARD, b.K_SEND_BACKWARD, b.K_TP, b.K_EP, b.K_CP, b.K_GRAD_REDUCE, b.K_PARAM_GATHER,
    b.K_FSDP_GATHER, b.K_FSDP_SCATTER, b.K_GRAD_NORM,
)  # fmt: skip
_WHOLE_STAGE = (b.K_GRAD_REDUCE, b.K_PARAM_GATHER, b.K_FSDP_GATHER, b.K_FSDP_SCATTER, b.K_GRAD_NORM)

# Of a graph with a row for devices that differ: above it jitter is drawn for blocks of them (see `unfold`).
MOST_TASKS = 8_000_000
# Above this nothing is replayed: it would take more than two gigabytes.
LIMIT_TASKS = 10_000_000


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Jitter:
    """Random factors on the computation of every task of every device, with mean 1.

    Parameters
    ----------
    distribution : {"lognormal", "normal", "exponential"}
        ``exponential`` has a floor of ``1 - cv`` and a tail.
    cv : float
        Standard deviation.
    seed : int
        The same seed gives the same factors, whatever else changes.
    """

    distribution: str = "lognormal"
    cv: float
    seed: int = 0

    def __post_init__(self) -> None:
        if self.distribution not in DISTRIBUTIONS:
            raise ScenarioError(
                f"the distribution {self.distribution!r} is unknown",
                where="jitter",
                hint=did_you_mean(self.distribution, list(DISTRIBUTIONS)),
            )
        if not 0.0 <= self.cv < 1.0:
            raise ScenarioError(f"a spread of {self.cv}", where="jitter", expected="at least 0 and below 1")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Perturbation:
    """What makes devices differ. Factors of at least 0; 1.2 is 20 % slower.

    Parameters
    ----------
    stragglers : mapping of int to float
        Device (``stage * ranks_per_stage + j``) and factor on its computation.
    slow_stages : mapping of int to float
        Pipeline stage and factor on the computation of all of its devices.
    slow_devices : mapping of int to float
        Device and factor on all of its communication (a slow link or adapter).
    slow_links : mapping of (int, int) to float
        Two devices of neighbouring stages and factor on what they send each other.
    expert_load : mapping of int to float
        Device and factor on the work of its experts (``Operator`` of the name ``experts``): a hot or a cold one.
    jitter : Jitter, optional
    """

    stragglers: Mapping[int, float] = dataclasses.field(default_factory=dict)
    slow_stages: Mapping[int, float] = dataclasses.field(default_factory=dict)
    slow_devices: Mapping[int, float] = dataclasses.field(default_factory=dict)
    slow_links: Mapping[tuple[int, int], float] = dataclasses.field(default_factory=dict)
    expert_load: Mapping[int, float] = dataclasses.field(default_factory=dict)
    jitter: Jitter | None = None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Unfolded:
    """A graph of several pipelines and what its rows stand for.

    Parameters
    ----------
    graph : TaskGraph
        Row ``copy * num_stages + stage``.
    member : int array, shape (num_copies,)
        Device within each stage that a copy shows.
    multiplicity : int array, shape (num_copies,)
        Pipelines that a copy stands for.
    exact : bool
        Whether the replay equals that of all devices.
    """

    graph: TaskGraph
    member: Ints
    multiplicity: Ints
    exact: bool
    ranks_per_stage: int

    def device(self, row: npt.NDArray[np.int32] | int) -> Ints:
        """Device numbers of rows of the graph."""
        copy, stage = np.divmod(np.asarray(row, dtype=np.int64), self.graph.num_stages)
        out: Ints = stage * self.ranks_per_stage + self.member[copy]
        return out


def parse_perturbation(
    stragglers: tuple[str, ...] = (), jitter: str = "", *, where: str = "--straggler"
) -> Perturbation:
    """Read ``rank=17:1.2``, ``stage=3:1.1``, ``link=17:2``, ``link=17-25:2``, ``expert=17:1.5``, ``lognormal:0.05:7``.

    Raises
    ------
    ScenarioError
        Anything else.
    """
    found: dict[str, dict[object, float]] = {"rank": {}, "stage": {}, "device": {}, "link": {}, "expert": {}}
    for text in stragglers:
        match = re.fullmatch(
            r"\s*(rank|stage|link|expert)=([0-9]{1,9})(?:-([0-9]{1,9}))?:"
            r"([0-9]{1,9}(?:\.[0-9]{1,20})?(?:[eE]-?[0-9]{1,2})?)\s*",
            text,
        )
        if match is None or (match.group(3) and match.group(1) != "link"):
            raise ScenarioError(
                f"cannot read {text!r}",
                where=where,
                expected="rank=17:1.2, stage=3:1.1, link=17:2, link=17-25:2 or expert=17:1.5",
            )
        kind, first, second, factor = match.groups()
        if second is not None:
            found["link"][(int(first), int(second))] = float(factor)
        else:
            found["device" if kind == "link" else kind][int(first)] = float(factor)
    drawn = None
    if jitter:
        match = re.fullmatch(r"\s*(?:([a-z]{1,20}):)?([0-9]{0,9}\.?[0-9]{1,20})(?::([0-9]{1,9}))?\s*", jitter)
        if match is None:
            raise ScenarioError(
                f"cannot read {jitter!r}",
                where="--jitter",
                expected="a spread, as 0.05 or lognormal:0.05:SEED",
            )
        name, cv, seed = match.groups()
        drawn = Jitter(distribution=name or "lognormal", cv=float(cv), seed=int(seed or 0))
    return Perturbation(
        stragglers=found["rank"],  # type: ignore[arg-type]
        slow_stages=found["stage"],  # type: ignore[arg-type]
        slow_devices=found["device"],  # type: ignore[arg-type]
        slow_links=found["link"],  # type: ignore[arg-type]
        expert_load=found["expert"],  # type: ignore[arg-type]
        jitter=drawn,
    )


def communication_part(graph: TaskGraph, costs: PipelineCosts) -> Floats:
    """Seconds of every task that are communication, shape (N,): all of a transfer, the exposed part of a pass."""
    out = np.where(np.isin(graph.kind, _COMMUNICATION), graph.duration_s, 0.0)
    forward, backward = costs.exposed("forward_s"), costs.exposed("backward_s")
    ep_f, ep_b = costs.lane("ep", "forward_s"), costs.lane("ep", "backward_s")
    for kind, exposed, whole in (
        (b.K_FORWARD, forward, costs.forward_s),
        (b.K_BACKWARD, backward, costs.backward_s),
        (b.K_INPUT, np.minimum(backward, costs.backward_input_s), costs.backward_input_s),
        (b.K_PAIRED_FORWARD, forward - ep_f, costs.pair_forward_s),
        (b.K_PAIRED_BACKWARD, backward - ep_b, costs.pair_backward_s),
    ):
        share = np.divide(exposed, whole, out=np.zeros_like(exposed), where=whole > 0).clip(0.0, 1.0)
        mine = graph.kind == kind
        out[mine] = graph.duration_s[mine] * share[graph.chunk[mine]]
    return out


def expert_part(graph: TaskGraph, costs: PipelineCosts) -> Floats:
    """Seconds of every task that are work of experts, shape (N,)."""
    out = np.zeros(len(graph))
    for operator in costs.operators:
        if operator.name != "experts":
            continue
        for kinds, part, whole in (
            ((b.K_FORWARD,), operator.forward_s, costs.forward_s),
            ((b.K_BACKWARD, b.K_INPUT, b.K_WEIGHT), operator.backward_s, costs.backward_s),
            ((b.K_PAIRED_FORWARD,), operator.forward_s, costs.pair_forward_s),
            ((b.K_PAIRED_BACKWARD,), operator.backward_s, costs.pair_backward_s),
        ):
            share = np.divide(part, whole, out=np.zeros_like(part), where=whole > 0).clip(0.0, 1.0)
            mine = np.isin(graph.kind, kinds)
            out[mine] += graph.duration_s[mine] * share[graph.chunk[mine]]
    return out


def unfold(
    graph: TaskGraph,
    costs: PipelineCosts,
    perturbation: Perturbation | None = None,
    *,
    every_rank: bool = False,
) -> Unfolded:
    """Copies of the pipeline for the devices that differ.

    Parameters
    ----------
    graph : TaskGraph
        The graph of one pipeline, from :func:`fullmesh.timeline.schedule.schedules.build_graph`.
    every_rank : bool
        A row for every device, even for equal ones.

    Notes
    -----
    Blocks without anything unusual are one copy. A block in which one device is the slowest at everything (on each
    stage, if none is slow to send) is one copy with its factors, which is exact; otherwise all of its devices get a
    copy. Jitter needs every device. Where that would exceed ``MOST_TASKS``, blocks take the largest factor of their
    devices for every task, which can only overestimate, and ``exact`` is false.

    Raises
    ------
    ScenarioError
        Devices or stages that do not exist.
    """
    what = perturbation or Perturbation()
    r, g = costs.ranks_per_stage, costs.lockstep_ranks
    _check(what, costs.num_stages, r)
    factors = _factors(what, costs.num_stages, r)
    exact, width = True, 1
    if every_rank:
        check_tasks(len(graph) * r, LIMIT_TASKS)
    if every_rank or (what.jitter and len(graph) * r * 1.5 < MOST_TASKS):
        member, multiplicity = np.arange(r), np.ones(r, dtype=np.int64)
    elif what.jitter:
        member, multiplicity = np.arange(0, r, g), np.full(r // g, g)
        factors = _slowest(factors, g)
        exact, width = False, g
    else:
        member, multiplicity, factors, exact = _fold(factors, g, len(graph))
    check_tasks(len(graph) * len(member), LIMIT_TASKS)
    block = member // g
    couple = _couple(graph, g)
    jitter = what.jitter
    copies = Copies(
        member,
        block,
        distribution=-1 if jitter is None else DISTRIBUTIONS.index(jitter.distribution),
        cv=0.0 if jitter is None else jitter.cv,
        seed=0 if jitter is None else jitter.seed,
        width=width,
    )
    parts = Parts(communication_part(graph, costs), expert_part(graph, costs), couple)
    unfolded = unfold_tasks(
        graph,
        parts,
        Factors(compute=factors[0], experts=factors[1], communication=factors[2], send=factors[3:]),
        copies,
        _num_tasks(couple, block),
    )
    return Unfolded(graph=unfolded, member=member, multiplicity=multiplicity, exact=exact, ranks_per_stage=r)


def _factors(what: Perturbation, p: int, r: int) -> Floats:
    """Factors on computation, experts, communication and the two directions of sends, shape (5, stages, devices)."""
    out = np.ones((5, p, r))
    for device, factor in what.stragglers.items():
        out[0, device // r, device % r] *= factor
    for stage, factor in what.slow_stages.items():
        out[0, stage] *= factor
    for device, factor in what.expert_load.items():
        out[1, device // r, device % r] *= factor
    for device, factor in what.slow_devices.items():
        out[2, device // r, device % r] *= factor
    for (x, y), factor in what.slow_links.items():
        low, high = min(x, y), max(x, y)
        out[3, low // r, low % r] *= factor  # towards the next stage
        out[4, high // r, high % r] *= factor  # towards the one before
    return out


def _couple(graph: TaskGraph, g: int) -> npt.NDArray[np.int8]:
    """Who ends each task together, shape (N,): 0 nobody, 1 a lockstep block, 2 all devices of the stage."""
    couple = np.zeros(len(graph), dtype=np.int8)
    if g > 1:
        couple[np.isin(graph.kind, (*_PASSES, b.K_TP, b.K_EP, b.K_CP))] = 1
    couple[np.isin(graph.kind, _WHOLE_STAGE)] = 2
    whole = (graph.kind == b.K_JOIN) & (graph.microbatch == -1)
    whole[0] = False
    couple[whole] = 2
    return couple


def _num_tasks(couple: npt.NDArray[np.int8], block: Ints) -> int:
    """Tasks of all copies with their joins; ``couple`` of each task, ``block`` of each copy."""
    sizes = np.bincount(np.unique(block, return_inverse=True)[1])
    per_kind = np.array([0, sum(joins_of(int(s)) for s in sizes), joins_of(len(block))])
    total = 1 + (len(couple) - 1) * len(block) + int(per_kind[couple[1:]].sum())
    if total >= 2**31:
        raise ScenarioError(
            f"unfolding gives {total:,} tasks",
            where="timeline",
            expected="fewer than 2**31",
            hint="leave equal ranks folded",
        )
    return total


def _slowest(factors: Floats, g: int) -> Floats:
    """Largest factor of each block, shape (..., blocks)."""
    out: Floats = factors.reshape(*factors.shape[:-1], -1, g).max(axis=-1)
    return out


def _fold(factors: Floats, g: int, num_tasks: int) -> tuple[Ints, Ints, Floats, bool]:
    """Copies that are enough: one for all usual blocks, one or all devices for each unusual one.

    ``factors`` has shape (5, p, r): on computation, experts, communication and the two directions of sends.
    """
    p, r = factors.shape[1:]
    scores = factors.reshape(len(factors), p, -1, g)
    highest = scores.max(axis=3, keepdims=True)
    worst = (scores == highest).all(axis=0)
    # Passes of a block begin together unless its devices send at different speeds. Then a stage may have a slowest
    # device of its own; else it must be the same one throughout, as a late start and a long pass need not coincide.
    together = (scores[2:] == highest[2:]).all(axis=(0, 1, 3))
    one_is_worst = np.where(together, worst.any(axis=2).all(axis=0), worst.all(axis=0).any(axis=1))
    usual = (scores == 1.0).all(axis=(0, 1, 3))
    members: list[Ints] = []
    counts: list[Ints] = []
    columns: list[Floats] = []
    exact = True

    def single(i: int, count: int) -> None:
        # the device that is unusual gives the copy its number
        odd = np.flatnonzero((scores[:, :, i] != 1.0).any(axis=(0, 1)))
        members.append(np.array([i * g + (int(odd[0]) if len(odd) else 0)]))
        counts.append(np.array([count]))
        columns.append(highest[:, :, i])

    if usual.any():
        single(int(np.flatnonzero(usual)[0]), int(usual.sum()) * g)
    for i in np.flatnonzero(~usual).tolist():
        if one_is_worst[i]:
            single(i, g)
        elif num_tasks * g * 1.5 > MOST_TASKS:
            single(i, g)
            exact = False
        else:
            members.append(np.arange(i * g, i * g + g))
            counts.append(np.ones(g, dtype=np.int64))
            columns.append(scores[:, :, i])
    assert sum(int(c.sum()) for c in counts) == r
    return np.concatenate(members), np.concatenate(counts), np.concatenate(columns, axis=2), exact


def _check(what: Perturbation, p: int, r: int) -> None:
    for name, devices, limit in (
        ("rank", [*what.stragglers, *what.slow_devices, *what.expert_load], p * r),
        ("stage", list(what.slow_stages), p),
        ("rank", [d for pair in what.slow_links for d in pair], p * r),
    ):
        for device in devices:
            if not 0 <= device < limit:
                raise ScenarioError(
                    f"{name} {device} does not exist",
                    where="straggler",
                    expected=f"{name}s from 0 to {limit - 1}",
                )
    for x, y in what.slow_links:
        if abs(x // r - y // r) != 1 or x % r != y % r:
            raise ScenarioError(
                f"ranks {x} and {y} send each other nothing in the pipeline",
                where="straggler",
                expected="two ranks of neighbouring stages",
                hint=f"the neighbours of rank {x} are {x - r} and {x + r}",
            )
    factors = [
        *what.stragglers.values(),
        *what.slow_stages.values(),
        *what.slow_devices.values(),
        *what.slow_links.values(),
        *what.expert_load.values(),
    ]
    for factor in factors:
        if not (0.0 < factor < 1e6):
            raise ScenarioError(f"a factor of {factor}", where="straggler", expected="a number above 0")

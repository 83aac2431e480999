"""Seconds of collectives on a machine's tiers: the closed form of each algorithm, with fitted constants.

All functions take columns and broadcast. A group of ``p`` ranks whose neighbours lie ``stride`` ranks apart has
``min(p, max(1, domain / stride))`` members in every domain of a tier; all such groups of the machine run at once, so every
rank has its own port and its own network card. A collective that leaves a domain runs level by level (reduce-scatter
inside, the operation outside on the shard, all-gather inside), which is also what rings over every network card of a node do
to the wires. Sources of the forms: Thakur, Rabenseifner and Gropp 2005 for the step counts; the documented cost model of
HCCL; NCCL's bandwidth convention (``nccl-tests`` PERFORMANCE.md); constants in ``data/profiles/collectives.json``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from fullmesh.cost.collectives_profile import RAMP_BYTES, Column, Fabric, Term, find_fabric, load_fabrics
from fullmesh.errors import PlanError
from fullmesh.machine.types import Machine, Tier

KINDS = ("all_reduce", "all_gather", "reduce_scatter", "all_to_all", "send_recv", "broadcast")
#: Times that a rank's buffer passes its port, in units of (p - 1) / p of it.
PASSES = {"all_reduce": 2.0, "all_gather": 1.0, "reduce_scatter": 1.0, "all_to_all": 1.0, "broadcast": 1.0}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Level:
    """A tier, or several that share their ports, as one group sees it.

    ``members`` and ``inside`` are the group's ranks in one domain of this level and of the level below.
    """

    tiers: tuple[Tier, ...]
    members: Column
    inside: Column
    latency_s: Column

    @property
    def kind(self) -> str:
        return self.tiers[-1].kind

    @property
    def ranks(self) -> Column:
        """Domains of the level below that take part: the ranks of this level's own exchange."""
        return np.ceil(self.members / self.inside)

    def line_bytes_per_s(self, peers: Column) -> Column:
        """Line rate of a rank that talks to ``peers`` others at once: a mesh has one link for each."""
        tier = self.tiers[-1]
        full = tier.full_num_devices or tier.num_devices
        if tier.kind != "mesh" or full < 2:
            return np.full_like(peers, tier.bytes_per_s)
        return tier.bytes_per_s * np.clip(peers, 1.0, full - 1.0) / (full - 1.0)


def levels_of(machine: Machine, group_size: Column, stride: Column) -> tuple[Level, ...]:
    """Levels of a group, innermost first; switch tiers of the same rate share a rank's ports and are one level.

    Parameters
    ----------
    group_size, stride : array of float, same shape
    """
    runs: list[list[Tier]] = []
    for tier in machine.tiers:
        last = runs[-1][-1] if runs else None
        if last and tier.kind == last.kind and tier.kind != "mesh" and tier.bytes_per_s == last.bytes_per_s:
            runs[-1].append(tier)
        else:
            runs.append([tier])
    levels = []
    inside = np.ones_like(group_size)
    for i, run in enumerate(runs):
        latency = np.zeros_like(group_size)
        members = inside
        for j, tier in enumerate(run):
            outermost = i == len(runs) - 1 and j == len(run) - 1
            fit = (
                group_size
                if outermost
                else np.minimum(group_size, np.maximum(1.0, tier.num_devices // stride))
            )
            wider = np.maximum(members, fit)
            latency = np.where(wider > members, tier.latency_s, latency)
            members = wider
        levels.append(Level(tiers=tuple(run), members=members, inside=inside, latency_s=latency))
        inside = members
    return tuple(levels)


def _steps(term: Term, ranks: Column) -> Column:
    if term.steps == "one":
        count = (ranks > 1).astype(np.float64)
    elif term.steps == "log2":
        count = np.ceil(np.log2(np.maximum(ranks, 1.0)))
    else:
        count = ranks - 1.0
    twice = 2.0 if term.kind == "all_reduce" and not term.in_network else 1.0
    return twice * count


def term_s(
    term: Term, num_bytes: Column, ranks: Column, line_bytes_per_s: Column, extra_steps: Column | float = 0.0
) -> Column:
    """Seconds of one algorithm among ``ranks`` that all sit on one level.

    Parameters
    ----------
    num_bytes : array, bytes
        The whole buffer of a rank, as in `collective_s`.
    ranks : array
    line_bytes_per_s : array
        Line rate per rank and direction.
    extra_steps : array, optional
        Steps on inner links, already in units of this term's step.
    """
    if term.in_network:
        wire = num_bytes * (ranks + 1.0) / ranks
    elif term.kind in ("send_recv", "broadcast"):
        wire = num_bytes
    else:
        wire = PASSES[term.kind] * num_bytes * (ranks - 1.0) / ranks
    seconds = (
        term.launch_s
        + term.step_s * (_steps(term, ranks) + extra_steps)
        + term.ramp_s * (wire / RAMP_BYTES) ** term.power
        + wire * (1.0 + term.spread / ranks) / (term.fraction * line_bytes_per_s)
    )
    return np.where(ranks > 1, seconds, 0.0)


def _terms(fabric: Fabric, level: Level, kind: str) -> list[Term]:
    reducing = all(t.in_network_reduction for t in level.tiers)
    return [t for t in fabric.terms if t.kind == kind and (reducing or not t.in_network)]


def _peers(kind: str, ranks: Column) -> Column:
    """Peers that a rank exchanges with at once: one for a message, all for the rest (a mesh uses every link)."""
    return np.ones_like(ranks) if kind == "send_recv" else ranks - 1.0


def _exchange(
    machine: Machine, kind: str, num_bytes: Column, levels: Sequence[Level], fabrics: tuple[Fabric, ...]
) -> tuple[Column, Column, list[str]]:
    """Seconds, index of the algorithm of the outermost level that the group spans, and the names."""
    total = np.zeros_like(num_bytes)
    choice = np.zeros(num_bytes.shape)
    names = ["none"]
    outer = levels[-1].members
    for level in levels:
        fabric = find_fabric(fabrics, machine, level.tiers[-1])
        ranks = level.ranks
        buffer = num_bytes / level.inside
        inner_steps: Column | float = 0.0
        if level.kind == "package" and len(levels) > 1:
            # its links are no part of the ports outside: they carry their own share at the same time
            buffer = num_bytes * level.members / outer
        elif level.inside.max() > 1 and fabric.inner_step > 0:
            inner_steps = fabric.inner_step * ranks * (level.inside - 1.0)
        best = np.full_like(num_bytes, np.inf)
        local = np.zeros(num_bytes.shape)
        for term in _terms(fabric, level, kind):
            steps = PASSES.get(kind, 1.0) * inner_steps if term.steps == "ring" else 0.0
            seconds = term_s(term, buffer, ranks, level.line_bytes_per_s(_peers(kind, ranks)), steps)
            if term.algorithm not in names:
                names.append(term.algorithm)
            better = seconds < best
            best = np.where(better, seconds, best)
            local = np.where(better, names.index(term.algorithm), local)
        best = np.where(ranks > 1, best, 0.0)
        total = np.maximum(total, best) + fabric.serial * np.minimum(total, best)
        choice = np.where(ranks > 1, local, choice)
    return total, choice, names


def _all_to_all(
    machine: Machine, num_bytes: Column, levels: Sequence[Level], fabrics: tuple[Fabric, ...]
) -> tuple[Column, Column, list[str]]:
    """Each level carries the share of a rank's bytes whose peer lies in another domain of the level below."""
    total = np.zeros_like(num_bytes)
    choice = np.zeros(num_bytes.shape)
    names = ["none", "pairwise", "direct"]
    group = levels[-1].members
    for level in levels:
        fabric = find_fabric(fabrics, machine, level.tiers[-1])
        peers = level.members - level.inside
        # the term counts (ranks - 1) / ranks of a buffer: hand it the buffer whose share is what this level carries
        ranks = peers + 1.0
        buffer = np.where(peers > 0, num_bytes * ranks / group, 0.0)
        term = _terms(fabric, level, "all_to_all")[0]
        seconds = np.where(peers > 0, term_s(term, buffer, ranks, level.line_bytes_per_s(peers)), 0.0)
        total = np.maximum(total, seconds) + fabric.serial * np.minimum(total, seconds)
        if term.algorithm not in names:
            names.append(term.algorithm)
        choice = np.where(peers > 0, names.index(term.algorithm), choice)
    return total, choice, names


def _send_recv(
    machine: Machine, num_bytes: Column, levels: Sequence[Level], fabrics: tuple[Fabric, ...]
) -> tuple[Column, Column, list[str]]:
    """One message to a neighbour over the outermost level that the group spans: the slowest pair sets the pace."""
    total = np.zeros_like(num_bytes)
    for level in levels:
        fabric = find_fabric(fabrics, machine, level.tiers[-1])
        term = _terms(fabric, level, "send_recv")[0]
        pair = np.where(level.ranks > 1, 2.0, 1.0)
        seconds = term_s(term, num_bytes, pair, level.line_bytes_per_s(np.ones_like(pair))) + level.latency_s
        total = np.where(level.ranks > 1, seconds, total)
    return total, np.where(total > 0, 1.0, 0.0), ["none", "message"]


def _evaluate(
    machine: Machine,
    kind: str,
    num_bytes: npt.ArrayLike,
    group_size: npt.ArrayLike,
    stride: npt.ArrayLike,
    fabrics: tuple[Fabric, ...] | None,
) -> tuple[Column, Column, list[str]]:
    if kind not in KINDS:
        raise PlanError(f"unknown collective {kind!r}", expected="one of " + ", ".join(KINDS))
    size, ranks, step = np.broadcast_arrays(
        *(np.asarray(c, dtype=np.float64) for c in (num_bytes, group_size, stride))
    )
    if size.size and (not np.isfinite(size).all() or size.min() < 0 or ranks.min() < 1 or step.min() < 1):
        raise PlanError("a collective needs bytes >= 0, a group of at least 1 and a stride of at least 1")
    known = load_fabrics() if fabrics is None else fabrics
    levels = levels_of(machine, ranks, step)
    if kind == "all_to_all":
        return _all_to_all(machine, size, levels, known)
    if kind == "send_recv":
        return _send_recv(machine, size, levels, known)
    return _exchange(machine, kind, size, levels, known)


def collective_s(
    machine: Machine,
    kind: str,
    num_bytes: npt.ArrayLike,
    group_size: npt.ArrayLike,
    stride: npt.ArrayLike = 1,
    *,
    fabrics: tuple[Fabric, ...] | None = None,
) -> Column:
    """Seconds of a collective, with the algorithm that the vendor's library would choose.

    Parameters
    ----------
    machine : Machine
    kind : str
        One of `KINDS`.
    num_bytes : array_like
        Whole buffer of one rank: output of an all-gather, input of a reduce-scatter, the buffer of an all-reduce or a
        broadcast, what a rank sends in an all-to-all (its own share included), the message of a send.
    group_size : array_like
        Ranks of one group; a group of one takes no time.
    stride : array_like, optional
        Distance in ranks between neighbours of the group.
    fabrics : tuple of Fabric, optional
        Constants to use instead of the shipped profile.

    Returns
    -------
    array of float
        Seconds, in the broadcast shape.

    Raises
    ------
    PlanError
        Unknown kind, negative bytes, or a group or stride below one.
    """
    return _evaluate(machine, kind, num_bytes, group_size, stride, fabrics)[0]


def algorithm(
    machine: Machine,
    kind: str,
    num_bytes: npt.ArrayLike,
    group_size: npt.ArrayLike,
    stride: npt.ArrayLike = 1,
    *,
    fabrics: tuple[Fabric, ...] | None = None,
) -> npt.NDArray[np.str_]:
    """Names of the algorithms behind `collective_s`, of the outermost tier that the group spans; ``none`` for one rank."""
    _, choice, names = _evaluate(machine, kind, num_bytes, group_size, stride, fabrics)
    return np.asarray(names)[choice.astype(np.int64)]


from fullmesh.cost.collectives_experts import expert_all_to_all_s  # noqa: E402

__all__ = [
    "KINDS",
    "PASSES",
    "Level",
    "algorithm",
    "collective_s",
    "expert_all_to_all_s",
    "levels_of",
    "term_s",
]

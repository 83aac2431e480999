"""Seconds of collectives on a machine's tiers: the closed form of each algorithm, with fitted constants.

All functions take columns and broadcast. A group of ``p`` ranks whose neighbours lie ``stride`` ranks apart has
``min(p, max(1, domain / stride))`` members in every domain of a tier; all such groups of the machine run at once, so
every rank has its own port and its own network card. A collective that leaves a domain either runs level by level
(reduce-scatter inside, the operation outside on the shard, all-gather inside) or as one flat ring through all ranks
that uses every network card of a node. Sources of the forms: Thakur, Rabenseifner and Gropp 2005 for the step counts;
the documented cost model of HCCL; NCCL's bandwidth convention (``nccl-tests`` PERFORMANCE.md); constants in
``data/profiles/collectives.json``.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from fullmesh.cost.collectives.constants import RAMP_BYTES, Column, Fabric, Term, find_fabric, load_fabrics
from fullmesh.cost.collectives.experts import expert_all_to_all_s
from fullmesh.cost.collectives.levels import CROWD_RANKS, Level, levels_of
from fullmesh.errors import PlanError
from fullmesh.machine.hardware import Machine

__all__ = ["KINDS", "PASSES", "algorithm", "collective_s", "expert_all_to_all_s", "term_s"]

KINDS = ("all_reduce", "all_gather", "reduce_scatter", "all_to_all", "send_recv", "broadcast")
#: Times that a rank's buffer passes its port, in units of (p - 1) / p of it.
PASSES: dict[str, float] = {
    "all_reduce": 2.0,
    "all_gather": 1.0,
    "reduce_scatter": 1.0,
    "all_to_all": 1.0,
    "broadcast": 1.0,
}
#: Seconds, index of the algorithm on the outermost level that a group spans, and the names.
Timed = tuple[Column, Column, list[str]]


def _steps(term: Term, ranks: Column) -> Column:
    if term.steps == "one":
        count = (ranks > 1).astype(np.float64)
    elif term.steps == "log2":
        count = np.ceil(np.log2(np.maximum(ranks, 1.0)))
    else:
        count = ranks - 1.0
    return count


def term_s(
    term: Term,
    num_bytes: Column,
    ranks: Column,
    line_bytes_per_s: Column,
    inside: Column | float = 1.0,
    inner_step: float = 0.0,
) -> Column:
    """Seconds of one algorithm between ``ranks`` domains of a level.

    Parameters
    ----------
    num_bytes : array, bytes
        What one rank brings to this level, in the sense of `collective_s`.
    ranks : array
        Domains of the level below that take part.
    line_bytes_per_s : array
        Line rate per rank and direction.
    inside : array, optional
        Ranks inside each domain: a flat ring runs through all of them.
    inner_step : float, optional
        Latency of a step inside a domain in units of ``term.step_s``.
    """
    if term.in_network:
        wire = num_bytes * (ranks + 1.0) / ranks
    elif term.kind in ("send_recv", "broadcast"):
        wire = num_bytes
    else:
        through = ranks * inside if term.flat else ranks
        wire = PASSES[term.kind] * num_bytes * (through - 1.0) / through
    steps = _steps(term, ranks)
    if term.flat:
        steps = steps + inner_step * ranks * (inside - 1.0)
    if term.kind == "all_reduce" and not term.in_network:
        steps = 2.0 * steps
    ramp = term.ramp_s * (wire / RAMP_BYTES) ** term.power
    seconds = (
        term.launch_s
        + term.step_s * steps
        + (ramp * np.sqrt(steps) if term.pipelined else ramp)
        + wire
        * (1.0 + term.spread / ranks**2)
        * np.maximum(1.0, ranks / CROWD_RANKS) ** term.crowd
        / (term.fraction * line_bytes_per_s)
    )
    return np.where(ranks > 1, seconds, 0.0)


def _terms(fabric: Fabric, level: Level, kind: str) -> list[Term]:
    reducing = all(t.in_network_reduction for t in level.tiers)
    return [t for t in fabric.terms if t.kind == kind and (reducing or not t.in_network)]


def _fastest(
    inside: Column, offers: Sequence[tuple[Term, Column]], names: list[str]
) -> tuple[Column, npt.NDArray[np.float64]]:
    """Seconds of a level beside those of the levels ``inside``, and the index in ``names`` of the algorithm taken.

    ``offers`` are the terms with the seconds of the level alone, infinite where a term may not run; algorithms that
    ``names`` lacks are added.
    """
    best = np.full_like(inside, np.inf)
    taken = np.zeros(inside.shape)
    for term, alone in offers:
        seconds = np.maximum(inside, alone) + term.serial * np.minimum(inside, alone)
        if term.algorithm not in names:
            names.append(term.algorithm)
        taken = np.where(seconds < best, names.index(term.algorithm), taken)
        best = np.minimum(best, seconds)
    return best, taken


def _exchange(
    machine: Machine, kind: str, num_bytes: Column, levels: Sequence[Level], fabrics: tuple[Fabric, ...]
) -> Timed:
    """All-reduce, all-gather, reduce-scatter, broadcast: level by level, the fastest algorithm of each that may run."""
    total = np.zeros_like(num_bytes)
    choice = np.zeros(num_bytes.shape)
    names = ["none"]
    for below, level in zip((None, *levels), levels, strict=False):
        fabric = find_fabric(fabrics, machine, level.tiers[-1])
        if level.kind == "package" and len(levels) > 1:
            # its links are no part of the ports outside: they carry the share of the package at the same time
            ranks, buffer = level.ranks, num_bytes * level.members / levels[levels.index(level) + 1].members
        elif below is not None and below.kind == "package":
            # every other die outside the package is a peer: hand a term the buffer whose share this port carries
            ranks = level.outside + 1.0
            buffer = num_bytes * ranks / level.members
        else:
            ranks, buffer = level.ranks, num_bytes / level.inside
        if not (ranks > 1).any():
            continue  # nobody leaves the level below
        line = level.line_bytes_per_s(ranks - 1.0)
        # a bound speaks of this level's own exchange: more nodes outside do not change what runs inside one
        share = buffer / ranks if kind in ("all_gather", "reduce_scatter") else buffer
        offers = []
        taken = np.zeros(num_bytes.shape, dtype=bool)
        # the library takes a bounded algorithm whenever it may, so those come first and close the choice
        for term in sorted(_terms(fabric, level, kind), key=lambda t: t.up_to_bytes is None):
            allowed = ~taken
            if term.single:
                allowed &= level.inside == 1
            if term.up_to_bytes is not None:
                allowed &= (share <= term.up_to_bytes) & (level.members <= term.up_to_ranks)
                taken = taken | allowed
            if not allowed.any():
                continue
            seconds = term_s(term, buffer, ranks, line, level.inside, fabric.inner_step)
            offers.append((term, np.where(allowed, seconds, np.inf)))
        best, local = _fastest(total, offers, names)
        total = np.where(ranks > 1, best, total)
        choice = np.where(ranks > 1, local, choice)
    return total, choice, names


def _all_to_all(
    machine: Machine, num_bytes: Column, levels: Sequence[Level], fabrics: tuple[Fabric, ...]
) -> Timed:
    """Each level carries the share of a rank's bytes whose peer lies in another domain of the level below."""
    total = np.zeros_like(num_bytes)
    choice = np.zeros(num_bytes.shape)
    names = ["none"]
    group = levels[-1].members
    for level in levels:
        fabric = find_fabric(fabrics, machine, level.tiers[-1])
        peers = level.outside
        if not (peers > 0).any():
            continue  # nobody leaves the level below
        # a term takes (ranks - 1) / ranks of a buffer: hand it the buffer whose share is what this level carries
        ranks = peers + 1.0
        buffer = num_bytes * ranks / group
        line = level.line_bytes_per_s(peers)
        terms = _terms(fabric, level, "all_to_all")
        best, local = _fastest(total, [(t, term_s(t, buffer, ranks, line)) for t in terms], names)
        total = np.where(peers > 0, best, total)
        choice = np.where(peers > 0, local, choice)
    return total, choice, names


def _send_recv(
    machine: Machine, num_bytes: Column, levels: Sequence[Level], fabrics: tuple[Fabric, ...]
) -> Timed:
    """One message to a neighbour over the outermost level that the group spans: the slowest pair sets the pace."""
    total = np.zeros_like(num_bytes)
    for level in levels:
        fabric = find_fabric(fabrics, machine, level.tiers[-1])
        if not (level.ranks > 1).any():
            continue
        pair = np.where(level.ranks > 1, 2.0, 1.0)
        line = level.line_bytes_per_s(np.ones_like(pair))
        ways = [term_s(t, num_bytes, pair, line) for t in _terms(fabric, level, "send_recv")]
        seconds = np.minimum.reduce(ways) + level.latency_s
        total = np.where(level.ranks > 1, seconds, total)
    return total, np.where(total > 0, 1.0, 0.0), ["none", "message"]


def _evaluate(
    machine: Machine,
    kind: str,
    num_bytes: npt.ArrayLike,
    group_size: npt.ArrayLike,
    stride: npt.ArrayLike,
    fabrics: tuple[Fabric, ...] | None,
) -> Timed:
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
    """Names of the algorithms behind `collective_s`, on the outermost tier that the group spans, ``none`` for one."""
    _, choice, names = _evaluate(machine, kind, num_bytes, group_size, stride, fabrics)
    return np.asarray(names)[choice.astype(np.int64)]

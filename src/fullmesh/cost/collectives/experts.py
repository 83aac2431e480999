"""Seconds of expert dispatch and combine: who is hit, what crosses which wire, how well a library fills it.

A plain all-to-all sends every copy of a token to its expert's rank. The libraries made for experts (DeepEP, HybridEP,
and their Ascend twins) send a token once to each rank, and over network cards once to each node, where it is forwarded.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from fullmesh.cost.collectives.constants import (
    RAMP_BYTES,
    Column,
    Experts,
    Fabric,
    find_fabric,
    load_fabrics,
)
from fullmesh.cost.collectives.levels import CROWD_RANKS, levels_of
from fullmesh.errors import CatalogError, PlanError
from fullmesh.machine.hardware import Machine

PHASES = ("dispatch", "combine")
DISPATCHERS = ("alltoall", "deepep", "hybridep")
# the library whose exchange was measured on every kind of link
_MEASURED = "deepep"


def expected_hit(groups: npt.ArrayLike, num_experts: npt.ArrayLike, topk: npt.ArrayLike) -> Column:
    """Expected number of distinct groups that ``topk`` different experts, drawn evenly, lie in.

    A group of ``num_experts / groups`` experts is missed with the hypergeometric probability of drawing none of them.

    Parameters
    ----------
    groups, num_experts, topk : array_like
        Groups of equal size, experts in all, experts drawn.

    Returns
    -------
    array of float
        Between one and the smaller of ``groups`` and ``topk``.
    """
    g, e, k = np.broadcast_arrays(*(np.asarray(c, dtype=np.float64) for c in (groups, num_experts, topk)))
    share = e / g
    missed = np.ones(g.shape)
    for drawn in range(int(np.ceil(k.max())) if k.size else 0):
        left = np.clip((e - share - drawn) / np.maximum(e - drawn, 1.0), 0.0, 1.0)
        missed = np.where(drawn < k, missed * left, missed)
    return g * (1.0 - missed)


def _term(fabric: Fabric, dispatcher: str, phase: str) -> Experts:
    for term in fabric.experts:
        if term.phase == phase and dispatcher in term.dispatchers:
            return term
    raise CatalogError(
        f"no fitted {phase} of {dispatcher} on a {fabric.kind} tier",
        where="collectives.json",
        hint="use alltoall",
    )


def _wire_s(term: Experts, wire: Column, ranks: Column, line_bytes_per_s: Column) -> Column:
    crowd = np.maximum(1.0, ranks / CROWD_RANKS) ** term.crowd
    return wire * (1.0 + term.spread / ranks**2) * crowd / (term.fraction * line_bytes_per_s)


def _start_s(term: Experts, tokens: Column, wire: Column, ranks: Column) -> Column:
    return np.asarray(
        term.launch_s
        + term.token_s * tokens
        + term.step_s * np.log2(ranks)
        + term.ramp_s * (wire / RAMP_BYTES) ** term.power
    )


def experts_s(
    machine: Machine,
    phase: str,
    dispatcher: str,
    tokens: Column,
    bytes_per_token: Column,
    hit_ranks: Column,
    hit_nodes: Column,
    ep: Column,
    stride: Column,
    fabrics: tuple[Fabric, ...],
) -> Column:
    """Seconds of one phase, given how many ranks and nodes a token goes to.

    Parameters
    ----------
    tokens, bytes_per_token : array
        Tokens that one rank dispatches, and bytes of one token.
    hit_ranks, hit_nodes : array
        Distinct ranks and scale-up domains that a token goes to, its own included.
    ep, stride : array
    """
    levels = levels_of(machine, ep, stride)
    inner = [level for level in levels if level.kind != "rail"]
    local = inner[-1].members if inner else np.ones_like(ep)
    nodes = np.ceil(ep / local)
    token_bytes = tokens * bytes_per_token
    total = np.zeros_like(token_bytes)
    if inner:
        term = _term(find_fabric(fabrics, machine, inner[-1].tiers[-1]), dispatcher, phase)
        wire = token_bytes * hit_ranks * (local - 1.0) / local
        forward = _wire_s(term, wire, local, inner[-1].line_bytes_per_s(local - 1.0))
        total = _start_s(term, tokens, wire, local) + forward
        total = np.where(local > 1, total, 0.0)
    if levels[-1].kind != "rail" or not (nodes > 1).any():
        return total
    term = _term(find_fabric(fabrics, machine, levels[-1].tiers[-1]), dispatcher, phase)
    wire = token_bytes * hit_nodes * (nodes - 1.0) / nodes
    leave = _wire_s(term, wire, nodes, levels[-1].line_bytes_per_s(nodes))
    inside = forward if inner else np.zeros_like(leave)
    outside = _start_s(term, tokens, wire, nodes) + (leave**term.blend + inside**term.blend) ** (
        1.0 / term.blend
    )
    return np.where(nodes > 1, outside, total)


def expert_all_to_all_s(
    machine: Machine,
    tokens: npt.ArrayLike,
    hidden_bytes_dispatch: npt.ArrayLike,
    hidden_bytes_combine: npt.ArrayLike,
    topk: npt.ArrayLike,
    ep: npt.ArrayLike,
    stride: npt.ArrayLike = 1,
    *,
    num_experts: npt.ArrayLike,
    node_limit: npt.ArrayLike | None = None,
    dispatcher: str = "alltoall",
    fabrics: tuple[Fabric, ...] | None = None,
) -> tuple[Column, Column]:
    """Seconds to send every token to its experts, and to bring the results back.

    Parameters
    ----------
    machine : Machine
    tokens : array_like
        Tokens that one rank dispatches.
    hidden_bytes_dispatch, hidden_bytes_combine : array_like, bytes
        Bytes of one token on the way out (with its scales) and back.
    topk : array_like
        Routed experts of a token.
    ep, stride : array_like
        Ranks that share the experts, and the distance between neighbours.
    num_experts : array_like
        Routed experts of a layer.
    node_limit : array_like, optional
        Most groups of ranks of one scale-up domain that a token may be sent to (node-limited routing).
    dispatcher : {"alltoall", "deepep", "hybridep"}
        Plain all-to-all of every copy, or a library that sends a token once per rank and once per node.
    fabrics : tuple of Fabric, optional
        Constants to use instead of the shipped profile.

    Returns
    -------
    dispatch_s, combine_s : array of float
        Zero for a group of one.

    Raises
    ------
    PlanError
        Unknown dispatcher, negative tokens or bytes, or a count below one.
    """
    if dispatcher not in DISPATCHERS:
        raise PlanError(
            f"unknown expert dispatcher {dispatcher!r}", expected="one of " + ", ".join(DISPATCHERS)
        )
    limit = np.inf if node_limit is None else node_limit
    t, out, back, k, p, step, e, most = _columns(
        (tokens, hidden_bytes_dispatch, hidden_bytes_combine), (topk, ep, stride, num_experts, limit)
    )
    known = load_fabrics() if fabrics is None else fabrics
    if dispatcher == "alltoall":
        return _plain_s(machine, t, (out, back), k, p, step, known)
    inner = [level.members for level in levels_of(machine, p, step) if level.kind != "rail"]
    nodes = np.ceil(p / inner[-1]) if inner else p
    chosen = np.minimum(nodes, most)
    # with a limit the experts of a token are drawn from the chosen nodes alone
    hit_nodes = expected_hit(chosen, e * chosen / nodes, np.minimum(k, e * chosen / nodes))
    hit_ranks = expected_hit(np.maximum(p * chosen / nodes, 1.0), e * chosen / nodes, k)
    dispatch, combine = (
        experts_s(machine, phase, dispatcher, t, width, hit_ranks, hit_nodes, p, step, known)
        for phase, width in zip(PHASES, (out, back), strict=True)
    )
    return dispatch, combine


def _columns(amounts: Sequence[npt.ArrayLike], counts: Sequence[npt.ArrayLike]) -> tuple[Column, ...]:
    """Amounts of at least zero and counts of at least one as columns of one shape."""
    columns = np.broadcast_arrays(*(np.asarray(c, dtype=np.float64) for c in (*amounts, *counts)))
    for i, column in enumerate(columns):
        if column.size and column.min() < (0 if i < len(amounts) else 1):
            raise PlanError(
                "experts need tokens and bytes of at least 0; topk, ep, stride and experts of at least 1"
            )
    return columns


def _plain_s(
    machine: Machine,
    tokens: Column,
    widths: tuple[Column, Column],
    topk: Column,
    ep: Column,
    stride: Column,
    fabrics: tuple[Fabric, ...],
) -> tuple[Column, Column]:
    """Every copy of a token to its expert's rank by an ordinary all-to-all, and back.

    It is no faster than the same copies by the libraries that were measured doing this on the same links: uneven
    counts and many small pieces cost it what they cost them.
    """
    from fullmesh.cost.collectives.algorithms import collective_s

    levels = levels_of(machine, ep, stride)
    inner = [level.members for level in levels if level.kind != "rail"]
    nodes = np.ceil(ep / inner[-1]) if inner else ep
    dispatch, combine = (
        np.maximum(
            collective_s(machine, "all_to_all", tokens * topk * width, ep, stride, fabrics=fabrics),
            experts_s(
                machine,
                phase,
                _MEASURED,
                tokens,
                width,
                topk,
                np.where(nodes > 1, topk, 0.0),
                ep,
                stride,
                fabrics,
            ),
        )
        for phase, width in zip(PHASES, widths, strict=True)
    )
    return dispatch, combine

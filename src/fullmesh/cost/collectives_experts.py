"""Seconds of expert dispatch and combine: who is hit, what crosses which wire, how well a library fills it."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from fullmesh.cost.collectives_profile import Column
from fullmesh.errors import PlanError
from fullmesh.machine.types import Machine


def expected_hit(groups: Column, num_experts: Column, topk: Column) -> Column:
    """Expected number of distinct groups hit by ``topk`` different experts, spread evenly over ``groups``.

    A group of ``num_experts / groups`` experts is missed with the hypergeometric probability of drawing none of them.
    """
    share = num_experts / groups
    missed = np.ones(np.broadcast_shapes(groups.shape, num_experts.shape, topk.shape))
    for drawn in range(int(topk.max()) if topk.size else 0):
        left = np.clip((num_experts - share - drawn) / np.maximum(num_experts - drawn, 1.0), 0.0, 1.0)
        missed = np.where(drawn < topk, missed * left, missed)
    return groups * (1.0 - missed)


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
) -> tuple[Column, Column]:
    """Seconds to send every token to its experts, and to bring the results back."""
    from fullmesh.cost.collectives import collective_s, levels_of

    if dispatcher not in ("alltoall", "deepep", "hybridep"):
        raise PlanError(f"unknown expert dispatcher {dispatcher!r}", expected="alltoall, deepep or hybridep")
    t, hd, hc, k, p, st, ne = np.broadcast_arrays(
        *(
            np.asarray(c, dtype=np.float64)
            for c in (tokens, hidden_bytes_dispatch, hidden_bytes_combine, topk, ep, stride, num_experts)
        )
    )
    if dispatcher == "alltoall":
        return (
            collective_s(machine, "all_to_all", t * k * hd, p, st),
            collective_s(machine, "all_to_all", t * k * hc, p, st),
        )
    levels = levels_of(machine, p, st)
    rail = levels[-1].kind == "rail"
    local = levels[-2].members if rail and len(levels) > 1 else p
    nodes = np.ceil(p / local)
    limit = nodes if node_limit is None else np.minimum(np.asarray(node_limit, dtype=np.float64), nodes)
    hit_nodes = np.minimum(expected_hit(nodes, ne, k), limit)
    hit_ranks = expected_hit(p, ne, k)
    out = []
    for width in (hd, hc):
        inside = collective_s(machine, "all_to_all", t * width * hit_ranks, local, st)
        across = np.where(
            nodes > 1, collective_s(machine, "all_to_all", t * width * hit_nodes, nodes, st * local), 0.0
        )
        out.append(np.maximum(inside, across))
    return out[0], out[1]

"""Traffic that only tests ask for, made of the parts of `fullmesh.network.flow.traffic`."""

from __future__ import annotations

import numpy as np

from fullmesh.errors import TopologyError
from fullmesh.network.flow.traffic import Flows, Router, _sample_size, _token_copies, make_flows
from fullmesh.network.wiring.links import LongArray


def expert_traffic_by_node(
    members: LongArray, router: Router, *, tokens_per_rank: int, bytes_per_token: float, ranks_per_node: int
) -> tuple[Flows, Flows]:
    """Dispatch that crosses to each node once: first to the rank of equal place there, then on inside the node.

    Returns
    -------
    tuple of Flows
        Between nodes, and inside them.

    Raises
    ------
    TopologyError
        As `expert_traffic`, and ranks that are not whole nodes.
    """
    n, sample = len(members), _sample_size(router, len(members), tokens_per_rank)
    if n % ranks_per_node:
        raise TopologyError(f"{n} ranks in nodes of {ranks_per_node}", expected="whole nodes")
    nodes = n // ranks_per_node
    across, inside = np.zeros((n, n)), np.zeros((n, n))
    for rank, copies in enumerate(_token_copies(router, n, sample)):
        there = np.minimum(copies, 1.0).reshape(sample, nodes, ranks_per_node)
        landing = np.arange(nodes) * ranks_per_node + rank % ranks_per_node
        across[rank, landing] += there.any(axis=2).sum(axis=0)
        inside[np.repeat(landing, ranks_per_node), np.arange(n)] += there.sum(axis=0).ravel()
    i, j = (x.ravel() for x in np.indices((n, n)))
    at, scale = np.asarray(members), bytes_per_token * tokens_per_rank / sample
    return make_flows(at[i], at[j], across.ravel() * scale), make_flows(at[i], at[j], inside.ravel() * scale)

"""Which algorithm the communication libraries pick: NCCL by its tuner's own time model, HCCL by its documented rules.

These constants are the libraries' own idea of the hardware; they predict the choice, not the time.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from typing import Any

from fullmesh.data import DATA_DIR
from fullmesh.errors import TopologyError
from fullmesh.network.collective_steps import Kind


@functools.cache
def _constants() -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((DATA_DIR / "facts" / "libraries.json").read_text("utf-8"))
    return loaded


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """An algorithm, its protocol and the library's own estimate of the time."""

    algorithm: str
    protocol: str
    library_s: float


def nccl_choice(
    kind: Kind,
    num_bytes: float,
    *,
    generation: str,
    ranks_per_node: int,
    num_nodes: int = 1,
    nic_bytes_per_s: float = 0.0,
    reduction_in_switch: bool = True,
) -> Choice:
    """What NCCL's tuner picks.

    Parameters
    ----------
    generation : {"ampere", "hopper", "blackwell"}
    ranks_per_node, num_nodes : int
    nic_bytes_per_s : float
        Network card of one GPU; needed for more than one node.
    reduction_in_switch : bool
        NVSwitches that reduce (NVLink SHARP), used from five ranks on.

    Returns
    -------
    Choice
        The smallest estimate ``latency + bytes / bandwidth`` over all algorithms and protocols.

    Notes
    -----
    Time model and constants: NVIDIA/nccl ``src/graph/tuning.cc`` and ``topo.h`` at 5067397c.
    """
    data = _constants()["nccl"]
    if generation not in data["link_gbps"]:
        raise TopologyError(f"NCCL constants of {generation!r}", expected=", ".join(data["link_gbps"]))
    if kind == "all_to_all":
        return Choice(algorithm="direct", protocol="simple", library_s=0.0)
    p = ranks_per_node * num_nodes
    inside = data["link_gbps"][generation] * data["links"][generation]
    wire = inside if num_nodes == 1 else min(inside, nic_bytes_per_s / 1e9 * ranks_per_node)
    steps = 2 * (p - 1) if kind == "all_reduce" else p - 1
    between = 0 if num_nodes == 1 else (2 * (num_nodes - 1) if kind == "all_reduce" else num_nodes - 1)
    scale = 0 if num_nodes == 1 else (1 if num_nodes == 2 else 2)
    low_max = data["ll_max_gbps"][generation][scale]
    best: Choice | None = None

    def offer(algorithm: str, protocol: str, latency_us: float, gbps: float) -> None:
        nonlocal best
        seconds = latency_us * 1e-6 + num_bytes / (gbps * 1e9)
        if best is None or seconds < best.library_s:
            best = Choice(algorithm=algorithm, protocol=protocol, library_s=seconds)

    tree_hops = 2 * ((ranks_per_node - 1), max(num_nodes - 1, 0).bit_length())[1] if num_nodes > 1 else 0
    for i, protocol in enumerate(("ll", "ll128", "simple")):
        cap = (min(low_max, wire / 2), wire * 0.92, wire)[i]
        hop, net = data["hop_us"]["ring"]["nvlink"][i], data["hop_us"]["ring"]["net"][i]
        latency = data["base_us"]["ring"][i] + (steps - between) * hop + between * net
        if protocol == "simple" and num_nodes > 1 and kind == "all_reduce" and num_bytes / p >= 64:
            latency *= data["ring_plateau"]
        offer("ring", protocol, latency, cap * p / steps)
        if kind == "all_reduce":
            tree = wire * 0.92
            tree = (tree / 3.8, tree * (7 / 9 if num_nodes == 1 else 120 / 128), tree)[i]
            hop, net = data["hop_us"]["tree"]["nvlink"][i], data["hop_us"]["tree"]["net"][i]
            latency = data["base_us"]["tree"][i] + 2 * (ranks_per_node - 1) * hop + tree_hops * net
            offer("tree", protocol, latency, tree / 2)
    if reduction_in_switch and generation != "ampere" and ranks_per_node > 4:
        channels = data["nvls_channels"]
        rate = inside * data["nvls_efficiency"][generation] * (channels - 1) / channels
        if num_nodes == 1:
            gain = 1.0 if kind == "all_reduce" else (p - 1) / p * 0.5
            offer("nvls", "simple", data["hop_us"]["nvls"]["nvlink"], rate * gain)
        elif kind == "all_reduce":
            hops = 2 * max(num_nodes - 1, 1).bit_length()
            latency = data["hop_us"]["nvls_tree"]["nvlink"] + hops * data["hop_us"]["nvls_tree"]["net"]
            offer("nvls-tree", "simple", latency, min(rate, wire) / 2)
    assert best is not None
    return best


def hccl_choice(
    kind: Kind,
    num_bytes: float,
    *,
    mesh: bool,
    ranks_per_server: int,
    num_servers: int = 1,
    server_bytes_per_s: float = 0.0,
) -> Choice:
    """What HCCL picks, by its documentation.

    Inside a server the topology decides: full-mesh links give mesh, a switch gives the one-step algorithm too. Between
    servers the smallest Hockney estimate of ring, NHR and halving-doubling wins, ties in that order; an all-to-all is
    grouped full mesh.

    Parameters
    ----------
    mesh : bool
        Whether the server's devices are a full mesh of links.
    server_bytes_per_s : float
        Rate between servers of one rank; needed for more than one server.
    """
    data = _constants()["hccl"]
    if num_servers == 1:
        if kind == "all_reduce" and num_bytes <= data["one_shot_bytes"]:
            return Choice(algorithm="one-shot", protocol="mesh" if mesh else "switch", library_s=0.0)
        return Choice(algorithm="direct", protocol="mesh" if mesh else "switch", library_s=0.0)
    if kind == "all_to_all":
        return Choice(algorithm="direct", protocol="grouped-full-mesh", library_s=0.0)
    alpha, beta = data["step_us"] * 1e-6, 1.0 / server_bytes_per_s
    n, size = num_servers, num_bytes / ranks_per_server
    twice = 2 if kind == "all_reduce" else 1
    volume = twice * (n - 1) / n * size * beta
    log = (n - 1).bit_length()
    # Servers beyond the power of two hand their buffer over first and get the result back at the end.
    merge = 0.0 if n & (n - 1) == 0 else 2 * (alpha + size * beta)
    estimates = [
        ("ring", twice * (n - 1) * alpha + volume),
        ("nhr", twice * log * alpha + volume),
        ("halving-doubling", twice * (n.bit_length() - 1) * alpha + volume + merge),
    ]
    name, seconds = min(estimates, key=lambda e: e[1])
    return Choice(algorithm=name, protocol="between servers", library_s=seconds)

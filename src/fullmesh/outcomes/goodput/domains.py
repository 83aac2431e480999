"""Fault domains of a machine as it is wired: how many members each has, and what a fault of one does to a job."""

from __future__ import annotations

import dataclasses
import math

from fullmesh.catalog.faults import DOMAINS, FaultRate
from fullmesh.machine import Machine
from fullmesh.machine.hardware import Tier
from fullmesh.machine.wiring import ClosShape, FatTreeShape, TierWiring, complete_wirings

#: domains of which one member serves several nodes: in-memory copies of a whole neighbourhood go with it
WIDE = ("rack", "coolant", "switch")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ScaleUp:
    """The switches of the scale-up fabric, of one instance of its outermost tier.

    Parameters
    ----------
    instances : float
        Of that tier in the machine.
    leaves, spines : int
        Switch chips of the first and second level.
    planes : int
        Independent planes; a leaf carries one plane of its node.
    links_per_node : int
        Links of one node above its leaves; 0 without a second level.
    modules : float
        Optical modules, both ends of each link.
    links_per_module : int
    """

    instances: float
    leaves: int
    spines: int
    planes: int
    links_per_node: int
    modules: float
    links_per_module: int


def is_supernode(machine: Machine) -> bool:
    """Whether a unit is several nodes in one scale-up fabric."""
    return machine.devices_per_unit > machine.devices_per_node


def scale_up(machine: Machine) -> ScaleUp | None:
    """The switched scale-up fabric; None for a mesh without switches."""
    tiers = {t.name: t for t in machine.tiers}
    for wiring in complete_wirings(machine.tiers, machine.wirings):
        inner = [tiers[n] for n in wiring.tiers if n in tiers]
        if inner and all(t.kind == "switch" for t in inner) and isinstance(wiring.shape, ClosShape):
            return _of_clos(machine, wiring.shape, inner)
    return None


def _of_clos(machine: Machine, shape: ClosShape, tiers: list[Tier]) -> ScaleUp:
    # counts are those of a whole unit, whatever part of it a small machine uses
    outer = tiers[-1].full_num_devices or tiers[-1].num_devices
    inner = tiers[0].full_num_devices or tiers[0].num_devices
    per_leaf = inner if len(tiers) > 1 else outer
    planes = len(shape.links_per_plane)
    leaves = planes * math.ceil(outer / per_leaf)
    spines = planes * shape.spines
    nodes = max(outer // machine.devices_per_node, 1)
    links = leaves * shape.spines
    modules = 2.0 * links / shape.links_per_module if shape.links_per_module else 0.0
    return ScaleUp(
        instances=machine.num_devices / outer,
        leaves=leaves,
        spines=spines,
        planes=planes,
        links_per_node=links // nodes if shape.spines else 0,
        modules=modules,
        links_per_module=shape.links_per_module,
    )


def _rail(machine: Machine) -> tuple[Tier, TierWiring] | None:
    for wiring in complete_wirings(machine.tiers, machine.wirings):
        for tier in machine.tiers:
            if tier.name in wiring.tiers and tier.kind == "rail":
                return tier, wiring
    return None


def _leaves(machine: Machine, wiring: TierWiring) -> tuple[float, float]:
    """Leaves and spines of the scale-out network: as many leaves as the wiring says, half as many switches above."""
    nodes = machine.num_devices / machine.devices_per_node
    shape = wiring.shape
    if isinstance(shape, ClosShape):
        groups = math.ceil(nodes / (shape.nodes_per_leaf or nodes))
        leaves = float(groups * shape.rails)
    elif isinstance(shape, FatTreeShape):
        leaves = float(math.ceil(2 * machine.num_devices / shape.radix))
    else:
        return 1.0, 0.0
    return leaves, leaves / 2.0 if leaves > 1 else 0.0


def members(machine: Machine) -> dict[str, float]:
    """Members of every fault domain in a machine of this size.

    A network card serves one package; a cable joins it to its leaf and counts with the modules at its ends; modules
    above the leaves are ``optical``, with those of the scale-up fabric. Racks and coolant units are those of machines
    that are sold as racks or supernodes, or by the catalog's share of a rack.
    """
    nodes = machine.num_devices / machine.devices_per_node
    packages = float(machine.num_packages)
    racks = (machine.racks_per_unit or 0.0) * machine.num_units or nodes / 4.0
    rail = _rail(machine)
    leaves, spines = _leaves(machine, rail[1]) if rail else (0.0, 0.0)
    up = scale_up(machine)
    cards = packages if rail else 0.0
    above = 2.0 * cards if spines else 0.0
    scale_up_links = up.modules * up.instances / 2.0 * up.links_per_module if up else 0.0
    out = dict.fromkeys(DOMAINS, 0.0)
    out |= {
        "die": float(machine.num_devices),
        "package": packages,
        "board": nodes,
        "node": nodes,
        "rack": racks,
        "l1": up.leaves * up.instances if up else 0.0,
        "l2": up.spines * up.instances if up else 0.0,
        "optical": above + (up.modules * up.instances if up else 0.0),
        "cable": cards,
        "nic": cards,
        "switch": leaves,
        "spine": spines,
        "power": nodes,
        "coolant": racks if is_supernode(machine) else 0.0,
        "software": nodes,
        "silent": float(machine.num_devices),
        "straggler": nodes,
        "flap": cards * (2.0 if spines else 1.0) + scale_up_links,
    }
    return out


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Exposure:
    """One domain of a job: how many members, how often one fails, and what that does.

    Parameters
    ----------
    rate : FaultRate
    members : float
    effect : str
        ``stop``, ``restart``, ``slow``, ``silent``, ``straggler`` or ``flap``.
    bandwidth_lost : float
        Share of the bandwidth of the node that loses most, for ``slow``.
    scale_up : bool
        Whether that is bandwidth of the scale-up fabric, or else of the network.
    """

    rate: FaultRate
    members: float
    effect: str
    bandwidth_lost: float = 0.0
    scale_up: bool = False

    @property
    def per_year(self) -> float:
        """Faults a year of all members."""
        return self.members * self.rate.rate_per_year


def exposures(machine: Machine, rates: tuple[FaultRate, ...]) -> tuple[Exposure, ...]:
    """The domains of a job that uses the whole machine, with what a fault of each does there.

    In a scale-up fabric of two levels a lost chip, module or link costs bandwidth: of a second-level chip every node
    loses its share, of a first-level chip one node loses a plane, of a module one node loses its links. Where one
    level of switches joins the devices, every chip is needed and its loss stops the job.
    """
    counts = members(machine)
    up = scale_up(machine)
    rail = _rail(machine)
    shape = rail[1].shape if rail else None
    uplinks = (shape.nodes_per_leaf or 1) * machine.devices_per_node if isinstance(shape, ClosShape) else 1
    two_levels = up is not None and up.spines > 0
    out = []
    for rate in rates:
        effect, lost, inner = rate.effect, 0.0, False
        if effect in ("fabric", "slow"):
            domain = rate.domain
            effect = "slow"
            if domain in ("l1", "l2"):
                inner = True
                if not two_levels:
                    effect = "stop"
                elif up is not None:
                    lost = 1.0 / up.planes if domain == "l1" else 1.0 / up.spines
            elif domain == "optical" and two_levels and up is not None and up.modules:
                inner = True
                lost = up.links_per_module / up.links_per_node
            elif domain == "optical":
                lost = 1.0 / max(uplinks, 1)
            elif domain == "spine":
                lost = 1.0 / max(counts["spine"], 1.0)
            else:
                effect = "stop"
        if counts[rate.domain] > 0:
            out.append(
                Exposure(
                    rate=rate,
                    members=counts[rate.domain],
                    effect=effect,
                    bandwidth_lost=min(lost, 0.9),
                    scale_up=inner,
                )
            )
    return tuple(out)

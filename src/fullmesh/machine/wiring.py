"""How the devices of a machine are cabled: records that the tiers of the same machine give their figures to.

A wiring names the tiers that it realises and says only what a tier does not: how many planes, switches and links. Rates
of links, latencies and group sizes follow from the tiers, so that the list of tiers and the graph of links are two
readings of one description.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fullmesh.machine.hardware import Tier

DeviceBasis = Literal["gpu", "npu", "die"]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """Something besides devices that has links: CPUs, DPUs; ``per_node`` of them in every node.

    ``measured_item`` is the item of the catalog whose measured rows speak of the way from a device to it.
    """

    name: str
    per_node: int
    measured_item: str = ""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Attachment:
    """The port of every endpoint of one name into a wiring."""

    endpoint: str
    bytes_per_s: float


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ClosShape:
    """Leaf switches in parallel planes, with spines above them and cores above those where there are any.

    Parameters
    ----------
    links_per_plane : tuple of int
        Links of one device to the leaf of each plane; the port of the tier is shared among them evenly.
    nodes_per_leaf, nodes_per_pod : int or None
        Where no tier says it; None for all nodes.
    spines, cores : int
        Spine switches of each plane and pod; core switches behind each spine.
    rails : int
        Leaves side by side, each for its own devices of a node.
    uplink_bytes_per_s, corelink_bytes_per_s : float or None
        Links above leaves and above spines; None for that of a device, and for that of an uplink.
    attached : tuple of Attachment
        Endpoints that hang on the leaves too.
    switch_names : tuple of str
        Of leaf, spine and core.
    links_per_module : int
        Links between leaf and spine that one optical module carries; 0 where that is not known.
    relay_in_node : bool
        Traffic between rails first hops inside the node.
    """

    links_per_plane: tuple[int, ...] = (1,)
    nodes_per_leaf: int | None = None
    nodes_per_pod: int | None = None
    spines: int = 0
    cores: int = 0
    rails: int = 1
    uplink_bytes_per_s: float | None = None
    corelink_bytes_per_s: float | None = None
    attached: tuple[Attachment, ...] = ()
    switch_names: tuple[str, str, str] = ("leaf", "spine", "core")
    links_per_module: int = 0
    relay_in_node: bool = False

    @property
    def depth(self) -> int:
        """Levels of switches: 1 to 3."""
        return 1 + (self.spines > 0) + (self.cores > 0)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class FatTreeShape:
    """A three-level fat tree of equal switches with ``radix`` ports."""

    radix: int
    uplink_bytes_per_s: float | None = None
    switch_names: tuple[str, str, str] = ("leaf", "spine", "core")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class GridShape:
    """Direct links along every dimension of a grid: to all others of a line, or around it.

    Parameters
    ----------
    sizes : tuple of int
        Empty: one dimension, all devices of the tier.
    wrap : bool
        Rings (a torus) instead of full meshes.
    link_bytes_per_s : tuple of float
        One rate for each dimension; empty where all are equal and follow from the tier.
    link_name : str
    """

    sizes: tuple[int, ...] = ()
    wrap: bool = False
    link_bytes_per_s: tuple[float, ...] = ()
    link_name: str = ""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class DragonflyShape:
    """Groups of fully meshed routers, every pair of groups joined; rates that are None are those of a device."""

    devices_per_router: int
    routers_per_group: int
    global_per_router: int
    local_bytes_per_s: float | None = None
    global_bytes_per_s: float | None = None


Shape = ClosShape | FatTreeShape | GridShape | DragonflyShape


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class TierWiring:
    """The cabling of one tier, or of several that share the ports of a device.

    Parameters
    ----------
    name : str
        ``ub``; the tier's own name where there is only one.
    tiers : tuple of str
        Innermost first; empty for a network that joins endpoints alone.
    shape : Shape
    latency_s : float or None
        Of a wiring without tiers.
    efficiency, reduction_efficiency : float or None
        What the owner of the machine measured: share of the line rate that transfers, and reductions inside the
        switches, reach. None takes the fitted profile's.
    assumed : bool
        The machine file does not say how its tier is wired.
    source : str
    """

    name: str
    tiers: tuple[str, ...]
    shape: Shape
    latency_s: float | None = None
    efficiency: float | None = None
    reduction_efficiency: float | None = None
    assumed: bool = False
    source: str = ""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Cable:
    """One cable between two nodes by number (devices, then switches), the same in both directions."""

    a: int
    b: int
    bytes_per_s: float
    latency_s: float
    kind: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class CableList:
    """A fabric given link by link.

    Parameters
    ----------
    id, name, device_basis : str
    devices : tuple of str
        Names of the devices.
    switch_tiers : tuple of str
        The tier of each switch.
    cables : tuple of Cable
    source : str
    """

    id: str
    name: str
    device_basis: DeviceBasis
    devices: tuple[str, ...]
    switch_tiers: tuple[str, ...]
    cables: tuple[Cable, ...]
    source: str


def complete_wirings(tiers: Sequence[Tier], wirings: Sequence[TierWiring]) -> tuple[TierWiring, ...]:
    """All wirings of a machine, innermost first; a tier without one gets the plainest of its kind, marked assumed.

    Dies and meshes are direct links between all devices of the tier, a switch or a rail is one switch that does not
    block.
    """
    place = {tier.name: i for i, tier in enumerate(tiers)}
    wired = {name for wiring in wirings for name in wiring.tiers}
    plain = [
        TierWiring(
            name=tier.name,
            tiers=(tier.name,),
            shape=GridShape() if tier.kind in ("package", "mesh") else ClosShape(),
            assumed=True,
            source="not given: taken as direct links between all devices"
            if tier.kind in ("package", "mesh")
            else "not given: taken as one switch that does not block",
        )
        for tier in tiers
        if tier.name not in wired
    ]
    return tuple(
        sorted((*wirings, *plain), key=lambda w: min((place[name] for name in w.tiers), default=len(tiers)))
    )

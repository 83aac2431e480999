"""What breaks: links, modules, switches and planes, as a health mask over the same graph."""

from __future__ import annotations

import dataclasses
import re

import numpy as np

from fullmesh.errors import TopologyError, did_you_mean
from fullmesh.network.wiring.clos import ClosLayer
from fullmesh.network.wiring.links import Layer, LongArray
from fullmesh.network.wiring.topology import Topology


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """One class of broken parts.

    Attributes
    ----------
    part : str
        A switch tier, a kind of link, ``link``, ``links``, ``module`` or ``plane``.
    count : int or None
        How many, the first ones in wiring order (``links``: at random).
    share : float or None
        Or what share of all, at random.
    places : tuple of int
        Or exactly which ones.
    health : float
        Share of the rate that is left; 0 is dead.
    """

    part: str
    count: int | None = None
    share: float | None = None
    places: tuple[int, ...] = ()
    health: float = 0.0


_WHOLE, _DECIMAL = r"[0-9]{1,9}", r"[0-9]{0,9}\.?[0-9]{1,9}"
_FAILURE = re.compile(
    rf"([\w-]+)(?:=({_WHOLE})(%?)|=({_DECIMAL})%|@({_WHOLE}(?:,{_WHOLE})*))(?::({_DECIMAL}))?"
)


def parse_failure(text: str) -> Failure:
    """Read ``l2=1``, ``links=1%``, ``l2@0,16``, ``link=1:0.5`` (half its rate).

    Raises
    ------
    TopologyError
        Text of another form.
    """
    match = _FAILURE.fullmatch(text.strip())
    if match is None:
        raise TopologyError(
            f"cannot read the failure {text!r}",
            where="--fail",
            expected="part=count, part=share% or part@place,place, with :health where it only slows down",
            hint="for instance l2=1, links=1%, module@17, link=1:0.5",
        )
    part, whole, percent, decimal, places, health = match.groups()
    left = 0.0 if health is None else float(health)
    if not 0 <= left < 1:
        raise TopologyError(f"health {left} in {text!r}", where="--fail", expected="from 0 (dead) to below 1")
    if places:
        return Failure(part=part, places=tuple(int(p) for p in places.split(",")), health=left)
    if decimal or percent:
        share = float(decimal or whole) / 100
        if not 0 < share <= 1:
            raise TopologyError(f"share in {text!r}", where="--fail", expected="above 0 % and at most 100 %")
        return Failure(part=part, share=share, health=left)
    if int(whole) < 1:
        raise TopologyError(f"count in {text!r}", where="--fail", expected="at least 1")
    return Failure(part=part, count=int(whole), health=left)


def main_layer(topology: Topology) -> Layer:
    """The layer that failures without a name mean: the innermost beyond the package."""
    for layer in topology.layers:
        if layer.facts.tier_kind != "package":
            return layer
    return topology.layers[0]


def parts(topology: Topology) -> list[str]:
    """What can be named in a failure of this topology."""
    named = ["link", "links", *topology.switches.tiers, *topology.links.kinds]
    layer = main_layer(topology)
    mine = slice(layer.first_link, layer.first_link + layer.num_links)
    if (topology.links.module[mine] >= 0).any():
        named.append("module")
    if isinstance(layer, ClosLayer) and layer.num_planes > 1:
        named.append("plane")
    return named


def break_parts(topology: Topology, failures: list[Failure], seed: int = 0) -> Topology:
    """The topology with its failed parts; ``seed`` decides which where only a share or ``links`` is given.

    Raises
    ------
    TopologyError
        A part that the topology does not have, or more of it than there are.
    """
    health, dead = topology.health.copy(), topology.switch_dead.copy()
    for failure in failures:
        links, switches = _select(topology, failure, seed)
        both = np.concatenate([links, topology.links.peer[links].astype(np.int64)])
        health[both] = np.minimum(health[both], failure.health)
        if failure.health == 0:
            dead[switches] = True
    return topology.with_health(health, dead)


def _select(topology: Topology, failure: Failure, seed: int) -> tuple[LongArray, LongArray]:
    """Links that fail, one direction each, and switches."""
    layer, links = main_layer(topology), topology.links
    none = np.zeros(0, np.int64)
    index = np.arange(len(links))
    mine = (index >= layer.first_link) & (index < layer.first_link + layer.num_links)
    forward = links.peer > index
    if failure.part in topology.switches.tiers:
        of_tier = np.flatnonzero(topology.switches.tier == topology.switches.tiers.index(failure.part))
        chosen = of_tier[_choose(failure, len(of_tier), seed)]
        touched = np.isin(links.src, chosen + topology.num_endpoints) & (links.peer >= 0)
        return np.flatnonzero(touched), chosen
    if failure.part == "plane":
        if not isinstance(layer, ClosLayer) or layer.num_planes < 2:
            raise _unknown(topology, failure)
        planes = _choose(failure, layer.num_planes, seed)
        hit = mine & np.isin(links.plane, planes)
        nodes = np.unique(np.concatenate([links.src[hit], links.dst[hit]])) - topology.num_endpoints
        return np.flatnonzero(hit & forward), nodes[nodes >= 0].astype(np.int64)
    if failure.part == "module":
        modules = np.unique(links.module[mine & (links.module >= 0)])
        if not len(modules):
            raise _unknown(topology, failure)
        return np.flatnonzero(
            np.isin(links.module, modules[_choose(failure, len(modules), seed)]) & forward
        ), none
    if failure.part in ("link", "links"):
        last = links.kind[mine].max()  # the outermost cables of the layer, as between L1 and L2
        candidates = np.flatnonzero(mine & forward & (links.kind == last))
        random = failure.part == "links"
        return candidates[_choose(failure, len(candidates), seed, random=random)], none
    if failure.part in links.kinds:
        candidates = np.flatnonzero(forward & (links.kind == links.kinds.index(failure.part)))
        return candidates[_choose(failure, len(candidates), seed)], none
    raise _unknown(topology, failure)


def _unknown(topology: Topology, failure: Failure) -> TopologyError:
    known = parts(topology)
    return TopologyError(
        f"{topology.name} has no {failure.part!r}", where="--fail", expected=", ".join(known),
        hint=did_you_mean(failure.part, known),
    )  # fmt: skip


def _choose(failure: Failure, available: int, seed: int, *, random: bool = False) -> LongArray:
    if failure.places:
        if max(failure.places) >= available:
            raise TopologyError(
                f"{failure.part} {max(failure.places)} does not exist",
                where="--fail",
                expected=f"0 to {available - 1}",
            )
        return np.array(failure.places, np.int64)
    count = failure.count if failure.share is None else max(1, round(failure.share * available))
    assert count is not None
    if count > available:
        raise TopologyError(
            f"{count} failed {failure.part}, but there are {available}",
            where="--fail",
            expected=f"at most {available}",
        )
    if random or failure.share is not None:
        return np.sort(np.random.default_rng(seed).choice(available, count, replace=False)).astype(np.int64)
    return np.arange(count, dtype=np.int64)

"""Levels of a machine's fabric as one group of ranks sees them."""

from __future__ import annotations

import dataclasses

import numpy as np

from fullmesh.cost.collectives.constants import Column
from fullmesh.machine.hardware import Machine, Tier

#: Ranks up to which nothing collides.
CROWD_RANKS = 8.0


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

    @property
    def outside(self) -> Column:
        """Peers in other domains of the level below, of a rank in the smallest of these: it has the most to carry."""
        rest = self.members % self.inside
        return self.members - np.where(rest > 0, rest, self.inside)

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

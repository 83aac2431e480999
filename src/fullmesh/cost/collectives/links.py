"""Share of a tier's line rate that transfers reach, and reductions inside its switches: the fitted profile's links."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

from fullmesh.cost.collectives.constants import PROFILE, read_profile
from fullmesh.errors import CatalogError
from fullmesh.machine.hardware import Machine, Tier


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class LinkShare:
    """What was measured on one tier of one machine.

    Parameters
    ----------
    machine, tier : str
    kind, vendor, arch, chip, num_devices
        Of that tier and that machine's chip; ``num_devices`` is None for a tier that joins all.
    efficiency, reduction_efficiency : float
        Share of the line rate, in (0, 1].
    measured : bool
        Whether anything was measured; otherwise the line rate stands, or what a like tier reaches.
    evidence : str
    """

    machine: str
    tier: str
    kind: str
    vendor: str
    arch: str
    chip: str
    num_devices: int | None
    efficiency: float
    reduction_efficiency: float
    measured: bool
    evidence: str

    def __post_init__(self) -> None:
        if not (0 < self.efficiency <= 1 and 0 < self.reduction_efficiency <= 1):
            raise CatalogError(f"the share of {self.machine}/{self.tier} is not physical", where=PROFILE.name)


@functools.cache
def load_links() -> tuple[LinkShare, ...]:
    """The shares of the shipped profile."""
    rows: list[dict[str, Any]] = read_profile()["links"]
    return tuple(LinkShare(**row) for row in rows)


def reached_share(machine: Machine | None, tier: Tier) -> LinkShare | None:
    """The share of a machine's tier, its own or that of the tier most like it.

    Alike are first tiers of the same kind, then of the same vendor, chip generation, name, size and chip. None
    without a chip, or where no tier of that kind is in the profile.
    """
    if machine is None:
        return None
    own = next((x for x in load_links() if (x.machine, x.tier) == (machine.id, tier.name)), None)
    same = [x for x in load_links() if x.kind == tier.kind]
    if own is not None or not same:
        return own
    chip = machine.chip

    def likeness(x: LinkShare) -> tuple[bool, ...]:
        return (
            x.vendor == chip.vendor,
            x.arch == chip.arch,
            x.tier == tier.name,
            x.num_devices == tier.full_num_devices,
            x.chip == chip.id,
        )

    return max(same, key=likeness)

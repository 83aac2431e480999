"""What the prediction for a machine takes from another because its own was not measured."""

from __future__ import annotations

import numpy as np

from fullmesh.cost.collectives.constants import find_fabric, load_fabrics
from fullmesh.cost.collectives.levels import levels_of
from fullmesh.cost.operators.profile import load_profile
from fullmesh.machine import Borrowed, Machine, list_chips


def borrowed_by(machine: Machine) -> tuple[Borrowed, ...]:
    """Kernels, collectives, effects of real steps and software that are another's, in this order.

    Collectives count at the levels that this number of devices reaches.
    """
    chip = machine.chip
    out = []
    kernels = load_profile(chip).borrowed_from
    if kernels:
        out.append(Borrowed(what="kernels", source=kernels))
    size, step = np.array([float(machine.num_devices)]), np.ones(1)
    for level in levels_of(machine, size, step):
        tier = level.tiers[-1]
        if level.ranks[0] <= 1:
            continue
        fabric = find_fabric(load_fabrics(), machine, tier)
        names = {t.name for t in level.tiers}
        own = fabric.vendor == chip.vendor and fabric.arch in ("", chip.arch) and fabric.tier in names
        source = fabric.borrowed_from or ("" if own else f"{fabric.tier} of {fabric.arch or fabric.vendor}")
        if source:
            out.append(Borrowed(what=f"collectives of {tier.name}", source=source))
    if chip.id not in list_chips():
        out.append(Borrowed(what="effects of real steps", source=f"the family {chip.family}"))
    return (*out, *machine.borrowed)

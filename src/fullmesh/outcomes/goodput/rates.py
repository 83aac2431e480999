"""The faults of a job in the terms of the engines: rates of stops, of losses of speed, and what a stop finds."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from fullmesh.outcomes.goodput.domains import WIDE, Exposure
from fullmesh.outcomes.goodput.draws import Amount

Floats = npt.NDArray[np.float64]
YEAR_S = 365.25 * 86_400.0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """Faults a second by what they do, as columns: one value a run, or arrays without dimensions.

    Parameters
    ----------
    near_per_s : float
        Stops of one node, for which any checkpoint will do.
    wide_per_s : float
        Stops that take several nodes: only storage helps.
    silent_per_s : float
        Silent corruptions: work since before they happened is lost.
    replaced_per_s : float
        Stops after which a spare has to step in.
    repair_s : float
        Mean time until what was replaced is back, over those.
    slow_nodes, slow_links : float
        Share of speed lost to slow nodes, and to lost bandwidth with flapping links.
    """

    near_per_s: Floats
    wide_per_s: Floats
    silent_per_s: Floats
    replaced_per_s: Floats
    repair_s: Floats
    slow_nodes: Floats
    slow_links: Floats

    @property
    def stops_per_s(self) -> Floats:
        """All stops that nobody planned."""
        return self.near_per_s + self.wide_per_s + self.silent_per_s

    @property
    def wide_share(self) -> Floats:
        """Share of stops that only storage helps against, silent ones included."""
        return _share(self.wide_per_s + self.silent_per_s, self.stops_per_s)

    @property
    def silent_share(self) -> Floats:
        """Share of stops that are silent corruptions."""
        return _share(self.silent_per_s, self.stops_per_s)

    @property
    def replaced_share(self) -> Floats:
        """Share of stops after which a spare has to step in."""
        return _share(self.replaced_per_s, self.stops_per_s)


def _share(part: Floats, whole: Floats) -> Floats:
    return np.divide(part, whole, out=np.zeros_like(whole), where=whole > 0)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Slowness:
    """How sensitive a step is, and how long what slows it lasts.

    Parameters
    ----------
    scale_up_share, network_share : float
        Of the step, exposed communication over each fabric.
    straggler_slowdown, straggler_s, flap_s : float or array
        One value, or one a run.
    """

    scale_up_share: float
    network_share: float
    straggler_slowdown: Amount
    straggler_s: Amount
    flap_s: Amount


def load_of(
    exposures: tuple[Exposure, ...], slow: Slowness, *, factors: Mapping[str, Floats] | None = None,
    swap_s: Amount | None = None,
) -> Load:  # fmt: skip
    """Add up the exposures of a job.

    Parameters
    ----------
    factors : mapping of str to array, optional
        A factor on the rate of each domain, for draws of uncertain rates; the arrays give the shape of the answer.
    swap_s : float or array, optional
        Time until a spare unit is whole again, instead of the repair of the part, where units are replaced.
    """
    shape = np.broadcast_shapes(*(f.shape for f in (factors or {}).values()))
    names = ("near", "wide", "silent", "replaced", "repair", "slow_nodes", "slow_links")
    sums = {name: np.zeros(shape) for name in names}
    for e in exposures:
        factor = (factors or {}).get(e.rate.domain, np.ones(()))
        per_s = e.per_year / YEAR_S * factor
        if e.effect in ("stop", "restart"):
            sums["wide" if e.rate.domain in WIDE else "near"] += per_s
            if e.effect == "stop":
                sums["replaced"] += per_s
                sums["repair"] += per_s * (e.rate.repair_mean_h * 3600.0 if swap_s is None else swap_s)
        elif e.effect == "silent":
            sums["silent"] += per_s
        elif e.effect == "slow":
            share = slow.scale_up_share if e.scale_up else slow.network_share
            lasts = e.rate.repair_mean_h * 3600.0
            # the job waits for the node that lost most, so a second fault elsewhere costs nothing more
            some = -np.expm1(-per_s * lasts)
            sums["slow_links"] += some * share * e.bandwidth_lost / (1.0 - e.bandwidth_lost)
        elif e.effect == "straggler":
            sums["slow_nodes"] += -np.expm1(-per_s * slow.straggler_s) * slow.straggler_slowdown
        elif e.effect == "flap":
            sums["slow_links"] += per_s * slow.flap_s
    return Load(
        near_per_s=sums["near"],
        wide_per_s=sums["wide"],
        silent_per_s=sums["silent"],
        replaced_per_s=sums["replaced"],
        repair_s=_share(sums["repair"], sums["replaced"]),
        slow_nodes=sums["slow_nodes"],
        slow_links=sums["slow_links"],
    )

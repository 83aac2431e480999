"""The fitted constants of collectives: how a term is written down, read, and found for a tier of a machine."""

from __future__ import annotations

import dataclasses
import functools
import json
from pathlib import Path

import numpy as np
import numpy.typing as npt

from fullmesh.errors import CatalogError
from fullmesh.machine.types import Machine, Tier

Column = npt.NDArray[np.float64]

PROFILE = Path(__file__).resolve().parent.parent / "data" / "profiles" / "collectives.json"
STEPS = ("one", "log2", "ring")
#: Bytes at which the ramp of a term is quoted.
RAMP_BYTES = 1e6


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Term:
    """One algorithm of one collective on one fabric.

    ``seconds = launch_s + step_s * steps + ramp_s * (wire / 1 MB) ** power + wire * (1 + spread / ranks) / (fraction * line)``:
    a start, a latency per step, the part-filled pipeline of middle sizes, and the wire. Every part grows with the bytes
    and the last alone is already at or above the time at line rate, so a prediction is monotone and never beats the line.

    Parameters
    ----------
    kind, algorithm : str
        ``all_reduce`` ...; ``ring``, ``ring-ll``, ``nvls``, ``tree``, ``direct``, ``nhr``, ``pairwise``.
    steps : {"one", "log2", "ring"}
        How the number of steps grows with the ranks.
    in_network : bool
        The switches reduce: each rank sends its buffer once and receives the result once.
    fraction : float
        Share of the line rate that the largest messages reach with many ranks, at most 1.
    spread : float
        Extra wire time, in units of one over the number of ranks: few peers use a port less well.
    launch_s, step_s, ramp_s : float
        Seconds, not negative.
    power : float
        Exponent of the ramp, between 0 and 1.
    """

    kind: str
    algorithm: str
    steps: str
    in_network: bool = False
    fraction: float = 1.0
    spread: float = 0.0
    launch_s: float = 0.0
    step_s: float = 0.0
    ramp_s: float = 0.0
    power: float = 0.5

    def __post_init__(self) -> None:
        good = (
            self.steps in STEPS
            and 0 < self.fraction <= 1
            and 0 <= self.power <= 1
            and min(self.spread, self.launch_s, self.step_s, self.ramp_s) >= 0
        )
        if not good:
            raise CatalogError(
                f"the term {self.algorithm} of {self.kind} is not physical: {self}",
                where="collectives.json",
                expected="0 < fraction <= 1, 0 <= power <= 1, no negative seconds, steps one of "
                + ", ".join(STEPS),
            )


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Experts:
    """Expert dispatch and combine of one library on one kind of tier, in the form of `Term` without steps by rank."""

    dispatcher: str
    phase: str
    fraction: float
    launch_s: float
    step_s: float
    ramp_s: float = 0.0
    power: float = 0.5


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Fabric:
    """The fitted terms of one kind of fabric.

    ``serial`` is the share of the shorter level's time that is not hidden behind the longer one when a collective
    crosses this tier; ``inner_step`` is the latency of a step inside a domain in units of a step across this tier.
    """

    vendor: str
    arch: str
    kind: str
    tier: str
    terms: tuple[Term, ...]
    experts: tuple[Experts, ...] = ()
    serial: float = 1.0
    inner_step: float = 0.0


def parse_profile(document: dict[str, object], where: str) -> tuple[Fabric, ...]:
    """Fabrics of a profile document.

    Raises
    ------
    CatalogError
        A key is missing, unknown or out of range.
    """
    try:
        fabrics = []
        for raw in document["fabrics"]:  # type: ignore[attr-defined]
            entry = {k: v for k, v in raw.items() if k not in ("evidence", "like")}
            entry["terms"] = tuple(Term(**t) for t in entry["terms"])
            entry["experts"] = tuple(Experts(**e) for e in entry.get("experts", ()))
            fabrics.append(Fabric(**entry))
        return tuple(fabrics)
    except (KeyError, TypeError) as error:
        raise CatalogError(
            f"the collective profile cannot be read: {error}",
            where=where,
            hint="fit it again with `fullmesh calibrate`",
        ) from error


@functools.lru_cache(maxsize=1)
def load_fabrics() -> tuple[Fabric, ...]:
    """Fabrics of the shipped profile."""
    return parse_profile(json.loads(PROFILE.read_text(encoding="utf-8")), PROFILE.name)


def find_fabric(fabrics: tuple[Fabric, ...], machine: Machine, tier: Tier) -> Fabric:
    """The fitted fabric most like a tier: same kind first, then vendor, then generation, then tier name.

    Raises
    ------
    CatalogError
        No fabric of that kind in the profile.
    """
    same = [f for f in fabrics if f.kind == tier.kind]
    if not same:
        raise CatalogError(f"no fitted collective profile for a {tier.kind} tier", where=machine.id)

    def likeness(f: Fabric) -> tuple[bool, bool, bool]:
        return (f.vendor == machine.chip.vendor, f.arch == machine.chip.arch, f.tier == tier.name)

    return max(same, key=likeness)

"""The fitted constants of collectives: how a term is written down, read, and found for a tier of a machine."""

from __future__ import annotations

import dataclasses
import functools
import json
from typing import Any

import numpy as np
import numpy.typing as npt

from fullmesh.data import DATA_DIR
from fullmesh.errors import CatalogError
from fullmesh.machine.hardware import Machine, Tier

Column = npt.NDArray[np.float64]

PROFILE = DATA_DIR / "profiles" / "collectives.json"
STEPS = ("one", "log2", "ring")
#: Bytes at which the ramp of a term is quoted.
RAMP_BYTES = 1e6


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Term:
    """One algorithm of one collective on one fabric.

    A start, a latency per step, the part-filled pipeline of middle sizes, and the wire::

        seconds = launch_s + step_s * steps + ramp_s * (wire / 1 MB) ** power
                  + wire / (fraction * line) * (1 + spread / ranks**2) * max(1, ranks / 8) ** crowd

    Every part grows with the bytes and the last alone is at or above the time at line rate, so a prediction is
    monotone in the bytes and never beats the line.

    Parameters
    ----------
    kind, algorithm : str
        ``all_reduce`` ...; ``ring``, ``ring-ll``, ``nvls``, ``tree``, ``pat``, ``direct``, ``direct-aiv``, ``nhr``.
    steps : {"one", "log2", "ring"}
        How the number of steps grows with the ranks.
    in_network : bool
        The switches reduce: each rank sends its buffer once and receives the result once.
    flat : bool
        One ring through every rank of every domain: nothing is reduced inside before it leaves, and the steps inside
        count too.
    single : bool
        Only for groups with one rank in each domain.
    pipelined : bool
        A chain of hops filled with chunks of the best size: the ramp grows with the square root of the steps.
    up_to_bytes, up_to_ranks : float or None, float
        The library takes this algorithm, and no other, up to this many ranks and bytes of one rank's share of a
        level's own exchange: the buffer of an all-reduce or a broadcast, one rank's part of it for the rest.
    fraction : float
        Share of the line rate that the largest messages reach, at most 1.
    spread, crowd : float
        Few peers use a port less well (up to 3 the time still grows with the ranks); many ranks collide. Not negative.
    launch_s, step_s, ramp_s : float
        Seconds, not negative.
    power : float
        Exponent of the ramp, between 0 and 1.
    serial : float
        Share of the shorter level's time that is not hidden behind the longer one, between 0 and 1.
    """

    kind: str
    algorithm: str
    steps: str
    in_network: bool = False
    flat: bool = False
    single: bool = False
    pipelined: bool = False
    up_to_bytes: float | None = None
    up_to_ranks: float = float("inf")
    fraction: float = 1.0
    spread: float = 0.0
    crowd: float = 0.0
    launch_s: float = 0.0
    step_s: float = 0.0
    ramp_s: float = 0.0
    power: float = 0.5
    serial: float = 0.0

    def __post_init__(self) -> None:
        good = (
            self.steps in STEPS
            and 0 < self.fraction <= 1
            and 0 <= self.power <= 1
            and 0 <= self.serial <= 1
            and min(self.spread, self.crowd, self.launch_s, self.step_s, self.ramp_s) >= 0
        )
        if not good:
            raise CatalogError(
                f"the term {self.algorithm} of {self.kind} is not physical: {self}",
                where=PROFILE.name,
                expected="fraction in (0, 1], power and serial in [0, 1], nothing negative, steps one of "
                + ", ".join(STEPS),
            )


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Experts:
    """Expert dispatch or combine of one library over one kind of tier, in the form of `Term`.

    ``step_s`` is per doubling of the ranks, ``token_s`` per token whatever its width (sorting, indices). On a rail the
    two legs, network card and forwarding inside the node, take the ``blend``-norm of their times: 1 is one after the
    other, the more the better they overlap.
    """

    dispatchers: tuple[str, ...]
    phase: str
    fraction: float
    spread: float = 0.0
    crowd: float = 0.0
    launch_s: float = 0.0
    step_s: float = 0.0
    token_s: float = 0.0
    ramp_s: float = 0.0
    power: float = 0.5
    blend: float = 2.0

    def __post_init__(self) -> None:
        if (
            not 0 < self.fraction <= 1
            or min(self.spread, self.crowd, self.launch_s, self.step_s, self.token_s, self.ramp_s) < 0
        ):
            raise CatalogError(f"the expert term is not physical: {self}", where=PROFILE.name)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Fabric:
    """The fitted terms of one kind of fabric.

    ``inner_step`` is the latency of a ring's step inside a domain in units of a step across this tier;
    ``borrowed_from`` the tier whose constants these are, empty where they are its own.
    """

    vendor: str
    arch: str
    kind: str
    tier: str
    terms: tuple[Term, ...]
    experts: tuple[Experts, ...] = ()
    inner_step: float = 0.0
    borrowed_from: str = ""


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
            entry = {k: v for k, v in raw.items() if k != "evidence"}
            entry["terms"] = tuple(Term(**t) for t in entry["terms"])
            entry["experts"] = tuple(
                Experts(**{**e, "dispatchers": tuple(e["dispatchers"])}) for e in entry.get("experts", ())
            )
            fabrics.append(Fabric(**entry))
        return tuple(fabrics)
    except (KeyError, TypeError) as error:
        raise CatalogError(
            f"the collective profile cannot be read: {error}",
            where=where,
            hint="fit it again with `fullmesh calibrate`",
        ) from error


@functools.cache
def read_profile() -> dict[str, Any]:
    """The shipped profile: ``fabrics`` for closed forms, ``links`` and ``times`` for the wired graph.

    Raises
    ------
    CatalogError
        The file cannot be read.
    """
    try:
        document: dict[str, Any] = json.loads(PROFILE.read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError) as error:
        raise CatalogError(f"cannot read the collective profile: {error}", where=str(PROFILE)) from error
    return document


@functools.lru_cache(maxsize=1)
def load_fabrics() -> tuple[Fabric, ...]:
    """Fabrics of the shipped profile."""
    return parse_profile(read_profile(), PROFILE.name)


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

"""Chips, built from fact rows."""

from __future__ import annotations

import dataclasses
import functools
import re
import tomllib
from collections.abc import Mapping
from types import MappingProxyType

from fullmesh.catalog.facts import FACTS_DIR, Fact, FactBook, load_facts
from fullmesh.errors import CatalogError, did_you_mean
from fullmesh.machine.hardware import Chip
from fullmesh.machine.wiring import DeviceBasis

# Chips that people ask for and of which no source was found: a figure without one would be a guess.
WITHOUT_FACTS = MappingProxyType({"h20": "NVIDIA H20"})
DTYPES = ("bf16", "fp16", "fp8", "nvfp4", "int8", "fp32")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ChipEntry:
    """What a chip is, apart from its figures."""

    name: str
    vendor: str
    family: str
    arch: str
    basis: DeviceBasis
    operator_profile: str
    package: str = ""
    die: str = ""


@functools.cache
def _entries() -> Mapping[str, ChipEntry]:
    with (FACTS_DIR / "chips.toml").open("rb") as file:
        return MappingProxyType(
            {chip_id: ChipEntry(**entry) for chip_id, entry in tomllib.load(file).items()}
        )


def list_chips() -> tuple[str, ...]:
    """The ids of all chips of the catalog."""
    return tuple(_entries())


@functools.cache
def chip_names() -> Mapping[str, str]:
    """Every name under which a chip is known (``ascend-910b3``, ``910b3``), and its id."""
    names: dict[str, str] = {}
    for chip_id, entry in _entries().items():
        for name in (chip_id, chip_id.removeprefix("ascend-"), entry.name.lower().replace(" ", "-")):
            names.setdefault(name, chip_id)
    return MappingProxyType(names)


def operator_profiles() -> tuple[str, ...]:
    """The operator profiles that a chip may name."""
    return tuple(dict.fromkeys(e.operator_profile for e in _entries().values()))


def without_facts(name: str) -> CatalogError | None:
    """The error for a chip that exists and of which no source was found; None for any other name."""
    wanted = re.sub(r"[\s_-]+", "", name.lower()).removeprefix("nvidia").removesuffix("96gb")
    if wanted not in WITHOUT_FACTS:
        return None
    return CatalogError(
        f"no facts of {WITHOUT_FACTS[wanted]} are shipped: none was found with a source",
        expected="a machine or chip of `fullmesh catalog`, or the path of a machine file that ends in .toml",
        hint="write what you know of it into a machine file of your own, with a table [chip], and name the file: "
        "docs/reference.md, Machine files",
    )


def chip_entry(chip_id: str, *, where: str = "") -> ChipEntry:
    """The entry of a chip; an unknown id is a ``CatalogError`` that names the closest ones."""
    entry = _entries().get(chip_id)
    if entry is None and (missing := without_facts(chip_id)) is not None:
        raise missing
    if entry is None:
        raise CatalogError(
            f"unknown chip {chip_id!r}", where=where, hint=did_you_mean(chip_id, list(_entries()))
        )
    return entry


def load_chip(chip_id: str) -> Chip:
    """A chip of the catalog.

    Parameters
    ----------
    chip_id : str
        ``h100-sxm``, ``ascend-910c`` ...; see ``list_chips``.

    Returns
    -------
    Chip
        ``hbm_bytes`` is what a process can see where a source tells it (``hbm_usable``), else the capacity as sold.

    Raises
    ------
    CatalogError
        The chip is unknown, or a fact that it needs is missing.
    """
    return build_chip(chip_id, chip_entry(chip_id), load_facts())


def build_chip(chip_id: str, entry: ChipEntry, facts: FactBook) -> Chip:
    """Build a chip from its entry and its used fact rows."""
    matrix = {d: f.si_value for d in DTYPES if (f := facts.find(chip_id, f"matrix_{d}")) is not None}
    if not matrix:
        raise CatalogError(
            f"no fact gives the matrix peak of {chip_id}", expected="a row such as matrix_bf16"
        )
    power = facts.find(chip_id, "power")
    host = facts.find(chip_id, "host_bandwidth")
    memory = facts.find(chip_id, "hbm_usable") or facts.used(chip_id, "hbm_capacity")
    return Chip(
        id=chip_id,
        name=entry.name,
        vendor=entry.vendor,
        family=entry.family,
        arch=entry.arch,
        basis=entry.basis,
        matrix_flop_per_s=matrix,
        vector_flop_per_s=facts.used(chip_id, "vector_fp32").si_value,
        hbm_bytes=memory.si_value,
        hbm_bytes_per_s=facts.used(chip_id, "hbm_bandwidth").si_value,
        num_cores=int(facts.used(chip_id, "num_cores").si_value),
        power_w=None if power is None else power.si_value,
        operator_profile=entry.operator_profile,
        host_bytes_per_s=None if host is None else host.si_value,
        die=entry.die or chip_id,
        announced=any(f.kind == "announced" and f.status == "used" for f in facts.rows(chip_id)),
    )


def chip_facts(chip_id: str) -> tuple[Fact, ...]:
    """All fact rows of a chip and, where a package holds several dies, of the package."""
    entry = chip_entry(chip_id)
    facts = load_facts()
    return facts.rows(chip_id) + (facts.rows(entry.package) if entry.package else ())

"""Entries of ``data/software.toml``: what a training stack of today switches on."""

from __future__ import annotations

import dataclasses
import functools
import tomllib
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from fullmesh.data import DATA_DIR
from fullmesh.errors import CatalogError, did_you_mean


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Software:
    """A software generation and the plan fields that it sets.

    Parameters
    ----------
    name : str
        As machine files name it.
    stack : str
        Key of the fitted effects of releases (``nemo-26.06``).
    label : str
        As printed.
    families, vendor : tuple of str, str
        Chips whose machines take it where their file names none: by family first, then by vendor.
    options : mapping
        Fields of a plan.
    expert_options : mapping
        Further ones that are switched on for mixtures of experts alone.
    """

    name: str
    stack: str
    label: str
    families: tuple[str, ...]
    vendor: str
    options: Mapping[str, Any]
    expert_options: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def options_for(self, *, moe: bool) -> dict[str, Any]:
        """Fields of a plan that the software sets for a dense model, or for a mixture of experts."""
        return {**self.options, **(self.expert_options if moe else {})}


@functools.cache
def load_software() -> Mapping[str, Software]:
    """All entries by name."""
    table = tomllib.loads((DATA_DIR / "software.toml").read_text("utf-8"))
    return MappingProxyType(
        {
            name: Software(
                name=name,
                stack=entry["stack"],
                label=entry["label"],
                families=tuple(entry.get("families", ())),
                vendor=entry.get("vendor", ""),
                options=MappingProxyType(dict(entry["options"])),
                expert_options=MappingProxyType(dict(entry.get("expert_options", {}))),
            )
            for name, entry in table.items()
        }
    )


def find_software(name: str, *, where: str = "") -> Software:
    """The entry of a name; an unknown one is a ``CatalogError`` with those that there are."""
    known = load_software()
    if name not in known:
        raise CatalogError(
            f"unknown software {name!r}",
            where=where,
            expected="one of " + ", ".join(known),
            hint=did_you_mean(name, list(known)),
        )
    return known[name]


def software_for(family: str, vendor: str) -> Software:
    """The entry for a chip of a machine that names none: of its family, else of its vendor, else the plainest."""
    entries = list(load_software().values())
    for entry in entries:
        if family in entry.families:
            return entry
    for entry in entries:
        if entry.vendor == vendor.lower():
            return entry
    return entries[-1]

"""What the software of a machine switches on where the user says nothing."""

from __future__ import annotations

import dataclasses
import functools
import tomllib
from types import MappingProxyType
from typing import Any

from fullmesh.data import DATA_DIR
from fullmesh.machine import Machine


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Software:
    """A software generation and the plan fields that it sets.

    Parameters
    ----------
    stack : str
        Key of the fitted effects of releases (``nemo-26.06``).
    label : str
        As printed.
    options : mapping
        Fields of a plan.
    """

    stack: str
    label: str
    options: MappingProxyType[str, Any]


@functools.cache
def _entries() -> tuple[dict[str, Any], ...]:
    text = (DATA_DIR / "software.toml").read_text("utf-8")
    return tuple(tomllib.loads(text)["software"])


def software_of(machine: Machine) -> Software:
    """The software generation that a prediction for ``machine`` is for, unless the user names another."""
    for entry in _entries():
        if entry.get("vendor") not in (None, machine.chip.vendor.lower()):
            continue
        if "arch" in entry and machine.chip.arch not in entry["arch"]:
            continue
        if _full_domain(machine) < entry.get("min_domain", 0):
            continue
        return Software(
            stack=entry["stack"], label=entry["label"], options=MappingProxyType(dict(entry["options"]))
        )
    raise AssertionError("the last entry of software.toml matches every machine")


def _full_domain(machine: Machine) -> int:
    return max(
        (t.full_num_devices or t.num_devices for t in machine.tiers if t.kind not in ("rail", "mesh")),
        default=1,
    )

"""Names of machines, chips and fabrics without chips, and the file that each means."""

from __future__ import annotations

import dataclasses
import functools
import tomllib
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from fullmesh.data import DATA_DIR
from fullmesh.errors import CatalogError, did_you_mean
from fullmesh.machine.chips import chip_names, without_facts

MACHINES_DIR = DATA_DIR / "machines"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A shipped machine file: its names and chips; ``chip`` is empty for a fabric alone."""

    id: str
    aliases: tuple[str, ...]
    chip: str
    chip_alternatives: tuple[str, ...]


@functools.cache
def _entries() -> Mapping[str, Entry]:
    found = {}
    for path in sorted(MACHINES_DIR.glob("*.toml")):
        data = tomllib.loads(path.read_text(encoding="utf-8"))
        if data["id"] != path.stem:
            raise CatalogError(f"the id is {data['id']!r}", where=str(path), expected=f"{path.stem!r}")
        found[path.stem] = Entry(
            id=path.stem,
            aliases=tuple(data.get("aliases", ())),
            chip=data.get("chip", ""),
            chip_alternatives=tuple(data.get("chip_alternatives", ())),
        )
    return MappingProxyType(found)


def list_machines() -> tuple[str, ...]:
    """The ids of all machines of the catalog."""
    return tuple(entry.id for entry in _entries().values() if entry.chip)


@functools.cache
def fabric_aliases() -> Mapping[str, str]:
    """Every name under which a fabric of the catalog is known, and its id."""
    names: dict[str, str] = {}
    for entry in _entries().values():
        for name in (entry.id, *entry.aliases):
            if (other := names.setdefault(name, entry.id)) != entry.id:
                raise CatalogError(f"{name!r} names both {other!r} and {entry.id!r}", where="machine files")
    return MappingProxyType(names)


@functools.cache
def machine_aliases() -> Mapping[str, str]:
    """Every name under which a machine of the catalog is known, and its id."""
    machines = set(list_machines())
    return MappingProxyType({name: found for name, found in fabric_aliases().items() if found in machines})


@functools.cache
def chips_of_machines() -> Mapping[str, tuple[str, str]]:
    """Every name of a chip that some machine holds: the machine's id and the chip's.

    A machine whose own chip it is comes before one that may hold it instead. The names of machines are not among
    them: ``910b`` is a machine.
    """
    holders: dict[str, str] = {}
    for entry in _entries().values():
        if entry.chip:
            holders.setdefault(entry.chip, entry.id)
    for entry in _entries().values():
        for chip in entry.chip_alternatives:
            holders.setdefault(chip, entry.id)
    known = machine_aliases()
    return MappingProxyType(
        {
            name: (holders[chip], chip)
            for name, chip in chip_names().items()
            if chip in holders and name not in known
        }
    )


def is_file_name(name: str) -> bool:
    """Whether a name is the path of a file rather than something of the catalog."""
    return name.lower().endswith(".toml") or "/" in name or "\\" in name


def machine_file(name: str, *, fabric: bool = False) -> tuple[Path, str | None]:
    """The file that a name means, and the chip where the name is that of a chip.

    Parameters
    ----------
    name : str
        An id, an alias, the name of a chip, or the path of a file.
    fabric : bool
        Whether a fabric without chips will do.

    Raises
    ------
    CatalogError
        Nothing has that name.
    """
    if is_file_name(name):
        return Path(name), None
    wanted = name.strip().lower()
    known = fabric_aliases() if fabric else machine_aliases()
    if wanted in known:
        return MACHINES_DIR / f"{known[wanted]}.toml", None
    if wanted in chips_of_machines():
        machine, chip = chips_of_machines()[wanted]
        return MACHINES_DIR / f"{machine}.toml", chip
    if wanted in fabric_aliases():
        raise CatalogError(
            f"{name!r} is a fabric without chips",
            expected="a machine of `fullmesh catalog`, or the path of a machine file that ends in .toml",
            hint=f"fullmesh fabric {name}",
        )
    if (missing := without_facts(name)) is not None:
        raise missing
    raise CatalogError(
        f"unknown machine {name!r}",
        expected="a machine or chip of `fullmesh catalog`, or the path of a machine file that ends in .toml",
        hint=did_you_mean(name, [*known, *chips_of_machines()]),
    )

"""Machines, from one TOML file each."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from fullmesh.catalog.facts import FactBook, load_facts
from fullmesh.data import DATA_DIR
from fullmesh.errors import CatalogError, did_you_mean
from fullmesh.machine.chips import load_chip, operator_profiles
from fullmesh.machine.hardware import Chip, Machine, Tier
from fullmesh.machine.quantities import Quantity, resolve

if TYPE_CHECKING:
    from fullmesh.machine.file_form import ChipSpec, MachineSpec, SourceLines

MACHINES_DIR = DATA_DIR / "machines"
# a hundred times the largest cluster that is planned: more is a slip of the pen
MAX_DEVICES = 10_000_000


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class MachineRecord:
    """A machine with the origin of each of its figures.

    Parameters
    ----------
    machine : Machine
    aliases : tuple of str
    chip_alternatives : tuple of str
        Chips that the machine may hold instead: what it really holds is not published.
    source : str
        Where the structure (devices a node, tiers) comes from.
    quantities : tuple of Quantity
    """

    machine: Machine
    aliases: tuple[str, ...]
    chip_alternatives: tuple[str, ...]
    source: str
    quantities: tuple[Quantity, ...]


def list_machines() -> tuple[str, ...]:
    """The ids of all machines of the catalog."""
    return tuple(path.stem for path in sorted(MACHINES_DIR.glob("*.toml")))


@functools.cache
def machine_aliases() -> MappingProxyType[str, str]:
    """Every name under which a machine of the catalog is known, and its id."""
    from fullmesh.machine.file_form import read_machine_file

    names: dict[str, str] = {}
    for machine_id in list_machines():
        spec, lines = read_machine_file(MACHINES_DIR / f"{machine_id}.toml")
        if spec.id != machine_id:
            raise CatalogError(
                f"the id is {spec.id!r}", where=lines.where(("id",)), expected=f"{machine_id!r}"
            )
        for name in (spec.id, *spec.aliases):
            if (other := names.setdefault(name, machine_id)) != machine_id:
                raise CatalogError(f"{name!r} also names {other!r}", where=lines.where(("aliases",)))
    return MappingProxyType(names)


def load_machine(name: str, *, num_devices: int | None = None, chip: str | None = None) -> Machine:
    """A machine of the catalog, or of a user's own file.

    Parameters
    ----------
    name : str
        An id (``dgx-h200``), an alias (``h200``), or the path of a machine file (``mine.toml``).
    num_devices : int, optional
        How many devices; each machine has a default.
    chip : str, optional
        Another chip of the catalog, one of the alternatives that the machine file names.

    Raises
    ------
    CatalogError
        The machine, or a fact that it needs, is unknown; the file is badly written; or the machine cannot have
        that many devices.
    """
    return load_machine_record(name, num_devices=num_devices, chip=chip).machine


def load_machine_record(
    name: str, *, num_devices: int | None = None, chip: str | None = None
) -> MachineRecord:
    """As ``load_machine``, with the origin of each figure."""
    from fullmesh.machine.file_form import read_machine_file

    spec, lines = read_machine_file(_machine_path(name))
    return _build(spec, lines, num_devices=num_devices, chip=chip)


def _machine_path(name: str) -> Path:
    if name.lower().endswith(".toml") or "/" in name or "\\" in name:
        return Path(name)
    known = machine_aliases()
    machine_id = known.get(name.strip().lower())
    if machine_id is None:
        raise CatalogError(
            f"unknown machine {name!r}",
            expected="a machine of `fullmesh catalog`, or the path of a machine file that ends in .toml",
            hint=did_you_mean(name, list(known)),
        )
    return MACHINES_DIR / f"{machine_id}.toml"


def _build(
    spec: MachineSpec, lines: SourceLines, *, num_devices: int | None, chip: str | None
) -> MachineRecord:
    facts = load_facts()
    quantities: list[Quantity] = []
    device = _chip_of(spec, lines, chip, facts, quantities)
    _check_structure(spec, lines)
    size = spec.size
    count = size.default_devices if num_devices is None else num_devices
    _check_num_devices(spec, count)

    def figure(
        text: str, dimension: str, label: str, location: tuple[str | int, ...], source: str
    ) -> Quantity:
        quantity = resolve(
            text,
            dimension,
            label=label,
            facts=facts,
            chip_id=device.id,
            source=source,
            where=lines.where(location),
        )
        quantities.append(quantity)
        return quantity

    tiers = []
    for i, tier in enumerate(spec.tier):
        full = None if tier.num_devices == "all" else tier.num_devices
        bandwidth = figure(
            tier.bandwidth,
            "bytes_per_s",
            f"tier {tier.name}: bandwidth",
            ("tier", i, "bandwidth"),
            tier.source,
        )
        latency = figure(tier.latency, "s", f"tier {tier.name}: latency", ("tier", i, "latency"), tier.source)
        tiers.append(
            Tier(
                name=tier.name,
                kind=tier.kind,
                num_devices=count if full is None else min(full, count),
                bytes_per_s=bandwidth.si_value,
                latency_s=latency.si_value,
                in_network_reduction=tier.in_network_reduction,
                full_num_devices=full,
            )
        )
    racks = power = measured = published = None
    if size.racks_per_unit is not None:
        racks = figure(
            size.racks_per_unit, "count", "racks per unit", ("size", "racks_per_unit"), size.source
        )
    if spec.power is not None:
        power = figure(spec.power.unit, "w", "power of one unit", ("power", "unit"), spec.power.source)
        if spec.power.measured is not None:
            label = "measured power of one unit"
            measured = figure(spec.power.measured, "w", label, ("power", "measured"), spec.power.source)
    if spec.published is not None and device.id == _own_chip(spec):
        label = "published BF16 peak of one unit"
        published = figure(
            spec.published.bf16, "flop_per_s", label, ("published", "bf16"), spec.published.source
        )
    machine = Machine(
        id=spec.id,
        name=spec.name,
        chip=device,
        num_devices=count,
        tiers=tuple(tiers),
        devices_per_node=size.devices_per_node,
        devices_per_package=size.devices_per_package,
        devices_per_unit=size.devices_per_unit,
        unit_name=size.unit_name,
        racks_per_unit=None if racks is None else racks.si_value,
        unit_power_w=None if power is None else power.si_value,
        power_basis=_basis(power, spec.power.covers if spec.power else ""),
        software=spec.software,
        unit_measured_power_w=None if measured is None else measured.si_value,
        measured_power_basis=_basis(measured, ""),
        unit_published_flop_per_s=None if published is None else published.si_value,
        published_flop_basis=_basis(published, ""),
    )
    return MachineRecord(
        machine=machine,
        aliases=spec.aliases,
        chip_alternatives=spec.chip_alternatives,
        source=spec.source,
        quantities=tuple(quantities),
    )


def _basis(quantity: Quantity | None, covers: str) -> str:
    if quantity is None:
        return "not published"
    if quantity.fact is None:
        return f"{covers or 'as stated'} ({quantity.source})"
    return f"{covers or quantity.fact.basis} ({quantity.fact.kind}; {quantity.source})"


def _own_chip(spec: MachineSpec) -> str:
    return spec.chip if isinstance(spec.chip, str) else spec.chip.id


def _chip_of(
    spec: MachineSpec, lines: SourceLines, chip: str | None, facts: FactBook, quantities: list[Quantity]
) -> Chip:
    if chip is not None:
        own = _own_chip(spec)
        allowed = (own, *spec.chip_alternatives)
        if chip not in allowed:
            raise CatalogError(
                f"{spec.id} cannot hold the chip {chip!r}",
                expected="one of " + ", ".join(allowed),
                hint="write a machine file of your own to combine any chip with any fabric",
            )
        if chip != own:
            return load_chip(chip)
    if isinstance(spec.chip, str):
        try:
            return load_chip(spec.chip)
        except CatalogError as error:
            raise CatalogError(error.what, where=lines.where(("chip",)), hint=error.hint) from None
    return _inline_chip(spec.chip, lines, facts, quantities)


def _inline_chip(spec: ChipSpec, lines: SourceLines, facts: FactBook, quantities: list[Quantity]) -> Chip:
    if spec.operator_profile not in operator_profiles():
        raise CatalogError(
            f"unknown operator profile {spec.operator_profile!r}",
            where=lines.where(("chip", "operator_profile")),
            expected="the fitted profile of the chip whose kernels it resembles most",
            hint=did_you_mean(spec.operator_profile, list(operator_profiles())),
        )

    def figure(text: str, dimension: str, *location: str) -> float:
        quantity = resolve(
            text,
            dimension,
            label="chip: " + " ".join(location),
            facts=facts,
            chip_id=spec.id,
            source=spec.source,
            where=lines.where(("chip", *location)),
        )
        quantities.append(quantity)
        return quantity.si_value

    return Chip(
        id=spec.id,
        name=spec.name,
        vendor=spec.vendor,
        family=spec.family,
        arch=spec.arch,
        basis=spec.basis,
        matrix_flop_per_s={
            dtype: figure(text, "flop_per_s", "matrix", dtype) for dtype, text in spec.matrix.items()
        },
        vector_flop_per_s=figure(spec.vector_fp32, "flop_per_s", "vector_fp32"),
        hbm_bytes=figure(spec.hbm_capacity, "bytes", "hbm_capacity"),
        hbm_bytes_per_s=figure(spec.hbm_bandwidth, "bytes_per_s", "hbm_bandwidth"),
        num_cores=spec.num_cores,
        power_w=None if spec.power is None else figure(spec.power, "w", "power"),
        operator_profile=spec.operator_profile,
        host_bytes_per_s=None
        if spec.host_bandwidth is None
        else figure(spec.host_bandwidth, "bytes_per_s", "host_bandwidth"),
    )


def _check_structure(spec: MachineSpec, lines: SourceLines) -> None:
    """Each group of devices must consist of whole smaller groups, and the last tier must join all."""
    size = spec.size
    inner = 1
    for key, count in (
        ("devices_per_package", size.devices_per_package),
        ("devices_per_node", size.devices_per_node),
        ("devices_per_unit", size.devices_per_unit),
    ):
        if count % inner:
            raise CatalogError(
                f"{count} is not a multiple of {inner}",
                where=lines.where(("size", key)),
                expected="whole groups",
            )
        inner = count
    inner = 1
    for i, tier in enumerate(spec.tier):
        last = i == len(spec.tier) - 1
        where = lines.where(("tier", i, "num_devices"))
        if (tier.num_devices == "all") != last:
            raise CatalogError(
                f"the {'last' if last else 'inner'} tier {tier.name!r} joins {tier.num_devices} devices",
                where=where,
                expected='"all" in the last tier, and a number in every other',
            )
        if tier.num_devices == "all":
            continue
        if tier.num_devices % inner:
            raise CatalogError(
                f"tier {tier.name!r} joins {tier.num_devices} devices",
                where=where,
                expected=f"a multiple of the {inner} of the tier inside it",
            )
        inner = tier.num_devices
    if size.max_devices is not None and size.max_devices < size.default_devices:
        raise CatalogError(
            f"the default of {size.default_devices} devices exceeds max_devices",
            where=lines.where(("size", "max_devices")),
            expected=f"at least {size.default_devices}",
        )


def _check_num_devices(spec: MachineSpec, count: int) -> None:
    size = spec.size
    package, node = size.devices_per_package, size.devices_per_node
    step = package if count <= node else node
    # a file that names no limit means any number that one could mean
    most = size.max_devices or MAX_DEVICES // step * step
    if count >= 1 and count % step == 0 and count <= most:
        return
    below = count // step * step
    nearest = sorted({min(n, most) for n in (below, below + step) if n >= package})
    groups = f"multiples of {package} up to {node}, then multiples of {node}"
    limit = f", at most {most}" if size.max_devices is not None or count > most else ""
    raise CatalogError(
        f"{spec.id} cannot have {count} devices",
        expected=f"{groups}{limit}",
        hint="the nearest sizes are " + " and ".join(str(n) for n in nearest or [package]),
    )

"""Machines, from one TOML file each."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING

from fullmesh.catalog.facts import load_facts
from fullmesh.errors import CatalogError, did_you_mean
from fullmesh.machine.cable_list import read_cable_list
from fullmesh.machine.cabling import read_wirings
from fullmesh.machine.chips import load_chip, operator_profiles
from fullmesh.machine.figures import Figures
from fullmesh.machine.hardware import Borrowed, Chip, FabricDescription, Machine, Tier
from fullmesh.machine.names import machine_file
from fullmesh.machine.quantities import Quantity
from fullmesh.machine.software import find_software, software_for
from fullmesh.machine.wiring import CableList, Endpoint

if TYPE_CHECKING:
    from fullmesh.machine.file_form import ChipSpec, MachineSpec
    from fullmesh.machine.source_lines import SourceLines

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


def load_machine(name: str, *, num_devices: int | None = None, chip: str | None = None) -> Machine:
    """A machine of the catalog, or of a user's own file.

    Parameters
    ----------
    name : str
        An id (``dgx-h200``), an alias (``h200``), a chip (``910b3``: its usual machine with that chip), or the path
        of a machine file (``mine.toml``).
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

    path, named = machine_file(name)
    spec, lines = read_machine_file(path)
    return _build(spec, lines, num_devices=num_devices, chip=chip or named)


def size_check(name: str) -> Callable[[int], None]:
    """A check whether a machine can have a number of devices, for many of them: its file is read once.

    Raises
    ------
    CatalogError
        The machine is unknown or its file badly written; from the check, it cannot have that many devices.
    """
    from fullmesh.machine.file_form import read_machine_file

    path, _ = machine_file(name)
    spec, _ = read_machine_file(path)
    return lambda num_devices: _check_num_devices(spec, num_devices)


def load_fabric(name: str) -> FabricDescription | CableList:
    """What joins the devices of a machine, in its default size, or of a fabric without chips.

    Parameters
    ----------
    name : str
        As for ``load_machine``, or a fabric without chips (``fat-tree-16``), or the path of a file that gives one by
        its tiers or link by link.

    Raises
    ------
    CatalogError
        As ``load_machine``.
    """
    from fullmesh.machine.file_form import CableListSpec, read_fabric_file

    path, chip = machine_file(name, fabric=True)
    spec, lines = read_fabric_file(path)
    if isinstance(spec, CableListSpec):
        return read_cable_list(spec, Figures(facts=load_facts(), lines=lines))
    if spec.chip is not None:
        return _build(spec, lines, num_devices=None, chip=chip).machine.fabric
    figures = Figures(facts=load_facts(), lines=lines)
    _check_structure(spec, lines)
    count = spec.size.default_devices
    tiers = _tiers(spec, figures, count)
    return FabricDescription(
        id=spec.id,
        name=spec.name,
        device_basis=spec.basis or "gpu",
        num_devices=count,
        tiers=tiers,
        devices_per_node=spec.size.devices_per_node,
        devices_per_package=spec.size.devices_per_package,
        devices_per_unit=spec.size.devices_per_unit,
        unit_name=spec.size.unit_name,
        endpoints=_endpoints(spec, figures),
        wirings=read_wirings(spec, figures, tiers),
    )


def _build(
    spec: MachineSpec, lines: SourceLines, *, num_devices: int | None, chip: str | None
) -> MachineRecord:
    figures = Figures(facts=load_facts(), lines=lines)
    device = _chip_of(spec, figures, chip)
    figures.chip_id = device.id
    _check_structure(spec, lines)
    size = spec.size
    count = size.default_devices if num_devices is None else num_devices
    _check_num_devices(spec, count)
    tiers = _tiers(spec, figures, count)
    software, borrowed = _software(spec, lines, device)
    plain = Machine(
        id=spec.id,
        name=spec.name,
        chip=device,
        num_devices=count,
        tiers=tiers,
        devices_per_node=size.devices_per_node,
        devices_per_package=size.devices_per_package,
        devices_per_unit=size.devices_per_unit,
        unit_name=size.unit_name,
        racks_per_unit=None,
        unit_power_w=None,
        power_basis="",
        software=software,
        endpoints=_endpoints(spec, figures),
        wirings=read_wirings(spec, figures, tiers),
        borrowed=borrowed,
    )
    machine = _with_totals(plain, spec, figures)
    announced = any(q.fact is not None and q.fact.kind == "announced" for q in figures.quantities)
    return MachineRecord(
        machine=dataclasses.replace(machine, announced=announced or device.announced),
        aliases=spec.aliases,
        chip_alternatives=spec.chip_alternatives,
        source=spec.source,
        quantities=tuple(figures.quantities),
    )


def _tiers(spec: MachineSpec, figures: Figures, count: int) -> tuple[Tier, ...]:
    tiers = []
    for i, tier in enumerate(spec.tier):
        full = None if tier.num_devices == "all" else tier.num_devices
        label = f"tier {tier.name}"
        bandwidth = figures.read(
            tier.bandwidth, "bytes_per_s", f"{label}: bandwidth", ("tier", i, "bandwidth"), tier.source
        )
        latency = figures.read(tier.latency, "s", f"{label}: latency", ("tier", i, "latency"), tier.source)
        tiers.append(
            Tier(
                name=tier.name,
                kind=tier.kind,
                num_devices=count if full is None else min(full, count),
                bytes_per_s=bandwidth.si_value,
                latency_s=latency.si_value,
                in_network_reduction=tier.in_network_reduction,
                full_num_devices=full,
                measured_item=_measured(tier.measured, figures, ("tier", i, "measured")),
            )
        )
    return tuple(tiers)


def _endpoints(spec: MachineSpec, figures: Figures) -> tuple[Endpoint, ...]:
    names = [e.name for e in spec.endpoint]
    for i, name in enumerate(names):
        if name in names[:i]:
            raise CatalogError(
                f"duplicate name {name!r}",
                where=figures.lines.where(("endpoint", i, "name")),
                expected="every name once",
            )
    return tuple(
        Endpoint(
            name=e.name,
            per_node=e.per_node,
            measured_item=_measured(e.measured, figures, ("endpoint", i, "measured")),
        )
        for i, e in enumerate(spec.endpoint)
    )


def _measured(item: str, figures: Figures, location: tuple[str | int, ...]) -> str:
    if item and item not in figures.facts.items:
        raise CatalogError(
            f"no fact is about {item!r}",
            where=figures.lines.where(location),
            hint=did_you_mean(item, list(figures.facts.items)),
        )
    return item


def _with_totals(machine: Machine, spec: MachineSpec, figures: Figures) -> Machine:
    """The machine with what is published of whole units: racks, power, peak."""
    size, power, published = spec.size, spec.power, spec.published
    racks = figures.value(
        size.racks_per_unit, "count", "racks per unit", ("size", "racks_per_unit"), size.source
    )
    unit = measured = peak = None
    if power is not None:
        unit = figures.read(power.unit, "w", "power of one unit", ("power", "unit"), power.source)
        measured = figures.read_any(
            power.measured, "w", "measured power of one unit", ("power", "measured"), power.source
        )
    if published is not None and machine.chip.id == _own_chip(spec):
        label = "published BF16 peak of one unit"
        peak = figures.read(published.bf16, "flop_per_s", label, ("published", "bf16"), published.source)
    return dataclasses.replace(
        machine,
        racks_per_unit=racks,
        unit_power_w=None if unit is None else unit.si_value,
        power_basis=_basis(unit, power.covers if power else ""),
        unit_measured_power_w=None if measured is None else measured.si_value,
        measured_power_basis=_basis(measured, ""),
        unit_published_flop_per_s=None if peak is None else peak.si_value,
        published_flop_basis=_basis(peak, ""),
    )


def _software(spec: MachineSpec, lines: SourceLines, chip: Chip) -> tuple[str, tuple[Borrowed, ...]]:
    """The software that the file names, or that of its chip's family, which is then borrowed."""
    if spec.software is not None:
        return find_software(spec.software, where=lines.where(("software",))).name, ()
    found = software_for(chip.family, chip.vendor)
    whose = f"machines with {chip.family} chips" if chip.family in found.families else "its vendor's machines"
    if chip.family not in found.families and not found.vendor:
        whose = "no other machine: the plainest there is"
    return found.name, (Borrowed(what=f"software ({found.name})", source=whose),)


def _basis(quantity: Quantity | None, covers: str) -> str:
    if quantity is None:
        return "not published"
    if quantity.fact is None:
        return f"{covers or 'as stated'} ({quantity.source})"
    return f"{covers or quantity.fact.basis} ({quantity.fact.kind}; {quantity.source})"


def _own_chip(spec: MachineSpec) -> str:
    assert spec.chip is not None
    return spec.chip if isinstance(spec.chip, str) else spec.chip.id


def _chip_of(spec: MachineSpec, figures: Figures, chip: str | None) -> Chip:
    if spec.chip is None:
        raise CatalogError(
            f"{spec.id} has no chip",
            where=figures.lines.where(("chip",)),
            expected='chip = "..." with a chip of the catalog, or a table [chip]',
            hint="`fullmesh fabric` takes a fabric without chips",
        )
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
            raise CatalogError(error.what, where=figures.lines.where(("chip",)), hint=error.hint) from None
    return _inline_chip(spec.chip, figures)


def _inline_chip(spec: ChipSpec, figures: Figures) -> Chip:
    if spec.operator_profile not in operator_profiles():
        raise CatalogError(
            f"unknown operator profile {spec.operator_profile!r}",
            where=figures.lines.where(("chip", "operator_profile")),
            expected="the fitted profile of the chip whose kernels it resembles most",
            hint=did_you_mean(spec.operator_profile, list(operator_profiles())),
        )

    figures.chip_id = spec.id

    def figure(text: str, dimension: str, *location: str) -> float:
        label = "chip: " + " ".join(location)
        return figures.read(text, dimension, label, ("chip", *location), spec.source).si_value

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

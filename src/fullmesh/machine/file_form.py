"""The form of a machine file, read strictly; errors name the file, the line and the key."""

from __future__ import annotations

import dataclasses
import typing
from pathlib import Path
from typing import Any, Literal

from fullmesh import reading
from fullmesh.errors import CatalogError
from fullmesh.machine.hardware import TierKind
from fullmesh.machine.source_lines import SourceLines
from fullmesh.machine.tables import (
    Place,
    by_kind,
    by_word,
    count,
    flag,
    key,
    many,
    natural,
    one_of,
    remark,
    share,
    table,
    whole,
    word,
)
from fullmesh.machine.wiring import DeviceBasis

Dtype = Literal["bf16", "fp16", "fp8", "nvfp4", "int8", "fp32"]

# a form is read and looked at; nobody compares or prints one
_form = dataclasses.dataclass(frozen=True, slots=True, kw_only=True, repr=False, eq=False)
_basis = one_of(typing.get_args(DeviceBasis))


@_form
class ChipSpec:
    """``[chip]``: a chip that the catalog does not hold."""

    id: str = key(word)
    name: str = key(word)
    vendor: str = key(word)
    family: str = key(word)
    arch: str = key(word)
    basis: DeviceBasis = key(_basis)
    operator_profile: str = key(word)
    source: str = key(word)
    matrix: dict[Dtype, str] = key(by_word(typing.get_args(Dtype), word))
    vector_fp32: str = key(word)
    hbm_capacity: str = key(word)
    hbm_bandwidth: str = key(word)
    num_cores: int = key(count)
    power: str | None = key(word, None)
    host_bandwidth: str | None = key(word, None)


@_form
class SizeSpec:
    """``[size]``: how devices are grouped."""

    default_devices: int = key(count)
    devices_per_package: int = key(count, 1)
    devices_per_node: int = key(count)
    devices_per_unit: int = key(count)
    unit_name: str = key(word)
    racks_per_unit: str | None = key(word, None)
    max_devices: int | None = key(count, None)
    source: str = key(remark, "")


def _count_or_all(value: Any, place: Place) -> int | Literal["all"]:
    found: int = 0 if value == "all" else count(value, place)
    return found or "all"


@_form
class TierSpec:
    """``[[tier]]``: one level of the fabric, innermost first."""

    name: str = key(word)
    kind: TierKind = key(one_of(typing.get_args(TierKind)))
    num_devices: int | Literal["all"] = key(_count_or_all)
    bandwidth: str = key(word)
    latency: str = key(word)
    in_network_reduction: bool = key(flag, False)
    measured: str = key(remark, "")
    source: str = key(remark, "")


@_form
class EndpointSpec:
    """``[[endpoint]]``: CPUs or DPUs with links of their own."""

    name: str = key(word)
    per_node: int = key(count)
    measured: str = key(remark, "")


@_form
class AttachSpec:
    """``attach``: the port of an endpoint into a wiring."""

    endpoint: str = key(word)
    bandwidth: str = key(word)


@_form
class _WiringSpec:
    """What every ``[[wiring]]`` may say."""

    name: str | None = key(word, None)
    tiers: tuple[str, ...] = key(many(word), ())
    latency: str | None = key(word, None)
    efficiency: float | None = key(share, None)
    reduction_efficiency: float | None = key(share, None)
    source: str = key(word)
    note: str = key(remark, "")


@_form
class ClosSpec(_WiringSpec):
    """``[[wiring]]`` of leaf, spine and core switches."""

    kind: Literal["clos"] = key(word)
    planes: int | None = key(count, None)
    links_per_plane: tuple[int, ...] = key(many(count), ())
    nodes_per_leaf: int | None = key(count, None)
    nodes_per_pod: int | None = key(count, None)
    spines: int = key(natural, 0)
    cores: int = key(natural, 0)
    rails: int = key(count, 1)
    uplink: str | None = key(word, None)
    corelink: str | None = key(word, None)
    attach: tuple[AttachSpec, ...] = key(many(table(AttachSpec)), ())
    leaf: str = key(word, "leaf")
    spine: str = key(word, "spine")
    core: str = key(word, "core")
    links_per_module: int = key(natural, 0)
    relay_in_node: bool = key(flag, False)


@_form
class FatTreeSpec(_WiringSpec):
    """``[[wiring]]`` of a three-level fat tree."""

    kind: Literal["fat-tree"] = key(word)
    radix: int = key(whole(2))
    uplink: str | None = key(word, None)
    leaf: str = key(word, "leaf")
    spine: str = key(word, "spine")
    core: str = key(word, "core")


@_form
class GridSpec(_WiringSpec):
    """``[[wiring]]`` of direct links."""

    kind: Literal["full-mesh", "torus"] = key(word)
    sizes: tuple[int, ...] = key(many(count), ())
    link: tuple[str, ...] = key(many(word), ())
    link_name: str = key(remark, "")


@_form
class DragonflySpec(_WiringSpec):
    """``[[wiring]]`` of groups of routers."""

    kind: Literal["dragonfly"] = key(word)
    devices_per_router: int = key(count)
    routers_per_group: int = key(count)
    global_per_router: int = key(count)
    local_link: str | None = key(word, None)
    global_link: str | None = key(word, None)


WiringSpec = ClosSpec | FatTreeSpec | GridSpec | DragonflySpec
_WIRINGS = {
    "clos": ClosSpec,
    "fat-tree": FatTreeSpec,
    "full-mesh": GridSpec,
    "torus": GridSpec,
    "dragonfly": DragonflySpec,
}
WIRING_KINDS = tuple(_WIRINGS)


@_form
class PowerSpec:
    """``[power]``: of one unit."""

    unit: str = key(word)
    measured: str | None = key(word, None)
    covers: str = key(remark, "")
    source: str = key(remark, "")


@_form
class PublishedSpec:
    """``[published]``: totals of one unit as the vendor prints them."""

    bf16: str = key(word)
    source: str = key(remark, "")


def _chip(value: Any, place: Place) -> str | ChipSpec:
    """The id of a chip of the catalog, or a table that describes another."""
    read = table(ChipSpec) if isinstance(value, dict) else word
    return read(value, place)


@_form
class MachineSpec:
    """A machine file; without ``chip`` it is a fabric alone."""

    id: str = key(word)
    name: str = key(word)
    aliases: tuple[str, ...] = key(many(word), ())
    chip: str | ChipSpec | None = key(_chip, None)
    chip_alternatives: tuple[str, ...] = key(many(word), ())
    basis: DeviceBasis | None = key(_basis, None)
    software: str | None = key(word, None)
    source: str = key(word)
    size: SizeSpec = key(table(SizeSpec))
    endpoint: tuple[EndpointSpec, ...] = key(many(table(EndpointSpec)), ())
    tier: tuple[TierSpec, ...] = key(many(table(TierSpec), 1))
    wiring: tuple[WiringSpec, ...] = key(many(by_kind(_WIRINGS)), ())
    power: PowerSpec | None = key(table(PowerSpec), None)
    published: PublishedSpec | None = key(table(PublishedSpec), None)


@_form
class DeviceSpec:
    """``[[device]]`` of a fabric that is given link by link."""

    name: str = key(word)


@_form
class SwitchSpec:
    """``[[switch]]`` of such a fabric."""

    name: str = key(word)
    tier: str = key(word, "switch")


@_form
class CableSpec:
    """``[[link]]``: one cable, the same in both directions."""

    a: str = key(word)
    b: str = key(word)
    bandwidth: str = key(word)
    latency: str = key(word, "0 s")
    kind: str = key(word, "link")


@_form
class CableListSpec:
    """A fabric given link by link."""

    id: str = key(word)
    name: str | None = key(word, None)
    basis: DeviceBasis = key(_basis, "gpu")
    source: str = key(word)
    device: tuple[DeviceSpec, ...] = key(many(table(DeviceSpec), 1))
    switch: tuple[SwitchSpec, ...] = key(many(table(SwitchSpec)), ())
    link: tuple[CableSpec, ...] = key(many(table(CableSpec), 1))


def read_toml(path: Path) -> tuple[dict[str, Any], SourceLines]:
    """Read a TOML file with the lines of its keys.

    Raises
    ------
    CatalogError
        The file cannot be read or is not TOML.
    """
    data, text = reading.read_toml(path, what="the machine file", error=CatalogError)
    return data, SourceLines(path, text)


def read_machine_file(path: Path) -> tuple[MachineSpec, SourceLines]:
    """Read a machine file.

    Raises
    ------
    CatalogError
        The file cannot be read, is not TOML, or has an unknown, missing or wrong key.
    """
    found, lines = read_fabric_file(path)
    if isinstance(found, CableListSpec):
        raise CatalogError(
            f"{found.id} is a list of links",
            where=lines.where(("device",)),
            expected="a machine with a chip and tiers",
            hint="`fullmesh fabric` takes this file",
        )
    return found, lines


def read_fabric_file(path: Path) -> tuple[MachineSpec | CableListSpec, SourceLines]:
    """Read a machine file, or a fabric that is given link by link; errors as `read_machine_file`."""
    data, lines = read_toml(path)
    by_hand = bool({"device", "switch", "link"} & set(data)) and "tier" not in data
    found: MachineSpec | CableListSpec = table(CableListSpec if by_hand else MachineSpec)(data, Place(lines))
    return found, lines

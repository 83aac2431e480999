"""The form of a machine file, read strictly; errors name the file, the line and the key."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal

import pydantic

from fullmesh import reading
from fullmesh.errors import CatalogError, did_you_mean, shown
from fullmesh.machine.hardware import TierKind
from fullmesh.machine.wiring import DeviceBasis
from fullmesh.values import LONGEST_TEXT

# devices, planes, switches: beyond it a number is a slip of the pen
_MOST = 10_000_000
_MOST_ITEMS = 20_000

Count = Annotated[int, pydantic.Field(ge=1, le=_MOST)]
Natural = Annotated[int, pydantic.Field(ge=0, le=_MOST)]
Share = Annotated[float, pydantic.Field(gt=0, le=1)]
Word = Annotated[str, pydantic.Field(min_length=1, max_length=LONGEST_TEXT)]
Words = Annotated[tuple[Word, ...], pydantic.Field(strict=False, max_length=_MOST_ITEMS)]
Counts = Annotated[tuple[Count, ...], pydantic.Field(strict=False, max_length=_MOST_ITEMS)]
Dtype = Literal["bf16", "fp16", "fp8", "nvfp4", "int8", "fp32"]


class _Strict(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid", strict=True, frozen=True)


class ChipSpec(_Strict):
    """``[chip]``: a chip that the catalog does not hold."""

    id: Word
    name: Word
    vendor: Word
    family: Word
    arch: Word
    basis: DeviceBasis
    operator_profile: Word
    source: Word
    matrix: Annotated[dict[Dtype, Word], pydantic.Field(min_length=1)]
    vector_fp32: Word
    hbm_capacity: Word
    hbm_bandwidth: Word
    num_cores: Count
    power: Word | None = None
    host_bandwidth: Word | None = None


class SizeSpec(_Strict):
    """``[size]``: how devices are grouped."""

    default_devices: Count
    devices_per_package: Count = 1
    devices_per_node: Count
    devices_per_unit: Count
    unit_name: Word
    racks_per_unit: Word | None = None
    max_devices: Count | None = None
    source: str = ""


class TierSpec(_Strict):
    """``[[tier]]``: one level of the fabric, innermost first."""

    name: Word
    kind: TierKind
    num_devices: Count | Literal["all"]
    bandwidth: Word
    latency: Word
    in_network_reduction: bool = False
    measured: str = ""
    source: str = ""


class EndpointSpec(_Strict):
    """``[[endpoint]]``: CPUs or DPUs with links of their own."""

    name: Word
    per_node: Count
    measured: str = ""


class AttachSpec(_Strict):
    """``attach``: the port of an endpoint into a wiring."""

    endpoint: Word
    bandwidth: Word


class _WiringSpec(_Strict):
    name: Word | None = None
    tiers: Words = ()
    latency: Word | None = None
    efficiency: Share | None = None
    reduction_efficiency: Share | None = None
    source: Word
    note: str = ""


class ClosSpec(_WiringSpec):
    """``[[wiring]]`` of leaf, spine and core switches."""

    kind: Literal["clos"]
    planes: Count | None = None
    links_per_plane: Counts = ()
    nodes_per_leaf: Count | None = None
    nodes_per_pod: Count | None = None
    spines: Natural = 0
    cores: Natural = 0
    rails: Count = 1
    uplink: Word | None = None
    corelink: Word | None = None
    attach: tuple[AttachSpec, ...] = pydantic.Field(default=(), strict=False)
    leaf: Word = "leaf"
    spine: Word = "spine"
    core: Word = "core"
    links_per_module: Natural = 0
    relay_in_node: bool = False


class FatTreeSpec(_WiringSpec):
    """``[[wiring]]`` of a three-level fat tree."""

    kind: Literal["fat-tree"]
    radix: Annotated[int, pydantic.Field(ge=2)]
    uplink: Word | None = None
    leaf: Word = "leaf"
    spine: Word = "spine"
    core: Word = "core"


class GridSpec(_WiringSpec):
    """``[[wiring]]`` of direct links."""

    kind: Literal["full-mesh", "torus"]
    sizes: Counts = ()
    link: Words = ()
    link_name: str = ""


class DragonflySpec(_WiringSpec):
    """``[[wiring]]`` of groups of routers."""

    kind: Literal["dragonfly"]
    devices_per_router: Count
    routers_per_group: Count
    global_per_router: Count
    local_link: Word | None = None
    global_link: Word | None = None


WiringSpec = ClosSpec | FatTreeSpec | GridSpec | DragonflySpec
WIRING_KINDS = ("clos", "fat-tree", "full-mesh", "torus", "dragonfly")


class PowerSpec(_Strict):
    """``[power]``: of one unit."""

    unit: Word
    measured: Word | None = None
    covers: str = ""
    source: str = ""


class PublishedSpec(_Strict):
    """``[published]``: totals of one unit as the vendor prints them."""

    bf16: Word
    source: str = ""


def _chip_form(value: object) -> str:
    return "chip-table" if isinstance(value, dict) else "chip-id"


class MachineSpec(_Strict):
    """A machine file; without ``chip`` it is a fabric alone."""

    id: Word
    name: Word
    aliases: Words = ()
    chip: (
        Annotated[
            Annotated[Word, pydantic.Tag("chip-id")] | Annotated[ChipSpec, pydantic.Tag("chip-table")],
            pydantic.Discriminator(_chip_form),
        ]
        | None
    ) = None
    chip_alternatives: Words = ()
    basis: DeviceBasis | None = None
    software: Word | None = None
    source: Word
    size: SizeSpec
    endpoint: tuple[EndpointSpec, ...] = pydantic.Field(default=(), strict=False)
    tier: tuple[TierSpec, ...] = pydantic.Field(min_length=1, strict=False)
    wiring: tuple[Annotated[WiringSpec, pydantic.Discriminator("kind")], ...] = pydantic.Field(
        default=(), strict=False
    )
    power: PowerSpec | None = None
    published: PublishedSpec | None = None


class DeviceSpec(_Strict):
    """``[[device]]`` of a fabric that is given link by link."""

    name: Word


class SwitchSpec(_Strict):
    """``[[switch]]`` of such a fabric."""

    name: Word
    tier: Word = "switch"


class CableSpec(_Strict):
    """``[[link]]``: one cable, the same in both directions."""

    a: Word
    b: Word
    bandwidth: Word
    latency: Word = "0 s"
    kind: Word = "link"


class CableListSpec(_Strict):
    """A fabric given link by link."""

    id: Word
    name: Word | None = None
    basis: DeviceBasis = "gpu"
    source: Word
    device: tuple[DeviceSpec, ...] = pydantic.Field(min_length=1, max_length=_MOST_ITEMS, strict=False)
    switch: tuple[SwitchSpec, ...] = pydantic.Field(default=(), max_length=_MOST_ITEMS, strict=False)
    link: tuple[CableSpec, ...] = pydantic.Field(min_length=1, max_length=_MOST_ITEMS, strict=False)


_MODELS = (
    MachineSpec, ChipSpec, SizeSpec, TierSpec, PowerSpec, PublishedSpec, EndpointSpec, AttachSpec, ClosSpec,
    FatTreeSpec, GridSpec, DragonflySpec, CableListSpec, DeviceSpec, SwitchSpec, CableSpec,
)  # fmt: skip
Location = tuple[str | int, ...]


class SourceLines:
    """Finds the line of a key in a TOML text, for error messages.

    Parameters
    ----------
    path : pathlib.Path
    text : str
    """

    def __init__(self, path: Path, text: str) -> None:
        self._path = path
        self._lines: dict[Location, int] = {}
        table: Location = ()
        num_entries: dict[str, int] = {}
        for number, line in enumerate(text.splitlines(), 1):
            if header := re.match(r"\s*(\[\[?)\s*([\w.-]+)\s*\]", line):
                table = tuple(header[2].split("."))
                if header[1] == "[[":
                    index = num_entries.get(header[2], 0)
                    num_entries[header[2]] = index + 1
                    table = (*table, index)
                self._lines.setdefault(table, number)
            elif key := re.match(r"\s*([\w-]+)\s*=", line):
                self._lines.setdefault((*table, key[1]), number)

    def where(self, location: Location) -> str:
        """``FILE:LINE: key.path``; the line of the closest enclosing table when the key itself is absent."""
        for length in range(len(location), 0, -1):
            if line := self._lines.get(location[:length]):
                break
        else:
            line = 1
        key = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location).lstrip(".")
        return f"{self._path}:{line}: {key}" if key else f"{self._path}:{line}"


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
    try:
        return (CableListSpec if by_hand else MachineSpec).model_validate(data), lines
    except pydantic.ValidationError as error:
        raise _as_catalog_error(error, lines) from None


#: What pydantic adds to the place of an error to say which form it tried.
_TAGS = ("chip-id", "chip-table", "int", "literal['all']", "[key]", *WIRING_KINDS)


def _as_catalog_error(error: pydantic.ValidationError, lines: SourceLines) -> CatalogError:
    # An unknown key comes first: a misspelt key is also a missing one, and the spelling is the cause.
    details = sorted(error.errors(), key=lambda detail: detail["type"] != "extra_forbidden")
    first: Any = details[0]
    location: Location = tuple(part for part in first["loc"] if part not in _TAGS)
    key = location[-1] if location else ""
    more = f"; {len(details) - 1} more in this file" if len(details) > 1 else ""
    where = lines.where(location)
    if first["type"] == "extra_forbidden":
        known = sorted({name for model in _MODELS for name in model.model_fields})
        return CatalogError(f"unknown key {key!r}{more}", where=where, hint=did_you_mean(str(key), known))
    if first["type"] == "missing":
        return CatalogError(f"key {key!r} is missing{more}", where=where, expected=f"a value for {key!r}")
    if first["type"] in ("union_tag_invalid", "union_tag_not_found"):
        kind = first["input"].get("kind") if isinstance(first["input"], dict) else None
        return CatalogError(
            f"unknown kind {kind!r}{more}" if kind else f"key 'kind' is missing{more}",
            where=lines.where((*location, "kind")),
            expected="one of " + ", ".join(WIRING_KINDS),
            hint=did_you_mean(str(kind), list(WIRING_KINDS)) if kind else "",
        )
    return CatalogError(
        f"{shown(first['input'])} is not allowed{more}", where=where, expected=str(first["msg"])
    )

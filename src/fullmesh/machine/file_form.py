"""The form of a machine file, read strictly; errors name the file, the line and the key."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

import pydantic

from fullmesh.errors import CatalogError, did_you_mean
from fullmesh.machine.hardware import DeviceBasis, TierKind

Count = Annotated[int, pydantic.Field(ge=1)]
Word = Annotated[str, pydantic.Field(min_length=1)]
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
    source: str = ""


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
    """A machine file."""

    id: Word
    name: Word
    aliases: tuple[str, ...] = pydantic.Field(default=(), strict=False)
    chip: Annotated[
        Annotated[Word, pydantic.Tag("chip-id")] | Annotated[ChipSpec, pydantic.Tag("chip-table")],
        pydantic.Discriminator(_chip_form),
    ]
    chip_alternatives: tuple[str, ...] = pydantic.Field(default=(), strict=False)
    software: Word
    source: Word
    size: SizeSpec
    tier: tuple[TierSpec, ...] = pydantic.Field(min_length=1, strict=False)
    power: PowerSpec | None = None
    published: PublishedSpec | None = None


_MODELS = (MachineSpec, ChipSpec, SizeSpec, TierSpec, PowerSpec, PublishedSpec)
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


def read_machine_file(path: Path) -> tuple[MachineSpec, SourceLines]:
    """Read a machine file.

    Parameters
    ----------
    path : pathlib.Path

    Raises
    ------
    CatalogError
        The file cannot be read, is not TOML, or has an unknown, missing or wrong key.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
        data = tomllib.loads(text)
    except OSError as error:
        raise CatalogError(f"cannot read the machine file: {error.strerror}", where=str(path)) from None
    except UnicodeDecodeError:
        raise CatalogError("the file is not UTF-8 text", where=str(path), expected="a TOML file") from None
    except tomllib.TOMLDecodeError as error:
        line = re.search(r"line (\d+)", str(error))
        raise CatalogError(
            f"not a TOML file: {error}",
            where=f"{path}:{line[1]}" if line else str(path),
            expected="a TOML file",
        ) from None
    lines = SourceLines(path, text)
    try:
        return MachineSpec.model_validate(data), lines
    except pydantic.ValidationError as error:
        raise _as_catalog_error(error, lines) from None


def _as_catalog_error(error: pydantic.ValidationError, lines: SourceLines) -> CatalogError:
    # An unknown key comes first: a misspelt key is also a missing one, and the spelling is the cause.
    details = sorted(error.errors(), key=lambda detail: detail["type"] != "extra_forbidden")
    first: Any = details[0]
    location: Location = tuple(part for part in first["loc"] if part not in ("chip-id", "chip-table"))
    if location[-1:] in (("int",), ("literal['all']",), ("[key]",)):
        location = location[:-1]
    key = location[-1] if location else ""
    more = f"; {len(details) - 1} more in this file" if len(details) > 1 else ""
    where = lines.where(location)
    if first["type"] == "extra_forbidden":
        known = sorted({name for model in _MODELS for name in model.model_fields})
        return CatalogError(f"unknown key {key!r}{more}", where=where, hint=did_you_mean(str(key), known))
    if first["type"] == "missing":
        return CatalogError(f"key {key!r} is missing{more}", where=where, expected=f"a value for {key!r}")
    return CatalogError(f"{first['input']!r} is not allowed{more}", where=where, expected=str(first["msg"]))

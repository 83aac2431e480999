"""Operator profiles: fitted numbers from a dated file, scaled to a chip and laid out for fast evaluation."""

from __future__ import annotations

import dataclasses
import functools
import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from fullmesh.cost.operators.lattice import Floats, LogLattice, never_decreasing
from fullmesh.cost.operators.laws import (
    REFERENCE_HEAD_DIM,
    AttentionFit,
    Correction,
    GroupedFit,
    Hardware,
    ProductFit,
    attention_core_s,
    grouped_core_s,
    product_s,
)
from fullmesh.data import DATA_DIR
from fullmesh.errors import CatalogError, PlanError, did_you_mean
from fullmesh.machine.hardware import Chip

PROFILES_FILE = DATA_DIR / "profiles" / "operators.json"

# bytes of one operand element; block formats carry a scale for each block (NVFP4: one byte for sixteen values)
ELEMENT_BYTES: Mapping[str, float] = {
    "bf16": 2.0,
    "fp16": 2.0,
    "fp8": 1.0,
    "fp8_block": 1.0,
    "mxfp8": 1.0 + 1.0 / 32.0,
    "nvfp4": 0.5 + 1.0 / 16.0,
    "int8": 1.0,
    "fp32": 4.0,
}
# the unit of the chip that multiplies operands of a dtype
PEAK_OF: Mapping[str, str] = {"fp8_block": "fp8", "mxfp8": "fp8"}
# whose fit serves a dtype that has none: its physical part is scaled by the peaks and the operand bytes
STAND_INS: Mapping[str, tuple[str, ...]] = {
    "fp16": ("bf16",),
    "bf16": ("fp16",),
    "fp8": ("fp8_block", "int8", "bf16"),
    "fp8_block": ("fp8", "bf16"),
    "mxfp8": ("fp8_block", "fp8", "bf16"),
    "nvfp4": ("fp8", "bf16"),
    "int8": ("fp8", "bf16"),
    "fp32": ("bf16",),
}
# instruction generations with one-by-32 block scales in the matrix unit
_MX_ARCHS = ("sm100", "sm103", "sm110", "sm120")

# log2 of the first and last knot
_ROWS, _SIDES = (0, 24), (0, 20)
_QUERY_ROWS, _LENGTHS = (0, 36), (0, 24)
_GROUP_ROWS, _EXPERTS, _WEIGHTS = (0, 26), (0, 10), (10, 32)

_Fit = TypeVar("_Fit", ProductFit, AttentionFit, GroupedFit)


def _axis(ends: tuple[int, int]) -> Floats:
    return np.arange(ends[0], ends[1] + 1, dtype=np.float64)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Product:
    """Matrix products in one dtype.

    Parameters
    ----------
    lattice : LogLattice
        Over rows, columns and depth.
    block : float
        Products with fewer columns or less depth than this leave the tuned kernel; 0 where there is no such limit.
    small : LogLattice or None
        What those take.
    """

    lattice: LogLattice
    block: float = 0.0
    small: LogLattice | None = None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class AttentionKernel:
    """Flash attention: a lattice over query rows and causal length, and seconds a byte of the memory traffic."""

    lattice: LogLattice
    s_per_byte: float


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Grouped:
    """Grouped products: a lattice over rows, local experts and weight elements of one expert.

    ``layer`` corrects whole expert layers, by log2 of tokens, devices and weight elements, and by the exponent of the
    routing distribution: what frameworks do around the products.
    """

    lattice: LogLattice
    s_per_byte: float
    layer_s: float
    concentration: float
    layer_traffic: float
    routing_traffic: float
    layer: Correction | None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class AttentionShape:
    """How causal 128-wide forward attention carries over to other masks, widths and the backward pass.

    Parameters
    ----------
    mask_waste : float
        Key positions that a causal mask wastes in half-filled tiles.
    head_dims, head_dim_share : tuple of float
        Efficiency by head dimension over that of 128.
    backward_flop : float
        FLOPs of the backward over those of the forward pass.
    backward_share : float
        Efficiency of the backward over that of the forward pass.
    """

    mask_waste: float
    head_dims: tuple[float, ...]
    head_dim_share: tuple[float, ...]
    backward_flop: float
    backward_share: float


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class MemoryBound:
    """Elementwise kernels: launch, share of the datasheet bandwidth for large operands."""

    launch_s: float
    bandwidth_share: float


class OperatorProfile:
    """The operators of one chip, each prepared when first asked for.

    Parameters
    ----------
    chip : Chip
    name : str
        Profile that the numbers come from.
    record : mapping
        That profile as the file has it.
    """

    __slots__ = ("_attention", "_grouped", "_products", "attention_shape", "chip", "memory", "name", "record")

    def __init__(self, chip: Chip, name: str, record: Mapping[str, Any]) -> None:
        self.chip = chip
        self.name = name
        self.record = record
        self._products: dict[str, Product] = {}
        self._attention: dict[tuple[str, str], AttentionKernel] = {}
        self._grouped: dict[str, Grouped] = {}
        shape = record["attention_shape"]
        self.attention_shape = AttentionShape(
            mask_waste=shape["mask_waste"],
            head_dims=tuple(shape["head_dims"]),
            head_dim_share=tuple(shape["head_dim_share"]),
            backward_flop=shape["backward_flop"],
            backward_share=shape["backward_share"],
        )
        self.memory = MemoryBound(
            launch_s=record["memory_bound"]["launch_s"],
            bandwidth_share=record["memory_bound"]["bandwidth_share"],
        )

    @property
    def borrowed_from(self) -> str:
        """The chip that these kernels were measured on, empty where it is this one."""
        fitted: str = self.record["fitted_chip"]["id"]
        return "" if fitted == self.chip.id else fitted

    @property
    def attention_kernels(self) -> tuple[str, ...]:
        """Names of the attention kernels that were measured, the usual one first."""
        return tuple(self.record["attention"])

    def _here(self, dtype: str) -> Hardware:
        """What this chip has for products of ``dtype``."""
        peak = self.chip.matrix_flop_per_s.get(PEAK_OF.get(dtype, dtype))
        if dtype not in ELEMENT_BYTES:
            raise PlanError(f"unknown dtype {dtype!r}", hint=did_you_mean(dtype, list(ELEMENT_BYTES)))
        if peak is None or (dtype == "mxfp8" and self.chip.arch not in _MX_ARCHS):
            known = [d for d in ELEMENT_BYTES if PEAK_OF.get(d, d) in self.chip.matrix_flop_per_s]
            known = [d for d in known if d != "mxfp8" or self.chip.arch in _MX_ARCHS]
            raise PlanError(
                f"{self.chip.name} has no matrix unit for {dtype}",
                expected="one of " + ", ".join(known),
                hint="choose a precision that the chip supports",
            )
        return Hardware(
            flop_per_s=peak,
            hbm_bytes_per_s=self.chip.hbm_bytes_per_s,
            element_bytes=ELEMENT_BYTES[dtype],
        )

    def _source(self, operator: str, dtype: str) -> str:
        """The dtype whose fit serves ``dtype``."""
        for candidate in (dtype, *STAND_INS[dtype]):
            if candidate in self.record[operator]:
                return candidate
        raise CatalogError(f"operator profile {self.name} has no {operator} fit that serves {dtype}")

    def product(self, dtype: str) -> Product:
        """Matrix products in ``dtype``; ``PlanError`` where the chip has no such unit."""
        found = self._products.get(dtype)
        if found is None:
            here = self._here(dtype)
            source = self._source("gemm", dtype)
            record = self.record["gemm"][source]
            # how a product below one block is done belongs to the kernels of that dtype alone
            small = record.get("small") if source == dtype else None
            found = self._products[dtype] = Product(
                lattice=_product_lattice(record, here),
                block=small["below"] if small else 0.0,
                small=_product_lattice(small, here) if small else None,
            )
        return found

    def attention(self, dtype: str, kernel: str = "") -> AttentionKernel:
        """Flash attention in ``dtype`` (``bf16`` or ``fp16``); ``kernel`` picks a measured one by name."""
        found = self._attention.get((dtype, kernel))
        if found is None:
            here = self._here(dtype)
            kernels = self.record["attention"]
            name = kernel or next(iter(kernels))
            if name not in kernels:
                raise PlanError(f"unknown attention kernel {name!r}", hint=did_you_mean(name, list(kernels)))
            record = kernels[name]
            fit = _fit(AttentionFit, record)
            lattice = _lattice(
                (_QUERY_ROWS, _LENGTHS),
                record,
                lambda h, rows, length: attention_core_s(fit, h, rows, length),
                lambda rows, length: 2.0 * rows * length * REFERENCE_HEAD_DIM / here.flop_per_s,
                here,
            )
            found = self._attention[dtype, kernel] = AttentionKernel(
                lattice=lattice, s_per_byte=fit.traffic / here.hbm_bytes_per_s
            )
        return found

    def grouped(self, dtype: str) -> Grouped:
        """Grouped products of experts in ``dtype``."""
        found = self._grouped.get(dtype)
        if found is None:
            here = self._here(dtype)
            source = self._source("grouped", dtype)
            record = self.record["grouped"][source]
            fit = _fit(GroupedFit, record)
            lattice = _lattice(
                (_GROUP_ROWS, _EXPERTS, _WEIGHTS),
                record,
                lambda h, rows, experts, weights: grouped_core_s(fit, h, rows, experts, weights),
                # never faster than a large dense product
                lambda rows, experts, weights: 2.0 * rows * weights / (here.flop_per_s * record["ceiling"]),
                here,
            )
            found = self._grouped[dtype] = Grouped(
                lattice=lattice,
                s_per_byte=1.0 / (here.hbm_bytes_per_s * fit.memory_share),
                layer_s=fit.layer_s,
                concentration=fit.concentration,
                layer_traffic=fit.layer_traffic,
                routing_traffic=fit.routing_traffic,
                layer=correction(record["layer"]) if record.get("layer") else None,
            )
        return found


def _fit(kind: type[_Fit], record: Mapping[str, Any]) -> _Fit:
    return kind(**record["fit"])


def _product_lattice(record: Mapping[str, Any], here: Hardware) -> LogLattice:
    fit = _fit(ProductFit, record)
    return _lattice(
        (_ROWS, _SIDES, _SIDES),
        record,
        lambda h, m, n, k: product_s(fit, h, m, n, k),
        lambda m, n, k: 2.0 * m * n * k / here.flop_per_s,
        here,
    )


def _lattice(
    ends: tuple[tuple[int, int], ...],
    record: Mapping[str, Any],
    physical: Callable[..., Floats],
    at_peak: Callable[..., Floats],
    here: Hardware,
) -> LogLattice:
    """Physical part on this chip times the correction, never below the peak, never decreasing.

    Where the fit was made on another chip of the generation, a shape keeps its correction and its shares of peak and
    bandwidth, and the physical part is evaluated with the peak and the bandwidth of this chip.
    """
    axes = [_axis(e) for e in ends]
    grid = np.meshgrid(*(2.0**a for a in axes), indexing="ij")
    log_s = np.log(physical(here, *grid))
    stored = record["correction"]
    if stored is not None:
        log_s = log_s + correction(stored).on_grid(*axes)
    log_s = np.maximum(log_s, np.log(at_peak(*grid)))
    return LogLattice(first=tuple(e[0] for e in ends), log_s=np.ascontiguousarray(never_decreasing(log_s)))


def correction(stored: Mapping[str, Any]) -> Correction:
    """A correction as the file has it: knots, and thousandths in row-major order."""
    knots = tuple(np.asarray(k, dtype=np.float64) for k in stored["knots"])
    values = np.asarray(stored["log_ratio_thousandths"], dtype=np.float64) / 1000.0
    return Correction(knots=knots, log_ratio=values.reshape([len(k) for k in knots]))


def read_profiles(path: Path) -> dict[str, Any]:
    """Read a file that ``fullmesh calibrate operators`` wrote.

    Raises
    ------
    CatalogError
        The file is missing or is no such file.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise CatalogError(
            f"cannot read operator profiles: {error}",
            where=str(path),
            hint="fit them again with: fullmesh calibrate operators DIR --out FILE",
        ) from None
    if not isinstance(content, dict) or "profiles" not in content:
        raise CatalogError("no operator profiles in this file", where=str(path), expected="a key 'profiles'")
    return content


@functools.cache
def _shipped() -> dict[str, Any]:
    profiles: dict[str, Any] = read_profiles(PROFILES_FILE)["profiles"]
    return profiles


_loaded: dict[tuple[object, ...], OperatorProfile] = {}


def load_profile(chip: Chip) -> OperatorProfile:
    """The operator profile of a chip.

    The profile named by ``chip.operator_profile`` was fitted on a chip of the same generation. Its correction and
    shares are kept; the physical part is evaluated with this chip's own peaks and bandwidth, so a product bound by
    arithmetic scales with the peak, one bound by memory with the bandwidth, and a launch with neither.

    Raises
    ------
    CatalogError
        There is no such profile.
    """
    key = (
        chip.id,
        chip.operator_profile,
        tuple(sorted(chip.matrix_flop_per_s.items())),
        chip.hbm_bytes_per_s,
        chip.num_cores,
    )
    profile = _loaded.get(key)
    if profile is None:
        record = _shipped().get(chip.operator_profile)
        if record is None:
            raise CatalogError(
                f"chip {chip.id} names the operator profile {chip.operator_profile!r}, which does not exist",
                hint=did_you_mean(chip.operator_profile, list(_shipped())),
            )
        profile = _loaded[key] = OperatorProfile(chip, chip.operator_profile, record)
    return profile


def head_dim_share(shape: AttentionShape, head_dim: float) -> float:
    """Efficiency at ``head_dim`` over that at 128: linear between published points in log2, constant outside."""
    return float(
        np.interp(math.log2(head_dim), [math.log2(d) for d in shape.head_dims], shape.head_dim_share)
    )

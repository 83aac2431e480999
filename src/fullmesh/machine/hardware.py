"""What the cost models need to know of the hardware: plain numbers in SI units, basis stated."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Literal

from fullmesh.machine.wiring import DeviceBasis, Endpoint, TierWiring

TierKind = Literal["package", "switch", "mesh", "rail"]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Chip:
    """One device as a training framework counts it: a GPU, an NPU, or one die of an Ascend 910C.

    Parameters
    ----------
    id, name : str
        Catalog key (``h100-sxm``) and printed name.
    vendor : str
        ``nvidia`` or ``huawei``.
    family : str
        Reporting family: ``A100``, ``H100``, ``B200``, ``GB200``, ``Ascend 910B``, ``Ascend 910C`` ...
    arch : str
        Instruction generation, the key of kernels that behave alike: ``sm80``, ``sm90``, ``sm100``, ``da-v220``.
    basis : {"gpu", "npu", "die"}
        What one device is.
    matrix_flop_per_s : mapping of str to float
        Dense peak of the matrix units by dtype (``bf16``, ``fp16``, ``fp8``, ``nvfp4``, ``int8``, ``fp32``);
        for Ascend the cube units alone, without the vector units that brochures add. A missing dtype is not supported.
    vector_flop_per_s : float
        FP32 peak of the vector units.
    hbm_bytes, hbm_bytes_per_s : float
        Capacity that a process can use, and datasheet bandwidth.
    num_cores : int
        Streaming multiprocessors or cube cores: the unit of wave quantisation.
    power_w : float or None
        Design power of one device; None where it is not published.
    operator_profile : str
        Key of the fitted operator profile that describes its kernels.
    host_bytes_per_s : float or None
        Line rate to the memory of the host, one direction; None where it is not known.
    die : str
        Chips with the same arithmetic under the same power share it (H100, H800 and H200 of 700 W differ in memory
        and links); empty: like no other.
    announced : bool
        Some of its figures are announced and not shipped.
    """

    id: str
    name: str
    vendor: str
    family: str
    arch: str
    basis: DeviceBasis
    matrix_flop_per_s: Mapping[str, float]
    vector_flop_per_s: float
    hbm_bytes: float
    hbm_bytes_per_s: float
    num_cores: int
    power_w: float | None
    operator_profile: str
    host_bytes_per_s: float | None = None
    die: str = ""
    announced: bool = False


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Tier:
    """One level of the fabric, innermost first.

    Parameters
    ----------
    name : str
        ``package``, ``nvlink``, ``ub``, ``mesh``, ``roce``, ``infiniband`` ...
    kind : {"package", "switch", "mesh", "rail"}
        ``switch`` gives the whole port to any peer; ``mesh`` gives ``1 / (size - 1)`` of it to one peer;
        ``rail`` is a network card per device behind leaf and spine switches; ``package`` joins dies.
    num_devices : int
        Devices that one instance of this tier joins.
    bytes_per_s : float
        Line rate per device and direction.
    latency_s : float
        One message, device to device, across this tier.
    in_network_reduction : bool
        Switches that reduce (NVLink SHARP).
    full_num_devices : int or None
        Devices that a fully equipped instance joins, where ``num_devices`` was cut down to a smaller machine.
    measured_item : str
        Item of the catalog whose measured rows speak of this tier of this machine; empty where nothing was measured.
    """

    name: str
    kind: TierKind
    num_devices: int
    bytes_per_s: float
    latency_s: float
    in_network_reduction: bool = False
    full_num_devices: int | None = None
    measured_item: str = ""


def resize_tiers(tiers: tuple[Tier, ...], num_devices: int) -> tuple[Tier, ...]:
    """Tiers of the same machine with another number of devices.

    Tiers larger than the new machine shrink to it; the outermost always joins all devices.
    """
    inner = []
    for tier in tiers[:-1]:
        full = tier.full_num_devices or tier.num_devices
        inner.append(dataclasses.replace(tier, num_devices=min(full, num_devices), full_num_devices=full))
    return (*inner, dataclasses.replace(tiers[-1], num_devices=num_devices))


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Borrowed:
    """Something that a machine takes from another because its own was not measured.

    Parameters
    ----------
    what : str
        ``kernels``, ``collectives of hccs``, ``software`` ...
    source : str
        Whose it is.
    """

    what: str
    source: str

    def __str__(self) -> str:
        return f"{self.what} taken from {self.source}"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class FabricDescription:
    """What joins the devices, from which both the list of tiers and the graph of links are read.

    Parameters
    ----------
    id, name : str
    device_basis : {"gpu", "npu", "die"}
    num_devices : int
        The size of its own; the outermost tier grows with another one.
    tiers : tuple of Tier
    endpoints : tuple of Endpoint
        CPUs and DPUs with links of their own.
    wirings : tuple of TierWiring
        Tiers that none of them names are wired as plainly as their kind allows.
    machine : Machine or None
        None for a fabric without chips.
    """

    id: str
    name: str
    device_basis: DeviceBasis
    num_devices: int
    tiers: tuple[Tier, ...]
    devices_per_node: int
    devices_per_package: int
    devices_per_unit: int
    unit_name: str
    endpoints: tuple[Endpoint, ...] = ()
    wirings: tuple[TierWiring, ...] = ()
    machine: Machine | None = None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """A cluster or supernode of equal devices.

    Parameters
    ----------
    id, name : str
        Catalog key and printed name.
    chip : Chip
    num_devices : int
    tiers : tuple of Tier
        Innermost first; the last one joins all devices.
    devices_per_node, devices_per_package, devices_per_unit : int
        A unit is what one buys: a node of a cluster, a rack of NVL72, a supernode.
    unit_name : str
    racks_per_unit : float or None
    unit_power_w : float or None
        All-in power of one unit under load, as published; None where it is not.
    power_basis : str
        What that power covers, in words.
    software : str
        Entry of ``data/software.toml``: the stack and generation that a prediction is for.
    unit_measured_power_w : float or None
        Mean power of one unit measured while training; None where nobody published it.
    measured_power_basis : str
        What was measured, in words.
    unit_published_flop_per_s : float or None
        BF16 peak of one unit as its vendor publishes it, which may count more than the matrix units.
    published_flop_basis : str
        What that figure counts, in words.
    endpoints, wirings : tuple
        How its tiers are cabled; see `FabricDescription`.
    borrowed : tuple of Borrowed
        What the machine file leaves to another machine.
    announced : bool
        The hardware, or some of its figures, is announced and not shipped.
    """

    id: str
    name: str
    chip: Chip
    num_devices: int
    tiers: tuple[Tier, ...]
    devices_per_node: int
    devices_per_package: int
    devices_per_unit: int
    unit_name: str
    racks_per_unit: float | None
    unit_power_w: float | None
    power_basis: str
    software: str
    unit_measured_power_w: float | None = None
    measured_power_basis: str = ""
    unit_published_flop_per_s: float | None = None
    published_flop_basis: str = ""
    endpoints: tuple[Endpoint, ...] = ()
    wirings: tuple[TierWiring, ...] = ()
    borrowed: tuple[Borrowed, ...] = ()
    announced: bool = False

    @property
    def fabric(self) -> FabricDescription:
        """What joins the devices."""
        return FabricDescription(
            id=self.id,
            name=self.name,
            device_basis=self.chip.basis,
            num_devices=self.num_devices,
            tiers=self.tiers,
            devices_per_node=self.devices_per_node,
            devices_per_package=self.devices_per_package,
            devices_per_unit=self.devices_per_unit,
            unit_name=self.unit_name,
            endpoints=self.endpoints,
            wirings=self.wirings,
            machine=self,
        )

    @property
    def num_packages(self) -> int:
        """Packages (what a vendor counts as one accelerator)."""
        return self.num_devices // self.devices_per_package

    @property
    def num_units(self) -> float:
        """Units, possibly a fraction when fewer devices than one unit are used."""
        return self.num_devices / self.devices_per_unit

    @property
    def scale_up_devices(self) -> int:
        """Devices of the largest domain that no network card separates."""
        sizes = [t.num_devices for t in self.tiers if t.kind != "rail"]
        return min(max(sizes, default=1), self.num_devices)

    def resized(self, num_devices: int) -> Machine:
        """The same kind of machine with another number of devices; see `resize_tiers`."""
        return dataclasses.replace(self, num_devices=num_devices, tiers=resize_tiers(self.tiers, num_devices))

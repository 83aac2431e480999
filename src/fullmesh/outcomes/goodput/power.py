"""Power of a machine at work: from what its devices do in a step, not from nameplates; caps, cooling, sites."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import numpy.typing as npt

from fullmesh.catalog import load_facts
from fullmesh.catalog.run_inputs import RunInputs
from fullmesh.errors import ScenarioError
from fullmesh.machine import Machine
from fullmesh.machine.chips import list_chips
from fullmesh.outcomes.goodput.domains import is_supernode
from fullmesh.outcomes.waterfall import Waterfall
from fullmesh.output import formats

Floats = npt.NDArray[np.float64]
MONTH_S = 365.25 / 12 * 86_400.0
#: machines of these families were measured while they trained, and the model holds against them
MEASURED_FAMILIES = ("H100", "B200")

_PHASES = ("matrix", "memory", "links", "waiting")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Phases:
    """Seconds of a step by what a device does: matrix products, memory-bound kernels, collectives alone, waiting."""

    matrix_s: float
    memory_s: float
    links_s: float
    waiting_s: float

    @property
    def step_s(self) -> float:
        """All of them."""
        return self.matrix_s + self.memory_s + self.links_s + self.waiting_s


def phases_of(fall: Waterfall) -> Phases:
    """What the lines of a waterfall are to a device's power."""
    return Phases(
        matrix_s=fall.seconds("ideal_s", "kernels_s", "recompute_s"),
        memory_s=fall.seconds("memory_s", "route_s", "optimizer_s"),
        links_s=fall.group("communication"),
        waiting_s=fall.seconds("launch_s", "bubble_s", "uneven_s", "fixed_s", "straggler_s"),
    )


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class DevicePower:
    """Watts of one device with its share of the machine around it, at the meter of the machine, without cooling.

    Parameters
    ----------
    idle_w, design_w : float
        Of the device alone.
    training_w : float
        Mean over a step.
    peak_w : float
        While matrix units work on all devices.
    waiting_w : float
        While the job is down or stalls, processes spinning.
    resting_w : float
        On but idle: spares, and waits for repair.
    nameplate_w : float
        What the catalog says of the unit, a device.
    log_error : float
        Deviation of the logarithm of these figures.
    basis : str
    """

    idle_w: float
    design_w: float
    training_w: float
    peak_w: float
    waiting_w: float
    resting_w: float
    nameplate_w: float
    log_error: float
    basis: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Capped:
    """A power cap a device: the clock that it leaves and the step that follows."""

    cap_w: float
    clock: float
    step_factor: float


def _device(machine: Machine, inputs: RunInputs) -> tuple[float, float, bool]:
    """Idle and design power of one device, and whether the design power is published."""
    assert machine.unit_power_w is not None
    nameplate = machine.unit_power_w / machine.devices_per_unit
    design = machine.chip.power_w
    published = design is not None
    if design is None:
        design = nameplate * inputs["device_power_share"]
    # of a package with several dies the catalog has the idle power of the package
    item = machine.chip.id if machine.devices_per_package == 1 else f"{machine.chip.id}-package"
    idle = load_facts().find(item, "power_idle") if machine.chip.id in list_chips() else None
    if idle is not None:
        return min(idle.si_value / machine.devices_per_package, 0.6 * design), design, published
    return inputs["idle_share"] * design, design, published


def device_power(
    machine: Machine, phases: Phases, inputs: RunInputs, cap_w: float | None = None
) -> tuple[DevicePower, Capped | None] | None:
    """Power of one device under a step; None where no power of the machine is published.

    Parameters
    ----------
    cap_w : float, optional
        Watts that a device may draw. What would draw more runs at a lower clock: dynamic power goes with a power of
        the clock, matrix products and memory-bound kernels with the clock itself.

    Raises
    ------
    ScenarioError
        The cap lies at or below the idle power.
    """
    if machine.unit_power_w is None:
        return None
    idle, design, published = _device(machine, inputs)
    nameplate = machine.unit_power_w / machine.devices_per_unit
    rest = max(nameplate - design, 0.05 * nameplate)
    share = [inputs[f"power_{name}"] for name in _PHASES]
    watts = [idle + (design - idle) * s for s in share]
    seconds = [phases.matrix_s, phases.memory_s, phases.links_s, phases.waiting_s]
    capped = None
    if cap_w is not None:
        if cap_w <= 1.1 * idle:
            raise ScenarioError(
                f"a cap of {cap_w:,.0f} W a device is not above its idle power",
                where="--power-cap",
                expected=f"more than {1.1 * idle:,.0f} W a device",
            )
        clocks = [
            min(((cap_w - idle) / max(w - idle, 1e-9)) ** (1.0 / inputs["clock_exponent"]), 1.0)
            for w in watts
        ]
        before = sum(seconds)
        seconds = [s / c if k < 2 else s for k, (s, c) in enumerate(zip(seconds, clocks, strict=True))]
        watts = [min(w, cap_w) for w in watts]
        capped = Capped(cap_w=cap_w, clock=clocks[0], step_factor=sum(seconds) / before)
    mean = sum(w * s for w, s in zip(watts, seconds, strict=True)) / sum(seconds)
    loaded, empty = rest * inputs["rest_load"], rest * inputs["rest_idle"]
    supply = inputs["supply_efficiency"]
    measured = machine.chip.family.startswith(MEASURED_FAMILIES)
    basis = (
        "device power from the parts of the step, held against measured nodes of this family"
        if measured
        else "device power from the parts of the step; no machine of this family was measured while training"
    )
    if not published:
        share_of_unit = formats.percent(inputs["device_power_share"], 0)
        basis += f"; design power of its chip is not published, taken as {share_of_unit} of the unit's"
    power = DevicePower(
        idle_w=idle,
        design_w=design,
        training_w=(mean + loaded) / supply,
        peak_w=(watts[0] + loaded) / supply,
        waiting_w=(watts[3] + loaded) / supply,
        resting_w=(idle + empty) / supply,
        nameplate_w=nameplate,
        log_error=inputs["power_error"] if measured else inputs["power_error_unmeasured"],
        basis=basis,
    )
    return power, capped


def default_pue(machine: Machine, inputs: RunInputs) -> float:
    """Cooling where nothing is given: liquid for machines sold as racks or supernodes, air for nodes."""
    return inputs["pue_liquid" if is_supernode(machine) else "pue_air"]


def mean_pue(months: tuple[float, ...], seconds: Floats) -> Floats:
    """Mean power usage effectiveness over a run that begins with the first month."""
    if len(months) == 1:
        return np.full_like(seconds, months[0])
    turns = np.concatenate([[0.0], np.cumsum(months)])
    length = np.where(np.isfinite(seconds), seconds, 12 * MONTH_S) / MONTH_S
    years, rest = np.divmod(length, 12.0)
    whole = np.floor(rest).astype(int)
    total = years * turns[-1] + turns[whole] + (rest - whole) * np.asarray(months)[np.minimum(whole, 11)]
    out: Floats = total / np.maximum(length, 1e-12)
    return out


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class SiteFit:
    """How many units a site can feed.

    Parameters
    ----------
    site_w : float
    units, units_low, units_high : int
        By the predicted peak with cooling, and by that peak at the far and near end of its error (80 %).
    units_nameplate : int
        By the power of the catalog with cooling.
    unit_peak_w : float
        With cooling.
    """

    site_w: float
    units: int
    units_low: int
    units_high: int
    units_nameplate: int
    unit_peak_w: float


def site_fit(machine: Machine, power: DevicePower, pue: float, site_w: float) -> SiteFit:
    """Units of a machine within the power of a site, at the worst month's cooling."""
    each = power.peak_w * machine.devices_per_unit * pue
    spread = math.exp(1.2816 * power.log_error)
    name = power.nameplate_w * machine.devices_per_unit * pue
    return SiteFit(
        site_w=site_w,
        units=int(site_w // each),
        units_low=int(site_w // (each * spread)),
        units_high=int(site_w // (each / spread)),
        units_nameplate=int(site_w // name),
        unit_peak_w=each,
    )

"""Published stability of real runs against what rates from one trace of 400 servers predict, and public claims.

Rates and repairs come from ``data/run/faults-400-servers.csv`` alone, which ``fullmesh calibrate faults`` made of that
trace; nothing of the runs below went into it. Recovery is that which a run's own source states.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import numpy.typing as npt

from fullmesh.catalog.faults import TRACE_FIT, FaultTable, load_faults
from fullmesh.catalog.run_inputs import RunInputs, load_run_inputs
from fullmesh.machine import load_machine
from fullmesh.outcomes.goodput.case import with_intervals
from fullmesh.outcomes.goodput.domains import exposures, is_supernode
from fullmesh.outcomes.goodput.draws import Inputs, draw_inputs
from fullmesh.outcomes.goodput.engine import Run, best_intervals
from fullmesh.outcomes.goodput.montecarlo import simulate_runs
from fullmesh.outcomes.goodput.policies import Checkpoint, PolicyName, checkpoint_of, recovery_of
from fullmesh.outcomes.goodput.rates import YEAR_S, Load, Slowness, load_of
from fullmesh.outcomes.goodput.spares import availability, spares_for

Floats = npt.NDArray[np.float64]
DAY_S, HOUR_S = 86_400.0, 3600.0
_DRAWS = 20_000
# no exposed communication: what slows a step is not what is asked here
_STEADY = Slowness(scale_up_share=0.0, network_share=0.0, straggler_slowdown=0.0, straggler_s=0.0, flap_s=0.0)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """One published figure beside the prediction (P10, P50, P90).

    Parameters
    ----------
    run, figure : str
    published : float
    at_least : bool
        The source says "more than".
    low, middle, high : float
    source : str
    """

    run: str
    figure: str
    published: float
    at_least: bool
    low: float
    middle: float
    high: float
    source: str

    @property
    def holds(self) -> bool:
        """Whether the prediction allows what was published."""
        return self.high >= self.published and (self.at_least or self.low <= self.published)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Real:
    """A published run: its size, length, recovery and model."""

    name: str
    devices: int
    days: float
    parameters: float
    policy: PolicyName
    step_s: float
    source: str
    planned_per_day: float = 0.0


LLAMA3 = _Real(
    name="Llama 3 405B",
    devices=16_384,
    days=54.0,
    parameters=405e9,
    policy="restart",
    step_s=6.0,
    planned_per_day=47.0 / 54.0,
    source="arXiv 2407.21783",
)
MEGASCALE = _Real(
    name="MegaScale",
    devices=12_288,
    days=28.0,
    parameters=530e9,
    policy="restart",
    step_s=6.3,
    source="arXiv 2402.15627",
)
BYTEROBUST = _Real(
    name="ByteRobust",
    devices=9_600,
    days=90.0,
    parameters=70e9,
    policy="hot-spares",
    step_s=10.0,
    source="arXiv 2509.16293, read second-hand",
)


def _factors(table: FaultTable, seed: int, runs: int) -> dict[str, Floats]:
    rng = np.random.default_rng(seed)
    site = np.sort(np.exp(table.site_spread * rng.standard_normal(runs) - table.site_spread**2 / 2))
    return {
        r.domain: site * np.exp(r.spread * rng.standard_normal(runs) - r.spread**2 / 2) for r in table.rates
    }


def interruptions(devices: int, days: float, table: FaultTable, *, seed: int = 0) -> Floats:
    """Draws of the number of stops of a job on eight-GPU nodes in so many days."""
    machine = load_machine("dgx-h100", num_devices=devices)
    load = load_of(exposures(machine, table.rates), _STEADY, factors=_factors(table, seed, _DRAWS))
    return np.random.default_rng(seed + 1).poisson(load.stops_per_s * days * DAY_S).astype(np.float64)


def effective_time(
    real: _Real, table: FaultTable, inputs: RunInputs, *, policy: PolicyName | None = None, runs: int = 2000
) -> Floats:
    """Draws of the share of time that counted, with the recovery that the inputs state, within its ranges."""
    machine = load_machine("dgx-h100", num_devices=real.devices)
    nodes = real.devices / machine.devices_per_node
    exposed = exposures(machine, table.rates)
    mean = load_of(exposed, _STEADY)
    drawn = load_of(exposed, _STEADY, factors=_factors(table, 3, runs))
    c = checkpoint_of(real.parameters, real.devices, nodes, machine.chip.host_bytes_per_s, inputs)
    run = _run(real, policy or real.policy, c, inputs, inputs, mean)
    best = best_intervals(run, mean, least_near_s=real.step_s, least_store_s=float(c.write_s))
    luck = draw_inputs(inputs, 5, runs)
    c = checkpoint_of(real.parameters, real.devices, nodes, machine.chip.host_bytes_per_s, luck)
    drawn_run = with_intervals(_run(real, policy or real.policy, c, inputs, luck, mean), best)
    return simulate_runs(drawn_run, drawn, np.full(runs, real.days * DAY_S), seed=0).goodput


def _run(real: _Real, policy: PolicyName, c: Checkpoint, inputs: RunInputs, drawn: Inputs, mean: Load) -> Run:
    r = recovery_of(policy, c, real.step_s, drawn)
    return Run(
        recovery=r,
        near_s=real.step_s,
        store_s=real.step_s,
        store_stall_s=c.stall_s,
        # these runs did not wait: their clusters had nodes enough
        spares=spares_for(3.0 * float(mean.replaced_per_s * mean.repair_s), 1e-3),
        pools=1,
        recovery_spread=inputs["recovery_spread"],
        planned_per_s=real.planned_per_day / DAY_S,
        planned_s=r.wide_restart_s + r.wide_load_s + r.warm_up_s,
        silent_s=drawn["silent_detection"],
    )


def _held(
    run: str, figure: str, published: float, draws: Floats, source: str, *, at_least: bool = False
) -> Held:
    low, middle, high = (float(np.quantile(draws, q)) for q in (0.1, 0.5, 0.9))
    return Held(
        run=run, figure=figure, published=published, at_least=at_least, low=low, middle=middle, high=high,
        source=source,
    )  # fmt: skip


def stated_limits(inputs: RunInputs) -> RunInputs:
    """MegaScale's own upper limits: detection within 10 minutes, back within 15 with loading and warm-up."""
    warm_up = inputs["warm_up"]
    return inputs.given({"detection": 600.0, "restart": 900.0 - warm_up, "warm_up": warm_up})


def late_notice(inputs: RunInputs) -> RunInputs:
    """Silent errors noticed at the far end of their range."""
    return inputs.given({"silent_detection": inputs.row("silent_detection").high})


def without_choice() -> dict[str, tuple[Held, ...]]:
    """The effective times of Llama 3 and MegaScale with and without the choices that were made in their view."""
    table, inputs = load_faults(TRACE_FIT), load_run_inputs()
    ways = {
        "as chosen": inputs,
        "detection and restart at MegaScale's limits": stated_limits(inputs),
        "silent errors noticed after 12 h": late_notice(inputs),
        "both": late_notice(stated_limits(inputs)),
    }
    return {
        text: tuple(
            _held(real.name, text, 0.90, effective_time(real, table, way), real.source, at_least=True)
            for real in (LLAMA3, MEGASCALE)
        )
        for text, way in ways.items()
    }


def published_runs() -> tuple[Held, ...]:
    """All published figures with their predictions from the trace alone."""
    table, inputs = load_faults(TRACE_FIT), load_run_inputs()
    out = [
        _held(
            LLAMA3.name, "unplanned interruptions in 54 days", 419.0,
            interruptions(LLAMA3.devices, LLAMA3.days, table), LLAMA3.source,
        ),
        _held(
            LLAMA3.name, "effective training time", 0.90, effective_time(LLAMA3, table, inputs), LLAMA3.source,
            at_least=True,
        ),
        _held(
            MEGASCALE.name, "restarts in four weeks on 12,288 GPUs", 100.0,
            interruptions(MEGASCALE.devices, MEGASCALE.days, table), MEGASCALE.source, at_least=True,
        ),
        _held(
            MEGASCALE.name, "effective training time", 0.90, effective_time(MEGASCALE, table, inputs),
            MEGASCALE.source, at_least=True,
        ),
        _held(
            MEGASCALE.name, "the same, recovery at the stated limits", 0.90,
            effective_time(MEGASCALE, table, stated_limits(inputs)), MEGASCALE.source, at_least=True,
        ),
        _held(
            BYTEROBUST.name, "effective training time, 9,600 GPUs", 0.97,
            effective_time(BYTEROBUST, table, inputs), BYTEROBUST.source,
        ),
    ]  # fmt: skip
    return tuple(out)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Analysis:
    """A public analysis of 8,192 Ascend chips: availability at a mean time between faults and to repair."""

    system: str
    mtbf_s: float
    mttr_s: float
    published: float

    @property
    def ours(self) -> float:
        """By the same two times."""
        return availability(self.mtbf_s, self.mttr_s)


ANALYSES = (
    Analysis(system="Clos network", mtbf_s=13.8 * HOUR_S, mttr_s=75 * 60.0, published=0.916),
    Analysis(system="UB-Mesh", mtbf_s=98.5 * HOUR_S, mttr_s=75 * 60.0, published=0.988),
    Analysis(system="UB-Mesh, fast recovery", mtbf_s=98.5 * HOUR_S, mttr_s=13 * 60.0, published=0.9978),
)

# packages that public claims may mean
SCALES = (384, 1_024, 4_096, 8_192, 10_000, 100_000)
# faults a node of eight packages and year of published clusters
NODE_RATES = (0.3, 0.5, 1.0, 1.5, 3.0, 8.7)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ScaleRow:
    """Mean time between stops of CloudMatrix supernodes at the shipped rates, with the range of the site (80 %).

    ``recovery_98_s`` is the most that one stop may cost, lost work included, for 98 % of the time to count.
    """

    packages: int
    mtbf_s: float
    low_s: float
    high_s: float
    recovery_98_s: float


def supernode_rows() -> tuple[ScaleRow, ...]:
    """Stops of a job by scale."""
    table = load_faults()
    spread = math.exp(1.2816 * table.site_spread)
    out = []
    for packages in SCALES:
        machine = load_machine("cloudmatrix384", num_devices=math.ceil(packages / 8) * 16)
        assert is_supernode(machine)
        mtbf = 1.0 / float(load_of(exposures(machine, table.rates), _STEADY).stops_per_s)
        out.append(
            ScaleRow(
                packages=packages,
                mtbf_s=mtbf,
                low_s=mtbf / spread,
                high_s=mtbf * spread,
                recovery_98_s=mtbf * 0.02,
            )
        )
    return tuple(out)


def mtbf_s(packages: int, per_node_year: float) -> float:
    """Mean time between stops of so many packages at a rate a node of eight and year."""
    return YEAR_S / (packages / 8.0 * per_node_year)


def rate_for(packages: int, mtbf: float) -> float:
    """The rate a node of eight and year at which so many packages have that mean time between stops."""
    return YEAR_S / (packages / 8.0 * mtbf)


__all__ = [
    "ANALYSES",
    "NODE_RATES",
    "SCALES",
    "Analysis",
    "Held",
    "ScaleRow",
    "effective_time",
    "interruptions",
    "mtbf_s",
    "published_runs",
    "rate_for",
    "supernode_rows",
    "without_choice",
]

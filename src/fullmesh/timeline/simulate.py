"""One plan replayed in full: the functions behind ``fullmesh simulate``."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from fullmesh.errors import PlanError
from fullmesh.timeline.analysis import Activity, CriticalPath, activity, critical_path
from fullmesh.timeline.changes import Change, changes
from fullmesh.timeline.costs import PipelineCosts
from fullmesh.timeline.engine.engines import Contention, Network, Timeline, replay
from fullmesh.timeline.memory import MemoryProfile, memory_profile
from fullmesh.timeline.perturb import Perturbation, Unfolded, unfold
from fullmesh.timeline.schedule.schedules import build_graph
from fullmesh.timeline.step_form import NOTABLE, closed_form_step_s, why_different
from fullmesh.timeline.trace.chrome import document, trace_events, write_json
from fullmesh.timeline.trace.measured import OperatorDifference, Profile, compare_operators, lay_under


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Simulation:
    """A replayed step and what it says.

    Parameters
    ----------
    costs : PipelineCosts
    timeline : Timeline
    unfolded : Unfolded
        Which devices the rows of the timeline stand for.
    path : CriticalPath
    activity : Activity
    memory : MemoryProfile
    closed_form_step_s : float or None
        None for a user's table, which has no closed form.
    build_s, engine_s : float
        Wall-clock seconds of building (with unfolding) and of the replay.
    network : Network, optional
    """

    costs: PipelineCosts
    timeline: Timeline
    unfolded: Unfolded
    path: CriticalPath
    activity: Activity
    memory: MemoryProfile
    closed_form_step_s: float | None
    build_s: float
    engine_s: float
    network: Network | None = None

    @property
    def step_s(self) -> float:
        """Seconds of the step."""
        return self.timeline.step_s

    def why_different(self) -> tuple[float, list[tuple[str, float]]]:
        """Closed form over this replay less one, and what that is due to.

        What the closed form does not know at all (ranks that differ, slowdown, shared links) comes first; the rest is
        the plan's own, see :func:`fullmesh.timeline.step_form.why_different`. Shares are of this step.
        """
        if self.closed_form_step_s is None:
            return float("nan"), [("a schedule given as a table has no closed form", float("nan"))]
        relative = self.closed_form_step_s / self.step_s - 1.0
        _, causes = why_different(self.costs)
        plain = replay(build_graph(self.costs)).step_s
        uneven = replay(self.unfolded.graph).step_s
        causes = [(name, share * plain / self.step_s) for name, share in causes]
        for name, seconds in (
            ("links or computation that transfers share", self.step_s - uneven),
            ("ranks that differ", uneven - plain),
        ):
            if abs(seconds) > NOTABLE * self.step_s:
                causes.insert(0, (name, seconds / self.step_s))
        return relative, causes

    def summary(self) -> dict[str, object]:
        """The figures of ``fullmesh simulate --json``; only ``engine_s`` and ``build_s`` differ between equal runs."""
        peak = int(self.memory.peak_bytes.argmax())
        return {
            "step_s": self.step_s,
            "closed_form_step_s": self.closed_form_step_s,
            "bubble_fraction": self.activity.bubble_fraction,
            "critical_path": self.path.seconds,
            "tasks": len(self.timeline.graph) - 1,
            "engine": self.timeline.engine,
            "engine_s": self.engine_s,
            "build_s": self.build_s,
            "devices": int(self.activity.weight.sum()),
            "rows": self.timeline.graph.num_ranks,
            "exact": self.unfolded.exact,
            "bubble_s": self.activity.bubble_by_cause(),
            "exposed_s": self.activity.exposed_by_kind(),
            "phases_s": self.activity.phases(),
            "peak_bytes": float(self.memory.peak_bytes[peak]),
            "peak_s": float(self.memory.peak_s[peak]),
            "peak_rank": int(self.unfolded.device(peak)),
            "waits": [
                {"rank": int(self.unfolded.device(a)), "for": int(self.unfolded.device(z)), "seconds": s}
                for a, z, s in self.activity.waits(10)
            ],
        }

    def changes_to(self, other: Simulation) -> list[Change]:
        """What another run of the same pipeline does differently."""
        return changes(
            (self.activity, self.path), (other.activity, other.path), num_stages=self.costs.num_stages
        )

    def compare(
        self,
        profile: Profile,
        *,
        step: int | None = None,
        row: int = 0,
        after_passes: Mapping[str, float] | None = None,
    ) -> list[OperatorDifference]:
        """Simulated against real seconds by class of operators; see :func:`compare_operators`."""
        return compare_operators(
            self.timeline, self.costs, profile, step=step, row=row, after_passes=after_passes
        )

    def write_trace(
        self,
        path: Path | str,
        *,
        rows: Sequence[int] | None = None,
        profile: Profile | None = None,
        step: int | None = None,
        title: str = "",
    ) -> int:
        """Write a Chrome trace, with a real step under it if there is one; returns the number of events."""
        events = trace_events(
            self.timeline, self.costs, unfolded=self.unfolded, network=self.network, rows=rows
        )
        if profile is not None:
            events = lay_under(events, profile, step=step)
        write_json(path, document(events, title or f"{self.costs.schedule}, {self.costs.num_stages} stages"))
        return len(events)


def simulate(
    costs: PipelineCosts,
    *,
    engine: str | None = None,
    perturbation: Perturbation | None = None,
    contention: Contention | None = None,
    network: Network | None = None,
    every_rank: bool = False,
) -> Simulation:
    """Build, unfold where ranks differ, replay and analyse one step.

    Parameters
    ----------
    engine : str, optional
        One of ``engines.ENGINES``; by default the cheapest that is exact.
    perturbation : Perturbation, optional
        Stragglers, slow stages and links, jitter.
    contention : Contention, optional
        How much computation and communication slow each other.
    network : Network, optional
        Links that routed tasks of the (unfolded) graph share.
    every_rank : bool
        A row for every device, even for equal ones.

    Raises
    ------
    PlanError, ScenarioError
        A plan, a schedule or a perturbation that cannot be.
    """
    began = time.perf_counter()
    graph = build_graph(costs)
    if every_rank or perturbation is not None:
        unfolded = unfold(graph, costs, perturbation, every_rank=every_rank)
    else:
        unfolded = Unfolded(
            graph=graph,
            member=np.zeros(1, dtype=np.int64),
            multiplicity=np.full(1, costs.ranks_per_stage),
            exact=True,
            ranks_per_stage=costs.ranks_per_stage,
        )
    build_s = time.perf_counter() - began
    timeline = replay(unfolded.graph, engine, contention=contention, network=network)
    try:
        closed: float | None = closed_form_step_s(costs)
    except PlanError:
        closed = None
    return Simulation(
        costs=costs,
        timeline=timeline,
        unfolded=unfolded,
        path=critical_path(timeline, costs),
        activity=activity(timeline, costs, unfolded.multiplicity),
        memory=memory_profile(timeline, costs),
        closed_form_step_s=closed,
        build_s=build_s,
        engine_s=timeline.engine_s,
        network=network,
    )

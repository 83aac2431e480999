"""The answer of ``fullmesh check``: range, verdict, gap by class, changes, and a row to keep."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fullmesh.errors import LaunchError
from fullmesh.machine import Machine
from fullmesh.outcomes.estimate import Estimate, Infeasible, estimate, estimates_of, evaluate
from fullmesh.outcomes.support import nearest
from fullmesh.output import formats
from fullmesh.output.fields import finite
from fullmesh.output.result import Result
from fullmesh.plan import Plans
from fullmesh.plan.software import Software
from fullmesh.study.check.changes import Change, best_changes
from fullmesh.study.check.measured import (
    Measured,
    read_log,
    read_measured_profile,
    read_rate,
    read_step_time,
)
from fullmesh.study.check.row import row_of, unsaid
from fullmesh.study.launch.run import Run, load_run
from fullmesh.workload import ModelSpec

#: The verdicts, by what is measured against the interval.
IN_RANGE, FASTER, SLOWER = "in the range", "faster than expected", "slower than expected"
NOT_MEASURED, CANNOT_RUN, UNKNOWN_RANGE = "not measured", "cannot run", "no range known"
# classes and shares below this part of a step are not listed
LEAST_SHARE = 0.002


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One class of operators, or one share of the step, predicted and measured: seconds of one device."""

    name: str
    predicted_s: float
    measured_s: float

    @property
    def gap_s(self) -> float:
        """By how much longer it takes than predicted."""
        return self.measured_s - self.predicted_s


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, repr=False, eq=False)
class Checked(Result):
    """A run held against the prediction for its plan.

    Parameters
    ----------
    run : Run
    predicted : Estimate or Infeasible
        The estimate also where the memory formulas say that it does not fit.
    too_large : Infeasible or None
        The memory that it lacks by these formulas; a run that has a speed has shown them too high.
    measured : Measured or None
    verdict : str
        One of the names above.
    shares, classes : tuple of Part
        The gap by what the device does, and by class of operators, the largest first; empty without a profile.
    changes : tuple of Change
        One step from the plan, the largest predicted gains first.
    row : dict of str to str
        The run in the results' columns.
    row_unsaid : tuple of str
        What the row cannot say: reading it back would give another value.
    near : str
        The published result that the plan is nearest to.
    """

    run: Run
    predicted: Estimate | Infeasible
    too_large: Infeasible | None
    measured: Measured | None
    verdict: str
    shares: tuple[Part, ...]
    classes: tuple[Part, ...]
    changes: tuple[Change, ...]
    row: dict[str, str]
    row_unsaid: tuple[str, ...]
    near: str

    @property
    def step_s(self) -> float | None:
        """The measured step."""
        return self.measured.step_s if self.measured else None

    @property
    def ratio(self) -> float | None:
        """Measured over predicted step."""
        if self.step_s is None or isinstance(self.predicted, Infeasible):
            return None
        return self.step_s / self.predicted.step_s

    def __str__(self) -> str:
        if isinstance(self.predicted, Infeasible):
            return str(self.predicted)
        if self.verdict == CANNOT_RUN:
            return str(self.too_large)
        e = self.predicted
        expected = (
            f"expected {formats.seconds(e.interval.low_s)} to {formats.seconds(e.interval.high_s)} a step"
        )
        if self.step_s is None:
            return expected
        return f"{self.verdict}: {formats.seconds(self.step_s)} a step, {expected}"

    def summary(self) -> str:
        """Model, machine, plan and verdict."""
        r = self.run
        return f"{r.model.name} on {r.plan.num_devices:,} devices of {r.machine.name}, {r.plan.label()}: {self.verdict}"

    def to_dict(self) -> dict[str, Any]:
        """All figures as plain values."""
        e = self.predicted
        left = e.capacity_bytes - e.memory_bytes if isinstance(e, Estimate) else None
        out: dict[str, Any] = finite(
            {
                "framework": self.run.framework,
                "software": self.run.software,
                "model": self.run.model.name,
                "machine": self.run.machine.id,
                "devices": self.run.plan.num_devices,
                "plan": dataclasses.asdict(self.run.plan),
                "verdict": self.verdict,
                "measured": None
                if self.measured is None
                else {"step_s": self.step_s, "basis": self.measured.basis, "steps": self.measured.steps},
                "measured_over_predicted": self.ratio,
                "predicted": e.to_dict(),
                "fits": isinstance(e, Estimate) and self.too_large is None,
                "memory_left_bytes": left,
                "nearest_published": self.near,
                "shares": [_part_record(p) for p in self.shares],
                "operators": [_part_record(p) for p in self.classes],
                "changes": [
                    {
                        "what": list(c.fields),
                        "step_s": c.estimate.step_s,
                        "gain": c.gain,
                        "memory_bytes": c.estimate.memory_bytes,
                        "supported": c.supported,
                        "missing": list(c.missing),
                        "plan": dataclasses.asdict(c.estimate.plan),
                    }
                    for c in self.changes
                ],
                "assumed": list(self.run.assumed),
                "not_understood": list(self.run.left),
                "row": {k: v for k, v in self.row.items() if v},
                "row_leaves_open": list(self.row_unsaid),
            }
        )
        return out

    def to_rows(self) -> list[dict[str, Any]]:
        """One row: the run in the results' columns."""
        return [dict(self.row)]

    def html_rows(self) -> list[Sequence[str]]:
        """Verdict, range and changes."""
        lines: list[Sequence[str]] = [("verdict", self.verdict), ("step", str(self))]
        return lines + [(", ".join(c.fields), formats.percent(c.gain)) for c in self.changes]


def _part_record(part: Part) -> dict[str, Any]:
    return {
        "name": part.name, "predicted_s": part.predicted_s, "measured_s": part.measured_s, "gap_s": part.gap_s,
    }  # fmt: skip


def verdict_of(e: Estimate, step_s: float | None) -> str:
    """Where a measured step lies against the 80 % interval of its prediction."""
    if step_s is None:
        return NOT_MEASURED
    if not math.isfinite(e.interval.low_s):
        return UNKNOWN_RANGE
    if step_s < e.interval.low_s:
        return FASTER
    return SLOWER if step_s > e.interval.high_s else IN_RANGE


def check_run(
    source: str | Path | Run,
    on: str | Machine | None,
    *,
    chips: int | None,
    model: str | Path | ModelSpec | None,
    seq: int | None,
    software: Software | None,
    step_time: float | str | None,
    tokens_per_s: float | str | None,
    log: Path | None,
    trace: Path | None,
    top: int,
) -> Checked:
    """Read a run and what was measured of it, and answer.

    Raises
    ------
    FullmeshError
        Something cannot be read, or two speeds are given.
    """
    speeds = {"--step-time": step_time, "--tokens-per-s": tokens_per_s, "--log": log}
    given = [name for name, value in speeds.items() if value is not None]
    if len(given) > 1:
        raise LaunchError(
            f"the speed is given {len(given)} times",
            where=" and ".join(given),
            expected="one of --step-time, --tokens-per-s and --log",
        )
    run = (
        source
        if isinstance(source, Run)
        else load_run(source, on, chips=chips, model=model, seq=seq, software=software)
    )
    measured = _measured(run, step_time, tokens_per_s, log, trace)
    return held_against(run, measured, top=top)


def _measured(
    run: Run, step_time: float | str | None, rate: float | str | None, log: Path | None, trace: Path | None
) -> Measured | None:
    profile = None if trace is None else read_measured_profile(trace)
    said: Measured | None = None
    if step_time is not None:
        said = Measured(step_s=read_step_time(step_time), basis="as given")
    elif rate is not None:
        said = Measured(step_s=read_rate(rate, run.plan), basis="from the tokens a second")
    elif log is not None:
        said = read_log(log, run.plan)
    if profile is None or said is None:
        return said or profile
    return dataclasses.replace(said, classes=profile.classes, shares=profile.shares)


def held_against(run: Run, measured: Measured | None, *, top: int = 3) -> Checked:
    """The answer for a run that is read already."""
    predicted = estimate(run.model, run.machine, run.plan)
    too_large = None
    if isinstance(predicted, Infeasible) and predicted.limit.name == "memory":
        too_large = predicted
        (predicted,) = estimates_of(evaluate(run.model, run.machine, Plans.of([run.plan])))
    step_s = measured.step_s if measured else None
    # a run that has a speed fits, whatever the formulas say
    fits = too_large is None or step_s is not None
    changes: tuple[Change, ...] = ()
    if isinstance(predicted, Estimate) and top:
        changes = best_changes(run.model, run.machine, run.plan, fits=fits, top=top)
    shares: tuple[Part, ...] = ()
    classes: tuple[Part, ...] = ()
    if isinstance(predicted, Estimate) and measured is not None:
        if measured.shares:
            shares = _parts(_predicted_shares(predicted), dict(measured.shares), predicted.step_s)
        if measured.classes:
            classes = _parts(_predicted_classes(predicted), dict(measured.classes), predicted.step_s)
    row = row_of(run.model, run.machine, run.plan, step_s)
    return Checked(
        run=run,
        predicted=predicted,
        measured=measured,
        too_large=too_large,
        verdict=verdict_of(predicted, step_s) if isinstance(predicted, Estimate) and fits else CANNOT_RUN,
        shares=shares,
        classes=classes,
        changes=changes,
        row=row,
        row_unsaid=unsaid(run.model, run.plan, row),
        near=nearest(run.model, run.machine, run.plan),
    )


# lines of the waterfall in which a device waits for others, and those in which it does nothing
_WAITS = ("tp_s", "ep_s", "cp_s", "fsdp_s", "send_s", "data_parallel_s")
_IDLES = ("bubble_s", "fixed_s", "straggler_s", "launch_s")


def _predicted_shares(e: Estimate) -> dict[str, float]:
    """The waterfall in the words of a profiler: computing, waiting for communication, idle."""
    waits = sum(e.parts_s[k] for k in _WAITS)
    idle = sum(e.parts_s[k] for k in _IDLES)
    return {"computing": e.step_s - waits - idle, "communication": waits, "idle": idle}


def _predicted_classes(e: Estimate) -> dict[str, float]:
    """Seconds of one device by class of operators, from the replay of the step; empty where it cannot run."""
    # the timeline compiles its kernels when it is imported; a check without a profile does without
    from fullmesh.replays.replayed import replay_plan
    from fullmesh.timeline.trace.measured import simulated_operators

    replayed = replay_plan(e)
    if replayed.simulation is None:
        return {}
    run = replayed.simulation
    return simulated_operators(run.timeline, run.costs, 0, replayed.after_passes)


def _parts(predicted: dict[str, float], measured: dict[str, float], step_s: float) -> tuple[Part, ...]:
    names = dict.fromkeys([*predicted, *measured])
    parts = [
        Part(name=n, predicted_s=predicted.get(n, 0.0), measured_s=measured.get(n, 0.0))
        for n in names
        if max(predicted.get(n, 0.0), measured.get(n, 0.0)) > LEAST_SHARE * step_s
    ]
    return tuple(sorted(parts, key=lambda p: -abs(p.gap_s)))

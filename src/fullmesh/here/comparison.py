"""A real run on the machine at hand: calibrate, predict small training jobs, then train them and compare."""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from fullmesh.errors import FullmeshError
from fullmesh.here.calibration import HereProfile, calibrate_here, check_device
from fullmesh.here.device import launch, require_torch
from fullmesh.here.jobs import Job, predict_step_s, small_jobs

# what is left of the time after the calibration's share, besides starting processes
_CALIBRATION_SHARE = 0.6
_MIN_SECONDS = 10.0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class HereRow:
    """One job: predicted before it ran, then measured.

    Parameters
    ----------
    job : str
    shape : str
        Layers x hidden size, vocabulary, batch x sequence of one process.
    processes : int
    parameters : int
        Of one process.
    predicted_s : float
        One step.
    measured_s : float
        Median over the steps, by the clock of the profile; the mean over the processes.
    wall_s : float
        The same by the wall clock: longer where other programs use the cores.
    steps : int
    """

    job: str
    shape: str
    processes: int
    parameters: int
    predicted_s: float
    measured_s: float
    wall_s: float
    steps: int

    @property
    def error(self) -> float:
        """``predicted / measured - 1``."""
        return self.predicted_s / self.measured_s - 1.0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class HereReport:
    """Predictions for the machine at hand against its runs.

    Parameters
    ----------
    profile : HereProfile
    rows : tuple of HereRow
    skipped : mapping of str to str
        Jobs that could not run here, and why.
    elapsed_s : float
        Calibration and runs, wall time.
    """

    profile: HereProfile
    rows: tuple[HereRow, ...]
    skipped: dict[str, str]
    elapsed_s: float

    @property
    def median_error(self) -> float:
        """Median of the absolute errors."""
        return statistics.median(abs(row.error) for row in self.rows)

    @property
    def worst_error(self) -> float:
        """Largest absolute error."""
        return max(abs(row.error) for row in self.rows)

    @property
    def bias(self) -> float:
        """Median of the errors with their sign."""
        return statistics.median(row.error for row in self.rows)

    def as_json(self) -> dict[str, Any]:
        """Plain data: the figures, every row, and the profile."""
        return {
            "device": self.profile.device,
            "title": self.profile.title,
            "clock": self.profile.clock,
            "median_error": self.median_error,
            "worst_error": self.worst_error,
            "bias": self.bias,
            "rows": [{**dataclasses.asdict(row), "error": row.error} for row in self.rows],
            "skipped": dict(self.skipped),
            "elapsed_s": self.elapsed_s,
            "profile": self.profile.as_json(),
        }


def validate_here(
    device: str = "auto",
    seconds: float = 100.0,
    *,
    clock: str = "",
    profile: HereProfile | None = None,
    only: Sequence[int] | None = None,
    report: Callable[[str], None] = lambda _: None,
) -> HereReport:
    """Calibrate, predict the step time of small training jobs, run them, and compare.

    Parameters
    ----------
    device : {"auto", "cpu", "cuda", "npu"}
    seconds : float
        Wall time for measuring operators and training; starting processes and collectives take about 40 s more.
    clock : {"", "cpu", "wall"}
        On a CPU; see :func:`~fullmesh.here.calibration.calibrate_here`.
    profile : HereProfile, optional
        An earlier calibration of the same machine; left out, one is measured first.
    only : sequence of int, optional
        Positions of the jobs to run; all of them if left out.
    report : callable
        Told what happens next, for a progress line.

    Returns
    -------
    HereReport

    Raises
    ------
    FullmeshError
        PyTorch is absent, the device is not there, or a process failed or hung.

    Notes
    -----
    All predictions are made before the first run starts; a run changes none of them.
    """
    check_device(device, clock)
    if seconds < _MIN_SECONDS:
        raise FullmeshError(
            f"{seconds:g} s are too few to measure", where="--seconds", expected=f"at least {_MIN_SECONDS:g}"
        )
    require_torch()
    start = time.monotonic()
    if profile is None:
        report("calibrating the machine at hand")
        profile = calibrate_here(device, _CALIBRATION_SHARE * seconds, clock=clock)
    jobs = small_jobs(profile.device)
    chosen = range(len(jobs)) if only is None else only
    predicted: dict[int, float] = {}
    skipped: dict[str, str] = {}
    for i in chosen:
        if jobs[i].num_processes > 1 and profile.all_reduce is None:
            skipped[jobs[i].name] = profile.all_reduce_reason
        else:
            predicted[i] = predict_step_s(profile, jobs[i])
    rows = _trained(profile, jobs, predicted, (1.0 - _CALIBRATION_SHARE) * seconds, report)
    return HereReport(
        profile=profile,
        rows=tuple(rows[i] for i in sorted(rows)),
        skipped=skipped,
        elapsed_s=time.monotonic() - start,
    )


def _trained(
    profile: HereProfile,
    jobs: Sequence[Job],
    predicted: dict[int, float],
    seconds: float,
    report: Callable[[str], None],
) -> dict[int, HereRow]:
    """Train the jobs whose steps were ``predicted``, by their positions, in about ``seconds`` altogether."""
    each_s = seconds / max(1, len(predicted))
    rows: dict[int, HereRow] = {}
    for num_processes in (1, 2):
        mine = [i for i in predicted if jobs[i].num_processes == num_processes]
        if not mine:
            continue
        report(f"training {len(mine)} jobs on {num_processes} process{'es' * (num_processes > 1)}")
        answers = launch(
            "fullmesh.here.training",
            {"device": profile.device, "clock": profile.clock, "jobs": mine, "seconds": each_s},
            num_processes=num_processes,
            timeout_s=90.0 + len(mine) * (10.0 + 10.0 * each_s),
            what="training small models",
        )
        for at, i in enumerate(mine):
            rows[i] = _row(jobs[i], predicted[i], [answer["jobs"][at] for answer in answers])
    return rows


def _row(job: Job, predicted_s: float, answers: list[dict[str, Any]]) -> HereRow:
    return HereRow(
        job=job.name,
        shape=job.shape,
        processes=job.num_processes,
        parameters=answers[0]["parameters"],
        predicted_s=predicted_s,
        measured_s=float(np.mean([a["step_s"] for a in answers])),
        wall_s=float(np.mean([a["wall_s"] for a in answers])),
        steps=answers[0]["steps"],
    )

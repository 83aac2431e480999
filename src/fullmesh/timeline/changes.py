"""What changed between two replays, and where."""

from __future__ import annotations

import dataclasses

import numpy as np

from fullmesh.timeline.analysis import GROUP, Activity, CriticalPath
from fullmesh.timeline.schedule import tasks as b

# Changes below this share of the step are not worth a line.
NOTABLE = 1e-4


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One line of a comparison.

    Parameters
    ----------
    view : {"step", "critical path", "busy", "idle", "exposed", "stage busy", "stage idle"}
        How the step is looked at; the lines of one view do not overlap.
    what : str
    before_s, after_s : float
    """

    view: str
    what: str
    before_s: float
    after_s: float

    @property
    def change_s(self) -> float:
        """Seconds more than before."""
        return self.after_s - self.before_s


def changes(
    before: tuple[Activity, CriticalPath], after: tuple[Activity, CriticalPath], *, num_stages: int
) -> list[Change]:
    """Compare two runs by critical path, by what devices do, by why they idle, and by stage.

    Returns
    -------
    list of Change
        The step first; then every view, the largest change first, without what changed by less than 0.01 % of the step.
    """
    (a, path_a), (z, path_z) = before, after
    out = [Change(view="step", what="step", before_s=a.step_s, after_s=z.step_s)]
    views: list[tuple[str, dict[str, float], dict[str, float]]] = [
        ("critical path", path_a.seconds, path_z.seconds),
        ("busy", _busy(a), _busy(z)),
        ("idle", a.bubble_by_cause(), z.bubble_by_cause()),
        ("exposed", a.exposed_by_kind(), z.exposed_by_kind()),
        ("stage busy", _stages(a, num_stages, idle=False), _stages(z, num_stages, idle=False)),
        ("stage idle", _stages(a, num_stages, idle=True), _stages(z, num_stages, idle=True)),
    ]
    for view, first, second in views:
        lines = [
            Change(view=view, what=name, before_s=first.get(name, 0.0), after_s=second.get(name, 0.0))
            for name in dict.fromkeys([*first, *second])
        ]
        lines = [line for line in lines if abs(line.change_s) > NOTABLE * a.step_s]
        out += sorted(lines, key=lambda line: -abs(line.change_s))
    return out


def _busy(activity: Activity) -> dict[str, float]:
    out: dict[str, float] = {}
    for k, kind in enumerate(b.KINDS):
        seconds = activity.mean(activity.busy_s[:, k])
        if seconds > 0:
            out[GROUP[kind]] = out.get(GROUP[kind], 0.0) + seconds
    return out


def _stages(activity: Activity, num_stages: int, *, idle: bool) -> dict[str, float]:
    per_row = activity.waited_s.sum(axis=(1, 2)) if idle else activity.busy_s.sum(axis=1)
    values, weights = per_row.reshape(-1, num_stages), activity.weight.reshape(-1, num_stages)
    mean = np.average(values, axis=0, weights=weights)
    return {f"stage {s}": float(v) for s, v in enumerate(mean)}

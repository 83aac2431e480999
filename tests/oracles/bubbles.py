"""Published formulas for the idle share of pipelines."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from fullmesh.errors import PlanError
from fullmesh.timeline.schedule.graph import Floats


def bubble_fraction(
    schedule: str,
    num_stages: npt.ArrayLike,
    num_microbatches: npt.ArrayLike,
    *,
    num_virtual: npt.ArrayLike = 1,
    forward_s: npt.ArrayLike = 1.0,
    backward_input_s: npt.ArrayLike = 1.0,
    backward_weight_s: npt.ArrayLike = 1.0,
    pair_s: npt.ArrayLike | None = None,
) -> Floats:
    """Idle share of an even pipeline, by the published formulas.

    GPipe and 1F1B ``(P-1)(F+B)``, interleaved that over V, ZB-H1 ``(P-1)(F+I-W)``, ZB-H2 ``(P-1)(F+I-2W)`` and ZB-V
    none within a rank's span, DualPipe ``(P/2-1)(F&B+B-3W)``, DualPipeV ``(P-1)(F&B+B-3W)`` of its half chunks; each
    over itself and the work of a step.

    Parameters
    ----------
    schedule : str
    num_stages, num_microbatches, num_virtual : int array, broadcast together
    forward_s, backward_input_s, backward_weight_s : float array
        Passes of a whole rank (all of its chunks).
    pair_s : float array, optional
        An overlapped forward and backward pass; their sum where not given.
    """
    p, m, v = (np.asarray(x, dtype=np.float64) for x in (num_stages, num_microbatches, num_virtual))
    f, i, w = (np.asarray(x, dtype=np.float64) for x in (forward_s, backward_input_s, backward_weight_s))
    pair = f + i + w if pair_s is None else np.asarray(pair_s, dtype=np.float64)
    b = i + w
    if schedule in ("gpipe", "1f1b"):
        bubble = (p - 1) * (f + b)
    elif schedule == "interleaved":
        bubble = (p - 1) * (f + b) / v
    elif schedule == "zb-h1":
        bubble = (p - 1) * np.maximum(f + i - w, 0.0)
    elif schedule == "zb-h2":
        bubble = (p - 1) * np.maximum(f + i - 2 * w, 0.0)
    elif schedule == "zb-v":
        bubble = 0.0 * p * (f + b)
    elif schedule == "dualpipe":
        bubble = (p / 2 - 1) * np.maximum(pair + b - 3 * w, 0.0)
    elif schedule == "dualpipev":
        bubble = (p - 1) * np.maximum(pair + b - 3 * w, 0.0) / 2
    else:
        raise PlanError(f"no formula for the bubble of the schedule {schedule!r}")
    work = m * (pair if schedule.startswith("dualpipe") else f + b)
    out: Floats = bubble / (bubble + work)
    return out

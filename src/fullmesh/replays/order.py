"""Which of some good plans is the best one by its replay: as few of them are replayed as that takes."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from fullmesh.errors import PlanError
from fullmesh.machine import Machine
from fullmesh.plan import Plan
from fullmesh.replays.chunks import costs_of, pipelines_of
from fullmesh.timeline.engine.engines import replay
from fullmesh.timeline.schedule.schedules import build_graph
from fullmesh.workload import ModelSpec

Floats = npt.NDArray[np.float64]

# By how much a replay may be below the closed form: plans beyond that of the best one replayed are left.
REACH = 0.03
# Tasks of a plan that are still replayed: about a tenth of a second.
MOST_TASKS = 150_000


def num_tasks(plan: Plan) -> int:
    """About as many tasks as the replay of a plan has."""
    chunks = plan.pp * (plan.vpp if plan.pp > 1 else 1)
    return chunks * plan.num_microbatches * (4 if plan.pp > 1 else 2)


def replayed_s(model: ModelSpec, machine: Machine, plans: Sequence[Plan], doubt: Floats) -> Floats:
    """Replayed steps of plans, nan for those that cannot come first, or are too large to replay here.

    Parameters
    ----------
    plans : sequence of Plan
        Those first whose step times ``doubt`` is shortest by the closed form.
    doubt : float array, shape (num_plans,)
        What each plan's step is multiplied by before it is held against the others.
    """
    out = np.full(len(plans), math.nan)
    best = math.inf
    for i, x in enumerate(pipelines_of(model, machine, plans)):
        if num_tasks(plans[i]) > MOST_TASKS:
            if i == 0:
                # what leads cannot be replayed, so nothing is held against it
                break
            continue
        if doubt[i] * x.closed_form_step_s() * (1.0 - REACH) > best:
            continue
        try:
            out[i] = replay(build_graph(costs_of(x))).step_s
        except PlanError:
            continue
        best = min(best, float(doubt[i] * out[i]))
    return out

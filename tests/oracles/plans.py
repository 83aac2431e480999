"""The plain twin of the compiled loop over plans: all plans of a space as columns, priced by the cost model, sorted."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import numpy.typing as npt

from fullmesh.outcomes.estimate import evaluate
from fullmesh.outcomes.intervals import far_deviations
from fullmesh.outcomes.support import missing_variance, num_missing
from fullmesh.plan import Plans
from fullmesh.plan.feasible import violations
from fullmesh.search.space import Space

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
# plans that the cost model takes at once
CHUNK = 8192


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class AllPlans:
    """Every plan that breaks no rule, with its price."""

    space: Space
    numbers: Ints
    plans: Plans
    step_s: Floats
    cost: Floats
    memory: Floats
    fits: npt.NDArray[np.bool_]
    missing: Ints
    score: Floats

    @property
    def feasible(self) -> Ints:
        """Rows that fit."""
        return np.flatnonzero(self.fits)

    def leaders(self) -> Ints:
        """Rows of the best plan of every layout, in order."""
        rows = self.feasible
        order = rows[np.lexsort((self.numbers[rows], self.memory[rows], self.score[rows]))]
        p = self.plans
        keys = np.column_stack([c[order] for c in (p.tp, p.cp, p.pp, p.ep, p.etp, p.zero, p.dp)])
        _, first = np.unique(keys, axis=0, return_index=True)
        return order[np.sort(first)]

    def fastest(self) -> int:
        """Row of the cheapest plan."""
        rows = self.feasible
        return int(rows[np.lexsort((self.numbers[rows], self.memory[rows], self.cost[rows]))[0]])

    def roomy(self, most_missing: int, limit_bytes: float) -> int | None:
        """Row of the cheapest plan that needs no more memory and misses no more pairs."""
        rows = self.feasible
        rows = rows[(self.missing[rows] <= most_missing) & (self.memory[rows] <= limit_bytes)]
        return int(rows[np.lexsort((self.numbers[rows], self.cost[rows]))[0]]) if len(rows) else None

    def front(self, most_missing: int) -> list[int]:
        """Rows that no other with as many missing pairs beats in step and memory, up to twice the best step."""
        rows = self.feasible
        rows = rows[self.missing[rows] <= most_missing]
        rows = rows[self.step_s[rows] <= 2.0 * self.step_s[rows].min()]
        kept: list[int] = []
        lowest = math.inf
        for i in rows[np.lexsort((self.numbers[rows], self.memory[rows], self.step_s[rows]))]:
            if self.memory[i] < lowest:
                kept.append(int(i))
                lowest = float(self.memory[i])
        return kept


def all_plans(space: Space) -> AllPlans:
    """Price every plan of a space by :func:`fullmesh.outcomes.estimate.evaluate`."""
    q = space.question
    numbers = space.numbers()
    plans = space.plans(numbers)
    # a sample, as the reasons take long
    some = plans.take(np.arange(0, len(plans), max(1, len(plans) // 500)))
    assert violations(q.model, q.machine, some).ok.all()
    pieces = [
        evaluate(q.model, q.machine, plans.take(np.arange(start, min(start + CHUNK, len(plans)))))
        for start in range(0, len(plans), CHUNK)
    ]
    step = np.concatenate([e.times.step_s for e in pieces])
    memory = np.concatenate([e.memory_bytes for e in pieces])
    cost = step if q.objective == "time" else step * plans.num_devices
    missing = num_missing(q.model, q.machine, plans)
    return AllPlans(
        space=space,
        numbers=numbers,
        plans=plans,
        step_s=step,
        cost=cost,
        memory=memory,
        fits=memory <= q.capacity_bytes,
        missing=missing,
        score=cost * np.exp(far_deviations() * np.sqrt(missing_variance(missing))),
    )

"""All plans of a space priced: tables first, then the compiled loop, piece by piece, and what it kept."""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt

from fullmesh.outcomes.intervals import far_deviations
from fullmesh.outcomes.support import missing_variance
from fullmesh.search.kernels import FITTING, PRICED, Aim, Kept, fresh_kept, fresh_scratch, walk
from fullmesh.search.prices import tables_of
from fullmesh.search.space import Space

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

# Frames between two moments at which an interrupt is heard: some hundredths of a second.
PIECE = 4096


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Walked:
    """A space with what matters of its plans; plans are told by their numbers.

    Parameters
    ----------
    space : Space
    kept : Kept
    """

    space: Space
    kept: Kept

    @property
    def num_priced(self) -> int:
        """Plans that break no rule: the memory of all of them was worked out, and the step of those that fit."""
        return int(self.kept.counts[PRICED])

    @property
    def num_fitting(self) -> int:
        """Plans that fit the memory."""
        return int(self.kept.counts[FITTING])

    @property
    def fastest(self) -> int:
        """The plan predicted cheapest of all."""
        return int(self.kept.fastest_number[0])

    @property
    def fastest_cost(self) -> float:
        """What it costs: seconds, or device-seconds."""
        return float(self.kept.fastest[0])

    @property
    def least_memory(self) -> int:
        """The plan that needs least memory where none fits."""
        return int(self.kept.least_number[0])

    def leaders(self) -> tuple[Ints, Floats]:
        """The best plan of every layout and its cost; first those that cost least with the doubt about unseen pairs."""
        kept = self.kept
        found = np.flatnonzero(kept.layout_number >= 0)
        keys = (kept.layout_number[found], kept.layout_memory[found], kept.layout_score[found])
        order = found[np.lexsort(keys)]
        return kept.layout_number[order], kept.layout_cost[order]

    def roomy(self, most_missing: int) -> int | None:
        """The cheapest plan with memory to spare that misses no more pairs."""
        cost = self.kept.roomy_cost[: most_missing + 1]
        number = self.kept.roomy_number[: most_missing + 1]
        if not np.isfinite(cost).any():
            return None
        return int(number[np.lexsort((number, cost))[0]])

    def front(self, most_missing: int) -> tuple[Floats, Floats, Ints]:
        """Steps, bytes and numbers of plans that no other with as many missing pairs beats in both."""
        kept = self.kept
        parts = [
            (kept.front_s[m, :n], kept.front_bytes[m, :n], kept.front_number[m, :n])
            for m, n in enumerate(kept.front_length[: most_missing + 1])
        ]
        steps, sizes, numbers = (np.concatenate(columns) for columns in zip(*parts, strict=True))
        return steps, sizes, numbers


def walk_space(space: Space, *, roomy_share: float, piece: int = PIECE) -> Walked:
    """Price every plan of a space.

    Parameters
    ----------
    roomy_share : float
        Share of the memory that a plan with memory to spare fills at most.
    piece : int
        Frames that the loop takes at once; nothing depends on it.
    """
    q = space.question
    if not len(space.frames):
        return Walked(space=space, kept=fresh_kept(0, 1))
    tables = tables_of(space)
    pairs = int(tables.choices.missing.max()) + 1
    aim = Aim(
        capacity=np.array([q.capacity_bytes]),
        roomy=np.array([roomy_share * q.machine.chip.hbm_bytes]),
        per_device=np.array([q.objective != "time"]),
        doubt=np.exp(far_deviations() * np.sqrt(missing_variance(np.arange(pairs)))),
    )
    kept, scratch = fresh_kept(4 * tables.num_layouts, pairs), fresh_scratch(tables)
    for start in range(0, len(space.frames), piece):
        stop = min(start + piece, len(space.frames))
        walk(
            start, stop, tables.frames, tables.stages, tables.prices, tables.terms, tables.choices, aim, kept, scratch
        )  # fmt: skip
    return Walked(space=space, kept=kept)

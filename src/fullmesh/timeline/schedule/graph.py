"""Tasks of a step as columns."""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ids = npt.NDArray[np.int32]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class TaskGraph:
    """Tasks in topological order; task 0 is the start of the step and takes no time.

    Parameters
    ----------
    kind : int8 array, shape (N,)
        Index into ``build.KINDS``.
    stream : int8 array, shape (N,)
        Index into ``build.STREAMS``; tasks of one stream of one rank never overlap.
    rank : int32 array, shape (N,)
        Row of the graph: a pipeline rank, or ``copy * num_stages + stage`` after unfolding.
    chunk : int16 array, shape (N,)
    microbatch : int32 array, shape (N,)
        -1 where a task belongs to the whole step.
    duration_s : float array, shape (N,)
    pred : int32 array, shape (N, 3)
        Tasks that must have ended; 0 stands for none.
    num_ranks : int
        Rows of the graph.
    num_stages : int
        Pipeline ranks; ``rank % num_stages`` is the stage.
    """

    kind: npt.NDArray[np.int8]
    stream: npt.NDArray[np.int8]
    rank: Ids
    chunk: npt.NDArray[np.int16]
    microbatch: Ids
    duration_s: Floats
    pred: Ids
    num_ranks: int
    num_stages: int

    def __len__(self) -> int:
        return len(self.kind)

    def check(self) -> None:
        """Our own invariants: topological order, no task before the start, durations that are times."""
        index = np.arange(len(self), dtype=np.int64)
        assert self.pred.shape == (len(self), 3)
        assert bool(np.all(self.pred[1:] < index[1:, None]))
        assert bool(np.all(self.pred >= 0))
        assert bool(np.all(self.duration_s >= 0))
        assert bool(np.all((self.rank >= 0) & (self.rank < self.num_ranks)))

"""What a training step is made of, as seen by one pipeline: the input of the replay and of its closed form."""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt

from fullmesh.errors import PlanError, did_you_mean

Floats = npt.NDArray[np.float64]

SCHEDULES = ("gpipe", "1f1b", "interleaved", "zb-h1", "zb-h2", "zb-v", "dualpipe", "dualpipev", "table")
LANES = ("tp", "ep", "cp")
# Schedules that keep the two halves of the backward pass apart.
SPLIT_BACKWARD = ("zb-h1", "zb-h2", "zb-v", "dualpipe", "dualpipev")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Lane:
    """Communication of one kind inside the passes of a chunk.

    Parameters
    ----------
    name : {"tp", "ep", "cp"}
    forward_s, backward_s : float array, shape (num_chunks,)
        What computation waits for; already a part of ``PipelineCosts.forward_s`` and of the backward times.
    hidden_forward_s, hidden_backward_s : float array, shape (num_chunks,), or None
        What runs beside the pass; the pass ends when both have ended.
    """

    name: str
    forward_s: Floats
    backward_s: Floats
    hidden_forward_s: Floats | None = None
    hidden_backward_s: Floats | None = None

    def __post_init__(self) -> None:
        _to_columns(self, ("forward_s", "backward_s", "hidden_forward_s", "hidden_backward_s"))


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Operator:
    """One class of operators inside the passes (``attention``, ``experts``, ``head`` ...), shape (num_chunks,).

    Work of the class ``experts`` is what an uneven expert load scales.
    """

    name: str
    forward_s: Floats
    backward_s: Floats

    def __post_init__(self) -> None:
        _to_columns(self, ("forward_s", "backward_s"))


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class PipelineCosts:
    """Durations, bytes and switches of one pipeline of ``num_stages`` ranks.

    Chunks are numbered in model order; there are ``num_stages * num_virtual`` of them, and ``num_stages`` for
    DualPipe, which holds every chunk on two ranks. Columns named ``_s`` have shape ``(num_chunks,)`` unless said
    otherwise and are seconds of one micro-batch.

    Parameters
    ----------
    schedule : str
        One of ``SCHEDULES``.
    num_stages, num_virtual, num_microbatches : int
        Pipeline ranks, chunks per rank, micro-batches per step.
    forward_s, backward_input_s, backward_weight_s : float array
        Forward pass, and the two halves of the backward pass, with exposed communication and without recompute.
    recompute_s : float array or None
        Forward work that is repeated before the backward pass.
    paired_forward_s, paired_backward_s : float array or None
        Computation of a pass that overlaps with a pass of the other direction (DualPipe). By default the pass
        without its expert-parallel communication, which then runs beside it.
    send_s : float array, shape (num_chunks - 1,), or None
        Activations, and as much again for gradients, over the boundary after each chunk.
    p2p_overlap : bool
        Sends have a stream of their own; otherwise they hold up the sender.
    lanes : tuple of Lane
    operators : tuple of Operator
        Break down the passes in traces and tables; never change the replay.
    grad_reduce_s : float array or None
        Reduction of a chunk's gradients, once a step.
    grad_buckets : int
        Equal parts into which that reduction is cut; each starts when its part of the last backward pass is done.
    grad_overlap : bool
        Buckets start as soon as they are ready; otherwise after the last pass of the rank.
    param_gather_s : float array or None
        Gathering of a chunk's parameters, once a step.
    param_overlap : bool
        Gathers run beside the first forward passes; otherwise after the optimizer.
    fsdp_gather_s, fsdp_scatter_s : float array or None
        ZeRO-3: gather before every forward and every backward pass, reduce-scatter after every backward pass.
    fsdp_blocks : int
        Layers (or wrapped units) of a chunk that are gathered one after the other.
    fsdp_prefetch : int
        Units that are gathered ahead of the one that computes.
    offload_s : float array or None
        Copy of a chunk's activations to the host after forward; as long again back before backward.
    optimizer_s : float array, shape (num_stages,), or None
    global_norm : bool
        The optimizer waits until all stages have their gradients (gradient clipping by the global norm).
    grad_norm_s : float
        The reduction of that norm.
    activation_bytes : float array or None
        Held from the start of the forward pass to the end of the backward pass.
    weight_bytes : float array or None
        The part of it that is held until the weight half has run.
    static_bytes : float array, shape (num_stages,), or None
        Parameters, gradients, optimizer states, buffers.
    ranks_per_stage : int
        Devices that each stage stands for.
    lockstep_ranks : int
        Neighbouring devices of a stage that exchange within every pass (tensor, context, expert parallel).
    tiers : tuple of (str, str)
        Fabric tier that a stream (``tp``, ``ep``, ``send forward`` ...) runs over, for the names in traces.
    table : tuple of tuple of str
        With ``schedule="table"``: one row of operations a rank, see
        :func:`fullmesh.timeline.schedule.schedules.parse_table`.

    Raises
    ------
    PlanError
        A shape or a value that no pipeline could have.
    """

    schedule: str
    num_stages: int
    num_microbatches: int
    forward_s: Floats
    backward_input_s: Floats
    backward_weight_s: Floats
    num_virtual: int = 1
    recompute_s: Floats | None = None
    paired_forward_s: Floats | None = None
    paired_backward_s: Floats | None = None
    send_s: Floats | None = None
    p2p_overlap: bool = True
    lanes: tuple[Lane, ...] = ()
    operators: tuple[Operator, ...] = ()
    grad_reduce_s: Floats | None = None
    grad_buckets: int = 1
    grad_overlap: bool = True
    param_gather_s: Floats | None = None
    param_overlap: bool = True
    fsdp_gather_s: Floats | None = None
    fsdp_scatter_s: Floats | None = None
    fsdp_blocks: int = 1
    fsdp_prefetch: int = 1
    offload_s: Floats | None = None
    optimizer_s: Floats | None = None
    global_norm: bool = True
    grad_norm_s: float = 0.0
    activation_bytes: Floats | None = None
    weight_bytes: Floats | None = None
    static_bytes: Floats | None = None
    ranks_per_stage: int = 1
    lockstep_ranks: int = 1
    tiers: tuple[tuple[str, str], ...] = ()
    table: tuple[tuple[str, ...], ...] = ()

    def __post_init__(self) -> None:
        _to_columns(self, _COLUMNS)
        _check(self)

    @property
    def num_chunks(self) -> int:
        """Distinct chunks of the model."""
        return self.num_stages * (1 if self.schedule == "dualpipe" else self.num_virtual)

    @property
    def backward_s(self) -> Floats:
        """Both halves of the backward pass, shape (num_chunks,)."""
        return self.backward_input_s + self.backward_weight_s

    def column(self, name: str) -> Floats:
        """A column, zeros where it was not given; an array of the shape that its description says."""
        value = getattr(self, name)
        if value is None:
            return np.zeros(_length(self, name))
        return np.asarray(value, dtype=np.float64)

    def lane(self, name: str, field: str) -> Floats:
        """``field`` of the lane ``name``, zeros where there is none, shape (num_chunks,)."""
        total = np.zeros(self.num_chunks)
        for lane in self.lanes:
            if lane.name == name and getattr(lane, field) is not None:
                total = total + getattr(lane, field)
        return total

    def exposed(self, field: str) -> Floats:
        """Exposed communication of all lanes in ``forward_s`` or ``backward_s``, shape (num_chunks,)."""
        total: Floats = np.sum([self.lane(name, field) for name in LANES], axis=0)
        return total

    @property
    def pair_forward_s(self) -> Floats:
        """Computation of a forward pass inside an overlapped pair."""
        if self.paired_forward_s is not None:
            return self.paired_forward_s
        return np.maximum(self.forward_s - self.lane("ep", "forward_s"), 0.0)

    @property
    def pair_backward_s(self) -> Floats:
        """Computation of a whole backward pass inside an overlapped pair, recompute included."""
        if self.paired_backward_s is not None:
            return self.paired_backward_s
        hidden = self.lane("ep", "backward_s")
        return np.maximum(self.backward_s + self.column("recompute_s") - hidden, 0.0)


def even_costs(
    schedule: str,
    num_stages: int,
    num_microbatches: int,
    *,
    forward_s: float = 1.0,
    backward_input_s: float = 1.0,
    backward_weight_s: float = 1.0,
    num_virtual: int = 1,
    send_s: float = 0.0,
) -> PipelineCosts:
    """A pipeline of equal stages; durations are those of a whole stage and are split over its virtual chunks."""
    virtual = 2 if schedule in ("zb-v", "dualpipev") else num_virtual
    n = num_stages * (1 if schedule == "dualpipe" else virtual)
    return PipelineCosts(
        schedule=schedule,
        num_stages=num_stages,
        num_virtual=virtual,
        num_microbatches=num_microbatches,
        forward_s=np.full(n, forward_s / virtual),
        backward_input_s=np.full(n, backward_input_s / virtual),
        backward_weight_s=np.full(n, backward_weight_s / virtual),
        send_s=np.full(n - 1, send_s),
    )


def _to_columns(item: object, names: tuple[str, ...]) -> None:
    """Turn what was given as lists into columns; the classes are frozen, hence the way round."""
    for name in names:
        value = getattr(item, name)
        if value is not None:
            try:
                column = np.asarray(value, dtype=np.float64)
            except (TypeError, ValueError):
                raise PlanError(f"{name} is {value!r}", expected="a number for each chunk") from None
            object.__setattr__(item, name, column)


def _length(costs: PipelineCosts, name: str) -> int:
    if name in ("optimizer_s", "static_bytes"):
        return costs.num_stages
    return max(costs.num_chunks - 1, 0) if name == "send_s" else costs.num_chunks


_COLUMNS = (
    "forward_s", "backward_input_s", "backward_weight_s", "recompute_s", "paired_forward_s", "paired_backward_s",
    "send_s", "grad_reduce_s", "param_gather_s", "fsdp_gather_s", "fsdp_scatter_s", "offload_s", "optimizer_s",
    "activation_bytes", "weight_bytes", "static_bytes",
)  # fmt: skip


def _check(costs: PipelineCosts) -> None:
    if costs.schedule not in SCHEDULES:
        raise PlanError(
            f"the schedule {costs.schedule!r} is unknown", hint=did_you_mean(costs.schedule, list(SCHEDULES))
        )
    for name in (
        "num_stages", "num_virtual", "num_microbatches", "grad_buckets", "fsdp_blocks", "fsdp_prefetch",
        "ranks_per_stage", "lockstep_ranks",
    ):  # fmt: skip
        if getattr(costs, name) < 1:
            raise PlanError(f"{name} = {getattr(costs, name)}", expected="a whole number of at least 1")
    virtual = {"zb-v": 2, "dualpipev": 2, "zb-h1": 1, "zb-h2": 1, "dualpipe": 1}.get(costs.schedule)
    if virtual is not None and costs.num_virtual != virtual:
        raise PlanError(
            f"{costs.schedule} with {costs.num_virtual} chunks per rank", expected=f"num_virtual = {virtual}"
        )
    if costs.schedule in ("gpipe", "1f1b") and costs.num_virtual > 1 and costs.num_stages > 1:
        raise PlanError(
            f"{costs.schedule} with {costs.num_virtual} chunks per rank", hint="use the interleaved schedule"
        )
    if costs.schedule == "dualpipe" and (costs.num_stages % 2 or costs.num_microbatches % 2):
        raise PlanError(
            f"DualPipe with {costs.num_stages} stages and {costs.num_microbatches} micro-batches",
            expected="even numbers, as it runs from both ends",
        )
    least = 2 * costs.num_stages if costs.schedule in ("dualpipe", "dualpipev") else 1
    if costs.num_microbatches < least and costs.num_stages > 1:
        raise PlanError(
            f"{costs.schedule} with {costs.num_microbatches} micro-batches on {costs.num_stages} stages",
            expected=f"at least {least} micro-batches",
        )
    if costs.ranks_per_stage % costs.lockstep_ranks:
        raise PlanError(
            f"{costs.ranks_per_stage} ranks a stage in blocks of {costs.lockstep_ranks}",
            expected="blocks that divide the ranks of a stage",
        )
    columns = [(name, getattr(costs, name), _length(costs, name)) for name in _COLUMNS]
    items: list[Lane | Operator] = [*costs.lanes, *costs.operators]
    for item in items:
        fields = [f.name for f in dataclasses.fields(item) if f.name != "name"]
        columns += [(f"{item.name}.{f}", getattr(item, f), costs.num_chunks) for f in fields]
    for lane in costs.lanes:
        if lane.name not in LANES:
            raise PlanError(f"the lane {lane.name!r} is unknown", hint=did_you_mean(lane.name, list(LANES)))
    for name, value, length in columns:
        if value is None:
            continue
        if np.shape(value) != (length,):
            raise PlanError(f"{name} has the shape {np.shape(value)}", expected=f"({length},)")
        if not np.all(np.isfinite(value)) or np.any(value < 0):
            raise PlanError(
                f"{name} has a negative or infinite value", expected="finite values of at least 0"
            )
    slack = 1e-9
    if np.any(costs.exposed("forward_s") > costs.forward_s * (1 + slack) + slack):
        raise PlanError("a forward pass is shorter than the communication exposed in it")
    if np.any(
        costs.exposed("backward_s") > (costs.backward_s + costs.column("recompute_s")) * (1 + slack) + slack
    ):
        raise PlanError("a backward pass is shorter than the communication exposed in it")

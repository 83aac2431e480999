"""What one rank does: a model's operators divided as a plan says, with the collectives that this takes.

Everything is columns over plans, shape ``(num_plans,)``. Rank order is Megatron's: tensor, context, (expert,) data,
pipeline, innermost first.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import assert_never

import numpy as np
import numpy.typing as npt

from fullmesh.plan.plan import CP_KINDS, RECOMPUTES, Plans
from fullmesh.workload.ops import (
    BF16_BYTES,
    FP32_BYTES,
    AttentionCore,
    Axis,
    Block,
    Element,
    Elementwise,
    Exchange,
    GroupedProduct,
    HostSync,
    Module,
    Operator,
    Product,
    Saved,
    Scan,
    Tokens,
    Width,
)

Floats = npt.NDArray[np.float64]

# softmax output and dropped scores in 16 bits and the dropout mask, of one pair of tokens
SCORE_BYTES = 5.0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ReductionGroups:
    """Ranks that hold the same weights, dense and of experts; all columns have shape ``(num_plans,)``.

    Gradients are reduced over ``size`` ranks that lie ``stride`` apart. ZeRO shards over ``shard`` of them, and the
    groups of shards are replicas of each other.
    """

    size: npt.NDArray[np.int64]
    stride: npt.NDArray[np.int64]
    shard: npt.NDArray[np.int64]
    expert_size: npt.NDArray[np.int64]
    expert_stride: npt.NDArray[np.int64]
    expert_shard: npt.NDArray[np.int64]


def reduction_groups(p: Plans) -> ReductionGroups:
    """The groups over which each plan reduces gradients and shards what it holds."""
    size = p.dp * p.cp
    expert_stride = p.ep * p.etp
    expert_size = np.maximum(size * p.tp // expert_stride, 1)
    shard = np.where(p.shard > 0, np.minimum(p.shard, size), size)
    return ReductionGroups(
        size=size,
        stride=p.tp,
        shard=shard,
        expert_size=expert_size,
        expert_stride=expert_stride,
        # the ranks of a dense shard group hold the experts of a stage that many times
        expert_shard=np.clip(expert_size * shard // size, 1, expert_size),
    )


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class RankProduct:
    """A dense product ``(m, k) x (k, n)``; ``again`` is the share of the layers that compute it once more."""

    m: Floats
    n: Floats
    k: Floats
    wide: bool
    again: Floats


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class RankGroupedProduct:
    """A product of each of ``num_experts`` local experts with its share of ``rows``."""

    rows: Floats
    n: Floats
    k: Floats
    num_experts: Floats
    again: Floats


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class RankAttention:
    """Attention of ``queries`` tokens of each sequence with the ``keys`` tokens before them.

    ``pairs`` are query-key pairs that causality and window leave, of all sequences and one head; ``square`` those of
    a kernel that computes all. ``key_value_bytes`` and ``exchanged_bytes`` are what ring and all-to-all
    context parallelism move.
    """

    batch: Floats
    queries: Floats
    keys: Floats
    heads: Floats
    kv_heads: Floats
    qk_dim: int
    v_dim: int
    window: int | None
    flop: Floats
    square: Floats
    key_value_bytes: Floats
    exchanged_bytes: Floats
    again: Floats


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class RankScan:
    """A chunked recurrence."""

    flop: Floats
    num_bytes: Floats
    again: Floats


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class RankTraffic:
    """Memory traffic of element-wise kernels in each direction."""

    forward_bytes: Floats
    backward_bytes: Floats
    kernels: float
    routed: bool
    again: Floats


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class RankSync:
    """The host waits for the device."""

    again: Floats


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class TensorExchange:
    """A tensor-parallel group gathers what enters a block and reduces what leaves it: ``num_bytes`` each."""

    num_bytes: Floats
    again: Floats


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class VocabularyExchange:
    """A tensor-parallel group that shares out the vocabulary: its maxima and sums, and the gradient of its input."""

    num_bytes: Floats
    statistics_bytes: Floats


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ExpertExchange:
    """Tokens on the way to their experts and back.

    ``tokens`` are those that a rank sends, each to ``topk`` of ``num_experts``; ``gathered_bytes`` is what an
    expert-tensor-parallel group gathers before its experts and reduces behind them.
    """

    tokens: Floats
    width: float
    topk: int
    num_experts: int
    gathered_bytes: Floats
    again: Floats


RankOperator = (
    RankProduct
    | RankGroupedProduct
    | RankAttention
    | RankScan
    | RankTraffic
    | RankSync
    | TensorExchange
    | VocabularyExchange
    | ExpertExchange
)


class Shard:
    """The columns by which plans divide operators.

    Parameters
    ----------
    plans : Plans
    """

    def __init__(self, plans: Plans) -> None:
        self.plans = plans
        self.num = len(plans)
        stream = (plans.mbs * plans.seq / plans.cp).astype(np.float64)
        self._tokens = {
            Tokens.STREAM: stream,
            Tokens.LOCAL: np.where(plans.sequence_parallel, stream / plans.tp, stream),
            Tokens.ONCE: stream / plans.tp,
            # every rank of an expert-tensor-parallel group sees the tokens of the whole group
            Tokens.ROUTED: stream / plans.tp * plans.etp,
        }
        self._full: Floats = (plans.recompute == RECOMPUTES.index("full")) * plans.recompute_fraction

    def tokens(self, which: Tokens) -> Floats:
        """Tokens of one micro-batch on one rank."""
        return self._tokens[which]

    def width(self, width: Width) -> Floats:
        """What is left of a width on one rank."""
        total = np.zeros(self.num)
        for part in width.parts:
            match part.axis:
                case Axis.WHOLE:
                    count: Floats | float = part.count
                case Axis.TENSOR:
                    count = part.count / self.plans.tp
                case Axis.SHARED:
                    count = np.maximum(part.count / self.plans.tp, 1.0)
                case Axis.EXPERT_TENSOR:
                    count = part.count / self.plans.etp
                case _:
                    assert_never(part.axis)
            total = total + count * part.size
        return total

    def again(self, drops: tuple[Module, ...], *, recomputed: bool = True) -> Floats:
        """Share of the layers in which forward work under these modules is done again."""
        if not recomputed:
            return np.zeros(self.num)
        share = self._full
        for module in drops:
            share = np.maximum(share, self.plans.recomputes(module) * self.plans.recompute_fraction)
        return share

    def operators(self, block: Block) -> Iterator[RankOperator]:
        """Work and communication of one rank for one micro-batch."""
        stream = self.tokens(Tokens.STREAM)
        for op in block.operators:
            yield self._operator(op, block)
        if block.exchange is not None:
            yield self._expert_exchange(block.exchange)
        if block.joined is not None:
            yield TensorExchange(num_bytes=BF16_BYTES * stream * block.hidden, again=self.again(block.joined))
        if block.vocabulary:
            yield VocabularyExchange(
                num_bytes=BF16_BYTES * stream * block.hidden, statistics_bytes=FP32_BYTES * stream
            )

    def _operator(self, op: Operator, block: Block) -> RankOperator:
        again = self.again(op.drops, recomputed=block.recomputed)
        match op:
            case Product():
                return RankProduct(
                    m=self.tokens(op.tokens) * op.rows_per_token, n=self.width(op.n), k=self.width(op.k), wide=op.wide,
                    again=again,
                )  # fmt: skip
            case GroupedProduct():
                return RankGroupedProduct(
                    rows=self.tokens(Tokens.ROUTED) * op.topk, n=self.width(op.n), k=self.width(op.k),
                    num_experts=np.maximum(op.num_experts / self.plans.ep, 1.0), again=again,
                )  # fmt: skip
            case AttentionCore():
                return self._attention(op, again)
            case Scan():
                tokens = self.tokens(Tokens.STREAM)
                return RankScan(
                    flop=tokens * self.width(op.flop), num_bytes=BF16_BYTES * tokens * self.width(op.elements),
                    again=again,
                )  # fmt: skip
            case Elementwise():
                size = op.element_bytes * self.tokens(op.tokens) * self.width(op.width)
                return RankTraffic(
                    forward_bytes=sum(op.forward) * size, backward_bytes=sum(op.backward) * size, kernels=op.kernels,
                    routed=op.routed, again=again,
                )  # fmt: skip
            case HostSync():
                return RankSync(again=again)
            case _:
                assert_never(op)

    def _attention(self, op: AttentionCore, again: Floats) -> RankAttention:
        """Context parallelism splits the causal work evenly: a ring by tokens (zig-zag order), Ulysses by heads."""
        p = self.plans
        heads = op.num_heads / p.tp
        kv_heads = np.maximum(op.num_kv_heads / p.tp, 1.0)
        ulysses = p.cp_kind == CP_KINDS.index("ulysses")
        by_heads, by_tokens = np.where(ulysses, p.cp, 1), np.where(ulysses, 1, p.cp)
        tokens = self.tokens(Tokens.STREAM)
        reach = np.minimum(p.seq, op.window) if op.window else p.seq
        # the first `reach` tokens of a sequence see fewer keys
        pairs = tokens * reach * (1.0 - reach / (2.0 * p.seq))
        both = op.qk_dim + op.v_dim
        return RankAttention(
            batch=p.mbs.astype(np.float64),
            queries=p.seq / by_tokens,
            keys=p.seq.astype(np.float64),
            heads=np.maximum(heads / by_heads, 1.0),
            kv_heads=np.maximum(kv_heads / by_heads, 1.0),
            qk_dim=op.qk_dim,
            v_dim=op.v_dim,
            window=op.window,
            flop=2.0 * pairs * heads * both,
            square=tokens * p.seq * heads,
            key_value_bytes=BF16_BYTES * tokens * kv_heads * both,
            exchanged_bytes=BF16_BYTES * tokens * (heads + kv_heads) * both,
            again=again,
        )

    def _expert_exchange(self, exchange: Exchange) -> ExpertExchange:
        rows = self.tokens(Tokens.ROUTED) * exchange.topk
        return ExpertExchange(
            tokens=self.tokens(Tokens.ONCE),
            width=exchange.width,
            topk=exchange.topk,
            num_experts=exchange.num_experts,
            gathered_bytes=BF16_BYTES * rows * exchange.width,
            again=self.again(exchange.drops),
        )

    def saved_bytes(self, saved: Saved, *, input_bytes: Floats) -> Floats:
        """Bytes of a saved tensor on one rank, whether or not the plan drops it.

        Parameters
        ----------
        input_bytes : float array, shape (num_plans,)
            What a saved input of a product takes an element, as the precision recipe says.
        """
        elements = self.tokens(saved.tokens) * self.width(saved.width)
        match saved.element:
            case Element.BF16:
                return BF16_BYTES * elements
            case Element.FP32:
                return FP32_BYTES * elements
            case Element.INPUT:
                return input_bytes * elements
            case Element.SCORES:
                stored: Floats = np.where(
                    self.plans.flash_attention, 0.0, SCORE_BYTES * elements * self.plans.seq
                )
                return stored
            case _:
                assert_never(saved.element)

    def keeps(self, saved: Saved) -> npt.NDArray[np.bool_]:
        """Plans that keep a saved tensor, and whose selective recompute leaves it in memory."""
        kept = ~self.plans.compiled if saved.unfused else np.ones(self.num, dtype=bool)
        for module in saved.drops:
            kept &= ~self.plans.recomputes(module)
        return kept

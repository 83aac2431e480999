"""The operator table: what a model computes, whatever it was read from, before anyone splits it.

A front end emits operators; a plan splits them over ranks; cost prices them. Each class is one kind of operator with
its shapes; none knows a machine or a plan. Sizes that a plan may divide are :class:`Width`, tokens are :class:`Tokens`.
An operator stands for its forward pass and for the backward passes that follow from it; :func:`rows` writes them out
phase by phase.
"""

from __future__ import annotations

import dataclasses
import enum
from typing import Literal, assert_never

BF16_BYTES = 2.0
FP32_BYTES = 4.0

# What selective recompute may name; an operator or a saved tensor says which of them drops it.
Module = Literal["core_attn", "mlp", "moe", "moe_act", "layernorm", "mla_up_proj"]


class Tokens(enum.Enum):
    """Which tokens of a micro-batch an operator works on."""

    STREAM = "stream"  # all tokens, on every rank of a tensor-parallel group
    LOCAL = "local"  # all tokens, shared out over a tensor-parallel group that splits the sequence
    ONCE = "once"  # all tokens, each on one rank of a tensor-parallel group
    ROUTED = "routed"  # tokens at their experts: a width counts the copies of a token together


class Axis(enum.Enum):
    """What may divide a width."""

    WHOLE = "whole"
    TENSOR = "tensor"  # over the tensor-parallel group
    SHARED = "shared"  # over the same group, down to one (heads that several ranks use together)
    EXPERT_TENSOR = "expert tensor"  # over the expert-tensor-parallel group


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """``count`` pieces of ``size`` each; the pieces are what ``axis`` divides."""

    count: float
    size: float = 1.0
    axis: Axis = Axis.WHOLE


@dataclasses.dataclass(frozen=True, slots=True)
class Width:
    """A size as a sum of parts that are divided each in its own way."""

    parts: tuple[Part, ...]

    @property
    def total(self) -> float:
        """The size before anything divides it."""
        return sum(p.count * p.size for p in self.parts)

    def __add__(self, other: Width) -> Width:
        return Width(self.parts + other.parts)

    def __mul__(self, factor: float) -> Width:
        return Width(tuple(dataclasses.replace(p, size=p.size * factor) for p in self.parts))


def whole(count: float) -> Width:
    """A width that nothing divides."""
    return Width((Part(count=count),))


def split(count: float, size: float = 1.0) -> Width:
    """``count`` pieces divided over the tensor-parallel group."""
    return Width((Part(count=count, size=size, axis=Axis.TENSOR),))


def shared(count: float, size: float = 1.0) -> Width:
    """``count`` pieces divided over the tensor-parallel group, of which a rank holds at least one."""
    return Width((Part(count=count, size=size, axis=Axis.SHARED),))


def expert_split(count: float) -> Width:
    """A width of experts, divided over the expert-tensor-parallel group."""
    return Width((Part(count=count, axis=Axis.EXPERT_TENSOR),))


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Product:
    """A dense matrix product: ``(tokens, k)`` times a weight ``(k, n)``.

    Parameters
    ----------
    rows_per_token : float
        Blocks of a block-diagonal weight: the product has that many times as many rows.
    wide : bool
        Stays in 16 bits in every precision recipe (head, router).
    drops : tuple of str
        Modules whose recompute does the forward pass again.
    """

    name: str
    tokens: Tokens
    n: Width
    k: Width
    rows_per_token: float = 1.0
    wide: bool = False
    drops: tuple[Module, ...] = ()


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class GroupedProduct:
    """A product of every expert with the tokens routed to it: a weight ``(k, n)`` for each of ``num_experts``."""

    name: str
    num_experts: int
    topk: int
    n: Width
    k: Width
    drops: tuple[Module, ...] = ("moe",)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class AttentionCore:
    """Causal softmax attention of a sequence with itself: scores, softmax, values.

    Parameters
    ----------
    qk_dim, v_dim : int
        Elements of a query or key, and of a value, of one head.
    window : int, optional
        Tokens that a token attends to at most.
    """

    name: str
    num_heads: int
    num_kv_heads: int
    qk_dim: int
    v_dim: int
    window: int | None = None
    drops: tuple[Module, ...] = ("core_attn",)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Scan:
    """A chunked recurrence: state space or delta rule.

    Parameters
    ----------
    flop : Width
        Operations of the forward pass for each token.
    elements : Width
        16-bit elements read and written for each token.
    """

    name: str
    flop: Width
    elements: Width
    drops: tuple[Module, ...] = ("core_attn",)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Elementwise:
    """Work bound by memory traffic: norms, rotary, activations, permutations, softmax over the vocabulary.

    Parameters
    ----------
    width : Width
        Elements for each token.
    forward, backward : tuple of float
        Passes over these elements that read and that write.
    element_bytes : float
    kernels : float
        Kernels that a fused implementation launches in each direction.
    routed : bool
        Part of routing tokens to experts.
    """

    name: str
    tokens: Tokens
    width: Width
    forward: tuple[float, float]
    backward: tuple[float, float]
    element_bytes: float = BF16_BYTES
    kernels: float = 1.0
    routed: bool = False
    drops: tuple[Module, ...] = ()


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class HostSync:
    """The host waits for the device: the counts of routed tokens decide what it launches next."""

    name: str
    drops: tuple[Module, ...] = ("moe",)


Operator = Product | GroupedProduct | AttentionCore | Scan | Elementwise | HostSync


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """Operators between two points where tokens are whole: half a layer, the embedding, the head.

    Parameters
    ----------
    operators : tuple of Operator
        In the order of the forward pass.
    hidden : int
        Width of the stream that goes in and comes out.
    joined : tuple of str or None
        A tensor-parallel group gathers what goes in and reduces what comes out, and does the forward part again where
        one of these modules is recomputed; None: tokens neither come together nor are reduced here.
    exchange : Exchange, optional
        Tokens go to the ranks of their experts and back.
    vocabulary : bool
        A tensor-parallel group shares out the vocabulary.
    recomputed : bool
        False where no policy does the block again.
    """

    operators: tuple[Operator, ...]
    hidden: int
    joined: tuple[Module, ...] | None = None
    exchange: Exchange | None = None
    vocabulary: bool = False
    recomputed: bool = True


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Exchange:
    """Dispatch of tokens to their experts, and the way back; ``width`` elements of each token travel."""

    num_experts: int
    topk: int
    width: float
    drops: tuple[Module, ...] = ("moe",)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Weight:
    """A trained tensor of a layer; ``part`` says where parameter counts list it."""

    name: str
    shape: tuple[int, ...]
    part: Literal["mixer", "mlp", "expert", "shared_expert", "router", "latent", "norms"]

    @property
    def count(self) -> int:
        """Elements."""
        count = 1
        for size in self.shape:
            count *= size
        return count


class Element(enum.Enum):
    """What an element of a saved tensor is."""

    BF16 = "bf16"
    FP32 = "fp32"
    INPUT = "input"  # the input of a product, as the precision recipe keeps it
    SCORES = "scores"  # softmax, dropout mask and dropped scores of one pair of tokens


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Saved:
    """A tensor that the forward pass keeps for the backward pass.

    Parameters
    ----------
    width : Width
        Elements for each token; of ``SCORES``, heads: one element for each token of the sequence.
    drops : tuple of str
        Modules whose recompute frees it.
    unfused : bool
        Kept only where element-wise work runs operation by operation.
    """

    name: str
    tokens: Tokens
    width: Width
    element: Element = Element.BF16
    drops: tuple[Module, ...] = ()
    unfused: bool = False


Phase = Literal["forward", "backward by input", "backward by weight", "optimizer"]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One operator in one phase, for a stated number of tokens and before any split.

    ``shape`` is (rows, columns, depth) of a product, (experts, rows, columns, depth) of a grouped one, (batch, heads,
    queries, keys, dimension) of attention, (tokens, width) otherwise.
    """

    name: str
    kind: str
    phase: Phase
    shape: tuple[float, ...]
    dtype: str
    read_bytes: float
    written_bytes: float
    flop: float


def context_tokens(seq: int, window: int | None = None, *, causal: bool = True) -> float:
    """Tokens that a token attends to, on average over a sequence of ``seq``."""
    reach = min(window or seq, seq)
    return reach * (1.0 - reach / (2.0 * seq)) if causal else float(reach)


def forward_flop_per_token(op: Operator, seq: int, *, causal: bool = True) -> float:
    """Operations of the forward pass for each token, two a multiply-add; element-wise work counts as none.

    Parameters
    ----------
    seq : int
        Tokens of a sequence; each attends only to its own sequence.
    causal : bool
        Count the causal half of attention; otherwise the whole square, or the whole window.
    """
    match op:
        case Product():
            return 2.0 * op.rows_per_token * op.n.total * op.k.total
        case GroupedProduct():
            return 2.0 * op.topk * op.n.total * op.k.total
        case AttentionCore():
            context = context_tokens(seq, op.window, causal=causal)
            return 2.0 * context * op.num_heads * (op.qk_dim + op.v_dim)
        case Scan():
            return op.flop.total
        case Elementwise() | HostSync():
            return 0.0
        case _:
            assert_never(op)


def rows(op: Operator, *, batch: int, seq: int) -> list[Row]:
    """The phases of one operator for ``batch`` sequences of ``seq`` tokens.

    Products have a forward pass and one backward pass for each operand; all other operators have one backward pass.
    """
    num = float(batch * seq)
    forward = num * forward_flop_per_token(op, seq)
    match op:
        case Product():
            m, n, k = num * op.rows_per_token, op.n.total, op.k.total
            return _products(op.name, "product", (), m, n, k, forward, weights=op.rows_per_token * n * k)
        case GroupedProduct():
            m, n, k = num * op.topk, op.n.total, op.k.total
            experts = (float(op.num_experts),)
            return _products(
                op.name, "grouped product", experts, m, n, k, forward, weights=op.num_experts * n * k
            )
        case AttentionCore():
            shape = (float(batch), float(op.num_heads), float(seq), float(seq), float(op.qk_dim))
            ins = BF16_BYTES * num * (op.num_heads * op.qk_dim + op.num_kv_heads * (op.qk_dim + op.v_dim))
            out = BF16_BYTES * num * op.num_heads * op.v_dim
            # scores are computed once more in the backward pass, which has five products where the forward has two
            return [
                _row(op.name, "attention", "forward", shape, "bf16", ins, out, forward),
                _row(
                    op.name,
                    "attention",
                    "backward by input",
                    shape,
                    "bf16",
                    ins + 2 * out,
                    ins,
                    2.5 * forward,
                ),
            ]
        case Scan():
            half, widths = BF16_BYTES * num * op.elements.total / 2.0, (num, op.elements.total)
            return [
                _row(op.name, "scan", "forward", widths, "bf16", half, half, forward),
                _row(op.name, "scan", "backward by input", widths, "bf16", 2 * half, 2 * half, 2 * forward),
            ]
        case Elementwise():
            size, widths = op.element_bytes * num * op.width.total, (num, op.width.total)
            dtype = "fp32" if op.element_bytes == FP32_BYTES else "bf16"
            (f_r, f_w), (b_r, b_w) = op.forward, op.backward
            return [
                _row(op.name, "elementwise", "forward", widths, dtype, size * f_r, size * f_w, 0.0),
                _row(op.name, "elementwise", "backward by input", widths, dtype, size * b_r, size * b_w, 0.0),
            ]
        case HostSync():
            return [_row(op.name, "host sync", "forward", (), "", 0.0, 0.0, 0.0)]
        case _:
            assert_never(op)


def optimizer_row(name: str, num_parameters: int) -> Row:
    """Adam on FP32 states: gradient, master weight and two moments are read; three of them and a BF16 copy written."""
    return _row(
        name, "optimizer", "optimizer", (float(num_parameters),), "fp32",
        4.0 * FP32_BYTES * num_parameters, (3.0 * FP32_BYTES + BF16_BYTES) * num_parameters, 0.0,
    )  # fmt: skip


def _products(
    name: str,
    kind: str,
    experts: tuple[float, ...],
    m: float,
    n: float,
    k: float,
    flop: float,
    *,
    weights: float,
) -> list[Row]:
    a, b, c = BF16_BYTES * m * k, BF16_BYTES * weights, BF16_BYTES * m * n
    return [
        _row(name, kind, "forward", (*experts, m, n, k), "recipe", a + b, c, flop),
        _row(name, kind, "backward by input", (*experts, m, k, n), "recipe", c + b, a, flop),
        _row(name, kind, "backward by weight", (*experts, k, n, m), "recipe", a + c, b, flop),
    ]


def _row(
    name: str,
    kind: str,
    phase: Phase,
    shape: tuple[float, ...],
    dtype: str,
    read_bytes: float,
    written_bytes: float,
    flop: float,
) -> Row:
    return Row(
        name=name, kind=kind, phase=phase, shape=shape, dtype=dtype, read_bytes=read_bytes,
        written_bytes=written_bytes, flop=flop,
    )  # fmt: skip

"""Softmax attention with grouped keys and values: MHA, GQA, MQA, sliding windows, gates, low-rank projections."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from fullmesh.workload.ops import (
    AttentionCore,
    Element,
    Elementwise,
    Module,
    Operator,
    Product,
    Saved,
    Tokens,
    Weight,
    Width,
    shared,
    split,
    whole,
)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Attention:
    """Softmax attention with grouped keys and values (MHA, GQA, MQA).

    Parameters
    ----------
    bias, out_bias : bool
        Biases of the query, key and value projections, and of the output projection.
    window : int, optional
        The sliding window in tokens, None for full causal attention.
    sinks : bool
        One learned logit a head that takes part in the softmax (GPT-OSS).
    q_lora_rank : int, optional
        Queries pass through this width first (DeepSeek-V4); None: one matrix.
    out_rank, out_groups : int
        The output passes through ``out_groups`` blocks of width ``out_rank`` first (DeepSeek-V4); 0: one matrix.
    shared_kv : bool
        One projection serves as key and as value (DeepSeek-V4).
    v_dim : int, optional
        Elements of a value of one head where they are not those of a key.
    qk_norm_size : int, optional
        Parameters of the norms of queries and keys where they are not one scale of a head's width each.
    """

    title: ClassVar[str] = "softmax attention"

    num_heads: int
    num_kv_heads: int
    head_dim: int
    bias: bool = False
    qk_norm: bool = False
    window: int | None = None
    rotary: bool = True
    gated_output: bool = False
    out_bias: bool = False
    sinks: bool = False
    q_lora_rank: int | None = None
    out_rank: int = 0
    out_groups: int = 1
    shared_kv: bool = False
    v_dim: int | None = None
    qk_norm_size: int | None = None

    @property
    def value_dim(self) -> int:
        """Elements of a value of one head."""
        return self.head_dim if self.v_dim is None else self.v_dim

    @property
    def family(self) -> str:
        return "sinks" if self.sinks else "gqa"

    @property
    def tensor_heads(self) -> int:
        return self.num_heads

    def selective_modules(self) -> tuple[Module, ...]:
        return ()

    def weights(self, hidden: int) -> tuple[Weight, ...]:
        inner = self.num_heads * self.value_dim
        queries = self.num_heads * self.head_dim + (inner if self.gated_output else 0)
        keys = self.num_kv_heads * (self.head_dim + (0 if self.shared_kv else self.value_dim))
        out: list[tuple[str, tuple[int, ...]]] = [("kv", (hidden, keys))]
        if self.q_lora_rank is None:
            out.append(("q", (hidden, queries)))
        else:
            out += [
                ("q_down", (hidden, self.q_lora_rank)),
                ("q_up", (self.q_lora_rank, queries)),
                ("q_norm", (self.q_lora_rank,)),
            ]
        if self.out_rank:
            # each group of heads has its own matrix to out_rank
            out += [("out_down", (inner, self.out_rank)), ("out", (self.out_groups * self.out_rank, hidden))]
        else:
            out.append(("out", (inner, hidden)))
        if self.bias:
            out.append(("qkv_bias", (queries + keys,)))
        if self.out_bias:
            out.append(("out_bias", (hidden,)))
        if self.qk_norm:
            own = self.qk_norm_size
            out.append(("qk_norm", (2, self.head_dim) if own is None else (own,)))
        if self.sinks:
            out.append(("sinks", (self.num_heads,)))
        return tuple(Weight(name=f"attention.{name}", shape=shape, part="mixer") for name, shape in out)

    def operators(self, hidden: int) -> tuple[Operator, ...]:
        heads = split(self.num_heads, self.head_dim)
        # a key-value head cannot be split further than over its own ranks
        kv = shared(self.num_kv_heads, self.head_dim)
        values = split(self.num_heads, self.value_dim)
        keys = kv if self.shared_kv else kv + shared(self.num_kv_heads, self.value_dim)
        queries = heads + values if self.gated_output else heads
        out: list[Operator] = []
        if self.q_lora_rank is None:
            out.append(Product(name="attention.qkv", tokens=Tokens.STREAM, n=queries + keys, k=whole(hidden)))
        else:
            rank = whole(self.q_lora_rank)
            out += [
                Product(name="attention.q_down", tokens=Tokens.LOCAL, n=rank, k=whole(hidden)),
                Product(name="attention.q_up", tokens=Tokens.STREAM, n=queries, k=rank),
                Product(name="attention.kv", tokens=Tokens.STREAM, n=keys, k=whole(hidden)),
            ]
        passes = self.rotary + self.qk_norm
        if passes:
            name = "attention.rotary" if not self.qk_norm else "attention.qk_norm"
            # forward reads and writes queries and keys; backward also reads what the norm or the angles need
            out.append(
                Elementwise(
                    name=name, tokens=Tokens.STREAM, width=heads + kv, forward=(passes, passes),
                    backward=(1.5 * passes, passes), kernels=2.0 * passes,
                )
            )  # fmt: skip
        out.append(
            AttentionCore(
                name="attention.core", num_heads=self.num_heads, num_kv_heads=self.num_kv_heads,
                qk_dim=self.head_dim, v_dim=self.value_dim, window=self.window,
            )
        )  # fmt: skip
        if not self.out_rank:
            return (*out, Product(name="attention.out", tokens=Tokens.STREAM, n=whole(hidden), k=values))
        # blocks of heads are projected apart: one product per group, together as many rows
        down = Product(
            name="attention.out_down", tokens=Tokens.STREAM, n=whole(self.out_rank),
            k=values * (1.0 / self.out_groups), rows_per_token=self.out_groups,
        )  # fmt: skip
        up = Product(
            name="attention.out",
            tokens=Tokens.STREAM,
            n=whole(hidden),
            k=split(self.out_rank * self.out_groups),
        )
        return (*out, down, up)

    def saved(self, hidden: int) -> tuple[Saved, ...]:
        heads = split(self.num_heads, self.head_dim)
        kv = shared(self.num_kv_heads, self.head_dim)
        values = shared(self.num_kv_heads, self.value_dim)
        out = [Saved(name="attention.qkv", tokens=Tokens.STREAM, width=heads + kv + values)]
        if self.qk_norm:
            out.append(Saved(name="attention.qk_norm", tokens=Tokens.STREAM, width=heads + kv))
        return (*out, *core_saved(self.num_heads, split(self.num_heads, self.value_dim)))


def core_saved(num_heads: int, output: Width) -> tuple[Saved, ...]:
    """What the core of softmax attention keeps: its output, the row sums, and scores where it is not fused."""
    heads = split(num_heads)
    return (
        Saved(name="attention.output", tokens=Tokens.STREAM, width=output),
        Saved(name="attention.row_sums", tokens=Tokens.STREAM, width=heads, element=Element.FP32),
        Saved(
            name="attention.scores", tokens=Tokens.STREAM, width=heads, element=Element.SCORES,
            drops=("core_attn",),
        ),
    )  # fmt: skip

"""Multi-head latent attention (MLA): keys and values from one compressed vector a token."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from fullmesh.workload.layers.attention import core_saved
from fullmesh.workload.ops import (
    AttentionCore,
    Elementwise,
    Module,
    Operator,
    Product,
    Saved,
    Tokens,
    Weight,
    split,
    whole,
)

_UP: tuple[Module, ...] = ("mla_up_proj",)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class LatentAttention:
    """Multi-head latent attention (MLA). ``q_lora_rank`` is None where queries are not compressed."""

    title: ClassVar[str] = "latent attention"

    num_heads: int
    q_lora_rank: int | None
    kv_lora_rank: int
    qk_nope_dim: int
    qk_rope_dim: int
    v_dim: int

    @property
    def family(self) -> str:
        return "mla"

    @property
    def tensor_heads(self) -> int:
        return self.num_heads

    def selective_modules(self) -> tuple[Module, ...]:
        return _UP

    @property
    def qk_dim(self) -> int:
        """Elements of a query or key of one head."""
        return self.qk_nope_dim + self.qk_rope_dim

    def weights(self, hidden: int) -> tuple[Weight, ...]:
        queries = self.num_heads * self.qk_dim
        out: list[tuple[str, tuple[int, ...]]] = []
        if self.q_lora_rank is None:
            out.append(("q", (hidden, queries)))
        else:
            out += [
                ("q_down", (hidden, self.q_lora_rank)),
                ("q_up", (self.q_lora_rank, queries)),
                ("q_norm", (self.q_lora_rank,)),
            ]
        out += [
            ("kv_down", (hidden, self.kv_lora_rank + self.qk_rope_dim)),
            ("kv_norm", (self.kv_lora_rank,)),
            ("kv_up", (self.kv_lora_rank, self.num_heads * (self.qk_nope_dim + self.v_dim))),
            ("out", (self.num_heads * self.v_dim, hidden)),
        ]
        return tuple(Weight(name=f"attention.{name}", shape=shape, part="mixer") for name, shape in out)

    def operators(self, hidden: int) -> tuple[Operator, ...]:
        h = whole(hidden)
        queries = split(self.num_heads, self.qk_dim)
        out: list[Operator] = []
        if self.q_lora_rank is None:
            out.append(Product(name="attention.q", tokens=Tokens.LOCAL, n=queries, k=h))
        else:
            rank = whole(self.q_lora_rank)
            out += [
                Product(name="attention.q_down", tokens=Tokens.LOCAL, n=rank, k=h),
                Product(name="attention.q_up", tokens=Tokens.STREAM, n=queries, k=rank, drops=_UP),
            ]
        out += [
            Product(
                name="attention.kv_down", tokens=Tokens.LOCAL, n=whole(self.kv_lora_rank + self.qk_rope_dim), k=h
            ),
            Product(
                name="attention.kv_up", tokens=Tokens.STREAM, n=split(self.num_heads, self.qk_nope_dim + self.v_dim),
                k=whole(self.kv_lora_rank), drops=_UP,
            ),
            *self._joins(),
            AttentionCore(
                name="attention.core", num_heads=self.num_heads, num_kv_heads=self.num_heads, qk_dim=self.qk_dim,
                v_dim=self.v_dim,
            ),
            Product(name="attention.out", tokens=Tokens.STREAM, n=h, k=split(self.num_heads, self.v_dim)),
        ]  # fmt: skip
        return tuple(out)

    def _joins(self) -> tuple[Operator, ...]:
        """Norms of the compressed vectors; rotary parts and the keys that are put together from both."""
        return (
            Elementwise(
                name="attention.kv_norm", tokens=Tokens.LOCAL, width=whole((self.q_lora_rank or 0) + self.kv_lora_rank),
                forward=(1.0, 1.0), backward=(2.0, 1.0), kernels=2.0, drops=_UP,
            ),
            Elementwise(
                name="attention.rotary", tokens=Tokens.STREAM,
                width=split(self.num_heads, 2.0 * self.qk_dim + self.v_dim),
                forward=(1.0, 1.0), backward=(2.0, 1.0), kernels=4.0, drops=_UP,
            ),
        )  # fmt: skip

    def saved(self, hidden: int) -> tuple[Saved, ...]:
        small = whole(2.0 * ((self.q_lora_rank or 0) + self.kv_lora_rank))
        # q, k with its copied rotary part, and v, as attention reads them
        up = split(self.num_heads, 2.0 * self.qk_dim + self.v_dim)
        return (
            Saved(name="attention.compressed", tokens=Tokens.LOCAL, width=small),
            Saved(name="attention.qkv", tokens=Tokens.STREAM, width=up, drops=_UP),
            *core_saved(self.num_heads, split(self.num_heads, self.v_dim)),
        )

"""Multi-head latent attention (MLA): keys and values from one compressed vector a token."""

from __future__ import annotations

import dataclasses

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
    """Multi-head latent attention (MLA). ``q_lora_rank`` is None where queries are not compressed.

    Parameters
    ----------
    index_heads, index_dim, index_topk : int
        Sparse attention: an indexer of ``index_heads`` heads of ``index_dim`` elements scores all earlier tokens, and
        attention sees the best ``index_topk`` of them (DeepSeek-V3.2). 0 heads: attention sees ``index_topk`` tokens
        that another layer chose, or all where that is 0 too.
    """

    num_heads: int
    q_lora_rank: int | None
    kv_lora_rank: int
    qk_nope_dim: int
    qk_rope_dim: int
    v_dim: int
    index_heads: int = 0
    index_dim: int = 0
    index_topk: int = 0

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
        if self.index_heads:
            out += [
                ("index_q", (self.q_lora_rank or hidden, self.index_heads * self.index_dim)),
                ("index_k", (hidden, self.index_dim)),
                ("index_norm", (2, self.index_dim)),
                ("index_weights", (hidden, self.index_heads)),
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
            *self._indexer(hidden),
            AttentionCore(
                name="attention.core", num_heads=self.num_heads, num_kv_heads=self.num_heads, qk_dim=self.qk_dim,
                v_dim=self.v_dim, window=self.index_topk or None,
            ),
            Product(name="attention.out", tokens=Tokens.STREAM, n=h, k=split(self.num_heads, self.v_dim)),
        ]  # fmt: skip
        return tuple(out)

    def _indexer(self, hidden: int) -> tuple[Operator, ...]:
        """Scores of every earlier token by a few narrow heads with one key; values are not touched."""
        if not self.index_heads:
            return ()
        h, queries = whole(hidden), whole(self.index_heads * self.index_dim)
        return (
            Product(name="indexer.q", tokens=Tokens.STREAM, n=queries, k=whole(self.q_lora_rank or hidden)),
            Product(name="indexer.k", tokens=Tokens.LOCAL, n=whole(self.index_dim + self.index_heads), k=h),
            AttentionCore(
                name="indexer.core",
                num_heads=self.index_heads,
                num_kv_heads=1,
                qk_dim=self.index_dim,
                v_dim=0,
            ),
        )

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

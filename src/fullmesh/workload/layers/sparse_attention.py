"""Latent attention to chosen tokens (DeepSeek-V3.2): an indexer scores all earlier tokens, attention sees the best."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from fullmesh.workload.layers.latent_attention import LatentAttention
from fullmesh.workload.ops import AttentionCore, Operator, Product, Tokens, Weight, whole


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class SparseLatentAttention(LatentAttention):
    """Latent attention to the best ``topk`` earlier tokens.

    Parameters
    ----------
    topk : int
        Tokens that attention sees.
    index_heads, index_dim : int
        Heads of the layer's own indexer, and elements of each; 0 heads where another layer has chosen.
    """

    title: ClassVar[str] = "sparse latent attention"

    topk: int
    index_heads: int = 0
    index_dim: int = 0

    def weights(self, hidden: int) -> tuple[Weight, ...]:
        plain = LatentAttention.weights(self, hidden)
        if not self.index_heads:
            return plain
        indexer = (
            ("q", (self.q_lora_rank or hidden, self.index_heads * self.index_dim)),
            ("k", (hidden, self.index_dim)),
            ("norm", (2, self.index_dim)),
            ("weights", (hidden, self.index_heads)),
        )
        more = (Weight(name=f"attention.index_{name}", shape=shape, part="mixer") for name, shape in indexer)
        return (*plain, *more)

    def operators(self, hidden: int) -> tuple[Operator, ...]:
        out: list[Operator] = []
        for op in LatentAttention.operators(self, hidden):
            if isinstance(op, AttentionCore):
                out += [*self._indexer(hidden), dataclasses.replace(op, window=self.topk)]
            else:
                out.append(op)
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

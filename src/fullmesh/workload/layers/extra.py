"""Small tensors of a layer beside its parts: norms inside a part, scales, gates, low-rank side paths."""

from __future__ import annotations

import dataclasses
from typing import Literal

from fullmesh.workload.ops import Product, Tokens, Weight, whole


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Extra:
    """A tensor that no kind of layer describes.

    Parameters
    ----------
    name : str
    shape : tuple of int
        ``(k, n)`` of a matrix that each token passes through; any other number of sizes is a tensor of scales, which
        does no matrix work.
    part : str
        Where parameter counts list it.
    """

    name: str
    shape: tuple[int, ...]
    part: Literal["mixer", "mlp", "router", "norms"] = "norms"

    @property
    def weight(self) -> Weight:
        """The trained tensor."""
        return Weight(name=self.name, shape=self.shape, part=self.part)

    @property
    def operator(self) -> Product | None:
        """The product with each token, of a matrix."""
        if len(self.shape) != 2:
            return None
        k, n = self.shape
        return Product(name=self.name, tokens=Tokens.LOCAL, n=whole(n), k=whole(k))

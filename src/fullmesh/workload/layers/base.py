"""What every kind of layer says of itself; a new kind is one class with these members, and one entry in its union."""

from __future__ import annotations

from typing import ClassVar, Protocol

from fullmesh.workload.ops import Block, Module, Operator, Saved, Weight


class MixerKind(Protocol):
    """A sequence mixer: attention of some form, a state-space model, a recurrence."""

    title: ClassVar[str]  # as people call it

    @property
    def family(self) -> str:
        """Class of kernels that fitted effects tell apart: ``gqa``, ``mla``, ``sinks`` or ``hybrid``."""
        ...

    @property
    def tensor_heads(self) -> int:
        """Heads that a tensor-parallel degree has to divide; 0 where any degree will do."""
        ...

    def selective_modules(self) -> tuple[Module, ...]:
        """What selective recompute drops first of this kind: much memory for little time."""
        ...

    def weights(self, hidden: int) -> tuple[Weight, ...]:
        """Trained tensors."""
        ...

    def operators(self, hidden: int) -> tuple[Operator, ...]:
        """Work of the forward pass, in order."""
        ...

    def saved(self, hidden: int) -> tuple[Saved, ...]:
        """What fused kernels keep for the backward pass, the input of the first product apart."""
        ...


class FeedForwardKind(Protocol):
    """A feed-forward part: dense, or a mixture of experts."""

    title: ClassVar[str]

    @property
    def tensor_widths(self) -> tuple[int, ...]:
        """Widths that a tensor-parallel degree has to divide."""
        ...

    def selective_modules(self) -> tuple[Module, ...]:
        """What selective recompute drops first of this kind."""
        ...

    def weights(self, hidden: int) -> tuple[Weight, ...]:
        """Trained tensors."""
        ...

    def blocks(self, hidden: int) -> tuple[Block, ...]:
        """Work of the forward pass, in order; each block is joined over tensor-parallel ranks in its own way."""
        ...

    def saved(self, hidden: int) -> tuple[Saved, ...]:
        """What fused kernels keep for the backward pass, the input of the first product apart."""
        ...

"""The small models of a real run, in PyTorch, built from a ModelSpec: a GPT and a Llama."""

from __future__ import annotations

from typing import Any

from fullmesh.here import ops
from fullmesh.here.device import load_torch
from fullmesh.workload import MLP, Attention, Layer, ModelSpec

torch: Any = load_torch()
nn: Any = torch.nn


class _SumForward(torch.autograd.Function):  # type: ignore[misc]
    """Sum over the tensor-parallel group forward, nothing backward."""

    @staticmethod
    def forward(ctx: Any, x: Any) -> Any:
        torch.distributed.all_reduce(x)
        return x

    @staticmethod
    def backward(ctx: Any, gradient: Any) -> Any:
        return gradient


class _SumBackward(torch.autograd.Function):  # type: ignore[misc]
    """Nothing forward, sum over the tensor-parallel group backward."""

    @staticmethod
    def forward(ctx: Any, x: Any) -> Any:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Any) -> Any:
        gradient = gradient.contiguous()
        torch.distributed.all_reduce(gradient)
        return gradient


class _RowLinear(nn.Module):  # type: ignore[misc]
    """A product whose depth is split over the group; its bias is added once, after the sum."""

    def __init__(self, depth: int, width: int, bias: bool, tp: int) -> None:
        super().__init__()
        self.tp = tp
        self.linear = nn.Linear(depth // tp, width, bias=bias and tp == 1)
        self.bias = nn.Parameter(torch.zeros(width)) if bias and tp > 1 else None

    def forward(self, x: Any) -> Any:
        x = self.linear(x)
        if self.tp > 1:
            x = _SumForward.apply(x)
        return x if self.bias is None else x + self.bias


class _Attention(nn.Module):  # type: ignore[misc]
    def __init__(self, hidden: int, a: Attention, tp: int) -> None:
        super().__init__()
        self.head_dim, self.rotary = a.head_dim, a.rotary
        self.heads, self.kv_heads = a.num_heads // tp, a.num_kv_heads // tp
        self.q = nn.Linear(hidden, self.heads * a.head_dim, bias=a.bias)
        self.k = nn.Linear(hidden, self.kv_heads * a.head_dim, bias=a.bias)
        self.v = nn.Linear(hidden, self.kv_heads * a.head_dim, bias=a.bias)
        self.out = _RowLinear(a.num_heads * a.head_dim, hidden, a.out_bias, tp)

    def forward(self, x: Any, tables: tuple[Any, Any]) -> Any:
        batch, seq = x.shape[:2]
        q = self.q(x).view(batch, seq, self.heads, self.head_dim)
        k = self.k(x).view(batch, seq, self.kv_heads, self.head_dim)
        v = self.v(x).view(batch, seq, self.kv_heads, self.head_dim)
        if self.rotary:
            q, k = ops.rotary(q, *tables), ops.rotary(k, *tables)
        if self.heads != self.kv_heads:
            times = self.heads // self.kv_heads
            k, v = ops.repeat_kv(k, times), ops.repeat_kv(v, times)
        return self.out(ops.attention(q, k, v))


class _FeedForward(nn.Module):  # type: ignore[misc]
    def __init__(self, hidden: int, f: MLP, tp: int) -> None:
        super().__init__()
        width = f.ffn // tp
        self.gate = nn.Linear(hidden, width, bias=f.bias) if f.gated else None
        self.up = nn.Linear(hidden, width, bias=f.bias)
        self.down = _RowLinear(f.ffn, hidden, f.bias, tp)

    def forward(self, x: Any) -> Any:
        if self.gate is None:
            return self.down(nn.functional.gelu(self.up(x)))
        return self.down(ops.swiglu(self.gate(x), self.up(x)))


class _Block(nn.Module):  # type: ignore[misc]
    def __init__(self, model: ModelSpec, layer: Layer, tp: int) -> None:
        super().__init__()
        assert isinstance(layer.mixer, Attention)
        assert isinstance(layer.ffn, MLP)
        self.tp = tp
        self.norm1, self.norm2 = _norm(model), _norm(model)
        self.attention = _Attention(model.hidden, layer.mixer, tp)
        self.ffn = _FeedForward(model.hidden, layer.ffn, tp)

    def forward(self, x: Any, tables: tuple[Any, Any]) -> Any:
        x = x + self.attention(self._enter(self.norm1(x)), tables)
        return x + self.ffn(self._enter(self.norm2(x)))

    def _enter(self, x: Any) -> Any:
        return _SumBackward.apply(x) if self.tp > 1 else x


class SmallModel(nn.Module):  # type: ignore[misc]
    """A decoder-only language model of softmax attention and dense feed-forward layers.

    Parameters
    ----------
    model : ModelSpec
    seq : int
        Length of the rotary tables.
    tp : int
        Degree of tensor parallelism; this process holds one part.
    device : str
    dtype : torch.dtype
    """

    def __init__(self, model: ModelSpec, *, seq: int, tp: int, device: str, dtype: Any) -> None:
        super().__init__()
        first = model.layers[0].mixer
        assert isinstance(first, Attention)
        self.embedding = nn.Embedding(model.vocab, model.hidden)
        self.positions = (
            nn.Embedding(model.learned_positions, model.hidden) if model.learned_positions else None
        )
        self.blocks = nn.ModuleList(_Block(model, layer, tp) for layer in model.layers)
        self.norm = _norm(model)
        self.head = nn.Linear(model.hidden, model.vocab, bias=False)
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.normal_(parameter, std=0.02)
        if model.tied_embeddings:
            self.head.weight = self.embedding.weight
        self.tables = ops.rotary_tables(seq, first.head_dim, device, dtype)
        self.to(device=device, dtype=dtype)

    def forward(self, tokens: Any, targets: Any) -> Any:
        """Loss of ``tokens`` ``[batch, seq]``."""
        x = self.embedding(tokens)
        if self.positions is not None:
            x = x + self.positions(torch.arange(tokens.shape[1], device=tokens.device))
        for block in self.blocks:
            x = block(x, self.tables)
        logits = self.head(self.norm(x))
        return ops.cross_entropy(logits.flatten(0, 1), targets.flatten())


def _norm(model: ModelSpec) -> Any:
    if model.norm == "layernorm":
        return nn.LayerNorm(model.hidden)
    return nn.RMSNorm(model.hidden, eps=1e-6)

"""Operators of small language models in PyTorch, the same functions for the calibration and for the training run."""

from __future__ import annotations

from typing import Any

from fullmesh.here.device import load_torch

torch: Any = load_torch()
functional: Any = torch.nn.functional


def attention(q: Any, k: Any, v: Any) -> Any:
    """Causal attention of contiguous ``[batch, seq, heads, head_dim]``, returned as ``[batch, seq, width]``."""
    out = functional.scaled_dot_product_attention(
        q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), is_causal=True
    )
    return out.transpose(1, 2).reshape(q.shape[0], q.shape[1], -1)


def repeat_kv(x: Any, times: int) -> Any:
    """Keys or values ``[batch, seq, kv_heads, head_dim]``, each head repeated for the queries that share it."""
    return x.repeat_interleave(times, dim=2)


def rotary_tables(seq: int, head_dim: int, device: str, dtype: Any) -> tuple[Any, Any]:
    """Cosines and sines ``[seq, 1, head_dim]`` of rotary positions (Su et al., arXiv 2104.09864)."""
    half = torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim
    angle = torch.outer(torch.arange(seq, dtype=torch.float32), 10000.0**-half)
    angle = torch.cat([angle, angle], dim=-1)[:, None, :]
    return angle.cos().to(device, dtype), angle.sin().to(device, dtype)


def rotary(x: Any, cos: Any, sin: Any) -> Any:
    """Rotate ``[batch, seq, heads, head_dim]`` by position."""
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat([-second, first], dim=-1) * sin


def swiglu(gate: Any, up: Any) -> Any:
    """The gated activation of Llama's feed-forward part."""
    return functional.silu(gate) * up


def cross_entropy(logits: Any, targets: Any) -> Any:
    """Mean loss of ``[tokens, vocab]`` in FP32."""
    return functional.cross_entropy(logits.float(), targets)


def flatten(gradients: list[Any]) -> Any:
    """Gradients of all parameters in one row, for one all-reduce."""
    return torch.cat([g.reshape(-1) for g in gradients])

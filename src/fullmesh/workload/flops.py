"""Useful work of a model, the numerator of MFU."""

from __future__ import annotations

import functools

from fullmesh.workload.spec import (
    MLP,
    Attention,
    LatentAttention,
    Layer,
    LinearAttention,
    Mamba2,
    Mixer,
    ModelSpec,
    MoE,
)


@functools.lru_cache(maxsize=4096)
def model_flop_per_token(model: ModelSpec, seq: int, *, causal: bool = True) -> float:
    """Floating-point operations of the forward pass, per token; training is three times that.

    Counted, two operations a multiply-add: all products of mixers, feed-forward parts (``topk`` routed experts, the
    shared ones, router and latent projections), head and multi-token-prediction modules; scores and values of softmax
    attention over the tokens that a token sees; the products of chunked state-space and delta-rule scans. Not
    counted: embedding look-up, norms, activations, convolutions, rotary, softmax, recomputation.

    Parameters
    ----------
    model : ModelSpec
    seq : int
        Tokens of a sequence; each attends only to its own sequence.
    causal : bool
        Count the causal half of attention, ``seq / 2`` tokens on average, and of a window of ``w`` tokens
        ``w (1 - w / 2 seq)``; otherwise the whole square or the whole window, as many publications do.

    Returns
    -------
    float

    Notes
    -----
    Generalises the formula of Narayanan et al., "Efficient Large-Scale Language Model Training on GPU Clusters"
    (arXiv 2104.04473), appendix, to grouped and latent attention, experts and linear mixers.
    """
    head = 2.0 * model.hidden * model.vocab
    total = (
        sum(layer_flop_per_token(layer, model.hidden, seq, causal=causal) for layer in model.layers) + head
    )
    if model.mtp_layers:
        block = model.mtp_block or model.layers[-1:]
        module = sum(layer_flop_per_token(layer, model.hidden, seq, causal=causal) for layer in block)
        total += model.mtp_layers * (module + 4.0 * model.hidden**2 + head)
    return total


@functools.lru_cache(maxsize=4096)
def layer_flop_per_token(layer: Layer, hidden: int, seq: int, *, causal: bool = True) -> float:
    """Forward operations of one layer per token, as :func:`model_flop_per_token` counts them."""
    total = _mixer(layer.mixer, hidden, seq, causal) if layer.mixer is not None else 0.0
    ffn = layer.ffn
    if isinstance(ffn, MLP):
        total += _mlp(hidden, ffn.ffn, gated=ffn.gated)
    elif isinstance(ffn, MoE):
        width = ffn.latent or hidden
        total += ffn.topk * _mlp(width, ffn.ffn, gated=ffn.gated) + 2.0 * hidden * ffn.num_experts
        total += _mlp(hidden, ffn.shared_ffn, gated=ffn.gated) + 4.0 * hidden * (ffn.latent or 0)
    return total


def context_tokens(seq: int, window: int | None = None, *, causal: bool = True) -> float:
    """Tokens that a token attends to, on average over a sequence of ``seq``."""
    reach = min(window or seq, seq)
    return reach * (1.0 - reach / (2.0 * seq)) if causal else float(reach)


def _mlp(hidden: int, ffn: int, *, gated: bool) -> float:
    return 2.0 * (3 if gated else 2) * hidden * ffn


def _mixer(mixer: Mixer, hidden: int, seq: int, causal: bool) -> float:
    if isinstance(mixer, Attention):
        return _attention(mixer, hidden, seq, causal)
    if isinstance(mixer, LatentAttention):
        qk = mixer.qk_nope_dim + mixer.qk_rope_dim
        rank = mixer.q_lora_rank
        queries = hidden * mixer.num_heads * qk if rank is None else rank * (hidden + mixer.num_heads * qk)
        keys = hidden * (mixer.kv_lora_rank + mixer.qk_rope_dim)
        keys += mixer.kv_lora_rank * mixer.num_heads * (mixer.qk_nope_dim + mixer.v_dim)
        core = context_tokens(seq, causal=causal) * mixer.num_heads * (qk + mixer.v_dim)
        return 2.0 * (queries + keys + core + mixer.num_heads * mixer.v_dim * hidden)
    if isinstance(mixer, Mamba2):
        return _mamba(mixer, hidden)
    return _linear_attention(mixer, hidden)


def _attention(a: Attention, hidden: int, seq: int, causal: bool) -> float:
    inner = a.num_heads * a.head_dim
    queries = inner * (2 if a.gated_output else 1)
    keys = a.num_kv_heads * a.head_dim * (1 if a.shared_kv else 2)
    products = hidden * keys
    products += hidden * queries if a.q_lora_rank is None else a.q_lora_rank * (hidden + queries)
    products += inner * a.out_rank + a.out_groups * a.out_rank * hidden if a.out_rank else inner * hidden
    core = 2 * context_tokens(seq, a.window, causal=causal) * inner
    return 2.0 * (products + core)


def _mamba(m: Mamba2, hidden: int) -> float:
    """Projections and the chunked scan (SSD, Dao and Gu, arXiv 2405.21060, section 6)."""
    inner, states = m.num_heads * m.head_dim, m.num_groups * m.state_dim
    products = hidden * (2 * inner + 2 * states + m.num_heads) + inner * hidden
    # inside a chunk, causal half: scores of each group, values of each head; across chunks: states in and out
    inside = m.chunk / 2.0 * (states + inner)
    across = 2 * inner * m.state_dim
    return 2.0 * (products + inside + across)


def _linear_attention(a: LinearAttention, hidden: int) -> float:
    """Projections and the chunked delta rule (Yang et al., arXiv 2406.06484 and 2412.06464)."""
    keys, values = a.num_key_heads * a.key_dim, a.num_value_heads * a.value_dim
    products = hidden * (2 * keys + 2 * values + 2 * a.num_value_heads) + values * hidden
    # inside a chunk, causal halves: key-key and query-key scores, the triangular solve applied to keys and values,
    # and the outputs; across chunks: corrections, outputs and states
    spread = a.num_value_heads * a.key_dim
    inside = a.chunk / 2.0 * (3 * spread + 2 * values)
    across = 3 * values * a.key_dim
    return 2.0 * (products + inside + across)

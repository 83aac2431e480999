"""Useful work of a model, the numerator of MFU."""

from __future__ import annotations

import collections
import functools

from fullmesh.workload.ops import Block, forward_flop_per_token
from fullmesh.workload.spec import ModelSpec


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
    total = 0.0
    for layer, count in collections.Counter(model.layers).items():
        total += count * _blocks_flop(model.blocks(layer), seq, causal)
    total += _blocks_flop((model.head_block,), seq, causal)
    if model.mtp_layers:
        total += model.mtp_layers * _blocks_flop(model.prediction_blocks(), seq, causal)
    return total


def _blocks_flop(blocks: tuple[Block, ...], seq: int, causal: bool) -> float:
    return sum(forward_flop_per_token(op, seq, causal=causal) for block in blocks for op in block.operators)

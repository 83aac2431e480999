"""Random models."""

from __future__ import annotations

import dataclasses

from hypothesis import strategies as st

from fullmesh.workload import (
    MLP,
    Attention,
    LatentAttention,
    Layer,
    LinearAttention,
    Mamba1,
    Mamba2,
    ModelSpec,
    MoE,
    ShortConv,
)
from fullmesh.workload.layers import SparseLatentAttention
from fullmesh.workload.layers.extra import Extra

small = st.integers(1, 9)
attentions = st.builds(
    lambda kv, group, dim, **k: Attention(num_kv_heads=kv, num_heads=kv * group, head_dim=dim, **k),
    small,
    small,
    small,
    bias=st.booleans(),
    qk_norm=st.booleans(),
    window=st.none() | small,
    gated_output=st.booleans(),
    sinks=st.booleans(),
    v_dim=st.none() | small,
    qk_norm_size=st.none() | st.integers(0, 9),
)
latents = st.builds(
    LatentAttention,
    num_heads=small,
    q_lora_rank=st.none() | small,
    kv_lora_rank=small,
    qk_nope_dim=small,
    qk_rope_dim=small,
    v_dim=small,
)
sparse = st.builds(
    lambda plain, topk, heads, dim: SparseLatentAttention(
        topk=topk, index_heads=heads, index_dim=dim, **dataclasses.asdict(plain)
    ),
    latents,
    small,
    st.sampled_from([0, 1, 4]),
    small,
)
old_mambas = st.builds(Mamba1, inner=small, state_dim=small, step_rank=small, inner_norms=st.booleans())
convolutions = st.builds(ShortConv, kernel=small, bias=st.booleans())
extras = st.builds(Extra, name=st.just("side"), shape=st.tuples(small) | st.tuples(small, small))
mambas = st.builds(
    lambda groups, share, dim, state: Mamba2(
        num_heads=groups * share, head_dim=dim, state_dim=state, num_groups=groups
    ),
    small,
    small,
    small,
    small,
)
deltas = st.builds(
    lambda keys, share, key, value: LinearAttention(
        num_key_heads=keys, num_value_heads=keys * share, key_dim=key, value_dim=value
    ),
    small,
    small,
    small,
    small,
)
mlps = st.builds(MLP, ffn=small, gated=st.booleans(), bias=st.booleans())
moes = st.builds(
    lambda topk, more, **k: MoE(topk=topk, num_experts=topk + more, **k),
    small,
    small,
    ffn=small,
    shared_ffn=st.integers(0, 9),
    gated=st.booleans(),
    latent=st.none() | small,
    shared_gate=st.booleans(),
    bias=st.booleans(),
)
layers = st.one_of(
    st.builds(
        Layer,
        mixer=attentions | latents | sparse | mambas | old_mambas | convolutions | deltas,
        ffn=mlps | moes,
        one_norm=st.booleans(),
        extras=st.lists(extras, max_size=2).map(tuple),
    ),
    st.builds(Layer, mixer=attentions | mambas, ffn=st.none()),
    st.builds(Layer, mixer=st.none(), ffn=mlps | moes),
)
models = st.builds(
    ModelSpec,
    id=st.just("m"),
    name=st.just("m"),
    hidden=st.integers(1, 64),
    vocab=st.integers(1, 500),
    layers=st.lists(layers, min_size=1, max_size=6).map(tuple),
    tied_embeddings=st.booleans(),
    learned_positions=st.integers(0, 16),
    mtp_layers=st.integers(0, 2),
    norm=st.sampled_from(["rmsnorm", "layernorm", "plain"]),
    final_norm=st.booleans(),
    other_parameters=st.integers(0, 9),
    sandwich_norm=st.booleans(),
)

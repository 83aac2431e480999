"""Kinds of layers that single families brought: their parameters, operations, and a plan with each of them."""

from __future__ import annotations

import dataclasses

import pytest

from fullmesh.cost.stages import stage_table
from fullmesh.machine import load_machine
from fullmesh.plan import Plan, Plans
from fullmesh.workload import MLP, Attention, LatentAttention, Layer, Mamba1, ModelSpec, ShortConv
from fullmesh.workload.flops import model_flop_per_token
from fullmesh.workload.layers import SparseLatentAttention
from fullmesh.workload.layers.extra import Extra
from fullmesh.workload.ops import AttentionCore
from fullmesh.workload.parameters import parameter_counts

PLAIN = LatentAttention(
    num_heads=128, q_lora_rank=1536, kv_lora_rank=512, qk_nope_dim=128, qk_rope_dim=64, v_dim=128
)
CHOSEN = SparseLatentAttention(topk=2048, **dataclasses.asdict(PLAIN))
INDEXED = dataclasses.replace(CHOSEN, index_heads=64, index_dim=128)
ATTENTION = Attention(num_heads=8, num_kv_heads=2, head_dim=64)


def model(*layers: Layer, hidden: int = 512, **more: object) -> ModelSpec:
    return ModelSpec(id="m", name="m", hidden=hidden, vocab=1000, layers=layers, **more)  # type: ignore[arg-type]


def held(layer: Layer, hidden: int = 512) -> int:
    counts = parameter_counts(model(layer, hidden=hidden))
    return counts.layers[0].mixer


def test_an_indexer_holds_queries_a_key_a_norm_and_weights() -> None:
    more = held(Layer(mixer=INDEXED, ffn=None), 7168) - held(Layer(mixer=PLAIN, ffn=None), 7168)
    assert more == 1536 * 64 * 128 + 7168 * 128 + 2 * 128 + 7168 * 64
    # 61 such layers are what DeepSeek-V3.2 has beside V3
    assert 61 * more == 671_877_929_216 - 671_026_404_352


def test_attention_to_chosen_tokens_costs_the_same_beyond_their_number() -> None:
    def core(m: LatentAttention, seq: int) -> float:
        return model_flop_per_token(model(Layer(mixer=m, ffn=None)), seq, causal=False)

    assert core(PLAIN, 65536) - core(PLAIN, 32768) == pytest.approx(2 * 32768 * 128 * (192 + 128))
    # with an indexer alone its narrow scores grow
    assert core(INDEXED, 65536) - core(INDEXED, 32768) == pytest.approx(2 * 32768 * 64 * 128)
    assert core(CHOSEN, 65536) == core(CHOSEN, 32768) == core(CHOSEN, 2048)
    assert core(PLAIN, 1024) == core(CHOSEN, 1024)


def test_values_of_another_width() -> None:
    wide = dataclasses.replace(ATTENTION, v_dim=32)
    assert held(Layer(mixer=ATTENTION, ffn=None)) - held(Layer(mixer=wide, ffn=None)) == 512 * 32 * (2 + 8)
    core = next(op for op in wide.operators(512) if isinstance(op, AttentionCore))
    assert (core.qk_dim, core.v_dim) == (64, 32)


def test_mamba_1() -> None:
    """``state-spaces/mamba-130m``: 129,135,360 parameters with its padded vocabulary of 50,280."""
    mixer = Mamba1(inner=1536, state_dim=16, step_rank=48)
    spec = ModelSpec(
        id="m",
        name="m",
        hidden=768,
        vocab=50280,
        layers=(Layer(mixer=mixer, ffn=None),) * 24,
        tied_embeddings=True,
    )
    assert parameter_counts(spec).total == 129_135_360
    inner = dataclasses.replace(mixer, inner_norms=True)
    assert held(Layer(mixer=inner, ffn=None)) - held(Layer(mixer=mixer, ffn=None)) == 48 + 2 * 16


def test_a_short_convolution() -> None:
    assert held(Layer(mixer=ShortConv(kernel=3), ffn=None)) == 4 * 512**2 + 3 * 512
    assert held(Layer(mixer=ShortConv(kernel=3, bias=True), ffn=None)) == 4 * 512**2 + 8 * 512


def test_parallel_parts_share_a_norm() -> None:
    two = Layer(mixer=ATTENTION, ffn=MLP(ffn=1024))
    one = dataclasses.replace(two, one_norm=True)
    a, b = parameter_counts(model(two)), parameter_counts(model(one))
    assert a.total - b.total == 512
    assert len(model(two).blocks(two)) == len(model(one).blocks(one)) + 1


def test_extras_are_held_and_matrices_among_them_computed() -> None:
    layer = Layer(mixer=ATTENTION, ffn=MLP(ffn=1024))
    side = dataclasses.replace(
        layer,
        extras=(
            Extra(name="gate", shape=(512, 8), part="mixer"),
            Extra(name="scale", shape=(512,)),
        ),
    )
    before, after = parameter_counts(model(layer)), parameter_counts(model(side))
    assert after.total - before.total == 512 * 8 + 512
    assert after.layers[0].mixer - before.layers[0].mixer == 512 * 8
    assert model_flop_per_token(model(side), 64) - model_flop_per_token(model(layer), 64) == 2 * 512 * 8


def test_norms_without_parameters_and_other_parameters() -> None:
    layer = Layer(mixer=ATTENTION, ffn=MLP(ffn=1024))
    plain = parameter_counts(model(layer, norm="plain"))
    assert plain.layers[0].norms == plain.final_norm == 0
    assert parameter_counts(model(layer, final_norm=False)).final_norm == 0
    assert (
        parameter_counts(model(layer, other_parameters=7)).total - parameter_counts(model(layer)).total == 7
    )


@pytest.mark.parametrize(
    "mixer",
    [
        INDEXED,
        CHOSEN,
        Mamba1(inner=2048, state_dim=16, step_rank=64),
        ShortConv(kernel=3),
    ],
    ids=["indexed", "chosen", "mamba", "convolution"],
)
def test_plans_price_each_kind(mixer: LatentAttention | Mamba1 | ShortConv) -> None:
    spec = model(*(Layer(mixer=mixer, ffn=MLP(ffn=4096)),) * 4, hidden=1024)
    plans = Plans.of([Plan(seq=8192), Plan(seq=8192, tp=2), Plan(seq=8192, tp=2, cp=2)])
    stages = stage_table(spec, load_machine("h200", num_devices=8), plans)
    components = stages.sum(stages.components.sum(axis=1))
    assert (components > 0).all()

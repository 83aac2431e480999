"""Parameter counts against published counts, and the laws that they obey."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fullmesh.workload import (
    Layer,
    ModelSpec,
)
from fullmesh.workload.parameters import layer_parameters, parameter_counts
from fullmesh.workload.readers import shipped
from fullmesh.workload.readers.huggingface import load_model
from strategies.models import layers, models

# counts that were published rounded to a digit or two, and how far rounding may put them off
ROUNDED = {
    "gpt-1.7b": 0.03,
    "gpt-3.6b": 0.015,
    "deepseek-v2-60b": 0.02,
    "kimi-k2": 0.02,
    "minicpm-8x2b": 0.025,
    "pangu-ultra-135b": 0.02,
    "qwen3.6-35b-a3b": 0.02,
    "qwen3.8-27b": 0.02,
    "qwen2.5-32b": 0.01,
    "llama-4-scout": 0.02,
    "llama-4-maverick": 0.02,
    "nemotron-h-56b": 0.01,
    "nemotron-8b": 0.01,
    "glm-4.5": 0.02,
    "glm-4.5-air": 0.02,
    "grok-1": 0.02,
    "telechat2-35b": 0.02,
    "telechat2-115b": 0.02,
}


PUBLISHED = [entry for entry in shipped.all_models() if entry.published_parameters]


def test_most_models_have_a_published_count() -> None:
    assert len(PUBLISHED) > 80
    assert set(ROUNDED) <= {entry.id for entry in PUBLISHED}


@pytest.mark.parametrize("entry", PUBLISHED, ids=lambda e: e.id)
def test_total_against_the_published_count(entry: shipped.ShippedModel) -> None:
    total = parameter_counts(load_model(entry.id)).total
    assert total == pytest.approx(entry.published_parameters, rel=ROUNDED.get(entry.id, 0.005))


@pytest.mark.parametrize(
    ("name", "exact"),
    [
        ("qwen3-next-80b-a3b", 79_674_391_296),
        ("nemotron-3-super-120b-a12b", 123_611_012_096 - 2_942_324_736),
        ("baichuan-7b", 7_000_559_616),
        ("llama-3-8b", 8_030_261_248),
        ("llama-2-7b", 6_738_415_616),
        ("mixtral-8x7b", 46_702_792_704),
        ("mpt-1b", 1_315_950_592),
        ("mpt-70b", 64_862_437_376),
    ],
)
def test_exact_counts_of_weight_files(name: str, exact: int) -> None:
    assert parameter_counts(load_model(name)).total == exact


@pytest.mark.parametrize(
    ("name", "published", "embedding"),
    [
        ("deepseek-v3", 37e9, True),
        ("deepseek-v2", 21e9, True),
        ("mixtral-8x7b", 12.9e9, True),
        ("mixtral-8x22b", 39e9, True),
        ("gpt-oss-120b", 5.13e9, False),
        ("gpt-oss-20b", 3.61e9, False),
        ("qwen3-30b-a3b", 3.3e9, True),
        ("qwen3-235b-a22b", 22e9, True),
        ("qwen2-57b-a14b", 14.25e9, True),
        ("nemotron-3-nano-30b-a3b", 3.6e9, True),
        ("nemotron-3-super-120b-a12b", 12.7e9, True),
        ("nemotron-3-ultra-550b-a55b", 55e9, True),
        ("pangu-ultra-moe-718b", 39e9, False),
        ("llama-4-maverick", 17e9, True),
        ("kimi-k2", 32e9, False),
        ("deepseek-v4-flash", 13e9, False),
    ],
)
def test_active_parameters(name: str, published: float, embedding: bool) -> None:
    """Sources differ in whether the embedding counts as active."""
    counts = parameter_counts(load_model(name))
    active = counts.active if embedding else counts.active - counts.embedding
    assert active == pytest.approx(published, rel=0.02)


def test_mtp_module_of_a_weight_file() -> None:
    assert parameter_counts(load_model("nemotron-3-super-120b-a12b", mtp_layers=1)).mtp == 2_942_324_736


def test_mtp_module_of_deepseek_v3() -> None:
    # 685 billion in the weight files with the module, of which 14 billion are the module and its shared matrices
    with_mtp = parameter_counts(load_model("deepseek-v3", mtp_layers=1))
    assert with_mtp.total + with_mtp.embedding + with_mtp.head == pytest.approx(684.5e9, rel=0.002)


def test_nemotron_4_340b_by_part() -> None:
    counts = parameter_counts(load_model("nemotron-4-340b"))
    assert counts.embedding + counts.head == pytest.approx(9.4e9, rel=0.005)
    assert counts.total - counts.embedding - counts.head == pytest.approx(331.6e9, rel=0.001)


def test_whatif_holds_ten_trillion() -> None:
    assert parameter_counts(load_model("whatif-moe-10t")).total == pytest.approx(10.0e12, rel=0.001)


def test_tied_embeddings_count_once() -> None:
    model = load_model("llama-3-8b")
    tied = dataclasses.replace(model, tied_embeddings=True)
    assert parameter_counts(model).total - parameter_counts(tied).total == model.vocab * model.hidden


@given(models)
@settings(deadline=None, max_examples=150)
def test_parts_are_positive_and_add_up(model: ModelSpec) -> None:
    counts = parameter_counts(model)
    parts = counts.by_part()
    assert sum(parts.values()) == counts.total
    assert all(v >= 0 for v in parts.values())
    assert 0 < counts.active <= counts.total
    if not model.is_moe:
        assert counts.active == counts.total
    assert all(p.dense + p.expert == p.total > 0 for p in counts.layers)


@given(models)
@settings(deadline=None, max_examples=60)
def test_truncation_removes_whole_layers(model: ModelSpec) -> None:
    full = parameter_counts(dataclasses.replace(model, mtp_layers=0))
    for n in range(1, model.num_layers + 1):
        cut = parameter_counts(dataclasses.replace(model, layers=model.layers[:n], mtp_layers=0))
        assert cut.layers == full.layers[:n]
        assert full.total - cut.total == sum(p.total for p in full.layers[n:])


@given(layers, st.integers(1, 64))
@settings(deadline=None, max_examples=60)
def test_a_layer_costs_the_same_anywhere(layer: Layer, hidden: int) -> None:
    one = layer_parameters(ModelSpec(id="m", name="m", hidden=hidden, vocab=1, layers=(layer,)), layer)
    model = ModelSpec(id="m", name="m", hidden=hidden, vocab=3, layers=(layer, layer))
    assert parameter_counts(model).layers == (one, one)
    assert parameter_counts(model).total == 2 * one.total + hidden * (3 + 3 + 1)

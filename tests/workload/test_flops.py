"""Useful work per token against what publications imply, and its laws."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fullmesh.workload import ModelSpec
from fullmesh.workload.flops import model_flop_per_token
from fullmesh.workload.ops import context_tokens
from fullmesh.workload.parameters import parameter_counts
from fullmesh.workload.readers.huggingface import load_model
from strategies.models import models


# GFLOP a token of a training step, published TFLOP/s over published tokens/s. Megatron-Bridge counts the causal half of
# attention, NeMo up to 25.07 the whole square.
@pytest.mark.parametrize(
    ("name", "seq", "published", "causal", "mtp", "tolerance"),
    [
        ("llama-3-8b", 8192, 51.5, True, 0, 0.005),
        ("llama-3-8b", 8192, 57.9, False, 0, 0.005),
        ("llama-3-70b", 8192, 448.0, True, 0, 0.005),
        ("llama-3-70b", 8192, 481.0, False, 0, 0.005),
        ("llama-3.1-405b", 8192, 2521.0, True, 0, 0.005),
        ("llama-3.1-405b", 8192, 2626.0, False, 0, 0.005),
        ("deepseek-v3", 4096, 250.0, True, 0, 0.005),
        ("deepseek-v3", 4096, 260.0, True, 1, 0.005),
        ("gpt-oss-120b", 4096, 32.6, True, 0, 0.01),
        ("qwen3-30b-a3b", 4096, 22.9, True, 0, 0.015),
        ("qwen3-235b-a22b", 4096, 148.0, True, 0, 0.005),
        ("gpt3-175b", 2048, 1076.0, False, 0, 0.005),
        ("nemotron-4-340b", 4096, 2104.0, False, 0, 0.005),
        ("mixtral-8x7b", 4096, 82.9, False, 0, 0.005),
        ("nemotron-3-super-120b-a12b", 8192, 84.7, True, 2, 0.015),
        ("nemotron-3-super-120b-a12b", 4096, 74.3, True, 0, 0.015),
        ("qwen3.8-27b", 4096, 167.9, True, 1, 0.01),
        # this count takes Mamba to be twice as wide as the hidden size, which this model is not
        ("nemotron-3-nano-30b-a3b", 8192, 22.2, True, 0, 0.08),
    ],
)
def test_published_gflop_per_token(
    name: str, seq: int, published: float, causal: bool, mtp: int, tolerance: float
) -> None:
    model = load_model(name, mtp_layers=mtp)
    assert 3e-9 * model_flop_per_token(model, seq, causal=causal) == pytest.approx(published, rel=tolerance)


def test_two_flop_per_active_parameter_without_attention() -> None:
    """At one token a sequence only the products are left: twice the parameters, but for the embedding and vectors."""
    model = load_model("llama-3-70b")
    counts = parameter_counts(model)
    assert model_flop_per_token(model, 1) == pytest.approx(2 * (counts.total - counts.embedding), rel=1e-4)


@given(st.integers(1, 4096), st.none() | st.integers(1, 4096))
def test_context_by_counting(seq: int, window: int | None) -> None:
    """The closed form is within half a token of the average over all positions."""
    exact = sum(min(i + 1, window or seq) for i in range(seq)) / seq
    assert context_tokens(seq, window) == pytest.approx(exact, abs=0.51)
    assert context_tokens(seq, window, causal=False) == min(window or seq, seq)


@given(models, st.integers(1, 2048))
@settings(deadline=None, max_examples=100)
def test_longer_sequences_and_full_counting_are_never_less(model: ModelSpec, seq: int) -> None:
    one = model_flop_per_token(model, seq)
    assert one > 0
    assert model_flop_per_token(model, 2 * seq) >= one
    assert model_flop_per_token(model, seq, causal=False) >= one


@given(models, st.integers(1, 256))
@settings(deadline=None, max_examples=60)
def test_layers_add_up(model: ModelSpec, seq: int) -> None:
    model = dataclasses.replace(model, mtp_layers=0)
    twice = dataclasses.replace(model, layers=model.layers * 2)
    head = 2.0 * model.hidden * model.vocab
    body = model_flop_per_token(model, seq) - head
    assert model_flop_per_token(twice, seq) - head == pytest.approx(2 * body)

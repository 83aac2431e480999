"""A key that decides shapes is never lost in silence: every shipped model, every key."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from fullmesh.errors import ModelError
from fullmesh.workload import ModelSpec
from fullmesh.workload.parameters import parameter_counts
from fullmesh.workload.readers import keys, shipped
from fullmesh.workload.readers.config import Config
from fullmesh.workload.readers.huggingface import model_from_config

SHIPPED = shipped.all_models()
GROUPS = [
    keys.HIDDEN, keys.LAYERS, keys.HEADS, keys.KV_HEADS, keys.HEAD_DIM, keys.FFN, keys.VOCAB, keys.TIED, keys.EXPERTS,
    keys.TOPK, keys.EXPERT_FFN, keys.SHARED_EXPERTS, keys.SHARED_FFN, keys.FIRST_DENSE, keys.STEP,
]  # fmt: skip


def own_keys(entry: shipped.ShippedModel) -> list[str]:
    return [k for k, v in entry.values.items() if not k.startswith("_") and v is not None]


def count(values: dict[str, Any]) -> tuple[int, ModelSpec]:
    model = model_from_config(Config(values, "config.json"))
    return parameter_counts(model).total, model


def silent(entry: shipped.ShippedModel, key: str, values: dict[str, Any], before: int) -> str:
    """What a mutation did in silence, or an empty text."""
    try:
        after, model = count(values)
    except ModelError as error:
        return "" if "config.json, key '" in error.where else f"a refusal without its key: {error}"
    if after == before:
        return ""
    meaning = next((g for g in GROUPS if key in g), (key,))
    said = any(name in note for note in model.notes for name in meaning)
    return "" if said else f"{entry.id}: {key} in {values}: {before:,} became {after:,}"


@pytest.mark.parametrize("entry", SHIPPED, ids=lambda e: e.id)
def test_a_missing_key_is_an_error_or_is_said(entry: shipped.ShippedModel) -> None:
    before, _ = count(dict(entry.values))
    for key in own_keys(entry):
        without = {k: v for k, v in entry.values.items() if k != key}
        assert not silent(entry, key, without, before)
        assert not silent(entry, key, {**entry.values, key: None}, before)


def contradictions(values: dict[str, Any], key: str) -> Iterator[dict[str, Any]]:
    """The same configuration with something else said of the same thing."""
    group = next((g for g in GROUPS if key in g), ())
    value = values[key]
    if isinstance(value, bool):
        yield from ({**values, other: not value} for other in group if other not in values)
    elif isinstance(value, int):
        yield from ({**values, other: value + 1} for other in group if other not in values)
        yield from ({**values, key: wrong} for wrong in (-1, 0.5, "8", [value], {}, True, 10**12))
    elif isinstance(value, list):
        yield {**values, key: value[:1]}
        yield {**values, key: "x"}
        yield {**values, key: ["x"] * len(value)}
    elif isinstance(value, str):
        yield {**values, key: 7}
        yield {**values, key: "no such thing"}


@pytest.mark.parametrize("entry", SHIPPED, ids=lambda e: e.id)
def test_a_contradiction_or_a_wrong_value_is_an_error_or_changes_nothing(entry: shipped.ShippedModel) -> None:
    before, _ = count(dict(entry.values))
    for key in own_keys(entry):
        for values in contradictions(dict(entry.values), key):
            assert not silent(entry, key, values, before)


# modules of prediction are trained where a run says so, whatever a release carries
PREDICTION = ("num_nextn_predict_layers", "mtp_num_hidden_layers", "num_mtp_layers")
EXPERT_KEYS = [
    ("moe_layers", [-1]),
    ("moe_layers", []),
    ("moe_layers", [10**6]),
    ("first_k_dense_replace", 10**4),
    ("mlp_layer_types", "dense"),
    ("decoder_sparse_step", 10**6),
]


@pytest.mark.parametrize(
    "entry", [e for e in SHIPPED if e.values.get("moe_intermediate_size")], ids=lambda e: e.id
)
def test_experts_do_not_get_lost(entry: shipped.ShippedModel) -> None:
    """The number of experts missing or 0, and no layer left that has them."""
    before, _ = count(dict(entry.values))
    key = next(k for k in keys.EXPERTS if k in entry.values)
    without = {k: v for k, v in entry.values.items() if k != key}
    other = next(k for k in keys.EXPERTS if k != key)
    mutants = [without, {**entry.values, key: 0}, {**entry.values, other: 0}, {**entry.values, key: 1}]
    if entry.values["model_type"] != "nemotron_h":
        mutants += [{**entry.values, k: v} for k, v in EXPERT_KEYS]
    for values in mutants:
        with pytest.raises(ModelError):
            count(values)
    assert before > 0


UNKNOWN = {
    "block_layer_types": ["dense"],
    "moe_every_n_layers": 2,
    "attention_group_count": 4,
    "router_num_experts": 8,
    "latent_width": 512,
    "num_memory_slots": 16,
    "kv_rank": 64,
    "linear_attn_config": {"num_heads": 4},
}


@pytest.mark.parametrize("key", UNKNOWN)
def test_a_key_that_may_decide_a_shape_and_is_not_understood_is_an_error(key: str) -> None:
    entry = shipped.find("llama-3-8b")
    assert entry is not None
    with pytest.raises(ModelError) as caught:
        count({**entry.values, key: UNKNOWN[key]})
    assert key in caught.value.where
    count({**entry.values, key: None})


def test_keys_without_influence_are_no_error() -> None:
    entry = shipped.find("llama-3-8b")
    assert entry is not None
    count(
        {
            **entry.values,
            "architectures": ["LlamaForCausalLM"],
            "attention_dropout": 0.0,
            "bos_token_id": 1,
            "initializer_range": 0.02,
            "max_position_embeddings": 8192,
            "pretraining_tp": 1,
            "rms_norm_eps": float("nan"),
            "rope_scaling": {"factor": 8.0, "rope_type": "llama3"},
            "rope_theta": 500000.0,
            "torch_dtype": "bfloat16",
            "transformers_version": "4.40.0",
            "use_cache": True,
        }
    )


@pytest.mark.parametrize("entry", SHIPPED, ids=lambda e: e.id)
def test_a_shipped_model_is_read_whole_and_without_assumptions(entry: shipped.ShippedModel) -> None:
    c = Config(dict(entry.values), entry.where)
    model = model_from_config(c)
    assert not c.assumed
    left = {k for k in keys.unread(c) if not k.startswith("_")}
    assert left <= {*PREDICTION, "n_positions", "max_seq_len", "max_window_layers"}
    assert not any("left out" in note for note in model.notes if entry.values["model_type"] != "deepseek_v4")

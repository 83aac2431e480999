"""Reading Hugging Face configurations: what each family means, and what is refused."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fullmesh.errors import ModelError
from fullmesh.workload import (
    MLP,
    Attention,
    LatentAttention,
    LinearAttention,
    Mamba2,
    ModelSpec,
    MoE,
)
from fullmesh.workload.readers import shipped
from fullmesh.workload.readers.config import Config
from fullmesh.workload.readers.huggingface import load_model, model_from_config

LLAMA: dict[str, Any] = {
    "model_type": "llama",
    "num_hidden_layers": 4,
    "hidden_size": 512,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "intermediate_size": 1024,
    "vocab_size": 1000,
}


def build(base: dict[str, Any] = LLAMA, **changes: Any) -> ModelSpec:
    return model_from_config(Config({**base, **changes}, "config.json"))


def mixer(model: ModelSpec, i: int = 0) -> Any:
    return model.layers[i].mixer


def ffn(model: ModelSpec, i: int = 0) -> Any:
    return model.layers[i].ffn


def test_llama_like() -> None:
    model = build()
    assert model.num_layers == 4
    assert mixer(model) == Attention(num_heads=8, num_kv_heads=2, head_dim=64)
    assert ffn(model) == MLP(ffn=1024)
    assert (model.norm, model.tied_embeddings, model.mtp_layers) == ("rmsnorm", False, 0)


def test_bias_of_all_projections_follows_one_key() -> None:
    assert mixer(build(attention_bias=True)).bias
    assert mixer(build(attention_bias=True)).out_bias
    qwen = mixer(build(model_type="qwen2"))
    assert qwen.bias
    assert not qwen.out_bias


def test_null_counts_as_absent() -> None:
    assert mixer(build(num_key_value_heads=None)).num_kv_heads == 8


def test_qwen3_norms_queries_and_keys() -> None:
    assert mixer(build(model_type="qwen3", head_dim=128)).qk_norm
    assert mixer(build(model_type="qwen3", head_dim=128)).head_dim == 128


def test_first_qwen_gives_the_width_of_both_halves() -> None:
    assert ffn(build(model_type="qwen", intermediate_size=22016)).ffn == 11008


def test_qwen_windows_only_when_switched_on() -> None:
    base = {**LLAMA, "model_type": "qwen2", "sliding_window": 64, "max_window_layers": 2}
    assert [layer.mixer.window for layer in build(base).layers] == [None] * 4  # type: ignore[union-attr]
    on = build(base, use_sliding_window=True)
    assert [mixer(on, i).window for i in range(4)] == [None, None, 64, 64]


@pytest.mark.parametrize(
    ("model_type", "expected"),
    [
        ("mistral", [64, 64, 64, 64]),
        ("gemma2", [64, None, 64, None]),
        ("gpt_oss", [64, None, 64, None]),
        ("llama", [None, None, None, None]),
    ],
)
def test_windows_by_family(model_type: str, expected: list[int | None]) -> None:
    experts = {"num_local_experts": 4, "num_experts_per_tok": 2} if model_type == "gpt_oss" else {}
    model = build(model_type=model_type, sliding_window=64, **experts)
    assert [mixer(model, i).window for i in range(4)] == expected


def test_gemma3_pattern_and_class_defaults() -> None:
    base = {
        k: v
        for k, v in LLAMA.items()
        if k not in ("num_attention_heads", "num_key_value_heads", "vocab_size")
    }
    text = {**base, "model_type": "gemma3_text", "num_hidden_layers": 7, "sliding_window": 32}
    model = build({"model_type": "gemma3", "text_config": text, "vision_config": {"hidden_size": 1}})
    assert [mixer(model, i).window for i in range(7)] == [32, 32, 32, 32, 32, None, 32]
    assert (mixer(model).num_heads, mixer(model).head_dim, model.vocab) == (8, 256, 262208)
    assert model.sandwich_norm


def test_layer_types_decide_windows() -> None:
    types = ["full_attention", "sliding_attention", "sliding_attention", "full_attention"]
    model = build(layer_types=types, sliding_window=16)
    assert [mixer(model, i).window for i in range(4)] == [None, 16, 16, None]


def test_llama4_interleaves_experts_and_chunks() -> None:
    model = build(
        model_type="llama4_text",
        num_local_experts=16,
        num_experts_per_tok=1,
        interleave_moe_layer_step=2,
        intermediate_size_mlp=4096,
        attention_chunk_size=128,
    )
    assert [isinstance(ffn(model, i), MoE) for i in range(4)] == [False, True, False, True]
    assert ffn(model, 0).ffn == 4096
    assert (ffn(model, 1).ffn, ffn(model, 1).shared_ffn) == (1024, 1024)
    assert [mixer(model, i).window for i in range(4)] == [128, 128, 128, None]


def test_llama4_explicit_lists() -> None:
    model = build(
        model_type="llama4_text",
        num_local_experts=16,
        num_experts_per_tok=1,
        moe_layers=[0, 3],
        intermediate_size_mlp=4096,
        attention_chunk_size=128,
        no_rope_layers=[1, 0, 1, 1],
    )
    assert [isinstance(ffn(model, i), MoE) for i in range(4)] == [True, False, False, True]
    assert [mixer(model, i).window for i in range(4)] == [128, None, 128, 128]


DEEPSEEK: dict[str, Any] = {
    "model_type": "deepseek_v3",
    "num_hidden_layers": 4,
    "hidden_size": 512,
    "num_attention_heads": 8,
    "q_lora_rank": 96,
    "kv_lora_rank": 64,
    "qk_nope_head_dim": 32,
    "qk_rope_head_dim": 16,
    "v_head_dim": 32,
    "intermediate_size": 1024,
    "n_routed_experts": 16,
    "num_experts_per_tok": 4,
    "moe_intermediate_size": 128,
    "n_shared_experts": 2,
    "first_k_dense_replace": 1,
    "num_nextn_predict_layers": 1,
    "vocab_size": 1000,
}


def test_latent_attention_dense_first_and_shared_experts() -> None:
    model = build(DEEPSEEK)
    latent = LatentAttention(
        num_heads=8, q_lora_rank=96, kv_lora_rank=64, qk_nope_dim=32, qk_rope_dim=16, v_dim=32
    )
    assert mixer(model) == latent
    assert ffn(model, 0) == MLP(ffn=1024)
    assert ffn(model, 1) == MoE(num_experts=16, topk=4, ffn=128, shared_ffn=256)
    assert mixer(build(DEEPSEEK, q_lora_rank=None)).q_lora_rank is None


def test_moe_frequency_as_number_and_as_list() -> None:
    every = build(DEEPSEEK, moe_layer_freq=2, first_k_dense_replace=0)
    assert [isinstance(ffn(every, i), MoE) for i in range(4)] == [True, False, True, False]
    listed = build(DEEPSEEK, moe_layer_freq=[0, 1, 1, 0], first_k_dense_replace=None)
    assert [isinstance(ffn(listed, i), MoE) for i in range(4)] == [False, True, True, False]


def test_qwen_moe_steps_and_dense_only_layers() -> None:
    base = {
        **LLAMA,
        "model_type": "qwen2_moe",
        "num_experts": 8,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 64,
        "shared_expert_intermediate_size": 256,
        "decoder_sparse_step": 2,
        "mlp_only_layers": [1],
    }
    model = build(base)
    assert [isinstance(ffn(model, i), MoE) for i in range(4)] == [False, False, False, True]
    assert ffn(model, 3) == MoE(num_experts=8, topk=2, ffn=64, shared_ffn=256, shared_gate=True)


def test_mtp_is_trained_only_when_asked(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps(DEEPSEEK), "utf-8")
    assert load_model(path).mtp_layers == 0
    assert load_model(path, mtp_layers=1).mtp_layers == 1
    with pytest.raises(ModelError):
        load_model(path, mtp_layers=-1)


def test_pangu_ultra_moe_keys() -> None:
    model = load_model("pangu-ultra-moe-718b")
    assert model.sandwich_norm
    assert [isinstance(ffn(model, i), MoE) for i in (2, 3)] == [False, True]
    assert mixer(model).q_lora_rank == 1536


def test_gpt2_like() -> None:
    model = build(
        {"model_type": "gpt2", "n_layer": 2, "n_embd": 256, "n_head": 4, "n_positions": 128, "vocab_size": 99}
    )
    assert ffn(model) == MLP(ffn=1024, gated=False, bias=True)
    assert mixer(model) == Attention(
        num_heads=4, num_kv_heads=4, head_dim=64, bias=True, out_bias=True, rotary=False
    )
    assert (model.norm, model.tied_embeddings, model.learned_positions) == ("layernorm", True, 128)


def test_mpt_alibi_needs_no_positions_and_no_biases() -> None:
    mpt = {
        "model_type": "mpt",
        "d_model": 256,
        "n_heads": 4,
        "n_layers": 2,
        "expansion_ratio": 4,
        "max_seq_len": 128,
        "vocab_size": 99,
        "no_bias": True,
        "attn_config": {"alibi": True},
    }
    model = build(mpt)
    assert model.learned_positions == 0
    assert ffn(model) == MLP(ffn=1024, gated=False, bias=False)
    assert not mixer(model).out_bias
    assert build(mpt, attn_config={"alibi": False}).learned_positions == 128


def test_nemotron_has_two_matrices_and_no_bias() -> None:
    model = build(model_type="nemotron")
    assert ffn(model) == MLP(ffn=1024, gated=False)
    assert model.norm == "layernorm"


def test_chatglm_groups() -> None:
    model = load_model("glm3-6b")
    assert (mixer(model).num_kv_heads, mixer(model).head_dim, mixer(model).bias) == (2, 128, True)


HYBRID: dict[str, Any] = {
    "model_type": "nemotron_h",
    "hybrid_override_pattern": "ME*-",
    "hidden_size": 512,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "intermediate_size": 1024,
    "mamba_num_heads": 16,
    "mamba_head_dim": 64,
    "ssm_state_size": 32,
    "n_groups": 8,
    "n_routed_experts": 8,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 64,
    "n_shared_experts": 1,
    "moe_shared_expert_intermediate_size": 128,
    "moe_latent_size": 256,
    "vocab_size": 1000,
}


def test_hybrid_layers_have_one_part_each() -> None:
    model = build(HYBRID)
    m, e, a, f = model.layers
    assert m.mixer == Mamba2(num_heads=16, head_dim=64, state_dim=32, num_groups=8)
    assert m.ffn is None
    assert e.mixer is None
    assert e.ffn == MoE(num_experts=8, topk=2, ffn=64, shared_ffn=128, gated=False, latent=256)
    assert isinstance(a.mixer, Attention)
    assert not a.mixer.rotary
    assert f.ffn == MLP(ffn=1024, gated=False)


def test_hybrid_blocks_as_words() -> None:
    words = {**HYBRID, "layers_block_type": ["mamba", "moe", "attention", "mlp"]}
    del words["hybrid_override_pattern"]
    assert build(words).layers == build(HYBRID).layers


def test_hybrid_layers_are_counted_by_the_pattern_and_another_number_is_remarked() -> None:
    model = build(HYBRID, num_hidden_layers=5)
    assert model.num_layers == 4
    assert any("num_hidden_layers says 5" in note for note in model.notes)


def test_hybrid_mtp_block() -> None:
    model = build(HYBRID, mtp_hybrid_override_pattern="*E")
    assert model.mtp_block == (model.layers[2], model.layers[1])


def test_gated_delta_every_fourth_layer_is_softmax() -> None:
    model = load_model("qwen3.8-27b")
    kinds = [type(layer.mixer) for layer in model.layers[:4]]
    assert kinds == [LinearAttention, LinearAttention, LinearAttention, Attention]
    assert mixer(model, 3).gated_output
    assert mixer(model, 0) == LinearAttention(
        num_key_heads=16, num_value_heads=48, key_dim=128, value_dim=128
    )


@pytest.mark.parametrize(
    ("base", "changes", "key"),
    [
        (LLAMA, {"hidden_size": None}, "hidden_size"),
        (LLAMA, {"hidden_size": -512}, "hidden_size"),
        (LLAMA, {"hidden_size": 0}, "hidden_size"),
        (LLAMA, {"hidden_size": 512.5}, "hidden_size"),
        (LLAMA, {"hidden_size": "512"}, "hidden_size"),
        (LLAMA, {"hidden_size": True}, "hidden_size"),
        (LLAMA, {"num_hidden_layers": None}, "num_hidden_layers"),
        (LLAMA, {"intermediate_size": None}, "intermediate_size"),
        (LLAMA, {"vocab_size": None}, "vocab_size"),
        (LLAMA, {"num_key_value_heads": 3}, "num_key_value_heads"),
        (LLAMA, {"num_attention_heads": 6}, "num_attention_heads"),
        (LLAMA, {"tie_word_embeddings": "yes"}, "tie_word_embeddings"),
        (LLAMA, {"hidden_act": "softsign"}, "hidden_act"),
        (LLAMA, {"layer_types": ["full_attention"]}, "layer_types"),
        (LLAMA, {"layer_types": ["mamba"] * 4}, "layer_types"),
        (LLAMA, {"model_type": "rwkv"}, "model_type"),
        (LLAMA, {"model_type": None}, "model_type"),
        (LLAMA, {"is_encoder_decoder": True}, "is_encoder_decoder"),
        (LLAMA, {"kv_lora_rank": 64}, "kv_lora_rank"),
        (LLAMA, {"num_local_experts": 1}, "num_local_experts"),
        (DEEPSEEK, {"num_experts_per_tok": 17}, "num_experts_per_tok"),
        (DEEPSEEK, {"index_topk": 2048}, "index_topk"),
        (DEEPSEEK, {"moe_layer_freq": [1]}, "moe_layer_freq"),
        (DEEPSEEK, {"kv_lora_rank": None}, "kv_lora_rank"),
        (HYBRID, {"hybrid_override_pattern": "MX"}, "hybrid_override_pattern"),
        (HYBRID, {"hybrid_override_pattern": None}, "hybrid_override_pattern"),
        (HYBRID, {"layers_block_type": ["mamba", "rwkv"]}, "layers_block_type"),
        (HYBRID, {"n_groups": 3}, "n_groups"),
        (HYBRID, {"mtp_hybrid_override_pattern": "X"}, "mtp_hybrid_override_pattern"),
    ],
)
def test_bad_values_name_file_and_key(base: dict[str, Any], changes: dict[str, Any], key: str) -> None:
    with pytest.raises(ModelError) as caught:
        build(base, **changes)
    assert "config.json" in caught.value.where
    assert repr(key) in caught.value.where


def test_unknown_layer_kind_is_named() -> None:
    with pytest.raises(ModelError, match="'mamba'"):
        build(layer_types=["full_attention", "mamba", "full_attention", "full_attention"])


def test_folder_file_and_errors_of_paths(tmp_path: Path) -> None:
    folder = tmp_path / "my-model"
    folder.mkdir()
    with pytest.raises(ModelError, match=r"no config\.json"):
        load_model(folder)
    path = folder / "config.json"
    path.write_text(json.dumps(LLAMA), "utf-8")
    assert load_model(folder) == load_model(path)
    assert load_model(str(folder)).name == "my-model"
    with pytest.raises(ModelError, match="does not exist"):
        load_model(tmp_path / "no.json")


@pytest.mark.parametrize(
    "text", ["{", "[]", '{"a": 1, "a": 2}', '{"hidden_size": NaN}', "\x00", "[" * 100000, '"x"']
)
def test_broken_json_is_one_clear_error(tmp_path: Path, text: str) -> None:
    path = tmp_path / "config.json"
    path.write_text(text, "utf-8")
    with pytest.raises(ModelError) as caught:
        load_model(path)
    assert str(path) in caught.value.where


def test_not_text_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_bytes(b"\xff\xfe\x00{")
    with pytest.raises(ModelError, match="not UTF-8"):
        load_model(path)


def test_a_folder_of_a_shipped_name_hides_it_only_with_a_configuration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "llama-3-8b").mkdir()
    assert load_model("llama-3-8b").hidden == 4096
    (tmp_path / "llama-3-8b" / "config.json").write_text(json.dumps(LLAMA), "utf-8")
    assert load_model("llama-3-8b").hidden == 512


@pytest.mark.parametrize("name", ["", " ", "x" * 5000, "\x00", "../nowhere", "~no-such-user/model", "a/b/c"])
def test_odd_names_are_one_clear_error(name: str) -> None:
    with pytest.raises(ModelError):
        load_model(name)


def test_unknown_name_hints_at_the_closest() -> None:
    with pytest.raises(ModelError) as caught:
        load_model("lama-3-8b")
    assert "llama-3-8b" in caught.value.hint


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("meta-llama/Llama-3.1-8B", "llama-3-8b"),
        ("llama3_1_8b", "llama-3-8b"),
        ("LLAMA-3-8B", "llama-3-8b"),
        ("LLaMA2-7B", "llama-2-7b"),
        ("Mixtral-8x22B", "mixtral-8x22b"),
        ("qwen2.5-7b", "qwen2-7b"),
        ("Qwen2-57B-A14B", "qwen2-57b-a14b"),
        ("GPT-3 175B", "gpt3-175b"),
        ("deepseek-ai/DeepSeek-V3", "deepseek-v3"),
    ],
)
def test_names_in_any_spelling(name: str, expected: str) -> None:
    assert load_model(name).id == expected


def test_every_shipped_model_loads_and_names_its_source() -> None:
    models = shipped.all_models()
    assert len(models) > 100
    for entry in models:
        model = load_model(entry.id)
        assert model.id == entry.id
        assert len(entry.source) > 5
        assert bool(entry.published_parameters) <= bool(entry.published_source), entry.id
        for alias in entry.aliases:
            assert load_model(alias) is model


def test_whatif_says_so() -> None:
    entry = shipped.find("whatif-moe-10t")
    assert entry is not None
    assert "what-if" in entry.source
    assert "what-if" in entry.note


sizes = st.integers(1, 8)


@st.composite
def configs(draw: st.DrawFn) -> dict[str, Any]:
    kv = draw(sizes)
    heads = kv * draw(sizes)
    layers = draw(st.integers(1, 12))
    config: dict[str, Any] = {
        "model_type": draw(st.sampled_from(["llama", "qwen2", "qwen3", "mixtral", "gemma2", "gpt_oss"])),
        "num_hidden_layers": layers,
        "hidden_size": heads * 8 * draw(sizes),
        "num_attention_heads": heads,
        "num_key_value_heads": kv,
        "intermediate_size": 16 * draw(sizes),
        "vocab_size": draw(st.integers(1, 10000)),
        "tie_word_embeddings": draw(st.booleans()),
        "sliding_window": draw(st.sampled_from([None, 1, 4096])),
    }
    if config["model_type"] in ("mixtral", "gpt_oss") or draw(st.booleans()):
        experts = draw(st.integers(2, 64))
        config |= {
            "num_experts": experts,
            "num_experts_per_tok": draw(st.integers(1, experts)),
            "moe_intermediate_size": 8 * draw(sizes),
            "first_k_dense_replace": draw(st.integers(0, layers - 1)),
            "n_shared_experts": draw(st.integers(0, 3)),
        }
    return config


@given(configs())
@settings(deadline=None, max_examples=60)
def test_random_configurations_survive_a_file(
    tmp_path_factory: pytest.TempPathFactory, config: dict[str, Any]
) -> None:
    path = tmp_path_factory.mktemp("model") / "config.json"
    path.write_text(json.dumps(config), "utf-8")
    model = load_model(path)
    assert model.layers == build(config).layers
    assert model.num_layers == config["num_hidden_layers"]
    for layer in model.layers:
        assert isinstance(layer.mixer, Attention)
        assert layer.mixer.num_heads % layer.mixer.num_kv_heads == 0


@given(
    st.dictionaries(
        st.sampled_from(sorted({*LLAMA, *DEEPSEEK, *HYBRID})),
        st.none()
        | st.integers()
        | st.text()
        | st.booleans()
        | st.lists(st.integers())
        | st.floats(allow_nan=False),
    )
)
@settings(deadline=None, max_examples=200)
def test_any_values_give_a_model_or_a_named_error(changes: dict[str, Any]) -> None:
    for base in (LLAMA, DEEPSEEK, HYBRID):
        small = {k: v for k, v in changes.items() if not (isinstance(v, int | float) and abs(v) > 10**4)}
        with contextlib.suppress(ModelError):
            build(base, **small)


# what the field met: nested parts, contradictions, values that are no sizes


def test_infinity_matters_only_where_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**HYBRID, "time_step_limit": [0.0, float("inf")]}), "utf-8")
    assert load_model(path).layers == build(HYBRID).layers
    path.write_text(json.dumps({**LLAMA, "hidden_size": float("inf")}), "utf-8")
    with pytest.raises(ModelError, match="inf is not a whole number"):
        load_model(path)


def test_a_list_of_dense_and_sparse_layers() -> None:
    lite = {k: v for k, v in DEEPSEEK.items() if k != "first_k_dense_replace"} | {
        "model_type": "glm4_moe_lite"
    }
    model = build(lite, mlp_layer_types=["dense", "sparse", "sparse", "dense"])
    assert [isinstance(ffn(model, i), MoE) for i in range(4)] == [False, True, True, False]
    with pytest.raises(ModelError, match="entries"):
        build(lite, mlp_layer_types=["dense"])
    with pytest.raises(ModelError, match="other layers have experts"):
        build(DEEPSEEK, mlp_layer_types=["sparse"] * 4)


def test_lists_may_go_on_for_prediction_modules() -> None:
    types = ["dense", "sparse", "sparse", "sparse", "sparse"]
    assert build(DEEPSEEK, mlp_layer_types=types).num_layers == 4


@pytest.mark.parametrize("part", ["x", 7, [LLAMA], True])
def test_a_text_part_of_a_wrong_type_is_an_error(part: Any) -> None:
    with pytest.raises(ModelError, match="no object"):
        build({"model_type": "gemma3", "text_config": part})


def test_the_outer_value_decides_over_tying_and_nothing_else() -> None:
    inner = {**LLAMA, "tie_word_embeddings": False}
    assert build({"model_type": "llava", "tie_word_embeddings": True, "text_config": inner}).tied_embeddings
    assert not build({"model_type": "llava", "text_config": inner}).tied_embeddings
    outer = {"model_type": "llava", "hidden_act": "x", "image_size": 336, "text_config": inner}
    assert build(outer).layers == build().layers
    with pytest.raises(ModelError, match="512 here and 1024"):
        build({"model_type": "llava", "hidden_size": 1024, "text_config": inner})
    with pytest.raises(ModelError, match="already"):
        build({"model_type": "llava", "text_config": inner, "llm_config": inner})


def test_towers_that_are_left_out_are_named() -> None:
    model = build(
        {"model_type": "x", "text_config": LLAMA, "vision_config": {"depth": 2}, "audio_config": {}}
    )
    assert model.notes[0].startswith("left out: audio_config, vision_config")


def test_mpt_as_its_library_saves_it() -> None:
    """The nested part carries an empty model_type and names of its own."""
    mpt = {
        "model_type": "mpt",
        "d_model": 256,
        "n_heads": 4,
        "n_layers": 2,
        "expansion_ratio": 4,
        "max_seq_len": 128,
        "vocab_size": 99,
        "no_bias": True,
        "learned_pos_emb": True,
        "attn_config": {
            "model_type": "", "alibi": True, "alibi_bias_max": 8, "attn_type": "multihead_attention", "qk_ln": False,
            "clip_qkv": None, "softmax_scale": None, "id2label": {"0": "LABEL_0"}, "prefix_lm": False,
        },
    }  # fmt: skip
    model = build(mpt)
    assert (model.learned_positions, model.norm, mixer(model).bias) == (0, "rmsnorm", False)
    with pytest.raises(ModelError, match="no object"):
        build({**mpt, "attn_config": "alibi"})


@pytest.mark.parametrize(
    ("base", "changes", "key"),
    [
        (DEEPSEEK, {"num_local_experts": 0}, "n_routed_experts"),
        (DEEPSEEK, {"num_experts": 8}, "num_experts"),
        (DEEPSEEK, {"n_routed_experts": None}, "num_experts"),
        (DEEPSEEK, {"n_routed_experts": 0}, "n_routed_experts"),
        (DEEPSEEK, {"first_k_dense_replace": 4}, "first_k_dense_replace"),
        (DEEPSEEK, {"first_k_dense_replace": 5}, "first_k_dense_replace"),
        (DEEPSEEK, {"moe_layers": [-1]}, "moe_layers"),
        (DEEPSEEK, {"moe_layers": [4]}, "moe_layers"),
        (DEEPSEEK, {"moe_layers": [0]}, "first_k_dense_replace"),
        (DEEPSEEK, {"mlp_only_layers": [9]}, "mlp_only_layers"),
        (DEEPSEEK, {"moe_intermediate_size": None}, "moe_intermediate_size"),
        (DEEPSEEK, {"qk_head_dim": 47}, "qk_head_dim"),
        (LLAMA, {"n_layer": 5}, "n_layer"),
        (LLAMA, {"moe_intermediate_size": 64}, "moe_intermediate_size"),
        (LLAMA, {"num_experts_per_tok": 2}, "num_experts_per_tok"),
        (LLAMA, {"rope_scaling": {"factor": -1.0}}, "rope_scaling"),
        (LLAMA, {"rope_scaling": {"factor": float("nan")}}, "rope_scaling"),
        (LLAMA, {"rope_scaling": [8.0]}, "rope_scaling"),
        (LLAMA, {"rope_parameters": {"full_attention": {"factor": 0}}}, "rope_parameters"),
        (LLAMA, {"some_layer_types": ["x"]}, "some_layer_types"),
        (LLAMA, {"per_layer_config": {"9": {"head_dim": 64}}}, "per_layer_config"),
        (LLAMA, {"per_layer_config": {"1": {"window": 64}}}, "per_layer_config"),
        (HYBRID, {"layers_block_type": ["mamba", "moe", "attention", "attention"]}, "layers_block_type"),
        (HYBRID, {"n_routed_experts": 1}, "n_routed_experts"),
    ],
)
def test_contradictions_and_what_is_left_of_them(
    base: dict[str, Any], changes: dict[str, Any], key: str
) -> None:
    with pytest.raises(ModelError) as caught:
        build(base, **changes)
    assert f"key {key!r}" in caught.value.where
    assert len(str(caught.value)) < 800


def test_sizes_of_single_layers() -> None:
    model = build(per_layer_config={"1": {"head_dim": 128, "num_key_value_heads": 4}})
    assert [mixer(model, i).head_dim for i in range(4)] == [64, 128, 64, 64]
    assert mixer(model, 1).num_kv_heads == 4


def test_what_was_assumed_is_said() -> None:
    model = build(model_type="qwen3", num_key_value_heads=None)
    assert any("num_key_value_heads = 8" in note and "head_dim = 128" in note for note in model.notes)


@pytest.mark.parametrize("number", [3_000_000, 10**30, -1, True, 1.5, "2"])
def test_modules_of_prediction_have_a_limit(number: Any) -> None:
    with pytest.raises(ModelError, match="multi-token-prediction") as caught:
        load_model("deepseek-v3", mtp_layers=number)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"model_type": "llama", "n": 1' + "0" * 5000 + "}", "too many digits"),
        ("[" * 100_000, "nested more than 64 levels"),
        ('{"model_type": "llama", "hidden_size": 1' + "0" * 4000 + "}", "does not fit 64 bits"),
        ('{"model_type": "llama", "hidden_size": "' + "x" * 5000 + '"}', "not a whole number"),
        ('{"model_type": "' + "x" * 5000 + '"}', "not supported"),
        ('{"model_type": "llama", "' + "x" * 5000 + '_size": 3, "hidden_size": 8}', "missing"),
    ],
)  # fmt: skip
def test_hostile_files_are_one_short_message(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "config.json"
    path.write_text(text, "utf-8")
    with pytest.raises(ModelError, match=message) as caught:
        load_model(path)
    assert len(str(caught.value)) < 2500
    assert caught.value.hint or caught.value.default_hint


def test_a_file_that_is_no_configuration_by_its_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps(LLAMA), "utf-8")
    monkeypatch.setattr("fullmesh.reading.LARGEST_JSON_BYTES", 10)
    with pytest.raises(ModelError, match="the configuration is larger than"):
        load_model(path)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("Llama-3.1-70B-Instruct", "llama-3-70b"),
        ("meta-llama/Meta-Llama-3-8B-Instruct-hf", "llama-3-8b"),
        ("Qwen3-235B-A22B-Instruct-2507", "qwen3-235b-a22b"),
        ("DeepSeek-V3-0324", "deepseek-v3"),
        ("Kimi-K2-Instruct-0905", "kimi-k2"),
        ("google/gemma-2-27b-it", "gemma-2-27b"),
        ("Qwen3-30B-A3B-FP8", "qwen3-30b-a3b"),
    ],
)
def test_words_behind_a_name_do_not_matter(name: str, expected: str) -> None:
    assert load_model(name).id == expected


@pytest.mark.parametrize(
    ("values", "file", "expected"),
    [
        ({}, "config.json", "folder"),
        ({}, "my-model.json", "my-model"),
        ({"_name_or_path": ""}, "config.json", "folder"),
        ({"_name_or_path": "/data/somebody/ckpt"}, "config.json", "folder"),
        ({"_name_or_path": "meta-llama/Llama-3-8B"}, "config.json", "Llama-3-8B"),
        ({"_name": "Mine", "_name_or_path": "a/b"}, "config.json", "Mine"),
    ],
)
def test_a_configuration_is_called_by_its_own_name(
    tmp_path: Path, values: dict[str, Any], file: str, expected: str
) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / file).write_text(json.dumps({**LLAMA, **values}), "utf-8")
    assert load_model(folder / file).name == expected


@pytest.mark.parametrize(
    ("model_type", "why"),
    [
        ("bert", "encoder"),
        ("t5", "encoder with a decoder"),
        ("rwkv", "recurrence"),
        ("zamba2", "shared by several"),
    ],
)
def test_a_type_that_is_not_supported_says_what_is_missing(model_type: str, why: str) -> None:
    with pytest.raises(ModelError, match=why):
        build(model_type=model_type)


@pytest.mark.parametrize("keys", [("hidden_size", "n_embd"), ("num_attention_heads", "n_head")])
def test_two_names_of_one_value_may_stand_together_when_they_agree(keys: tuple[str, str]) -> None:
    assert build(**{keys[1]: LLAMA[keys[0]]}).layers == build().layers


@pytest.mark.parametrize(
    ("model_type", "key", "dense"),
    [
        ("deepseek_v3", "first_k_dense_replace", 3),
        ("kimi_k2", "first_k_dense_replace", 3),
        ("deepseek_v2", "first_k_dense_replace", 0),
        ("glm4_moe_lite", "first_k_dense_replace", 1),
    ],
)
def test_dense_layers_that_no_key_names_are_those_of_the_class(model_type: str, key: str, dense: int) -> None:
    config = {k: v for k, v in DEEPSEEK.items() if k != "first_k_dense_replace"} | {"model_type": model_type}
    model = build(config)
    assert [isinstance(ffn(model, i), MoE) for i in range(4)] == [i >= dense for i in range(4)]
    assert any(f"{key} = {dense}" in note and "assumed" in note for note in model.notes)
    # what is said elsewhere wins, and a model that would be left without experts is refused
    said = build(config, mlp_layer_types=["dense", "sparse", "sparse", "sparse"])
    assert [isinstance(ffn(said, i), MoE) for i in range(4)] == [False, True, True, True]
    if dense == 3:
        with pytest.raises(ModelError, match="no layer of 3 is left with experts"):
            build(config, num_hidden_layers=3)

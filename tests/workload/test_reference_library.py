"""Parameter counts are those of the reference library's own classes, or the configuration is refused by name."""

from __future__ import annotations

from typing import Any

import pytest

from fullmesh.errors import ModelError
from fullmesh.workload.parameters import parameter_counts
from fullmesh.workload.readers.config import Config
from fullmesh.workload.readers.huggingface import model_from_config
from oracles import reference_library

VERSION, *TABLE = reference_library.table()
INSTALLED = reference_library.available()
needs_library = pytest.mark.skipif(
    not INSTALLED, reason="the library transformers (with torch) is not installed"
)

# Types whose classes have configurations that no layer of this program describes; each is refused, and says why.
REFUSED_DEFAULTS = {
    "deepseek_v2 by default": "num_experts_per_tok",
    "deepseek_v4 by default": "compressors",
    "gemma4 by default": "embeddings of each layer",
    "gemma4_text by default": "embeddings of each layer",
    "gemma4_unified_assistant by default": "share keys and values",
    "glm4_moe by default": "do not divide",
}


def counted(config: dict[str, Any], where: str) -> int | str:
    """Our count, or why there is none."""
    try:
        return parameter_counts(model_from_config(Config(config, where))).total
    except ModelError as error:
        return str(error) if where in error.where else f"a refusal without its place: {error}"


@pytest.mark.parametrize("line", TABLE, ids=lambda line: line["name"])
def test_the_table_of_counts(line: dict[str, Any]) -> None:
    ours = counted(line["config"], line["name"])
    if isinstance(ours, int):
        assert ours == line["parameters"]
    else:
        assert REFUSED_DEFAULTS.get(line["name"], "' is not supported: ") in ours


def test_most_classes_are_described() -> None:
    equal = [line for line in TABLE if isinstance(counted(line["config"], "x"), int)]
    assert len(equal) >= 260
    assert len({line["config"]["model_type"] for line in equal}) >= 124


def test_sizes_that_users_asked_for() -> None:
    by_name = {line["name"]: line["parameters"] for line in TABLE}
    assert by_name["deepseek_v32 by default"] == 671_877_929_216
    assert by_name["gemma-4-26b-a4b"] == 25_233_141_760
    assert by_name["glm4_moe_lite by default"] == 29_943_390_976
    assert by_name["mamba2 by default"] == 7_285_403_648


def test_step_3_language_model() -> None:
    """Its class stands inside a multimodal one; 195.84 billion with the head."""
    config = {
        "model_type": "step3p7",
        "text_config": {
            "model_type": "step3p5", "hidden_size": 4096, "intermediate_size": 11264, "num_hidden_layers": 45,
            "num_attention_heads": 64, "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 128815,
            "num_experts_per_tok": 8, "n_routed_experts": 288, "moe_intermediate_size": 1280, "share_expert_dim": 1280,
            "mlp_layer_types": ["dense"] * 3 + ["sparse"] * 42, "tie_word_embeddings": False, "attention_bias": False,
        },
        "vision_config": {"hidden_size": 1536},
    }  # fmt: skip
    assert counted(config, "x") == 195_316_206_848 + 128_815 * 4096


@needs_library
def test_the_library_still_counts_the_same() -> None:
    assert VERSION["version"] == INSTALLED, "write the table again: python tests/oracles/reference_library.py"


@needs_library
@pytest.mark.slow
def test_every_class_by_default_is_equal_or_refused_by_name() -> None:
    """The configuration as the library saves it, with every key; a class that cannot be built is left out."""
    wrong, equal = [], 0
    for model_type in reference_library.model_types():
        try:
            config, parameters = reference_library.build(model_type, {})
        except Exception:  # whatever a class makes of its own defaults
            continue
        ours = counted(config, model_type)
        if isinstance(ours, int):
            equal += ours == parameters
            wrong += [(model_type, ours, parameters)] * (ours != parameters)
        elif REFUSED_DEFAULTS.get(f"{model_type} by default", "' is not supported: ") not in ours:
            wrong.append((model_type, ours, parameters))
    assert not wrong
    assert equal >= 115


@needs_library
@pytest.mark.slow
def test_published_and_shipped_models_are_equal() -> None:
    types = reference_library.model_types()
    cases = {**reference_library.PUBLISHED, **reference_library.shipped_cases(types)}
    for name, (model_type, overrides) in cases.items():
        config, parameters = reference_library.build(model_type, overrides)
        assert counted(config, name) == parameters, name


@pytest.mark.slow
def test_no_key_of_any_class_gets_lost_in_silence() -> None:
    """What the mutations of shipped models show, for one configuration of each type."""
    lost = []
    for line in {line["config"]["model_type"]: line for line in TABLE}.values():
        config = line["config"]
        if not isinstance(before := counted(config, "x"), int):
            continue
        notes = model_from_config(Config(config, "x")).notes
        for key in config:
            without = {k: v for k, v in config.items() if k != key}
            try:
                model = model_from_config(Config(without, "x"))
            except ModelError:
                continue
            # where an outer value is missing the inner one holds, as it stands in the file
            inner = key in config.get("text_config", {})
            if parameter_counts(model).total != before and model.notes == notes and not inner:
                lost.append((line["name"], key))
    assert not lost

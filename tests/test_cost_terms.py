"""Terms: priors from data, effects by attribute, shares that stay shares."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fullmesh.cost.terms import (
    EFFECT_LIMIT,
    EffectProfile,
    Setting,
    effect_keys,
    load_effects,
    load_terms,
    settings_of,
    term_index,
    transform,
)
from fullmesh.machine import load_machine
from fullmesh.plan import Plan, Plans
from fullmesh.workload.hf import load_model

H200 = load_machine("h200", num_devices=8)
GPT = load_model("gpt3-175b")


@pytest.mark.parametrize("model", ["step", "memory"])
def test_priors_are_sound(model: str) -> None:
    terms = load_terms(model)  # type: ignore[arg-type]
    assert len({t.name for t in terms}) == len(terms)
    for term in terms:
        assert term.form in ("factor", "share")
        assert term.base > 0
        assert term.form == "factor" or term.base < 1
        assert term.note
        for attributes, sd in term.levels:
            assert 0 < sd <= 1, "a prior that holds nothing back"
            assert set(attributes) <= set(Setting.__slots__)
            # nothing may be fitted to a row, a model or a size
            assert not {"model", "id", "num_devices"} & set(attributes)


@pytest.mark.parametrize("model", ["step", "memory"])
def test_without_effects_a_term_has_its_base(model: str) -> None:
    terms = load_terms(model)  # type: ignore[arg-type]
    values = transform(model, np.zeros((1, len(terms))))  # type: ignore[arg-type]
    np.testing.assert_allclose(values[0], [t.base for t in terms])


@given(st.floats(-50, 50), st.floats(-50, 50))
def test_effects_act_in_one_direction_and_never_leave_the_plausible(a: float, b: float) -> None:
    terms = load_terms("step")
    low, high = transform("step", np.array([[min(a, b)] * len(terms), [max(a, b)] * len(terms)]))
    assert (low <= high).all()
    for i, term in enumerate(terms):
        if term.form == "share":
            assert 0 < low[i] <= high[i] < 1
        else:
            assert term.base * np.exp(-EFFECT_LIMIT) <= low[i] * (1 + 1e-12)
            assert high[i] <= term.base * np.exp(EFFECT_LIMIT) * (1 + 1e-12)


def test_a_named_effect_reaches_the_plans_with_its_attribute_and_no_others() -> None:
    plans = Plans.of(
        [Plan(precision="bf16"), Plan(precision="fp8"), Plan(precision="bf16", stack="nemo-26.04")]
    )
    found, index = settings_of(GPT, H200, plans)
    profile = EffectProfile(
        effects={"linear|H100|fp8": 0.1, "all|nemo": np.log(2.0), "all|nemo-26.04": np.log(1.5)},
        provenance={},
    )
    table = profile.table("step", found, index)
    base = load_terms("step")[term_index("step")["linear"]].base
    assert table.column("linear") == pytest.approx([base, base * np.exp(0.1), base])
    assert table.column("all") == pytest.approx([1.0, 1.0, 3.0])


def test_settings_are_distinct_and_point_back() -> None:
    plans = Plans.of(
        [Plan(stack="a-1"), Plan(stack="b"), Plan(stack="a-1", tp=2), Plan(stack="a-1", cuda_graph="full")]
    )
    found, index = settings_of(GPT, H200, plans)
    assert len(found) == 3
    assert index[0] == index[2] != index[1]
    setting = found[index[3]]
    assert (setting.framework, setting.stack, setting.graph) == ("a", "a-1", "full")
    assert (setting.family, setting.chip, setting.compiled) == ("H100", "h200", "compiled")


def test_shipped_effects_name_terms_that_exist() -> None:
    known = {t.name for model in ("step", "memory") for t in load_terms(model)}  # type: ignore[arg-type]
    profile = load_effects()
    assert profile.effects
    assert {key.split("|")[0] for key in profile.effects} <= known
    assert all(abs(v) < EFFECT_LIMIT for v in profile.effects.values())
    assert {"date", "fitted_on", "command"} <= set(profile.provenance)


def test_keys_join_attributes_in_the_order_of_the_prior() -> None:
    found, _ = settings_of(GPT, H200, Plans.of([Plan()]))
    linear = load_terms("step")[term_index("step")["linear"]]
    keys = [k for k, _ in effect_keys(linear, found[0])]
    assert keys[0] == "linear"
    assert "linear|H100|bf16" in keys


@pytest.mark.parametrize(
    ("name", "architecture"),
    [("llama-3-8b", "gqa"), ("deepseek-v3", "mla"), ("gpt-oss-20b", "sinks"), ("nemotron-h-8b", "hybrid")],
)
def test_layers_of_a_kind_share_effects(name: str, architecture: str) -> None:
    found, _ = settings_of(load_model(name), H200, Plans.of([Plan()]))
    assert found[0].architecture == architecture


@pytest.mark.xfail(
    strict=True, reason="a stack without a release has its framework's name, and the effect counts twice"
)
@pytest.mark.parametrize("stack", ["torchtitan", "maxtext", "mindspeed"])
def test_an_effect_counts_once_for_a_term(stack: str) -> None:
    found, index = settings_of(GPT, H200, Plans.of([Plan(stack=stack)]))
    profile = EffectProfile(effects={f"all|{stack}": np.log(2.0)}, provenance={})
    assert profile.table("step", found, index).column("all")[0] == pytest.approx(2.0)

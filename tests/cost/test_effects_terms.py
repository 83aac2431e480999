"""Terms: priors from data, effects by attribute, shares that stay shares."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fullmesh.cost.effects import (
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
from fullmesh.cost.stages import stage_table
from fullmesh.cost.uncertainty import load_uncertainty, log_step_variance
from fullmesh.machine import load_machine
from fullmesh.plan import Plan, Plans
from fullmesh.workload.readers.huggingface import load_model

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
    for term, value in zip(terms, values[0], strict=True):
        # a term with a least value nears it smoothly, from a little above
        assert term.base * (1 - 1e-12) <= value <= term.base * (1.005 if term.least else 1 + 1e-12), term.name


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


def keys_of(name: str, setting: Setting) -> set[str]:
    term = load_terms("step")[term_index("step")[name]]
    return {key for key, _ in effect_keys(term, setting)}


def test_a_named_effect_reaches_the_plans_with_its_attribute_and_no_others() -> None:
    plans = Plans.of(
        [Plan(precision="bf16"), Plan(precision="fp8"), Plan(precision="bf16", stack="nemo-26.04")]
    )
    found, index = settings_of(GPT, H200, plans)
    plain, fp8, nemo = (found[i] for i in index)
    (of_fp8,) = keys_of("linear", fp8) - keys_of("linear", plain)
    of_nemo = sorted(keys_of("all", nemo) - keys_of("all", plain))
    assert "fp8" in of_fp8
    assert len(of_nemo) == 2
    effects = {of_fp8: 0.1, of_nemo[0]: np.log(2.0), of_nemo[1]: np.log(1.5)}
    table = EffectProfile(effects=effects, provenance={}).table("step", found, index)
    base = load_terms("step")[term_index("step")["linear"]].base
    assert table.column("linear") == pytest.approx([base, base * np.exp(0.1), base], rel=2e-3)
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
    assert (setting.family, setting.die, setting.compiled) == ("H100", "gh100-700w", "compiled")


def test_shipped_effects_name_terms_that_exist() -> None:
    known = {t.name for model in ("step", "memory") for t in load_terms(model)}  # type: ignore[arg-type]
    profile = load_effects()
    assert profile.effects
    assert {key.split("|")[0] for key in profile.effects} <= known
    assert all(abs(v) < EFFECT_LIMIT for v in profile.effects.values())
    assert {"date", "fitted_on", "command"} <= set(profile.provenance)


def test_the_effect_of_all_rows_has_the_name_of_the_term() -> None:
    found, _ = settings_of(GPT, H200, Plans.of([Plan()]))
    for term in load_terms("step"):
        assert (term.name in keys_of(term.name, found[0])) == (() in [a for a, _ in term.levels])


@pytest.mark.parametrize(
    ("name", "architecture"),
    [("llama-3-8b", "gqa"), ("deepseek-v3", "mla"), ("gpt-oss-20b", "sinks"), ("nemotron-h-8b", "hybrid")],
)
def test_layers_of_a_kind_share_effects(name: str, architecture: str) -> None:
    found, _ = settings_of(load_model(name), H200, Plans.of([Plan()]))
    assert found[0].architecture == architecture


@pytest.mark.parametrize("model", ["step", "memory"])
@pytest.mark.parametrize("stack", ["torchtitan", "maxtext", "mindspeed-2026", ""])
def test_no_two_effects_of_a_term_share_a_name(model: str, stack: str) -> None:
    """A stack without a release has the name of its framework: one effect must not count for both."""
    found, _ = settings_of(GPT, H200, Plans.of([Plan(stack=stack)]))
    for term in load_terms(model):  # type: ignore[arg-type]
        names = [key for key, _ in effect_keys(term, found[0])]
        assert len(names) == len(set(names)) == len(term.levels)


def test_half_precisions_run_on_the_same_units() -> None:
    """Without a result in FP16 on its cores a chip is no faster in it than in BF16, nor less sure."""
    model, machine = load_model("llama-3-8b"), load_machine("h100", num_devices=8)
    assert not any("cores=H100|precision=fp16" in name for name in load_effects().effects)
    bf16, fp16 = (Plan(dp=8, gbs=64, precision=p, stack="nemo-26.06") for p in ("bf16", "fp16"))
    plans = Plans.of([bf16, fp16])
    settings, index = settings_of(model, machine, plans)
    values = load_effects().table("step", settings, index).values
    assert values[0] == pytest.approx(values[1])
    u = load_uncertainty()
    assert u is not None
    stages = stage_table(model, machine, plans)
    variance = log_step_variance(stages, plans, settings, index, load_effects(), u)
    assert variance[0] == pytest.approx(variance[1], rel=0.05)


def _all_term_and_variance(machine_name: str, kernels: str) -> tuple[float, float]:
    """What the stack and its kernels do to all terms, and the variance of the step, of one plan."""
    model, machine = load_model("llama-3-8b"), load_machine(machine_name, num_devices=8)
    plans = Plans.of([Plan(dp=8, gbs=64, kernels=kernels, stack="nemo-26.06")])
    settings, index = settings_of(model, machine, plans)
    u = load_uncertainty()
    assert u is not None
    stages = stage_table(model, machine, plans)
    table = load_effects().table("step", settings, index)
    variance = log_step_variance(stages, plans, settings, index, load_effects(), u)
    return float(table.column("all")[0]), float(variance[0])


def test_what_kernels_gain_is_taken_over_by_cores_that_have_shown_it_or_nothing_else() -> None:
    known = load_effects().kernels
    assert "transformer-engine" in known["H100"]
    assert "transformer-engine" not in known["A100"]
    assert "Rubin" not in known
    for machine in ("h100", "vera-rubin-nvl72"):
        assert (
            _all_term_and_variance(machine, "transformer-engine")[0]
            < _all_term_and_variance(machine, "unknown")[0]
        )
    # A100 has results with other kernels alone: nothing is gained, and the step is as unsure as with unknown ones
    assert _all_term_and_variance("a100", "transformer-engine") == _all_term_and_variance("a100", "unknown")
    assert (
        _all_term_and_variance("a100", "transformer-engine")[1] > _all_term_and_variance("a100", "torch")[1]
    )

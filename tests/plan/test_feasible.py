"""Rules of feasibility: each has a plan that breaks it alone, and one beside it that passes."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fullmesh.machine import Machine, load_machine
from fullmesh.plan import Plan, Plans
from fullmesh.plan.feasible import Limit, rules, violations
from fullmesh.workload import MLP, Attention, Layer, Mamba2, ModelSpec, MoE

MIXER = Attention(num_heads=24, num_kv_heads=8, head_dim=64)
DENSE = ModelSpec(
    id="d", name="D", hidden=1536, vocab=32000, layers=(Layer(mixer=MIXER, ffn=MLP(ffn=4096)),) * 12
)
SPARSE = dataclasses.replace(
    DENSE,
    id="s",
    layers=(Layer(mixer=MIXER, ffn=MoE(num_experts=12, topk=2, ffn=512, shared_ffn=2048)),) * 12,
)
MACHINE = load_machine("h200", num_devices=64)

# rule, model, a plan that breaks it and no other, and the change that mends it
CASES: list[tuple[str, ModelSpec, Plan, dict[str, object]]] = [
    ("devices", DENSE, Plan(dp=128, gbs=128), {"dp": 64}),
    ("batch", DENSE, Plan(dp=8, mbs=2, gbs=24), {"gbs": 32}),
    ("sequence", DENSE, Plan(cp=2, dp=8, gbs=8, seq=4098), {"seq": 4100}),
    ("sequence", DENSE, Plan(tp=8, dp=8, gbs=8, seq=4100), {"sequence_parallel": False}),
    ("layers", DENSE, Plan(pp=5, vpp=3, gbs=15), {"vpp": 2}),
    ("interleaving", DENSE, Plan(pp=4, vpp=3, gbs=6), {"gbs": 8}),
    ("interleaving", DENSE, Plan(pp=1, vpp=2, gbs=8), {"vpp": 1}),
    ("sharding", DENSE, Plan(pp=4, zero=2, dp=2, gbs=8), {"zero": 1}),
    ("sharding", DENSE, Plan(pp=4, zero=3, dp=2, gbs=8), {"pp": 1}),
    ("heads", DENSE, Plan(tp=16, gbs=8), {"tp": 8}),
    ("heads", DENSE, Plan(tp=64, gbs=8), {"tp": 4}),
    ("heads", DENSE, Plan(tp=2, cp=8, cp_kind="ulysses", gbs=8), {"cp": 4}),
    ("heads", DENSE, Plan(tp=2, cp=8, cp_kind="ulysses", gbs=8), {"cp_kind": "ring"}),
    ("width", DENSE, Plan(tp=3, gbs=8, seq=4098), {"tp": 2}),
    ("experts", SPARSE, Plan(dp=8, ep=8, gbs=8), {"ep": 4}),
    ("experts", SPARSE, Plan(dp=48, ep=24, gbs=48), {"ep": 12}),
    ("experts", DENSE, Plan(dp=8, ep=2, gbs=8), {"ep": 1}),
    ("expert ranks", SPARSE, Plan(dp=8, ep=12, gbs=8), {"dp": 12, "gbs": 12}),
    ("expert ranks", SPARSE, Plan(tp=4, dp=2, ep=4, etp=4, gbs=8), {"etp": 2}),
]


def broken(model: ModelSpec, plan: Plan, machine: Machine = MACHINE) -> list[str]:
    return [name for name, bad, *_ in rules(model, machine, Plans.of([plan])) if bad[0]]


@pytest.mark.parametrize(
    ("name", "model", "plan", "mended"), CASES, ids=[f"{c[0]}-{i}" for i, c in enumerate(CASES)]
)
def test_a_rule_is_broken_alone_and_mended_by_one_change(
    name: str, model: ModelSpec, plan: Plan, mended: dict[str, object]
) -> None:
    assert broken(model, plan) == [name]
    limit = violations(model, MACHINE, Plans.of([plan])).limits[0]
    assert limit is not None
    assert limit.name == name
    assert limit.levers
    assert all(limit.levers)
    assert limit.where
    assert math.isfinite(limit.needed)
    assert math.isfinite(limit.available)
    good = dataclasses.replace(plan, **mended)  # type: ignore[arg-type]
    assert broken(model, good) == []
    assert violations(model, MACHINE, Plans.of([good])).limits == (None,)


def test_every_rule_has_a_case() -> None:
    named = {r[0] for m in (DENSE, SPARSE) for r in rules(m, MACHINE, Plans.of([Plan()]))}
    assert named == {c[0] for c in CASES}


def test_the_limit_of_devices_says_how_many_are_missing() -> None:
    limit = violations(DENSE, MACHINE, Plans.of([Plan(dp=100, gbs=100)])).limits[0]
    assert limit is not None
    assert (limit.needed, limit.available, limit.gap) == (100.0, 64.0, 36.0)
    assert limit.where == MACHINE.name


def test_the_limit_of_a_batch_is_the_largest_that_divides() -> None:
    limit = violations(DENSE, MACHINE, Plans.of([Plan(dp=8, mbs=2, gbs=24)])).limits[0]
    assert limit is not None
    assert (limit.needed, limit.available) == (24.0, 16.0)


def test_gap_is_what_is_needed_beyond_what_there_is() -> None:
    limit = Limit(name="n", needed=7.5, available=5.0, unit="B", where="w", levers=("l",))
    assert limit.gap == 2.5


def test_a_model_of_mixed_layers_is_bound_by_the_fewest_heads_and_every_width() -> None:
    mamba = Mamba2(num_heads=16, head_dim=64, state_dim=64, num_groups=8)
    mixed = dataclasses.replace(
        DENSE,
        layers=(
            Layer(mixer=mamba, ffn=None),
            Layer(mixer=None, ffn=MLP(ffn=4100)),
            Layer(mixer=MIXER, ffn=MLP(ffn=4096)),
        ),
    )
    assert broken(mixed, Plan(tp=8)) == ["width"]
    assert broken(mixed, Plan(tp=4)) == []


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.builds(
            Plan,
            tp=st.sampled_from([1, 2, 3, 4, 8, 16]),
            cp=st.sampled_from([1, 2]),
            pp=st.sampled_from([1, 2, 4]),
            vpp=st.sampled_from([1, 2, 3]),
            dp=st.sampled_from([1, 2, 8]),
            ep=st.sampled_from([1, 2, 5]),
            gbs=st.sampled_from([8, 16, 24]),
            zero=st.integers(0, 3),
        ),
        min_size=1,
        max_size=12,
    ),
    st.sampled_from([DENSE, SPARSE]),
)
def test_many_plans_are_judged_as_each_alone(plans: list[Plan], model: ModelSpec) -> None:
    columns = Plans.of(plans)
    found = violations(model, MACHINE, columns)
    ok = np.ones(len(plans), dtype=bool)
    for _, beyond, *_rest in rules(model, MACHINE, columns):
        ok &= ~beyond
    np.testing.assert_array_equal(ok, found.ok)
    for i, plan in enumerate(plans):
        names = broken(model, plan)
        limit = found.limits[i]
        assert (limit is None) == (not names)
        if limit is not None:
            assert limit.name == names[0]
            assert limit == violations(model, MACHINE, Plans.of([plan])).limits[0]

"""Plans: what is refused and how it is said, and the way from an object to columns and back."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fullmesh.errors import PlanError
from fullmesh.plan import RECIPES, RECOMPUTES, Plan, Plans
from fullmesh.plan.plan import CHOICES, MODULES, check_plan

DEGREES = ("tp", "cp", "pp", "vpp", "dp", "ep", "etp", "mbs", "gbs", "seq")
SHARES = ("recompute_fraction", "offload_optimizer", "offload_activations")


def refused(plan: Plan) -> PlanError:
    with pytest.raises(PlanError) as caught:
        check_plan(plan, where="here")
    assert caught.value.where == "here"
    return caught.value


def test_the_default_plan_is_accepted() -> None:
    check_plan(Plan())


@pytest.mark.parametrize("name", DEGREES)
@pytest.mark.parametrize("value", [0, -4])
def test_a_degree_below_one_is_refused_by_name(name: str, value: int) -> None:
    error = refused(dataclasses.replace(Plan(), **{name: value}))
    assert error.what == f"{name} = {value}"
    assert "from 1" in error.expected


@pytest.mark.parametrize(
    ("name", "typed", "meant"),
    [
        ("schedule", "1f1", "1f1b"),
        ("schedule", "zerobubble", "zero-bubble"),
        ("recompute", "selektive", "selective"),
        ("cuda_graph", "partal", "partial"),
        ("dispatcher", "deep-ep", "deepep"),
        ("cp_kind", "ulises", "ulysses"),
        ("precision", "fp8-blocks", "fp8-block"),
        ("trainable", "Lora", "lora"),
    ],
)
def test_an_unknown_choice_names_the_nearest_one(name: str, typed: str, meant: str) -> None:
    error = refused(dataclasses.replace(Plan(), **{name: typed}))
    assert typed in error.what
    assert name in error.what
    assert meant in error.hint


def test_an_unrecognisable_choice_lists_what_there_is() -> None:
    error = refused(Plan(schedule="qqqqqq"))
    assert all(name in error.hint for name in CHOICES["schedule"])


def test_an_unknown_module_is_refused_with_a_hint() -> None:
    error = refused(Plan(recompute="selective", recompute_modules=("core_attn", "moe_akt")))
    assert "moe_akt" in error.what
    assert "moe_act" in error.hint


@pytest.mark.parametrize("zero", [-1, 4])
def test_zero_has_four_stages(zero: int) -> None:
    assert "0, 1, 2 or 3" in refused(Plan(zero=zero)).expected


@pytest.mark.parametrize(
    ("gbs", "mbs", "dp", "nearest"), [(100, 2, 8, 96), (110, 2, 8, 112), (3, 2, 8, 16), (33, 1, 16, 32)]
)
def test_a_batch_that_does_not_divide_names_the_nearest_that_does(
    gbs: int, mbs: int, dp: int, nearest: int
) -> None:
    error = refused(Plan(gbs=gbs, mbs=mbs, dp=dp))
    assert str(gbs) in error.what
    assert f"= {mbs * dp}" in error.expected
    assert error.hint.split()[-1] == str(nearest)
    check_plan(Plan(gbs=nearest, mbs=mbs, dp=dp))


@given(mbs=st.integers(1, 9), dp=st.integers(1, 70), gbs=st.integers(1, 5000))
def test_the_batch_of_the_hint_divides_and_none_is_nearer(mbs: int, dp: int, gbs: int) -> None:
    plan = Plan(gbs=gbs, mbs=mbs, dp=dp)
    if gbs % (mbs * dp) == 0:
        check_plan(plan)
        return
    near = int(refused(plan).hint.split()[-1])
    check_plan(dataclasses.replace(plan, gbs=near))
    below = gbs // (mbs * dp) * mbs * dp
    others = [n for n in (below, below + mbs * dp) if n > 0]
    assert abs(near - gbs) == min(abs(n - gbs) for n in others)


@pytest.mark.parametrize("name", SHARES)
@pytest.mark.parametrize("value", [-0.01, 1.01, float("nan"), float("inf")])
def test_a_share_lies_between_zero_and_one(name: str, value: float) -> None:
    error = refused(dataclasses.replace(Plan(), **{name: value}))
    assert error.what.startswith(name)
    for edge in (0.0, 1.0):
        check_plan(dataclasses.replace(Plan(), **{name: edge}))


def test_a_sequence_divides_over_context_parallel_ranks() -> None:
    error = refused(Plan(seq=4100, cp=8))
    assert "4100" in error.what
    assert "cp = 8" in error.what
    check_plan(Plan(seq=4104, cp=8))


def degrees(limit: int = 64) -> st.SearchStrategy[int]:
    return st.integers(1, limit)


PLANS = st.builds(
    Plan,
    **{name: degrees() for name in DEGREES},
    **{name: st.sampled_from(choices) for name, choices in CHOICES.items()},
    **{name: st.floats(0, 1) for name in SHARES},
    **{
        f.name: st.booleans()
        for f in dataclasses.fields(Plan)
        if isinstance(f.default, bool)
    },
    zero=st.integers(0, 3),
    shard=st.integers(0, 64),
    grad_bytes=st.sampled_from([2, 4]),
    recompute_modules=st.sets(st.sampled_from(MODULES)).map(lambda s: tuple(m for m in MODULES if m in s)),
    layout=st.sampled_from(["", "Et|tL", "Et*4|(t*4|)*14tmL"]),
    stack=st.sampled_from(["", "nemo-26.04", "mindspeed"]),
)  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(st.lists(PLANS, min_size=1, max_size=6))
def test_columns_hold_every_field_of_every_plan(plans: list[Plan]) -> None:
    columns = Plans.of(plans)
    assert len(columns) == len(plans)
    assert [columns.plan(i) for i in range(len(plans))] == plans
    assert columns.num_devices.tolist() == [p.num_devices for p in plans]
    assert columns.num_microbatches.tolist() == [p.num_microbatches for p in plans]


@settings(max_examples=40, deadline=None)
@given(st.lists(PLANS, min_size=1, max_size=8), st.data())
def test_take_picks_plans_in_the_order_asked_for(plans: list[Plan], data: st.DataObject) -> None:
    columns = Plans.of(plans)
    index = data.draw(st.lists(st.integers(0, len(plans) - 1), max_size=6))
    taken = columns.take(np.array(index, dtype=np.int64))
    assert [taken.plan(i) for i in range(len(taken))] == [plans[i] for i in index]
    mask = np.array(data.draw(st.lists(st.booleans(), min_size=len(plans), max_size=len(plans))))
    masked = columns.take(mask)
    assert [masked.plan(i) for i in range(len(masked))] == [p for p, m in zip(plans, mask, strict=True) if m]


def test_a_module_named_twice_is_recomputed_once() -> None:
    columns = Plans.of([Plan(recompute="selective", recompute_modules=("mlp", "mlp"))])
    assert columns.plan(0).recompute_modules == ("mlp",)


@pytest.mark.parametrize("kind", RECOMPUTES)
@pytest.mark.parametrize("named", [(), ("mlp",), ("layernorm", "moe_act")])
def test_only_selective_recompute_names_modules(kind: str, named: tuple[str, ...]) -> None:
    columns = Plans.of([Plan(recompute=kind, recompute_modules=named)])
    said = {m for m in MODULES if columns.recomputes(m)[0]}
    if kind != "selective":
        assert said == set()
    else:
        assert said == (set(named) or {"core_attn"})


def test_labels_name_what_differs_from_a_plain_plan() -> None:
    assert Plan(dp=8, gbs=8).label() == "TP1 DP8 ZeRO-1 mbs 1"
    label = Plan(
        tp=2, cp=4, pp=8, vpp=3, dp=2, ep=16, etp=2, gbs=16, zero=0, recompute="full", schedule="gpipe"
    ).label()
    assert label == "TP2 CP4 PP8x3 EP16 ETP2 DP2 no ZeRO mbs 1 full recompute gpipe"


def test_every_recipe_ends_in_bf16_or_itself() -> None:
    for recipe in RECIPES.values():
        seen = [recipe.name]
        while seen[-1] not in ("bf16",):
            following = RECIPES[seen[-1]].fallback
            assert following in RECIPES
            assert following not in seen
            seen.append(following)


@pytest.mark.parametrize(
    "plan", [Plan(dp=8, gbs=8, zero=3, shard=-8), Plan(grad_bytes=0), Plan(pp=3, gbs=6, schedule="dualpipe")]
)
def test_values_that_mean_nothing_are_refused(plan: Plan) -> None:
    refused(plan)

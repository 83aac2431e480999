"""The compiled loop keeps exactly what pricing every plan as columns and sorting them gives."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fullmesh.machine import load_machine
from fullmesh.plan.plan import SCHEDULES
from fullmesh.search import software_of
from fullmesh.search.engine import ask
from fullmesh.search.kernels import Kept
from fullmesh.search.space import Limits, Question, Space, span
from fullmesh.search.walk import Walked, walk_space
from fullmesh.workload import ModelSpec
from fullmesh.workload.readers.huggingface import load_model
from oracles.plans import AllPlans, all_plans

ROOMY = 0.9
# the two ways of adding up the same seconds differ by rounding
EQUAL = 1e-12


def _first_layers(model: ModelSpec, layers: int, mtp: int) -> ModelSpec:
    return dataclasses.replace(model, layers=model.layers[:layers], mtp_layers=mtp)


# kinds of layers, attention and ends of a model: dense, sparse, hybrid, tied, with MTP modules
MODELS = {
    name: _first_layers(load_model(name), layers, mtp)
    for name, layers, mtp in (
        ("llama-3.2-1b", 6, 0), ("mixtral-8x7b", 5, 0), ("deepseek-v3", 6, 1), ("nemotron-h-8b", 12, 0),
        ("gpt3-5b", 7, 0),
    )
}  # fmt: skip
MACHINES = ("h200", "cloudmatrix384", "gb200-nvl72", "dgx-a100", "atlas-800t-a2")


def equal(a: Any, b: Any) -> None:
    assert np.asarray(a, dtype=float) == pytest.approx(np.asarray(b, dtype=float), rel=EQUAL, abs=0.0)


def check(walked: Walked, plain: AllPlans) -> None:
    """Everything that the loop kept against the plain twin."""
    assert walked.num_priced == len(plain.numbers) == walked.space.num_plans
    assert walked.num_fitting == plain.fits.sum()
    row = {int(n): i for i, n in enumerate(plain.numbers)}
    if not walked.num_fitting:
        equal(plain.memory[row[walked.least_memory]], plain.memory.min())
        return
    equal(walked.fastest_cost, plain.cost[plain.feasible].min())
    equal(plain.cost[row[walked.fastest]], walked.fastest_cost)
    numbers, cost = walked.leaders()
    leaders = plain.leaders()
    assert len(numbers) == len(leaders)
    rows = np.array([row[int(n)] for n in numbers])
    equal(cost, plain.cost[rows])
    equal(plain.score[rows], plain.score[leaders])
    for most in range(int(plain.missing.max()) + 1):
        # the level of the best plan's pairs decides which of these are shown
        if not (plain.missing[plain.feasible] <= most).any():
            continue
        roomy = walked.roomy(most)
        twin = plain.roomy(most, ROOMY * walked.space.question.machine.chip.hbm_bytes)
        assert (roomy is None) == (twin is None)
        if roomy is not None and twin is not None:
            equal(plain.cost[row[roomy]], plain.cost[twin])
        steps, sizes, found = walked.front(most)
        kept = []
        lowest = np.inf
        for i in np.lexsort((found, sizes, steps)):
            if steps[i] <= 2.0 * steps.min() and sizes[i] < lowest * (1.0 - EQUAL):
                kept.append(i)
                lowest = sizes[i]
        front = plain.front(most)
        # equal plans differ by rounding, which may put one more on either front
        front = [
            i
            for k, i in enumerate(front)
            if k == 0 or plain.memory[i] < plain.memory[front[k - 1]] * (1 - EQUAL)
        ]
        equal(sizes[kept], plain.memory[front])
        equal(steps[kept], plain.step_s[front])


def question(model: ModelSpec, name: str, devices: int, gbs: int, **more: Any) -> Question:
    machine = load_machine(name, num_devices=devices)
    return ask(model, machine, gbs=gbs, seq=more.pop("seq", 4096), **more)


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_the_loop_keeps_what_pricing_one_by_one_gives(data: st.DataObject) -> None:
    model = MODELS[data.draw(st.sampled_from(sorted(MODELS)))]
    name = data.draw(st.sampled_from(MACHINES))
    devices = (
        data.draw(st.sampled_from([8, 16, 32]))
        if name != "gb200-nvl72"
        else data.draw(st.sampled_from([8, 24, 72]))
    )
    wide = data.draw(st.booleans())
    values: dict[str, tuple[tuple[int, int], ...]] = {}
    if wide:
        # a part of the wide space, as small as the default one
        values["mbs"] = ((1, data.draw(st.integers(1, 4))),)
        values["tp"] = ((1, data.draw(st.sampled_from([1, 2, 8]))),)
    if data.draw(st.booleans()):
        values["schedule"] = tuple(
            (s, s) for s in data.draw(st.sets(st.sampled_from(range(len(SCHEDULES))), min_size=1))
        )
    if data.draw(st.booleans()):
        values["p2p_overlap"] = ((0, 0), (1, 1))
        values["grad_overlap"] = ((0, 0),)
    q = question(
        model, name, devices, data.draw(st.sampled_from([24, 32, 96, 144])),
        seq=data.draw(st.sampled_from([2048, 4096, 32768])),
        precision=data.draw(st.sampled_from(["bf16", "fp8"])),
        objective=data.draw(st.sampled_from(["time", "money"])), offload=data.draw(st.booleans()) and name == "h200",
        wide=wide, limits=Limits(values=values, memory_margin=data.draw(st.sampled_from([0.0, 0.1]))),
    )  # fmt: skip
    capacity = data.draw(st.sampled_from([1.0, 0.3, 0.05]))
    chip = dataclasses.replace(q.machine.chip, hbm_bytes=capacity * q.machine.chip.hbm_bytes)
    q = dataclasses.replace(q, machine=dataclasses.replace(q.machine, chip=chip))
    space = span(q)
    if not 0 < space.num_plans <= 60_000:
        return
    check(walk_space(space, roomy_share=ROOMY), all_plans(space))


def kept_equal(a: Kept, b: Kept) -> None:
    for name, one, other in zip(Kept._fields, a, b, strict=True):
        if name.startswith("front_") and name != "front_length":
            for m, n in enumerate(a.front_length):
                assert (one[m, :n] == other[m, :n]).all(), name
        else:
            assert (one == other).all(), name


@pytest.fixture(scope="module")
def space() -> Space:
    limits = Limits(values={"tp": ((1, 2),), "mbs": ((1, 2),), "cp": ((1, 1),)})
    return span(question(MODELS["deepseek-v3"], "cloudmatrix384", 48, 96, wide=True, limits=limits))


@pytest.mark.parametrize("piece", [1, 7, 10_000])
def test_nothing_depends_on_how_the_frames_are_cut(space: Space, piece: int) -> None:
    whole = walk_space(space, roomy_share=ROOMY)
    assert whole.num_fitting > 1000
    kept_equal(whole.kept, walk_space(space, roomy_share=ROOMY, piece=piece).kept)


def test_every_plan_of_the_space_is_there_once(space: Space) -> None:
    numbers = space.numbers()
    plans = space.plans(numbers)
    assert len(numbers) == space.num_plans == len(np.unique(numbers))
    assert space.num_enumerated == space.num_plans + sum(space.rejected.values())
    plan = {tuple(vars_of(plans, i)) for i in range(0, len(numbers), 101)}
    assert len(plan) == len(range(0, len(numbers), 101))
    assert {SCHEDULES[s] for s in np.unique(plans.schedule)} == {"1f1b", "zero-bubble", "dualpipe"}
    assert software_of(space.question.machine) == space.question.software


def vars_of(plans: Any, i: int) -> list[Any]:
    from fullmesh.plan.plan import FIELDS

    return [getattr(plans, name)[i].item() for name in FIELDS]

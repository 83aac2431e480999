"""What published results speak for: attributes of plans, pairs that none has, and figures above all of them."""

from __future__ import annotations

import dataclasses
import re

import numpy as np
import pytest

from fullmesh.evidence.mapping import row_case, row_machine
from fullmesh.evidence.published import published_step_s
from fullmesh.evidence.results import read_results
from fullmesh.machine import Machine, load_machine
from fullmesh.outcomes.estimate import Estimate, estimate, evaluate
from fullmesh.outcomes.support import (
    MFU_MARGIN,
    PAIRS_OF_A_SETTING,
    Tried,
    above_published,
    attributes,
    beyond_published,
    key_of,
    load_known,
    load_tried,
    longest_published,
    missing_words,
    nearest,
    num_missing,
    seen_pairs,
    tried_by,
)
from fullmesh.plan import Plan, Plans
from fullmesh.search.engine import ask, search
from fullmesh.search.space import every_plan, span
from fullmesh.workload import ModelSpec
from fullmesh.workload.readers.huggingface import load_model

H200 = load_machine("h200", num_devices=64)
CLOUDMATRIX = load_machine("cloudmatrix384", num_devices=64)
LLAMA = load_model("llama-3-8b")
MIXTRAL = load_model("mixtral-8x7b")
PUBLISHED = Plan(
    tp=2, pp=2, vpp=2, dp=8, ep=8, gbs=64, recompute="full", dispatcher="deepep", precision="fp8", zero=1
)


def words(plan: Plan) -> set[str]:
    """Attributes that a plan of the mixture of experts has."""
    columns = attributes(MIXTRAL, H200, Plans.of([plan]))
    return {a.values[int(a.code[0])] for a in columns} - {""}


def test_attributes_name_what_a_plan_has_and_no_more() -> None:
    assert words(Plan(gbs=64)) == {"layers gqa", "precision bf16", "ZeRO up to 1"}
    assert words(PUBLISHED) == {
        "layers gqa", "precision fp8", "ZeRO up to 1", "TP up to 8", "pipeline", "virtual stages", "EP up to 8",
        "dispatcher deepep", "full recompute",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("change", "gained"),
    [
        ({"zero": 2}, "ZeRO-2"),
        ({"zero": 3}, "ZeRO-3"),
        ({"ep": 16, "dp": 16}, "EP across domains"),
        ({"cp": 2}, "context parallelism"),
        ({"ep": 2, "dp": 2, "etp": 2}, "expert tensor parallelism"),
        ({"ep": 2, "ep_overlap": True}, "expert overlap"),
        ({"recompute": "selective"}, "selective recompute"),
        ({"pp": 2, "schedule": "dualpipe"}, "dualpipe"),
        ({"offload_optimizer": 1.0}, "optimizer in host memory"),
    ],
)
def test_every_attribute_is_read_from_its_field(change: dict[str, object], gained: str) -> None:
    before = Plan(gbs=64, dp=8)
    assert gained not in words(before)
    assert gained in words(dataclasses.replace(before, **change))  # type: ignore[arg-type]


def test_what_a_plan_does_not_use_is_no_attribute() -> None:
    # a dispatcher without exchange, a schedule without pipeline
    idle = Plan(gbs=64, dispatcher="deepep", ep_overlap=True, schedule="zero-bubble")
    assert words(idle) == words(Plan(gbs=64))


def test_a_plan_equal_to_a_published_one_misses_nothing() -> None:
    known = {key_of(MIXTRAL, H200): frozenset(seen_pairs(MIXTRAL, H200, Plans.of([PUBLISHED])))}
    assert num_missing(MIXTRAL, H200, Plans.of([PUBLISHED]), known)[0] == 0
    assert missing_words(MIXTRAL, H200, PUBLISHED, known) == ()
    # nor does one that differs in sizes alone
    larger = dataclasses.replace(PUBLISHED, tp=4, dp=16, gbs=256, mbs=2)
    assert num_missing(MIXTRAL, H200, Plans.of([larger]), known)[0] == 0
    # it speaks for no other cores and for no other kind of model
    assert num_missing(MIXTRAL, CLOUDMATRIX, Plans.of([PUBLISHED]), known)[0] > 0
    assert num_missing(LLAMA, H200, Plans.of([dataclasses.replace(PUBLISHED, ep=1)]), known)[0] > 0


def test_attributes_seen_apart_are_a_pair_that_is_missing() -> None:
    apart = [Plan(gbs=64, tp=2, dp=8), Plan(gbs=64, dp=8, zero=3)]
    known = {key_of(LLAMA, H200): frozenset(seen_pairs(LLAMA, H200, Plans.of(apart)))}
    both = Plan(gbs=64, tp=2, dp=8, zero=3)
    assert num_missing(LLAMA, H200, Plans.of([*apart, both]), known).tolist() == [0, 0, 1]
    assert missing_words(LLAMA, H200, both, known) == ("ZeRO-3 with TP up to 8",)
    # what is never seen is named alone, not with everything else that the plan has
    assert missing_words(LLAMA, H200, dataclasses.replace(both, recompute="full"), known) == (
        "full recompute",
        "ZeRO-3 with TP up to 8",
    )


def test_sharded_parameters_of_experts_are_untried_on_cloudmatrix() -> None:
    plan = Plan(dp=8, ep=8, gbs=64, zero=3)
    assert missing_words(MIXTRAL, CLOUDMATRIX, plan) == ("ZeRO-3",)
    assert num_missing(MIXTRAL, CLOUDMATRIX, Plans.of([plan]))[0] > 0
    without = dataclasses.replace(plan, zero=1)
    assert missing_words(MIXTRAL, CLOUDMATRIX, without) == ()
    found = estimate(LLAMA, CLOUDMATRIX, Plan(tp=2, dp=8, gbs=64, recompute="full", zero=3))
    tried = estimate(LLAMA, CLOUDMATRIX, Plan(tp=2, dp=8, gbs=64, recompute="full", zero=1))
    assert isinstance(found, Estimate)
    assert isinstance(tried, Estimate)
    assert found.interval.log_half_width > tried.interval.log_half_width


@pytest.mark.parametrize("name", ["h200", "gb200-nvl72", "cloudmatrix384", "dgx-a100"])
@pytest.mark.parametrize("model", [LLAMA, MIXTRAL], ids=["dense", "moe"])
def test_words_are_said_exactly_where_pairs_are_missing(name: str, model: ModelSpec) -> None:
    machine = load_machine(name, num_devices=72 if name == "gb200-nvl72" else 64)
    plans = every_plan(ask(model, machine, gbs=576, seq=4096))
    missing = num_missing(model, machine, plans)
    for i in range(0, len(plans), max(1, len(plans) // 60)):
        assert (missing[i] == 0) == (missing_words(model, machine, plans.plan(i)) == ()), plans.plan(i)


def test_shipped_pairs_stand_in_the_order_of_attributes() -> None:
    known = load_known()
    assert {"H100|dense", "H100|moe", "ascend910b|moe"} <= set(known)
    order = [set(a.values) - {""} for a in attributes(MIXTRAL, H200, Plans.of([PUBLISHED]))]
    place = {word: i for i, values in enumerate(order) for word in values}
    for pairs in known.values():
        for a, b in pairs:
            if a in place and b in place:
                assert place[a] < place[b], (a, b)


@pytest.mark.parametrize("model", [LLAMA, MIXTRAL], ids=["dense", "moe"])
@pytest.mark.parametrize("machine", [H200, CLOUDMATRIX], ids=["h200", "cloudmatrix384"])
def test_a_use_above_every_published_one_is_said(model: ModelSpec, machine: Machine) -> None:
    text = above_published(model, machine, "bf16", 0.99)
    best = float(text.rsplit(" ", 1)[-1].rstrip("%")) / 100
    assert text.startswith("MFU 99.0% is above the best that a published run of a ")
    assert ("mixture of experts" in text) == (model is MIXTRAL)
    assert ("dense model" in text) == (model is LLAMA)
    assert 0.2 < best < 0.7
    # the best is printed to a tenth of a percent
    assert above_published(model, machine, "bf16", (1 + MFU_MARGIN) * best + 0.001) != ""
    assert above_published(model, machine, "bf16", (1 + MFU_MARGIN) * best - 0.001) == ""
    assert above_published(model, machine, "bf16", best) == ""


def test_nothing_is_said_where_no_result_gives_a_best() -> None:
    assert above_published(LLAMA, H200, "int8", 0.99) == ""


def test_the_nearest_result_is_named_with_what_differs() -> None:
    plan = Plan(tp=1, pp=4, vpp=2, ep=8, dp=32, gbs=512, stack="nemo-26.06", dispatcher="deepep")
    text = nearest(MIXTRAL, H200, plan)
    assert re.match(r"[A-Z]{2}\d+, .+ on [\d,]+ .+, ", text)
    assert "ZeRO-3" not in text
    sharded = nearest(MIXTRAL, CLOUDMATRIX, Plan(dp=8, ep=8, gbs=64, zero=3))
    assert re.search(r"which differs in \d+: .*ZeRO-3", sharded)
    # every published plan is its own neighbour, or has one just like it
    row = next(r for r in read_results() if r.id == "NV294")
    case = row_case(row)
    assert nearest(case.model, case.machine, case.plan).endswith("of the same kind")
    assert nearest(case.model, case.machine, case.plan).startswith("NV294")


def test_a_sequence_beyond_every_published_one_is_said_and_widens_nothing() -> None:
    longest = longest_published()
    rows = [r for r in read_results() if r.phase == "pretrain" and published_step_s(r) and r.seq]
    assert max(longest.values()) == max(r.seq for r in rows)
    of_h100 = [r.seq for r in rows if row_machine(r.gpu).chip.family == "H100"]
    assert longest["H100"] == max(of_h100)
    assert beyond_published(H200, longest["H100"]) == ""
    text = beyond_published(H200, longest["H100"] + 1)
    assert f"beyond {longest['H100']:,} tokens" in text
    nobody = dataclasses.replace(H200, chip=dataclasses.replace(H200.chip, family="Nobody"))
    assert "on any chip" in beyond_published(nobody, 2**21)
    near, far = (
        estimate(LLAMA, H200, Plan(tp=8, cp=8, gbs=8, seq=seq, recompute="full")) for seq in (2**15, 2**20)
    )
    assert isinstance(near, Estimate)
    assert isinstance(far, Estimate)
    assert not any("beyond" in note for note in near.notes)
    assert any("no published result on such cores with a sequence beyond" in note for note in far.notes)
    assert far.interval.log_half_width == pytest.approx(near.interval.log_half_width, rel=0.5)
    assert far.interval.unproven == near.interval.unproven
    found = search(LLAMA, H200, gbs=8, seq=2**20, top=1)
    assert any("beyond" in note for note in found.notes)


def test_what_no_result_tried_weighs_as_if_it_had_no_pairs() -> None:
    ran = Plan(tp=2, pp=2, vpp=2, dp=2, gbs=32, seq=8192, recompute="selective", recompute_modules=("mlp",))
    assert tried_by(
        [ran, dataclasses.replace(ran, recompute="full", recompute_fraction=0.5, mbs=4)]
    ) == Tried(modules=(("mlp",),), share=True, micro_batch=4, chunks=2)
    found = load_tried()["H100|dense"]
    beyond = dataclasses.replace(PUBLISHED, ep=1, mbs=found.micro_batch + 1)
    within = dataclasses.replace(beyond, mbs=1)
    more = num_missing(LLAMA, H200, Plans.of([beyond]))[0] - num_missing(LLAMA, H200, Plans.of([within]))[0]
    assert more == PAIRS_OF_A_SETTING
    assert set(missing_words(LLAMA, H200, beyond)) - set(missing_words(LLAMA, H200, within)) == {
        f"a micro-batch beyond {found.micro_batch}"
    }


def test_the_space_knows_the_plans_that_it_is_made_of() -> None:
    space = span(ask(MIXTRAL, H200, gbs=64, seq=4096, wide=True))
    numbers = space.numbers()[::9973]
    assert len(numbers) > 20
    plans = space.plans(numbers)
    for i, number in enumerate(numbers):
        found = space.number_of(plans.plan(i))
        assert found is not None
        # plans that differ in nothing that has a meaning are one
        again = evaluate(MIXTRAL, H200, space.plans(np.array([number, found])))
        assert again.times.step_s[0] == again.times.step_s[1]
        assert again.memory_bytes[0] == again.memory_bytes[1]
    assert space.number_of(dataclasses.replace(plans.plan(0), tp=3)) is None

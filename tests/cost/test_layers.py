"""Layers and stages: two independent counts of work and of parameters agree, and splitting divides what it should."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from fullmesh.cost.components import FORWARD, C
from fullmesh.cost.stages import Stages, stage_table
from fullmesh.machine import load_machine
from fullmesh.plan import Plan, Plans
from fullmesh.workload import MoE
from fullmesh.workload.flops import model_flop_per_token
from fullmesh.workload.parameters import parameter_counts
from fullmesh.workload.readers.huggingface import load_model

H100 = load_machine("h100", num_devices=64)
NAMES = (
    "llama-3-8b",
    "llama-2-70b",
    "qwen3-32b",
    "gemma-2b",
    "mixtral-8x7b",
    "qwen3-30b-a3b",
    "deepseek-v2-lite",
    "deepseek-v3",
    "glm-4.5-air",
    "nemotron-h-8b",
    "qwen3-next-80b-a3b",
    "gpt-oss-20b",
    "deepseek-v4-flash",
)


def stages_of(name: str, plan: Plan, *, mtp: int | None = None) -> Stages:
    return stage_table(load_model(name, mtp_layers=mtp), H100, Plans.of([plan]), distinct=False)


def total(stages: Stages, component: C) -> float:
    return float(stages.sum(stages.components[:, component])[0])


@pytest.mark.parametrize("seq", [2048, 8192])
@pytest.mark.parametrize("name", NAMES)
def test_work_of_all_layers_is_the_work_of_the_model(name: str, seq: int) -> None:
    model = load_model(name)
    counted = total(stages_of(name, Plan(seq=seq)), C.FLOP_F) / seq
    independent = model_flop_per_token(model, seq)
    assert counted == pytest.approx(independent, rel=1e-12)


@pytest.mark.parametrize("name", ["llama-3-8b", "mixtral-8x7b", "deepseek-v3", "nemotron-h-8b"])
@pytest.mark.parametrize(
    "plan", [Plan(tp=4, gbs=8), Plan(cp=4, gbs=8), Plan(pp=4, dp=2, gbs=16), Plan(mbs=2, gbs=2)]
)
def test_splitting_a_model_changes_no_work(name: str, plan: Plan) -> None:
    alone = total(stages_of(name, Plan()), C.FLOP_F)
    split = total(stages_of(name, plan), C.FLOP_F)
    tolerance = 0.05 if name == "deepseek-v3" and plan.tp > 1 else 1e-9
    assert split * plan.tp * plan.cp / plan.mbs == pytest.approx(alone, rel=tolerance)


@pytest.mark.parametrize("ep", [1, 2, 8])
@pytest.mark.parametrize("etp", [1, 2])
def test_experts_do_the_same_work_wherever_they_lie(ep: int, etp: int) -> None:
    model = load_model("mixtral-8x7b")
    plan = Plan(tp=etp, dp=8, ep=ep, etp=etp, gbs=8)
    stages = stage_table(model, H100, Plans.of([plan]))
    assert total(stages, C.FLOP_F) * plan.tp == pytest.approx(
        total(stages_of("mixtral-8x7b", Plan()), C.FLOP_F), rel=1e-9
    )


@pytest.mark.parametrize("name", [*NAMES, "gpt3-175b", "qwen2-0.5b", "bloom-7b1"])
def test_parameters_of_the_stages_are_those_of_the_model(name: str) -> None:
    model = load_model(name)
    counts = parameter_counts(model)
    stages = stages_of(name, Plan())
    held = float((stages.dense_parameters + stages.expert_parameters).sum())
    # final norm, norm of the embedding and the norms of MTP modules are left out: thousands of billions
    assert held == pytest.approx(counts.total, rel=2e-5)
    assert float(stages.expert_parameters.sum()) == pytest.approx(
        sum(p.expert for p in counts.layers)
        + model.mtp_layers * (counts.layers[-1].expert if not model.mtp_block else 0),
        rel=1e-12,
    )


@pytest.mark.parametrize("name", ["qwen2-0.5b", "gemma-2b"])
def test_tied_embeddings_are_held_at_both_ends_of_a_pipeline(name: str) -> None:
    model = load_model(name)
    assert model.tied_embeddings
    one = stages_of(name, Plan()).dense_parameters.sum()
    two = stages_of(name, Plan(pp=2)).dense_parameters.sum()
    assert two - one == pytest.approx(model.vocab * model.hidden)


def test_mtp_modules_add_a_layer_a_head_and_a_projection() -> None:
    without, with_one = (stages_of("deepseek-v3", Plan(), mtp=n) for n in (0, 1))
    model = load_model("deepseek-v3", mtp_layers=1)
    counts = parameter_counts(model)
    added = with_one.dense_parameters + with_one.expert_parameters
    added = added - without.dense_parameters - without.expert_parameters
    assert added.sum() == pytest.approx(counts.mtp, rel=1e-5)
    assert with_one.layers.sum() == 62
    assert with_one.head.sum() == 2
    head = 2.0 * model.hidden * model.vocab * 4096
    more = total(with_one, C.FLOP_F) - total(without, C.FLOP_F)
    assert more > head
    assert total(with_one, C.LINEAR_F) > total(without, C.LINEAR_F)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.filter_too_much])
@given(
    st.sampled_from(["llama-3-8b", "mixtral-8x7b", "deepseek-v3"]),
    st.sampled_from([1, 2, 4, 8]),
    st.sampled_from([1, 2, 4, 8]),
    st.sampled_from([1, 2]),
    st.sampled_from([1, 2, 4, 8]),
)
def test_degrees_divide_the_parameters(name: str, tp: int, ep: int, etp: int, pp: int) -> None:
    model = load_model(name)
    assume(model.is_moe or ep * etp == 1)
    plan = Plan(tp=tp, ep=ep, etp=etp, pp=pp, dp=64, gbs=64)
    whole, split = stages_of(name, Plan(dp=64, gbs=64, pp=pp)), stages_of(name, plan)
    np.testing.assert_allclose(split.dense_parameters, whole.dense_parameters / tp)
    np.testing.assert_allclose(split.expert_parameters, whole.expert_parameters / (ep * etp))


def test_stages_that_are_alike_are_merged_without_a_difference() -> None:
    model = load_model("llama-3-70b")
    plans = Plans.of([Plan(pp=8, dp=2, gbs=32), Plan(pp=4, vpp=5, dp=4, gbs=32)])
    merged, single = stage_table(model, H100, plans), stage_table(model, H100, plans, distinct=False)
    assert len(merged.plan) < len(single.plan) == 12
    assert np.bincount(merged.plan, merged.multiplicity).tolist() == [8, 4]
    for column in (merged.components[:, C.LINEAR_F], merged.dense_parameters):
        assert column.shape == merged.plan.shape
    np.testing.assert_allclose(
        merged.sum(merged.dense_parameters), single.sum(single.dense_parameters), rtol=1e-12
    )
    np.testing.assert_array_equal(merged.max(merged.optimizer_s), single.max(single.optimizer_s))
    assert merged.starts.tolist() == [0, int(np.flatnonzero(merged.plan == 1)[0])]


def test_backward_products_cost_about_twice_the_forward_ones() -> None:
    x = stages_of("llama-3-8b", Plan()).components[0]
    backward = (C.LINEAR_B, C.LINEAR_W, C.ATTENTION_B, C.SCAN_B, C.MEMORY_B, C.ROUTE_B)
    assert x[list(backward)].sum() == pytest.approx(2 * x[list(FORWARD)].sum(), rel=0.25)
    assert (x >= 0).all()


def test_recomputed_work_is_the_forward_work_of_what_is_named() -> None:
    def flop_again(**fields: object) -> float:
        return total(stages_of("deepseek-v3", Plan(**fields)), C.FLOP_R)  # type: ignore[arg-type]

    forward = total(stages_of("deepseek-v3", Plan()), C.FLOP_F)
    model = load_model("deepseek-v3")
    head = 2.0 * model.hidden * model.vocab * 4096 * (1 + model.mtp_layers)
    assert flop_again() == 0
    assert flop_again(recompute="full") == pytest.approx(forward - head, rel=1e-9)
    assert flop_again(recompute="full", recompute_fraction=0.5) == pytest.approx(
        (forward - head) / 2, rel=1e-9
    )
    parts = [
        flop_again(recompute="selective", recompute_modules=(m,))
        for m in ("core_attn", "mla_up_proj", "moe", "mlp")
    ]
    assert all(0 < p < forward for p in parts)
    together = flop_again(recompute="selective", recompute_modules=("core_attn", "mla_up_proj", "moe", "mlp"))
    assert together == pytest.approx(sum(parts), rel=1e-9)
    for module in ("layernorm", "moe_act"):
        assert flop_again(recompute="selective", recompute_modules=(module,)) == 0


def test_only_experts_route() -> None:
    dense, sparse = (
        stages_of("llama-3-8b", Plan(dp=8, gbs=8)),
        stages_of("mixtral-8x7b", Plan(dp=8, ep=8, gbs=8)),
    )
    for c in (C.EXPERT_F, C.EXPERT_B, C.EXPERT_W, C.ROUTE_F, C.EP_F, C.EP_B):
        assert total(dense, c) == 0
        assert total(sparse, c) > 0
    for c in (C.TP_F, C.TP_B, C.CP_F, C.FSDP_F, C.SCAN_F):
        assert total(sparse, c) == 0
    assert isinstance(load_model("mixtral-8x7b").layers[0].ffn, MoE)


def test_spreading_experts_costs_exchange() -> None:
    times = [total(stages_of("mixtral-8x7b", Plan(tp=1, dp=64, ep=ep, gbs=64)), C.EP_F) for ep in (1, 2, 8)]
    assert times[0] == 0
    assert 0 < times[1] < times[2]


def test_shards_beyond_a_node_gather_more_slowly() -> None:
    def gather(**fields: int) -> float:
        return total(stages_of("llama-3-8b", Plan(dp=64, gbs=64, **fields)), C.FSDP_F)

    assert gather(zero=1) == 0
    assert 0 < gather(zero=3, shard=8) < gather(zero=3)
    halved = dataclasses.replace(Plan(dp=64, gbs=64, zero=3), fp8_params=True)
    assert total(stages_of("llama-3-8b", halved), C.FSDP_F) < gather(zero=3)


def test_a_ring_shows_one_hop_where_attention_is_longer() -> None:
    # as many tokens a rank, so that every hop carries as much
    two = total(stages_of("llama-3-8b", Plan(cp=2, seq=1 << 16)), C.CP_F)
    eight = total(stages_of("llama-3-8b", Plan(cp=8, seq=1 << 18)), C.CP_F)
    assert 0 < eight == pytest.approx(two, rel=1e-9)
    short = total(stages_of("llama-3-8b", Plan(cp=8, seq=1 << 13)), C.CP_F)
    hop = total(stages_of("llama-3-8b", Plan(cp=2, seq=1 << 11)), C.CP_F)
    assert short > hop


def test_replicas_of_shards_still_reduce() -> None:
    def reduction(**fields: int) -> float:
        return float(stages_of("llama-3-8b", Plan(dp=64, gbs=64, **fields)).gradient_s[0])

    assert reduction(zero=3) == 0
    # the larger the shards' group, the smaller the piece that its replicas reduce
    assert 0 < reduction(zero=3, shard=32) < reduction(zero=3, shard=16) < reduction(zero=3, shard=8)
    assert reduction(zero=3, shard=8) < reduction(zero=0)
    assert stages_of("llama-3-8b", Plan(dp=64, gbs=64, zero=3, shard=8)).parameter_s[0] == 0


@pytest.mark.parametrize(("zero", "gathers"), [(0, False), (1, True), (2, True)])
def test_replicas_reduce_and_shards_gather(zero: int, gathers: bool) -> None:
    stages = stages_of("llama-3-8b", Plan(dp=8, gbs=8, zero=zero))
    assert stages.gradient_s[0] > 0
    assert (stages.parameter_s[0] > 0) == gathers
    sharded, whole = stages.optimizer_s[0], stages_of("llama-3-8b", Plan(gbs=8)).optimizer_s[0]
    assert sharded == pytest.approx(whole / (8 if zero else 1))


def test_gradients_of_half_the_bytes_take_less_time() -> None:
    four, two = (stages_of("llama-3-8b", Plan(dp=64, gbs=64, grad_bytes=n)).gradient_s[0] for n in (4, 2))
    assert two == pytest.approx(four / 2, rel=0.1)


def test_low_rank_adapters_leave_weights_alone() -> None:
    stages = stages_of("llama-3-8b", Plan(dp=8, gbs=8, trainable="lora"))
    assert total(stages, C.LINEAR_W) == 0
    assert stages.gradient_s[0] == stages.parameter_s[0] == stages.optimizer_s[0] == 0


@pytest.mark.parametrize(
    ("name", "mtp", "seq"),
    [
        ("deepseek-v3", 1, 4096),
        ("gemma-2-9b", 0, 16384),
        ("deepseek-v3", 0, 16384),
        ("gemma-2-9b", 0, 4096),
    ],
)
def test_the_two_counts_of_work_are_the_same_count(name: str, mtp: int, seq: int) -> None:
    counted = total(stages_of(name, Plan(seq=seq), mtp=mtp), C.FLOP_F) / seq
    assert counted == pytest.approx(model_flop_per_token(load_model(name, mtp_layers=mtp), seq), rel=1e-9)

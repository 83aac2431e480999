"""Peak memory: published formulas, what ZeRO and each degree divide, and micro-batches in flight."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fullmesh.cost.effects import TermTable, load_effects, load_terms, settings_of
from fullmesh.cost.memory import MemoryLedger, memory_ledger
from fullmesh.cost.stages import Stages, stage_table
from fullmesh.machine import load_machine
from fullmesh.plan import Plan, Plans
from fullmesh.workload import MLP, Attention, Layer, ModelSpec
from fullmesh.workload.readers.huggingface import load_model

H100 = load_machine("h100", num_devices=512)
HIDDEN, HEADS, SEQ = 2048, 16, 2048
GPT = ModelSpec(
    id="gpt",
    name="GPT",
    hidden=HIDDEN,
    vocab=32000,
    layers=(
        Layer(
            mixer=Attention(num_heads=HEADS, num_kv_heads=HEADS, head_dim=HIDDEN // HEADS, rotary=False),
            ffn=MLP(ffn=4 * HIDDEN, gated=False),
        ),
    )
    * 8,
    norm="layernorm",
)


def ledger(model: ModelSpec, plan: Plan, **values: float) -> tuple[MemoryLedger, Stages]:
    """The ledger by formula alone: no correction is fitted, nothing is reserved on top."""
    columns = Plans.of([plan])
    stages = stage_table(model, H100, columns, distinct=False)
    chosen = {"activation": 1.0, "head": 1.0} | values
    row = np.array([chosen.get(term.name, 0.0) for term in load_terms("memory")])
    table = TermTable(model="memory", values=row[None, :])
    return memory_ledger(model, stages, columns, table), stages


def activations(plan: Plan, model: ModelSpec = GPT) -> np.ndarray:
    return ledger(model, plan)[0].activations


def sbh(plan: Plan) -> float:
    return plan.seq * plan.mbs * HIDDEN


class TestPublishedFormulas:
    """Korthikanti et al., arXiv 2205.05198, table 2: bytes of activations a layer.

    Their layer has two dropouts whose masks take a byte an element (2 of the 34), which today's models do not have;
    a fused kernel keeps the row sums of the softmax in FP32 (4 bytes a token and head), which theirs does not.
    """

    def row_sums(self, plan: Plan) -> float:
        return 4.0 * plan.seq * plan.mbs * HEADS / plan.tp

    @pytest.mark.parametrize("mbs", [1, 4])
    def test_whole_layer(self, mbs: int) -> None:
        plan = Plan(seq=SEQ, mbs=mbs, gbs=mbs, flash_attention=False)
        scores = 5 * HEADS * SEQ / HIDDEN
        expected = sbh(plan) * (34 - 2 + scores) + self.row_sums(plan)
        assert activations(plan)[0] == pytest.approx(8 * expected, rel=1e-12)
        published = 8 * sbh(plan) * (34 + scores)
        assert activations(plan)[0] == pytest.approx(published, rel=0.03)

    @pytest.mark.parametrize("tp", [2, 8])
    def test_tensor_parallel(self, tp: int) -> None:
        plan = Plan(seq=SEQ, tp=tp, sequence_parallel=False, flash_attention=False)
        expected = sbh(plan) * (10 - 2 + 24 / tp + 5 * HEADS * SEQ / HIDDEN / tp) + self.row_sums(plan)
        assert activations(plan)[0] == pytest.approx(8 * expected, rel=1e-12)

    @pytest.mark.parametrize("tp", [2, 8])
    def test_tensor_and_sequence_parallel(self, tp: int) -> None:
        plan = Plan(seq=SEQ, tp=tp, flash_attention=False)
        alone = Plan(seq=SEQ, flash_attention=False)
        assert activations(plan)[0] == pytest.approx(activations(alone)[0] / tp, rel=1e-12)

    @pytest.mark.parametrize("flash", [True, False])
    def test_selective_recompute_keeps_no_scores(self, flash: bool) -> None:
        plan = Plan(seq=SEQ, tp=4, recompute="selective", flash_attention=flash)
        expected = sbh(plan) * (34 - 2) / 4 + self.row_sums(plan)
        assert activations(plan)[0] == pytest.approx(8 * expected, rel=1e-12)
        fused = dataclasses.replace(plan, recompute="none", flash_attention=True)
        assert activations(fused)[0] == activations(plan)[0]

    def test_full_recompute_keeps_the_input_of_each_layer(self) -> None:
        plan = Plan(seq=SEQ, recompute="full", sequence_parallel=False)
        assert activations(plan)[0] == pytest.approx(8 * 2 * sbh(plan), rel=1e-12)
        split = Plan(seq=SEQ, tp=4, recompute="full")
        assert activations(split)[0] == pytest.approx(8 * 2 * sbh(split) / 4, rel=1e-12)

    def test_a_first_stage_holds_as_many_microbatches_as_there_are_stages(self) -> None:
        alone = activations(Plan(seq=SEQ))[0]
        staged = activations(Plan(seq=SEQ, pp=4, gbs=16))
        np.testing.assert_allclose(staged, alone / 4 * np.array([4, 3, 2, 1]))

    @pytest.mark.parametrize(("pp", "vpp"), [(4, 2), (2, 4)])
    def test_interleaving_holds_more_on_the_first_stage(self, pp: int, vpp: int) -> None:
        plain = activations(Plan(seq=SEQ, pp=pp, gbs=64))[0]
        interleaved = activations(Plan(seq=SEQ, pp=pp, vpp=vpp, gbs=64))[0]
        assert interleaved / plain == pytest.approx(1 + (pp - 1) / (pp * vpp))


@pytest.mark.parametrize("micro", [1, 2, 3, 32])
def test_no_stage_holds_more_microbatches_than_there_are(micro: int) -> None:
    alone = activations(Plan(seq=SEQ))[0] / 4
    for vpp in (1, 2):
        held = activations(Plan(seq=SEQ, pp=4, vpp=vpp, gbs=micro)) / alone
        assert (held <= micro + 1e-9).all()
        assert (np.diff(held) <= 1e-9).all()
    gpipe = activations(Plan(seq=SEQ, pp=4, gbs=micro, schedule="gpipe")) / alone
    np.testing.assert_allclose(gpipe, micro)


def test_dualpipe_holds_a_microbatch_more_than_stages_everywhere() -> None:
    alone = activations(Plan(seq=SEQ))[0] / 4
    np.testing.assert_allclose(activations(Plan(seq=SEQ, pp=4, gbs=32, schedule="dualpipe")) / alone, 5)


def states(plan: Plan, model: ModelSpec = GPT) -> tuple[float, float, float]:
    found = ledger(model, plan)[0]
    return float(found.parameters[0]), float(found.gradients[0]), float(found.optimizer[0])


def test_states_take_eighteen_bytes_a_parameter_and_zero_divides_them() -> None:
    held = float(ledger(GPT, Plan(dp=8, gbs=8))[1].dense_parameters[0])
    assert states(Plan(dp=8, gbs=8, zero=0)) == pytest.approx((2 * held, 4 * held, 12 * held))
    assert states(Plan(dp=8, gbs=8, zero=1)) == pytest.approx((2 * held, 4 * held, 12 * held / 8))
    assert states(Plan(dp=8, gbs=8, zero=2)) == pytest.approx((2 * held, 4 * held / 8, 12 * held / 8))
    assert states(Plan(dp=8, gbs=8, zero=1, grad_bytes=2))[1] == pytest.approx(2 * held)
    assert states(Plan(dp=8, gbs=8, zero=1, grad_copy=True))[1] == pytest.approx(6 * held)
    assert states(Plan(dp=8, gbs=8, zero=2, grad_copy=True))[1] == pytest.approx(4 * held / 8 + 2 * held)
    parameters, gradients, optimizer = states(Plan(dp=8, gbs=8, zero=3))
    layer = held / 8
    assert parameters == pytest.approx(4 * held / 8 + 2 * 2 * layer)
    assert gradients + optimizer == pytest.approx(12 * held / 8)


def test_context_parallel_ranks_hold_shards_too() -> None:
    a, b = states(Plan(dp=8, gbs=8)), states(Plan(dp=4, cp=2, gbs=8))
    assert a == pytest.approx(b)


def test_smaller_shard_groups_hold_more() -> None:
    def total(shard: int) -> float:
        return sum(states(Plan(dp=64, gbs=64, zero=3, shard=shard)))

    assert total(64) == total(0) < total(16) < total(8)


def test_experts_are_sharded_over_their_own_replicas() -> None:
    model = load_model("mixtral-8x7b")
    found, stages = ledger(model, Plan(dp=16, ep=8, gbs=16, zero=1))
    dense, experts = stages.dense_parameters[0], stages.expert_parameters[0]
    assert found.optimizer[0] == pytest.approx(12 * (dense / 16 + experts / 2))
    whole = ledger(model, Plan(dp=16, gbs=16, zero=1))[1]
    assert experts == pytest.approx(whole.expert_parameters[0] / 8)


def test_adapters_need_no_gradients_or_moments() -> None:
    parameters, gradients, optimizer = states(Plan(trainable="lora"))
    assert parameters > 0
    assert gradients == optimizer == 0


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_offloading_takes_its_share_off_the_device(share: float) -> None:
    base, _ = ledger(GPT, Plan())
    off, _ = ledger(GPT, Plan(offload_optimizer=share, offload_activations=share))
    assert off.optimizer[0] == pytest.approx((1 - share) * base.optimizer[0])
    assert off.activations[0] == pytest.approx((1 - share) * base.activations[0])
    assert off.parameters[0] == base.parameters[0]


def test_degrees_divide_what_they_should() -> None:
    one, _ = ledger(GPT, Plan(gbs=8))
    tp, _ = ledger(GPT, Plan(tp=8, gbs=8))
    pp, _ = ledger(GPT, Plan(pp=8, gbs=8, zero=0))
    cp, _ = ledger(GPT, Plan(cp=8, gbs=8, zero=0))
    for column in ("parameters", "gradients", "optimizer", "activations", "head"):
        assert getattr(tp, column)[0] == pytest.approx(getattr(one, column)[0] / 8), column
    assert pp.parameters[3] == pytest.approx((one.parameters[0] - 2 * 2 * 32000 * HIDDEN) / 8, rel=1e-3)
    assert pp.head.tolist()[:-1] == [0.0] * 7
    assert pp.head[-1] == one.head[0]
    assert cp.activations[0] == pytest.approx(one.activations[0] / 8)
    assert cp.parameters[0] == one.parameters[0]


def test_context_parallel_ranks_keep_their_rows_of_the_scores() -> None:
    one = activations(Plan(seq=SEQ, flash_attention=False))[0]
    assert activations(Plan(seq=SEQ, cp=8, flash_attention=False))[0] == pytest.approx(one / 8)


@pytest.mark.parametrize("module", ["mlp", "layernorm"])
def test_recomputing_a_module_saves_its_tensors(module: str) -> None:
    plan = Plan(seq=SEQ, recompute="selective", recompute_modules=(module,))
    saved = activations(Plan(seq=SEQ))[0] - activations(plan)[0]
    assert saved == pytest.approx(8 * sbh(plan) * {"mlp": 16, "layernorm": 4}[module])


def test_half_recompute_lies_half_way() -> None:
    none, full = activations(Plan(seq=SEQ))[0], activations(Plan(seq=SEQ, recompute="full"))[0]
    half = activations(Plan(seq=SEQ, recompute="full", recompute_fraction=0.5))[0]
    assert half == pytest.approx((none + full) / 2)


def test_fp8_keeps_smaller_inputs_of_products() -> None:
    saved = activations(Plan(seq=SEQ))[0] - activations(Plan(seq=SEQ, precision="fp8"))[0]
    # the inputs of four products: hidden, hidden and four times hidden; the output of attention stays
    assert saved == pytest.approx(8 * SEQ * HIDDEN * (1 + 1 + 4))


def test_latent_attention_and_experts_save_what_their_modules_recompute() -> None:
    model = load_model("deepseek-v3")
    base = Plan(tp=1, dp=64, ep=64, pp=8, gbs=1024)
    none = ledger(model, base)[0].activations
    for module in ("mla_up_proj", "moe", "moe_act", "layernorm"):
        plan = dataclasses.replace(base, recompute="selective", recompute_modules=(module,))
        assert (ledger(model, plan)[0].activations < none).all(), module


MEMORY_PLANS = st.builds(
    Plan,
    tp=st.sampled_from([1, 2, 8]),
    pp=st.sampled_from([1, 2, 8]),
    vpp=st.sampled_from([1, 2]),
    dp=st.sampled_from([1, 4, 64]),
    ep=st.sampled_from([1, 4]),
    gbs=st.sampled_from([64, 256]),
    zero=st.integers(0, 3),
    recompute=st.sampled_from(["none", "selective", "full"]),
    precision=st.sampled_from(["bf16", "fp8"]),
    schedule=st.sampled_from(["1f1b", "gpipe", "dualpipe", "zero-bubble"]),
    trainable=st.sampled_from(["all", "lora"]),
    offload_optimizer=st.sampled_from([0.0, 0.5]),
    cuda_graph=st.sampled_from(["none", "full"]),
    compiled=st.booleans(),
)


@settings(max_examples=50, deadline=None)
@given(st.lists(MEMORY_PLANS, min_size=1, max_size=5), st.sampled_from(["llama-3-8b", "mixtral-8x7b"]))
def test_used_covers_reserved_covers_allocated_covers_its_parts(plans: list[Plan], name: str) -> None:
    model = load_model(name)
    columns = Plans.of(plans)
    stages = stage_table(model, H100, columns)
    keys, index = settings_of(model, H100, columns)
    found = memory_ledger(model, stages, columns, load_effects().table("memory", keys, index))
    parts = [getattr(found, f.name) for f in dataclasses.fields(found)][:-3]
    assert all((p >= 0).all() for p in parts)
    np.testing.assert_allclose(np.sum(parts, axis=0), found.allocated, rtol=1e-12)
    assert (found.reserved >= found.allocated).all()
    assert (found.used >= found.reserved).all()


@settings(max_examples=40, deadline=None)
@given(MEMORY_PLANS, st.sampled_from(["zero", "tp", "recompute", "mbs"]))
def test_each_lever_frees_memory_or_leaves_it(plan: Plan, lever: str) -> None:
    model = load_model("llama-3-8b")
    plan = dataclasses.replace(plan, ep=1, pp=1, vpp=1, mbs=2, gbs=8 * plan.dp, offload_optimizer=0.0)
    better = {
        "zero": {"zero": min(plan.zero + 1, 2)} if plan.zero < 2 else {},
        "tp": {"tp": plan.tp * 2},
        "recompute": {"recompute": "full"},
        "mbs": {"mbs": 1},
    }[lever]
    before = ledger(model, plan)[0].used.max()
    after = ledger(model, dataclasses.replace(plan, **better))[0].used.max()
    assert after <= before * (1 + 1e-12)


def test_subgroups_of_shards_hold_more() -> None:
    held = ledger(GPT, Plan(dp=8, gbs=8))[1].dense_parameters[0]
    for zero, states in ((1, 12.0), (2, 12.0 + 4.0)):
        whole, _ = ledger(GPT, Plan(dp=8, gbs=8, zero=zero))
        part, _ = ledger(GPT, Plan(dp=8, gbs=8, zero=zero, shard=2))
        more = part.optimizer + part.gradients - whole.optimizer - whole.gradients
        assert more[0] == pytest.approx(states * held * (1 / 2 - 1 / 8))


def test_experts_lie_in_the_shard_groups_too() -> None:
    moe = load_model("mixtral-8x7b")
    plan = Plan(dp=32, ep=8, gbs=32, zero=3)
    whole, stages = ledger(moe, plan)
    part, _ = ledger(moe, dataclasses.replace(plan, shard=16))
    # four ranks hold the same experts; a shard group of sixteen ranks has two of them
    dense, experts = stages.dense_parameters[0], stages.expert_parameters[0]
    expected = 8.0 * (dense * (1 / 16 - 1 / 32) + experts * (1 / 2 - 1 / 4))
    assert (part.optimizer - whole.optimizer)[0] == pytest.approx(expected)


def test_optimizer_bytes() -> None:
    adam, _ = ledger(GPT, Plan(dp=8, gbs=8))
    small, _ = ledger(GPT, Plan(dp=8, gbs=8, optimizer_bytes=8))
    assert small.optimizer[0] == pytest.approx(adam.optimizer[0] * 8 / 12)
    sharded, _ = ledger(GPT, Plan(dp=8, gbs=8, zero=3, optimizer_bytes=8))
    assert sharded.optimizer[0] == pytest.approx(adam.optimizer[0] * 4 / 12)

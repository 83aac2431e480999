"""The closed form of a step: closed cases, bounds, and one plan priced as among many."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from fullmesh.cost.effects import TermTable, load_effects, load_terms, settings_of, term_index
from fullmesh.cost.stages import Stages, stage_table
from fullmesh.cost.step import PARTS, STAGE_PARTS, TRAFFIC, StepTime, stage_time, step_time
from fullmesh.machine import Machine, load_machine
from fullmesh.outcomes.estimate import evaluate
from fullmesh.plan import Plan, Plans
from fullmesh.plan.feasible import violations
from fullmesh.workload import MLP, Attention, LatentAttention, Layer, Mamba2, ModelSpec, MoE
from fullmesh.workload.readers.huggingface import load_model

MIXER = Attention(num_heads=16, num_kv_heads=4, head_dim=128)
DENSE = ModelSpec(
    id="dense", name="Dense", hidden=2048, vocab=32000, layers=(Layer(mixer=MIXER, ffn=MLP(ffn=5632)),) * 16
)
SPARSE = ModelSpec(
    id="sparse",
    name="Sparse",
    hidden=2048,
    vocab=32000,
    layers=(
        Layer(mixer=MIXER, ffn=MLP(ffn=5632)),
        *(Layer(mixer=MIXER, ffn=MoE(num_experts=16, topk=4, ffn=1024, shared_ffn=1024)),) * 15,
    ),
    mtp_layers=1,
)
LATENT = LatentAttention(
    num_heads=16, q_lora_rank=512, kv_lora_rank=256, qk_nope_dim=64, qk_rope_dim=32, v_dim=64
)
MIXED = ModelSpec(
    id="mixed",
    name="Mixed",
    hidden=2048,
    vocab=32000,
    layers=(
        Layer(mixer=Mamba2(num_heads=32, head_dim=64, state_dim=64, num_groups=8), ffn=None),
        Layer(mixer=LATENT, ffn=MLP(ffn=4096, gated=False)),
    )
    * 8,
)
MODELS = {"dense": DENSE, "sparse": SPARSE, "mixed": MIXED}
H100 = load_machine("h100", num_devices=64)
MACHINES = [H100, load_machine("gb200-nvl72"), load_machine("cloudmatrix384", num_devices=128)]
FACTORS = ("linear", "expert", "attention", "scan", "memory", "route")


def priced(model: ModelSpec, machine: Machine, *plans: Plan, distinct: bool = True) -> StepTime:
    return evaluate(model, machine, Plans.of(plans), distinct=distinct).times


def terms(plans: Plans, values: Mapping[str, float], default: float = 0.0) -> TermTable:
    """Terms with chosen values; all others have ``default``."""
    row = np.full(len(load_terms("step")), default)
    for name, value in values.items():
        row[term_index("step")[name]] = value
    return TermTable(model="step", values=np.tile(row, (len(plans), 1)))


def bare(model: ModelSpec, machine: Machine, plan: Plan, **values: float) -> tuple[StepTime, Stages, Plans]:
    """The step with kernels alone: no launches, no communication, no optimizer, nothing fixed."""
    columns = Plans.of([plan])
    stages = stage_table(model, machine, columns, distinct=False)
    chosen = dict.fromkeys(FACTORS, 1.0) | {"all": 1.0} | values
    return step_time(stages, columns, terms(columns, chosen)), stages, columns


def even_stages(
    plan: Plan, forward_s: float, backward_s: float, weight_s: float = 0.0
) -> tuple[Stages, Plans]:
    """A pipeline whose stages all take the same, written down by hand."""
    columns = Plans.of([plan])
    stages = stage_table(DENSE, H100, columns, distinct=False)
    from fullmesh.cost.components import C

    x = np.zeros_like(stages.components)
    x[:, C.LINEAR_F], x[:, C.LINEAR_B], x[:, C.LINEAR_W] = forward_s, backward_s - weight_s, weight_s
    zeros = np.zeros(len(x))
    return (
        dataclasses.replace(
            stages, components=x, gradient_s=zeros, parameter_s=zeros, optimizer_s=zeros, send_s=zeros
        ),
        columns,
    )


PLANS = st.builds(
    Plan,
    tp=st.sampled_from([1, 2, 4]),
    cp=st.sampled_from([1, 2]),
    pp=st.sampled_from([1, 2, 4]),
    vpp=st.sampled_from([1, 2]),
    dp=st.sampled_from([1, 2, 4]),
    ep=st.sampled_from([1, 1, 2]),
    gbs=st.sampled_from([8, 16, 32]),
    mbs=st.sampled_from([1, 2]),
    zero=st.sampled_from([0, 1, 3]),
    sequence_parallel=st.booleans(),
    recompute=st.sampled_from(["none", "selective", "full"]),
    recompute_fraction=st.sampled_from([0.25, 1.0]),
    schedule=st.sampled_from(["1f1b", "gpipe", "zero-bubble", "dualpipe"]),
    precision=st.sampled_from(["bf16", "int8"]),
    tp_overlap=st.booleans(),
    grad_overlap=st.booleans(),
    ep_overlap=st.booleans(),
    p2p_overlap=st.booleans(),
    cuda_graph=st.sampled_from(["none", "full"]),
    dispatcher=st.sampled_from(["alltoall", "deepep", "allgather"]),
    flash_attention=st.booleans(),
    trainable=st.sampled_from(["all", "all", "lora"]),
    layout=st.just(""),
    stack=st.sampled_from(["", "nemo-26.04"]),
)


def usable(model: ModelSpec, machine: Machine, plan: Plan) -> bool:
    return bool(violations(model, machine, Plans.of([plan])).ok[0])


@pytest.mark.parametrize("name", MODELS)
def test_a_plan_costs_the_same_alone_and_among_many(name: str) -> None:
    model = MODELS[name]
    machine = load_machine("b200", num_devices=64)
    plans = [
        Plan(tp=2, dp=4, gbs=32),
        Plan(pp=4, dp=2, gbs=16, precision="fp8", recompute="full"),
        Plan(pp=2, vpp=4, tp=2, gbs=8, precision="mxfp8", zero=1, stack="nemo-26.04"),
        Plan(pp=4, gbs=8, layout="Et*3|t*5|t*5|t*3L", precision="nvfp4"),
        Plan(pp=4, gbs=8, layout="Et*5|t*5|t*5|tL", precision="bf16"),
        Plan(cp=2, dp=8, gbs=16, zero=3, precision="fp8-block", recompute="selective"),
        Plan(pp=2, dp=8, gbs=64, precision="fp8", schedule="zero-bubble", cuda_graph="full"),
        Plan(tp=4, pp=2, dp=2, gbs=8, precision="bf16", flash_attention=False),
    ]
    if model.is_moe:
        plans += [
            Plan(tp=2, dp=8, ep=16, gbs=8),
            Plan(dp=16, ep=8, gbs=16, dispatcher="deepep", precision="fp8"),
        ]
    together = evaluate(model, machine, Plans.of(plans))
    for i, plan in enumerate(plans):
        for distinct in (True, False):
            alone = evaluate(model, machine, Plans.of([plan]), distinct=distinct)
            for column in ("step_s", "low_s", "high_s", *PARTS):
                one, many = getattr(alone.times, column)[0], getattr(together.times, column)[i]
                assert one == pytest.approx(many, rel=1e-12, abs=1e-15), (plan.label(), column)
            assert alone.memory_bytes[0] == pytest.approx(together.memory_bytes[i], rel=1e-12)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.filter_too_much])
@given(PLANS, st.sampled_from(sorted(MODELS)), st.sampled_from(MACHINES))
def test_parts_add_up_and_lie_within_the_bounds(plan: Plan, name: str, machine: Machine) -> None:
    model = MODELS[name]
    assume(usable(model, machine, plan))
    times = priced(model, machine, plan)
    parts = {p: float(getattr(times, p)[0]) for p in PARTS}
    assert sum(parts.values()) == pytest.approx(times.step_s[0], rel=1e-9)
    assert all(v >= -1e-12 for v in parts.values())
    rounding = 1.0 + 1e-12
    assert 0 < times.low_s[0] <= times.step_s[0] * rounding <= times.high_s[0] * rounding**2
    if plan.tp == 1:
        assert parts["tp_s"] == 0
    if not model.is_moe:
        assert parts["ep_s"] == parts["expert_s"] == 0
    if plan.cp == 1:
        assert parts["cp_s"] == 0
    if plan.pp == 1:
        assert parts["bubble_s"] == parts["send_s"] == 0
    if plan.zero != 3:
        assert parts["fsdp_s"] == pytest.approx(0, abs=1e-12)
    if plan.recompute == "none":
        assert parts["recompute_s"] == 0
    if plan.trainable == "lora":
        assert parts["optimizer_s"] == parts["data_parallel_s"] == 0


def faster(machine: Machine, **scale: float) -> Machine:
    """The machine with one of its rates multiplied."""
    chip = machine.chip
    chip = dataclasses.replace(
        chip,
        hbm_bytes_per_s=chip.hbm_bytes_per_s * scale.get("hbm", 1.0),
        matrix_flop_per_s={k: v * scale.get("matrix", 1.0) for k, v in chip.matrix_flop_per_s.items()},
    )
    tiers = tuple(
        dataclasses.replace(t, bytes_per_s=t.bytes_per_s * scale.get("link", 1.0)) for t in machine.tiers
    )
    return dataclasses.replace(machine, chip=chip, tiers=tiers)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.filter_too_much])
@given(
    PLANS,
    st.sampled_from(sorted(MODELS)),
    st.sampled_from(MACHINES),
    st.sampled_from(["hbm", "matrix", "link"]),
    st.sampled_from([1.25, 2.0, 4.0]),
)
def test_better_hardware_is_never_slower(
    plan: Plan, name: str, machine: Machine, what: str, scale: float
) -> None:
    model = MODELS[name]
    assume(usable(model, machine, plan))
    before = priced(model, machine, plan).step_s[0]
    after = priced(model, faster(machine, **{what: scale}), plan).step_s[0]
    assert after <= before * (1 + 1e-9)


@pytest.mark.parametrize("what", ["hbm", "matrix"])
def test_a_faster_chip_is_really_faster(what: str) -> None:
    plan = Plan(tp=2, dp=4, gbs=32)
    before = priced(DENSE, H100, plan).step_s[0]
    after = priced(DENSE, faster(H100, **{what: 2.0}), plan).step_s[0]
    assert after < 0.99 * before


def test_faster_links_make_tensor_parallelism_cheaper() -> None:
    plan = Plan(tp=8, dp=4, gbs=32, mbs=2, tp_overlap=False)
    before, after = priced(DENSE, H100, plan), priced(DENSE, faster(H100, link=2.0), plan)
    assert 0 < after.tp_s[0] < 0.95 * before.tp_s[0]


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.filter_too_much])
@given(PLANS, st.sampled_from(sorted(MODELS)), st.integers(2, 4))
def test_a_larger_batch_takes_longer_but_not_more_than_in_proportion(
    plan: Plan, name: str, times: int
) -> None:
    model = MODELS[name]
    larger = dataclasses.replace(plan, gbs=plan.gbs * times)
    assume(usable(model, H100, plan) and usable(model, H100, larger))
    small, large = priced(model, H100, plan).step_s[0], priced(model, H100, larger).step_s[0]
    assert small < large <= times * small * (1 + 1e-9)


@pytest.mark.parametrize("micro", [4, 16])
@pytest.mark.parametrize("vpp", [1, 2, 4])
@pytest.mark.parametrize("pp", [1, 2, 4])
def test_even_stages_follow_the_formula_of_the_pipeline(pp: int, vpp: int, micro: int) -> None:
    if pp == 1 and vpp > 1:
        return
    stages, plans = even_stages(Plan(pp=pp, vpp=vpp, gbs=micro), 1.0, 2.0)
    found = step_time(stages, plans, terms(plans, {"linear": 1.0, "all": 1.0}))
    assert found.step_s[0] == pytest.approx((micro + (pp - 1) / vpp) * 3.0, rel=1e-12)
    assert found.bubble_s[0] == pytest.approx((pp - 1) / vpp * 3.0, rel=1e-12)
    assert found.linear_s[0] == pytest.approx(micro * 3.0, rel=1e-12)


def test_gpipe_takes_as_long_as_1f1b_and_knows_no_chunks() -> None:
    plain, _ = even_stages(Plan(pp=4, gbs=8), 1.0, 2.0), None
    gpipe = even_stages(Plan(pp=4, gbs=8, schedule="gpipe"), 1.0, 2.0)
    values = {"linear": 1.0, "all": 1.0}
    assert step_time(*gpipe, terms(gpipe[1], values)).step_s == pytest.approx(
        step_time(*plain, terms(plain[1], values)).step_s
    )


def test_zero_bubble_and_dualpipe_wait_as_published() -> None:
    forward, backward, weight, pp = 1.0, 2.0, 1.0, 8
    bubble = {}
    for schedule in ("1f1b", "zero-bubble", "dualpipe"):
        stages, plans = even_stages(Plan(pp=pp, gbs=16, schedule=schedule), forward, backward, weight)
        bubble[schedule] = step_time(stages, plans, terms(plans, {"linear": 1.0, "all": 1.0})).bubble_s[0]
    # (P-1)(F+B); ZB-H1: (P-1)(F+B-2W); DualPipe: (P/2-1)(F&B + B - 3W), with F&B taken as F + B
    assert bubble["1f1b"] == pytest.approx((pp - 1) * (forward + backward))
    assert bubble["zero-bubble"] == pytest.approx((pp - 1) * (forward + backward - 2 * weight))
    assert bubble["dualpipe"] == pytest.approx((pp / 2 - 1) * (forward + backward + backward - 3 * weight))


@pytest.mark.parametrize("schedule", ["zero-bubble", "dualpipe"])
@pytest.mark.parametrize("name", MODELS)
def test_schedules_without_bubbles_are_shorter(schedule: str, name: str) -> None:
    plan = Plan(pp=8, dp=2, gbs=32)
    plain = priced(MODELS[name], H100, plan)
    short = priced(MODELS[name], H100, dataclasses.replace(plan, schedule=schedule))
    assert short.bubble_s[0] < 0.9 * plain.bubble_s[0]
    assert short.step_s[0] < plain.step_s[0]


def test_interleaving_divides_the_bubble() -> None:
    one = priced(DENSE, H100, Plan(pp=4, vpp=1, dp=2, gbs=32))
    four = priced(DENSE, H100, Plan(pp=4, vpp=4, dp=2, gbs=32))
    assert four.bubble_s[0] == pytest.approx(one.bubble_s[0] / 4, rel=0.05)


def test_uneven_stages_wait_for_the_longest() -> None:
    plan = Plan(pp=4, gbs=8)
    stages, plans = even_stages(plan, 1.0, 2.0)
    from fullmesh.cost.components import C

    x = stages.components.copy()
    x[2] *= 2.0
    uneven = dataclasses.replace(stages, components=x)
    found = step_time(uneven, plans, terms(plans, {"linear": 1.0, "all": 1.0}))
    assert found.step_s[0] == pytest.approx(8 * 6.0 + 3 * 3.0)
    assert x[2, C.LINEAR_F] == 2.0
    assert found.stage_forward_s.tolist() == [1.0, 1.0, 2.0, 1.0]


def test_full_recompute_adds_one_forward_pass_of_the_layers() -> None:
    plan = Plan(dp=4, gbs=16)
    none, stages, _ = bare(DENSE, H100, plan)
    full, _, _ = bare(DENSE, H100, dataclasses.replace(plan, recompute="full"))
    headless = dataclasses.replace(DENSE, vocab=1)
    forward = bare(headless, H100, plan)[0].stage_forward_s[0] * plan.num_microbatches
    added = float(full.step_s[0] - none.step_s[0])
    assert added == pytest.approx(float(full.recompute_s[0]), rel=1e-9)
    assert added == pytest.approx(forward, rel=0.03)
    half, _, _ = bare(DENSE, H100, dataclasses.replace(plan, recompute="full", recompute_fraction=0.5))
    assert half.recompute_s[0] == pytest.approx(added / 2, rel=1e-9)
    assert stages.components.shape[0] == 1


def test_recomputing_a_part_costs_less_than_recomputing_all() -> None:
    plan = Plan(dp=4, ep=4, gbs=16, recompute="selective")
    whole = priced(SPARSE, H100, dataclasses.replace(plan, recompute="full")).recompute_s[0]
    for module in ("core_attn", "moe", "moe_act", "layernorm", "mlp"):
        part = priced(SPARSE, H100, dataclasses.replace(plan, recompute_modules=(module,))).recompute_s[0]
        assert 0 < part < whole, module


@pytest.mark.parametrize(
    ("term", "changes"),
    [
        ("overlap_tp", {"tp": 4, "tp_overlap": False}),
        ("overlap_grad", {"grad_overlap": False, "param_overlap": False}),
        ("overlap_send", {"pp": 4, "p2p_overlap": False}),
        ("overlap_ep", {"ep": 4}),
    ],
)
def test_a_switch_that_is_off_hides_nothing(term: str, changes: dict[str, object]) -> None:
    plan = dataclasses.replace(Plan(dp=4, gbs=32), **changes)  # type: ignore[arg-type]
    columns = Plans.of([plan])
    stages = stage_table(SPARSE, H100, columns)
    base = dict.fromkeys((*FACTORS, "tp", "ep", "send", "gradient", "all"), 1.0)
    steps = {
        share: step_time(stages, columns, terms(columns, base | {term: share})).step_s[0]
        for share in (0.0, 0.9)
    }
    assert steps[0.0] == steps[0.9]
    switch = {"overlap_tp": "tp_overlap", "overlap_grad": "grad_overlap"} | {
        "overlap_send": "p2p_overlap", "overlap_ep": "ep_overlap",
    }  # fmt: skip
    on = Plans.of([dataclasses.replace(plan, **{switch[term]: True})])  # type: ignore[arg-type]
    assert step_time(stages, on, terms(on, base | {term: 0.9})).step_s[0] < steps[0.0]


def test_gradients_hide_behind_the_backward_pass_only_as_far_as_it_reaches() -> None:
    plans = Plans.of([Plan(dp=8, gbs=8)])
    stages, _ = even_stages(Plan(dp=8, gbs=8), 1.0, 2.0)
    base = {"linear": 1.0, "all": 1.0, "gradient": 1.0, "overlap_grad": 1.0}
    for traffic, exposed in ((1.5, 0.0), (2.0, 0.0), (5.0, 3.0)):
        loaded = dataclasses.replace(stages, gradient_s=np.array([traffic]))
        assert step_time(loaded, plans, terms(plans, base)).data_parallel_s[0] == pytest.approx(exposed)
    never = terms(plans, base | {"overlap_grad": 0.0})
    loaded = dataclasses.replace(stages, gradient_s=np.array([1.5]))
    assert step_time(loaded, plans, never).data_parallel_s[0] == pytest.approx(1.5)


def test_what_hides_slows_computation_down_by_the_contention() -> None:
    columns = Plans.of([Plan(tp=4, gbs=8)])
    stages = stage_table(DENSE, H100, columns)
    base = dict.fromkeys((*FACTORS, "tp", "all"), 1.0) | {"overlap_tp": 0.5}
    calm = step_time(stages, columns, terms(columns, base))
    busy = step_time(stages, columns, terms(columns, base | {"contention": 0.2}))
    # half of the traffic is hidden: the exposed half is as long
    assert busy.step_s[0] - calm.step_s[0] == pytest.approx(0.2 * float(calm.tp_s[0]), rel=1e-9)


def test_sharded_parameters_hide_and_what_hides_slows_down() -> None:
    from fullmesh.cost.components import C

    stages, plans = even_stages(Plan(dp=8, gbs=8, zero=3), 1.0, 2.0)
    x = stages.components.copy()
    x[:, C.FSDP_F], x[:, C.FSDP_B] = 0.5, 1.0
    loaded = dataclasses.replace(stages, components=x)
    base = {"linear": 1.0, "all": 1.0, "fsdp": 1.0}
    none = step_time(loaded, plans, terms(plans, base))
    assert none.fsdp_s[0] == pytest.approx(1.5)
    assert none.step_s[0] == pytest.approx(4.5)
    most = step_time(loaded, plans, terms(plans, base | {"overlap_fsdp": 1.0}))
    assert 0 < most.fsdp_s[0] < 0.1
    busy = step_time(loaded, plans, terms(plans, base | {"overlap_fsdp": 1.0, "contention": 0.2}))
    assert busy.step_s[0] - most.step_s[0] == pytest.approx(0.2 * (1.5 - most.fsdp_s[0]))


@pytest.mark.parametrize("vpp", [1, 2])
@pytest.mark.parametrize("hidden", [0.0, 0.75])
def test_sends_are_paid_on_the_way_in_and_out_and_where_they_do_not_hide(vpp: int, hidden: float) -> None:
    stages, plans = even_stages(Plan(pp=4, vpp=vpp, gbs=16), 1.0, 2.0)
    loaded = dataclasses.replace(stages, send_s=np.full(len(stages.send_s), 0.1))
    found = step_time(
        loaded, plans, terms(plans, {"linear": 1.0, "all": 1.0, "send": 1.0, "overlap_send": hidden})
    )
    assert found.send_s[0] == pytest.approx(0.1 * (2 * vpp * 16 * (1 - hidden) + 2 * 3))


def test_stragglers_grow_with_every_doubling_beyond_a_node() -> None:
    for dp, doublings in ((1, 0), (8, 0), (16, 1), (64, 3)):
        stages, plans = even_stages(Plan(dp=dp, gbs=dp), 1.0, 2.0)
        found = step_time(stages, plans, terms(plans, {"linear": 1.0, "all": 1.0, "straggler": 0.01}))
        assert found.straggler_s[0] == pytest.approx(3.0 * 0.01 * doublings)


def test_a_release_scales_the_whole_step() -> None:
    stages, plans = even_stages(Plan(gbs=2), 1.0, 2.0)
    found = step_time(stages, plans, terms(plans, {"linear": 1.0, "all": 0.9, "fixed": 1.0}))
    assert found.step_s[0] == pytest.approx(0.9 * 7.0)
    # what the release saves is inside the lines that it saves
    assert found.linear_s[0] == pytest.approx(0.9 * 6.0)
    assert found.fixed_s[0] == pytest.approx(0.9)


def test_stage_time_is_what_the_step_adds_up() -> None:
    plans = Plans.of([Plan(tp=2, pp=2, dp=2, ep=2, gbs=16)])
    stages = stage_table(SPARSE, H100, plans, distinct=False)
    keys, index = settings_of(SPARSE, H100, plans)
    table = load_effects().table("step", keys, index)
    t = stage_time(stages, plans, table)
    parts = t.linear + t.expert + t.attention + t.scan + t.memory + t.route + t.recompute
    parts = parts + t.launch + t.tp + t.ep + t.cp + t.fsdp
    np.testing.assert_allclose(parts, t.forward_s + t.backward_s, rtol=1e-12)
    assert (t.weight_s < t.backward_s).all()


def test_a_step_without_gradients_of_weights_is_shorter() -> None:
    plan = Plan(dp=8, gbs=16)
    lora = priced(DENSE, H100, dataclasses.replace(plan, trainable="lora"))
    assert lora.linear_s[0] == pytest.approx(priced(DENSE, H100, plan).linear_s[0] * 2 / 3, rel=0.1)
    assert lora.step_s[0] < priced(DENSE, H100, plan).step_s[0]


def test_switches_and_shares_of_traffic_are_those_of_plans_and_terms() -> None:
    for kind in TRAFFIC:
        assert not kind.switch or isinstance(getattr(Plan(), kind.switch), bool)
        assert bool(kind.share) == bool(kind.switch)
        assert not kind.share or kind.share in term_index("step")
        assert kind.name in STAGE_PARTS


class TestCapabilities:
    """What a stack states of itself moves the step in its own direction, and nothing else does."""

    MOE = load_model("qwen3-30b-a3b")
    MACHINE = load_machine("h200", num_devices=16)

    def found(self, **fields: object) -> tuple[StepTime, float]:
        given = {"dp": 16, "ep": 8, "gbs": 64, "precision": "fp8", "stack": "nemo-26.06"} | fields
        plans = Plans.of([Plan(**given)])  # type: ignore[arg-type]
        result = evaluate(self.MOE, self.MACHINE, plans)
        return result.times, float(result.memory_bytes[0])

    def test_casts_inside_other_kernels_are_cheaper(self) -> None:
        plain, fused = self.found()[0], self.found(fused_casts=True)[0]
        assert fused.step_s[0] < plain.step_s[0]
        assert fused.memory_s[0] < plain.memory_s[0]
        assert fused.linear_s[0] == plain.linear_s[0]
        # there is nothing to cast in 16 bits
        assert (
            self.found(precision="bf16", fused_casts=True)[0].step_s == self.found(precision="bf16")[0].step_s
        )

    def test_copies_of_weights_cost_memory_or_time(self) -> None:
        (kept, more), (anew, less) = self.found(), self.found(weight_cache=False)
        assert anew.step_s[0] > kept.step_s[0]
        assert less < more
        assert self.found(precision="bf16", weight_cache=False) == pytest.approx(self.found(precision="bf16"))

    def test_host(self) -> None:
        slow, fast = (self.found(issue_ns=n)[0] for n in (50_000, 100))
        assert slow.launch_s[0] > fast.launch_s[0]
        none, one, two = (self.found(routing_syncs=n)[0] for n in range(3))
        assert two.launch_s[0] - one.launch_s[0] == pytest.approx(one.launch_s[0] - none.launch_s[0])
        assert one.launch_s[0] > none.launch_s[0]
        assert self.found()[0].step_s == one.step_s

    def test_prefetch(self) -> None:
        ahead, late = (self.found(zero=3, fsdp_prefetch=b)[0] for b in (True, False))
        assert late.fsdp_s[0] > ahead.fsdp_s[0]
        assert self.found(fsdp_prefetch=False)[0].step_s == self.found()[0].step_s

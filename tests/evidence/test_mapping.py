"""From a published row to a plan: every way in which the table prints a setting is understood, and as meant."""

from __future__ import annotations

import re

import pytest

from fullmesh.errors import FullmeshError, ResultsError
from fullmesh.evidence.cases import case_table
from fullmesh.evidence.mapping import Case, graph_setting, row_case, row_machine, row_precision, row_stack
from fullmesh.evidence.published import is_headline, published_step_s
from fullmesh.evidence.results import COLUMNS, ResultRow, _row, read_results
from fullmesh.plan import RECIPES, Plan
from fullmesh.plan.plan import FIELDS, check_plan

ROWS = read_results()
BY_ID = {row.id: row for row in ROWS}

# Rows of the headline that are not predicted, and why. The list may only become shorter.
REFUSED = {"NV273": "EP 64 x ETP 1 does not divide the 32 ranks of a stage"}

BASE = {
    "id": "X1",
    "tier": "A",
    "phase": "pretrain",
    "framework": "NeMo 26.04 container, Megatron-Core",
    "gpu": "H100",
    "n_gpus": "64",
    "model": "Llama-3-70B",
    "seq": "8192",
    "precision": "BF16",
    "TP": "4",
    "PP": "4",
    "DP": "4",
    "mbs": "1",
    "gbs": "128",
    "step_s": "10",
}


def make(**fields: str) -> ResultRow:
    return _row({c: (BASE | fields).get(c, "") for c in COLUMNS}, 2, "table.csv, line 2")


def plan_of(**fields: str) -> Plan:
    return row_case(make(**fields)).plan


def cases() -> dict[str, Case]:
    found = {}
    for row in ROWS:
        try:
            found[row.id] = row_case(row)
        except FullmeshError:
            continue
    return found


@pytest.fixture(scope="module")
def mapped() -> dict[str, Case]:
    return cases()


def first_rows(column: str) -> list[ResultRow]:
    """The first row of every distinct value whose layout and batch are published and divide the devices."""
    found: dict[str, ResultRow] = {}
    for row in ROWS:
        ranks = (row.tp or 1) * (row.cp or 1) * (row.pp or 1)
        laid_out = row.tp or row.pp or row.dp or row.fsdp
        if (
            row.id not in REFUSED
            and row.n_gpus
            and row.seq
            and row.gbs
            and laid_out
            and row.n_gpus % ranks == 0
        ):
            found.setdefault(getattr(row, column), row)
    return list(found.values())


def distinct(column: str) -> pytest.MarkDecorator:
    rows = first_rows(column)
    return pytest.mark.parametrize("row", rows, ids=[f"{r.id}:{getattr(r, column)[:40]}" for r in rows])


def check(row: ResultRow) -> Case:
    """Map a row: what holds of all of them."""
    case = row_case(row)
    check_plan(case.plan)
    assert case.plan.num_devices == row.n_gpus == case.machine.num_devices
    assert case.plan.gbs == row.gbs
    return case


@distinct("recompute")
def test_every_recompute_setting_is_understood(row: ResultRow) -> None:
    case = check(row)
    plan, text = case.plan, row.recompute.lower()
    if text.startswith("none") or not text:
        assert plan.recompute == "none"
        assert ("recompute not published, none assumed" in case.assumptions) == (not text)
    elif text.startswith("full") or text.startswith("block"):
        assert plan.recompute == "full"
    else:
        # selective checkpointing of PyTorch does half of the layers again, as a whole
        assert plan.recompute == ("full" if " ac" in text else "selective")
    assert 0 < plan.recompute_fraction <= 1


@distinct("vpp")
def test_every_way_of_printing_virtual_stages_is_understood(row: ResultRow) -> None:
    case = check(row)
    assert case.plan.pp * case.plan.vpp <= case.model.num_layers + 2
    if row.vpp.isdigit() and case.plan.pp > 1:
        assert case.plan.vpp == int(row.vpp)


@distinct("precision")
def test_every_precision_is_understood(row: ResultRow) -> None:
    case = check(row)
    assert case.plan.precision in RECIPES
    if not row.precision:
        assert any("precision not published" in a for a in case.assumptions)


@distinct("overlap_and_flags")
def test_every_combination_of_flags_is_understood(row: ResultRow) -> None:
    check(row)


@distinct("dist_opt")
def test_every_optimizer_setting_is_understood(row: ResultRow) -> None:
    case = check(row)
    if row.dist_opt == "no":
        assert case.plan.zero == 0
    if row.dist_opt.startswith("yes"):
        assert case.plan.zero >= 1
    if row.dist_opt in ("FSDP2", "ZeRO-3"):
        assert case.plan.zero == 3


@distinct("framework")
def test_every_framework_has_a_stack(row: ResultRow) -> None:
    stack, options = row_stack(row.framework, row.source, row.overlap_and_flags)
    assert stack
    assert "{" not in stack
    assert set(options) <= set(FIELDS)


@pytest.mark.parametrize("gpu", sorted({r.gpu for r in ROWS}))
def test_every_device_is_known(gpu: str) -> None:
    machine = row_machine(gpu)
    assert machine.chip.vendor == ("huawei" if "Ascend" in gpu else "nvidia")
    if "Ascend" not in gpu:
        assert re.split("[- ]", gpu)[0].lower() in machine.chip.id


def test_a_grace_hopper_is_no_h200() -> None:
    with pytest.raises(ResultsError, match="GH200"):
        row_machine("GH200")


def test_an_unknown_device_is_named() -> None:
    with pytest.raises(ResultsError, match="TPU v5p"):
        row_machine("TPU v5p")


def test_headline_rows_are_all_mapped_but_for_those_listed(mapped: dict[str, Case]) -> None:
    wanted = [r for r in ROWS if is_headline(r) and published_step_s(r)]
    assert len(wanted) > 600
    missing = {r.id for r in wanted if r.id not in mapped}
    assert missing <= set(REFUSED)
    for row_id in missing:
        with pytest.raises(FullmeshError, match=REFUSED[row_id]):
            row_case(BY_ID[row_id])


# What a reader of the sources would write down for these rows.
SAMPLE: dict[str, dict[str, object]] = {
    "NV001": {"pp": 2, "vpp": 8, "ep": 32, "layout": "Et*4|(t*4|)*14tmL", "cuda_graph": "full", "precision": "mxfp8"},
    "NV002": {"recompute": "selective", "recompute_modules": ("mla_up_proj",), "pp": 4, "vpp": 4, "ep": 64},
    "NV014": {"cuda_graph": "partial", "dispatcher": "hybridep", "precision": "nvfp4"},
    "NV019": {"cuda_graph": "full", "dispatcher": "hybridep", "ep_overlap": True},
    "NV038": {"cuda_graph": "none", "tp_overlap": True},
    "NV057": {"recompute_modules": ("core_attn", "moe", "moe_act", "layernorm"), "cuda_graph": "partial"},
    "NV076": {"cuda_graph": "none", "precision": "nvfp4"},
    "NV077": {"zero": 3, "offload_activations": 0.5, "tp": 1},
    "NV243": {"cuda_graph": "full"},
    "NV290": {"dispatcher": "deepep", "ep_overlap": True},
    "NV294": {"grad_overlap": False, "layout": "Et|(tt|)*30mL", "pp": 8, "vpp": 4, "tp": 2},
    "NV302": {"param_overlap": False},
    "NV318": {"tp_overlap": False, "grad_overlap": False, "param_overlap": False, "cuda_graph": "none"},
    "NV343": {"zero": 3, "dispatcher": "deepep", "compiled": False, "pp": 4, "vpp": 8},
    "NV356": {"grad_bytes": 2, "cp": 2, "tp": 1, "zero": 1},
    "NV432": {"fp8_params": True, "pp": 8, "vpp": 6, "tp_overlap": True},
    "NV606": {"sequence_parallel": False, "zero": 0, "flash_attention": False, "recompute": "full"},
    "NV616": {"zero": 3, "dp": 384, "precision": "fp16", "flash_attention": False},
    "NV632": {"sequence_parallel": False, "tp": 8, "recompute": "full"},
    "NV633": {"sequence_parallel": True, "tp": 8, "recompute": "selective", "recompute_modules": ()},
    "NV643": {"zero": 2, "pp": 16, "grad_bytes": 4, "recompute": "none"},
    "NV668": {"schedule": "dualpipe", "precision": "fp8-block", "ep_overlap": True, "pp": 16, "ep": 64},
    "NV684": {"compiled": True, "zero": 3, "recompute": "full", "recompute_fraction": 0.5},
    "NV683": {"compiled": False, "zero": 3},
    "NV695": {"tp_overlap": True, "tp": 8, "pp": 8, "vpp": 1, "precision": "fp8"},
    "NV696": {"vpp": 2},
    "NV701": {"tp_overlap": False, "compiled": True},
    "NV724": {"p2p_overlap": False, "grad_overlap": False},
    "NV776": {"zero": 2},
    "NV813": {"zero": 3, "grad_bytes": 2},
    "NV886": {"fp8_params": True, "cuda_graph": "full", "tp": 4, "cp": 2, "vpp": 8},
    "AS002": {"tp_overlap": True, "zero": 0, "sequence_parallel": True, "tp": 8},
    "AS010": {"zero": 1, "grad_overlap": True, "param_overlap": True, "precision": "fp16"},
    "AS027": {"pp": 4, "vpp": 4},
    "AT002": {"tp_overlap": True, "grad_overlap": True, "param_overlap": True, "tp": 2},
    "MF008": {"recompute": "selective", "recompute_fraction": 21 / 80, "pp": 8, "sequence_parallel": True},
    "MF030": {"recompute": "full", "recompute_fraction": 49 / 80},
    "BX0072": {
        "layout": "E" + "t" * 9 + "|" + "t" * 9 + "|" + "t" * 8 + "|" + "t" * 6 + "L", "grad_copy": True,
        "compiled": False, "fused_loss": False,
    },
}  # fmt: skip


@pytest.mark.parametrize("row_id", SAMPLE)
def test_a_sample_read_by_hand(row_id: str, mapped: dict[str, Case]) -> None:
    plan = mapped[row_id].plan
    assert {name: getattr(plan, name) for name in SAMPLE[row_id]} == SAMPLE[row_id]


@pytest.mark.parametrize(
    ("row_id", "machine", "chip"),
    [
        ("NV001", "gb300-nvl72", "gb300"),
        ("NV606", "dgx-a100", "a100-80"),
        ("NV668", "h800-cluster", "h800"),
        ("NV684", "h100-96-cluster", "h100-96-hbm2e"),
        ("NV713", "dgx-h200", "h200"),
        ("NV720", "h100-94-cluster", "h100-94"),
        ("AT002", "cloudmatrix384", "ascend-910c"),
        ("AS002", "atlas-900-a2-podc", "ascend-910b2"),
    ],
)
def test_a_row_gets_the_machine_that_it_ran_on(
    row_id: str, machine: str, chip: str, mapped: dict[str, Case]
) -> None:
    found = mapped[row_id].machine
    assert (found.id, found.chip.id, found.num_devices) == (machine, chip, BY_ID[row_id].n_gpus)


@pytest.mark.parametrize(
    ("framework", "source", "stack"),
    [
        ("NeMo 26.04.01 container, Megatron-Core", "NeMo summary", "nemo-26.04"),
        ("Megatron-Bridge (26.06-26.08)", "Megatron-Bridge", "nemo-26.06"),
        ("NVIDIA NeMo Framework Release 25.09", "MLPerf Training v5.1", "mlperf-25.09"),
        ("NVIDIA NEMO", "MLPerf Training v5.0", "mlperf-any"),
        ("torchtitan/PyTorch", "torchtitan", "torchtitan"),
        ("Composer + PyTorch FSDP", "llm-foundry", "composer"),
        ("ModelLink (legacy)", "ModelLink", "modellink-legacy"),
        ("MindSpeed-LLM", "MindSpeed-LLM", "mindspeed"),
        ("somebody's own", "a blog", "unknown"),
    ],
)
def test_stacks_carry_their_release(framework: str, source: str, stack: str) -> None:
    # a generation may follow the name
    assert row_stack(framework, source)[0].startswith(stack)


@pytest.mark.parametrize(
    ("text", "default", "recipe"),
    [
        ("BF16", "bf16", "bf16"),
        ("MXFP8", "bf16", "mxfp8"),
        ("NVFP4", "bf16", "nvfp4"),
        ("FP8", "bf16", "fp8"),
        ("FP8", "fp8-block", "fp8-block"),
        ("FP8 (128x128 / 1x128 blocks)", "bf16", "fp8-block"),
        ("FP8 or FP4 (not checked)", "bf16", "nvfp4"),
        ("INT8", "bf16", "int8"),
        ("", "fp16", "fp16"),
    ],
)
def test_precisions(text: str, default: str, recipe: str) -> None:
    assert row_precision(text, default, []) == recipe


def test_an_unknown_precision_is_refused() -> None:
    with pytest.raises(ResultsError, match="FP6"):
        row_precision("FP6", "bf16", [])


@pytest.mark.parametrize(
    ("text", "setting"),
    [
        ("full-iteration CUDA graph", "full"),
        ("cuda_graph=local:full_iteration", "full"),
        ("cuda_graph=none:full_iteration", "none"),
        ("cuda_graph=transformer_engine:['attn']", "partial"),
        ("TE CUDA graph attn+router", "partial"),
        ("no CUDA graph", "none"),
        ("CUDA graphs off", "none"),
        ("TP comm overlap", ""),
        ("", ""),
    ],
)
def test_graph_settings(text: str, setting: str) -> None:
    assert graph_setting(text) == setting


@pytest.mark.parametrize(
    ("column", "value", "what"),
    [
        ("n_gpus", "", "number of devices"),
        ("seq", "", "sequence length"),
        ("gbs", "", "global batch"),
        ("gpu", "TPU v4", "TPU v4"),
        ("precision", "FP6", "FP6"),
        ("recompute", "sometimes", "sometimes"),
        ("VPP", "many", "many"),
        ("n_gpus", "60", "does not divide 60"),
        ("gbs", "130", "130"),
        ("model", "NoSuch-7B", "NoSuch-7B"),
    ],
)
def test_a_row_that_cannot_be_understood_says_which_field(column: str, value: str, what: str) -> None:
    with pytest.raises(FullmeshError) as caught:
        plan_of(**{column: value})
    assert what in caught.value.what + caught.value.hint


def test_a_row_without_a_layout_is_refused() -> None:
    with pytest.raises(ResultsError, match="layout"):
        plan_of(TP="", PP="", DP="")


def test_what_a_row_leaves_open_is_named() -> None:
    assert row_case(make(recompute="none")).assumptions == ()
    said = row_case(make(mbs="", precision="", recompute="", DP="5")).assumptions
    for word in ("micro-batch", "precision", "recompute", "data parallelism"):
        assert any(word in a for a in said), word


def test_a_micro_batch_that_does_not_divide_is_lowered_and_named() -> None:
    case = row_case(make(mbs="3", gbs="128"))
    assert case.plan.mbs in (1, 2)
    assert any("micro-batch 3" in a for a in case.assumptions)


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ("overlap_grad_reduce=False", {"grad_overlap": False, "param_overlap": True}),
        ("overlap_param_gather=False", {"grad_overlap": True, "param_overlap": False}),
        ("no EP overlap", {"ep_overlap": False}),
        ("EP overlap", {"ep_overlap": True}),
        ("fp8 params; bf16 grad sync", {"fp8_params": True, "grad_bytes": 2}),
        ("FP32 grad reduce", {"grad_bytes": 4}),
        ("cp_algo=ulysses_cp_algo", {"cp_kind": "ulysses"}),
        ("optimizer CPU offload 25%", {"offload_optimizer": 0.25}),
        ("cpu_offload_layers=5", {"offload_activations": 0.25}),
        ("no sequence parallel", {"sequence_parallel": False}),
        ("HybridEP", {"dispatcher": "hybridep"}),
    ],
)
def test_flags(flags: str, expected: dict[str, object]) -> None:
    plan = plan_of(overlap_and_flags=flags)
    assert {name: getattr(plan, name) for name in expected} == expected


def test_a_phase_of_adapters_trains_adapters() -> None:
    assert plan_of(phase="lora").trainable == "lora"
    assert plan_of().trainable == "all"


@pytest.mark.parametrize(
    ("dist_opt", "fsdp", "zero"), [("no", "", 0), ("ZeRO-2", "", 2), ("FSDP", "64", 3), ("yes", "", 1)]
)
def test_sharding(dist_opt: str, fsdp: str, zero: int) -> None:
    plan = plan_of(dist_opt=dist_opt, fsdp=fsdp, TP="1", PP="1", DP="64")
    assert plan.zero == zero
    assert plan.shard == 0


def test_fewer_shards_than_ranks_leave_replicas() -> None:
    plan = plan_of(dist_opt="FSDP2", fsdp="8", TP="1", PP="1", DP="64")
    assert (plan.zero, plan.shard) == (3, 8)


def test_a_layout_that_cannot_be_read_is_left_to_the_default() -> None:
    plan = plan_of(overlap_and_flags="pp_layout=Et*20|(t*20|")
    assert plan.layout == ""


@pytest.mark.parametrize(
    "column", ["recompute", "vpp", "precision", "overlap_and_flags", "dist_opt", "framework"]
)
def test_these_tests_see_every_value_of_the_headline(column: str) -> None:
    seen = {getattr(r, column) for r in first_rows(column)}
    assert {getattr(r, column) for r in ROWS if is_headline(r) and r.id not in REFUSED} <= seen


def test_a_shard_group_means_that_parameters_are_sharded() -> None:
    fields = {"TP": "1", "PP": "1", "DP": "64", "fsdp": "64", "dist_opt": "yes (NeMo default; inferred)"}
    plan = plan_of(**fields)
    assert (plan.zero, plan.shard) == (3, 0)
    assert plan_of(**fields | {"fsdp": "32"}).shard == 32
    assert plan_of(**fields | {"fsdp": "0"}).zero == 1
    assert plan_of(**fields | {"dist_opt": "ZeRO-2"}).zero == 2


def test_recompute_that_must_have_been_is_assumed() -> None:
    """Seventy billion parameters in eager FSDP on 64 devices of 80 GB keep no activations of two long sequences."""
    fields = {"TP": "1", "PP": "1", "DP": "64", "fsdp": "64", "mbs": "2", "framework": "MaxText/JAX"}
    table, _ = case_table([make(**fields), make(**fields | {"id": "X2", "recompute": "none"})])
    assert table is not None
    assumed, said = table.cases
    assert assumed.plan.recompute == "full"
    assert any("full assumed" in text for text in assumed.assumptions)
    # what a row says stands, and so does silence where a plan fits without
    assert said.plan.recompute == "none"
    small, _ = case_table([make(**fields | {"model": "Llama-3-8B", "mbs": "1"})])
    assert small is not None
    assert small.cases[0].plan.recompute == "none"
    # a plan whose weights alone are too many says nothing of recompute
    huge, _ = case_table([make(**{"TP": "1", "PP": "1", "DP": "64", "mbs": "1", "gbs": "64"})])
    assert huge is not None
    assert huge.cases[0].plan.recompute == "none"


def test_the_machine_of_a_row_may_be_named() -> None:
    row = make(gpu="", machine="cloudmatrix384", framework="MindSpeed")
    assert row_case(row).machine.id == "cloudmatrix384"
    assert row_machine("910B3").chip.id == "ascend-910b3"
    with pytest.raises(ResultsError, match="unknown"):
        row_machine("abacus")

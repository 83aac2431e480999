"""Launch folders: what is read back is the plan that was written, and what cannot be said is refused by name."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fullmesh
from fullmesh.errors import ExportError, FullmeshError, LaunchError, OutputError, ScenarioError
from fullmesh.machine import load_machine
from fullmesh.outcomes.estimate import Estimate, estimate
from fullmesh.plan import Plan
from fullmesh.plan.software import CAPABILITIES, Software
from fullmesh.study.launch.folder import FRAMEWORKS, as_written, check_target, export_estimate, launch_files
from fullmesh.study.launch.outline import same_model
from fullmesh.study.launch.read import by_release, plan_differences
from fullmesh.study.launch.run import load_run
from fullmesh.study.launch.shell import UNKNOWN, options_of, read_script
from fullmesh.study.launch.yaml_text import parse_yaml, yaml_text
from fullmesh.workload.readers.huggingface import load_model
from strategies.published_plans import accepted

CommandLine = Callable[..., tuple[int, str, str]]
LLAMA = load_model("llama-3-8b")
# published configurations that each framework can run as they were priced; a smaller number has a reason to be found
LEAST = {
    "megatron": 80,
    "megatron-bridge": 80,
    "mindspeed": 50,
    "mindformers": 60,
    "torchtitan": 15,
    "deepspeed": 50,
}


def contrary(plan: Plan, framework: str) -> Software:
    """Software that switches everything otherwise than the plan, but for what no option says."""
    other = {
        "sequence_parallel": not plan.sequence_parallel, "tp_overlap": not plan.tp_overlap,
        "grad_overlap": not plan.grad_overlap, "param_overlap": not plan.param_overlap,
        "grouped_experts": not plan.grouped_experts, "fp8_params": not plan.fp8_params,
        "grad_bytes": 2 if plan.grad_bytes == 4 else 4, "optimizer_bytes": 16,
        "cuda_graph": "none" if plan.cuda_graph != "none" else "full",
        "dispatcher": "allgather" if plan.dispatcher != "allgather" else "deepep",
    }  # fmt: skip
    release = by_release(framework)
    options = {n: v for n, v in other.items() if n not in release}
    options |= {n: getattr(plan, n) for n in release if n in CAPABILITIES}
    return Software(name="x", stack=plan.stack, label="x", families=(), vendor="", options=options)


@pytest.mark.slow
@pytest.mark.parametrize("framework", list(FRAMEWORKS))
def test_import_of_export_is_the_identity(framework: str, tmp_path: Path) -> None:
    """Files written for published plans, read without knowing the plan: the same plan, model, step and memory."""
    found = accepted(framework)
    assert len(found) >= LEAST[framework]
    checked = 0
    for i, case in enumerate(found[:: max(1, len(found) // 40)]):
        machine = case.machine
        e = estimate(case.model, machine, case.plan)
        if not isinstance(e, Estimate):
            continue
        folder = tmp_path / str(i)
        export_estimate(e, framework, folder)
        run = load_run(folder, machine, software=contrary(case.plan, framework))
        wrong = plan_differences(case.plan, run.plan, case.model)
        assert wrong in ([], ["recompute_fraction"]), (case.row.id, wrong)
        assert same_model(case.model, run.model), case.row.id
        assert run.left == (), (case.row.id, run.left)
        assert run.plan.num_devices == case.plan.num_devices
        again = estimate(run.model, machine, run.plan)
        assert isinstance(again, Estimate)
        if not wrong:
            assert again.step_s == pytest.approx(e.step_s, rel=1e-12), case.row.id
            assert again.memory_bytes == pytest.approx(e.memory_bytes, rel=1e-12), case.row.id
        checked += 1
    assert checked >= 12


@pytest.mark.parametrize("framework", list(FRAMEWORKS))
def test_the_files_of_a_folder_are_of_one_kind(framework: str) -> None:
    """Scripts that a shell reads, JSON and TOML that parse, Python that compiles, a README with the prediction."""
    plan = Plan(
        dp=8, zero=3 if framework == "torchtitan" else 1, mbs=1, gbs=64, seq=8192, stack="unknown", cuda_graph="none",
        sequence_parallel=True,
    )  # fmt: skip
    e = estimate(LLAMA, load_machine("h200", num_devices=8), plan)
    assert isinstance(e, Estimate)
    files = launch_files(e, framework)
    assert {"train.sh", "train.sbatch", "README.md"} <= set(files)
    for name, text in files.items():
        assert not re.search(r"@[A-Z_]+@", text), name
        if name.endswith((".sh", ".sbatch")):
            done = subprocess.run(["bash", "-n"], input=text, text=True, capture_output=True, check=False)
            assert done.returncode == 0, done.stderr
        elif name.endswith(".py"):
            compile(text, name, "exec")
        elif name.endswith(".json"):
            json.loads(text)
    readme = files["README.md"]
    assert fullmesh.__version__ in readme
    for figure in (f"{e.tokens_per_s:,.0f}", f"{100 * e.mfu:.1f} %", e.plan.text()):
        assert figure in readme
    assert "NNODES" in readme


def test_every_assumption_of_a_plan_stands_in_the_script() -> None:
    model = load_model("deepseek-v3", mtp_layers=1)
    plan = Plan(
        tp=2, pp=8, vpp=2, dp=128, ep=64, mbs=1, gbs=2048, seq=4096, recompute="selective",
        recompute_modules=("mla_up_proj", "moe_act"), dispatcher="deepep", precision="fp8-block", fp8_params=True,
        cuda_graph="partial", ep_overlap=True, grad_bytes=2, optimizer_bytes=8, shard=64, p2p_overlap=False,
    )  # fmt: skip
    written, _, _ = as_written(plan, model, "megatron")
    text = written.files["train.sh"]
    for words in (
        "--pipeline-model-parallel-layout", "--recompute-modules mla_up_proj moe_act", "--q-lora-rank 1536",
        "--moe-flex-dispatcher-backend deepep", "--fp8-recipe blockwise", "--fp8-param-gather",
        "--cuda-graph-impl transformer_engine", "--overlap-moe-expert-parallel-comm", "--grad-reduce-in-bf16",
        "--exp-avg-dtype bf16", "--num-distributed-optimizer-instances 2", "--no-overlap-p2p-communication",
        "--mtp-num-layers 1", "--moe-layer-freq '([0]*3+[1]*58)'", "--moe-shared-expert-intermediate-size 2048",
    ):  # fmt: skip
        assert words in text, words
    assert "num-layers-per-virtual-pipeline-stage" not in text


def test_what_is_rounded_is_said_and_priced_again() -> None:
    plan = Plan(tp=2, pp=2, dp=2, gbs=8, seq=4096, recompute="full", recompute_fraction=0.3, mbs=1, zero=1)
    _, rounded, notes = as_written(plan, LLAMA, "megatron")
    assert rounded.recompute_fraction == 5 / 16
    assert notes
    assert "31.2 %" in notes[0] or "31.2%" in notes[0]
    e = estimate(LLAMA, load_machine("h200", num_devices=8), plan)
    again = estimate(LLAMA, load_machine("h200", num_devices=8), rounded)
    assert isinstance(e, Estimate)
    assert isinstance(again, Estimate)
    assert notes[0] in launch_files(e, "megatron")["README.md"]
    assert f"{again.tokens_per_s:,.0f}" in launch_files(e, "megatron")["README.md"]


REFUSED = {
    "megatron": [
        ({"schedule": "dualpipe", "pp": 2}, "schedule = dualpipe"),
        ({"trainable": "lora"}, "trainable = lora"),
        ({"offload_activations": 0.5}, "activations in host memory"),
        ({"recompute": "selective", "recompute_fraction": 0.5}, "selective recompute"),
        ({"optimizer_bytes": 10}, "optimizer_bytes = 10"),
    ],
    "mindspeed": [({"cuda_graph": "full"}, "cuda_graph = full"), ({"zero": 2}, "zero = 2")],
    "mindformers": [({"zero": 3}, "zero = 3"), ({"grad_bytes": 2}, "grad_bytes")],
    "torchtitan": [({"zero": 1}, "zero = 1"), ({"grad_overlap": False, "zero": 3}, "grad_overlap = False")],
    "deepspeed": [({"pp": 2}, "pipeline stages"), ({"precision": "fp8"}, "precision = fp8")],
    "megatron-bridge": [({"trainable": "lora"}, "trainable = lora")],
}  # fmt: skip


@pytest.mark.parametrize(
    ("framework", "changed", "named"), [(f, c, n) for f, cases in REFUSED.items() for c, n in cases]
)
def test_what_a_framework_cannot_say_is_refused_by_name(
    framework: str, changed: dict[str, object], named: str
) -> None:
    plan = dataclasses.replace(Plan(dp=4, gbs=32, mbs=1), **changed)  # type: ignore[arg-type]
    with pytest.raises(ExportError, match=re.escape(named)):
        as_written(plan, LLAMA, framework)


@pytest.mark.parametrize("name", ["gemma-2-9b", "nemotron-3-nano-30b-a3b", "internlm-7b"])
def test_models_with_parts_that_no_option_has_are_refused(name: str) -> None:
    with pytest.raises(ExportError):
        as_written(Plan(dp=4, gbs=32, mbs=1), load_model(name), "megatron")


def test_folders_are_new_and_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    e = estimate(LLAMA, load_machine("h200", num_devices=8), Plan(dp=8, gbs=64, mbs=1, seq=8192))
    assert isinstance(e, Estimate)
    target = tmp_path / "launch"
    target.mkdir()
    export_estimate(e, "megatron", target)
    assert sorted(p.name for p in target.iterdir()) == ["README.md", "train.sbatch", "train.sh"]
    assert os.access(target / "train.sh", os.X_OK)
    with pytest.raises(OutputError, match="is there already"):
        export_estimate(e, "megatron", target)
    with pytest.raises(ScenarioError, match="unknown framework"):
        check_target("megatronn", tmp_path / "x")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.rename", full)
    with pytest.raises(OutputError, match="no space left"):
        export_estimate(e, "megatron", tmp_path / "other")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["launch"]


def test_a_killed_export_leaves_no_half_folder(tmp_path: Path) -> None:
    code = f"""
import os, signal
from fullmesh import files
made = files.os.fsync
def killed(handle):
    if len(os.listdir({str(tmp_path)!r})) and sum(len(f) for _, _, f in os.walk({str(tmp_path)!r})) >= 2:
        os.kill(os.getpid(), signal.SIGKILL)
    made(handle)
files.os.fsync = killed
files.write_folder({str(tmp_path / "launch")!r}, {{"a": "1", "b": "2", "c.sh": "3"}})
"""
    done = subprocess.run([sys.executable, "-c", code], check=False)
    assert done.returncode == -9
    (left,) = os.listdir(tmp_path)
    assert left.startswith(".fullmesh-")
    assert left.endswith(".tmp")


@pytest.mark.parametrize(
    "arguments",
    [
        ("--export", "megatron"),
        ("--to", "FOLDER/new"),
        ("--export", "megatronn", "--to", "FOLDER/new"),
        ("--export", "megatron", "--to", "FOLDER/full"),
        ("--export", "megatron", "--to", "FOLDER/none/new"),
    ],
)
def test_a_wrong_target_is_refused_before_the_search(
    arguments: tuple[str, ...], command_line: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").write_text("kept")

    def work(*_: object, **__: object) -> None:
        raise AssertionError("the work has begun")

    monkeypatch.setattr("fullmesh.study.api.best_plans", work)
    given = [a.replace("FOLDER", str(tmp_path)) for a in arguments]
    code, out, err = command_line("plan", "llama-3-8b", "--on", "h200", *given)
    assert (code, out) == (2, ""), err
    assert sorted(p.name for p in tmp_path.iterdir()) == ["full"]


def test_plan_writes_a_folder_that_check_reads(command_line: CommandLine, tmp_path: Path) -> None:
    folder = tmp_path / "launch"
    code, out, err = command_line(
        "plan", "llama-3-8b", "--on", "h200", "--chips", "8", "--batch", "64", "--seq", "8192", "--json",
        "--export", "megatron-bridge", "--to", str(folder),
    )  # fmt: skip
    assert code == 0, err
    best = json.loads(out)["ranked"][0]
    code, out, err = command_line("check", str(folder), "--on", "h200", "--json")
    assert code == 0, err
    found = json.loads(out)
    assert found["predicted"]["step_s"] == pytest.approx(best["step_s"], rel=1e-9)
    assert found["not_understood"] == found["assumed"] == []


# --- what users have -----------------------------------------------------------------------------------------------

SCRIPT = r"""
#!/bin/bash
# a comment with --tensor-model-parallel-size 64
GPUS_PER_NODE=8; NNODES=${SLURM_NNODES:-4}
export TP=${TP:-2}
PP=4
SEQ=$((4 * 1024))
WORLD=$(($GPUS_PER_NODE*NNODES))
if [ -n "$EXTRA" ]; then echo "--not-an-option 3"; fi
HOST=$(hostname)
GPT_ARGS="
    --num-layers 32 \
    --hidden-size 4096 --num-attention-heads 32
    --seq-length ${SEQ}
"
MOE=(--group-query-attention  # grouped
     --num-query-groups 8)
MOE+=(--swiglu --ffn-hidden-size 14336)
torchrun --nproc_per_node $GPUS_PER_NODE --nnodes=${NNODES} --master_addr "$HOST" \
  pretrain_gpt.py \
  --tensor-model-parallel-size ${TP} --pipeline-model-parallel-size $PP \
  $GPT_ARGS "${MOE[@]}" --normalization RMSNorm --disable-bias-linear --position-embedding-type rope \
  --untie-embeddings-and-output-weights --micro-batch-size 1 --global-batch-size $((WORLD * 4)) --bf16 \
  --recompute-activations --tokenizer-model $TOKENIZER --decoder-first-pipeline-num-layers 7 \
  --decoder-last-pipeline-num-layers 7 2>&1 | tee log.txt
"""


def test_a_script_is_read_without_a_shell(tmp_path: Path) -> None:
    path = tmp_path / "pretrain.sh"
    path.write_text(SCRIPT)
    run = load_run(path, "h100")
    plan = run.plan
    assert run.model.id == "llama-3-8b"
    assert (plan.tp, plan.pp, plan.dp, plan.gbs, plan.seq, plan.num_devices) == (2, 4, 4, 128, 4096, 32)
    assert plan.recompute == "selective"
    assert plan.zero == 0
    assert not plan.sequence_parallel
    assert plan.layout == "Et*7|(t*9|)*2t*7L"
    assert run.left == ()
    assert any("128,256" in text for text in run.assumed)


BRANCHES = """
MODE=${1:-fast}
if [[ "$MODE" == "slow" ]] || [[ -z "$MODE" ]]; then
    ARGS=(--tokenizer-type NullTokenizer)
elif [ "$MODE" != "fast" ]; then
    ARGS=(--tokenizer-type Other)
else
    ARGS=("--tokenizer-type HuggingFaceTokenizer")
fi
if [ -n "$UNSET_BY_ANYBODY" ]; then ARGS+=(--a 1); else ARGS+=(--b 2); fi
if [ $((2+2)) -gt 3 ]; then if [ 1 -eq 2 ]; then ARGS+=(--c 3); fi; ARGS+=(--d 4); fi
if [ -f /nowhere ]; then ARGS+=(--e 5); else ARGS+=(--f 6); fi
python x.py ${ARGS[@]}
"""


def test_branches_are_followed_where_their_test_is_known() -> None:
    (command,) = read_script(BRANCHES, "x")
    assert options_of(command.words[2:], "x") == {
        "tokenizer-type": "HuggingFaceTokenizer", "a": "1", "d": "4", "e": "5",
    }  # fmt: skip


def test_nothing_is_executed(tmp_path: Path) -> None:
    target = tmp_path / "made"
    text = f'X=$(touch {target}); Y=`touch {target}`\npython p.py --num-layers $X --hidden-size $((2*3)) --a "$Y"'
    command = read_script(text, "x")[-1]
    assert not target.exists()
    assert UNKNOWN in command.words[3]
    assert options_of(command.words[2:], "x") == {"hidden-size": "6"}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a 'b c' \"d $X\" e\\ f", ["a", "b c", "d ", "e f"]),
        ("A=1 B=${A}2\nrun $B ${C:-7} ${A:-9}", ["run", "12", "7", "1"]),
        ('A=(1 \'2 3\')\nrun ${A[@]} "${A[*]}" "${A[@]}"', ["run", "1", "2", "3", "1 2 3", "1", "2 3"]),
        ("run $((2+3*4)) $(( (2+3) * 4 )) $((7/2)) $((7%4))", ["run", "14", "20", "3", "3"]),
        ("run a # b\\\nc", ["run", "a"]),
    ],
)
def test_words_of_a_shell(text: str, words: list[str]) -> None:
    found = next(c for c in read_script(text, "x") if c.words[0] in ("a", "run"))
    assert [w.replace(UNKNOWN, "") for w in found.words] == words


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("torchrun x.py --num-layers 2 --num-layers 3", "--num-layers is '2' and '3'"),
        ("torchrun x.py --bf16 --fp16 --num-layers 2", "micro-batch-size is missing"),
        ("run 'a", "a quote does not close"),
        ("run ${A", "a bracket does not close"),
        ("", "the file starts nothing"),
    ],
)
def test_mistakes_in_scripts_are_named(text: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "x.sh"
    path.write_text(text)
    with pytest.raises(LaunchError, match=re.escape(said)):
        load_run(path, "h100", model="llama-3-8b", chips=8)


MINDSPEED = """
torchrun --nproc_per_node 8 --nnodes 2 pretrain_gpt.py --use-mcore-models --tensor-model-parallel-size 8
 --pipeline-model-parallel-size 2 --num-layer-list 14,18 --sequence-parallel --use-ascend-mc2 --use-flash-attn
 --use-fused-rmsnorm --use-fused-swiglu --use-fused-rotary-pos-emb --use-distributed-optimizer
 --num-layers 32 --hidden-size 4096 --ffn-hidden-size 14336 --num-attention-heads 32 --group-query-attention
 --num-query-groups 8 --swiglu --normalization RMSNorm --disable-bias-linear --position-embedding-type rope
 --untie-embeddings-and-output-weights --padded-vocab-size 128256 --micro-batch-size 2 --global-batch-size 64
 --seq-length 8192 --overlap-grad-reduce --bf16 --swap-attention --context-parallel-algo megatron_cp_algo
"""


def test_mindspeed_is_known_by_its_own_options() -> None:
    run = load_run(" ".join(MINDSPEED.split()), "910b")
    assert run.framework == "mindspeed"
    assert run.plan.tp_overlap
    assert run.plan.flash_attention
    assert (run.plan.layout, run.plan.num_devices) == ("Et*14|t*18L", 16)
    assert run.left == ("swap-attention",)


def test_overrides_of_megatron_bridge() -> None:
    words = (
        "torchrun --nproc_per_node 8 run_recipe.py --recipe llama3_8b_pretrain_config "
        "model.tensor_model_parallel_size=2 model.sequence_parallel=true train.micro_batch_size=1 "
        "train.global_batch_size=128 model.seq_length=8192 ddp.grad_reduce_in_fp32=false "
        "ddp.use_distributed_optimizer=true model.bf16=true"
    )
    run = load_run(words, "h100")
    assert run.model.id == "llama-3-8b"
    assert (run.plan.tp, run.plan.dp, run.plan.grad_bytes, run.plan.zero) == (2, 4, 2, 1)


TITAN = """
[model]
name = "llama3"
flavor = "8B"
[training]
local_batch_size = 2
seq_len = 8192
steps = 1000
[parallelism]
data_parallel_replicate_degree = 2
data_parallel_shard_degree = -1
tensor_parallel_degree = 2
[activation_checkpoint]
mode = "selective"
selective_ac_option = "op"
[compile]
enable = true
[mystery]
knob = 3
"""


def test_torchtitan_by_name_and_flavour(tmp_path: Path) -> None:
    path = tmp_path / "llama3_8b.toml"
    path.write_text(TITAN)
    run = load_run(path, "h100", chips=64)
    plan = run.plan
    assert run.model.id == "llama-3-8b"
    assert (plan.dp, plan.gbs, plan.mbs, plan.zero, plan.shard) == (32, 64, 2, 3, 16)
    assert (plan.recompute, plan.recompute_fraction, plan.compiled) == ("full", 0.5, True)
    assert run.left == ("mystery.knob = 3",)
    script = tmp_path / "run.sh"
    script.write_text(
        "torchrun --nproc_per_node=64 -m torchtitan.train --job.config_file llama3_8b.toml --training.seq_len 4096"
    )
    assert load_run(script, "h100").plan.seq == 4096


DEEPSPEED = {
    "train_batch_size": "auto", "train_micro_batch_size_per_gpu": 2, "gradient_accumulation_steps": 4,
    "bf16": {"enabled": True}, "gradient_clipping": 1.0, "autotuning": {"enabled": False},
    "zero_optimization": {"stage": 3, "overlap_comm": True, "offload_optimizer": {"device": "cpu", "pin_memory": True}},
}  # fmt: skip


def test_deepspeed_with_automatic_values(tmp_path: Path) -> None:
    path = tmp_path / "ds.json"
    path.write_text(json.dumps(DEEPSPEED))
    run = load_run(path, "h100", chips=16, model="llama-3-8b", seq=4096)
    assert (run.plan.gbs, run.plan.mbs, run.plan.zero, run.plan.offload_optimizer) == (128, 2, 3, 1.0)
    assert run.left == ("autotuning.enabled = False",)
    with pytest.raises(LaunchError, match="no sequence length"):
        load_run(path, "h100", chips=16, model="llama-3-8b")
    with pytest.raises(LaunchError, match="no model"):
        load_run(path, "h100", chips=16, seq=4096)


MINDFORMERS = """
# as release 1.3 writes it
runner_config: &runner
  epochs: 2
  batch_size: 1
parallel_config: {data_parallel: 2, model_parallel: 4, pipeline_stage: 2, micro_batch_num: 16, use_seq_parallel: True}
parallel:
  enable_parallel_optimizer: True
  parallel_optimizer_config: {gradient_accumulation_shard: False}
recompute_config:
  recompute: [7, 0]
context: {mode: 0, device_target: "Ascend"}
model:
  model_config:
    type: LlamaConfig
    num_layers: 32
    hidden_size: 4096
    num_heads: 32
    n_kv_heads: 8
    vocab_size: 128256
    intermediate_size: 14336
    seq_length: 8192
    compute_dtype: "bfloat16"
    use_flash_attention: True
    offset: [-1, 1]
copy: *runner
"""


def test_mindformers_in_the_names_of_another_release(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(MINDFORMERS)
    run = load_run(path, "910b")
    plan = run.plan
    assert run.model.id == "llama-3-8b"
    assert (plan.tp, plan.pp, plan.dp, plan.gbs, plan.zero, plan.num_devices) == (4, 2, 2, 32, 1, 16)
    assert (plan.recompute, plan.recompute_fraction) == ("full", 7 / 32)
    assert plan.layout == "Et*15|t*17L"
    assert run.left == ("copy.epochs = 2", "copy.batch_size = 1")


def test_a_scenario_is_a_run_too() -> None:
    example = Path(__file__).parents[2] / "docs" / "examples" / "deepseek-v3-cloudmatrix384.toml"
    run = load_run(example, None)
    assert run.framework == "scenario"
    with pytest.raises(LaunchError, match="the scenario is for"):
        load_run(example, "h200")


KEYS = st.from_regex(r"[a-z_][a-z0-9_]{0,8}", fullmatch=True)
PLAIN = (
    st.none() | st.booleans() | st.integers(-(10**12), 10**12) | st.floats(-1e9, 1e9) | st.text(max_size=12)
)
INNER = PLAIN | st.lists(PLAIN, max_size=4) | st.dictionaries(KEYS, PLAIN, max_size=3)
VALUES = INNER | st.lists(INNER, max_size=3) | st.dictionaries(KEYS, INNER, max_size=3)


@settings(max_examples=150, deadline=None)
@given(
    st.dictionaries(st.from_regex(r"[a-z_][a-z0-9_.]{0,8}", fullmatch=True), VALUES, min_size=1, max_size=4)
)
def test_yaml_reads_back_what_it_writes(table: dict[str, object]) -> None:
    assert parse_yaml(yaml_text(table), where="x") == table


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: 1\na: 2", "stands twice"),
        ("a: *b", "undefined alias"),
        ("a: &a [*a]", "names what it stands in"),
        ("a: [1, 2", "cannot read the YAML"),
        ("a:\n\tb: 1", "cannot read the YAML"),
        ("- 1\n- 2", "holds no mapping"),
        ("a: !!python/object x", "the tag"),
        ("a: 1\n   b: 2", "cannot read the YAML"),
        ("a: 1\n---\nb: 2", "another document"),
        ("[a]: 1", "a key is no word"),
        ("<<: 1", "merge key"),
        ("a: " + "[" * 3000, "nested more than"),
        ("", "is empty"),
    ],
)
def test_other_yaml_is_refused_with_its_line(text: str, said: str) -> None:
    with pytest.raises(LaunchError, match=said):
        parse_yaml(text, where="x")


def test_aliases_do_not_grow_without_end() -> None:
    text = "a: &a [x, x, x, x, x, x, x, x, x, x]\n"
    for one, other in zip("abcdefgh", "bcdefghi", strict=True):
        text += f"{other}: &{other} [{', '.join([f'*{one}'] * 10)}]\n"
    with pytest.raises(FullmeshError, match="more than"):
        parse_yaml(text, where="x")

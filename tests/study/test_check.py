"""``fullmesh check``: the range, the verdict, the gap by class, changes that can be made, a row that is read back."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import pytest

import fullmesh
from fullmesh.calibrate.effects.personal import fit_own
from fullmesh.errors import FullmeshError, LaunchError
from fullmesh.evidence.mapping import row_case
from fullmesh.evidence.published import published_step_s
from fullmesh.evidence.results import read_results
from fullmesh.machine import load_machine
from fullmesh.outcomes.estimate import Estimate, estimate
from fullmesh.plan import Plan, Plans
from fullmesh.plan.feasible import violations
from fullmesh.study.check.changes import best_changes, neighbours
from fullmesh.study.check.checked import CANNOT_RUN, FASTER, IN_RANGE, NOT_MEASURED, SLOWER, held_against
from fullmesh.study.check.measured import Measured, read_log, read_measured_profile, read_rate, read_step_time
from fullmesh.study.check.row import append_row, row_of, unsaid
from fullmesh.study.launch.run import Run
from fullmesh.workload.readers.huggingface import load_model
from strategies.published_plans import published

CommandLine = Callable[..., tuple[int, str, str]]
LLAMA = load_model("llama-3-8b")
H200 = load_machine("h200", num_devices=8)
PLAN = Plan(
    tp=2, dp=4, zero=1, mbs=1, gbs=128, seq=8192, stack="megatron-core", kernels="transformer-engine", precision="bf16"
)  # fmt: skip
RUN = Run(model=LLAMA, machine=H200, plan=PLAN, framework="scenario", software="megatron-core")
COMMAND = (
    "torchrun --nproc-per-node 8 pretrain_gpt.py --num-layers 32 --hidden-size 4096 --num-attention-heads 32 "
    "--group-query-attention --num-query-groups 8 --ffn-hidden-size 14336 --swiglu --normalization RMSNorm "
    "--disable-bias-linear --position-embedding-type rope --untie-embeddings-and-output-weights --seq-length 8192 "
    "--micro-batch-size 1 --global-batch-size 128 --tensor-model-parallel-size 2 --sequence-parallel "
    "--use-distributed-optimizer --bf16 --tokenizer-model llama.model"
)


def predicted() -> Estimate:
    found = estimate(LLAMA, H200, PLAN)
    assert isinstance(found, Estimate)
    return found


@pytest.mark.parametrize(
    ("factor", "verdict"),
    [(1.0, IN_RANGE), (0.98, IN_RANGE), (3.0, SLOWER), (0.3, FASTER), (None, NOT_MEASURED)],
)
def test_the_verdict_is_by_the_interval(factor: float | None, verdict: str) -> None:
    e = predicted()
    step_s = None if factor is None else e.step_s * factor
    found = held_against(RUN, None if step_s is None else Measured(step_s=step_s, basis="as given"))
    assert found.verdict == verdict
    assert found.ratio == (None if factor is None else pytest.approx(factor))
    record = found.to_dict()
    assert record["verdict"] == verdict
    assert record["predicted"]["interval_80"]["low_s"] == pytest.approx(e.interval.low_s)
    assert record["memory_left_bytes"] == pytest.approx(e.capacity_bytes - e.memory_bytes)
    json.dumps(record, allow_nan=False)


def test_results_can_be_saved_and_loaded(tmp_path: Path) -> None:
    found = held_against(RUN, Measured(step_s=9.0, basis="as given"))
    found.save(tmp_path / "check.json")
    again = fullmesh.Checked.load(tmp_path / "check.json")
    assert str(again) == str(found)
    assert again.to_dict() == found.to_dict()


def test_a_run_with_a_speed_fits_whatever_the_formulas_say() -> None:
    large = load_model("llama-3.1-405b")
    plan = dataclasses.replace(PLAN, tp=8, dp=1, gbs=8)
    run = dataclasses.replace(RUN, model=large, plan=plan)
    nothing = held_against(run, None)
    assert nothing.verdict == CANNOT_RUN
    assert nothing.too_large is not None
    assert "memory" in str(nothing)
    measured = held_against(run, Measured(step_s=60.0, basis="as given"))
    assert measured.verdict in (IN_RANGE, FASTER, SLOWER)
    assert measured.to_dict()["fits"] is False


# --- what was measured -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "seconds"), [("12.3s", 12.3), ("850 ms", 0.85), ("2min", 120.0), ("7", 7.0), (3.5, 3.5)]
)
def test_times_with_units(text: str | float, seconds: float) -> None:
    assert read_step_time(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "fast", "-1s", "0s", "nan", "1e9h", True, "1 s s"])
def test_times_that_are_none(text: str) -> None:
    with pytest.raises(LaunchError):
        read_step_time(text)


def test_rates_are_of_all_devices() -> None:
    assert read_rate("104,857.6", PLAN) == pytest.approx(10.0)
    for wrong in ("0", "-3", "many", "inf"):
        with pytest.raises(LaunchError):
            read_rate(wrong, PLAN)


LOGS = {
    "Megatron": " iteration {i}/ 100 | consumed samples: 12 | elapsed time per iteration (ms): {ms:.1f} | lr: 1\n",
    "MindFormers": "INFO - {{ Epoch:[ 1/ 2], step:[ {i}/ 19], loss: 1.0, per_step_time: {ms:.0f}ms, lr: 0.0 }}\n",
    "torchtitan": "\x1b[31mstep: {i}  \x1b[32mloss: 7.1  \x1b[33mmemory: 3GiB  \x1b[34mtps: {tps:,.0f}  tflops: 3\n",
    "DeepSpeed": "steps: {i} loss: 1.0 iter time (s): {s:.4f} samples/sec: 3\n",
}  # fmt: skip


@pytest.mark.parametrize("framework", list(LOGS))
def test_logs_give_the_median_without_the_first_steps(framework: str, tmp_path: Path) -> None:
    path = tmp_path / "run.log"
    steps = [60.0, 20.0, 10.0, 10.5, 9.5, 10.0, 30.0]
    tokens = PLAN.gbs * PLAN.seq / PLAN.num_devices
    lines = [LOGS[framework].format(i=i, ms=1e3 * s, s=s, tps=tokens / s) for i, s in enumerate(steps)]
    path.write_text("noise\n".join(lines))
    found = read_log(path, PLAN)
    assert found.step_s == pytest.approx(10.0, rel=1e-3)
    assert framework in found.basis
    assert found.steps == 5


def test_a_log_without_steps_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "run.log"
    path.write_text("nothing here\n")
    with pytest.raises(LaunchError, match="no line of the log"):
        read_log(path, PLAN)


STEP_TABLE = """Device_id,Step,Computing,Communication(Not Overlapped),Overlapped,Communication,Free,Stage,Bubble
0,3,8000000.0,1500000.0,500000.0,2000000.0,500000.0,10000000.0,0
0,4,8200000.0,1500000.0,500000.0,2000000.0,300000.0,10000000.0,0
"""
KERNELS = """Step Id,Name,Type,Accelerator Core,Start Time(us),Duration(us),Wait Time(us)
3,aclnnMatmul_MatMulV3,MatMulV3,AI_CORE,10,4000000,0
3,FlashAttentionScore_1,FlashAttentionScore,MIX_AIC,20,2000000,0
3,hcom_allReduce__1,hcom_allReduce_,HCCL,30,1000000,0
4,aclnnMatmul_MatMulV3,MatMulV3,AI_CORE,40,4200000,0
4,FlashAttentionScore_1,FlashAttentionScore,MIX_AIC,50,2000000,0
4,hcom_allReduce__1,hcom_allReduce_,HCCL,60,1000000,0
"""
OPERATORS = """Device_id,OP Type,Core Type,Count,Total Time(us),Min Time(us),Avg Time(us),Max Time(us),Ratio(%)
0,MatMulV3,AI_CORE,2,8200000,1,1,1,50
0,FlashAttentionScore,MIX_AIC,2,4000000,1,1,1,20
"""


@pytest.mark.parametrize("below", [False, True])
def test_tables_of_the_ascend_profiler(tmp_path: Path, below: bool) -> None:
    folder = tmp_path / "ASCEND_PROFILER_OUTPUT" if below else tmp_path
    folder.mkdir(exist_ok=True)
    (folder / "step_trace_time.csv").write_text(STEP_TABLE)
    (folder / "op_statistic.csv").write_text(OPERATORS)
    found = read_measured_profile(tmp_path)
    assert found.step_s == pytest.approx(10.0)
    assert found.shares == pytest.approx({"computing": 8.1, "communication": 1.5, "idle": 0.4})
    assert found.classes == pytest.approx({"linear": 4.1, "attention": 2.0})
    (folder / "kernel_details.csv").write_text(KERNELS)
    found = read_measured_profile(tmp_path)
    assert found.classes == pytest.approx({"linear": 4.1, "attention": 2.0, "collectives": 1.0})


def test_damaged_tables_are_refused(tmp_path: Path) -> None:
    with pytest.raises(LaunchError, match="no table"):
        read_measured_profile(tmp_path)
    (tmp_path / "step_trace_time.csv").write_text("Step,Computing\n1,2\n")
    with pytest.raises(LaunchError, match="is missing"):
        read_measured_profile(tmp_path)
    (tmp_path / "step_trace_time.csv").write_text(STEP_TABLE.replace("8000000.0", "-1"))
    with pytest.raises(LaunchError, match="is no time"):
        read_measured_profile(tmp_path)


def trace(slow: float) -> dict[str, object]:
    """Two steps of ten seconds: products, attention and a collective that is partly hidden."""
    events: list[dict[str, object]] = []
    for step in (5, 6):
        at = step * 11e6
        mark = {"cat": "user_annotation", "name": f"ProfilerStep#{step}", "pid": 7, "tid": 7}
        events.append({"ph": "X", **mark, "ts": at, "dur": 10e6})
        for name, offset, took, stream in (
            ("ampere_bf16_gemm", 0.0, 5e6 * slow, 7),
            ("flash_fwd_kernel", 5e6 * slow, 1e6, 7),
            ("ncclDevKernel_AllReduce", 5e6 * slow, 2e6, 20),
        ):
            events.append(
                {"ph": "X", "cat": "kernel", "name": name, "pid": 0, "tid": stream, "ts": at + offset, "dur": took,
                 "args": {"stream": stream}}
            )  # fmt: skip
    return {"traceEvents": events}


def test_a_trace_says_where_the_gap_sits(tmp_path: Path) -> None:
    path = tmp_path / "trace.json"
    path.write_text(json.dumps(trace(1.0)))
    found = fullmesh.check(RUN, trace=path)
    assert found.step_s == pytest.approx(10.0)
    measured = {p.name: p.measured_s for p in found.classes}
    assert measured["linear"] == pytest.approx(5.0)
    assert measured["attention"] == pytest.approx(1.0)
    assert measured["collectives"] == pytest.approx(2.0)
    shares = {p.name: p for p in found.shares}
    assert shares["computing"].measured_s == pytest.approx(6.0)
    assert shares["communication"].measured_s == pytest.approx(1.0)
    assert shares["idle"].measured_s == pytest.approx(3.0)
    assert sum(p.predicted_s for p in found.shares) == pytest.approx(predicted().step_s, rel=0.01)
    # the classes of the prediction are those of the replayed step
    linear = next(p.predicted_s for p in found.classes if p.name == "linear")
    path.write_text(json.dumps(trace(1.6)))
    slower = fullmesh.check(RUN, trace=path)
    assert slower.classes[0].name in ("linear", "attention")
    assert next(p for p in slower.classes if p.name == "linear").gap_s == pytest.approx(8.0 - linear)


# --- changes ---------------------------------------------------------------------------------------------------------


def test_changes_gain_fit_and_break_no_rule() -> None:
    slow = dataclasses.replace(
        PLAN, recompute="full", grad_overlap=False, tp=8, dp=1, sequence_parallel=True, tp_overlap=False
    )
    found = best_changes(LLAMA, H200, slow, fits=True, top=5)
    assert len(found) == 5
    before = estimate(LLAMA, H200, slow)
    assert isinstance(before, Estimate)
    gains = [c.gain for c in found]
    assert gains == sorted(gains, reverse=True)
    for change in found:
        after = estimate(LLAMA, H200, change.estimate.plan)
        assert isinstance(after, Estimate)
        assert change.gain == pytest.approx(1.0 - after.step_s / before.step_s)
        assert after.plan.num_devices == slow.num_devices
        assert (after.plan.gbs, after.plan.seq, after.plan.precision) == (slow.gbs, slow.seq, slow.precision)
        assert change.fields
    assert any("recompute full -> none" in field for c in found for field in c.fields)
    # no other neighbour is better
    others = [p for p in neighbours(LLAMA, H200, slow) if p.gbs % (p.mbs * p.dp) == 0 and p.seq % p.cp == 0]
    table = Plans.of(others)
    allowed = [p for p, ok in zip(others, violations(LLAMA, H200, table).ok, strict=True) if ok]
    steps = [e.step_s for p in allowed if isinstance(e := estimate(LLAMA, H200, p), Estimate)]
    assert min(steps) == pytest.approx(found[0].estimate.step_s)


def test_changes_that_make_it_fit() -> None:
    plan = dataclasses.replace(PLAN, tp=1, dp=8, mbs=4, gbs=128)
    found = held_against(dataclasses.replace(RUN, plan=plan), None)
    assert found.verdict == CANNOT_RUN
    assert found.changes
    assert all(c.estimate.memory_bytes <= c.estimate.capacity_bytes for c in found.changes)


def test_what_no_result_has_is_exploratory() -> None:
    model = load_model("deepseek-v3")
    machine = load_machine("cloudmatrix384", num_devices=768)
    plan = Plan(
        tp=4, pp=4, vpp=4, dp=48, ep=64, mbs=1, gbs=9216, seq=4096, stack="mindspeed-2026", kernels="ascend",
        recompute="selective", recompute_modules=("layernorm", "mla_up_proj", "moe_act"), ep_overlap=True,
    )  # fmt: skip
    found = best_changes(model, machine, plan, fits=True, top=10)
    assert any(not c.supported for c in found)
    for change in found:
        # DeepEP and HybridEP are not on these chips
        assert change.estimate.plan.dispatcher in ("alltoall", "allgather")


# --- the row ---------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_rows_are_read_back_as_the_run() -> None:
    """Of published plans most rows say all; what one cannot say is listed, and nothing else differs."""
    cases = published()[::9]
    silent = 0
    for case in cases:
        row = row_of(case.model, case.machine, case.plan, 1.0)
        said = unsaid(case.model, case.plan, row)
        silent += bool(said)
    assert silent <= 0.35 * len(cases)


def test_a_row_is_appended_and_calibrated_on(tmp_path: Path) -> None:
    path = tmp_path / "mine.csv"
    for factor in (1.2, 1.21):
        found = held_against(RUN, Measured(step_s=predicted().step_s * factor, basis="as given"))
        assert found.row_unsaid == ()
        append_row(path, found.row)
    rows = read_results(path)
    assert [r.id for r in rows] == ["run-1", "run-2"]
    case = row_case(rows[0])
    assert case.model == LLAMA
    assert estimate(case.model, case.machine, case.plan).step_s == pytest.approx(predicted().step_s)  # type: ignore[union-attr]
    assert published_step_s(rows[0]) == pytest.approx(predicted().step_s * 1.2, rel=1e-5)
    _, runs = fit_own(rows)
    assert abs(runs[0].after_s / runs[0].measured_s - 1) < abs(runs[0].before_s / runs[0].measured_s - 1)
    (tmp_path / "other.csv").write_text("model,gpu\nllama-3-8b,h200\n")
    with pytest.raises(FullmeshError, match="other columns"):
        append_row(tmp_path / "other.csv", rows_dict := held_against(RUN, None).row)
    assert rows_dict["step_s"] == ""


# --- the command -----------------------------------------------------------------------------------------------------


def test_the_command_answers_in_both_languages(command_line: CommandLine, tmp_path: Path) -> None:
    log, row = tmp_path / "run.log", tmp_path / "mine.csv"
    log.write_text("elapsed time per iteration (ms): 9000.0\n" * 8)
    arguments = ("check", COMMAND, "--on", "h200", "--log", str(log))
    code, out, err = command_line(*arguments, "--row", str(row))
    assert code == 0, err
    for words in ("Step time", "It fits", "Nearest published result", "vocabulary 128,256"):
        assert words in out, words
    assert str(row) in err
    assert len(read_results(row)) == 1
    code, out, err = command_line(*arguments, "--json")
    assert code == 0, err
    record = json.loads(out)
    assert record["measured"] == {
        "step_s": 9.0,
        "basis": "median of 6 steps of a log of Megatron",
        "steps": 6,
    }
    assert record["not_understood"] == []
    assert record["devices"] == 8


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "no machine is named"),
        (("--on", "h200", "--step-time", "soon"), "as a time"),
        (("--on", "h200", "--step-time", "3s", "--tokens-per-s", "3"), "given 2 times"),
        (("--on", "h200", "--chips", "7"), "does not divide"),
        (("--on", "h200", "--top", "99"), "99 changes"),
        (("--on", "h200", "--log", "nothing.log"), "cannot read the log"),
        (("--on", "h200", "--trace", "nothing.json"), "cannot read"),
        (("--on", "910b", "--model", "nomodel"), "nomodel"),
        (("--on", "h200", "--row", "x.txt"), "another ending"),
    ],
)
def test_mistakes_have_one_message(arguments: tuple[str, ...], said: str, command_line: CommandLine) -> None:
    code, out, err = command_line("check", COMMAND, *arguments)
    assert (code, out) == (2, ""), err
    assert said in err
    assert err.count("error: ") == err.count("hint: ") == 1


def test_most_published_rows_are_in_the_range() -> None:
    """A sample of what ``benchmarks/check.py`` shows for all of them; its bar is 75 %."""
    verdicts = []
    for case in published()[::9]:
        step_s = published_step_s(case.row)
        if step_s is not None:
            run = Run(
                model=case.model, machine=case.machine, plan=case.plan, framework="scenario", software=""
            )
            verdicts.append(held_against(run, Measured(step_s=step_s, basis="as published"), top=0).verdict)
    assert len(verdicts) >= 50
    assert verdicts.count(IN_RANGE) >= 0.75 * len(verdicts)

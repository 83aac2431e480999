"""Real traces are read, laid under the simulated step and compared with it; differences of two runs are named."""

from __future__ import annotations

import dataclasses
import gzip
import json
from pathlib import Path

import numpy as np
import pytest

from fullmesh.errors import ResultsError
from fullmesh.timeline.costs import Lane, Operator, PipelineCosts, even_costs
from fullmesh.timeline.engine.engines import Contention
from fullmesh.timeline.perturb import Perturbation
from fullmesh.timeline.simulate import simulate
from fullmesh.timeline.trace.chrome import document
from fullmesh.timeline.trace.measured import classify, profile_events, read_profile, simulated_operators
from oracles.trace_check import check_trace


def plan() -> PipelineCosts:
    base = even_costs(
        "1f1b", 2, 4, forward_s=0.01, backward_input_s=0.012, backward_weight_s=0.008, send_s=1e-4
    )
    f, bw = base.forward_s, base.backward_s
    return dataclasses.replace(
        base,
        lanes=(Lane(name="tp", forward_s=0.2 * f, backward_s=0.2 * bw),),
        operators=(
            Operator(name="linear", forward_s=0.5 * f, backward_s=0.5 * bw),
            Operator(name="attention", forward_s=0.25 * f, backward_s=0.25 * bw),
        ),
        grad_reduce_s=np.full(2, 0.004),
        optimizer_s=np.full(2, 0.002),
        ranks_per_stage=4,
        lockstep_ranks=4,
    )


def kineto() -> dict[str, object]:
    """Two steps as torch.profiler writes them: marks, host operators, kernels on two streams, a copy."""
    events: list[dict[str, object]] = [
        {"ph": "M", "pid": 7, "tid": 0, "name": "process_name", "ts": 0, "args": {"name": "python"}},
        {"ph": "M", "pid": 0, "tid": 0, "name": "process_name", "ts": 0, "args": {"name": "GPU 0"}},
    ]
    for step in (5, 6):
        at = 1_000_000.0 + step * 90_000
        events += [
            {"ph": "X", "cat": "user_annotation", "name": f"ProfilerStep#{step}", "pid": 7, "tid": 7, "ts": at,
             "dur": 80_000.0},
            {"ph": "X", "cat": "cpu_op", "name": "aten::mm", "pid": 7, "tid": 7, "ts": at + 10, "dur": 5.0},
        ]  # fmt: skip
        for name, offset, took, stream in (
            ("ampere_bf16_s16816gemm_bf16_128x256", 100, 30_000, 7),
            ("void flash_fwd_kernel<Flash_fwd_traits>", 30_200, 12_000, 7),
            ("ncclDevKernel_AllGather_RING_LL", 20_000, 9_000, 20),
            ("void at::native::vectorized_elementwise_kernel<4>", 43_000, 2_000, 7),
            ("multi_tensor_apply_kernel<AdamFunctor>", 70_000, 2_500, 7),
        ):
            events.append(
                {"ph": "X", "cat": "kernel", "name": name, "pid": 0, "tid": stream, "ts": at + offset, "dur": took,
                 "args": {"stream": stream, "device": 0}}
            )  # fmt: skip
        events.append(
            {
                "ph": "X",
                "cat": "gpu_memcpy",
                "name": "Memcpy HtoD",
                "pid": 0,
                "tid": 7,
                "ts": at + 76_000,
                "dur": 500,
            }
        )
    return {"schemaVersion": 1, "traceEvents": events}


def msprof() -> list[dict[str, object]]:
    """The same in the manner of msprof: a bare list, times as strings, device work by process."""
    events: list[dict[str, object]] = [
        {"ph": "M", "pid": 4, "name": "process_name", "args": {"name": "Ascend Hardware"}},
        {"ph": "M", "pid": 9, "name": "process_name", "args": {"name": "CANN"}},
        {"ph": "M", "pid": 5, "name": "process_name", "args": {"name": "Communication"}},
        {"ph": "X", "name": "ProfilerStep#3", "pid": 1, "tid": 1, "ts": "1000.000", "dur": 50_000.0},
        {"ph": "X", "name": "aclnnMatmul", "pid": 9, "tid": 1, "ts": "1100.5", "dur": 10.0},
    ]
    for name, pid, at, took in (
        ("MatMulV3", 4, "1200.25", 20_000.0),
        ("GroupedMatmul", 4, "22000.0", 9_000.0),
        ("FlashAttentionScore", 4, "31500.0", 8_000.0),
        ("hcom_allGather__123_0", 5, "15000.0", 4_000.0),
        ("hcom_alltoallv_", 5, "40000.0", 3_000.0),
    ):
        args = {"Stream Id": 33 if pid == 4 else 40}
        events.append(
            {"ph": "X", "name": name, "pid": pid, "tid": pid * 10, "ts": at, "dur": took, "args": args}
        )
    return events


def test_kineto_traces_are_read(tmp_path: Path) -> None:
    path = tmp_path / "kineto.json.gz"
    path.write_bytes(gzip.compress(json.dumps(kineto()).encode()))
    profile = read_profile(path)
    assert profile.source == "kineto"
    assert sorted(profile.steps) == [5, 6]
    assert len(profile.name) == 12
    assert profile.start_s.min() == pytest.approx(100e-6)
    found = {profile.operator[i]: profile.duration_s[i] for i in profile.within(6)}
    assert found == pytest.approx(
        {"linear": 0.03, "attention": 0.012, "collectives": 0.009, "memory-bound": 0.002, "optimizer": 0.0025,
         "copy": 5e-4}
    )  # fmt: skip
    with pytest.raises(ResultsError, match="step 9"):
        profile.within(9)


def test_msprof_traces_are_read(tmp_path: Path) -> None:
    path = tmp_path / "trace_view.json"
    path.write_text(json.dumps(msprof()))
    profile = read_profile(path)
    assert profile.source == "msprof"
    found = {profile.operator[i]: profile.duration_s[i] for i in profile.within(3)}
    assert found == pytest.approx(
        {"linear": 0.02, "experts": 0.009, "attention": 0.008, "collectives": 0.004, "all-to-all": 0.003}
    )


@pytest.mark.parametrize(
    ("name", "operator"),
    [
        ("sm90_xmma_gemm_bf16bf16_bf16f32", "linear"),
        ("nvjet_tst_128x256_64x4_2x1_v_bz_coopA_NTT", "linear"),
        ("ncclDevKernel_SendRecv(ncclDevKernelArgsStorage)", "send and receive"),
        ("ncclDevKernel_ReduceScatter_Sum_bf16_RING_LL", "collectives"),
        ("void deep_ep::internode::dispatch<false, 8>", "all-to-all"),
        ("cudnn_generated_fort_native_sdpa_sm90_flash_bprop", "attention"),
        ("FlashAttentionScoreGrad", "attention"),
        ("GroupedMatmulAdd", "experts"),
        ("ApplyAdamWV2", "optimizer"),
        ("RmsNorm", "memory-bound"),
        ("Memcpy DtoH (Device -> Pinned)", "copy"),
    ],
)
def test_operators_are_known_by_their_kernels(name: str, operator: str) -> None:
    assert classify(name) == operator


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"not json", "not JSON"),
        (b"\x1f\x8bbroken", "damaged"),
        (b"{}", "no list of traceEvents"),
        (
            b'{"traceEvents": [{"ph": "X", "cat": "cpu_op", "name": "aten::mm", "ts": 1, "dur": 1}]}',
            "on a device",
        ),
        (
            b'{"traceEvents": [{"ph": "X", "cat": "kernel", "name": "k", "ts": "soon", "dur": 1}]}',
            "the time 'soon'",
        ),
    ],
)
def test_bad_profiles_are_refused(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "bad.json"
    path.write_bytes(content)
    with pytest.raises(ResultsError, match=message):
        read_profile(path)
    with pytest.raises(ResultsError, match="cannot read"):
        read_profile(tmp_path / "none.json")


def test_a_real_step_lies_under_the_simulated_one(tmp_path: Path) -> None:
    path = tmp_path / "kineto.json"
    path.write_text(json.dumps(kineto()))
    profile = read_profile(path)
    run = simulate(plan())
    count = run.write_trace(tmp_path / "both.json.gz", profile=profile, step=5)
    loaded = json.loads(gzip.decompress((tmp_path / "both.json.gz").read_bytes()))
    assert check_trace(loaded) == []
    assert len(loaded["traceEvents"]) == count
    real = [e for e in loaded["traceEvents"] if e["pid"] == 102 and e["ph"] == "X"]
    assert len(real) == 6
    assert min(e["ts"] for e in real) == pytest.approx(100.0)
    table = {line.operator: line for line in run.compare(profile, step=5)}
    assert table["linear"].real_s == pytest.approx(0.03)
    assert table["linear"].simulated_s == pytest.approx(4 * 0.5 * 0.03)
    assert table["attention"].simulated_s == pytest.approx(4 * 0.25 * 0.03)
    assert table["optimizer"].difference_s == pytest.approx(0.002 - 0.0025)
    assert table["memory-bound"].simulated_s == 0.0
    assert table["unexplained"].simulated_s == pytest.approx(4 * 0.05 * 0.03)


def test_simulated_operators_add_up_to_what_a_rank_does() -> None:
    costs = plan()
    run = simulate(costs)
    total = sum(simulated_operators(run.timeline, costs, 1).values())
    graph = run.timeline.graph
    assert total == pytest.approx(run.timeline.taken_s[graph.rank == 1].sum())


def test_overlapping_kernels_of_a_stream_get_threads_of_their_own(tmp_path: Path) -> None:
    events = [
        {
            "ph": "X",
            "cat": "kernel",
            "name": "a",
            "pid": 0,
            "tid": 1,
            "ts": 0,
            "dur": 10,
            "args": {"stream": 1},
        },
        {
            "ph": "X",
            "cat": "kernel",
            "name": "b",
            "pid": 0,
            "tid": 1,
            "ts": 5,
            "dur": 10,
            "args": {"stream": 1},
        },
    ]
    path = tmp_path / "overlap.json"
    path.write_text(json.dumps({"traceEvents": events}))
    assert check_trace(document(profile_events(read_profile(path)), "real")) == []


def test_changes_between_runs_say_what_and_where() -> None:
    base = simulate(plan())
    assert [c.view for c in base.changes_to(base)] == ["step"]
    slow = simulate(plan(), perturbation=Perturbation(slow_stages={1: 1.3}))
    lines = base.changes_to(slow)
    assert lines[0].change_s == pytest.approx(slow.step_s - base.step_s)
    path = [c for c in lines if c.view == "critical path"]
    assert sum(c.change_s for c in path) == pytest.approx(lines[0].change_s)
    stages = {c.what: c.change_s for c in lines if c.view == "stage busy"}
    assert set(stages) == {"stage 1"}
    idle = {c.what: c.change_s for c in lines if c.view == "stage idle"}
    assert idle["stage 0"] > 0
    contended = simulate(plan(), contention=Contention(compute={"reduce": 1.5}))
    assert contended.step_s >= base.step_s


def test_summary_has_the_promised_fields_and_repeats() -> None:
    run = simulate(plan(), perturbation=Perturbation(stragglers={2: 1.2}))
    summary = run.summary()
    assert {
        "step_s",
        "closed_form_step_s",
        "bubble_fraction",
        "critical_path",
        "tasks",
        "engine",
        "engine_s",
    } <= set(summary)
    again = simulate(plan(), perturbation=Perturbation(stragglers={2: 1.2})).summary()
    clocks = ("engine_s", "build_s")
    assert json.dumps({k: v for k, v in summary.items() if k not in clocks}) == json.dumps(
        {k: v for k, v in again.items() if k not in clocks}
    )
    assert summary["devices"] == 8
    plain = simulate(plan()).summary()
    assert plain["closed_form_step_s"] == pytest.approx(plain["step_s"], rel=0.02)
    assert sum(plain["critical_path"].values()) == pytest.approx(plain["step_s"])  # type: ignore[attr-defined]
    assert plain["engine"] == "maxplus"


def test_differences_from_the_closed_form_are_explained() -> None:
    plain = simulate(plan())
    relative, causes = plain.why_different()
    assert abs(relative) < 0.02
    slow = simulate(plan(), perturbation=Perturbation(stragglers={2: 1.2}))
    relative, causes = slow.why_different()
    assert relative < -0.05
    assert causes[0][0] == "ranks that differ"
    bucketed = dataclasses.replace(plan(), grad_buckets=4)
    held = simulate(bucketed, contention=Contention(compute={"reduce": 3.0}, communication={"reduce": 2.0}))
    assert held.why_different()[1][0][0] == "links or computation that transfers share"


def test_a_table_is_simulated_without_a_closed_form() -> None:
    table = (("F0", "F1", "B0", "B1"), ("F0", "B0", "F1", "B1"))
    costs = dataclasses.replace(even_costs("1f1b", 2, 2), schedule="table", table=table)
    assert simulate(costs).summary()["closed_form_step_s"] is None


@pytest.mark.parametrize(
    ("name", "operator"),
    [
        # NCCL, RCCL, and what calls itself a collective without being one
        ("ncclDevKernel_AllReduce_Sum_bf16_RING_LL(ncclDevKernelArgsStorage<4096ul>)", "collectives"),
        ("ncclDevKernel_AllGather_RING_LL", "collectives"),
        ("ncclDevKernel_Broadcast_RING_LL", "collectives"),
        ("ncclSymkDevKernel_ReduceScatter_LDMC", "collectives"),
        ("ncclDevKernel_AlltoAll_RING_LL", "all-to-all"),
        ("ncclKernel_SendRecv_RING_SIMPLE_Sum_int8_t(ncclDevComm*, unsigned long, ncclWork*)", "send and receive"),
        ("rcclGenericKernel<1, false>", "collectives"),
        ("void multimem_all_reduce_kernel<c10::BFloat16, 16>", "collectives"),
        ("void vllm::cross_device_reduce_1stage<__half, 8>", "collectives"),
        ("userbuffers_fp16_sum_inplace_gpu_rr_rs_oop", "collectives"),
        ("kuserbuffers_pushrecv", "send and receive"),
        ("void at::native::elementwise_kernel<broadcast>", "memory-bound"),
        ("void at::native::(anonymous namespace)::CatArrayBatchedCopy<all_gather>", "memory-bound"),
        ("scatter_gather_elementwise_kernel", "memory-bound"),
        # HCCL and CANN
        ("hcom_allReduce__581_0_1", "collectives"),
        ("hcom_reduceScatter__123_4", "collectives"),
        ("hcom_alltoallv__581_12_1", "all-to-all"),
        ("hcom_send__581_2_1", "send and receive"),
        ("hcom_receive__581_2_1", "send and receive"),
        ("hcom_batchSendRecv__581_2_1", "send and receive"),
        ("aclnnMoeDistributeDispatch_MoeDistributeDispatch_MoeDistributeDispatch", "all-to-all"),
        ("MoeDistributeCombineV2", "all-to-all"),
        ("aclnnMatmul_MatMulCommon_MatMulV2", "linear"),
        ("MatmulAllReduce", "linear"),
        ("aclnnFlashAttentionScore_FlashAttentionScore_FlashAttentionScore", "attention"),
        ("FusedInferAttentionScore", "attention"),
        ("aclnnGroupedMatmulV4_GroupedMatmul_GroupedMatmul", "experts"),
        ("MoeTokenPermute", "memory-bound"),
        ("MoeGatingTopKSoftmax", "memory-bound"),
        ("SwiGlu", "memory-bound"),
        ("aclnnInplaceCopy_TensorMoveAiCore_TensorMove", "copy"),
        ("MEMCPY_ASYNC", "copy"),
        # DeepEP
        ("void deep_ep::intranode::dispatch<8, 768, 8192>", "all-to-all"),
        ("void deep_ep::internode_ll::combine<true, 7168, 9>", "all-to-all"),
        ("deep_ep::internode::notify_dispatch", "all-to-all"),
        # attention, before anything that it combines or dispatches
        ("void flash_fwd_splitkv_combine_kernel<Flash_fwd_kernel_traits<128>>", "attention"),
        ("void cutlass::device_kernel<flash::enable_sm90<flash::FlashAttnFwdSm90<X>>>", "attention"),
        ("void flash::flash_bwd_dq_dk_dv_loop_seqk_parallel_kernel", "attention"),
        ("fmha_cutlassF_bf16_aligned_64x128_rf_sm80", "attention"),
        ("cudnn_generated_fort_native_sdpa_sm90_knob_7_flash_fprop", "attention"),
        ("_attn_fwd", "attention"),
        ("_bwd_attention_dispatch_kernel", "attention"),
        # cuBLAS and CUTLASS
        ("ampere_bf16_s16816gemm_bf16_128x256_ldg8_f2f_stages_64x3_nn", "linear"),
        ("nvjet_hsh_256x128_64x4_2x1_v_bz_coopA_TNT", "linear"),
        ("void cutlass::Kernel2<cutlass_80_wmma_tensorop_bf16_s161616gemm_bf16_32x32_32x1_tn_align8>", "linear"),
        ("void gemvNSP_kernel<float, float, float, float, 1, 32, 4, 1024>", "linear"),
        ("void splitKreduce_kernel<32, 16, int, float>", "linear"),
        ("void cutlass::device_kernel<GemmUniversal<cutlass::gemm::GroupProblemShape<X>>>", "experts"),
        ("void deep_gemm::sm90_fp8_gemm_1d2d_impl<0u, 4096u, 7168u, 1u, (deep_gemm::GemmType)1>", "experts"),
        ("void deep_gemm::sm90_fp8_gemm_1d2d_impl<0u, 4096u, 7168u, 1u, (deep_gemm::GemmType)0>", "linear"),
        ("fused_moe_kernel", "experts"),
        # Triton: generated kernels name all that was fused
        ("triton_poi_fused_send_x", "memory-bound"),
        ("triton_poi_fused_addmm_gelu_0", "memory-bound"),
        ("triton_red_fused__to_copy_all_gather_mean_2", "memory-bound"),
        ("triton_per_fused_native_layer_norm_4", "memory-bound"),
        ("triton_tem_fused_mm_3", "linear"),
        # Transformer Engine and ATen
        ("void transformer_engine::normalization::rmsnorm_fwd_tuned_kernel<X>", "memory-bound"),
        ("void transformer_engine::(anonymous namespace)::cast_transpose_kernel", "memory-bound"),
        ("void at::native::elementwise_kernel<128, 4, at::native::add(float)::{lambda(int)#1}>", "memory-bound"),
        ("void at::native::reduce_kernel<512, 1, at::native::ReduceOp<c10::BFloat16>>", "memory-bound"),
        ("void at::native::upsample_bilinear2d_out_frame<float>", "memory-bound"),
        # the optimizer
        ("void multi_tensor_apply_kernel<TensorListMetadata<4>, AdamFunctorMaster<float>>", "optimizer"),
        ("void at::native::multi_tensor_apply_kernel<at::native::FusedAdamMathFunctor<float, 4>>", "optimizer"),
        ("lamb_stage_1", "optimizer"),
        ("aclnnApplyAdamWV2_ApplyAdamWV2_ApplyAdamWV2", "optimizer"),
        ("Memset (Device)", "copy"),
    ],
)  # fmt: skip
def test_real_kernels_are_known(name: str, operator: str) -> None:
    assert classify(name) == operator


def test_what_the_trace_says_of_a_collective_counts_before_its_kernel(tmp_path: Path) -> None:
    kernel = "ncclDevKernel_SendRecv(ncclDevKernelArgsStorage<4096ul>)"
    events = [
        {"ph": "X", "cat": "kernel", "name": kernel, "pid": 0, "tid": 20, "ts": 5000, "dur": 2000,
         "args": {"stream": 20, "Collective name": "all_to_allv", "Group size": 8}},
        {"ph": "X", "cat": "kernel", "name": kernel, "pid": 0, "tid": 20, "ts": 7500, "dur": 100,
         "args": {"stream": 20, "Collective name": "send"}},
        {"ph": "X", "cat": "kernel", "name": "ncclDevKernel_AllGather_RING_LL(x)", "pid": 0, "tid": 21, "ts": 8000,
         "dur": 1000, "args": {"stream": 21, "Collective name": "_allgather_base"}},
        {"ph": "X", "cat": "kernel", "name": "void deep_ep::intranode::dispatch<8>", "pid": 0, "tid": 22, "ts": 9300,
         "dur": 300, "args": {"stream": 22}},
    ]  # fmt: skip
    path = tmp_path / "trace.json"
    path.write_text(json.dumps({"traceEvents": events}))
    profile = read_profile(path)
    assert profile.operator == ("all-to-all", "send and receive", "collectives", "all-to-all")
    table = {line.operator: line for line in simulate(plan()).compare(profile)}
    assert table["all-to-all"].real_s == pytest.approx(2.3e-3)
    assert table["send and receive"].real_s == pytest.approx(1e-4)


def test_the_optimizer_is_not_all_that_happens_once_a_step(tmp_path: Path) -> None:
    path = tmp_path / "kineto.json"
    path.write_text(json.dumps(kineto()))
    profile = read_profile(path)
    run = simulate(plan())
    whole = {line.operator: line.simulated_s for line in run.compare(profile)}
    shares = {"gradient reduction": 0.2, "parameter gather": 0.0, "optimizer": 0.1, "once a step": 0.7}
    parts = {line.operator: line.simulated_s for line in run.compare(profile, after_passes=shares)}
    assert parts["optimizer"] == pytest.approx(0.1 * whole["optimizer"])
    assert parts["once a step"] == pytest.approx(0.7 * whole["optimizer"])
    assert parts["collectives"] == pytest.approx(whole["collectives"] + 0.2 * whole["optimizer"])
    assert sum(parts.values()) == pytest.approx(sum(whole.values()))

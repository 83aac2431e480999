"""The machine at hand without PyTorch: laws, profile, operator lists and predictions, processes that fail or hang."""

from __future__ import annotations

import dataclasses
import json
import math
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fullmesh.errors import FullmeshError, ModelError
from fullmesh.here import device as here_device
from fullmesh.here.calibration import (
    HereProfile,
    calibrate_here,
    fit_profile,
    profile_from_json,
    read_profile,
)
from fullmesh.here.comparison import HereReport, HereRow, validate_here
from fullmesh.here.jobs import (
    Job,
    gpt,
    llama,
    parameter_tensors,
    predict_step_s,
    small_jobs,
    step_calls,
)
from fullmesh.here.laws import fit_law
from fullmesh.workload import Layer, MoE
from fullmesh.workload.flops import model_flop_per_token
from fullmesh.workload.parameters import parameter_counts

FLOP_PER_S, BYTES_PER_S, LAUNCH_S, TURN_S = 100e9, 10e9, 2e-6, 3e-6
GRID = [(64, 128, 128), (256, 384, 128), (512, 512, 512), (1024, 256, 1024), (128, 4096, 256), (64, 64, 2048)]
ELEMENTWISE = ("layernorm", "rmsnorm", "gelu", "swiglu", "add", "rotary", "repeat_kv", "cross_entropy")
ONE_WAY = ("accumulate", "merge", "bias_gradient", "flatten", "adamw")


def product_s(m: float, n: float, k: float) -> float:
    return LAUNCH_S + 2.0 * m * n * k / FLOP_PER_S


def moved_s(elements: float) -> float:
    return LAUNCH_S + 12.0 * elements / BYTES_PER_S


def measured() -> tuple[dict[str, object], list[dict[str, object]]]:
    """Answers of measuring processes on a machine whose times we know."""
    points: list[dict[str, object]] = []

    def point(operator: str, sizes: tuple[int, ...], *phases: float) -> None:
        points.append({"operator": operator, "sizes": list(sizes), "phases": [[s, s] for s in phases]})

    for m, n, k in GRID:
        point("linear", (m, n, k), product_s(m, n, k), 2.0 * product_s(m, n, k))
    for b, s, h, d in [(1, 64, 2, 32), (2, 128, 4, 64), (1, 512, 4, 32), (4, 256, 8, 64), (1, 256, 2, 128)]:
        seconds = LAUNCH_S + b * h * s * s * d / FLOP_PER_S
        point("attention", (b, s, h, d), seconds, 3.0 * seconds)
    for elements in (1 << 10, 1 << 14, 1 << 18, 1 << 22):
        for operator in ELEMENTWISE:
            point(operator, (elements,), moved_s(elements), 2.0 * moved_s(elements))
        for operator in ONE_WAY:
            point(operator, (elements,), moved_s(elements))
    for tokens, rows, width in [(64, 1000, 64), (256, 1000, 256), (64, 8000, 64), (1024, 4000, 128)]:
        seconds = LAUNCH_S + tokens * width * 8 / BYTES_PER_S
        point("embedding", (tokens, rows, width), seconds, seconds + rows * width * 4 / BYTES_PER_S)
    calls = [("linear", (64, 128, 128), 5), ("gelu", (1 << 14,), 3), ("merge", (1 << 14,), 2)]
    forward = 5 * product_s(64, 128, 128) + 3 * moved_s(1 << 14)
    mixed = [forward + 8 * TURN_S, 2.0 * forward + 2 * moved_s(1 << 14) + 8 * TURN_S]
    answer: dict[str, object] = {
        "device": "cpu",
        "clock": "cpu",
        "title": "a machine on paper",
        "num_devices": 2,
        "dtype": "float32",
        "torch": "0",
        "points": points,
        "mixed": {"phases": [[s, s] for s in mixed], "calls": calls},
    }
    sums = [{"bytes": b, "device_s": 1e-4 + b / 1e9, "host_s": 0.0} for b in (4096, 65536, 1 << 20, 1 << 24)]
    pair: list[dict[str, object]] = [
        {"points": sums, "shared": {"compute": [1.1, 0.9, 1.3], "memory": [0.8]}} for _ in range(2)
    ]
    return answer, pair


@pytest.fixture(scope="module")
def profile() -> HereProfile:
    answer, pair = measured()
    return fit_profile(answer, pair, "")


def test_product_law_finds_the_machine_and_carries_over_to_other_shapes(profile: HereProfile) -> None:
    for m, n, k in [*GRID, (384, 192, 192), (2048, 1024, 512)]:
        assert float(profile.seconds("linear", "forward", m, n, k)) == pytest.approx(
            product_s(m, n, k) + TURN_S, rel=0.12
        )


def test_curve_passes_through_its_points_and_grows_in_proportion_beyond(profile: HereProfile) -> None:
    at = float(profile.seconds("accumulate", "forward", 1 << 18))
    assert at == pytest.approx(moved_s(1 << 18), rel=1e-3)
    last, beyond = (float(profile.seconds("accumulate", "forward", 1 << e)) for e in (22, 25))
    assert beyond == pytest.approx(8.0 * last, rel=1e-3)
    first, below = (float(profile.seconds("accumulate", "forward", n)) for n in (1 << 10, 3))
    assert below == first


def test_operators_in_turn_cost_what_the_mixed_stream_showed(profile: HereProfile) -> None:
    assert profile.turn_s["device.forward"] == pytest.approx(TURN_S, rel=0.1)
    assert profile.turn_s["device.backward"] == pytest.approx(TURN_S, rel=0.1)


def test_sharing_is_a_median_and_never_speeds_up(profile: HereProfile) -> None:
    assert profile.sharing == {"compute": 1.1, "memory": 1.0}


@given(
    st.lists(st.floats(1e-6, 1e-2), min_size=3, max_size=6), st.integers(1, 1 << 26), st.integers(1, 1 << 26)
)
def test_a_curve_never_falls_whatever_the_noise(seconds: list[float], a: int, b: int) -> None:
    sizes = [[4**i * 64] for i in range(len(seconds))]
    law = fit_law("gelu", "forward", "device", sizes, seconds)
    low, high = sorted((a, b))
    assert float(law.seconds(low)) <= float(law.seconds(high)) * (1 + 1e-12)


@given(st.tuples(*[st.integers(1, 4096)] * 3), st.integers(0, 2))
def test_a_larger_product_is_never_faster(sizes: tuple[int, int, int], axis: int) -> None:
    law = fit_law(
        "linear", "forward", "device", GRID, [product_s(*g) * (1 + 0.05 * i) for i, g in enumerate(GRID)]
    )
    larger = [2 * s if i == axis else s for i, s in enumerate(sizes)]
    assert 0.0 < float(law.seconds(*sizes)) <= float(law.seconds(*larger))


def test_terms_are_never_negative() -> None:
    rng = np.random.default_rng(0)
    sizes = [(1, 64, 2, 32), (2, 128, 4, 64), (1, 512, 4, 32), (4, 256, 8, 64), (1, 256, 2, 128)]
    law = fit_law("attention", "forward", "device", sizes, list(rng.uniform(1e-5, 1e-3, len(sizes))))
    assert min(law.numbers) >= 0.0


def test_the_same_points_give_the_same_numbers(profile: HereProfile) -> None:
    answer, pair = measured()
    again = fit_profile(answer, pair, "")
    assert again.laws == profile.laws


def test_profile_survives_its_file(profile: HereProfile, tmp_path: Path) -> None:
    path = tmp_path / "here.json"
    profile.write(path)
    assert read_profile(path) == profile
    assert json.loads(path.read_text())["clock"] == "cpu"


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": "fullmesh-here-1"}'])
def test_a_file_that_is_no_profile_is_named(text: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.json"
    path.write_text(text)
    with pytest.raises(FullmeshError):
        read_profile(path)
    with pytest.raises(FullmeshError, match=r"missing\.json"):
        read_profile(tmp_path / "missing.json")


# --- jobs -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_parameter_tensors_hold_the_parameters_of_the_model(device: str) -> None:
    for job in small_jobs(device):
        whole = dataclasses.replace(job, tp=1)
        assert sum(n * c for n, c in parameter_tensors(whole).items()) == parameter_counts(job.model).total
        assert sum(n * c for n, c in parameter_tensors(job).items()) <= parameter_counts(job.model).total


@pytest.mark.parametrize("job", small_jobs("cpu"), ids=lambda j: f"{j.name} {j.batch}x{j.seq}")
def test_products_of_a_step_do_the_work_of_the_model(job: Job) -> None:
    """Products and attention of all processes together are the model's own count of forward operations."""
    tokens = job.batch * job.seq
    products = attention = head = 0.0
    for call in step_calls(job):
        if call.operator == "linear":
            flop = 2.0 * call.count * math.prod(call.sizes)
            if call.sizes[1] == job.model.vocab:
                head += flop
            else:
                products += flop
        elif call.operator == "attention":
            b, s, h, d = call.sizes
            attention += call.count * 2.0 * b * h * s * s * d
    # the head is not split by tensor parallelism here
    assert job.tp * (products + attention) + head == pytest.approx(
        tokens * model_flop_per_token(job.model, job.seq)
    )


def test_jobs_cover_both_models_and_both_ways_to_split() -> None:
    jobs = small_jobs("cpu")
    assert {j.model.norm for j in jobs} == {"layernorm", "rmsnorm"}
    assert {(j.dp, j.tp) for j in jobs} == {(1, 1), (2, 1), (1, 2)}
    assert len({(j.name, j.shape) for j in jobs}) == len(jobs)


def test_prediction_adds_up_its_operators(profile: HereProfile) -> None:
    job = Job(model=gpt(128, 2, 2, 1000, 128), batch=2, seq=64)
    plain = dataclasses.replace(profile, turn_s={})
    by_hand = sum(
        c.count * float(plain.seconds(c.operator, p, *c.sizes))
        for c in step_calls(job)
        for p in ("forward", "backward")
    )
    assert predict_step_s(plain, job) == pytest.approx(by_hand)
    assert predict_step_s(profile, job) > by_hand


def test_more_layers_longer_sequences_and_sharing_take_longer(profile: HereProfile) -> None:
    def seconds(layers: int = 2, seq: int = 64, dp: int = 1, tp: int = 1) -> float:
        return predict_step_s(
            profile, Job(model=llama(128, layers, 4, 2, 256, 1000), batch=2, seq=seq, dp=dp, tp=tp)
        )

    assert seconds() < seconds(layers=3)
    assert seconds() < seconds(seq=96)
    assert seconds() < seconds(dp=2)
    # half the products of a layer, but not half the step
    assert 0.5 * seconds(seq=1024) < seconds(seq=1024, tp=2)


def test_host_bound_steps_take_the_hosts_time(profile: HereProfile) -> None:
    hosts = tuple(
        dataclasses.replace(law, column="host", form="constant", numbers=(1.0,)) for law in profile.laws
    )
    slow = dataclasses.replace(profile, device="cuda", laws=profile.laws + hosts, dtype="float32")
    assert predict_step_s(slow, Job(model=gpt(128, 1, 2, 1000, 128), batch=1, seq=64)) > 10.0


def test_unknown_parts_and_odd_splits_are_refused() -> None:
    model = gpt(128, 1, 2, 1000, 128)
    experts = Layer(mixer=model.layers[0].mixer, ffn=MoE(num_experts=4, topk=1, ffn=64))
    with pytest.raises(ModelError, match="layer"):
        step_calls(Job(model=dataclasses.replace(model, layers=(experts,)), batch=1, seq=8))
    with pytest.raises(ModelError, match="split"):
        step_calls(Job(model=gpt(96, 1, 3, 1000, 128), batch=1, seq=8, tp=2))


def test_report_says_median_worst_and_bias(profile: HereProfile) -> None:
    rows = tuple(
        HereRow(
            job=str(p),
            shape="",
            processes=1,
            parameters=1,
            predicted_s=p,
            measured_s=1.0,
            wall_s=1.0,
            steps=7,
        )
        for p in (0.9, 1.05, 1.2)
    )
    report = HereReport(profile=profile, rows=rows, skipped={}, elapsed_s=1.0)
    assert report.median_error == pytest.approx(0.1)
    assert report.worst_error == pytest.approx(0.2)
    assert report.bias == pytest.approx(0.05)
    data = json.loads(json.dumps(report.as_json()))
    assert [r["error"] for r in data["rows"]] == pytest.approx([-0.1, 0.05, 0.2])
    assert profile_from_json(data["profile"]) == profile


# --- processes ------------------------------------------------------------------------------------------------


def test_absent_torch_is_named_with_the_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(here_device.importlib.util, "find_spec", lambda name: None)
    for call in (calibrate_here, validate_here):
        with pytest.raises(FullmeshError, match=r"pip install 'fullmesh\[torch\]'"):
            call()


def test_bad_options_are_refused_before_anything_starts() -> None:
    for call in (calibrate_here, validate_here):
        with pytest.raises(FullmeshError, match="unknown device"):
            call("abacus")
        with pytest.raises(FullmeshError, match="unknown clock"):
            call("cpu", clock="sundial")
        with pytest.raises(FullmeshError, match="too few"):
            call("cpu", 1.0)


def test_processes_that_hang_are_ended_and_failures_are_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "sleeper.py").write_text("import time\ntime.sleep(60)\n")
    (tmp_path / "failer.py").write_text(
        "import sys, time\nif sys.argv[2] == '0': time.sleep(60)\nraise OSError('no luck')\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(here_device, "require_torch", lambda: None)
    start = time.monotonic()
    with pytest.raises(FullmeshError, match="not done after"):
        here_device.launch("sleeper", {}, num_processes=2, timeout_s=0.3, what="a test")
    # the second fails, and the first, which would wait for it, is ended
    with pytest.raises(FullmeshError, match="no luck"):
        here_device.launch("failer", {}, num_processes=2, timeout_s=30.0, what="a test")
    assert time.monotonic() - start < 25.0

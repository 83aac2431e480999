"""Reduction of an installed package's measurements to tables, on small tables made here; the real one where it is."""

from __future__ import annotations

import builtins
import importlib.metadata
import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fullmesh.calibrate.collectives.points import read_nccl
from fullmesh.calibrate.operators import package
from fullmesh.calibrate.operators.package import Part
from fullmesh.calibrate.operators.tables import read_table
from fullmesh.errors import ResultsError

CommandLine = Callable[..., tuple[int, str, str]]


def part(
    rows: list[dict[str, Any]], *, framework: str = "vllm", release: str = "1", system: str = "h100_sxm"
) -> Part:
    columns = {
        n: np.array([r[n] for r in rows], dtype=object if isinstance(rows[0][n], str) else None)
        for n in rows[0]
    }
    return Part(system=system, framework=framework, release=release, columns=columns)


def gemm(latency: float, *, m: int = 128, dtype: str = "bfloat16") -> dict[str, Any]:
    return {"gemm_dtype": dtype, "m": m, "n": 256, "k": 512, "latency": latency}


def attention(**changes: Any) -> dict[str, Any]:
    row = {"kernel_source": "fa3", "attn_dtype": "bfloat16", "kv_cache_dtype": "bfloat16", "batch_size": 2}
    row |= {"isl": 1024, "num_heads": 8, "num_key_value_heads": 2, "head_dim": 128, "beam_width": 1}
    return {**row, "step": 0, "window_size": 0, "latency": 0.5, **changes}


def expert(**changes: Any) -> dict[str, Any]:
    row = {"kernel_source": "cutlass", "moe_dtype": "fp8_block", "num_tokens": 64, "hidden_size": 2048}
    row |= {"inter_size": 768, "topk": 8, "num_experts": 128, "moe_tp_size": 1, "moe_ep_size": 4}
    return {**row, "distribution": "balanced", "latency": 0.25, **changes}


def message(latency: float, **changes: Any) -> dict[str, Any]:
    row = {"op_name": "all_reduce", "nccl_dtype": "half", "num_gpus": 8, "message_size": 1024}
    return {**row, "latency": latency, **changes}


@given(st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=6), st.randoms(use_true_random=False))
def test_products_keep_the_fastest_whatever_the_order(latencies: list[float], random: Any) -> None:
    parts = [part([gemm(v)], release=str(i)) for i, v in enumerate(latencies)]
    expected = package.gemm_rows(parts)
    random.shuffle(parts)
    assert package.gemm_rows(parts) == expected
    assert len(expected) == 1
    assert float(expected[0]["latency_us"]) == pytest.approx(min(latencies) * 1e3, rel=1e-5)
    fastest = min(range(len(latencies)), key=lambda i: (latencies[i], str(i)))
    assert expected[0]["source"] == f"vllm {fastest}"


def test_products_leave_out_what_no_fit_can_use() -> None:
    rows = [
        gemm(1.0, m=128),
        gemm(1.0, m=129),  # one past a tile
        gemm(1.0, m=3072),
        gemm(1.0, dtype="int4_wo"),  # weight-only
        gemm(1.0, dtype="nvfp4"),  # the chip has no such unit
        gemm(float("nan"), m=256),
        gemm(0.0, m=512),
    ]
    found = package.gemm_rows([part(rows)])
    assert [(r["gemm_dtype"], r["m"]) for r in found] == [("bf16", 128), ("bf16", 3072)]
    blackwell = package.gemm_rows([part(rows, system="b200_sxm")])
    assert {r["gemm_dtype"] for r in blackwell} == {"bf16", "nvfp4"}


def test_attention_keeps_every_kernel_and_whole_attention_only() -> None:
    left_out: list[dict[str, Any]] = [
        {"window_size": 128},
        {"kv_cache_dtype": "fp8"},
        {"attn_dtype": "fp8"},
        {"head_dim": 64},
        {"isl": 256},
        {"step": 64},
        {"beam_width": 4},
    ]
    rows = [attention(), attention(kernel_source="triton"), *(attention(**c) for c in left_out)]
    silent = attention()
    del silent["window_size"]
    found = package.attention_rows([part(rows), part([silent], framework="sglang")])
    assert [(r["source"], r["kernel_source"], r["latency_us"]) for r in found] == [
        ("vllm 1", "fa3", "500"),
        ("vllm 1", "triton", "500"),
    ]


def test_expert_points_need_gated_kernels_and_two_frameworks() -> None:
    rows = [expert(), expert(hidden_size=1024), expert(moe_tp_size=2, latency=0.1), expert(num_tokens=32)]
    rows += [expert(distribution="uniform", latency=0.1)]
    other = [expert(latency=0.2), expert(hidden_size=1024, kernel_source="torch_nongated", moe_tp_size=2)]
    alone = [expert(hidden_size=4096)]
    found = package.expert_rows([part(rows), part(other, framework="trtllm"), part(alone, release="2")])
    assert [(r["hidden_size"], r["source"], r["latency_us"]) for r in found] == [(2048, "trtllm 1", "200")]


def test_nccl_repeats_become_their_median_in_bytes() -> None:
    rows = [message(0.03), message(0.01), message(0.02), message(0.005, nccl_dtype="int8")]
    found = package.nccl_rows([part(rows, framework="nccl", release="2.29.2")])
    assert found == [
        {
            "system": "h100_sxm",
            "nccl": "2.29.2",
            "op_name": "all_reduce",
            "num_gpus": 8,
            "bytes": 2048,
            "latency_us": "20",
            "samples": 3,
        }
    ]


def test_the_release_with_the_most_node_counts_wins_then_the_latest() -> None:
    releases = {"0.5.9": (1, 2), "0.5.10": (1, 2), "0.6.0": (1,), "0.5.10rc12": (1, 2), "0.5.10rc2": (1, 2)}
    parts = {r: part([{"node_num": n} for n in nodes], release=r) for r, nodes in releases.items()}
    assert [p.release for p in package.widest(parts.values())] == ["0.5.10"]
    assert [p.release for p in package.latest(parts.values())] == ["0.6.0"]
    del parts["0.5.10"]
    assert [p.release for p in package.widest(parts.values())] == ["0.5.10rc12"]
    later = part([{"node_num": 1}, {"node_num": 2}], release="0.5.10.post1")
    assert [p.release for p in package.widest([later, parts["0.5.10rc2"]])] == ["0.5.10.post1"]
    assert package.widest([]) == []


def test_written_tables_read_back(tmp_path: Path) -> None:
    comment = package._comment("9.9", "reduced")
    layers = [expert(), expert(num_tokens=128)]
    for name, rows in (
        ("gemm_h100_sxm.csv", package.gemm_rows([part([gemm(0.125), gemm(0.25, m=64)])])),
        ("attn_ctx_h100_sxm.csv", package.attention_rows([part([attention(), attention(batch_size=4)])])),
        ("moe_h100_sxm.csv", package.expert_rows([part(layers), part(layers, framework="trtllm")])),
    ):
        package.write_rows(tmp_path / name, comment, rows)
        table = read_table(tmp_path / name)
        assert len(table) == 2
        assert table.source.startswith("Source: aiconfigurator-core 9.9")
        assert "NVIDIA" in table.source
        assert "Apache-2.0" in table.source
    curves_path = tmp_path / "nccl_intra_node.csv"
    package.write_rows(curves_path, comment, package.nccl_rows([part([message(0.02)], release="2.29.2")]))
    (curve,) = read_nccl(curves_path)
    assert curve.seconds.tolist() == pytest.approx([2e-5])
    assert curve.num_bytes.tolist() == [2048.0]
    assert not [p for p in tmp_path.iterdir() if p.suffix == ".part"]


def test_a_layout_that_is_not_known_is_named() -> None:
    row = gemm(1.0)
    row["rows"] = row.pop("m")
    with pytest.raises(ResultsError, match="lack columns: m") as raised:
        package.gemm_rows([part([row])])
    assert "h100_sxm, vllm 1" in str(raised.value)
    assert package.TRIED_VERSION in raised.value.hint


def test_without_the_package_the_hint_says_how_to_get_it(
    command_line: CommandLine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    for what in ("operators", "collectives"):
        code, _, err = command_line("calibrate", what, "--package", "--out", str(tmp_path / "out.json"))
        assert code == 2
        assert "pip install aiconfigurator-core pyarrow" in err
        assert "Traceback" not in err
    assert list(tmp_path.iterdir()) == []


def test_without_pyarrow_the_hint_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    real = builtins.__import__

    def no_pyarrow(name: str, *rest: Any, **options: Any) -> Any:
        if name.startswith("pyarrow"):
            raise ImportError(name)
        return real(name, *rest, **options)

    monkeypatch.setattr(builtins, "__import__", no_pyarrow)
    with pytest.raises(ResultsError, match="needs pyarrow") as raised:
        package.read_parts(tmp_path, "h100_sxm", "gemm", "gemm_perf.parquet")
    assert raised.value.hint == "pip install aiconfigurator-core pyarrow"


@pytest.mark.parametrize("what", ["operators", "collectives"])
@pytest.mark.parametrize("both", [True, False])
def test_a_folder_or_the_package_never_both_or_none(
    command_line: CommandLine, tmp_path: Path, what: str, both: bool
) -> None:
    arguments = (str(tmp_path), "--package") if both else ()
    code, _, err = command_line("calibrate", what, *arguments, "--out", str(tmp_path / "out.json"))
    assert code == 2
    assert "either a FOLDER of measured tables or --package" in err
    assert list(tmp_path.iterdir()) == []


def test_a_fitted_profile_names_package_release_and_licence(
    command_line: CommandLine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    seen: list[Path] = []

    def fit(folder: Path, **options: Any) -> dict[str, Any]:
        seen.append(folder)
        curves = [{"source": "t.csv (aiconfigurator-core 0.12.0)"}, {"source": "a paper"}]
        return {"versions": {"numpy": "1"}, "curves": curves}

    monkeypatch.setattr(package, "find_package", lambda: (tmp_path, "9.9"))
    monkeypatch.setattr(package, "operator_tables", lambda folder, **options: [])
    monkeypatch.setattr(package, "collective_tables", lambda folder: [])
    monkeypatch.setattr("fullmesh.calibrate.operators.fit.fit_operator_profiles", fit)
    monkeypatch.setattr("fullmesh.calibrate.collectives.fit.fit_collectives", fit)
    out = tmp_path / "operators.json"
    assert command_line("calibrate", "operators", "--package", "--out", str(out))[0] == 0
    assert json.loads(out.read_text("utf-8"))["versions"]["aiconfigurator-core"] == "9.9"
    profile = package.fit_collectives_to_package()
    assert profile["tables"]["source"].startswith("aiconfigurator-core 9.9")
    assert "NVIDIA" in profile["tables"]["licence"]
    assert [c["source"] for c in profile["curves"]] == ["t.csv (aiconfigurator-core 9.9)", "a paper"]
    assert len(seen) == 2
    assert not any(folder.exists() for folder in seen)


def test_the_real_package(tmp_path: Path) -> None:
    """Every table that the fits need comes out, with the rows that release 0.12.0 has."""
    try:
        version = importlib.metadata.version("aiconfigurator-core")
        importlib.metadata.version("pyarrow")
    except importlib.metadata.PackageNotFoundError as error:
        pytest.skip(f"not installed: {error.name}")
    files = {p.name: p for p in package.collective_tables(tmp_path)}
    assert sorted(files) == [
        "deepep_low_latency_h100.csv",
        "deepep_normal_h100.csv",
        "nccl_intra_node.csv",
        "nvl72_moe_alltoall.csv",
    ]
    data, _ = package.find_package()
    parts = package.read_parts(data, "a100_sxm", "gemm", "gemm_perf.parquet")
    rows = package.gemm_rows(parts)
    assert {r["source"].split()[0] for r in rows} == {"sglang", "trtllm", "vllm"}
    point = next(r for r in rows if (r["gemm_dtype"], r["m"], r["n"], r["k"]) == ("bf16", 1, 32, 64))
    if version == package.TRIED_VERSION:
        assert (point["source"], round(float(point["latency_us"]), 2)) == ("vllm 0.14.0", 2.58)

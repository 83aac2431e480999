"""Reading, fitting and scoring measured operator tables, on small synthetic ones."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from fullmesh.calibrate.operators.fit import fit_operator_profiles, write_profiles
from fullmesh.calibrate.operators.tables import find_tables, read_table
from fullmesh.cost.operators.profile import PROFILES_FILE, read_profiles
from fullmesh.errors import CatalogError, OutputError, ResultsError
from fullmesh.validate.measured_operators import fit_residuals, score_operator_tables

SOURCE = "# Source: made up for this test\n"


def write_tables(folder: Path) -> None:
    """Tables of a device that follows a simple law: launch, arithmetic at 70 % of the peak, traffic at 80 %."""
    peak, bandwidth = 989e12 * 0.7, 3.35e12 * 0.8
    rows = ["gemm_dtype,m,n,k,latency_us,tflops,source"]
    for m in (1, 16, 128, 1024, 8192):
        for n in (64, 512, 4096, 16384):
            for k in (64, 512, 4096, 16384):
                seconds = 3e-6 + max(2.0 * m * n * k / peak, 2.0 * (m * k + n * k + m * n) / bandwidth)
                rows.append(f"bfloat16,{m},{n},{k},{seconds * 1e6:.4f},0,none 1.0")
    (folder / "gemm_h100_sxm.csv").write_text(SOURCE + "\n".join(rows) + "\n")
    rows = [
        "source,kernel_source,attn_dtype,batch_size,isl,num_heads,num_key_value_heads,head_dim,latency_us,tflops_causal"
    ]
    for batch in (1, 4, 16):
        for isl in (512, 2048, 8192, 16384):
            for heads in (8, 32):
                seconds = 1e-5 + 2.0 * batch * heads * isl * isl * 128 / (0.6 * 989e12)
                rows.append(f"none 1.0,kernel,bfloat16,{batch},{isl},{heads},8,128,{seconds * 1e6:.4f},0")
    (folder / "attn_ctx_h100_sxm.csv").write_text(SOURCE + "\n".join(rows) + "\n")
    rows = [
        "moe_dtype,num_tokens,hidden_size,inter_size,topk,num_experts,moe_ep_size,distribution,latency_us,source"
    ]
    for tokens in (64, 512, 4096, 16384):
        for hidden, inter, topk, experts in ((2048, 768, 8, 128), (4096, 14336, 2, 8), (7168, 2048, 8, 256)):
            for ep in (1, 2, 8):
                for distribution, skew in (("balanced", 1.0), ("power_law_1.2", 1.3)):
                    work = 6.0 * tokens * topk / ep * skew * hidden * inter / (0.6 * 989e12)
                    weights = 6.0 * experts / ep * hidden * inter / bandwidth
                    rows.append(
                        f"bfloat16,{tokens},{hidden},{inter},{topk},{experts},{ep},{distribution},"
                        f"{(3e-5 + max(work, weights)) * 1e6:.4f},none 1.0"
                    )
    (folder / "moe_h100_sxm.csv").write_text(SOURCE + "\n".join(rows) + "\n")
    (folder / "NOTICE").write_text("not a table\n")


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tables")
    write_tables(folder)
    return folder


def test_fit_recovers_a_simple_law_and_repeats_bit_for_bit(tables: Path, tmp_path: Path) -> None:
    first, second = fit_operator_profiles(tables), fit_operator_profiles(tables)
    write_profiles(first, tmp_path / "a.json")
    write_profiles(second, tmp_path / "b.json")
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()
    assert read_profiles(tmp_path / "a.json") == json.loads(json.dumps(first))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.json", "b.json"]
    with pytest.raises(OutputError, match="cannot write"):
        write_profiles(first, tmp_path / "none" / "a.json")
    residuals = {r["operator"]: r for r in first["residuals"]}
    assert residuals["gemm"]["fitted_on"] == 80
    assert residuals["gemm"]["median_percent"] < 4.0
    assert residuals["attention"]["held_out_median_percent"] < 7.0
    assert residuals["grouped"]["median_percent"] < 7.0
    assert first["tables"]["gemm_h100_sxm.csv"]["rows"] == 80
    assert first["source"] == ["Source: made up for this test"]
    assert list(first["skipped"]) == ["NOTICE"]


def test_scores_any_folder_and_names_what_it_skips(tables: Path) -> None:
    scores = score_operator_tables(tables)
    assert [(r.table, r.chip, r.dtype, r.operator, r.points) for r in scores.rows] == [
        ("attn_ctx_h100_sxm.csv", "h100-sxm", "bf16", "attention", 24),
        ("gemm_h100_sxm.csv", "h100-sxm", "bf16", "gemm", 80),
        ("moe_h100_sxm.csv", "h100-sxm", "bf16", "grouped", 72),
    ]
    for row in scores.rows:
        assert not row.fitted_on
        assert 0 <= row.median <= row.p90 <= row.worst
    assert list(scores.skipped) == ["NOTICE"]


def test_dtype_without_a_unit_is_skipped_by_name(tmp_path: Path) -> None:
    (tmp_path / "gemm_a100_sxm.csv").write_text(
        SOURCE + "gemm_dtype,m,n,k,latency_us\nbfloat16,1,64,64,2.5\nfp8,1,64,64,2.5\n"
    )
    scores = score_operator_tables(tmp_path)
    assert [r.dtype for r in scores.rows] == ["bf16"]
    assert "no matrix unit for fp8" in scores.skipped["gemm_a100_sxm.csv (fp8)"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("bfloat16,1,64,64", "gemm_h100_sxm.csv:4: the row has 4 fields"),
        ("bfloat16,1,64,64,-2.5", "gemm_h100_sxm.csv:4, column latency_us: '-2.5' is negative"),
        ("bfloat16,one,64,64,2.5", "gemm_h100_sxm.csv:4, column m: 'one' is not a number"),
        ("bfloat16,nan,64,64,2.5", "gemm_h100_sxm.csv:4, column m: 'nan' is not a number"),
        ("bfloat17,1,64,64,2.5", "gemm_h100_sxm.csv:4: unknown dtype 'bfloat17'"),
        ('"bfloat16,1,64,64,2.5', "gemm_h100_sxm.csv:4: not a CSV file"),
    ],
)
def test_corrupt_row_is_named_with_file_and_line(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "gemm_h100_sxm.csv"
    path.write_text(SOURCE + f"gemm_dtype,m,n,k,latency_us\nbfloat16,1,64,64,2.5\n{line}\n")
    with pytest.raises(ResultsError, match="error") as caught:
        score_operator_tables(tmp_path)
    assert message in str(caught.value)


def test_corrupt_files_and_folders(tmp_path: Path) -> None:
    with pytest.raises(ResultsError, match="no operator table"):
        find_tables(tmp_path)
    with pytest.raises(ResultsError, match="no such folder"):
        find_tables(tmp_path / "none")
    path = tmp_path / "gemm_h100_sxm.csv"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ResultsError, match="not UTF-8"):
        read_table(path)
    path.write_text("")
    with pytest.raises(ResultsError, match="the column 'gemm_dtype' is missing"):
        read_table(path)
    path.write_text(SOURCE + "gemm_dtype,m,n,k,latency_us\n")
    with pytest.raises(ResultsError, match="no rows"):
        read_table(path)
    other = tmp_path / "gemm_tpu.csv"
    other.write_text(SOURCE + "gemm_dtype,m,n,k,latency_us\nbfloat16,1,64,64,2.5\n")
    with pytest.raises(ResultsError, match="unknown chip 'tpu'"):
        read_table(other)
    moe = tmp_path / "moe_h100_sxm.csv"
    moe.write_text(
        "moe_dtype,num_tokens,hidden_size,inter_size,topk,num_experts,moe_ep_size,distribution,latency_us\n"
        "bfloat16,64,2048,768,8,128,1,zipf,100\n"
    )
    with pytest.raises(ResultsError, match=r"moe_h100_sxm.csv:2: unknown routing distribution 'zipf'"):
        read_table(moe)


def test_unreadable_profile_file_is_a_named_error(tmp_path: Path) -> None:
    path = tmp_path / "operators.json"
    with pytest.raises(CatalogError, match="cannot read operator profiles"):
        read_profiles(path)
    path.write_text("[]")
    with pytest.raises(CatalogError, match="no operator profiles"):
        read_profiles(path)


def test_shipped_profile_meets_the_bar_on_held_out_points_and_is_small() -> None:
    assert PROFILES_FILE.stat().st_size < 500_000
    residuals = fit_residuals()
    assert len(residuals) > 40
    for r in residuals:
        assert r["held_out"] > 100, r
        assert r["held_out_median_percent"] <= 7.0, r
        assert r["held_out_p90_percent"] <= 25.0, r
    content = read_profiles(PROFILES_FILE)
    assert "aiconfigurator-core 0.12.0" in content["source"][0]
    assert "Apache-2.0" in content["licence"]
    for profile in content["profiles"].values():
        for fits in (profile["gemm"], profile["grouped"]):
            for fit in fits.values():
                assert 0.0 < fit["fit"]["compute_share"] <= 1.0
                assert np.isfinite(fit["fit"]["launch_s"])

"""Operator models: bounds, monotonicity and broadcasting on every chip of the catalog."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fullmesh.cost.operators.kernels import (
    OperatorProfile,
    attention_s,
    gemm_s,
    grouped_gemm_s,
    load_profile,
    memory_bound_s,
    moe_layer_s,
)
from fullmesh.cost.operators.lattice import Floats, LogLattice, never_decreasing
from fullmesh.cost.operators.profile import ELEMENT_BYTES, PEAK_OF
from fullmesh.errors import PlanError
from fullmesh.machine.chips import list_chips, load_chip

BLOCKED = {"fp8_block", "nvfp4"}


def supported() -> list[tuple[str, str]]:
    """Every chip with every dtype that it multiplies."""
    pairs = []
    for chip_id in list_chips():
        profile = load_profile(load_chip(chip_id))
        for dtype in ELEMENT_BYTES:
            try:
                profile.product(dtype)
            except PlanError:
                continue
            pairs.append((chip_id, dtype))
    return pairs


PAIRS = supported()
CHIPS = list_chips()
# far outside the measured grid (1 to 32768 rows, 32 to 65536 columns and depth) on both sides
extent = st.floats(min_value=0.0, max_value=24.0).map(lambda x: 2.0**x)
factor = st.floats(min_value=1.0, max_value=64.0)


def profile_of(chip_id: str) -> OperatorProfile:
    return load_profile(load_chip(chip_id))


def peak(chip_id: str, dtype: str) -> float:
    return load_chip(chip_id).matrix_flop_per_s[PEAK_OF.get(dtype, dtype)]


@settings(deadline=None, max_examples=300)
@given(st.sampled_from(PAIRS), extent, extent, extent, st.integers(0, 2), factor)
def test_product_grows_and_stays_below_the_peak(
    pair: tuple[str, str], m: float, n: float, k: float, axis: int, more: float
) -> None:
    chip_id, dtype = pair
    if dtype in BLOCKED:
        n, k = max(n, 128.0), max(k, 128.0)
    profile = profile_of(chip_id)
    larger = [m, n, k]
    larger[axis] *= more
    seconds = float(gemm_s(profile, m, n, k, dtype))
    assert np.isfinite(seconds)
    assert 2.0 * m * n * k / seconds <= peak(chip_id, dtype) * (1 + 1e-9)
    # no cliff: time never grows faster than a little above the work
    after = float(gemm_s(profile, *larger, dtype))
    assert seconds * (1 - 1e-9) <= after <= seconds * (1.6 * more**1.6)


@settings(deadline=None, max_examples=200)
@given(st.sampled_from(PAIRS), extent, extent, extent, st.integers(1, 10), st.integers(0, 3), factor)
def test_grouped_product_grows_and_stays_below_the_peak(
    pair: tuple[str, str], rows: float, n: float, k: float, log_experts: int, axis: int, more: float
) -> None:
    chip_id, dtype = pair
    profile = profile_of(chip_id)
    shape = [rows, n, k, 2.0**log_experts]
    seconds = float(grouped_gemm_s(profile, *shape, dtype))
    assert 2.0 * rows * n * k / seconds <= peak(chip_id, dtype) * (1 + 1e-9)
    shape[axis] *= more
    assert float(grouped_gemm_s(profile, *shape, dtype)) >= seconds * (1 - 1e-9)


@settings(deadline=None, max_examples=200)
@given(
    st.sampled_from(CHIPS),
    st.integers(0, 6).map(lambda x: 2.0**x),
    st.floats(5.0, 20.0).map(lambda x: 2.0**x),
    st.floats(5.0, 20.0).map(lambda x: 2.0**x),
    st.integers(0, 7).map(lambda x: 2.0**x),
    st.sampled_from([(64, 64), (128, 128), (192, 128), (256, 256)]),
    st.booleans(),
    st.booleans(),
    st.integers(0, 3),
    factor,
)
def test_attention_grows_and_stays_below_the_peak(
    chip_id: str,
    batch: float,
    seq_q: float,
    seq_kv: float,
    heads: float,
    dims: tuple[int, int],
    causal: bool,
    backward: bool,
    axis: int,
    more: float,
) -> None:
    profile = profile_of(chip_id)
    shape = [batch, seq_q, seq_kv, heads]

    def seconds_of(shape: list[float]) -> float:
        return float(attention_s(profile, *shape, min(heads, 8.0), *dims, causal=causal, backward=backward))

    seconds = seconds_of(shape)
    flop = (
        2.0
        * batch
        * heads
        * seq_q
        * seq_kv
        * sum(dims)
        * (0.5 if causal else 1.0)
        * (2.5 if backward else 1.0)
    )
    highest = max(load_chip(chip_id).matrix_flop_per_s.get(d, 0.0) for d in ("bf16", "fp16"))
    assert flop / seconds <= highest * (1 + 1e-9)
    shape[axis] *= more
    assert seconds_of(shape) >= seconds * (1 - 1e-9)


@pytest.mark.parametrize("chip_id", CHIPS)
def test_attention_masks_and_passes(chip_id: str) -> None:
    profile = profile_of(chip_id)
    shape = (2, 8192, 8192, 16, 4, 128, 128)
    causal = attention_s(profile, *shape, causal=True)
    assert causal < attention_s(profile, *shape, causal=False) < 2.2 * causal
    assert causal < attention_s(profile, *shape, causal=True, backward=True)
    assert attention_s(profile, *shape, causal=True, window=1024) < 0.5 * causal
    assert attention_s(profile, *shape, causal=True, window=8192) == pytest.approx(float(causal))
    quarter = attention_s(profile, 2, 2048, 8192, 16, 4, 128, 128, causal=True)
    assert 0.2 * causal < quarter < 0.5 * causal


def test_columns_equal_scalars() -> None:
    profile = profile_of("h100-sxm")
    m, n, k = np.array([1, 100, 5000.0]), np.array([64, 4096, 13824.0]), np.array([64, 5120, 300.0])
    for dtype in ("bf16", "fp8_block"):
        together = gemm_s(profile, m, n, k, dtype)
        alone = [float(gemm_s(profile, *x, dtype)) for x in zip(m, n, k, strict=True)]
        assert together.tolist() == alone
    assert gemm_s(profile, m[:, None], n, 4096, "bf16").shape == (3, 3)
    assert attention_s(profile, 1, m, 4096, 8, 8, 128, 128, causal=True).shape == (3,)
    assert memory_bound_s(profile, m).shape == (3,)


def test_blocks_matter_only_below_one_block() -> None:
    profile = profile_of("b200")
    narrow = gemm_s(profile, 4096, np.array([64.0, 127.0, 128.0]), 4096, "fp8_block")
    assert narrow[0] > 3 * narrow[2]
    assert narrow[1] > 3 * narrow[2]
    # tensor-scaled products have no such limit
    assert np.all(np.diff(gemm_s(profile, 4096, np.array([64.0, 127.0, 128.0]), 4096, "fp8")) >= 0)


@pytest.mark.parametrize(
    ("chip_id", "dtype"),
    [("a100-80", "fp8"), ("h100-sxm", "nvfp4"), ("h100-sxm", "mxfp8"), ("ascend-910c", "fp8")],
)
def test_unsupported_dtype_is_a_named_error(chip_id: str, dtype: str) -> None:
    profile = profile_of(chip_id)
    with pytest.raises(PlanError, match=dtype):
        gemm_s(profile, 1, 1, 1, dtype)
    with pytest.raises(PlanError, match="one of"):
        grouped_gemm_s(profile, 1, 1, 1, 1, dtype)


def test_unknown_names_are_named_errors() -> None:
    profile = profile_of("h100-sxm")
    with pytest.raises(PlanError, match="unknown dtype 'fp7'"):
        gemm_s(profile, 1, 1, 1, "fp7")
    with pytest.raises(PlanError, match="unknown routing distribution 'zipf'"):
        moe_layer_s(profile, 64, 4096, 1536, 8, 128, 8, "bf16", distribution="zipf")
    with pytest.raises(PlanError, match="unknown attention kernel 'fa9'"):
        attention_s(profile, 1, 64, 64, 8, 8, 128, 128, causal=True, kernel="fa9")


def test_profile_scales_with_peak_and_bandwidth() -> None:
    # the same silicon with less bandwidth: products bound by arithmetic alike, streaming slower
    fast, slow = profile_of("h100-sxm"), profile_of("h100-94")
    assert gemm_s(slow, 8192, 8192, 8192, "bf16") == pytest.approx(
        gemm_s(fast, 8192, 8192, 8192, "bf16"), rel=0.02
    )
    ratio = fast.chip.hbm_bytes_per_s / slow.chip.hbm_bytes_per_s
    assert gemm_s(slow, 1, 16384, 16384, "bf16") / gemm_s(fast, 1, 16384, 16384, "bf16") == pytest.approx(
        ratio, rel=0.05
    )
    # a lower bin of the same core
    full, cut = profile_of("ascend-910b2"), profile_of("ascend-910b4")
    ratio = full.chip.matrix_flop_per_s["bf16"] / cut.chip.matrix_flop_per_s["bf16"]
    assert gemm_s(cut, 8192, 8192, 8192, "bf16") / gemm_s(full, 8192, 8192, 8192, "bf16") == pytest.approx(
        ratio, rel=0.02
    )


def test_expert_layer_is_slower_with_skew_and_faster_spread_over_devices() -> None:
    profile = profile_of("h200")
    layer = [
        float(moe_layer_s(profile, 8192, 7168, 2048, 8, 256, ep, "bf16", distribution=d))
        for ep, d in ((32, "balanced"), (32, "power_law_1.2"), (8, "balanced"))
    ]
    assert layer[0] < layer[1]
    assert layer[0] < layer[2]


def test_published_rates_of_another_library() -> None:
    """DeepGEMM on H800, which no fit has seen."""
    h800 = profile_of("h800")
    points = np.array(
        [
            (64, 2112, 7168, 206), (64, 24576, 1536, 289), (64, 32768, 512, 219), (64, 7168, 16384, 336),
            (64, 4096, 7168, 287), (64, 7168, 2048, 295), (128, 2112, 7168, 352), (128, 24576, 1536, 535),
            (128, 32768, 512, 358), (128, 7168, 16384, 645), (128, 4096, 7168, 533), (128, 7168, 2048, 510),
            (4096, 2112, 7168, 1058), (4096, 24576, 1536, 990), (4096, 32768, 512, 590),
            (4096, 7168, 16384, 1358), (4096, 4096, 7168, 1304), (4096, 7168, 2048, 1025),
        ],
        dtype=np.float64,
    ).T  # fmt: skip
    m, n, k, tera = points
    rate = 2.0 * m * n * k / gemm_s(h800, m, n, k, "fp8_block") / 1e12
    assert np.median(np.abs(rate / tera - 1.0)) < 0.15


def test_training_attention_reproduces_the_published_rates() -> None:
    """FlashAttention-3 forward on H100, FlashAttention-2 forward and backward on A100: 16k tokens of 16 heads."""
    length = np.array([1024.0, 2048, 4096, 8192, 16384])
    batch = 16384 / length
    flop = batch * 16 * length**2 * 256

    def seconds(chip_id: str, *, backward: bool = False) -> Floats:
        shape = (batch, length, length, 16, 16, 128, 128)
        return attention_s(profile_of(chip_id), *shape, causal=True, backward=backward)

    hopper = flop / seconds("h100-sxm") / 1e12
    assert np.max(np.abs(hopper / [423, 521, 579, 602, 616] - 1.0)) < 0.12
    ampere = 3.5 * flop / (seconds("a100-80") + seconds("a100-80", backward=True)) / 1e12
    assert np.max(np.abs(ampere / [133, 155, 173, 182, 189] - 1.0)) < 0.12


def test_lattice_interpolates_powers_exactly_and_extends_them() -> None:
    axis = np.arange(0.0, 5.0)
    lattice = LogLattice(first=(0, 0), log_s=np.log(2.0) * (axis[:, None] + 2.0 * axis[None, :]))
    x, y = np.array([1.0, 3.3, 16.0, 64.0]), np.array([1.0, 5.7, 2.0, 2.0])
    assert np.allclose(lattice(x, y), x * y**2)
    assert lattice(0.25, 1.0) == pytest.approx(1.0)
    assert lattice(np.ones(0), np.ones(0)).shape == (0,)


def test_never_decreasing_is_the_least_such_grid() -> None:
    grid = np.array([[1.0, 3.0, 2.0], [0.0, 5.0, 4.0]])
    assert never_decreasing(grid).tolist() == [[1.0, 3.0, 3.0], [1.0, 5.0, 5.0]]

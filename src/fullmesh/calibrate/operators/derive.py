"""What the measured tables do not cover, by stated procedure from published figures and from related chips."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import numpy as np

from fullmesh.calibrate.operators.single import fit_parameters
from fullmesh.calibrate.operators.tables import Table
from fullmesh.cost.operators.kernels import gemm_s
from fullmesh.cost.operators.laws import AttentionFit, Hardware, ProductFit, attention_core_s, product_s
from fullmesh.cost.operators.profile import ELEMENT_BYTES, PEAK_OF, OperatorProfile
from fullmesh.machine.hardware import Chip

# weights of more than this many bytes do not stay in a second-level cache between repetitions
_STREAMED_BYTES = 200e6
# products of at most so many rows read their weights and do little else
_SKINNY_ROWS = 16.0
_LARGE = 8192.0


def memory_bound(products: Table, chip: Chip) -> dict[str, Any]:
    """Elementwise kernels, from matrix products that do nothing but stream their weights.

    The bandwidth share is the median over 16-bit products of at most 16 rows and weights above 200 MB; the launch is
    the tenth percentile of all products below a thousandth of that traffic.
    """
    x, element = products.numbers, np.array([ELEMENT_BYTES[d] for d in products.dtype])
    weights = x["n"] * x["k"] * element
    wide = element == ELEMENT_BYTES["bf16"]
    streamed = wide & (x["m"] <= _SKINNY_ROWS) & (weights > _STREAMED_BYTES)
    tiny = wide & (weights + (x["n"] + x["k"]) * x["m"] * element < _STREAMED_BYTES / 1000.0)
    if not (streamed.any() and tiny.any()):
        return {
            "launch_s": 3e-6,
            "bandwidth_share": 0.8,
            "source": "NVIDIA's own planner: 80 % of HBM, 3 us a kernel",
        }
    share = float(np.median(weights[streamed] / products.seconds[streamed])) / chip.hbm_bytes_per_s
    return {
        "launch_s": float(f"{np.percentile(products.seconds[tiny], 10):.4g}"),
        "bandwidth_share": float(f"{min(share, 1.0):.4g}"),
        "source": f"{int(streamed.sum())} skinny and {int(tiny.sum())} tiny products of the measured table",
    }


def attention_shape(published: Mapping[str, Any], arch: str) -> dict[str, Any]:
    """Masks, head dimensions and the backward pass from published figures.

    Parameters
    ----------
    published : mapping
        Content of the file of published figures.
    arch : str
        Instruction generation.
    """
    masks = published["attention_masks"]
    length = np.array(masks["length"], dtype=np.float64)
    # the rate of full over that of causal attention is 1 + waste / length
    ratio = np.array(masks["full_128"], dtype=np.float64) / np.array(masks["causal_128"], dtype=np.float64)
    waste = float(np.median((ratio - 1.0) * length))
    longest = [float(masks[f"causal_{d}"][-1]) / float(masks["causal_128"][-1]) for d in (64, 128, 256)]
    backward = published["attention_backward"]
    figures = backward[next((k for k in ("sm80", "sm90", "sm100") if arch == k), "ascend")]
    return {
        "mask_waste": round(waste, 1),
        "head_dims": [64, 128, 256],
        "head_dim_share": [round(v, 4) for v in longest],
        "backward_flop": backward["flop"],
        "backward_share": round(figures["backward_flop_per_s"] / figures["forward_flop_per_s"], 4),
        "source": f"{masks['source']}; backward: {figures['source']}",
    }


def training_attention(published: Mapping[str, Any], chip: Chip, record: Mapping[str, Any]) -> dict[str, Any]:
    """The training kernel of a chip from its published rates by length, where there are any; else nothing.

    The measured tables time inference kernels, which also prepare and write caches: much slower on A100, slower at
    short lengths on Hopper. Unfilled processors are as measured there, the launch is that of an elementwise kernel;
    share of the peak and the length at which half of it is reached are fitted to the published rates.
    """
    found: dict[str, Any] = {}
    for name, figures in published["training_attention"].items():
        if figures["arch"] != chip.arch:
            continue
        length = np.array(figures["length"], dtype=np.float64)
        rate = np.array(figures["causal_128"], dtype=np.float64) * 1e12 / chip.matrix_flop_per_s["bf16"]
        fit = fit_parameters(
            lambda x, length=length: np.log(np.exp(x[0]) * length / (length + np.exp(x[1]))),  # type: ignore[misc]
            np.log(rate),
            {"compute_share": 0.6, "pad_length": 500.0},
        )
        found[name] = {
            "fit": {
                "launch_s": record["memory_bound"]["launch_s"],
                "compute_share": fit["compute_share"],
                "pad_rows": next(iter(record["attention"].values()))["fit"]["pad_rows"],
                "pad_length": fit["pad_length"],
                "traffic": 0.0,
            },
            "correction": None,
            "source": figures["source"],
        }
    return found


def dense_share(profile: OperatorProfile, dtype: str) -> float:
    """Share of the peak that a large dense product reaches (8192 rows, columns and depth)."""
    seconds = float(gemm_s(profile, _LARGE, _LARGE, _LARGE, dtype))
    peak = profile.chip.matrix_flop_per_s[PEAK_OF.get(dtype, dtype)]
    return float(f"{2.0 * _LARGE**3 / seconds / peak:.4g}")


def grouped_like(
    relative: Mapping[str, Any], theirs: OperatorProfile, own: OperatorProfile
) -> dict[str, Any]:
    """Expert products of a chip without a table: a relative's, its shares scaled as those of dense products.

    Parameters
    ----------
    relative : mapping
        Record of the relative's profile.
    theirs, own : OperatorProfile
        Of the relative and of the chip itself.
    """
    found: dict[str, Any] = {}
    for dtype, record in relative["grouped"].items():
        if PEAK_OF.get(dtype, dtype) not in own.chip.matrix_flop_per_s:
            continue
        copied = copy.deepcopy(record)
        copied["ceiling"] = dense_share(own, dtype)
        share = record["fit"]["compute_share"] * copied["ceiling"] / dense_share(theirs, dtype)
        copied["fit"]["compute_share"] = float(f"{share:.5g}")
        found[dtype] = copied
    return found


def _published_products(figures: Mapping[str, Any], hardware: Hardware) -> tuple[dict[str, float], str]:
    """Parameters of matrix products from published points, held weakly at common values, and how well they fit."""
    m, n, k = (np.array([float(p[c]) for p in figures["products"]]) for c in ("m", "n", "k"))
    flop = 2.0 * m * n * k
    seconds = np.array(
        [
            p["value"] if p["unit"] == "s" else f / p["value"]
            for p, f in zip(figures["products"], flop, strict=True)
        ]
    )
    start = {
        "launch_s": 5e-6,
        "compute_share": 0.8,
        "memory_share": 0.8,
        "pad_m": 16.0,
        "pad_n": 16.0,
        "pad_k": 64.0,
    }

    def product(p: Mapping[str, float]) -> ProductFit:
        return ProductFit(**p, sharpness=2.0)

    fit = fit_parameters(
        lambda x: np.log(product_s(product(dict(zip(start, np.exp(x), strict=True))), hardware, m, n, k)),
        np.log(seconds),
        start,
        {"compute_share": 1.0, "memory_share": 1.0},
    )
    error = np.abs(product_s(product(fit), hardware, m, n, k) / seconds - 1.0)
    note = f"{len(m)} published points, median error {100 * np.median(error):.1f} %, worst {100 * error.max():.1f} %"
    return fit, note


def _published_attention(figures: Mapping[str, Any], hardware: Hardware) -> dict[str, float]:
    """Parameters of causal attention from prefill timings: the share of the peak alone is fitted."""
    points = figures["attention"]
    rows = np.array([p["batch"] * p["num_heads"] * p["length"] for p in points])
    length = np.array([p["length"] for p in points])
    measured = np.array([p["value_s"] for p in points])
    fixed = {
        "launch_s": figures["memory_bound"]["launch_s"],
        "pad_rows": 1.0,
        "pad_length": 128.0,
        "traffic": 0.0,
    }
    share = fit_parameters(
        lambda x: np.log(
            attention_core_s(AttentionFit(**fixed, compute_share=float(np.exp(x[0]))), hardware, rows, length)
        ),
        np.log(measured),
        {"compute_share": 0.35},
    )["compute_share"]
    return {
        "launch_s": fixed["launch_s"],
        "compute_share": share,
        "pad_rows": 1.0,
        "pad_length": 128.0,
        "traffic": 0.0,
    }


def _assumed_experts(figures: Mapping[str, Any], dense: Mapping[str, float]) -> dict[str, float]:
    """Parameters of expert products: the dense shares, with assumed overheads."""
    return {
        "launch_s": dense["launch_s"],
        "expert_s": 1e-7,
        "compute_share": dense["compute_share"],
        "memory_share": dense["memory_share"],
        "pad_rows": 64.0,
        "sharpness": 2.0,
        "layer_s": 4.0 * figures["memory_bound"]["launch_s"],
        "concentration": 1.0,
        "layer_traffic": 1.0,
        "routing_traffic": 0.0,
    }


def ascend_profile(published: Mapping[str, Any]) -> dict[str, Any]:
    """The profile of the Ascend 910 family from published figures: the physical part alone, no correction.

    Products: shares, paddings and the launch fitted to the published points, held weakly at common values.
    Attention: share of the peak from two inference prefill timings. Expert products: the dense shares, with assumed
    overheads, since no published timing names its shape.
    """
    figures = published["ascend"]
    hardware = Hardware(
        flop_per_s=figures["peak_flop_per_s"],
        hbm_bytes_per_s=figures["hbm_bytes_per_s"],
        element_bytes=ELEMENT_BYTES["bf16"],
    )
    fit, note = _published_products(figures, hardware)
    bound = figures["memory_bound"]
    return {
        "fitted_chip": {
            "id": "ascend-910b2",
            "matrix_flop_per_s": {"fp16": figures["peak_flop_per_s"], "bf16": figures["peak_flop_per_s"]},
            "hbm_bytes_per_s": figures["hbm_bytes_per_s"],
        },
        "gemm": {"bf16": {"fit": {**fit, "sharpness": 2.0}, "correction": None}},
        "gemm_note": note,
        "attention": {"prefill_fia": {"fit": _published_attention(figures, hardware), "correction": None}},
        "attention_note": figures["attention_note"],
        "attention_shape": attention_shape(published, "ascend"),
        "memory_bound": {
            "launch_s": bound["launch_s"],
            "bandwidth_share": bound["bandwidth_share"],
            "source": f"{bound['launch_source']}; {bound['bandwidth_source']}",
        },
        "grouped": {
            "bf16": {
                "fit": _assumed_experts(figures, fit),
                "ceiling": fit["compute_share"],
                "correction": None,
            }
        },
        "grouped_note": "assumed: no published timing names its shape; dense shares, half a tile of padding an expert",
    }

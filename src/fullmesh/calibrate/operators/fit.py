"""Fit operator profiles to a folder of measured tables: ``fullmesh calibrate operators DIR --out FILE``."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fullmesh.calibrate.operators.derive import (
    ascend_profile,
    attention_shape,
    dense_share,
    grouped_like,
    memory_bound,
    training_attention,
)
from fullmesh.calibrate.operators.single import Floats, Layers, fit_attention, fit_grouped, fit_product
from fullmesh.calibrate.operators.tables import CHIP_IDS, Table, find_tables, read_table
from fullmesh.cost.operators.kernels import attention_s, gemm_s, moe_layer_s
from fullmesh.cost.operators.laws import Hardware
from fullmesh.cost.operators.profile import ELEMENT_BYTES, PEAK_OF, OperatorProfile
from fullmesh.cost.operators.routing import Load, routed
from fullmesh.data import DATA_DIR
from fullmesh.errors import ResultsError
from fullmesh.files import write_text
from fullmesh.machine.chips import load_chip
from fullmesh.machine.hardware import Chip

DATE = "2026-11-24"
PUBLISHED_FILE = DATA_DIR / "profiles" / "operators_published.json"
# profile names by table chip; a profile serves every chip of the catalog that names it
_PROFILES: Mapping[str, str] = {
    "a100_sxm": "a100",
    "h100_sxm": "h100",
    "h200_sxm": "h200",
    "b200_sxm": "b200",
    "gb200": "gb200",
    "gb300": "gb300",
}
# whose attention and expert fits serve a chip without such a table
_RELATIVES: Mapping[str, str] = {"gb300": "gb200", "a100_sxm": "h100_sxm"}
_HELD_OUT_SHARE = 0.2
_SEED = 20261124
_FEWEST_ROWS = 8

# log2 of the knots of the corrections
_PRODUCT_KNOTS = (np.linspace(0.0, 15.0, 9), np.linspace(5.0, 16.0, 7), np.linspace(5.0, 16.0, 7))
_ATTENTION_KNOTS = (np.linspace(9.0, 27.0, 10), np.linspace(9.0, 14.0, 6))
_GROUPED_KNOTS = (np.linspace(1.0, 17.0, 9), np.linspace(0.0, 8.0, 5), np.linspace(20.0, 27.0, 4))
_LAYER_KNOTS = (
    np.linspace(6.0, 14.0, 5),
    np.linspace(0.0, 8.0, 5),
    np.array([20.5, 22.5, 24.0, 26.0]),
    np.array([0.0, 1.0, 1.2]),
)
# products narrower or shallower than one block of scales leave the tuned kernel
_BLOCK: Mapping[str, float] = {"fp8_block": 128.0, "nvfp4": 128.0}


def fit_operator_profiles(folder: Path, *, report: Callable[[str], None] = lambda _: None) -> dict[str, Any]:
    """Fit every table of a folder.

    Parameters
    ----------
    folder : Path
        Holds ``gemm_CHIP.csv``, ``attn_ctx_CHIP.csv`` and ``moe_CHIP.csv``; other files are skipped.
    report : callable, optional
        Told what is being fitted.

    Returns
    -------
    dict
        The content of a profile file: provenance, one profile a chip, residuals of every fit. Deterministic.

    Raises
    ------
    ResultsError
        A table cannot be read, or there is none.

    Notes
    -----
    Residuals are measured twice: of a fit to four fifths of the points on the rest (whole ``(n, k)`` pairs for
    products, all kernels or distributions of a shape for the others), then of the fit to all points that is kept.
    """
    paths, skipped = find_tables(folder)
    tables = [read_table(p) for p in paths]
    published = json.loads(PUBLISHED_FILE.read_text(encoding="utf-8"))
    profiles: dict[str, Any] = {}
    residuals: list[dict[str, Any]] = []
    chips = [c for c in CHIP_IDS if any(t.chip == c for t in tables)]
    for name in chips:
        own = {t.operator: t for t in tables if t.chip == name}
        if "gemm" not in own:
            raise ResultsError(
                f"no table of matrix products for {name}", where=str(folder), expected=f"gemm_{name}.csv"
            )
        chip = load_chip(CHIP_IDS[name])
        record: dict[str, Any] = {
            "fitted_chip": {
                "id": chip.id,
                "matrix_flop_per_s": dict(sorted(chip.matrix_flop_per_s.items())),
                "hbm_bytes_per_s": chip.hbm_bytes_per_s,
            },
            "gemm": {},
            "attention": {},
            "grouped": {},
        }
        # the shape rules and elementwise kernels are needed before any evaluation
        record["attention_shape"] = attention_shape(published, chip.arch)
        record["memory_bound"] = memory_bound(own["gemm"], chip)
        # expert products are bounded by what dense ones reach, so those come first
        for operator, table in sorted(own.items(), key=lambda item: item[0] != "gemm"):
            report(f"{operator} {name}")
            record[operator] = _fit_table(table, chip, record, residuals)
        profiles[_PROFILES[name]] = record
    for name in chips:
        _complete(name, profiles, published)
    profiles["ascend910b"] = ascend_profile(published)
    return {
        "date": DATE,
        "method": "physical part by robust least squares, then a smooth correction on knots in log2 of the shape",
        "source": sorted({t.source for t in tables}),
        "licence": "Apache-2.0, Copyright (c) NVIDIA CORPORATION & AFFILIATES; see NOTICE",
        "versions": {p: importlib.metadata.version(p) for p in ("numpy", "scipy")},
        "tables": {
            t.path.name: {"rows": len(t), "sha256": hashlib.sha256(t.path.read_bytes()).hexdigest()}
            for t in tables
        },
        "skipped": skipped,
        "residuals": residuals,
        "profiles": profiles,
    }


def write_profiles(content: Mapping[str, Any], path: Path) -> None:
    """Write a profile file whole or not at all.

    Raises
    ------
    OutputError
        The file cannot be written.
    """
    text = json.dumps(content, indent=1, allow_nan=False)
    # one line for a list of numbers keeps the file reviewable
    lines, buffer = [], ""
    for line in text.splitlines():
        stripped = line.strip()
        if buffer:
            buffer += (" " if buffer.endswith(",") else "") + stripped
            if stripped.startswith("]"):
                lines.append(buffer)
                buffer = ""
        elif stripped.endswith("[") and "residuals" not in stripped and "knots" not in stripped:
            buffer = line
        else:
            lines.append(line)
    write_text(path, "\n".join(lines) + "\n")


def predict(profile: OperatorProfile, table: Table) -> Floats:
    """Predicted seconds of every row of a table.

    Parameters
    ----------
    profile : OperatorProfile
    table : Table

    Returns
    -------
    float array, shape (n,)

    Raises
    ------
    PlanError
        The chip has no matrix unit for a dtype of the table.
    """
    out = np.empty(len(table))
    kernels = set(profile.attention_kernels)
    groups = np.char.add(np.char.add(table.dtype, "|"), _group_words(table))
    for group in np.unique(groups):
        rows = groups == group
        dtype, _, word = str(group).partition("|")
        x = {name: values[rows] for name, values in table.numbers.items()}
        if table.operator == "gemm":
            out[rows] = gemm_s(profile, x["m"], x["n"], x["k"], dtype)
        elif table.operator == "grouped":
            out[rows] = moe_layer_s(
                profile,
                x["num_tokens"],
                x["hidden_size"],
                x["inter_size"],
                x["topk"],
                x["num_experts"],
                x["moe_ep_size"],
                dtype,
                distribution=word,
            )
        else:
            for head_dim in np.unique(x["head_dim"]):
                same = x["head_dim"] == head_dim
                chosen = np.flatnonzero(rows)[same]
                out[chosen] = attention_s(
                    profile,
                    x["batch_size"][same],
                    x["isl"][same],
                    x["isl"][same],
                    x["num_heads"][same],
                    x["num_key_value_heads"][same],
                    float(head_dim),
                    float(head_dim),
                    causal=True,
                    dtype=dtype,
                    kernel=word if word in kernels else "",
                )
    return out


def _group_words(table: Table) -> Any:
    for word in table.words.values():
        return word
    return np.full(len(table), "")


def _fit_table(
    table: Table, chip: Chip, record: Mapping[str, Any], residuals: list[dict[str, Any]]
) -> dict[str, Any]:
    """Fit every dtype (attention: every kernel) of a table, and note the residuals."""
    words = table.words["kernel_source"] if table.operator == "attention" else None
    keys = table.dtype if words is None else words
    found: dict[str, Any] = {}
    for key in sorted(set(keys.tolist())):
        rows = table.where(keys == key)
        dtype = str(rows.dtype[0])
        held = _held_out(rows)
        if len(rows) < _FEWEST_ROWS or held.all() or not held.any():
            raise ResultsError(
                f"{len(rows)} rows of {key} are too few to fit and to hold some of them out",
                where=str(table.path),
                expected=f"at least {_FEWEST_ROWS} rows of several shapes for each dtype and kernel",
                hint="measure more shapes, or leave these rows out",
            )
        trial = {key: _fit_rows(rows.where(~held), dtype, chip, record)}
        out = _errors(rows.where(held), chip, {**record, table.operator: trial})
        found[key] = _fit_rows(rows, dtype, chip, record)
        all_points = _errors(rows, chip, {**record, table.operator: {key: found[key]}})
        entry = {
            "chip": table.chip,
            "operator": table.operator,
            "dtype": dtype,
            "fitted_on": len(rows),
            "median_percent": _percent(np.median(all_points)),
            "p90_percent": _percent(np.percentile(all_points, 90)),
            "held_out": int(held.sum()),
            "held_out_median_percent": _percent(np.median(out)),
            "held_out_p90_percent": _percent(np.percentile(out, 90)),
        }
        if words is not None:
            entry["kernel"] = key
        residuals.append(entry)
    if words is not None:
        found = dict(sorted(found.items(), key=lambda item: _usual(table, item[0])))
    return found


def _usual(table: Table, kernel: str) -> tuple[float, str]:
    """Order of attention kernels: the one with the least total time on the shapes that most kernels have first."""
    rows = table.where(table.words["kernel_source"] == kernel)
    x = table.numbers
    best: dict[tuple[float, ...], float] = {}
    names = list(x)
    for i in range(len(table)):
        shape = tuple(float(x[n][i]) for n in names)
        best[shape] = min(best.get(shape, np.inf), float(table.seconds[i]))
    ratios = [
        float(rows.seconds[i]) / best[tuple(float(rows.numbers[n][i]) for n in names)]
        for i in range(len(rows))
    ]
    # a kernel that was measured on few shapes is no default
    return (float(np.median(ratios)) + (len(rows) < len(best) / 2), kernel)


def _fit_rows(rows: Table, dtype: str, chip: Chip, record: Mapping[str, Any]) -> dict[str, Any]:
    hardware = Hardware(
        flop_per_s=chip.matrix_flop_per_s[PEAK_OF.get(dtype, dtype)],
        hbm_bytes_per_s=chip.hbm_bytes_per_s,
        element_bytes=ELEMENT_BYTES[dtype],
    )
    x = rows.numbers
    if rows.operator == "gemm":
        block = _BLOCK.get(dtype, 0.0)
        small = np.minimum(x["n"], x["k"]) < block
        fits = []
        for part in (rows.where(~small), rows.where(small)):
            if len(part):
                y = part.numbers
                fits.append(fit_product(y["m"], y["n"], y["k"], part.seconds, hardware, _PRODUCT_KNOTS))
        return fits[0] if len(fits) == 1 else {**fits[0], "small": {"below": block, **fits[1]}}
    if rows.operator == "attention":
        heads = x["num_heads"] + x["num_key_value_heads"]
        return fit_attention(
            x["batch_size"] * x["num_heads"] * x["isl"] * x["head_dim"] / 128.0,
            x["isl"],
            x["batch_size"] * x["isl"] * heads * 2.0 * x["head_dim"] * 2.0,
            rows.seconds,
            hardware,
            _ATTENTION_KNOTS,
        )
    columns = ("num_tokens", "topk", "num_experts", "moe_ep_size")
    alpha, parts = np.empty(len(rows)), np.empty((3, len(rows)))
    for distribution in np.unique(rows.words["distribution"]):
        same = rows.words["distribution"] == distribution
        tokens, topk, experts, ep = (x[c][same] for c in columns)
        load = routed(tokens, topk, experts, ep, str(distribution))
        parts[:, same] = load.mean_rows, load.skew, load.experts
        alpha[same] = load.alpha
    layers = Layers(
        load=Load(mean_rows=parts[0], skew=parts[1], experts=parts[2], alpha=float("nan")),
        alpha=alpha,
        tokens=x["num_tokens"],
        ep=x["moe_ep_size"],
        hidden=x["hidden_size"],
        inter=x["inter_size"],
        seconds=rows.seconds,
    )
    ceiling = dense_share(OperatorProfile(chip, "trial", record), dtype)
    return fit_grouped(layers, hardware, ceiling, _GROUPED_KNOTS, _LAYER_KNOTS)


def _held_out(rows: Table) -> Any:
    """A fifth of the points, whole shapes at a time, by a seeded draw over the sorted shapes."""
    names = {
        "gemm": ("n", "k"),
        "attention": ("batch_size", "isl", "num_heads", "num_key_value_heads"),
        "grouped": tuple(rows.numbers),
    }[rows.operator]
    shapes = np.stack([rows.numbers[n] for n in names], axis=1)
    unique, group = np.unique(shapes, axis=0, return_inverse=True)
    drawn = np.random.default_rng(_SEED).random(len(unique)) < _HELD_OUT_SHARE
    return drawn[group.reshape(-1)]


def _errors(rows: Table, chip: Chip, record: Mapping[str, Any]) -> Floats:
    predicted = predict(OperatorProfile(chip, "trial", record), rows)
    return np.asarray(np.abs(predicted / rows.seconds - 1.0))


def _percent(value: Any) -> float:
    return round(100.0 * float(value), 2)


def _complete(name: str, profiles: dict[str, Any], published: Mapping[str, Any]) -> None:
    """Give a profile what its chip has no table for, from its relative."""
    record = profiles[_PROFILES[name]]
    chip = load_chip(CHIP_IDS[name])
    relative = profiles.get(_PROFILES.get(_RELATIVES.get(name, ""), ""))
    own = OperatorProfile(chip, "trial", record)
    for operator in ("attention", "grouped"):
        if record[operator]:
            continue
        if relative is None or not relative[operator]:
            raise ResultsError(f"no table gives {operator} for {name}, and none of a related chip does")
        if operator == "attention":
            record["attention"] = relative["attention"]
            record["attention_note"] = f"no table; as {_RELATIVES[name]}"
        else:
            record["grouped"] = grouped_like(
                relative, OperatorProfile(load_chip(CHIP_IDS[_RELATIVES[name]]), "trial", relative), own
            )
            record["grouped_note"] = (
                f"no table; as {_RELATIVES[name]}, the share of the peak scaled as that of dense products"
            )
    # training kernels come first: what a plan uses unless it names another
    record["attention"] = {**training_attention(published, chip, record), **record["attention"]}

"""Reports as plain records for JSON."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np

from fullmesh.validate.decisions import Decision, Decisions
from fullmesh.validate.score import Errors, Report


def _clean(value: Any) -> Any:
    """NaN has no place in JSON."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {k: _clean(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_clean(v) for v in value]
    return value


def _errors(errors: Errors) -> dict[str, Any]:
    return {f.name: getattr(errors, f.name) for f in dataclasses.fields(errors)}


def report_record(report: Report) -> dict[str, Any]:
    """``rows`` with one record a published result, and ``summary``."""
    out = {
        "rows": [{f.name: getattr(r, f.name) for f in dataclasses.fields(r)} for r in report.rows],
        "summary": {
            "coverage": {k: {"predicted": a, "rows": b} for k, (a, b) in report.coverage.items()},
            "outliers": {"rows": report.outliers[0], "of": report.outliers[1]},
            "headline": [_errors(e) for e in report.headline],
            "groups": {name: [_errors(e) for e in group] for name, group in report.groups.items()},
            "memory": [_errors(e) for e in report.memory],
            "memory_mean_of_publisher_medians": report.memory_median,
            "memory_left_out": [_errors(e) for e in report.memory_left_out],
            "memory_more_than_a_tenth_short": report.memory_short,
            "memory_interval_coverage": dict(zip(("rows", "share"), report.memory_coverage, strict=True)),
            "few_shot": {k: [dataclasses.asdict(f) for f in found] for k, found in report.few_shot.items()},
            "refused_for_memory": {k: dataclasses.asdict(r) for k, r in report.refused.items()},
            "alternative_bins": [_errors(e) for e in report.alternatives],
            "interval_coverage": {
                k: {"rows": n, "share": s} for k, (n, s) in report.interval_coverage.items()
            },
        },
    }
    cleaned: dict[str, Any] = _clean(out)
    return cleaned


def decisions_record(found: Decisions) -> dict[str, Any]:
    """``settings`` with one record a published setting, ``groups`` with quantiles of their ratios, and the pairs."""
    groups: dict[str, list[Decision]] = {"all": list(found.settings)}
    for d in found.settings:
        groups.setdefault(d.kind, []).append(d)
        groups.setdefault(f"{d.family} {d.kind}", []).append(d)
    lines = []
    for name, members in sorted(groups.items(), key=lambda item: (item[0] != "all", item[0])):
        ratios, beyond = [d.ratio for d in members], [d.exploratory_ratio for d in members]
        lines.append(
            {
                "group": name,
                "settings": len(members),
                "median": float(np.quantile(ratios, 0.5)) if members else math.nan,
                "p90": float(np.quantile(ratios, 0.9)) if members else math.nan,
                "exploratory_median": float(np.quantile(beyond, 0.5)) if members else math.nan,
                "exploratory_p90": float(np.quantile(beyond, 0.9)) if members else math.nan,
            }
        )
    return {
        "groups": lines,
        "pairs": found.pairs,
        "ordered": found.ordered,
        "ordered_share": found.ordered / found.pairs if found.pairs else math.nan,
        "refused": found.refused,
        "settings": [dataclasses.asdict(d) | {"ratio": d.ratio} for d in found.settings],
    }

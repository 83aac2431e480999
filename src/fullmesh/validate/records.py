"""Reports as plain records for JSON."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

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
            "headline": [_errors(e) for e in report.headline],
            "groups": {name: [_errors(e) for e in group] for name, group in report.groups.items()},
            "memory": [_errors(e) for e in report.memory],
            "memory_mean_of_publisher_medians": report.memory_median,
            "alternative_bins": [_errors(e) for e in report.alternatives],
            "interval_coverage": {
                k: {"rows": n, "share": s} for k, (n, s) in report.interval_coverage.items()
            },
        },
    }
    cleaned: dict[str, Any] = _clean(out)
    return cleaned

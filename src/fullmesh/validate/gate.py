"""The gate: which recorded figure of accuracy has been lost."""

from __future__ import annotations

import dataclasses
import importlib.resources
import tomllib

from fullmesh.validate.decisions import Decisions
from fullmesh.validate.score import Errors, Report

# A family needs this many rows before its own median is held to a limit.
MIN_FAMILY_ROWS = 10


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One figure against its limit. ``at_most`` is False where the figure must not fall below."""

    name: str
    value: float
    limit: float
    at_most: bool

    @property
    def holds(self) -> bool:
        """Whether the recorded level is kept."""
        return self.value <= self.limit if self.at_most else self.value >= self.limit


def _limits() -> dict[str, float]:
    text = importlib.resources.files("fullmesh.data").joinpath("profiles/gate.toml").read_text("utf-8")
    limits: dict[str, float] = tomllib.loads(text)["limits"]
    return limits


def decision_checks(found: Decisions) -> tuple[Check, ...]:
    """All checks of decisions on the shipped settings."""
    limits = _limits()
    figures = (
        ("best published over best plan, median", "decisions_median", found.quantile(0.5), True),
        ("best published over best plan, 90th percentile", "decisions_p90", found.quantile(0.9), True),
        (
            "the same, H100 MoE, median",
            "decisions_h100_moe",
            found.quantile(0.5, kind="MoE", family="H100"),
            True,
        ),
        ("pairs ordered rightly", "decisions_ordered", found.ordered / max(found.pairs, 1), False),
    )
    return tuple(
        Check(name=name, value=value, limit=limits[key], at_most=at_most)
        for name, key, value, at_most in figures
    )


def checks(report: Report) -> tuple[Check, ...]:
    """All checks of a report on the shipped table."""
    limits = _limits()
    headline = {e.group: e for e in report.headline}
    held_out = headline["cross-validated over configurations"]
    without = headline["whole publishers left out"]
    publishers = {r.publisher for r in report.rows}
    of_publishers = [
        share
        for name, (rows, share) in report.interval_coverage.items()
        if rows >= MIN_FAMILY_ROWS and name.removeprefix("unseen publishers: ") in publishers
    ]
    least_covered = min(of_publishers, default=1.0)
    fitted, naive = headline["fitted on these rows"], headline["naive model, fitted on these rows"]
    kinds = {e.group: e for e in report.groups["kind of model"]}
    families = [e for e in report.groups["chip family"] if e.rows >= MIN_FAMILY_ROWS]
    worst: Errors = max(families, key=lambda e: e.median)
    done_a, all_a = report.coverage["tier A"]
    done_b, all_b = report.coverage["tier B"]
    odd, all_rows = report.outliers
    refused = report.refused["all"]
    covered = report.interval_coverage["all"][1]

    def most(name: str, key: str, value: float) -> Check:
        return Check(name=name, value=value, limit=limits[key], at_most=True)

    def least(name: str, key: str, value: float) -> Check:
        return Check(name=name, value=value, limit=limits[key], at_most=False)

    return (
        least("tier A rows predicted", "coverage_tier_a", done_a / max(all_a, 1)),
        least("tier B rows predicted", "coverage_tier_b", done_b / max(all_b, 1)),
        most("outliers", "outlier_share", odd / max(all_rows, 1)),
        most("median error, cross-validated", "cross_validated_median", held_out.median),
        most("90th percentile, cross-validated", "cross_validated_p90", held_out.p90),
        most("median error, dense", "dense_median", kinds["dense"].median),
        most("median error, MoE", "moe_median", kinds["MoE"].median),
        most(f"worst chip family ({worst.group})", "family_median", worst.median),
        most("median error, publishers left out", "left_out_median", without.median),
        most("90th percentile, publishers left out", "left_out_p90", without.p90),
        most("bias, publishers left out", "left_out_bias", abs(without.bias)),
        most("peak memory, mean of publishers' medians", "memory_median", report.memory_median),
        most("peak memory, publishers left out", "memory_left_out_median", report.memory_left_out[0].median),
        most("plans that ran, but are refused", "refused_share", refused.refused / max(refused.rows, 1)),
        most("median over the naive model's", "naive_median_ratio", fitted.median / naive.median),
        most("90th percentile over the naive model's", "naive_p90_ratio", fitted.p90 / naive.p90),
        least("80 % interval covers, at least", "interval_coverage_low", covered),
        most("80 % interval covers, at most", "interval_coverage_high", covered),
        least("80 % interval covers of any publisher left out", "interval_coverage_publisher", least_covered),
    )

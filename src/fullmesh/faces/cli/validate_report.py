"""Tables of ``fullmesh validate``."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from fullmesh.faces.cli.options import tell as talk
from fullmesh.faces.cli.tables import show, table
from fullmesh.files import write_json
from fullmesh.output.fields import finite
from fullmesh.output.timing import timing_apart
from fullmesh.units import duration, si_prefix
from fullmesh.validate.decisions import Decisions
from fullmesh.validate.gate import Check
from fullmesh.validate.records import decisions_record
from fullmesh.validate.score import Errors, Report, RowScore


def write(path: Path, data: Mapping[str, Any]) -> None:
    """JSON to a file, or to standard output for ``-``."""
    plain = finite(dict(data))
    if str(path) == "-":
        click.echo(json.dumps(plain, indent=1, ensure_ascii=False, allow_nan=False))
    else:
        write_json(path, plain, where="--json")


def counted() -> Callable[[int, int], None]:
    """Progress over settings on standard error, every tenth of the way."""

    def tell(done: int, total: int) -> None:
        if done % max(total // 10, 1) == 0:
            talk(f"{done} of {total} settings")

    return tell


def show_decisions(found: Decisions, json_out: Path | None, worst: int) -> None:
    """What a search promises against the best that was published, and the order of published plans."""
    record = decisions_record(found)
    if json_out:
        write(json_out, record)
        if str(json_out) == "-":
            return
    t = table(
        "best published step over the best plan's", "settings of", "settings>", "median>", "90th percentile>",
        "fastest predicted, median>", "90th percentile>",
    )  # fmt: skip
    for group in record["groups"]:
        figures = (group[k] for k in ("median", "p90", "exploratory_median", "exploratory_p90"))
        t.add_row(group["group"], f"{group['settings']:,}", *("-" if v != v else f"{v:.2f}" for v in figures))
    show(t)
    show(
        f"Pairs of published plans of one setting that differ by more than 5 %: {found.pairs:,}, ordered rightly "
        f"{percent(record['ordered_share'])}. Settings without a plan that fits: {found.refused:,}."
    )
    if not worst:
        return
    t = table(
        f"the {worst} most doubtful promises", "machine", "model", "published", "best plan", "ratio>", "plan published",
        "plan found",
    )  # fmt: skip
    for d in sorted(found.settings, key=lambda d: -d.ratio)[:worst]:
        t.add_row(
            f"{d.machine} x{d.num_devices}", f"{d.model} {d.precision}", duration(d.published_s), duration(d.best_s),
            f"{d.ratio:.2f}", d.published_plan, d.best_plan,
        )  # fmt: skip
    show(t)


def percent(value: float) -> str:
    """A share as a percentage."""
    return "-" if value != value else f"{100 * value:z.1f} %"


def _lines(heading: str, first: str, rows: Sequence[Errors]) -> Any:
    figures = ("rows>", "median>", "mean>", "90th percentile>", "worst>", "bias>")
    # the titles of sources are theirs
    t = table(heading, f"{first}=" if first == "source" else first, *figures, leading=1)
    for e in rows:
        t.add_row(
            e.group,
            str(e.rows),
            percent(e.median),
            percent(e.mean),
            percent(e.p90),
            percent(e.worst),
            percent(e.bias),
        )
    return t


def show_report(report: Report, worst: int) -> None:
    """The whole report."""
    show("Absolute error of step time, predicted over published; bias is the median signed error.", "")
    covered = table("Pre-training rows with a step time", "", "predicted", "of")
    for name, (done, total) in report.coverage.items():
        covered.add_row(name, str(done), str(total))
    show(covered)
    odd, total = report.outliers
    if odd:
        show(
            f"Left out of the errors as outliers: {odd} of {total:,}, which differ from other publications of the same "
            "configuration, whatever is predicted.",
            "",
        )
    show(_lines("Headline: tiers A and B, pre-training", "how", report.headline))
    for name, rows in report.groups.items():
        heading = {
            "outside the headline": "Rows outside the headline",
            "publisher that was left out": "By publisher, predicted without it",
        }.get(name, f"By {name} (cross-validated)")
        show(_lines(heading, name.partition(" that")[0], rows))
    coverage = table(
        "80 % intervals: share of step times inside, intervals made without their fold", "", "rows", "inside"
    )
    for name, (count, share) in report.interval_coverage.items():
        coverage.add_row(name, str(count), percent(share))
    show(coverage)
    reasons = Counter((r.status, r.reason) for r in report.rows if r.status != "ok")
    if reasons:
        t = table("Rows not scored", "status", "rows", "why")
        for (status, reason), count in reasons.most_common():
            t.add_row(status, str(count), reason)
        show(t)
    if report.alternatives:
        show(_lines("Where the source does not name the bin of the chip", "machine", report.alternatives))
    if report.memory:
        show(_lines("Peak memory, like with like", "publisher", report.memory))
        show(f"mean of the publishers' medians: {percent(report.memory_median)}", "")
    if report.memory_left_out:
        show(_lines("Peak memory, whole publishers left out", "publisher", report.memory_left_out))
        show(f"more than 10 % below the published peak: {percent(report.memory_short)} of the rows", "")
        held = percent(report.memory_coverage[1])
        show(f"80 % intervals of memory, made without their publishers, hold {held} of the peaks", "")
    if report.few_shot:
        t = table(
            "A few configurations of a publisher that was left out: median error on the rest",
            "publisher", "configurations>", "none given>", "one given>", "three given>",
        )  # fmt: skip
        for name, found in report.few_shot.items():
            after = {f.shots: percent(f.after) for f in found}
            t.add_row(
                name,
                str(found[0].configurations),
                percent(found[-1].before),
                after.get(1, "-"),
                after.get(3, "-"),
            )
        show(t)
    if any(r.refused for r in report.refused.values()):
        t = table(
            "Plans that ran, but the memory model would refuse",
            "publisher",
            "plans",
            "refused",
            "largest need",
        )
        for name, r in report.refused.items():
            if r.refused:
                t.add_row(name, str(r.rows), str(r.refused), f"{r.largest_share:.0%} of memory")
        show(t)
    show_worst(report, worst)


def show_worst(report: Report, count: int) -> None:
    """The rows with the largest cross-validated errors."""
    scored = [r for r in report.rows if r.status == "ok" and r.tier in ("A", "B") and r.phase == "pretrain"]
    ranked = sorted(scored, key=lambda r: -abs(r.error("cross_validated_step_s")))[:count]
    if not ranked:
        return
    t = table(
        f"The {len(ranked)} worst rows",
        "row=",
        "published",
        "ours",
        "error",
        "device",
        "model=",
        "plan",
        "publisher=",
    )
    for r in ranked:
        t.add_row(*_row_cells(r))
    show(t)


def _row_cells(r: RowScore) -> tuple[str, ...]:
    return (
        r.id,
        duration(r.published_step_s or 0),
        duration(r.cross_validated_step_s or 0),
        percent(r.error("cross_validated_step_s")),
        f"{r.gpu} x{r.n_gpus}",
        f"{r.model} {r.precision}",
        r.plan,
        r.publisher,
    )


def show_gate(found: Sequence[Check]) -> None:
    """The recorded level, figure by figure."""
    t = table("Gate: the recorded level", "figure", "now", "limit", "")
    for c in found:
        limit = ("at most " if c.at_most else "at least ") + f"{c.limit:g}"
        t.add_row(c.name, f"{c.value:.4g}", limit, "kept" if c.holds else "LOST")
    show(t)


def show_operators(folder: Path, json_out: Path | None) -> None:
    """Scores of the operator models on a folder of tables, beside what the fit itself recorded on held-out points."""
    from fullmesh.validate.measured_operators import fit_residuals, score_operator_tables

    scores = score_operator_tables(folder)
    if json_out:
        rows = [dataclasses.asdict(r) for r in scores.rows]
        write(json_out, {"rows": rows, "skipped": scores.skipped, "held_out": list(fit_residuals())})
        if str(json_out) == "-":
            return
    t = table(
        "Operators",
        "table",
        "dtype",
        "operator",
        "points",
        "median",
        "mean",
        "90th percentile",
        "worst",
        "fitted on",
    )
    for r in scores.rows:
        t.add_row(
            r.table, r.dtype, r.operator, f"{r.points:,}", percent(r.median), percent(r.mean), percent(r.p90),
            percent(r.worst), "yes" if r.fitted_on else "no",
        )  # fmt: skip
    show(t)
    for name, why in scores.skipped.items():
        show(f"skipped {name}: {why}")
    show(
        "Tables marked `yes` were fitted on; what the fit scored on points held out of it stands in the profile."
    )


def show_collectives(folder: Path | None, json_out: Path | None) -> None:
    """Scores of the collective models by curve."""
    from fullmesh.validate.measured_collectives import score_collectives, summarise

    scores = score_collectives(folder)
    if json_out:
        write(json_out, {"points": [dataclasses.asdict(s) for s in scores]})
        if str(json_out) == "-":
            return
    t = table(
        "Collectives", "curve=", "operation", "fitted on", "points", "median", "90th percentile", "worst"
    )
    for s in summarise(scores):
        t.add_row(
            s.curve, s.kind, "yes" if s.fitted_on else "no", str(s.points), percent(s.median_error),
            percent(s.p90_error), percent(s.worst_error),
        )  # fmt: skip
    show(t)
    points = table("Point by point", "curve=", "operation", "ranks", "size", "measured", "predicted", "error")
    for p in scores if len(scores) <= 2000 else ():
        points.add_row(
            p.curve, f"{p.kind} {p.algorithm}", str(p.ranks), si_prefix(p.num_bytes, "B"), duration(p.measured_s),
            duration(p.predicted_s), percent(p.error),
        )  # fmt: skip
    show(points)


def show_here(json_out: Path | None, device: str, no_timing: bool = False) -> None:
    """Predictions for this machine, then the runs."""
    from fullmesh.here.comparison import validate_here

    report = validate_here(device, report=talk)
    data = report.as_json()
    if json_out:
        write(json_out, timing_apart(data, leave_out=no_timing))
        if str(json_out) == "-":
            return
    columns = ("job", "shape", "processes", "predicted", "measured", "error", "by the wall clock")
    t = table(f"Small training steps on {data['title']}, {data['clock']} time of one process", *columns)
    for row in data["rows"]:
        t.add_row(
            str(row["job"]), str(row["shape"]), str(row["processes"]), duration(row["predicted_s"]),
            duration(row["measured_s"]), percent(row["error"]), duration(row["wall_s"]),
        )  # fmt: skip
    show(t)
    for job, why in data["skipped"].items():
        show(f"skipped {job}: {why}")
    show(f"median absolute error: {percent(data['median_error'])}, worst {percent(abs(data['worst_error']))}")

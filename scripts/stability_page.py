"""Writes docs/stability.md: published runs against predictions from one trace, and what public claims would need.

``python scripts/stability_page.py`` (part of ``make docs``) writes it again; a test holds it against what the program
computes today.
"""

from __future__ import annotations

import argparse
import textwrap
from pathlib import Path

from fullmesh.catalog.faults import TRACE_FIT, load_faults
from fullmesh.machine import load_machine
from fullmesh.outcomes.goodput.domains import members
from fullmesh.units import duration
from fullmesh.validate.stability import (
    ANALYSES,
    NODE_RATES,
    SCALES,
    Held,
    mtbf_s,
    published_runs,
    rate_for,
    supernode_rows,
    without_choice,
)

PAGE = Path(__file__).resolve().parent.parent / "docs" / "stability.md"
DAY_S = 86_400.0

HEAD = """# Stability: what is published, what follows, what is claimed

Written by `python scripts/stability_page.py`. Rates and repairs in the first part come from one public trace of
400 servers over 349 days (stepfun-ai/InfiniteHBD-Trace, Apache-2.0) alone: `fullmesh calibrate faults` made
`src/fullmesh/data/run/faults-400-servers.csv` of it, and nothing of the runs below went in.
"""


def figure(value: float, share: bool) -> str:
    """A count, or a share in per cent."""
    return f"{100 * value:.1f} %" if share else f"{value:,.0f}"


def table(head: list[str], rows: list[list[str]]) -> list[str]:
    """A table of Markdown, all columns but the first to the right."""
    line = "| " + " | ".join(head) + " |"
    rule = "|---|" + "---:|" * (len(head) - 1)
    return [line, rule, *("| " + " | ".join(r) + " |" for r in rows), ""]


def held_row(h: Held) -> list[str]:
    """One published figure beside its prediction."""
    share = h.published <= 1.0
    published = ("more than " if h.at_least else "") + figure(h.published, share)
    predicted = f"{figure(h.low, share)} to {figure(h.high, share)}"
    return [f"{h.run}: {h.figure}", published, figure(h.middle, share), predicted, "yes" if h.holds else "no"]


def paragraph(text: str) -> list[str]:
    """A paragraph in lines as the other pages have them, and an empty one."""
    return [*textwrap.wrap(text, 130, break_long_words=False, break_on_hyphens=False), ""]


def published_part() -> list[str]:
    """Published runs, and the two analyses."""
    fit = load_faults(TRACE_FIT)
    node = members(load_machine("dgx-h100", num_devices=8))
    per_node = sum(r.rate_per_year * node[r.domain] for r in fit.rates)
    return [
        *paragraph(
            f"The trace has {per_node:.2f} faults a server and year, and its rate wanders: from one "
            "window of 54 days to the "
            f"next the logarithm deviates by {fit.site_spread:.2f}. That spread, and not only the "
            "root of the count, is in "
            "the intervals."
        ),
        "## Published runs\n",
        *table(
            ["run and figure", "published", "predicted", "80 % interval", "holds"],
            [held_row(h) for h in published_runs()],
        ),
        *paragraph(
            "The intervals of the effective times carry the ranges of recovery times, storage and silent errors with "
            "those of the rates. A run is taken to have spares enough, as these clusters had. Of Llama 3 the 47 "
            "planned stops are counted in. MegaScale's length is given as several weeks and its size as above 10,000: "
            "four weeks and 12,288 GPUs stand for them. ByteRobust keeps checkpoints in memory and spares warm."
        ),
        *choices_part(),
        "## Two analyses of 8,192 Ascend chips\n",
        *paragraph(
            "UB-Mesh (arXiv 2503.20377), read in third-party notes, gives availability from mean "
            "times between faults and "
            "to repair. It is the first over their sum:"
        ),
        *table(
            ["system", "time between faults", "time to repair", "published", "here"],
            [
                [
                    a.system,
                    f"{a.mtbf_s / 3600:.1f} h",
                    f"{a.mttr_s / 60:.0f} min",
                    f"{100 * a.published:.2f} %",
                    f"{100 * a.ours:.2f} %",
                ]
                for a in ANALYSES
            ],
        ),
    ]


def choices_part() -> list[str]:
    """What was chosen with a published figure in view, and what hangs on it."""
    ways = without_choice()
    names = [h.run for h in next(iter(ways.values()))]
    return [
        "## What is blind here, and what is not\n",
        *paragraph(
            "The counts of stops rest on the trace alone: no rate, spread or rule was set by them. That the trace "
            "and Llama 3 agree within some 10 % in faults a server and year was known before this page was written, "
            "and the windows of 54 days have the length of Llama 3's run."
        ),
        *paragraph(
            "The effective times are not blind. Llama 3 states no times of recovery at all; what it states is used "
            "(storage of 2 TB/s, 47 planned stops). MegaScale states upper limits (noticed within 10 minutes, back "
            "within 15). The default detection and restart are half of those limits: that half, and the hour after "
            "which a silent error is noticed, are choices of this project, made while all three published shares "
            "were known. The start of a hot spare is an estimate of ours; the overhead of checkpoints in memory "
            "comes from ByteRobust itself. So these rows show that the published shares follow from plausible times, "
            "not that they were predicted. Without the choices:"
        ),
        *table(
            ["median (P10 to P90) of the effective time", *(f"{n}: more than 90 %" for n in names)],
            [
                [
                    text,
                    *(
                        f"{figure(h.middle, True)} ({figure(h.low, True)} to {figure(h.high, True)}), "
                        + ("holds" if h.holds else "does not hold")
                        for h in found
                    ),
                ]
                for text, found in ways.items()
            ],
        ),
    ]


def claims_part() -> list[str]:
    """What the public claims would need."""
    rows = supernode_rows()
    one, many = rows[0], next(r for r in rows if r.packages == 10_000)
    needed = rate_for(10_000, DAY_S)
    return [
        "## Claims: a mean time between faults above 24 h, 98 % at 10,000 cards\n",
        *paragraph(
            "Public texts claim for CloudMatrix 384 a mean time between faults above 24 h, and 98 % "
            "availability of a cluster "
            "of 10,000 cards; neither says of what it is counted. At the shipped rates (those of GPU "
            "servers, since nothing "
            "of Ascend is public), with the range of sites (80 %), a job on so many packages stops every"
        ),
        *table(
            ["packages", "time between stops", "range", "24 h?", "one stop may cost, for 98 %"],
            [
                [
                    f"{r.packages:,}",
                    duration(r.mtbf_s),
                    f"{duration(r.low_s)} to {duration(r.high_s)}",
                    "yes" if r.low_s >= DAY_S else "no" if r.high_s < DAY_S else "within the range",
                    duration(r.recovery_98_s),
                ]
                for r in rows
            ],
        ),
        *paragraph(
            f"So 24 h is no feat for one supernode ({duration(one.low_s)} at the far end of the "
            "range), and out of reach for "
            f"10,000 packages at these rates ({duration(many.high_s)} at the near end). The last "
            "column is the most that a "
            "stop may cost, with lost work, waits and warm-up, for 98 % of the time to count."
        ),
        *paragraph(
            "Whatever the rates are: time between stops by faults a node of eight packages and year. "
            "Published clusters lie "
            "between 1.4 (Llama 3) and 8.7 (Meta RSC, jobs of 1,024 GPUs)."
        ),
        *table(
            ["packages", *(f"{x:g} a node and year" for x in NODE_RATES), "for 24 h"],
            [
                [
                    f"{n:,}",
                    *(duration(mtbf_s(n, x)) for x in NODE_RATES),
                    f"{rate_for(n, DAY_S):.2g} a node and year",
                ]
                for n in SCALES
            ],
        ),
        *paragraph(
            f"For 10,000 packages 24 h needs {needed:.2g} faults a node and year, {1.4 / needed:.1f} "
            "times as rare as the "
            "rarest published (1.4); or faults that a recovery hides are not counted. 98 % holds "
            "there at 1.5 faults a node "
            f"and year if a stop costs less than {duration(0.02 * mtbf_s(10_000, 1.5))} in all: more "
            "than the 30 s to 150 s "
            "that are claimed for process-level and in-step recovery, less than the ten minutes of a "
            "restart. Both claims "
            "can be true, of other things: 24 h of one supernode, 98 % of a cluster that recovers without a restart."
        ),
    ]


def page() -> str:
    """The whole page."""
    return "\n".join([HEAD, *published_part(), *claims_part()]).rstrip() + "\n"


def main() -> None:
    """Write the page, or say that it is stale."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="only say whether the page is today's")
    found = page()
    if parser.parse_args().check:
        raise SystemExit(0 if PAGE.read_text(encoding="utf-8") == found else f"{PAGE.name} is stale")
    PAGE.write_text(found, encoding="utf-8")


if __name__ == "__main__":
    main()

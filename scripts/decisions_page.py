"""Writes docs/decisions.md: the plans that publications ran, whether the search knows them, and what it would run.

``python scripts/decisions_page.py`` writes it again; it takes some minutes, and ``--count`` prints the counts alone.
"""

from __future__ import annotations

import argparse
import collections
import dataclasses
import sys
from pathlib import Path
from types import MappingProxyType

from fullmesh.errors import FullmeshError
from fullmesh.evidence.cases import case_table
from fullmesh.evidence.mapping import Case
from fullmesh.evidence.published import is_headline, published_step_s
from fullmesh.evidence.results import read_results
from fullmesh.outcomes.estimate import evaluate
from fullmesh.outcomes.intervals import memory_interval_for
from fullmesh.plan import Plans
from fullmesh.plan.feasible import violations
from fullmesh.plan.software import CAPABILITIES, Software, software_of
from fullmesh.search import search
from fullmesh.search.engine import ask
from fullmesh.search.space import Space, span

PAGE = Path(__file__).resolve().parent.parent / "docs" / "decisions.md"
HEAD = """# What they ran, what we would run

Written by `python scripts/decisions_page.py` from the published results of tier A. A plan *is in the space* if
`fullmesh plan --wide` enumerates it with the software that the publication names; it *fits* if its predicted peak of
memory does, and *may fit* if the 80 % interval of that peak reaches below the capacity: the run did fit.
"""
TABLE = """## By setting

A setting is a model on a machine with a batch, a sequence length, a precision and a stack; of several published plans
the fastest counts. The gain is between two predictions: the step of the published plan over the step of ours, less one.
Ours is the best plan of `fullmesh plan`, which published results speak for as far as the last column says: *supported*
where nothing of it is missing among them, else how much is. The exploratory plan is predicted fastest of all.
"""


def software_that_ran(case: Case) -> Software:
    """What a publication's stack switches on, for a search."""
    plan = case.plan
    return dataclasses.replace(
        software_of(case.machine),
        stack=plan.stack,
        label=plan.stack,
        options=MappingProxyType({k: getattr(plan, k) for k in CAPABILITIES}),
        expert_options=MappingProxyType({}),
    )


def space_of(case: Case) -> Space:
    """The wide space of a publication's setting on the devices that it used."""
    plan = case.plan
    question = ask(
        case.model, case.machine, gbs=plan.gbs, seq=plan.seq, precision=plan.precision,
        offload=plan.offload_optimizer > 0, software=software_that_ran(case), wide=True,
    )  # fmt: skip
    return span(dataclasses.replace(question, num_devices=(plan.num_devices,)))


def verdict(case: Case) -> str:
    """Whether the plan that ran is in the space and fits, or what stands against it."""
    try:
        space = space_of(case)
        priced = evaluate(case.model, case.machine, Plans.of([case.plan]))
    except FullmeshError as error:
        return f"no search: {error.what}"
    if space.number_of(case.plan) is None:
        limit = violations(case.model, case.machine, Plans.of([case.plan])).limits[0]
        return "not in the space" + (f": {limit.name}" if limit else "")
    if priced.fits[0]:
        return "in the space, fits"
    capacity = case.machine.chip.hbm_bytes
    low = memory_interval_for(float(priced.memory_bytes[0]), capacity).low_bytes
    return "in the space, may fit" if low <= capacity else "in the space, does not fit"


def counts(cases: list[Case]) -> list[str]:
    """The counts as lines of Markdown."""
    found = collections.Counter(verdict(case) for case in cases)
    total = sum(found.values())
    lines = ["| verdict | results | share |", "|---|---:|---:|"]
    for name, number in sorted(found.items(), key=lambda item: (-item[1], item[0])):
        lines.append(f"| {name} | {number} | {number / total:.1%} |")
    sure = found["in the space, fits"]
    near = sure + found["in the space, may fit"]
    inside = near + found["in the space, does not fit"]
    lines += [
        "",
        f"In the space: {inside} of {total} ({inside / total:.1%}). In it and fitting: {sure} ({sure / total:.1%}), "
        f"within the error of the memory model {near} ({near / total:.1%}).",
        "",
    ]
    return lines


def settings(cases: list[Case]) -> list[str]:
    """One line of Markdown a setting."""
    groups: dict[tuple[object, ...], list[Case]] = {}
    for case in cases:
        p = case.plan
        key = (case.machine.id, p.num_devices, case.model, p.gbs, p.seq, p.precision, p.stack)
        groups.setdefault(key, []).append(case)
    lines = [
        "| model | machine | batch x tokens | stack | they ran | we would run | gain | exploratory | evidence |",
        "|---|---|---:|---|---|---|---:|---|---|",
    ]
    for done, members in enumerate(groups.values()):
        print(f"\r{done + 1} of {len(groups)} settings", end="", file=sys.stderr)
        case = min(members, key=lambda c: published_step_s(c.row) or float("inf"))
        plan = case.plan
        try:
            ran = evaluate(case.model, case.machine, Plans.of([plan]))
            found = search(
                case.model, case.machine, gbs=plan.gbs, seq=plan.seq, precision=plan.precision, top=1,
                offload=plan.offload_optimizer > 0, software=software_that_ran(case),
            )  # fmt: skip
        except FullmeshError:
            continue
        if found.best is None:
            continue
        step = float(ran.times.step_s[0])
        beyond = found.exploratory
        lines.append(
            f"| {case.model.name} | {plan.num_devices:,} x {case.machine.id} | {plan.gbs:,} x {plan.seq:,} "
            f"| {plan.stack}, {plan.precision} | {plan.label()} | {found.best.plan.label()} "
            f"| {step / found.best.step_s - 1:+.0%} "
            f"| {'' if beyond is None else f'{beyond.plan.label()} ({step / beyond.step_s - 1:+.0%})'} "
            f"| {'supported' if not found.unproven else f'{len(found.unproven)} missing'} |"
        )
    print(file=sys.stderr)
    return lines


def main() -> None:
    """Write the page, or print the counts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", action="store_true", help="print the counts alone")
    arguments = parser.parse_args()
    table, _ = case_table([row for row in read_results() if row.tier == "A" and is_headline(row)])
    cases = [] if table is None else list(table.cases)
    found = counts(cases)
    if arguments.count:
        print("\n".join(found))
        return
    body = [HEAD, *found, TABLE, *settings([c for c in cases if published_step_s(c.row)])]
    PAGE.write_text("\n".join(body) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

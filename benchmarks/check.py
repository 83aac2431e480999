"""``fullmesh check`` on every published row with its published speed: how many lie in the range, by chip family.

    python benchmarks/check.py [STRIDE]

The bar is 75 %. The intervals are made to hold 80 % of results that were predicted without their configuration and
their publisher; the profile that predicts here has seen the rows, so more than 80 % may lie inside.
"""

from __future__ import annotations

import sys
from collections import Counter

from fullmesh.evidence.cases import case_table
from fullmesh.evidence.published import is_headline, published_step_s
from fullmesh.evidence.results import read_results
from fullmesh.outcomes.estimate import Estimate
from fullmesh.study.check.checked import CANNOT_RUN, IN_RANGE, held_against
from fullmesh.study.check.measured import Measured
from fullmesh.study.launch.run import Run

BAR = 0.75


def verdicts(stride: int = 1) -> list[tuple[str, str, bool]]:
    """Chip family and verdict of each row, and whether it counts for the headline."""
    table, _ = case_table(read_results())
    assert table is not None, "the shipped rows can be predicted"
    out = []
    for case in table.cases[::stride]:
        step_s = published_step_s(case.row)
        if step_s is None:
            continue
        run = Run(
            model=case.model, machine=case.machine, plan=case.plan, framework="scenario", software=case.plan.stack
        )  # fmt: skip
        found = held_against(run, Measured(step_s=step_s, basis="as published"), top=0)
        assert found.verdict == CANNOT_RUN or isinstance(found.predicted, Estimate)
        out.append((case.machine.chip.family, found.verdict, is_headline(case.row)))
    return out


def main(stride: int) -> int:
    """Print the shares; 1 below the bar."""
    found = verdicts(stride)
    for name, rows in (
        ("all", found),
        ("tier A and B, pre-training", [r for r in found if r[2]]),
        *((family, [r for r in found if r[0] == family]) for family in sorted({r[0] for r in found})),
    ):
        count = Counter(verdict for _, verdict, _ in rows)
        shares = ", ".join(f"{verdict} {n}" for verdict, n in count.most_common())
        print(f"{name}: {count[IN_RANGE] / len(rows):.1%} of {len(rows)} in the range ({shares})")
    share = sum(verdict == IN_RANGE for _, verdict, _ in found) / len(found)
    print(f"{'met' if share >= BAR else 'missed'}: {share:.1%} against {BAR:.0%}")
    return 0 if share >= BAR else 1


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 1))

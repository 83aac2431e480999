"""Sweeps: rows a CPU second, and what a row takes beyond its search.

The same points are asked by ``best_plans`` one after another in this process, and by a sweep of one process to CSV;
both are measured in CPU time, of all processes, best of three. Then 10,000 points that need no search are swept, and
once more with all rows kept, which is what reading a grid, the journal and the file take.
Run from the repository root: ``python benchmarks/sweep.py``. Exits with 1 when a bar is missed.
"""

from __future__ import annotations

import os
import resource
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

# as in the processes of a sweep
os.environ |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}

RUNS = 3
# what a row may take beyond its search, of CPU time; and rows without a search a CPU second
BARS = {"overhead": 0.1, "kept rows": 5_000.0, "empty rows": 1_000.0}
POINTS: dict[str, list[Any]] = {
    "model": ["llama-3-8b", "llama-3-70b", "qwen3-30b-a3b"],
    "machine": ["dgx-h200", "gb200-nvl72", "cloudmatrix384"],
    "chips": [32, 64],
    "batch": [256],
    "precision": ["bf16"],
}
# sizes that no node of eight has beyond one node
EMPTY = {"model": "llama-3-8b", "machine": "dgx-h200", "chips": [k for k in range(9, 11_440) if k % 8]}


def cpu_s(work: Callable[[], object]) -> float:
    """CPU seconds of this process and of those that it started and that have ended."""

    def now() -> float:
        used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        return sum(u.ru_utime + u.ru_stime for u in used)

    before = now()
    work()
    return now() - before


def searches() -> None:
    """Every point, one after another."""
    import fullmesh

    for model in POINTS["model"]:
        for machine in POINTS["machine"]:
            for chips in POINTS["chips"]:
                fullmesh.best_plans(model, machine, chips=chips, batch=256, top=1)


def main() -> int:
    """Print the table; 1 where a bar is missed."""
    import fullmesh

    missed = 0

    def line(name: str, value: str, bar: str, ok: bool) -> None:
        nonlocal missed
        missed += not ok
        print(f"{name:34} {value:>14} {bar:>14}  {'ok' if ok else 'MISSED'}")

    with tempfile.TemporaryDirectory() as folder:
        searches()  # imports and facts, which a process of a sweep loads once
        alone = min(cpu_s(searches) for _ in range(RUNS))
        number = len(POINTS["model"]) * len(POINTS["machine"]) * len(POINTS["chips"])

        def swept(name: str) -> Callable[[], object]:
            return lambda: fullmesh.sweep({"grid": POINTS}, Path(folder) / name, jobs=1, timing=False)

        new = min(cpu_s(swept(f"{k}.csv")) for k in range(RUNS))
        print(f"{'':34} {'measured':>14} {'bar':>14}")
        line("searches alone, rows a CPU s", f"{number / alone:,.1f}", "", True)
        line("a sweep, rows a CPU s", f"{number / new:,.1f}", "", True)
        over = new / alone - 1.0
        line(
            "a sweep beyond its searches", f"{over:.1%}", f"{BARS['overhead']:.0%}", over <= BARS["overhead"]
        )

        def empty() -> object:
            return fullmesh.sweep({"grid": EMPTY}, Path(folder) / "empty.csv", jobs=1, timing=False)

        count = len(EMPTY["chips"])
        for name, work in (("empty rows", empty), ("kept rows", empty)):
            rate = count / cpu_s(work)
            line(
                f"{name} ({count:,}), rows a CPU s", f"{rate:,.0f}", f"{BARS[name]:,.0f}", rate >= BARS[name]
            )
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())

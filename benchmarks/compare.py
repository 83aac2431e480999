"""Cold starts: `fullmesh compare` on three machines, `--help`, and `import fullmesh`.

Each command runs in a fresh process, best of five; CPU time of the process (user and system) and wall-clock time.
Run from the repository root: ``python benchmarks/compare.py``. Exits with 1 when a bar is missed.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import time

RUNS = 5
BARS_S = {"import": 0.3, "help": 0.3, "compare": 1.5}
COMMANDS = {
    "import": ["-c", "import fullmesh"],
    "help": ["-m", "fullmesh.faces.cli.main", "--help"],
    "compare": [
        "-m",
        "fullmesh.faces.cli.main",
        "compare",
        "deepseek-v3",
        "--on",
        "cloudmatrix384,gb200-nvl72,h200",
    ],
}


def once(arguments: list[str]) -> tuple[float, float]:
    """CPU and wall-clock seconds of one fresh process."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    start = time.perf_counter()
    subprocess.run([sys.executable, *arguments], check=True, capture_output=True, env=os.environ)
    wall = time.perf_counter() - start
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, wall


def main() -> int:
    """Print the table; 1 where a bar is missed."""
    missed = 0
    print(f"{'command':10} {'cpu s':>8} {'wall s':>8} {'bar s':>8}")
    for name, arguments in COMMANDS.items():
        runs = [once(arguments) for _ in range(RUNS)]
        cpu, wall = min(r[0] for r in runs), min(r[1] for r in runs)
        missed += cpu > BARS_S[name]
        verdict = "ok" if cpu <= BARS_S[name] else "MISSED"
        print(f"{name:10} {cpu:8.3f} {wall:8.3f} {BARS_S[name]:8.1f}  {verdict}")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())

"""Every benchmark of this folder, one after another, in fresh processes: ``python benchmarks/run.py [NAME ...]``.

Exits with 1 when one of them misses a bar.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
# in this order; what is absent is left out, and what the folder holds beside them is no benchmark of its own
NAMES = ("operators", "compare", "plan", "check", "fabric", "timeline", "sweep")


def main(wanted: list[str]) -> int:
    """Run the benchmarks; the number of those that missed a bar, at most 1."""
    present = [name for name in NAMES if (FOLDER / f"{name}.py").is_file()]
    unknown = sorted(set(wanted) - set(present))
    if unknown:
        print(
            f"error: no benchmark {', '.join(unknown)}\n\nhint: there are {', '.join(present)}",
            file=sys.stderr,
        )
        return 2
    missed = []
    for name in wanted or present:
        print(f"== {name}", flush=True)
        if subprocess.run([sys.executable, str(FOLDER / f"{name}.py")], check=False).returncode:
            missed.append(name)
    if missed:
        print(f"missed: {', '.join(missed)}", file=sys.stderr)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""What the fabric must reach: ``python benchmarks/fabric.py`` (process CPU time, best of five after a warm-up).

With SimGrid installed for the system's Python (Debian: python3-simgrid) the same skewed all-to-all runs there too, and
the ratio is printed; without it that row says so. ``--golden FILE`` writes the golden figures of the tests again.
"""

from __future__ import annotations

import datetime
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from fullmesh.network.flow import solve, symmetry, traffic
from fullmesh.network.wiring.build import load_topology
from fullmesh.network.wiring.failures import break_parts, parse_failure, parts
from fullmesh.network.wiring.links import Policy
from fullmesh.network.wiring.topology import Topology

SYSTEM_PYTHON = "/usr/bin/python3"
LATENCY_S = 4e-7
SEED, CONCENTRATION, MEAN_BYTES = 7, 20.0, 1.1e6
rows: list[tuple[str, str, str, str]] = []


def best(function: Callable[[], Any], repeats: int = 5) -> tuple[float, Any]:
    """Least process CPU time of a call in seconds, after one warm-up, and its result."""
    result = function()
    least = float("inf")
    for _ in range(repeats):
        begin = time.process_time()
        result = function()
        least = min(least, time.process_time() - begin)
    return least, result


def row(what: str, seconds: float | None, bar_s: float | None, note: str = "") -> None:
    """Record a figure against its bar."""
    figure = "-" if seconds is None else f"{seconds * 1e3:.3f} ms"
    bar = "" if bar_s is None else f"< {bar_s * 1e3:g} ms"
    verdict = "" if seconds is None or bar_s is None else ("ok" if seconds < bar_s else "MISSED")
    rows.append((what, figure, bar, f"{verdict} {note}".strip()))
    print(f"{what:<72} {figure:>13} {bar:>12}  {verdict} {note}".rstrip(), flush=True)


def all_to_all(topology: Topology) -> None:
    def by_arithmetic() -> tuple[Any, symmetry.Quotient]:
        few = symmetry.collapse_all_to_all(topology)
        assert few is not None
        routing, mult = few.route(topology)
        return few, symmetry.refine(solve.make_problem(topology, routing, mult))

    seconds, (_, quotient) = best(by_arithmetic)
    row(
        "CloudMatrix 384, 768 dies: classes by arithmetic",
        seconds,
        0.2,
        f"{len(quotient.problem.seg)} flow classes",
    )
    seconds, _ = best(lambda: solve.max_min_rates(quotient.problem))
    row("CloudMatrix 384, 768 dies: one solve over classes", seconds, 0.010)

    src, dst = traffic.all_pairs(np.arange(768)[None, :])
    seconds, routing = best(lambda: topology.route(src, dst))
    row("  paths of all 589,056 flows", seconds, None)
    problem = solve.make_problem(topology, routing)
    seconds, refined = best(lambda: symmetry.refine(problem))
    row("  classes by refinement of all flows", seconds, 0.2, f"{len(refined.problem.seg)} flow classes")
    seconds, rates = best(lambda: solve.max_min_rates(problem))
    row("  one solve without symmetry", seconds, 0.3)
    assert np.allclose(solve.max_min_rates(refined.problem)[refined.flow_class], rates, rtol=1e-9)
    worst, name = 0.0, ""
    for part in parts(topology):
        broken = break_parts(topology, [parse_failure(f"{part}=1")])
        seconds, _ = best(lambda b=broken: traffic.uniform_all_to_all(b, 1e9, Policy(name="resplit")))
        if seconds > worst:
            worst, name = seconds, part
    row("any single failure: classes, paths and solve, the slowest part", worst, 0.050, f"({name})")


def large() -> None:
    topology = load_topology("dgx-h200", 131_072)
    flows = traffic.ring_step(np.arange(131_072)[None, :], 1e6)
    seconds, routing = best(lambda: topology.route(flows.src, flows.dst))
    row("131,072 GPUs on rails, one ring step: paths", seconds, None)
    seconds, problem = best(lambda: solve.make_problem(topology, routing))
    row("  merging links", seconds, None)
    seconds, _ = best(lambda: solve.max_min_rates(problem))
    row("  solve", seconds, 0.020)
    seconds, _ = best(lambda: solve.bottleneck(topology, routing, flows.num_bytes))
    row("  bottleneck bound", seconds, 0.020)
    topology = load_topology("dgx-h200", 4096)
    src, dst = traffic.all_pairs(np.arange(4096).reshape(8, 512))
    routing = topology.route(src, dst)
    problem = solve.make_problem(topology, routing)
    seconds, _ = best(lambda: solve.max_min_rates(problem))
    row(f"{len(src):,} flows (8 groups of 512 on 4,096 GPUs): one solve", seconds, 0.200)


def skewed_case(endpoints: int) -> dict[str, Any]:
    """A seeded skewed all-to-all over the first dies of a CloudMatrix 384, as the SimGrid script reads it."""
    flows = traffic.skewed_all_to_all(
        np.arange(endpoints), MEAN_BYTES, concentration=CONCENTRATION, seed=SEED
    )
    return {
        "dies_per_node": 16,
        "die_bytes_per_s": 196e9,
        "package_bytes_per_s": 224e9,
        "latency_s": LATENCY_S,
        "flows": [
            [int(a), int(b), int(c)] for a, b, c in zip(flows.src, flows.dst, flows.num_bytes, strict=True)
        ],
    }


def ours(topology: Topology, case: dict[str, Any]) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    """Completion times of a case at zero tolerance, paths included."""
    flows = np.array(case["flows"])
    routing = topology.route(flows[:, 0], flows[:, 1])
    problem = solve.drop_slack(solve.make_problem(topology, routing))
    start = np.full(len(flows), case["latency_s"])
    return solve.completion_times(problem, flows[:, 2].astype(float), start)[0]


def simgrid(case: dict[str, Any], each: bool = False) -> dict[str, Any] | None:
    """The same case in SimGrid, or None where it is not installed."""
    probe = subprocess.run([SYSTEM_PYTHON, "-c", "import simgrid"], capture_output=True, check=False)
    if probe.returncode:
        return None
    with tempfile.NamedTemporaryFile("w", suffix=".json", delete=False) as file:
        json.dump(case, file)
    script = Path(__file__).with_name("simgrid_all_to_all.py")
    command = [SYSTEM_PYTHON, str(script), file.name] + (["--each"] if each else [])
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    finally:
        os.unlink(file.name)
    result: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return result


def against_simgrid(topology: Topology) -> None:
    for endpoints in (64, 128):
        case = skewed_case(endpoints)
        seconds, finish = best(lambda c=case: ours(topology, c))
        row(
            f"skewed all-to-all of {endpoints}, exact events", seconds, None, f"makespan {finish.max():.9g} s"
        )
        other = simgrid(case)
        if other is None:
            row(
                f"  SimGrid, {endpoints} endpoints",
                None,
                None,
                "absent (Debian: apt-get install python3-simgrid)",
            )
            continue
        ratio, off = other["cpu_s"] / seconds, finish.max() / other["makespan_s"] - 1
        verdict = "ok" if ratio >= 15 and abs(off) < 5e-5 else "MISSED"
        note = f"{verdict}: {ratio:.1f} times slower (bar 15), makespan {other['makespan_s']:.9g} s, off {off:+.1e}"
        row(f"  SimGrid, {endpoints} endpoints", other["cpu_s"], None, note)


def exact_events(topology: Topology) -> None:
    """Completion events at zero tolerance: growth with the number of endpoints, and the bar on the largest.

    Before solves were restricted to the flows whose share changes, 64, 128 and 256 endpoints took 0.05, 0.6 and 9.2 s.
    """
    before = 0.0
    for endpoints in (64, 128, 256):
        case = skewed_case(endpoints)
        seconds, finish = best(lambda c=case: ours(topology, c), repeats=3)
        grown = f", {seconds / before:.1f} times for twice the endpoints" if before else ""
        row(
            f"skewed all-to-all of {endpoints}, exact events, {len(case['flows']):,} flows",
            seconds,
            1.0 if endpoints == 256 else None,
            f"makespan {finish.max():.9g} s{grown}",
        )
        before = seconds


def write_golden(path: Path) -> None:
    """Golden figures of SimGrid with their passport."""
    version = subprocess.run(
        ["dpkg-query", "-W", "-f", "${Version}", "python3-simgrid"],
        capture_output=True,
        text=True,
        check=False,
    ).stdout
    small = simgrid(skewed_case(16), each=True)
    if small is None:
        sys.exit("SimGrid is absent: apt-get install python3-simgrid")
    cases: dict[str, Any] = {"16": {"makespan_s": small["makespan_s"], "finish_s": small["finish_s"]}}
    for endpoints in (64, 128):
        found = simgrid(skewed_case(endpoints))
        assert found is not None
        cases[str(endpoints)] = {"makespan_s": found["makespan_s"]}
    golden = {
        "passport": {
            "simulator": f"SimGrid, Debian python3-simgrid {version}",
            "settings": "network/model CM02, crosstraffic 0, TCP-gamma 1e20",
            "numpy": np.__version__,
            "date": datetime.date.today().isoformat(),
            "command": "python benchmarks/fabric.py --golden tests/golden/flows.json",
            "workload": "traffic.skewed_all_to_all over the first dies of CloudMatrix 384",
        },
        "seed": SEED,
        "concentration": CONCENTRATION,
        "mean_bytes": MEAN_BYTES,
        "latency_s": LATENCY_S,
        "cases": cases,
    }
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(golden, indent=1) + "\n", encoding="utf-8")
    os.replace(temporary, path)


def main() -> int:
    if len(sys.argv) == 3 and sys.argv[1] == "--golden":
        write_golden(Path(sys.argv[2]))
        return 0
    topology = load_topology("cloudmatrix384")
    seconds, _ = best(lambda: load_topology("cloudmatrix384"))
    row("build CloudMatrix 384 from its file", seconds, None, f"{len(topology.links):,} directed links")
    all_to_all(topology)
    large()
    exact_events(topology)
    against_simgrid(topology)
    return int(any("MISSED" in r[3] for r in rows))


if __name__ == "__main__":
    sys.exit(main())

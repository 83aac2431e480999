"""Speed of the timeline: building, engines, whole steps. Prints a table, or JSON with ``--json``.

Engine figures are tasks per second of process time, the best of several runs after one that compiles. Whole steps are
wall time of a fresh process, compiled code cached, and its peak memory.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from fullmesh.timeline.costs import Lane, PipelineCosts, even_costs
from fullmesh.timeline.engine import maxplus as kernels
from fullmesh.timeline.engine import shared as kernels_shared
from fullmesh.timeline.engine.engines import Contention, Network, shared_state
from fullmesh.timeline.perturb import Jitter, Perturbation
from fullmesh.timeline.schedule import tasks as b
from fullmesh.timeline.schedule.closed_form import Passes, pipeline_s
from fullmesh.timeline.schedule.graph import TaskGraph
from fullmesh.timeline.schedule.schedules import build_graph
from fullmesh.timeline.simulate import simulate

RUNS = 5
# name -> (bar, unit); None where there is none
BARS: dict[str, tuple[float, str]] = {
    "maxplus": (200.0, "M tasks/s"),
    "event": (15.0, "M tasks/s"),
    "contention": (5.0, "M tasks/s"),
    "fabric": (1.0, "M tasks/s"),
}


def best(work: Callable[[], object], runs: int = RUNS) -> float:
    """Least process time of several runs."""
    work()
    found = []
    for _ in range(runs):
        began = time.process_time()
        work()
        found.append(time.process_time() - began)
    return min(found)


def ports(graph: TaskGraph, shared_bytes_per_s: float | None) -> Network:
    """Sends over a port of each rank and direction, and over one more link that all of them share."""
    p = graph.num_ranks
    rate = 1e9
    sends = np.isin(graph.kind, (b.K_SEND_FORWARD, b.K_SEND_BACKWARD))
    direction = (graph.kind == b.K_SEND_BACKWARD).astype(np.int64)
    per = 1 if shared_bytes_per_s is None else 2
    link = np.column_stack([np.arange(2 * p), np.full(2 * p, 2 * p)])[:, :per].astype(np.int32).ravel()
    capacity = np.full(2 * p + (per - 1), rate)
    if shared_bytes_per_s is not None:
        capacity[-1] = shared_bytes_per_s
    return Network(
        link_bytes_per_s=capacity,
        route_ptr=np.arange(2 * p + 1, dtype=np.int64) * per,
        route_link=link,
        route_weight=np.ones(len(link)),
        route_of=np.where(sends, graph.rank + direction * p, -1).astype(np.int32),
        bytes=graph.duration_s * rate,
    )


def engine_figures() -> list[dict[str, object]]:
    """Every engine on graphs of three sizes."""
    cases = {
        "P 16, M 512, V 4": even_costs("interleaved", 16, 512, num_virtual=4, send_s=0.01),
        "P 16, M 4096, V 4": even_costs("interleaved", 16, 4096, num_virtual=4, send_s=0.01),
        "P 64, M 4096, V 2": even_costs("interleaved", 64, 4096, num_virtual=2, send_s=0.01),
    }
    rows: list[dict[str, object]] = []
    for name, costs in cases.items():
        tasks = len(build_graph(costs))
        for engine, took in engine_seconds(costs).items():
            bar = BARS.get(engine)
            rate = tasks / took / 1e6
            rows.append(
                {
                    "what": engine,
                    "case": name,
                    "tasks": tasks,
                    "value": rate,
                    "unit": "M tasks/s",
                    "bar": bar[0] if bar else None,
                    "reached": rate >= bar[0] if bar else None,
                }
            )
    return rows


def engine_seconds(costs: PipelineCosts) -> dict[str, float]:
    """Seconds of building and of every engine on one plan."""
    graph = build_graph(costs)
    n = len(graph)
    start, end = np.empty(n), np.empty(n)
    pred = graph.pred.view(np.uint32)
    edges = kernels.edges_of(graph)
    lane = graph.rank * np.int32(len(b.STREAMS)) + graph.stream
    lanes = graph.num_ranks * len(b.STREAMS)
    slow = Contention(
        compute={"send forward": 1.19, "send backward": 1.19},
        communication={"send forward": 1.3, "send backward": 1.3},
    )
    return {
        "build": best(lambda: build_graph(costs)),
        "maxplus": best(lambda: kernels.maxplus(pred, graph.duration_s, end)),
        "event": best(
            lambda: kernels.events(
                graph.kind,
                lane,
                graph.duration_s,
                edges._replace(need=edges.need.copy()),
                kernels.fresh_lanes(lanes, n),
                start,
                end,
            )
        ),
        "contention": kernel_time(graph, slow, None),
        "fabric": kernel_time(graph, Contention(), ports(graph, None)),
        "fabric, one shared link": kernel_time(graph, Contention(), ports(graph, 4e9)),
    }


def closed_form_figures() -> list[dict[str, object]]:
    """Plans a second through the closed form, 10,000 uneven plans at once."""
    rows: list[dict[str, object]] = []
    rng = np.random.default_rng(0)
    for schedule, p, v in (
        ("1f1b", 8, 1),
        ("1f1b", 16, 1),
        ("interleaved", 8, 4),
        ("zb-h1", 8, 1),
        ("dualpipe", 16, 1),
    ):
        num, chunks = 10_000, p * v
        f = 1 + 0.01 * rng.random((num, chunks))
        f[:, -1] *= 1.05
        none = np.zeros_like(f)
        passes = Passes(
            forward_s=f,
            input_s=f,
            weight_s=f,
            send_s=np.full((num, chunks - 1), 0.01),
            pair_forward_s=f,
            pair_backward_s=2 * f,
            pair_comm_forward_s=none,
            pair_comm_backward_s=none,
            num_microbatches=rng.integers(2, 9, num) * p,
        )
        took = best(lambda passes=passes, schedule=schedule, v=v: pipeline_s(schedule, v, passes))  # type: ignore[misc]
        rows.append(
            {
                "what": "closed form",
                "case": f"{schedule}, P {p}, V {v}",
                "tasks": num,
                "value": num / took / 1e6,
            }
            | {"unit": "M plans/s", "bar": None, "reached": None}
        )
    return rows


def kernel_time(graph: TaskGraph, contention: Contention, network: Network | None) -> float:
    """Best process time of the engine with rates."""
    n = len(graph)
    edges = kernels.edges_of(graph)
    start, end = np.empty(n), np.empty(n)

    def run() -> None:
        fresh = edges._replace(need=edges.need.copy())
        kernels_shared.shared(shared_state(graph, fresh, contention, network), start, end)

    return best(run)


def deepseek_like() -> PipelineCosts:
    """A DeepSeek-V3 step: 61 layers, PP 16, EP 64, DP 128, 120 micro-batches, DualPipe; passes of published length."""
    p = 16
    layers = np.array([4.0] * 15 + [1.0])
    f, i, w = 0.0126 * layers, 0.0192 * layers, 0.0082 * layers
    return dataclasses.replace(
        even_costs("dualpipe", p, 120),
        forward_s=f,
        backward_input_s=i,
        backward_weight_s=w,
        lanes=(Lane(name="ep", forward_s=0.25 * f, backward_s=0.25 * (i + w)),),
        send_s=np.full(p - 1, 0.0012),
        grad_reduce_s=np.full(p, 0.2),
        grad_buckets=4,
        param_gather_s=np.full(p, 0.1),
        optimizer_s=np.full(p, 0.29),
        activation_bytes=np.full(p, 2e9),
        weight_bytes=np.full(p, 1e9),
        static_bytes=np.full(p, 3e10),
        ranks_per_stage=128,
        lockstep_ranks=64,
    )


def ten_trillion() -> PipelineCosts:
    """A ten-trillion-parameter mixture of experts on 98,304 devices: PP 32, 4 chunks a rank, 512 micro-batches."""
    p, v = 32, 4
    base = even_costs("interleaved", p, 512, num_virtual=v, send_s=0.001)
    rng = np.random.default_rng(1)
    n = base.num_chunks
    f = 0.02 * rng.uniform(0.95, 1.05, n)
    return dataclasses.replace(
        base,
        forward_s=f,
        backward_input_s=1.1 * f,
        backward_weight_s=0.9 * f,
        recompute_s=0.3 * f,
        lanes=(
            Lane(
                name="ep",
                forward_s=0.2 * f,
                backward_s=0.2 * f,
                hidden_forward_s=0.3 * f,
                hidden_backward_s=0.3 * f,
            ),
        ),
        grad_reduce_s=np.full(n, 0.05),
        grad_buckets=4,
        param_gather_s=np.full(n, 0.03),
        optimizer_s=np.full(p, 0.2),
        activation_bytes=np.full(n, 1e9),
        static_bytes=np.full(p, 4e10),
        ranks_per_stage=3072,
        lockstep_ranks=512,
    )


WHOLE_STEPS: dict[str, tuple[str, float, float | None]] = {
    "DeepSeek-V3, 2,048 devices, every rank": ("unfolded", 10.0, 4.0),
    "DeepSeek-V3, 2,048 devices, every rank, jitter": ("jitter", 10.0, 4.0),
    "DeepSeek-V3, 2,048 devices, every rank, contention": ("contended", 10.0, 4.0),
    "DeepSeek-V3, 2,048 devices, folded": ("folded", 0.5, None),
    "ten trillion, 98,304 devices, folded": ("ten", 5.0, None),
    "ten trillion, 98,304 devices, three stragglers": ("stragglers", 5.0, None),
    "ten trillion, 98,304 devices, jitter by block": ("ten jitter", 5.0, None),
}


def peak_gib() -> float:
    """Most memory this process has held, by its own account: that of getrusage includes its parent's."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 2**20
    return float("nan")


def whole_step(case: str) -> dict[str, object]:
    """Build, unfold, replay and analyse one step in this process."""
    simulate(even_costs("1f1b", 2, 2))  # loads the compiled code
    slow = Contention(compute={"reduce": 1.19, "ep": 1.19}, communication={"reduce": 1.3, "ep": 1.3})
    began = time.perf_counter()
    if case == "unfolded":
        run = simulate(deepseek_like(), every_rank=True)
    elif case == "jitter":
        run = simulate(deepseek_like(), perturbation=Perturbation(jitter=Jitter(cv=0.02, seed=1)))
    elif case == "contended":
        run = simulate(deepseek_like(), every_rank=True, contention=slow)
    elif case == "folded":
        run = simulate(deepseek_like())
    elif case == "ten jitter":
        run = simulate(ten_trillion(), perturbation=Perturbation(jitter=Jitter(cv=0.02, seed=1)))
    elif case == "ten":
        run = simulate(ten_trillion())
    else:
        run = simulate(
            ten_trillion(), perturbation=Perturbation(stragglers={5: 1.1, 40_000: 1.2, 90_000: 1.05})
        )
    return {
        "wall_s": time.perf_counter() - began,
        "build_s": run.build_s,
        "engine_s": run.engine_s,
        "tasks": len(run.timeline.graph) - 1,
        "rows": run.timeline.graph.num_ranks,
        "step_s": run.step_s,
        "peak_gib": peak_gib(),
    }


def whole_step_figures() -> list[dict[str, object]]:
    """Whole steps, each in a process of its own."""
    rows: list[dict[str, object]] = []
    for name, (case, bar, memory_bar) in WHOLE_STEPS.items():
        for _ in range(2):  # the first run may have to compile
            done = subprocess.run(
                [sys.executable, __file__, "--whole-step", case], check=True, capture_output=True, text=True
            )
        found = json.loads(done.stdout)
        reached = found["wall_s"] < bar and (memory_bar is None or found["peak_gib"] < memory_bar)
        rows.append(
            {
                "what": name,
                "case": f"{found['rows']:,} rows",
                "value": found["wall_s"],
                "unit": "s",
                "bar": bar,
            }
            | {"reached": reached, **found}
        )
    return rows


def main() -> None:
    """Measure everything."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="machine-readable")
    parser.add_argument("--whole-step", default="", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.whole_step:
        print(json.dumps(whole_step(options.whole_step)))
        return
    rows = engine_figures() + closed_form_figures() + whole_step_figures()
    missed = any(row["reached"] is False for row in rows)
    if options.json:
        print(json.dumps(rows, indent=1))
        sys.exit(missed)
    for row in rows:
        bar = f"bar {row['bar']:g}" if row["bar"] is not None else ""
        mark = {True: "reached", False: "MISSED", None: ""}[row["reached"]]  # type: ignore[index]
        extra = f"{row['peak_gib']:.2f} GiB" if "peak_gib" in row else ""
        counted = f"{row['tasks']:>10,} {'plans' if row['unit'] == 'M plans/s' else 'tasks'}"
        figure = f"{row['value']:>9.2f} {row['unit']!s:10}"
        print(f"{row['what']!s:52} {row['case']!s:20} {counted} {figure} {bar:8} {mark:8} {extra}")
    sys.exit(missed)


if __name__ == "__main__":
    main()

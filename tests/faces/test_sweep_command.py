"""``fullmesh sweep`` as it is typed: what it prints, its JSON twin, its exit codes, its talk."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from fullmesh.faces.cli import sweep as face
from fullmesh.study.sweep import run, table

CommandLine = Callable[..., tuple[int, str, str]]
GRID = """[grid]
model = "llama-3-8b"
machine = "h200"
chips = [8, 12, 12]
batch = 64
"""
NO_PLAN = '[[case]]\nmodel = "llama-3.1-405b"\nmachine = "h200"\nchips = 8\nbatch = 8\n'
NO_SIZE = '[[case]]\nmodel = "llama-3-8b"\nmachine = "h200"\nchips = 12\n'


@pytest.fixture
def grid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A grid file in an empty working folder; one job is done in this process."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "grid.toml"
    path.write_text(GRID)
    return path


def swept(command_line: CommandLine, *more: str, out: str = "rows.csv") -> tuple[int, str, str]:
    return command_line("sweep", "grid.toml", "--out", out, "--jobs", "1", *more)


def test_what_is_printed(command_line: CommandLine, grid: Path) -> None:
    code, out, err = swept(command_line, "--no-timing")
    assert code == 0, err
    assert out.startswith("rows in rows.csv: 2 (2 new, 0 kept from before)\n")
    assert re.search(r"with a plan +1 .*\n without a plan +0 .*\n not answered +1 ", out)
    assert (
        "- dgx-h200 cannot have 12 devices (expected: multiples of 1 up to 8, then multiples of 8) (1)" in out
    )
    assert err == "points that stand in the grid again, and are one row each: 1\n"
    assert swept(command_line, "--no-timing")[1].startswith(
        "rows in rows.csv: 2 (0 new, 2 kept from before)\n"
    )
    assert re.search(r"kept from before\) in [\d.]+ m?s\n", swept(command_line)[1])


def test_json_says_the_same(command_line: CommandLine, grid: Path) -> None:
    code, out, _ = swept(command_line, "--json", "--no-timing")
    record = json.loads(out)
    assert code == 0
    assert {k: record[k] for k in ("points", "repeated", "ok", "no_plan", "error", "kept", "left_out")} == {
        "points": 2, "repeated": 1, "ok": 1, "no_plan": 0, "error": 1, "kept": 0, "left_out": 0,
    }  # fmt: skip
    assert (record["out"], record["journal"]) == ("rows.csv", "rows.csv.journal")
    assert record["errors"] == [
        {
            "error": "dgx-h200 cannot have 12 devices (expected: multiples of 1 up to 8, then multiples of 8)",
            "points": 1,
        }
    ]
    head = Path("rows.csv").read_text("utf-8").splitlines()[0]
    assert head.split(",") == record["columns"]
    assert "timing" not in record
    assert json.loads(swept(command_line, "--json")[1])["timing"]["elapsed_s"] > 0


def test_rows_that_are_left_out_and_torn_ones_are_told_of(command_line: CommandLine, grid: Path) -> None:
    swept(command_line)
    grid.write_text(NO_SIZE + "batch = 128\n")
    journal = Path("rows.csv.journal")
    journal.write_bytes(journal.read_bytes()[:-5])
    code, _, err = swept(command_line)
    assert code == 2
    assert err.splitlines() == [
        "the last row of rows.csv.journal was torn; it was cut off, and its point asked again",
        "rows of points that the grid does not hold, which stay in rows.csv.journal and are not in rows.csv: 1",
    ]


@pytest.mark.parametrize(
    ("text", "code"), [(GRID + NO_PLAN, 0), (NO_PLAN, 3), (NO_PLAN + NO_SIZE, 3), (NO_SIZE, 2)]
)
def test_exit_codes(command_line: CommandLine, grid: Path, text: str, code: int) -> None:
    grid.write_text(text)
    found, out, err = swept(command_line)
    assert found == code, err
    assert "rows.csv" in out
    assert Path("rows.csv").exists()


@pytest.mark.parametrize(
    ("more", "what"),
    [
        (("--out", "rows.txt"), "--out: 'rows.txt' has another ending"),
        (("--out", "none/rows.csv"), "--out: cannot write none/rows.csv: there is no folder"),
        (("--jobs", "0"), "--jobs: 0 is out of range"),
        (("--jobs", "²"), "--jobs: '²' is not a whole number"),
        (("--ray-address", "x:1"), "--ray-address: an address of Ray is named"),
        (("--engine", "spark"), "invalid value for '--engine'"),
        (("--profile", "none.json"), "none.json: cannot read the profile"),
        (("--profile", "rows.csv"), "rows.csv"),
    ],
)
def test_mistakes(command_line: CommandLine, grid: Path, more: tuple[str, ...], what: str) -> None:
    code, out, err = swept(command_line, *more)
    assert (code, out) == (2, "")
    assert what in err
    assert err.count("error: ") == err.count("hint: ") == 1
    assert sorted(p.name for p in Path().iterdir()) == ["grid.toml"]


def test_a_mistake_in_the_grid_is_named_in_both_languages(command_line: CommandLine, grid: Path) -> None:
    grid.write_text(GRID + "sizes = 3\n")
    assert swept(command_line)[2].startswith("error: grid.toml:6: grid.sizes: unknown key 'sizes'\n")
    assert swept(command_line, "--lang", "zh")[2].startswith(
        "错误：grid.toml:6: grid.sizes：未知的键 'sizes'"
    )


def test_progress_of_a_terminal_is_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = iter([0.0, 0.0, 1.0, 1.1, 2.0])
    monkeypatch.setattr(face.time, "monotonic", lambda: next(now))
    monkeypatch.setattr(face.sys.stderr, "isatty", lambda: True, raising=False)
    progress = face._Progress()
    for done in (10, 30, 31, 60):
        progress(done, 100, 10)
    progress.end()
    assert capsys.readouterr().err == (
        "\r30 of 100 rows, 20 a second, 3.5 s left\x1b[K\r60 of 100 rows, 25 a second, 1.6 s left\x1b[K\r\x1b[K"
    )


def test_progress_elsewhere_is_a_line_now_and_then(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = iter([0.0, 0.0, 9.0, 10.0, 12.0, 20.0])
    monkeypatch.setattr(face.time, "monotonic", lambda: next(now))
    progress = face._Progress()
    for done in (0, 9, 10, 12, 2_000_000):
        progress(done, 4_000_000, 0)
    progress.end()
    assert capsys.readouterr().err.splitlines() == [
        "10 of 4,000,000 rows, 1 a second, 46.3 d left",
        "2,000,000 of 4,000,000 rows, 100,000 a second, 20 s left",
    ]


def test_names_are_the_same_as_where_they_are_used() -> None:
    assert face.ENGINES == run.ENGINES
    assert face.ENDINGS == table.ENDINGS

"""Grid files: what is read, what is refused and where, and the keys of points."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

import fullmesh
from fullmesh.data import DATA_DIR
from fullmesh.errors import FullmeshError
from fullmesh.study.sweep import grid as grids
from fullmesh.study.sweep.grid import Point, from_line, of_many, program_digest, read_grid

GRID = """[grid]
model = ["llama-3-8b", "qwen3-30b-a3b"]
machine = ["h200", "cloudmatrix384"]
chips = [8, "default"]
batch = [64, "4M tokens", "default"]
seq = ["8k", 4096]
precision = ["bf16", "fp8"]
software = ["default", "unknown"]
objective = ["time", "energy"]
offload = [false, true]

[[case]]
model = "llama-3-8b"
machine = "h200"
chips = 64
"""


def written(folder: Path, text: str) -> Path:
    path = folder / "grid.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_every_combination_is_a_point_and_cases_come_last(tmp_path: Path) -> None:
    grid = read_grid(written(tmp_path, GRID))
    assert len(grid.points) == 2 * 2 * 2 * 3 * 2 * 2 * 2 * 2 * 2 + 1
    assert len({p.key for p in grid.points}) == len(grid.points)
    assert [m.id for m in grid.inputs.models] == ["llama-3-8b", "qwen3-30b-a3b"]
    assert [s.name for s in grid.inputs.software] == ["unknown"]
    first, last = grid.points[0], grid.points[-1]
    assert (first.chips, first.gbs, first.seq, first.offload) == (8, 64, 8192, False)
    # what a case leaves out is the default, here the sequence length of the model
    assert dataclasses.replace(last, key="") == Point(
        key="", model=0, machine=0, software=-1, chips=64, gbs=None, batch_tokens=None, seq=8192, precision="bf16",
        objective="time", offload=False, refusal="",
    )  # fmt: skip
    assert {p.batch_tokens for p in grid.points} == {None, 4e6}


def test_a_mapping_says_the_same(tmp_path: Path) -> None:
    table = {"model": "llama-3-8b", "machine": ("h200",), "chips": range(8, 33, 8), "batch": 64}
    text = '[grid]\nmodel = "llama-3-8b"\nmachine = ["h200"]\nchips = [8, 16, 24, 32]\nbatch = 64\n'
    assert read_grid({"grid": table}).points == read_grid(written(tmp_path, text)).points


def test_what_stands_twice_is_one_point() -> None:
    table = {
        "model": ["llama-3-8b", "Llama-3-8B"],
        "machine": ["h200", "dgx-h200"],
        "chips": [8, 8],
        "seq": ["8k", 8192],
    }
    grid = read_grid({"grid": table, "case": [{"model": "llama-3-8b", "machine": "h200", "chips": 8}]})
    assert (len(grid.points), grid.num_repeated) == (1, 16)


def test_a_size_that_a_machine_cannot_have_is_an_answer() -> None:
    grid = read_grid({"grid": {"model": "llama-3-8b", "machine": ["h200", "gb200-nvl72"], "chips": 12}})
    assert [bool(p.refusal) for p in grid.points] == [True, False]
    assert grid.points[0].refusal.startswith("dgx-h200 cannot have 12 devices (expected: multiples of 1")


def test_points_cross_a_pipe_unchanged(tmp_path: Path) -> None:
    points = read_grid(written(tmp_path, GRID)).points
    line = of_many(points)
    assert "\n" not in line
    assert tuple(from_line(line)) == points


def test_keys_are_of_the_question_and_of_what_answers_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = {"grid": {"model": "llama-3-8b", "machine": "h200", "chips": 8}}
    (key,) = (p.key for p in read_grid(one).points)
    assert read_grid(one).points[0].key == key
    # a file that says the same as the shipped one asks the same
    machine = tmp_path / "mine.toml"
    text = (DATA_DIR / "machines" / "dgx-h200.toml").read_text("utf-8")
    machine.write_text(text)
    mine = '[grid]\nmodel = "llama-3-8b"\nmachine = "mine.toml"\nchips = 8\n'
    assert read_grid(written(tmp_path, mine)).points[0].key == key
    machine.write_text(text.replace('id = "dgx-h200"', 'id = "mine"'))
    changed = read_grid(written(tmp_path, mine)).points[0].key
    monkeypatch.setattr(grids, "program_digest", lambda: "another")
    other = read_grid(one).points[0].key
    assert len({key, changed, other}) == 3


def test_the_program_is_its_code_facts_and_fits() -> None:
    assert program_digest() == program_digest()
    assert len(program_digest()) == 32


def test_paths_are_relative_to_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inner = tmp_path / "inner"
    inner.mkdir()
    (inner / "config.json").write_text((DATA_DIR / "models" / "llama-3-8b.json").read_text("utf-8"))
    path = written(inner, '[grid]\nmodel = "config.json"\nmachine = "h200"\n')
    monkeypatch.chdir(tmp_path)
    assert len(read_grid(path).inputs.models[0].layers) == 32


BASE = '[grid]\nmodel = "llama-3-8b"\nmachine = "h200"\n'


@pytest.mark.parametrize(
    ("text", "place", "what"),
    [
        ("", "grid.toml", "the grid is empty"),
        ("x = = 1", "grid.toml:1", "not a TOML file"),
        ("[grids]\n", "grid.toml:1: grids", "unknown table 'grids'"),
        ("grid = 3\n", "grid.toml:1: grid", "'grid' is no table"),
        ("case = 3\n", "grid.toml:1: case", "'case' is no list"),
        ("case = [3]\n", "grid.toml:1: case", "'case' is no list"),
        ('[grid]\nmodel = "llama-3-8b"\n', "grid.toml:1: grid", "'machine' is missing"),
        (BASE + "size = 3\n", "grid.toml:4: grid.size", "unknown key 'size'"),
        (BASE + "[[case]]\nmodle = 3\n", "grid.toml:5: case[0].modle", "unknown key 'modle'"),
        (BASE + "chips = []\n", "grid.toml:4: grid.chips", "the list is empty"),
        (BASE + "chips = [8, 0]\n", "grid.toml:4: grid.chips[1]", "0 is out of range"),
        (BASE + 'chips = "8"\n', "grid.toml:4: grid.chips", "'8' is not allowed"),
        (BASE + "chips = 8.5\n", "grid.toml:4: grid.chips", "8.5 is not a whole number"),
        (BASE + "batch = true\n", "grid.toml:4: grid.batch", "True is not allowed"),
        (BASE + 'batch = "many"\n', "grid.toml:4: grid.batch", "as a global batch"),
        (BASE + 'seq = [4096, "x"]\n', "grid.toml:4: grid.seq[1]", "as a sequence length"),
        (BASE + 'precision = "fp3"\n', "grid.toml:4: grid.precision", "fp3"),
        (BASE + 'objective = "fame"\n', "grid.toml:4: grid.objective", "unknown objective 'fame'"),
        (BASE + 'offload = "yes"\n', "grid.toml:4: grid.offload", "neither true nor false"),
        (BASE + 'software = "nemo-1"\n', "grid.toml:4: grid.software", "unknown software 'nemo-1'"),
        ('[grid]\nmodel = ["llama-3-8b", "lama"]\nmachine = "h200"\n', "grid.toml:2: grid.model[1]", "'lama'"),
        ('[grid]\nmodel = "llama-3-8b"\nmachine = 3\n', "grid.toml:3: grid.machine", "3 is not a text"),
        ('[grid]\nmodel = "llama-3-8b"\nmachine = "h2000"\n', "grid.toml:3: grid.machine", "unknown machine"),
        (BASE + "[[case]]\nmodel = [1]\nmachine = 1\n", "grid.toml:5: case[0].model", "[1] is not a text"),
    ],
)  # fmt: skip
def test_a_mistake_is_named_with_its_place(tmp_path: Path, text: str, place: str, what: str) -> None:
    with pytest.raises(FullmeshError) as raised:
        read_grid(written(tmp_path, text))
    assert raised.value.where.removeprefix(f"{tmp_path}/") == place
    assert what in raised.value.what
    assert "hint:" in str(raised.value)


def test_a_mapping_is_refused_as_clearly() -> None:
    nested: Any = 1
    for _ in range(50):
        nested = [nested]
    for table, place in (
        ({"chips": 0}, "grid.chips"),
        ({"chips": nested}, "grid"),
        ({"size": 1}, "grid.size"),
    ):
        with pytest.raises(FullmeshError) as raised:
            read_grid({"grid": {"model": "llama-3-8b", "machine": "h200", **table}})
        assert raised.value.where == place


def test_more_points_than_a_million_are_refused_at_once() -> None:
    many = {"chips": list(range(8, 16_008, 8)), "batch": list(range(1, 502))}
    with pytest.raises(FullmeshError, match=r"the grid has 1,002,000 points") as raised:
        read_grid({"grid": {"model": "llama-3-8b", "machine": "h200", **many}})
    assert raised.value.expected == "at most 1,000,000"


def test_the_example_is_read() -> None:
    root = Path(fullmesh.__file__).parents[2]
    grid = read_grid(root / "docs" / "examples" / "sweep.toml")
    assert len(grid.points) == 17
    assert json.loads(of_many(grid.points[:1]))

"""Readers of TOML, JSON and CSV: every fault is one named error, and limits hold before memory is taken."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from fullmesh import reading
from fullmesh.errors import ModelError, ResultsError, ScenarioError


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("a = ", "not a TOML file"),
        ("a = 1\na = 2", "not a TOML file"),
        ("a = " + "9" * 5000, "a value cannot be read|not a TOML file"),
        ("a = 0x" + "f" * 5000, "does not fit 64 bits"),
        ("a = 99999999999999999999", "does not fit 64 bits"),
        ("a = " + "[" * 5000 + "]" * 5000, "nested more than 64 levels"),
        ("a = " + "{a=" * 100 + "1" + "}" * 100, "nested more than 64 levels"),
        (".".join("a" * 3000) + " = 1", "nested more than 64 levels"),
        ("a = 2026-02-31", "a value cannot be read|not a TOML file"),
    ],
)
def test_toml_that_is_refused(text: str, what: str) -> None:
    with pytest.raises(ScenarioError, match=what) as caught:
        reading.parse_toml(text, where="s.toml", error=ScenarioError)
    assert "s.toml" in str(caught.value)
    assert len(str(caught.value)) < 1200


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("", "not valid JSON"),
        ('{"a": 1} x', "not valid JSON"),
        ('{"a": 1, "a": 2}', "a key stands twice"),
        ('{"a": ' + "9" * 5000 + "}", "too many digits"),
        ('{"a": 99999999999999999999}', "does not fit 64 bits"),
        ("[" * 5000 + "]" * 5000, "nested more than 64 levels"),
        ("[" * 100 + "]" * 100, "nested more than 64 levels"),
    ],
)
def test_json_that_is_refused(text: str, what: str) -> None:
    with pytest.raises(ModelError, match=what):
        reading.parse_json(text, where="c.json", error=ModelError)


def test_json_keeps_numbers_that_are_not_finite_for_whoever_reads_them() -> None:
    assert reading.parse_json('{"a": Infinity, "b": 1e999}', where="c.json", error=ModelError) == {
        "a": float("inf"),
        "b": float("inf"),
    }


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"a,b\n1\n", "the row has 1 fields"),
        (b"a,b\n1,2,3\n", "the row has 3 fields"),
        (b"a\n1\n", "the column 'b' is missing"),
        (b"a,b,a\n1,2,3\n", "stands twice"),
        (b'a,b\n1,"2\n', "not a CSV file"),
        (b"a,b\n1,\x00\n", "a NUL character"),
        (b"a,b\n1,\xff\n", "not UTF-8"),
        (b"a,b\n1," + b"x" * 200_000 + b"\n", "field larger than field limit"),
        (b"", "the column 'a' is missing"),
    ],
)
def test_tables_that_are_refused(tmp_path: Path, data: bytes, what: str) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes(data)
    with pytest.raises(ResultsError, match=what) as caught:
        list(reading.csv_rows(path, required=("a", "b"), error=ResultsError))
    assert "t.csv" in str(caught.value)


def test_rows_have_the_line_on_which_they_end(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes(b'\xef\xbb\xbf# note\na, b\n1,"2\n2"\n\n3,4\n')
    comments: list[str] = []
    rows = list(reading.csv_rows(path, required=("a",), error=ResultsError, comments=comments))
    assert rows == [(4, {"a": "1", "b": "2\n2"}), (6, {"a": "3", "b": "4"})]
    assert comments == ["note"]


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    for path, what in (
        (tmp_path / "none", "No such file"),
        (tmp_path, "Is a directory"),
        (tmp_path / "a\0b", "null"),
        (tmp_path / ("n" * 300), "name too long"),
    ):
        with pytest.raises(ScenarioError, match=what):
            reading.read_toml(path, what="the scenario", error=ScenarioError)
        assert not reading.is_file(path)


def test_a_file_beyond_the_limit_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "large.toml"
    with path.open("wb") as file:
        os.truncate(file.fileno(), 200 * reading.LARGEST_TOML_BYTES)
    with pytest.raises(ScenarioError, match="larger than 1 MiB"):
        reading.read_toml(path, what="the scenario", error=ScenarioError)

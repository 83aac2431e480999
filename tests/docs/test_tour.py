"""The tour: ten questions, each answered by one command whose output stands on the page as it is printed today."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from rich.cells import cell_len

from oracles.scripts import numbers

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "tour.md"
TEXT = PAGE.read_text(encoding="utf-8")
ANSWERS = [m for m in numbers.MARK.finditer(TEXT) if m["key"].strip().startswith("run:")]
NUMBER = re.compile(r"\d+(?:,\d{3})*(?:\.\d+)?")
# a figure may differ by this between machines that round another way
TOLERANCE = 0.02
USERS = ("infrastructure engineer", "buyer", "performance engineer", "CUDA")


def line_of(answer: re.Match[str]) -> str:
    return answer["key"].partition(":")[2].strip()


def test_ten_questions_of_four_users_one_command_each() -> None:
    questions = re.findall(r"^\*\*(\d+)\. .*\?\*\*", TEXT, re.MULTILINE)
    assert [int(n) for n in questions] == list(range(1, 11))
    assert len(ANSWERS) == 10
    sections = re.split(r"^## ", TEXT, flags=re.MULTILINE)[1:]
    assert len(sections) == len(USERS)
    for section, user in zip(sections, USERS, strict=True):
        assert user in section.splitlines()[0]
        # one answer behind each question, and at least two of each user
        assert (
            len(re.findall(r"<!--=run:", section))
            == len(re.findall(r"^\*\*\d+\.", section, re.MULTILINE))
            >= 2
        )
    assert {shlex.split(line_of(a))[1] for a in ANSWERS} >= {
        "plan",
        "compare",
        "simulate",
        "fabric",
        "validate",
        "catalog",
    }
    for readme in ("README.md", "README.zh-CN.md"):
        assert "(docs/tour.md)" in (ROOT / readme).read_text(encoding="utf-8")


@pytest.mark.slow
@pytest.mark.parametrize("answer", ANSWERS, ids=lambda a: line_of(a)[9:50])
def test_an_answer_is_what_the_command_prints(answer: re.Match[str]) -> None:
    line = line_of(answer)
    assert re.fullmatch(r"fullmesh [^|;&<>`$]*( \| (head|tail) -\d+)?", line)
    shown = answer["text"]
    assert f"$ {line}\n" in shown
    output = shown.partition(f"$ {line}\n")[2].partition("\n```")[0].splitlines()
    assert 10 <= len(output) <= 56
    assert max(cell_len(part) for part in output) <= 80
    now = numbers.run_block(line)
    assert NUMBER.sub("#", shown) == NUMBER.sub("#", now), "run `make numbers`"
    for a, b in zip(NUMBER.findall(shown), NUMBER.findall(now), strict=True):
        old, new = (float(n.replace(",", "")) for n in (a, b))
        unit = 10.0 ** -len(a.partition(".")[2])
        assert abs(old - new) <= max(TOLERANCE * abs(old), 1.0001 * unit), (
            f"{a} is now {b}: run `make numbers`"
        )


def test_a_block_runs_as_on_a_terminal_of_80_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    before = Path.cwd()
    text = numbers.run_block("fullmesh catalog --item h200 --parameter power | head -3")
    lines = text.strip().splitlines()
    assert lines[0] == "```console"
    assert lines[1] == "$ fullmesh catalog --item h200 --parameter power | head -3"
    assert len(lines) <= 6
    assert Path.cwd() == before
    import os

    assert os.environ["COLUMNS"] == "200"
    assert "NO_COLOR" not in os.environ

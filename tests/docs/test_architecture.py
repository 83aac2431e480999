"""The page on how the program is built names places that exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
CHANGES = [line for line in PAGE.splitlines() if line.startswith("| ") and "`src/" in line]


def test_ten_changes_have_a_place() -> None:
    assert len(CHANGES) == 10


@pytest.mark.parametrize("line", CHANGES, ids=lambda line: line.split("|")[1].strip()[:24])
def test_the_place_of_a_change_exists(line: str) -> None:
    places = re.findall(r"`(src/[^`]+)`", line)
    assert places
    assert all((ROOT / place).exists() for place in places), places


@pytest.mark.parametrize("line", CHANGES, ids=lambda line: line.split("|")[1].strip()[:24])
def test_the_names_in_a_place_exist(line: str) -> None:
    sources = [(ROOT / p).read_text(encoding="utf-8") for p in re.findall(r"`(src/[^`]+\.py)`", line)]
    for name in re.findall(r"`(_?[A-Z]\w+)`", line):
        assert any(re.search(rf"^(class )?{name}\b", text, re.MULTILINE) for text in sources), name


def test_every_place_on_the_way_of_a_plan_exists() -> None:
    places = {p for p in re.findall(r"`([a-z_]+(?:/[a-z_]+)+(?:\.py)?)`", PAGE) if not p.startswith("src/")}
    assert len(places) > 20
    for place in places:
        assert (ROOT / "src" / "fullmesh" / place).exists() or (ROOT / place).exists(), place

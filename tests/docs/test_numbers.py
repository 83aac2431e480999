"""Figures of the READMEs and the pages are today's, in both languages, within rounding."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from oracles.scripts import numbers

ROOT = Path(__file__).resolve().parents[2]
NUMBER = re.compile(r"\d+(?:,\d{3})*(?:\.\d+)?")
READMES = [ROOT / "README.md", ROOT / "README.zh-CN.md"]
# a step time may differ by this between machines that round another way: ties among plans fall elsewhere
BLOCK_TOLERANCE = 0.02


PAGES = [page for page in numbers.pages() if numbers.MARK.search(page.read_text(encoding="utf-8"))]


@pytest.fixture(scope="module")
def today() -> Callable[[str], str]:
    return numbers.collect()  # type: ignore[no-any-return]


def close(shown: str, now: str) -> bool:
    """Same words, and every number within one unit of its last digit."""
    if NUMBER.sub("#", shown) != NUMBER.sub("#", now):
        return False
    for a, b in zip(NUMBER.findall(shown), NUMBER.findall(now), strict=True):
        digits = len(a.partition(".")[2])
        unit = 10.0**-digits
        if "." not in a and len(a.replace(",", "")) > 3:
            unit = 0.002 * float(a.replace(",", ""))
        if abs(float(a.replace(",", "")) - float(b.replace(",", ""))) > unit * 1.0001:
            return False
    return True


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_figures_are_todays(page: Path, today: Callable[[str], str]) -> None:
    stale = []
    for mark in numbers.MARK.finditer(page.read_text(encoding="utf-8")):
        key, shown = mark["key"].strip(), mark["text"]
        # printed answers have a test of their own
        if not key.startswith(("compare:", "run:")) and not close(shown, today(key)):
            stale.append(f"{key}: {shown.strip()[:80]} is now {today(key).strip()[:80]}")
    assert not stale, "run `make numbers`:\n" + "\n".join(stale)


@pytest.mark.parametrize("lang", ["en", "zh"])
def test_the_comparison_shown_is_todays(lang: str, today: Callable[[str], str]) -> None:
    page = ROOT / "docs" / "comparison.md"
    mark = next(
        m for m in numbers.MARK.finditer(page.read_text(encoding="utf-8")) if m["key"] == f"compare:{lang}"
    )

    def label(line: str) -> str:
        return re.split(r"\s{2,}", line.strip())[0]

    def labels(text: str) -> list[str]:
        """First cells of the rows that hold figures; plans and sentences may wrap."""
        return [
            label(line) for line in text.splitlines() if line.startswith(" ") and NUMBER.search(line[24:])
        ]

    def row(text: str, name: str) -> list[float]:
        line = next(line for line in text.splitlines() if line.strip().startswith(name))
        return [float(n.replace(",", "")) for n in NUMBER.findall(line)]

    shown, now = mark["text"], today(f"compare:{lang}")
    wanted = {"en": ("step time", "tokens/s", "matrix peak"), "zh": ("单步时间", "词元/秒", "矩阵峰值算力")}[
        lang
    ]
    assert all(any(found.startswith(name) for found in labels(shown)) for name in wanted)
    for name in wanted:
        assert row(shown, name) == pytest.approx(row(now, name), rel=BLOCK_TOLERANCE), "run `make numbers`"
    for name in ("272 PFLOP/s", "300 PFLOP/s", "MFU", "HFU"):
        assert name in shown


def test_both_readmes_show_the_same_figures() -> None:
    english, chinese = (page.read_text(encoding="utf-8") for page in READMES)

    def marked(text: str) -> list[tuple[str, str]]:
        found = [(m["key"].strip(), m["text"]) for m in numbers.MARK.finditer(text)]
        return sorted((k, v) for k, v in found if ":" not in k)

    def plain(text: str) -> set[str]:
        text = numbers.MARK.sub("", text)
        text = re.sub(r"```.*?```|\]\([^)]*\)", "", text, flags=re.DOTALL)
        return set(NUMBER.findall(text))

    assert marked(english) == marked(chinese)
    assert plain(english) == plain(chinese)


def test_every_mark_is_closed() -> None:
    for page in numbers.pages():
        text = page.read_text(encoding="utf-8")
        assert text.count("<!--=") == text.count("<!--/-->") == len(numbers.MARK.findall(text)), page.name


def test_a_stale_figure_is_found() -> None:
    assert close("4.7 %", "4.8 %")
    assert not close("4.7 %", "4.9 %")
    assert not close("4.7 %", "4.7 s")
    assert close("383,815", "383,900")
    assert not close("383,815", "390,000")

"""The examples of the timeline's page run, and the page names what exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from fullmesh.timeline.costs import SCHEDULES
from fullmesh.timeline.engine.engines import ENGINES

PAGE = Path(__file__).parents[2] / "docs" / "timeline.md"


def test_examples_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert blocks
    for block in blocks:
        exec(compile(block, str(PAGE), "exec"), {})
    assert "bubble 6.8%" in capsys.readouterr().out
    assert (tmp_path / "step.json.gz").is_file()


def test_every_schedule_and_engine_is_described() -> None:
    text = PAGE.read_text(encoding="utf-8")
    for name in (*SCHEDULES, *ENGINES):
        assert f"`{name}`" in text, name

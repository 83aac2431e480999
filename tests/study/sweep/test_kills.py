"""A sweep that is killed at random moments and gone on with leaves the file of one that nobody disturbed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "oracles" / "sweep_kills.py"


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="processes are copied by fork")
def test_killed_at_any_moment_no_row_is_lost_and_none_stands_twice(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--number", "60", "--seed", "20261129", "--folder", str(tmp_path)],
        capture_output=True, text=True, check=False, cwd=tmp_path,
    )  # fmt: skip
    records = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 0, [r for r in records if not r.get("same", True)] or done.stderr
    kills, ends = ([r for r in records if kind in r] for kind in ("kill", "end"))
    assert len(kills) >= 60
    assert {r["kill"] for r in kills} == {r["end"] for r in ends}
    assert all(r["same"] and r["once"] and not r["other"] for r in ends)
    # they fell before the first row, into a row, between rows, and when the file was there already
    assert any(not r["rows"] for r in kills)
    assert any(r["torn"] for r in kills)
    assert any(r["rows"] > 1 and not r["torn"] for r in kills)

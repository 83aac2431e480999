"""Compiled code: kept where it can be, announced when it is made, and no reason to stop when its folder is damaged."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

SCRIPT = """
import numpy as np
from fullmesh.timeline.engine.maxplus import maxplus
end = np.zeros(3)
maxplus(np.array([[0, 0, 0], [0, 0, 0], [1, 0, 0]], np.uint32), np.array([0.0, 1.0, 2.0]), end)
print(end.tolist())
"""


def run(folder: Path) -> subprocess.CompletedProcess[str]:
    """A fresh process with its compiled code in ``folder``."""
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(folder)}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "[0.0, 1.0, 3.0]\n"
    return done


def test_compiling_is_announced_once_and_then_not_needed(tmp_path: Path) -> None:
    first = run(tmp_path)
    assert first.stderr.startswith("fullmesh: compiling numerical kernels")
    assert len(first.stderr.splitlines()) == 1
    assert run(tmp_path).stderr == ""


@pytest.mark.parametrize("suffix", [".nbi", ".nbc"])
def test_a_damaged_folder_is_said_and_mended(tmp_path: Path, suffix: str) -> None:
    run(tmp_path)
    for path in tmp_path.rglob(f"*{suffix}"):
        path.write_bytes(b"not compiled code")
    hurt = run(tmp_path)
    assert "cannot be read" in hurt.stderr
    assert "compiling numerical kernels" in hurt.stderr
    assert run(tmp_path).stderr == ""


def test_a_flipped_bit_of_machine_code_is_noticed(tmp_path: Path) -> None:
    run(tmp_path)
    for path in tmp_path.rglob("*.nbc"):
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
    hurt = run(tmp_path)
    assert "cannot be read" in hurt.stderr
    assert run(tmp_path).stderr == ""


def test_a_folder_that_cannot_be_written_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from numba.core.caching import IndexDataCacheFile

    from fullmesh import compiled

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(IndexDataCacheFile, "save", full)
    monkeypatch.setattr(compiled, "_said", set())
    from fullmesh.timeline.engine import maxplus

    fresh = compiled.kernel(maxplus.starts.py_func)  # type: ignore[attr-defined]
    out = np.zeros(2)
    fresh._cache._cache_file._index_path = str(tmp_path / "none.nbi")  # nothing to load
    fresh(np.zeros((2, 3), np.uint32), np.array([1.5, 2.0]), out)
    assert out.tolist() == [0.0, 1.5]
    said = capsys.readouterr().err
    assert "cannot be kept" in said
    assert "No space left on device" in said


def test_a_change_anywhere_in_a_room_makes_its_code_anew(tmp_path: Path) -> None:
    from fullmesh import compiled

    (tmp_path / "a.py").write_text("X = 1\n")
    before = compiled._stamp.__wrapped__(tmp_path)
    (tmp_path / "b.py").write_text("Y = 1\n")
    assert compiled._stamp.__wrapped__(tmp_path) != before

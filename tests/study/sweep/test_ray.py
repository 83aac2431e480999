"""``--engine ray`` on a cluster of this machine: the same rows as local processes give."""

from __future__ import annotations

import importlib.util
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import fullmesh
from study.sweep.test_sweep import REAL

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        importlib.util.find_spec("ray") is None, reason="Ray is not installed: pip install 'fullmesh[ray]'"
    ),
]
CLUSTER = Path(__file__).parents[2] / "oracles" / "ray_cluster.py"
SOURCE = str(Path(fullmesh.__file__).parents[1])
GRID = """[grid]
model = "llama-3-8b"
machine = ["h200", "cm384"]
chips = [8, 12]
batch = 64
precision = ["bf16", "fp8"]
[[case]]
model = "llama-3.1-405b"
machine = "h200"
chips = 8
batch = 8
"""


@pytest.fixture(scope="module")
def cluster() -> Iterator[dict[str, str]]:
    """The environment in which a cluster of two processors answers, under a token of its own."""
    # names of sockets may have 107 letters, which folders of tests do not leave
    folder = tempfile.mkdtemp(prefix="fm-ray-")
    env = {
        **os.environ, "PYTHONPATH": SOURCE, "OMP_NUM_THREADS": "1", "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32),
    }  # fmt: skip
    child = subprocess.Popen(
        [sys.executable, str(CLUSTER), folder],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env,
    )  # fmt: skip
    assert child.stdin is not None
    assert child.stdout is not None
    assert child.stderr is not None
    try:
        address = child.stdout.readline().strip()
        if not address:
            pytest.skip(f"no Ray cluster starts here: {child.stderr.read()[-300:]}")
        yield env | {"RAY_ADDRESS": address}
    finally:
        child.stdin.close()
        child.wait(60)
        child.stdout.close()
        child.stderr.close()
        shutil.rmtree(folder, ignore_errors=True)


def sweep(env: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    start = [sys.executable, "-c", "from fullmesh.faces.cli.entry import main; main()", "sweep"]
    return subprocess.run(
        [*start, *arguments], capture_output=True, text=True, check=False, env=env, timeout=120
    )


def test_a_cluster_gives_the_rows_of_local_processes(cluster: dict[str, str], tmp_path: Path) -> None:
    grid, out = tmp_path / "grid.toml", tmp_path / "ray.csv"
    grid.write_text(GRID)
    done = sweep(cluster, str(grid), "--out", str(out), "--engine", "ray", "--no-timing")
    assert done.returncode == 0, done.stderr
    fullmesh.sweep(REAL, tmp_path / "local.csv", jobs=2, timing=False)
    assert out.read_bytes() == (tmp_path / "local.csv").read_bytes()
    # rows that are kept are not asked again, whoever answered
    done = sweep(cluster, str(grid), "--out", str(out), "--no-timing", "--json")
    assert '"kept": 9' in done.stdout
    again = sweep(
        cluster, str(grid), "--out", str(tmp_path / "again.csv"), "--no-timing",
        "--engine", "ray", "--jobs", "1", "--ray-address", cluster["RAY_ADDRESS"],
    )  # fmt: skip
    assert again.returncode == 0, again.stderr
    assert (tmp_path / "again.csv").read_bytes() == out.read_bytes()


def test_where_no_cluster_answers_it_is_said_at_once(tmp_path: Path) -> None:
    grid = tmp_path / "grid.toml"
    grid.write_text(GRID)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    options = (str(grid), "--out", str(tmp_path / "rows.csv"), "--engine", "ray")
    for env, where in (
        ({"RAY_ADDRESS": address}, f"RAY_ADDRESS={address}"),
        ({}, f"--ray-address {address}"),
    ):
        named = () if env else ("--ray-address", address)
        done = sweep({**os.environ, "PYTHONPATH": SOURCE, **env}, *options, *named)
        assert done.returncode == 2
        assert done.stderr.startswith(f"error: {where}: no Ray cluster answers: ")
        assert done.stderr.count("hint: ") == 1

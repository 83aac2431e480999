"""The repository speaks of the project alone, and what is installed is whole."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
# a path of somebody's machine, or talk about how a change came about
FORBIDDEN = [
    r"(?<![\w./~])/(?:work|tmp|root|home|Users|mnt)/",
    r"\b(?:this|another|earlier|previous|my|our) (?:session|sandbox|workplace)\b",
    r"\bhelper session",
    r"(?i)(?<!tests )(?<!github )\b(?:see|of|from|for|in|closes|fixes) issue #?\d",
    r"(?i)\bas an ai\b|\blanguage model assistant\b",
    r"(?i)co-authored-by:|generated with",
]
BINARY = {".png", ".gz", ".whl", ".npz", ".parquet"}


def tracked() -> list[Path]:
    """Files under version control; every file where that cannot be asked."""
    try:
        out = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True).stdout
    except (OSError, subprocess.CalledProcessError):
        skip = {".git", ".venv", "build", "dist", "__pycache__"}
        return [p for p in ROOT.rglob("*") if p.is_file() and not skip & set(p.relative_to(ROOT).parts)]
    paths = [ROOT / name for name in out.decode().split("\0") if name]
    return [p for p in paths if p.is_file()]


def test_the_repository_speaks_of_the_project_alone() -> None:
    found = []
    for path in tracked():
        if path.suffix in BINARY or path == Path(__file__).resolve():
            continue
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            found += [
                f"{path.relative_to(ROOT)}:{number}: {match[0]}"
                for pattern in FORBIDDEN
                if (match := re.search(pattern, line))
            ]
    assert not found, "\n".join(found[:20])


@pytest.mark.parametrize(
    "name", ["LICENSE", "NOTICE", "CHANGELOG.md", "CONTRIBUTING.md", "README.zh-CN.md", ".ci/run"]
)
def test_what_a_repository_needs(name: str) -> None:
    assert (ROOT / name).stat().st_size > 50


def test_continuous_integration_runs_the_test_command_of_the_readme() -> None:
    assert "make test" in (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()
    assert "make test" in (ROOT / "README.md").read_text(encoding="utf-8")
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for step in (
        "ruff check",
        "ruff format --check",
        "mypy",
        "check_layers.py",
        "pytest -n 2",
        "fullmesh validate",
    ):
        assert step in makefile


def test_imports_point_down_only() -> None:
    run = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "check_layers.py")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr


def test_the_notice_names_every_file_that_others_measured() -> None:
    notice = (ROOT / "NOTICE").read_text(encoding="utf-8")
    assert "Apache License" in notice
    package = "aiconfigurator" + "-core"
    data = ROOT / "src" / "fullmesh" / "data"
    # sentences may name it; they hold nothing of it
    texts = [p for p in tracked() if data in p.parents and p.suffix not in (*BINARY, ".po")]
    holders = [p for p in texts if package in p.read_text(encoding="utf-8")]
    assert holders
    for path in holders:
        assert str(path.relative_to(ROOT)) in notice, path


def test_no_file_under_version_control_is_large() -> None:
    large = [
        f"{p.relative_to(ROOT)}: {p.stat().st_size:,}" for p in tracked() if p.stat().st_size > 2_000_000
    ]
    assert not large, large


@pytest.mark.slow
def test_the_wheel_holds_every_file_of_the_package(tmp_path: Path) -> None:
    if importlib.util.find_spec("hatchling") is None:
        pytest.skip("hatchling, which builds the wheel, is not installed")
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        ".",
        "--no-deps",
        "--no-build-isolation",
        "-q",
        "-w",
        str(tmp_path),
    ]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    (wheel,) = tmp_path.glob("fullmesh-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        held = set(archive.namelist())
    source = ROOT / "src"
    wanted = {str(p.relative_to(source)) for p in tracked() if source in p.parents}
    assert wanted <= held, sorted(wanted - held)
    assert any(name.startswith("fullmesh/data/profiles/") for name in held)
    assert wheel.name.endswith("-py3-none-any.whl")
    assert {Path(name).name for name in held if ".dist-info/licenses/" in name} == {"LICENSE", "NOTICE"}

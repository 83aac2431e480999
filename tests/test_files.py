"""The writer: whole or not at all, nothing but the file that was asked for, refused before the work."""

from __future__ import annotations

import errno
import json
import os
import random
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from fullmesh import files
from fullmesh.errors import OutputError
from fullmesh.files import check_writable, write_bytes, write_json, write_text

ordinary = pytest.mark.skipif(os.getuid() == 0, reason="root may write everywhere")


def test_a_new_file_gets_what_the_umask_leaves(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_text(tmp_path / "a.txt", "x")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a.txt").stat().st_mode) == 0o640


def test_an_old_file_keeps_its_mode_and_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    path.chmod(0o604)
    number = path.stat().st_ino
    write_text(path, "new")
    assert path.read_text() == "new"
    assert stat.S_IMODE(path.stat().st_mode) == 0o604
    assert path.stat().st_ino != number
    assert os.listdir(tmp_path) == ["a.txt"]


def test_a_link_stays_and_its_target_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    target = tmp_path / "other" / "target.txt"
    target.write_text("old")
    link = tmp_path / "link.txt"
    link.symlink_to(target)
    write_text(link, "new")
    assert link.is_symlink()
    assert target.read_text() == "new"
    target.unlink()
    write_text(link, "made")
    assert link.is_symlink()
    assert target.read_text() == "made"


def test_a_pipe_is_written_into(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe.json"
    os.mkfifo(pipe)
    read: list[str] = []
    reader = threading.Thread(target=lambda: read.append(pipe.read_text()))
    reader.start()
    write_json(pipe, {"a": list(range(50_000))})
    reader.join(timeout=20)
    assert json.loads(read[0]) == {"a": list(range(50_000))}
    assert stat.S_ISFIFO(pipe.stat().st_mode)


def test_a_device_is_written_into_and_a_disk_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "device"
    path.write_text("old")
    number = path.stat().st_ino
    kind = stat.S_IFCHR
    real = os.stat

    def as_device(name: object, **more: object) -> os.stat_result:
        found = real(name, **more)  # type: ignore[call-overload]
        return os.stat_result((kind | 0o666, *found[1:])) if str(name) == str(path) else found

    monkeypatch.setattr(files.os, "stat", as_device)
    write_text(path, "new")
    assert real(path).st_ino == number
    kind = stat.S_IFBLK
    for refused in (lambda: write_text(path, "x"), lambda: check_writable(path)):
        with pytest.raises(OutputError, match="a disk or a socket"):
            refused()
    assert path.read_bytes()[:3] == b"new"


def test_the_own_standard_output_is_written_into(tmp_path: Path) -> None:
    path = tmp_path / "out.txt"
    code = (
        "from fullmesh.files import write_text\n"
        "print('first'); write_text('/dev/stdout', 'second\\n'); print('third')"
    )
    with path.open("w") as out:
        subprocess.run([sys.executable, "-c", code], stdout=out, check=True)
    assert path.read_text().split() == ["first", "second", "third"]


def test_a_full_disk_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    written = 0
    real = os.write

    def full(handle: int, data: bytes) -> int:
        nonlocal written
        if written > 1000:
            raise OSError(errno.ENOSPC, "No space left on device")
        written += 500
        return real(handle, bytes(data[:500]))

    monkeypatch.setattr(files.os, "write", full)
    with pytest.raises(OutputError, match="no space left"):
        write_bytes(path, b"x" * 10_000)
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_an_interrupt_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(files.os, "fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_text(path, "new")
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("", "name of the file is empty"),
        (".", "is a folder"),
        ("none/a.json", "there is no folder"),
        ("file/a.json", "cannot write"),
        ("loop", "cannot write"),
        ("n" * 300, "cannot write"),
        ("a\0b", "cannot write"),
        ("a.txt", "another ending"),
    ],
)
def test_what_cannot_be_written_is_refused_before_the_work(tmp_path: Path, name: str, what: str) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    path = str(tmp_path / name) if name else ""
    endings = (".json", ".json.gz") if name == "a.txt" else ()
    with pytest.raises(OutputError, match=what) as caught:
        check_writable(path, where="--out", endings=endings)
    assert "hint:" in str(caught.value)
    assert len(str(caught.value)) < 1500


def test_no_input_is_written_over(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text("{}")
    (tmp_path / "link.json").symlink_to(path)
    with pytest.raises(OutputError, match="is an input"):
        check_writable(tmp_path / "link.json", inputs=[None, "llama-3-8b", path])
    check_writable(tmp_path / "other.json", inputs=[path])


@ordinary
def test_write_protected_files_and_folders(tmp_path: Path) -> None:
    (tmp_path / "a.txt").touch(mode=0o444)
    with pytest.raises(OutputError, match="write-protected"):
        check_writable(tmp_path / "a.txt")
    (tmp_path / "shut").mkdir(mode=0o555)
    with pytest.raises(OutputError, match="write-protected"):
        check_writable(tmp_path / "shut" / "a.txt")


@pytest.fixture(scope="module")
def kills(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What 200 kills of commands that write left behind."""
    folder = tmp_path_factory.mktemp("kills")
    script = Path(__file__).parent / "oracles" / "kills.py"
    done = subprocess.run(
        [sys.executable, str(script), str(folder), "20261129"],
        capture_output=True,
        text=True,
        check=False,
        cwd=folder,
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.slow
def test_a_killed_command_leaves_the_old_files_or_the_new_ones(kills: list[dict[str, Any]]) -> None:
    moments = [k for k in kills if "states" in k]
    assert len(moments) >= 200
    for moment in moments:
        assert set(moment["states"].values()) <= {"old", "new"}, moment
        # nothing but a temporary file that its name gives away
        assert moment["other"] == [], moment
        assert moment["left"] <= 1, moment
    # kills fell before, into and behind the writing; and a plain writer is caught
    assert sum(m["left"] for m in moments) >= 40
    ends = [m["states"][m["file"]] for m in moments if m["file"]]
    assert min(ends.count("old"), ends.count("new")) >= 10
    assert kills[-1]["torn"] >= 1
    assert all(k["right"] for k in kills if "done" in k)


@pytest.mark.slow
def test_the_kills_are_of_every_option_that_names_an_output(kills: list[dict[str, Any]]) -> None:
    import click

    from fullmesh.faces.cli.main import COMMANDS, cli
    from fullmesh.faces.cli.options import OutputFile

    def outputs(command: click.Command, name: str) -> set[str]:
        if isinstance(command, click.Group):
            inner = [
                (n, command.get_command(click.Context(command), n))
                for n in command.list_commands(click.Context(command))
            ]
            found = set().union(*(outputs(c, f"{name} {n}") for n, c in inner if c))
        else:
            found = set()
        return found | {
            f"{name} {p.opts[0]}"
            for p in command.params
            if isinstance(p.type, OutputFile) or p.opts[0] == "--out"
        }

    every = set().union(*(outputs(c, n) for n in COMMANDS if (c := cli.get_command(click.Context(cli), n))))
    assert {k["job"] for k in kills if "job" in k} == every | {"save"}


WRITER = """
import sys
from fullmesh.files import write_text
while True:
    for letter in "ab":
        write_text(sys.argv[1], letter * 3_000_000)
        print(letter, flush=True)
"""


def test_a_killed_writer_leaves_the_old_file_or_the_new_one(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    rng = random.Random(7)
    for _ in range(25):
        child = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        assert child.stdout is not None
        child.stdout.readline()
        time.sleep(rng.uniform(0, 0.05))
        child.kill()
        child.communicate()
        text = path.read_text()
        assert len(text) == 3_000_000
        assert len(set(text)) == 1

"""Kills a sweep outright, again and again: ``python tests/oracles/sweep_kills.py --number N --seed S --folder F``.

Everything is imported once. A forked copy of this process sweeps, as slowly as a bad disk and with writes in pieces,
and is killed at a random moment; the next copy goes on. Whenever one comes to its end, the file must be, byte for byte,
that of a sweep that nobody disturbed (for DuckDB: the same rows in the same order), every key must stand once, and it
begins anew. Prints a line of JSON for each kill and each end; 1 where an end is wrong.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
# no search: sizes that an h200 cannot have are answered at once, and the rest is as with any other answer
GRID = {"grid": {"model": "llama-3-8b", "machine": "h200", "chips": [k for k in range(9, 50) if k % 8]}}
FORMATS = {"rows.csv": (), "rows.parquet": ("pyarrow",), "rows.duckdb": ("pyarrow", "duckdb")}
_SLOW_S = 0.01


def sweep(path: Path) -> None:
    """In this process."""
    from fullmesh.study.sweep.run import sweep_grid

    sweep_grid(GRID, path, jobs=1, timing=False, keep_rows=False)


def content(path: Path) -> Any:
    """What must be equal: the bytes, or the rows of a database, whose header is another each time."""
    if path.suffix != ".duckdb":
        return path.read_bytes()
    import duckdb

    with duckdb.connect(str(path), read_only=True) as database:
        return database.execute("SELECT * FROM sweep").fetchall()


def slow_down() -> None:
    """A row takes some time to reach the disk, and half of it is there before."""
    write, sync = os.write, os.fsync

    def pieces(handle: int, data: Any) -> int:
        time.sleep(_SLOW_S / 20)
        return write(handle, data[: 1 + len(data) // 2])

    def late(handle: int) -> None:
        time.sleep(_SLOW_S)
        sync(handle)

    os.write, os.fsync = pieces, late


def child(path: Path) -> int:
    """A slow copy of this process that sweeps; its number."""
    number = os.fork()
    if number == 0:
        code = 1
        try:
            slow_down()
            sweep(path)
            code = 0
        finally:
            os._exit(code)
    return number


def ended(path: Path, whole: Any) -> dict[str, Any]:
    """What stands there after a sweep that came to its end."""
    lines = Path(f"{path}.journal").read_text("utf-8").splitlines()[1:]
    keys = [json.loads(line)[0] for line in lines]
    left = [n for n in os.listdir(path.parent) if n not in (path.name, f"{path.name}.journal")]
    return {
        "end": path.name,
        "same": content(path) == whole,
        "once": len(set(keys)) == len(keys) == len(GRID["grid"]["chips"]),
        "left": len(left),
        "other": [n for n in left if not (n.startswith(".fullmesh-") and n.endswith(".tmp"))],
    }


def is_right(path: Path, whole: Any, status: int) -> bool:
    """Whether a sweep that came to its end left what it should; it is printed."""
    if status:
        say(end=path.name, same=False, status=status)
        return False
    record = ended(path, whole)
    say(**record)
    return bool(record["same"] and record["once"] and not record["other"])


def say(**record: Any) -> None:
    """One line for the test."""
    print(json.dumps(record), flush=True)


def empty(folder: Path) -> None:
    """Remove what lies in it."""
    shutil.rmtree(folder)
    folder.mkdir()


def main() -> int:
    """Kill, go on, compare."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--number", type=int, default=100, help="kills")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--folder", type=Path, help="an empty folder to work in; a temporary one if absent")
    wanted = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        return run(wanted.folder or Path(temporary), wanted.number, random.Random(wanted.seed))


def run(folder: Path, number: int, rng: random.Random) -> int:
    """All kills, format after format."""
    import importlib.util

    # one job is done in this process
    os.environ["OMP_NUM_THREADS"] = "1"
    names = [n for n, needed in FORMATS.items() if all(importlib.util.find_spec(m) for m in needed)]
    wrong = 0
    for name in names:
        (folder / "whole").mkdir(exist_ok=True)
        sweep(folder / "whole" / name)
        whole = content(folder / "whole" / name)
        out = folder / "out" / name
        out.parent.mkdir(exist_ok=True)
        kills, window = 0, 0.0
        while kills < number / len(names):
            if not window:
                empty(out.parent)
                began = time.perf_counter()
                os.waitpid(child(out), 0)
                window = time.perf_counter() - began
                empty(out.parent)
            started = child(out)
            # early, late and in between: what is kept shortens the rest
            time.sleep(rng.uniform(0, window) * rng.choice((0.2, 0.5, 1.0)))
            os.kill(started, signal.SIGKILL)
            _, status = os.waitpid(started, 0)
            if os.WIFSIGNALED(status):
                kills += 1
                journal = Path(f"{out}.journal")
                data = journal.read_bytes() if journal.exists() else b""
                torn = data[-1:] not in (b"", b"\n")
                say(kill=name, rows=data.count(b"\n"), torn=torn, file=out.exists())
                continue
            wrong += not is_right(out, whole, status)
            window = 0.0
        # the last one is let go
        _, status = os.waitpid(child(out), 0)
        wrong += not is_right(out, whole, status)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())

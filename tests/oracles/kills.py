"""Kills commands outright while they write: ``python tests/oracles/kills.py FOLDER SEED`` prints a JSON line a moment.

Everything is imported and compiled once. Every command then runs once in this process; whenever it comes to write a
file, a forked copy of it writes instead, as slowly as a bad disk, and is killed at a random moment, again and again,
before the command itself goes on. Besides, a forked copy of every whole command is killed at a random moment.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

SCENARIO = """[model]
name = "llama-3-8b"
[machine]
name = "h200"
chips = 8
[plan]
tp = 2
pp = 2
gbs = 16
"""
# kills while a file is written, and kills of a whole command
PER_FILE, PER_COMMAND = 11, 1
SLOW_S = 0.02
OLD = b"the old file\n" * 100


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A command with the options that write files, and the files."""

    options: tuple[str, ...]
    files: tuple[str, ...]
    run: Callable[[], object]


def command(*arguments: str) -> Callable[[], object]:
    """A command in this process; its exit code does not matter here."""
    from fullmesh.faces.cli.main import cli

    def run() -> None:
        out = io.StringIO()
        with (
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(out),
            contextlib.suppress(SystemExit),
        ):
            cli.main(list(arguments), prog_name="fullmesh", standalone_mode=False)

    return run


def stand_in_fits() -> None:
    """Fits take minutes, and what is fitted does not matter: the shipped profiles are written once more."""
    import types

    import fullmesh.calibrate.collectives.fit as collectives
    import fullmesh.calibrate.effects.published as published
    import fullmesh.calibrate.operators.fit as operators
    import fullmesh.here.calibration as here
    from fullmesh.calibrate.effects.intervals import IntervalFit
    from fullmesh.cost.effects import load_effects
    from fullmesh.cost.uncertainty import load_uncertainty
    from fullmesh.data import DATA_DIR

    def profile(name: str) -> Any:
        return json.loads((DATA_DIR / "profiles" / name).read_text("utf-8"))

    intervals = profile("intervals.json")
    known = {
        "profile": load_effects(), "uncertainty": load_uncertainty(), "by_fold": (), "configurations": (),
        "memory_intervals": None,
        "intervals": IntervalFit(**{f.name: intervals[f.name] for f in dataclasses.fields(IntervalFit)}),
    }  # fmt: skip
    fit = published.StepFit(**{f.name: known.get(f.name, {}) for f in dataclasses.fields(published.StepFit)})
    published.fit_published = lambda rows, say: fit
    operators.fit_operator_profiles = lambda folder, report: profile("operators.json")
    collectives.fit_collectives = lambda folder: profile("collectives.json")
    here.calibrate_here = lambda device: types.SimpleNamespace(as_json=lambda: profile("step.json"))


def jobs(folder: Path) -> list[Job]:
    """Every command and function that writes a file."""
    import fullmesh
    from fullmesh.data import DATA_DIR

    (folder / "in").mkdir()
    scenario = folder / "in" / "s.toml"
    scenario.write_text(SCENARIO)
    table = (DATA_DIR / "results" / "training_results.csv").read_text("utf-8").splitlines()
    rows = folder / "in" / "rows.csv"
    rows.write_text("\n".join([table[0], *(r for r in table if r.startswith(("NV350,", "NV073,")))]) + "\n")
    runs = folder / "in" / "runs.csv"
    runs.write_text(
        "framework,machine,n_gpus,model,seq,precision,TP,mbs,gbs,recompute,step_s\n"
        "our own,h200,8,llama-3-8b,4096,BF16,1,1,64,none,5.0\n"
    )
    log = folder / "in" / "log.csv"
    log.write_text("node,start,end,cause\n" + "".join(f"n{k},{k}.5,{k}.9,GPU\n" for k in range(12)))
    tables = folder / "in" / "tables"
    tables.mkdir()
    made = fullmesh.simulate(scenario)

    def job(option: str, names: tuple[str, ...], *arguments: str) -> Job:
        out = folder / "out"
        filled = [a.replace("OUT", str(out / names[0])).replace("FOLDER", str(out)) for a in arguments]
        return Job(options=(option,), files=names, run=command(*filled))

    from fullmesh.study.check import row

    measured = row.row_of(made.model, made.machine, made.plan, made.step_s)

    def add_row() -> None:
        # the old file is no table: as if there were none
        before, row.is_file = row.is_file, lambda _: False
        try:
            row.append_row(folder / "out" / "mine.csv", measured)
        finally:
            row.is_file = before

    grid = folder / "in" / "grid.toml"
    grid.write_text('[grid]\nmodel = "llama-3-8b"\nmachine = "h200"\nchips = [9, 10, 11, 12]\n')
    # one job is done in this process; what a sweep appends has kills of its own
    os.environ["OMP_NUM_THREADS"] = "1"
    step = ("step.json", "step_fits.npz", "support.json", "intervals.json")
    return [
        Job(options=("check --row",), files=("mine.csv",), run=add_row),
        job("sweep --out", ("rows.csv",), "sweep", str(grid), "--out", "OUT", "--jobs", "1"),
        job("simulate --trace", ("trace.json",), "simulate", str(scenario), "--trace", "OUT"),
        job("simulate --trace", ("trace.json.gz",), "simulate", str(scenario), "--trace", "OUT"),
        job("fabric --svg", ("a.svg",), "fabric", "h200", "--devices", "16", "--svg", "OUT"),
        job("catalog model --csv", ("ops.csv",), "catalog", "model", "llama-3-8b", "--ops", "--csv", "OUT"),
        job("validate --json", ("v.json",), "validate", "--results", str(rows), "--json", "OUT"),
        job("validate --document", ("page.md", "page.svg"), "validate", "--worst", "0", "--document", "OUT"),
        job("calibrate operators --out", ("operators.json",), "calibrate", "operators", str(tables), "--out", "OUT"),
        job("calibrate collectives --out", ("c.json",), "calibrate", "collectives", str(tables), "--out", "OUT"),
        job("calibrate published --out", step, "calibrate", "published", "--out", "FOLDER"),
        job("calibrate results --out", ("mine.json",), "calibrate", "results", str(runs), "--out", "OUT"),
        job(
            "calibrate faults --out", ("rates.csv",),
            "calibrate", "faults", str(log), "--on", "dgx-h100", "--nodes", "40", "--out", "OUT",
        ),
        job("calibrate here --out", ("here.json",), "calibrate", "here", "--out", "OUT"),
        Job(options=("save",), files=("result.json",), run=lambda: made.save(folder / "out" / "result.json")),
    ]  # fmt: skip


def slow_down(num_bytes: int) -> None:
    """What writes that many bytes takes its time, in six pieces."""
    write, replace = os.write, os.replace

    def pieces(handle: int, data: Any) -> int:
        time.sleep(SLOW_S / 12)
        return write(handle, data[: 1 + num_bytes // 6])

    def late(*names: Any) -> None:
        time.sleep(SLOW_S / 8)
        replace(*names)
        time.sleep(SLOW_S / 8)

    os.write, os.replace, os.fsync = pieces, late, lambda _: time.sleep(SLOW_S / 8)


def killed_after(seconds: float, work: Callable[[], object]) -> None:
    """Run ``work`` in a copy of this process and kill it."""
    child = os.fork()
    if child == 0:
        try:
            work()
        finally:
            os._exit(0)
    time.sleep(seconds)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)


def duration(work: Callable[[], object]) -> float:
    """Seconds that a copy of this process takes for it."""
    began = time.perf_counter()
    child = os.fork()
    if child == 0:
        try:
            work()
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    return time.perf_counter() - began


def found(folder: Path, names: tuple[str, ...], new: dict[str, bytes]) -> dict[str, Any]:
    """What stands in the folder of outputs: each file old, new or torn, and what else lies there."""
    from fullmesh.files import TEMPORARY_PREFIX

    states = {}
    for name in names:
        data = (folder / name).read_bytes() if (folder / name).exists() else b"none"
        states[name] = "old" if data == OLD else "new" if data == new.get(name) else "torn"
    others = [n for n in os.listdir(folder) if n not in names and n.removesuffix(".journal") not in names]
    left = [n for n in others if n.startswith(TEMPORARY_PREFIX) and n.endswith(".tmp")]
    for name in left:
        (folder / name).unlink()
    return {"states": states, "left": len(left), "other": sorted(set(others) - set(left))}


def say(**record: Any) -> None:
    """One line for the test."""
    print(json.dumps(record), flush=True)


def moments(folder: Path, rng: random.Random) -> Iterator[dict[str, Any]]:
    """Run every command, kill its writes and once all of it, and say what was left."""
    from fullmesh import files

    out = folder / "out"
    stand_in_fits()
    whole: Callable[[str, bytes], None] = files._replace
    records: list[dict[str, Any]] = []
    for job in jobs(folder):
        new: dict[str, bytes] = {}
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir()
        for name in job.files:
            (out / name).write_bytes(OLD)
        began = time.perf_counter()
        spent = 0.0

        def again_and_again(target: str, data: bytes, job: Job = job, new: dict[str, bytes] = new) -> None:
            nonlocal spent
            start = time.perf_counter()
            name = os.path.basename(target)
            new[name] = data
            (out / name).write_bytes(OLD)
            # on the machine as it is now
            window = duration(lambda: (slow_down(len(data)), whole(target, data)))
            (out / name).write_bytes(OLD)
            for _ in range(PER_FILE):
                killed_after(
                    rng.uniform(0, 1.3 * window), lambda: (slow_down(len(data)), whole(target, data))
                )
                records.append({"job": job.options[0], "file": name, **found(out, job.files, new)})
                (out / name).write_bytes(OLD)
            spent += time.perf_counter() - start
            whole(target, data)

        files._replace = again_and_again
        job.run()
        files._replace = whole
        took = time.perf_counter() - began - spent
        for name in job.files:
            records.append(
                {"job": job.options[0], "done": name, "right": (out / name).read_bytes() == new[name]}
            )
            (out / name).write_bytes(OLD)
        for _ in range(PER_COMMAND):
            killed_after(rng.uniform(0, took), job.run)
            # what a run writes differs from another in nothing but what it says of the time that it took
            state = found(out, job.files, new)
            records.append({"job": job.options[0], "file": "", **state})
        yield from records
        records.clear()


def torn(folder: Path, rng: random.Random) -> int:
    """How often a writer that is not ours leaves a part of a file: the measure of what this finds at all."""
    target, data, count = folder / "plain.txt", b"new" * 2000, 0

    def plain() -> None:
        slow_down(len(data))
        with target.open("wb", buffering=0) as file:
            rest = memoryview(data)
            while rest:
                rest = rest[os.write(file.fileno(), rest) :]

    window = duration(plain)
    for _ in range(PER_FILE):
        target.write_bytes(OLD)
        killed_after(rng.uniform(0, 1.3 * window), plain)
        count += target.read_bytes() not in (OLD, data)
    return count


def main() -> None:
    """All commands, then the writer that is not ours."""
    folder, rng = Path(sys.argv[1]), random.Random(int(sys.argv[2]))
    for record in moments(folder, rng):
        say(**record)
    say(torn=torn(folder, rng), cpu_s=time.process_time())


if __name__ == "__main__":
    main()

"""The long run: ``python tests/fuzz/run.py --number 2000 --seed 1 --targets kineto options``.

Every target runs in child processes of its own with little memory, as an ordinary user, in a temporary folder. A child
that dies or hangs is a finding, and the run goes on behind the input that did it.
"""

from __future__ import annotations

import argparse
import collections
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

MEMORY_BYTES = 2 << 30
SOURCE = str(Path(__file__).resolve().parents[2] / "src")
_NOBODY = 65534
# an input that hangs in compiled code is ended from outside; on a busy machine ten seconds of the processor take long
_HANG_S = 180.0
_COMPILING_S = 300.0


def child(target: str, seed: int, first: int, number: int, folder: Path) -> None:
    """Run inputs one after the other and write a line for each: what it is before, what came of it after."""
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    from fuzz.targets import attempt, warm

    warm(target, folder)
    for index in range(first, first + number):
        inside = folder / f"{index}"
        inside.mkdir()
        print(json.dumps({"begin": index}), flush=True)
        before = listing(folder)
        outcome, finding = attempt(target, seed, index, inside)
        after = listing(folder)
        if finding is None and before != after:
            outcome, what = "finding", f"files outside the folder of the input: {sorted(after ^ before)}"
        else:
            what = finding.what if finding else ""
        print(json.dumps({"end": index, "outcome": outcome, "what": what}), flush=True)
        if outcome != "finding":
            shutil.rmtree(inside, ignore_errors=True)


def ordinary_user_can_run() -> bool:
    """Whether `nobody` can run this Python with this package."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([SOURCE, os.environ.get("PYTHONPATH", "")])}
    try:
        probe = subprocess.run(
            [sys.executable, "-c", "import click, fullmesh.reading"],
            user=_NOBODY,
            group=_NOBODY,
            capture_output=True,
            env=environment,
            cwd="/",
            check=False,
        )
    except PermissionError:
        return False
    return probe.returncode == 0


def listing(folder: Path) -> frozenset[str]:
    """What stands in the working folder."""
    return frozenset(os.listdir(folder))


def run_target(
    target: str, seed: int, first: int, number: int, root: Path
) -> tuple[collections.Counter[str], list[str]]:
    """All inputs of a target, in as many children as it takes."""
    counts: collections.Counter[str] = collections.Counter()
    findings: list[str] = []
    at, end = first, first + number
    while at < end:
        folder = Path(tempfile.mkdtemp(dir=root))
        identity: dict[str, int] = {}
        if os.getuid() == 0:
            os.chown(folder, _NOBODY, _NOBODY)
            identity = {"user": _NOBODY, "group": _NOBODY}
        environment = {
            k: v for k, v in os.environ.items() if k in ("PATH", "LANG", "PYTHONPATH", "LD_LIBRARY_PATH")
        }
        environment |= {
            "HOME": str(folder),
            "NUMBA_CACHE_DIR": str(root / "compiled"),
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        here = Path(__file__).resolve()
        environment["PYTHONPATH"] = os.pathsep.join(
            [str(here.parents[1]), str(here.parents[2] / "src"), environment.get("PYTHONPATH", "")]
        )
        process = subprocess.Popen(
            [sys.executable, str(here), "--child", target, str(seed), str(at), str(min(end - at, 500)), str(folder)],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=folder, env=environment, **identity,
        )  # fmt: skip
        begun = at
        assert process.stdout is not None
        os.set_blocking(process.stdout.fileno(), False)
        # the first inputs wait for what is compiled before them
        text, last = "", time.monotonic() + _COMPILING_S
        while True:
            piece = (process.stdout.read() or b"").decode()
            text += piece
            if piece:
                last = time.monotonic()
            *lines, text = text.split("\n")
            for line in lines:
                record = json.loads(line)
                if "begin" in record:
                    begun = record["begin"]
                    continue
                counts[record["outcome"]] += 1
                at = record["end"] + 1
                if record["what"]:
                    findings.append(f"{target} {record['end']}: {record['what']}")
            if process.poll() is not None and not piece:
                break
            if time.monotonic() - last > _HANG_S:
                process.send_signal(signal.SIGKILL)
            time.sleep(0.02)
        errors = process.stderr.read().decode(errors="replace") if process.stderr else ""
        if process.returncode:
            counts["finding"] += 1
            findings.append(f"{target} {begun}: the process ended with {process.returncode}: {errors[-300:]}")
            at = begun + 1
        shutil.rmtree(folder, ignore_errors=True)
    return counts, findings


def main() -> int:
    """Run, print a line for each target and every finding; 1 where there is one."""
    if sys.argv[1:2] == ["--child"]:
        target, seed, first, number, folder = sys.argv[2:]
        child(target, int(seed), int(first), int(number), Path(folder))
        return 0
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "src"))
    from fuzz.targets import SHARES, TARGETS

    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--number", type=int, default=2000, help="inputs of each target")
    parser.add_argument("--first", type=int, default=0, help="number of the first input, to repeat one")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--targets", nargs="*", choices=list(TARGETS), default=list(TARGETS))
    wanted = parser.parse_args()
    root = Path(tempfile.mkdtemp(prefix="fullmesh-fuzz-"))
    root.chmod(0o711)
    compiled = root / "compiled"
    compiled.mkdir()
    if os.getuid() == 0:
        os.chown(compiled, _NOBODY, _NOBODY)
        if not ordinary_user_can_run():
            print(
                "refused: this is root, and an ordinary user cannot run this Python or read this folder",
                file=sys.stderr,
            )
            return 2
    total = 0
    try:
        for target in wanted.targets:
            began = time.monotonic()
            number = max(1, round(wanted.number * SHARES.get(target, 1.0)))
            counts, findings = run_target(target, wanted.seed, wanted.first, number, root)
            took = time.monotonic() - began
            print(
                f"{target:18} {sum(counts.values()):6} inputs: {counts['answer']:6} answers, "
                f"{counts['refused']:6} refused, {len(findings):4} findings, {took:.0f} s",
                flush=True,
            )
            for line in findings:
                print("  " + line, flush=True)
            total += len(findings)
    finally:
        shutil.rmtree(root, ignore_errors=True)
    return 1 if total else 0


if __name__ == "__main__":
    sys.exit(main())

"""How a command ends: exit codes, hints, interrupts, streams that are closed, outputs that are refused first."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from conftest import CommandLine

START = [sys.executable, "-c", "from fullmesh.faces.cli.entry import main; main()"]
PLAN = ("plan", "llama-3-8b", "--on", "h200", "--chips", "8", "--batch", "8", "--top", "1")
SCENARIO = """[model]
name = "llama-3-8b"
[machine]
name = "h200"
chips = 8
[plan]
gbs = 16
"""


@pytest.fixture
def scenario(tmp_path: Path) -> Path:
    path = tmp_path / "scenario.toml"
    path.write_text(SCENARIO)
    return path


@pytest.mark.parametrize(
    "arguments",
    [
        ("plan",),
        ("plan", "llama-3-8b"),
        ("plan", "llama-3-8b", "--on"),
        ("plan", "llama-3-8b", "--on", "h200", "--foo"),
        ("plan", "llama-3-8b", "--on", "h200", "--chips", "many"),
        ("plan", "llama-3-8b", "--on", "h200", "--chips", "9" * 5000),
        ("plan", "llama-3-8b", "--on", "h200", "--chips", "²"),
        ("plan", "llama-3-8b", "--on", "h200", "--objective", "fame"),
        ("plan", "llama-3-8b", "--on", "h200", "--precision", "fp4"),
        ("plan", "llama-3-8b", "--on", "h200", "--seq", "0"),
        ("plan", "llama-3-8b", "--on", "h200", "--json", "--csv"),
        ("plan", "n" * 300, "--on", "h200"),
        ("plan", "llama-3-8b", "--on", "n" * 300),
        ("plan", "llama-3-8b", "--on", ("n" * 300) + ".toml"),
        ("compare", "llama-3-8b", "--chips", "8,²"),
        ("compare", "llama-3-8b", "--chips", "9" * 5000),
        ("compare", "llama-3-8b", "--tokens", "1e999"),
        ("compare", "llama-3-8b", "--tokens", "9" * 5000),
        ("fabric", "h200", "--fail", "links=1.2.3%"),
        ("fabric", "h200", "--fail", "link=²"),
        ("fabric", "h200", "--fail", "link@99999999999999999999"),
        ("fabric", "h200", "--placements", "tp=²"),
        ("fabric", "h200", "--placements", "tp=" + "9" * 5000),
        ("fabric", "h200", "--experts", "imbalance=nan"),
        ("fabric", "h200", "--experts", "imbalance=1e999"),
        ("fabric", "h200", "--experts", "ranks=²"),
        ("fabric", "h200", "--jobs", "0-²"),
        ("fabric", "h200", "--collectives", "--groups", "²"),
        ("fabric", "h200", "--scale", "nan"),
        ("fabric", "h200", "--bytes", "1e999 GB"),
        ("nothing",),
        ("validate", "--worst", "-1"),
        ("calibrate", "operators"),
    ],
)
def test_every_refusal_is_one_message_with_a_hint(
    command_line: CommandLine, arguments: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = command_line(*arguments)
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert err.count("hint: ") == 1
    assert "Traceback" not in err
    assert len(err) < 1500
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    "arguments",
    [
        (*PLAN, "--export", "megatron", "--to", "FOLDER"),
        (*PLAN, "--export", "megatron", "--to", "FOLDER/none/launch"),
        (*PLAN, "--export", "megatron.json", "--to", "FOLDER/launch"),
        ("check", "SCENARIO", "--row", "FOLDER/none/mine.csv"),
        ("check", "SCENARIO", "--row", "FOLDER/mine.json"),
        ("simulate", "SCENARIO", "--trace", "FOLDER/trace.txt"),
        ("simulate", "SCENARIO", "--trace", "FOLDER/file/trace.json"),
        ("simulate", "SCENARIO", "--profile", "FOLDER/p.json", "--trace", "FOLDER/p.json"),
        ("fabric", "h200", "--svg", "FOLDER/a.png"),
        ("validate", "--json", "FOLDER"),
        ("validate", "--document", "FOLDER/page.svg"),
        ("calibrate", "published", "--out", "FOLDER/file"),
        ("calibrate", "here", "--out", "FOLDER/none/here.json"),
    ],
)
def test_outputs_are_refused_before_the_work(
    command_line: CommandLine, arguments: tuple[str, ...], scenario: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = scenario.parent
    (folder / "file").write_text("kept")
    (folder / "p.json").write_text("[]")
    before = {p.name: p.read_bytes() for p in folder.iterdir()}

    def work(*_: object, **__: object) -> None:
        raise AssertionError("the work has begun")

    for name in (
        "study.api.best_plans",
        "study.api.check",
        "study.api.replay",
        "network.wiring.build.load_topology",
    ):
        monkeypatch.setattr(f"fullmesh.{name}", work)
    monkeypatch.setattr("fullmesh.validate.score.score", work)
    monkeypatch.setattr("fullmesh.calibrate.effects.published.fit_published", work)
    given = [a.replace("FOLDER", str(folder)).replace("SCENARIO", str(scenario)) for a in arguments]
    code, out, err = command_line(*given)
    assert (code, out) == (2, ""), err
    assert err.count("error: ") == err.count("hint: ") == 1
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == before


def test_no_plan_fits(command_line: CommandLine, scenario: Path) -> None:
    arguments = ("llama-3.1-405b", "--on", "h200", "--chips", "8", "--batch", "8")
    export = scenario.parent / "launch"
    code, out, err = command_line("plan", *arguments, "--json", "--export", "megatron", "--to", str(export))
    assert code == 3, err
    assert json.loads(out)["search"]["fit"] == 0
    assert not export.exists()
    code, out, err = command_line("compare", *arguments, "--json")
    assert code == 3, err
    assert json.loads(out)["machines"][0]["feasible"] is False
    # beside a machine on which one fits, it is an answer
    code, _, err = command_line(
        "compare", "llama-3-8b", "--on", "h200,dgx-a100", "--chips", "8", "--batch", "8"
    )
    assert code == 0, err


def test_the_same_input_gives_the_same_bytes(command_line: CommandLine, scenario: Path) -> None:
    for arguments in (
        ("simulate", str(scenario), "--json"),
        ("fabric", "h200", "--devices", "16", "--json"),
        (*PLAN, "--json"),
        ("compare", "llama-3-8b", "--on", "h200", "--chips", "8", "--batch", "8", "--json"),
        ("catalog", "--json"),
    ):
        plain = () if arguments[0] == "catalog" else ("--no-timing",)
        first, second = (command_line(*arguments, *plain) for _ in range(2))
        assert first == second
        assert first[0] == 0
        timed = json.loads(command_line(*arguments)[1])
        timing = timed.pop("timing", {})
        if arguments[0] == "plan":
            # what a search took stands beside what it looked at
            took = {key: timed["search"].pop(key) for key in ("cpu_s", "plans_per_cpu_s", "peak_bytes")}
            assert all(isinstance(v, float) and v > 0 for v in took.values())
        assert timed == json.loads(first[1])
        assert all(isinstance(v, float) for v in timing.values())
        assert bool(timing) is (arguments[0] in ("simulate", "fabric"))


def test_closed_streams(scenario: Path) -> None:
    for closed in ((1,), (2,), (0, 1, 2)):

        def close(numbers: tuple[int, ...] = closed) -> None:
            for number in numbers:
                os.close(number)

        trace = scenario.parent / "trace.json"
        trace.unlink(missing_ok=True)
        done = subprocess.run(
            [*START, "simulate", str(scenario), "--trace", str(trace)],
            stdin=subprocess.DEVNULL, capture_output=True, preexec_fn=close, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert b"Traceback" not in done.stderr
        assert json.loads(trace.read_text())["traceEvents"]


@pytest.mark.parametrize("how", [(), ("--json",)])
def test_a_reader_that_goes_away(how: tuple[str, ...]) -> None:
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run([*START, "catalog", *how], stdout=write, stderr=subprocess.PIPE, check=False)
    os.close(write)
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.slow
def test_an_interrupt_at_any_moment(scenario: Path) -> None:
    rng = random.Random(20261129)
    for k in range(16):
        child = subprocess.Popen(
            [*START, "simulate", str(scenario)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
        # before our first line it is Python that ends; its start takes about 20 ms on an idle machine
        time.sleep(0.12 + rng.random() * (0.1 if k < 8 else 1.0))
        child.send_signal(signal.SIGINT)
        _, err = child.communicate(timeout=60)
        assert child.returncode in (130, 0), err
        assert "Traceback" not in err
        assert "Exception ignored" not in err


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_end_while_a_kernel_is_compiled(number: int, code: int) -> None:
    # an exception in a callback from C is told of and dropped; here the callback goes on for a minute
    callback = f"import os, time; os.kill(os.getpid(), {int(number)}); time.sleep(60)"
    program = (
        "import ctypes; from fullmesh.faces.cli import main; main._take_signals();"
        f"code = compile({callback!r}, 'site-packages/llvmlite/binding/engine.py', 'exec');"
        "ctypes.CFUNCTYPE(None)(lambda: exec(code))()"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=50, check=False
    )
    assert done.returncode == code
    assert done.stderr == ("interrupted\n" if number == signal.SIGINT else "")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_end_in_a_callback_is_not_lost(number: int, code: int) -> None:
    # Python tells of an exception in the callback of a weak reference, drops it and goes on
    program = f"""
import os, time, weakref
from fullmesh.faces.cli import main
class Held: pass
def command(**_):
    held = Held()
    watch = weakref.ref(held, lambda _: (os.kill(os.getpid(), {int(number)}), time.sleep(60)))
    del held
    time.sleep(60)
main.cli.main = command
main.main()
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=50, check=False
    )
    assert done.returncode == code
    assert done.stderr == ("interrupted\n" if number == signal.SIGINT else "")


def test_a_request_to_end_removes_the_temporary_file(tmp_path: Path) -> None:
    code = f"""
import os, signal, sys
from fullmesh import files
from fullmesh.faces.cli import main
files.os.fsync = lambda handle: os.kill(os.getpid(), signal.SIGTERM)
sys.argv = ["fullmesh", *{PLAN!r}, "--export", "megatron", "--to", {str(tmp_path / "launch")!r}]
main.main()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 143, done.stderr
    assert "Traceback" not in done.stderr
    assert os.listdir(tmp_path) == []

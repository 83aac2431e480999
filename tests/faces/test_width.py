"""Every command fits 80 columns or wraps by design, figures stay whole, NO_COLOR leaves no escape codes."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.cells import cell_len

from fullmesh.faces.cli.sheet import Sheet
from fullmesh.faces.cli.tables import show, table

CommandLine = Callable[..., tuple[int, str, str]]
EXAMPLE = str(Path(__file__).parents[2] / "docs" / "examples" / "deepseek-v3-cloudmatrix384.toml")
COMMANDS = [
    ["compare", "deepseek-v3"],
    ["compare", "deepseek-v3", "--lang", "zh"],
    ["compare", "llama-3-8b", "--on", "cloudmatrix384,gb200,h200,h100,b200,dgx-a100"],
    ["plan", "qwen3-30b-a3b", "--on", "cloudmatrix384", "--chips", "64"],
    ["plan", "llama-3-8b", "--on", "cloudmatrix384", "--objective", "money"],
    ["plan", "llama-3.1-405b", "--on", "h200", "--chips", "8"],
    ["simulate", EXAMPLE, "--level", "bottleneck", "--straggler", "rank=17:1.2"],
    ["catalog"],
    ["catalog", "--item", "h200"],
    ["catalog", "show", "gb200-nvl72"],
    ["catalog", "show", "cloudmatrix384"],
    ["catalog", "model", "deepseek-v3", "--ops"],
    ["fabric", "gb200-nvl72"],
    ["compare", "llama-3-8b", "--on", "h200,cloudmatrix384", "--chips", "64", "--objective", "energy"],
    ["doctor"],
    ["validate", "--worst", "3"],
]


@pytest.mark.parametrize("width", [80, 120])
@pytest.mark.parametrize("args", COMMANDS, ids=lambda a: " ".join(a)[:40])
def test_every_line_fits(
    command_line: CommandLine, monkeypatch: pytest.MonkeyPatch, args: list[str], width: int
) -> None:
    if args[0] == "validate" and width != 80:
        pytest.skip("one width is enough of the slowest command")
    monkeypatch.setenv("COLUMNS", str(width))
    code, out, err = command_line(*args)
    assert code in (0, 3), err
    assert max(cell_len(line) for line in out.splitlines()) <= width
    # figures stay whole: no line holds a broken one
    assert not re.search(r"\d,\s*$|\d\.\s*$", re.sub(r"[^\n]*[a-z] \S*\n", "", out)) or args[0] != "plan"


def test_narrow_tables_say_what_they_leave_out(
    command_line: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    args = ("plan", "qwen3-30b-a3b", "--on", "h200", "--chips", "16", "--top", "3")
    monkeypatch.setenv("COLUMNS", "80")
    _, narrow, _ = command_line(*args)
    monkeypatch.setenv("COLUMNS", "160")
    _, wide, _ = command_line(*args)
    assert "not shown at this width: 80 % interval, HFU" in narrow
    assert "not shown" not in wide
    assert "HFU" in wide


def test_many_machines_continue_below(command_line: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    _, out, _ = command_line("compare", "llama-3-8b", "--on", "cloudmatrix384,gb200,h200,h100,b200,dgx-a100")
    assert sum(line.strip().startswith("step time") for line in out.splitlines()) == 2


def rendered(
    sheet: Sheet, width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> str:
    monkeypatch.setenv("COLUMNS", str(width))
    show(sheet)
    return capsys.readouterr().out


def test_figures_are_never_broken(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sheet = table("Heading", "text", *(f"figure {i}>" for i in range(5)), leading=1)
    sheet.add_row("many words that may well be wrapped at blanks", *("1,234,567.89 unit/s" for _ in range(5)))
    out = rendered(sheet, 60, monkeypatch, capsys)
    assert out.count("1,234,567.89 unit/s") == 5
    assert out.startswith("Heading")


def test_names_with_brackets_are_shown(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sheet = table("", "name")
    sheet.add_row("pip install 'fullmesh[data]' :smile:")
    assert "fullmesh[data]' :smile:" in rendered(sheet, 80, monkeypatch, capsys)


@pytest.mark.skipif(sys.platform == "win32", reason="there are no pseudo-terminals")
@pytest.mark.parametrize("plain", [True, False])
def test_no_colour_leaves_no_codes(plain: bool) -> None:
    import pty

    master, slave = pty.openpty()
    env = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "COLUMNS", "FORCE_COLOR")}
    env |= {"TERM": "xterm-256color", "COLUMNS": "80"} | ({"NO_COLOR": "1"} if plain else {})
    process = subprocess.Popen(
        [sys.executable, "-m", "fullmesh.faces.cli.main", "catalog", "--item", "h200"], stdout=slave, env=env
    )
    os.close(slave)
    text = b""
    while True:
        try:
            block = os.read(master, 65536)
        except OSError:  # the other side has closed
            break
        if not block:
            break
        text += block
    os.close(master)
    assert process.wait() == 0
    assert b"h200" in text
    assert (b"\x1b" in text) is not plain


def test_the_heading_of_the_memory_is_one_word(
    command_line: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    _, out, _ = command_line("plan", "llama-3-8b", "--on", "h200", "--chips", "8", "--batch", "64")
    head = out.partition("Best plans\n")[2].partition("──")[0]
    assert len(head.strip("\n ").splitlines()) <= 2
    assert " memory " in head
    assert "of DGX H200 cluster with 150.1 GB" in out
    assert "break no rule and are priced" in " ".join(out.split())


def test_names_and_shapes_of_operators_are_not_broken(
    command_line: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    for model in ("deepseek-v3", "qwen3-235b-a22b", "nemotron-h-56b"):
        code, out, err = command_line("catalog", "model", model, "--ops")
        assert code == 0, err
        _, wide, _ = command_line("catalog", "model", model, "--ops", "--json")
        for line in json.loads(wide)["operators"]:
            assert f" {line['name']} " in out or f" {line['name']}\n" in out, line["name"]
        shapes = {line.split()[1] for line in out.splitlines() if line.split()[:1] in (["dgrad"], ["wgrad"])}
        assert all(re.fullmatch(r"\d+(x\d+)*", shape) for shape in shapes)
        assert not re.search(r"\dx\s", out)


def test_labels_of_a_fabric_stay_on_their_line(
    command_line: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    for args in (("gb200-nvl72",), ("cloudmatrix384", "--bytes", "256 MiB", "--fail", "l2=1")):
        _, out, _ = command_line("fabric", *args)
        rows = out.partition("Bandwidth and latency")[0].rpartition("──")[2].splitlines()
        lines = [line for line in rows if line.strip()]
        assert len(lines) >= 8
        assert all(re.search(r"\d[^-]*$| 0 *$", line[26:]) for line in lines), lines


def test_names_of_facts_are_not_broken(command_line: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    for args in (("--item", "cloudmatrix384"), ("show", "h200"), ("show", "vera-rubin-nvl72")):
        code, out, err = command_line("catalog", *args)
        assert code == 0, err
        for name in ("system_matrix_bf16", "num_optical_modules", "hbm_bandwidth", "nvlink_bandwidth"):
            if f",{name}," in command_line("catalog", *args, "--csv")[1]:
                assert f" {name} " in out

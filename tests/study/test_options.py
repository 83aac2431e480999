"""Options are read in one place: Python and the command line refuse the same values with the same message."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import fullmesh
from fullmesh.errors import FullmeshError
from fullmesh.faces.cli.options import LIMITS
from fullmesh.plan.plan import CHOICES, FIELDS
from fullmesh.search.space import LIMITED
from fullmesh.study.options import (
    read_batch,
    read_chips,
    read_limits,
    read_machines,
    read_options,
    read_seq,
    read_tokens,
)

CommandLine = Callable[..., tuple[int, str, str]]


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("seq", 0), ("seq", -4096), ("seq", "8q"), ("seq", "1e9"), ("seq", 10**12), ("seq", "9" * 30), ("seq", "²"),
        ("batch", 0), ("batch", -1), ("batch", "4M"), ("batch", "0 tokens"), ("batch", "nan tokens"),
        ("chips", 0), ("chips", "8,x"), ("chips", "8,16"), ("chips", "1e2"),
        ("precision", "fp4"), ("precision", ""), ("objective", "speed"), ("top", 0),
    ],
)  # fmt: skip
def test_python_and_command_line_refuse_alike(command_line: CommandLine, option: str, value: Any) -> None:
    with pytest.raises(FullmeshError) as caught:
        fullmesh.best_plans("llama-3-8b", "h200", **{option: value})
    error = caught.value
    assert error.where == f"--{option}"
    assert error.expected or error.hint
    code, out, err = command_line("plan", "llama-3-8b", "--on", "h200", f"--{option}={value}")
    assert (code, out) == (2, "")
    assert "Traceback" not in err
    if option != "objective":  # the command line knows its choices before anything runs
        assert f"--{option}: " in err
        assert error.what in err or repr(str(value)) in err


@pytest.mark.parametrize(
    ("option", "value"),
    [("basis", "weight"), ("tokens", "many"), ("tokens", 0), ("tokens", float("nan")), ("tokens", "1e99T")],
)
def test_a_comparison_refuses_too(option: str, value: Any) -> None:
    with pytest.raises(FullmeshError) as caught:
        fullmesh.compare("llama-3-8b", "h200", **{option: value})
    assert caught.value.where == f"--{option}"


@pytest.mark.parametrize("value", [True, 2.5, None, [8192], "8k "])
def test_a_value_of_another_type_is_no_traceback(value: Any) -> None:
    if value is None or value == "8k ":
        assert read_seq(value) in (None, 8192)
        return
    with pytest.raises(FullmeshError):
        read_seq(value)


@pytest.mark.parametrize(
    ("text", "tokens"), [("8k", 8192), ("8K", 8192), ("8Ki", 8192), ("8192", 8192), (8192, 8192), ("1M", 2**20)]
)  # fmt: skip
def test_a_sequence_of_8k(text: int | str, tokens: int) -> None:
    assert read_seq(text) == tokens


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (512, (512, None)), ("512", (512, None)), ("512 sequences", (512, None)), ("4M tokens", (None, 4e6)),
        ("4Mtok", (None, 4e6)), ("4M tok", (None, 4e6)), ("1e6 tokens", (None, 1e6)), (None, (None, None)),
    ],
)  # fmt: skip
def test_a_batch_in_sequences_or_tokens(
    text: int | str | None, found: tuple[int | None, float | None]
) -> None:
    assert read_batch(text) == found


def test_a_batch_in_tokens_divides_on_every_machine() -> None:
    result = fullmesh.compare("llama-3-8b", "gb200-nvl72,h200", batch="4M tokens", seq="8k")
    assert result.seq == 8192
    assert result.gbs % 9 == 0
    assert 0.6 < result.gbs * result.seq / 4e6 < 1.5
    assert "4 M tokens" in result.batch_note


@pytest.mark.parametrize(("text", "tokens"), [("15T", 15e12), ("300B", 300e9), (1e12, 1e12), ("1e12", 1e12)])
def test_tokens_of_a_run(text: float | str, tokens: float) -> None:
    assert read_tokens(text) == tokens


def test_one_number_of_chips_for_all_machines() -> None:
    assert read_chips("64", 3) == [64, 64, 64]
    assert read_chips([768, 72], 2) == [768, 72]
    assert [m.num_devices for m in read_machines("h200, gb200", "16,8")] == [16, 8]


def test_defaults_leave_the_choice_open() -> None:
    options = read_options()
    assert (options.gbs, options.seq, options.batch_tokens) == (None, None, None)


def test_machines_that_leave_devices_unused_show_what_all_would_do(command_line: CommandLine) -> None:
    found = fullmesh.best_plans("llama-3-8b", "cloudmatrix384", objective="money", top=1)
    assert found.best is not None
    assert found.whole is not None
    assert found.best.plan.num_devices < 768 == found.whole.plan.num_devices
    assert found.against_best(found.whole) > 0
    assert found.whole.step_s < found.best.step_s
    _, out, _ = command_line("compare", "llama-3-8b", "--on", "cloudmatrix384", "--objective", "money")
    assert "with all devices" in out
    assert "times as fast" in out
    assert fullmesh.best_plans("llama-3-8b", "cloudmatrix384", top=1).whole is None


# What only a command has: formats and files of its output, and what is laid beside an answer; with the Python of it.
ONLY_COMMANDS = {
    "compare": {"json", "csv", "no-timing", "lang"},
    "plan": {"json", "csv", "no-timing", "lang", "export", "to"},
    "check": {"json", "lang", "row"},
    "simulate": {"json", "no-timing", "lang", "trace", "level", "against"},
}


@pytest.mark.parametrize(
    ("command", "function"),
    [("compare", "compare"), ("plan", "best_plans"), ("simulate", "replay"), ("check", "check")],
)
def test_python_takes_the_options_of_its_command(command: str, function: str) -> None:
    import inspect

    import click

    from fullmesh.faces.cli.main import cli

    found = cli.get_command(click.Context(cli), command)
    assert found is not None
    options = {p.opts[0].removeprefix("--") for p in found.params if isinstance(p, click.Option)}
    assert ONLY_COMMANDS[command] <= options
    taken = set(inspect.signature(getattr(fullmesh, function)).parameters)
    called = {"stragglers": "straggler", "every_rank": "every-rank", "memory_margin": "memory-margin"}
    # an option for each axis on the command line, all of them in one mapping in Python
    axes = {name.replace("_", "-") for name in LIMITS}
    if axes <= options:
        options = options - axes | {"limits"}
    arguments = {p.name for p in found.params if isinstance(p, click.Argument)}
    assert {
        called.get(name, name.replace("_", "-")) for name in taken
    } - arguments == options - ONLY_COMMANDS[command]


def test_simulate_in_python_replays_nothing_and_the_reference_says_so() -> None:
    import inspect

    assert list(inspect.signature(fullmesh.simulate).parameters) == ["scenario", "software", "profile"]
    page = (Path(__file__).parents[2] / "docs" / "reference.md").read_text("utf-8")
    section = page.partition("## Python")[2].partition("## Scenario files")[0]
    for word in ("`stragglers`", "`every_rank`", "`simulate`", "`write_trace`"):
        assert word in section


def test_the_options_of_axes_are_the_axes_of_the_search() -> None:
    assert tuple(LIMITS) == LIMITED
    for name, words in LIMITS.items():
        switch = ("on", "off") if FIELDS[name].kind == "switch" else ()
        assert words == CHOICES.get(name, switch), name


@pytest.mark.parametrize(
    ("name", "given", "ranges"),
    [
        ("tp", 8, ((8, 8),)),
        ("tp", "1,2", ((1, 1), (2, 2))),
        ("pp", "4..16", ((4, 16),)),
        ("pp", "4..", ((4, 1_000_000_000),)),
        ("pp", "..4, 16", ((0, 4), (16, 16))),
        ("zero", (1, 3), ((1, 1), (3, 3))),
        ("recompute", "none,selective", ((0, 0), (1, 1))),
        ("ep_overlap", True, ((1, 1),)),
        ("ep_overlap", "on,off", ((1, 1), (0, 0))),
    ],
)
def test_limits_are_values_several_or_ranges(name: str, given: object, ranges: object) -> None:
    assert read_limits({name: given}).values == {name: ranges}


@pytest.mark.parametrize(
    ("limits", "margin", "where", "expected"),
    [
        ({"tp": "x"}, None, "--tp", "a number, several"),
        ({"tp": 0}, None, "--tp", "from 1"),
        ({"tp": True}, None, "--tp", "a number, several"),
        ({"zero": 4}, None, "--zero", "0, 1, 2 or 3"),
        ({"pp": "8..4"}, None, "--pp", "smaller number first"),
        ({"pp": ".."}, None, "--pp", "a number, several"),
        ({"pp": ()}, None, "--pp", "at least one value"),
        ({"schedule": "1f2b"}, None, "--schedule", "zero-bubble"),
        ({"tp_overlap": "yes"}, None, "--tp-overlap", "off, on"),
        ({"gbs": 8}, None, "limits", "one of tp, cp"),
        ({}, "100%", "--memory-margin", "below 1"),
        ({}, -0.1, "--memory-margin", "below 1"),
        ({}, True, "--memory-margin", "below 1"),
    ],
)
def test_limits_that_cannot_be_are_refused(limits: Any, margin: Any, where: str, expected: str) -> None:
    with pytest.raises(FullmeshError) as error:
        read_limits(limits, margin)
    assert error.value.where == where
    assert expected in error.value.expected


def test_a_search_keeps_to_its_limits_and_says_which_leaves_nothing() -> None:
    limits = {"tp": "2..4", "recompute": ("none", "full"), "zero": 1, "mbs": 1}
    found = fullmesh.best_plans("llama-3-8b", "h200", chips=16, batch=64, limits=limits, memory_margin="20%")
    assert found.ranked
    for e in (*found.ranked, *found.pareto):
        assert e.plan.tp in (2, 4)
        assert e.plan.recompute != "selective"
        assert (e.plan.zero, e.plan.mbs) == (1, 1)
        assert e.memory_bytes <= 0.8 * e.capacity_bytes
    with pytest.raises(FullmeshError) as error:
        fullmesh.best_plans("llama-3-8b", "h200", chips=16, batch=64, limits={"tp": 7, "mbs": 1})
    assert error.value.where == "--tp"
    assert "1, 2, 4, 8" in error.value.hint


def test_a_value_that_the_search_would_not_try_is_tried_when_asked_for() -> None:
    found = fullmesh.best_plans(
        "llama-3-8b", "h200", chips=16, batch=64, limits={"schedule": "gpipe", "pp": 4, "mbs": 1}
    )
    assert {e.plan.schedule for e in found.ranked} == {"gpipe"}

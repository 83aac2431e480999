"""One reader for each kind of value: type, range, finiteness, length; and messages that repeat little."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest

from fullmesh import values
from fullmesh.errors import ECHO, FullmeshError, ScenarioError, TopologyError, did_you_mean, shown
from fullmesh.units import parse_quantity

LONG = "9" * 5000


@pytest.mark.parametrize(
    "value", ["²", "٣", "1.5", "", " ", "1_000", "0x10", LONG, "1e3", 1.5, True, None, [], "-"]
)
def test_no_whole_number(value: object) -> None:
    with pytest.raises(ScenarioError, match="is not a whole number"):
        values.whole(value, where="--chips")


def test_whole_numbers_and_their_range() -> None:
    assert values.whole(" 12 ") == 12
    assert values.whole(-3, least=-5) == -3
    with pytest.raises(ScenarioError, match="-1 is negative"):
        values.whole(-1)
    with pytest.raises(TopologyError, match="from 1 to 10"):
        values.whole(11, least=1, most=10, error=TopologyError)
    with pytest.raises(ScenarioError, match="out of range"):
        values.whole(10**5000)


@pytest.mark.parametrize(
    "value",
    [
        "nan", "inf", "-Infinity", "1e999", "1e99999", "٣", "1.2.3", "1,5", "", "0x1p3", LONG, math.inf, math.nan, True,
        {}, 10**400,
    ],
)  # fmt: skip
def test_no_finite_number(value: object) -> None:
    with pytest.raises(ScenarioError, match=r"is not a number|is not finite"):
        values.number(value)


def test_numbers_and_their_range() -> None:
    assert values.number(" 1.5e-3 ") == 1.5e-3
    assert values.number(2) == 2.0
    with pytest.raises(ScenarioError, match="a positive, finite number"):
        values.number(0, above=0.0)
    with pytest.raises(ScenarioError, match="out of range"):
        values.share(1.5)
    assert values.share(0, zero=True) == 0.0


def test_quantities() -> None:
    assert parse_quantity("1,000 MiB", "bytes") == 1000 * 2**20


@pytest.mark.parametrize(
    "read",
    [
        lambda: values.text(5),
        lambda: values.text(" "),
        lambda: values.text("a" * 5000),
        lambda: values.text("a\x00b"),
        lambda: values.flag(1),
        lambda: values.items("x"),
        lambda: values.items([0] * 11, most=10),
    ],
)
def test_texts_flags_and_lists(read: Callable[[], Any]) -> None:
    with pytest.raises(ScenarioError) as caught:
        read()
    assert "hint:" in str(caught.value)


@pytest.mark.parametrize(
    "make",
    [
        lambda: "x" * 9999,
        lambda: 10**9999,
        lambda: list(range(9999)),
        lambda: {"a" * 9999: 1},
        lambda: "'" * 999,
        lambda: "\\" * 999,
    ],
)
def test_a_message_repeats_at_most_200_characters(make: Callable[[], object]) -> None:
    value = make()
    assert len(shown(value)) <= ECHO
    for made in (
        FullmeshError(f"cannot read {shown(value)}"),
        FullmeshError(f"cannot read {str(value)[:9000]!r}")
        if not isinstance(value, int)
        else FullmeshError("x"),
        FullmeshError("what", where="w" * 9999, hint=did_you_mean("h" * 9999, ["a", "b"])),
    ):
        assert len(made.render()) < 900
        assert all(len(word) <= ECHO + 60 for word in made.render().split())


def test_a_deep_value_is_described() -> None:
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    assert len(shown(deep)) <= ECHO
    while deep:  # taken apart by hand: so deep a list would overflow the stack where it is freed
        deep = deep.pop()


def test_control_characters_are_escaped_in_messages() -> None:
    assert "\x1b" not in FullmeshError("\x1b[31mred").render()
    assert "\\x1b" in FullmeshError("\x1b[31mred").render()

"""Options that several commands share. Nothing heavy is imported here: help must come at once."""

from __future__ import annotations

import click

# The same names as in search, sizing, timeline and recipes, which are only imported when a command runs.
OBJECTIVES = ("time", "energy", "money")
BASES = ("units", "devices", "packages", "power", "money")
LEVELS = ("closed-form", "bottleneck", "max-min")
ENGINES = ("maxplus", "event", "contention", "fabric")
PRECISIONS = ("bf16", "fp16", "fp8", "fp8-block", "mxfp8", "nvfp4", "int8")

# Exit code where every plan breaks a limit: an answer, but not the one that was hoped for.
NO_PLAN = 3

lang_option = click.option(
    "--lang", type=click.Choice(["en", "zh"]), default="en", show_default=True, help="Language of the labels."
)
json_option = click.option(
    "--json", "as_json", is_flag=True, help="Write JSON (SI units, named in the keys)."
)


def one_format(as_json: bool, as_csv: bool) -> None:
    """Refuse two output formats at once."""
    if as_json and as_csv:
        raise click.UsageError("--json and --csv exclude each other")


def whole_numbers(text: str, option: str) -> list[int]:
    """``"768,72"`` as numbers of at least 1.

    Raises
    ------
    ScenarioError
        Something else is written there.
    """
    from fullmesh.errors import ScenarioError

    try:
        numbers = [int(part) for part in text.split(",")]
    except ValueError:
        raise ScenarioError(
            f"cannot read {text!r}",
            where=option,
            expected="whole numbers separated by commas",
            hint="for instance 768,72,384",
        ) from None
    for number in numbers:
        if number < 1:
            raise ScenarioError(
                f"{number} is not allowed",
                where=option,
                expected="at least 1",
                hint="for instance 768,72,384",
            )
    return numbers

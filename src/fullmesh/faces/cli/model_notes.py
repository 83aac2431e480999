"""What a reader has to know of a model, beside any result: parts left out, values assumed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from fullmesh.workload import ModelSpec


def say_notes(model: ModelSpec) -> None:
    """One line a note on standard error, where it disturbs no data."""
    for note in model.notes:
        click.echo(f"note: {model.name}: {note}", err=True)

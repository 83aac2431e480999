"""What a reader has to know of a model, beside any result: parts left out, values assumed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fullmesh.faces.cli.options import tell

if TYPE_CHECKING:
    from fullmesh.workload import ModelSpec


def say_notes(model: ModelSpec) -> None:
    """One line a note on standard error, where it disturbs no data."""
    for note in model.notes:
        tell(f"note: {model.name}: {note}")

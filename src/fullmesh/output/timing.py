"""What a record says of the time that the program itself took, kept apart from the answer."""

from __future__ import annotations

from typing import Any

# Fields that report how long something took, wherever they stand in a record.
ELAPSED = ("engine_s", "build_s", "solve_s", "classes_s", "elapsed_s")


def timing_apart(record: dict[str, Any], *, leave_out: bool = False) -> dict[str, Any]:
    """A record with the fields that report elapsed time under ``timing``, or without them."""
    timing: dict[str, float] = {}

    def without(value: Any, path: tuple[str, ...]) -> Any:
        if isinstance(value, list):
            return [without(v, path) for v in value]
        if not isinstance(value, dict):
            return value
        for key in ELAPSED:
            if key in value:
                timing[".".join((*path, key))] = value[key]
        return {k: without(v, (*path, k)) for k, v in value.items() if k not in ELAPSED}

    out: dict[str, Any] = without(record, ())
    return out if leave_out or not timing else out | {"timing": timing}

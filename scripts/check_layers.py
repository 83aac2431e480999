"""Imports point down only: every room may import the rooms below it, never those beside or above."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

# Lowest first; rooms of one level may not import each other unless named in SIDEWAYS.
LEVELS = [
    ["units", "errors", "glossary", "data"],
    ["catalog"],
    ["machine", "workload"],
    ["plan"],
    ["cost"],
    ["fabric", "timeline"],
    ["outcomes"],
    ["search", "validate"],
    ["calibrate"],
    ["study"],
    ["cli", "report", "web"],
]
# Errors are what units raise; fabrics are priced and drawn beside the closed forms.
SIDEWAYS = {("units", "errors")}
ROOT = Path(__file__).resolve().parent.parent / "src" / "fullmesh"


def level_of(room: str) -> int:
    for i, rooms in enumerate(LEVELS):
        if room in rooms:
            return i
    raise SystemExit(f"{room}: no level is given for this room in scripts/check_layers.py")


def imported_rooms(path: Path) -> set[str]:
    rooms = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module] + [
                f"{node.module}.{a.name}" for a in node.names if node.module == "fullmesh"
            ]
        elif isinstance(node, ast.Import):
            names = [a.name for a in node.names]
        for name in names:
            parts = name.split(".")
            if parts[0] == "fullmesh" and len(parts) > 1 and not parts[1].startswith("_"):
                rooms.add(parts[1])
    return rooms


def main() -> int:
    bad = []
    for path in sorted(ROOT.rglob("*.py")):
        relative = path.relative_to(ROOT)
        room = relative.parts[0].removesuffix(".py")
        if room == "__init__":
            continue
        for other in sorted(imported_rooms(path) - {room}):
            upward = level_of(other) > level_of(room)
            beside = level_of(other) == level_of(room) and (room, other) not in SIDEWAYS
            if upward or beside:
                bad.append(f"src/fullmesh/{relative}: {room} may not import {other}")
    for line in bad:
        print(line)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())

"""Imports point down only, and no module imports itself through others.

A room (a package of ``fullmesh``) may import the rooms below it, and no other. There are no exceptions.
"""

from __future__ import annotations

import ast
import graphlib
import sys
from pathlib import Path

# Lowest first. Rooms of one level do not see each other.
LEVELS = [
    ["errors"],
    ["units", "glossary", "data", "files"],
    ["language"],
    ["compiled"],
    ["output"],
    ["values"],
    ["reading"],
    ["catalog"],
    ["machine", "workload"],
    ["plan"],
    ["cost"],
    ["network", "timeline"],
    ["outcomes"],
    ["search", "replays", "evidence"],
    ["calibrate", "here"],
    ["validate"],
    ["study"],
    ["faces"],
]
ROOT = Path(__file__).resolve().parent.parent / "src" / "fullmesh"


def level_of(room: str) -> int:
    """Height of a room; a room without one ends the check."""
    for i, rooms in enumerate(LEVELS):
        if room in rooms:
            return i
    raise SystemExit(f"{room}: no level is given for this room in scripts/check_layers.py")


def module_name(path: Path) -> str:
    """``fullmesh.plan.plan`` for its file; a package for its ``__init__.py``."""
    parts = ["fullmesh", *path.relative_to(ROOT).with_suffix("").parts]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported(tree: ast.AST, modules: set[str], *, at_import_time: bool = False) -> set[str]:
    """Modules of fullmesh that a file imports; with ``at_import_time`` only those outside functions."""
    found = set()
    todo = [tree]
    while todo:
        node = todo.pop()
        if at_import_time and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if at_import_time and isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        names: list[str] = []
        if isinstance(node, ast.ImportFrom) and node.module:
            # `from package import module` imports the module, `from module import name` the module alone
            for alias in node.names:
                child = f"{node.module}.{alias.name}"
                names.append(child if child in modules else node.module)
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        found |= {name for name in names if name.split(".")[0] == "fullmesh"}
        todo.extend(ast.iter_child_nodes(node))
    return found


def room_of(module: str) -> str:
    """The second part of a module's name, empty for the package itself."""
    return ([*module.split("."), ""])[1]


def main() -> int:
    """Print every import that points up or sideways, and a cycle if there is one."""
    files = {module_name(path): path for path in sorted(ROOT.rglob("*.py"))}
    modules = set(files)
    bad = []
    graph: dict[str, set[str]] = {}
    for module, path in files.items():
        tree = ast.parse(path.read_text(encoding="utf-8"))
        graph[module] = imported(tree, modules, at_import_time=True) & modules - {module}
        room = room_of(module)
        if not room:
            continue
        for other in sorted({room_of(m) for m in imported(tree, modules)} - {room, ""}):
            if other.startswith("_"):
                continue
            upward = level_of(other) > level_of(room)
            beside = level_of(other) == level_of(room)
            if upward or beside:
                bad.append(f"{path.relative_to(ROOT.parent.parent)}: {room} may not import {other}")
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        bad.append("cycle of imports: " + " -> ".join(error.args[1]))
    for line in bad:
        print(line)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())

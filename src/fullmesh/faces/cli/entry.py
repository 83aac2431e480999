"""The program's first lines: from here on an interrupt ends it quietly, while the rest is still being imported."""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # in C; `signal` itself takes milliseconds to import
import gc
import os


def _leave(*_: object) -> None:
    try:
        os.write(2, b"interrupted\n")
    finally:
        os._exit(130)


# only the installed command imports this module; nothing has been written yet that would need an end
_signal.signal(_signal.SIGINT, _leave)


def main() -> None:
    """Run the command line."""
    # a command is over before cycles of garbage could add up; looking for them takes a twentieth of a short one
    gc.set_threshold(50_000, 20, 20)
    from fullmesh.faces.cli.main import main as run

    try:
        run()
    finally:
        # the interpreter is about to end; an interrupt now would only print a traceback
        _signal.signal(_signal.SIGINT, _signal.SIG_IGN)

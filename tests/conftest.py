"""What tests share: no terminal settings of the shell, the command line in this process, the report on the results."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from fullmesh.validate.score import Report

# settings of the shell, and those that parallel workers set for themselves
for name in ("COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR", "CLICOLOR_FORCE"):
    os.environ.pop(name, None)

CommandLine = Callable[..., tuple[int, str, str]]


@pytest.fixture
def command_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> CommandLine:
    """Run ``fullmesh ARGS`` and return exit code, standard output and standard error."""
    import fullmesh.compiled
    from fullmesh.faces.cli import main as cli_main

    # that kernels are compiled for the first time is told once a process, and is no part of any answer
    monkeypatch.setattr(fullmesh.compiled, "_said", {"compile"})

    def call(*args: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["fullmesh", *args])
        code = 0
        try:
            cli_main.main()
        except SystemExit as error:
            code = int(error.code or 0)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


@pytest.fixture(scope="session")
def shipped_report() -> Report:
    """The report on the shipped table; it is made once."""
    from fullmesh.validate.score import score

    return score()

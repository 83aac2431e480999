"""Entry point. Every command lives in its own module and is imported only when it is called."""

from __future__ import annotations

import errno
import importlib
import io
import os
import sys

import click

from fullmesh import __version__
from fullmesh.errors import FullmeshError, did_you_mean
from fullmesh.faces.cli.examples import attach

# name -> (module, one-line help); the help stands here so that `--help` imports nothing else.
COMMANDS: dict[str, tuple[str, str]] = {
    "compare": ("fullmesh.faces.cli.compare", "The best plan for a model on each machine, side by side."),
    "plan": ("fullmesh.faces.cli.plan", "The best plans on one machine, and why the rest was rejected."),
    "simulate": ("fullmesh.faces.cli.simulate", "One plan in full: breakdown, memory, timeline."),
    "fabric": (
        "fullmesh.faces.cli.fabric",
        "A machine's fabric as it is wired: bandwidth, collectives, failures.",
    ),
    "validate": (
        "fullmesh.faces.cli.validate",
        "Every published result: theirs, ours, the error, the source.",
    ),
    "calibrate": (
        "fullmesh.faces.cli.calibrate",
        "Fit operator, collective and step profiles to measurements.",
    ),
    "catalog": ("fullmesh.faces.cli.catalog", "Every fact with unit, basis and source."),
    "doctor": ("fullmesh.faces.cli.doctor", "Versions, caches, what is missing and how to install it."),
}


# a disk that is full or broken is no bug of ours
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)


class LazyGroup(click.Group):
    """A group whose commands are imported on first use."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command = importlib.import_module(COMMANDS[cmd_name][0]).command
        assert isinstance(command, click.Command)
        return attach(command, cmd_name)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in COMMANDS:
            raise FullmeshError(
                f"unknown command {args[0]!r}",
                hint=did_you_mean(args[0], list(COMMANDS)),
                where="command line",
            )
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])


@click.group(
    cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}
)
@click.version_option(__version__, prog_name="fullmesh")
def cli() -> None:
    """A virtual supernode: what a model costs to train on CloudMatrix 384, GB200 NVL72 and GPU clusters."""


def main() -> None:
    """Run the command line; a user's mistake ends with one clear message and exit code 2."""
    for stream in (sys.stdout, sys.stderr):
        # a terminal or file that cannot show a letter gets its number, which is JSON's own way too
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        cli.main(prog_name="fullmesh", standalone_mode=False)
    except FullmeshError as error:
        click.echo(error.render(), err=True)
        sys.exit(2)
    except click.ClickException as error:
        error.show()
        sys.exit(2)
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted", err=True)
        sys.exit(130)
    except BrokenPipeError:
        sys.exit(0)
    except OSError as error:
        if error.errno not in _FULL:
            raise
        click.echo(f"error: cannot write the output: {error.strerror}", err=True)
        # what is still in the buffer cannot be written either; without this the interpreter would try, and complain
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        sys.exit(2)


if __name__ == "__main__":
    main()

"""Entry point. Every command lives in its own module and is imported only when it is called."""

from __future__ import annotations

if __name__ == "__main__":  # as the installed command does: before anything else is imported
    from fullmesh.faces.cli import entry

import errno
import importlib
import io
import os
import signal
import sys
import threading
import time
from types import FrameType
from typing import Any

import click

from fullmesh import __version__
from fullmesh.errors import FullmeshError, ScenarioError, did_you_mean
from fullmesh.faces.cli.examples import attach
from fullmesh.faces.cli.helping import Group, speak
from fullmesh.language import chosen, say, say_error, use

# name -> (module, one-line help); the help stands here so that `--help` imports nothing else.
COMMANDS: dict[str, tuple[str, str]] = {
    "compare": ("fullmesh.faces.cli.compare", "The best plan for a model on each machine, side by side."),
    "plan": ("fullmesh.faces.cli.plan", "The best plans on one machine, and why the rest was rejected."),
    "check": (
        "fullmesh.faces.cli.check",
        "Is my speed normal? A launch file, log or trace against its plan.",
    ),
    "sweep": ("fullmesh.faces.cli.sweep", "The best plan for every point of a grid, as rows of one file."),
    "goodput": (
        "fullmesh.faces.cli.goodput",
        "The whole run: days, failures, spares, checkpoints, energy, money.",
    ),
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


# exit codes beside 0, which is an answer; 3, no plan fits, is given by the commands
MISTAKE, INTERRUPTED = 2, 130
# a disk that is full or broken is no bug of ours
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EBADF)
_FULL_HINT = "make room on the disk, or send the output elsewhere"
# interrupts that have come
_signals: list[int] = []


class LazyGroup(Group):
    """A group whose commands are imported on first use."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command = importlib.import_module(COMMANDS[cmd_name][0]).command
        assert isinstance(command, click.Command)
        return attach(speak(command), cmd_name)

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


speak(cli)


def main() -> None:
    """Run the command line; a user's mistake ends with one clear message and exit code 2."""
    _prepare_streams()
    before = _take_signals()
    hook, sys.unraisablehook = sys.unraisablehook, _on_unraisable
    try:
        code = _outcome()
        try:
            sys.stdout.flush()
        except BrokenPipeError:
            _drop(1)
        except OSError as error:
            code = code or _cannot_write(error)
    finally:
        use("en")
        sys.unraisablehook = hook
        for number, handler in before.items():
            signal.signal(number, handler)
    sys.exit(code)


def _take_signals() -> dict[int, Any]:
    """Let an interrupt or a request to end unwind, so that files are finished or removed; what stood there before."""
    if threading.current_thread() is not threading.main_thread():
        return {}
    wanted = {signal.SIGINT: _on_interrupt}
    wanted |= {getattr(signal, n): _on_end for n in ("SIGTERM", "SIGHUP") if hasattr(signal, n)}
    # who starts us with a signal ignored (nohup) means it
    return {
        number: signal.signal(number, handler)
        for number, handler in wanted.items()
        if signal.getsignal(number) not in (signal.SIG_IGN, None)
    }


def _outcome() -> int:
    """Run the command and turn whatever ends it into an exit code, with its message."""
    try:
        use(chosen(sys.argv[1:]))
        returned = cli.main(prog_name="fullmesh", standalone_mode=False)
        return returned if isinstance(returned, int) else 0
    except FullmeshError as error:
        _tell(say_error(error))
        return MISTAKE
    except click.ClickException as error:
        # a group without a command shows its help
        bare = type(error).__name__ == "NoArgsIsHelpError"
        _tell(error.format_message() if bare else say_error(_of_click(error)))
        return MISTAKE
    except (click.Abort, KeyboardInterrupt):
        return _interrupted()
    except BrokenPipeError:  # whoever read the output has gone: nothing more to say, and nothing wrong
        _drop(1)
        return 0
    except SystemExit as error:
        # Rich and Click turn a broken pipe into an exit of their own, and Click replaces the stream
        replaced = type(sys.stdout).__name__.endswith("PacifyFlushWrapper")
        if replaced or isinstance(error.__context__, BrokenPipeError):
            _drop(1)
            return 0
        return error.code if isinstance(error.code, int) else int(error.code is not None)
    except OSError as error:
        if error.errno not in _FULL:
            raise
        return _cannot_write(error)
    except MemoryError:
        _tell(say("error: out of memory\n\nhint: ask for fewer devices, micro-batches or events"))
        return MISTAKE
    except BaseException:
        if _signals:  # an interrupt in the middle of an import may come out as any error
            return _interrupted()
        raise


def _interrupted() -> int:
    # a second interrupt would only disturb the end
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    _tell(say("interrupted"))
    return INTERRUPTED


def _cannot_write(error: OSError) -> int:
    _tell(say(f"error: cannot write the output: {error.strerror}\n\nhint: {_FULL_HINT}"))
    # what is still in the buffer cannot be written either; without this the interpreter would try, and complain
    _drop(1)
    return MISTAKE


def _on_interrupt(_: int, frame: FrameType | None) -> None:
    _signals.append(signal.SIGINT)
    if _compiles(frame):
        try:
            os.write(2, b"interrupted\n")
        finally:
            os._exit(INTERRUPTED)
    raise KeyboardInterrupt


def _on_end(number: int, frame: FrameType | None) -> None:
    if _compiles(frame):
        os._exit(128 + number)
    raise SystemExit(128 + number)


def _on_unraisable(told: Any) -> None:
    """An interrupt that fell into a callback (of a weak reference, a finaliser) is dropped by Python: ask once more."""
    if not issubclass(told.exc_type, (KeyboardInterrupt, SystemExit)):
        sys.__unraisablehook__(told)
        return
    number = signal.SIGINT if told.exc_type is KeyboardInterrupt else signal.SIGTERM
    told_of = threading.Event()

    def ask_again() -> None:
        # what is raised in here would be dropped for good: not before the callback has been left
        told_of.wait()
        time.sleep(0.05)
        os.kill(os.getpid(), number)

    threading.Thread(target=ask_again, daemon=True).start()
    told_of.set()


def _compiles(frame: FrameType | None) -> bool:
    """Whether a kernel is being compiled. An exception would end in a callback of the compiler, which tells of it and
    goes on, or crashes; no file of ours is open at such a moment, so the process may end at once."""
    while frame is not None:
        if "llvmlite" in frame.f_code.co_filename:
            return True
        frame = frame.f_back
    return False


def _of_click(error: click.ClickException) -> FullmeshError:
    """What Click says of a mistake, in the form of our own messages."""
    context = getattr(error, "ctx", None)
    command = context.command_path if context else "fullmesh"
    message = error.format_message().strip().rstrip(".")
    hint = f"`{command} --help` lists the options and what they take"
    return ScenarioError(message[:1].lower() + message[1:], where=command, hint=hint)


def _prepare_streams() -> None:
    """Make standard output and error usable, whatever they are: closed, or without the letters that we print."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:  # a closed number would go to the next file that is opened, and our output into it
            os.open(os.devnull, os.O_RDWR)
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115  # stays open to the end
        elif isinstance(stream, io.TextIOWrapper):
            # a terminal or file that cannot show a letter gets its number, which is JSON's own way too
            stream.reconfigure(errors="backslashreplace")


def _tell(text: str) -> None:
    """A message to standard error, or to nobody where that is closed."""
    try:
        click.echo(text, err=True)
    except OSError:
        _drop(2)


def _drop(number: int) -> None:
    """Send what is still to be written to a standard stream nowhere."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, number)
    os.close(nowhere)


if __name__ == "__main__":
    entry.main()

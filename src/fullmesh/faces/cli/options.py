"""Options that several commands share. Nothing heavy is imported here: help must come at once."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from fullmesh.faces.cli.helping import lang_option
from fullmesh.language import say

if TYPE_CHECKING:
    _TextType = click.ParamType[str]
    _PathType = click.ParamType[Path]
else:  # older releases of Click have no parameter there
    _TextType = _PathType = click.ParamType

Found = TypeVar("Found")

# The same names as in search, sizing, timeline and recipes, which are only imported when a command runs.
OBJECTIVES = ("time", "energy", "money")
BASES = ("units", "devices", "packages", "power", "money")
POLICIES = ("restart", "memory", "hot-spares", "shrink", "process", "in-step")
LEVELS = ("closed-form", "bottleneck", "max-min")
ENGINES = ("maxplus", "event", "contention", "fabric")
PRECISIONS = ("bf16", "fp16", "fp8", "fp8-block", "mxfp8", "nvfp4", "int8")

FRAMEWORKS = ("megatron", "megatron-bridge", "mindspeed", "mindformers", "torchtitan", "deepspeed")
# Axes of the search that may be limited, with the names of what they may be; a test holds them against the fields of a
# plan.
_ON_OFF = ("on", "off")
LIMITS: dict[str, tuple[str, ...]] = {
    "tp": (),
    "cp": (),
    "pp": (),
    "vpp": (),
    "ep": (),
    "etp": (),
    "dp": (),
    "zero": (),
    "shard": (),
    "mbs": (),
    "recompute": ("none", "selective", "full"),
    "schedule": ("1f1b", "gpipe", "zero-bubble", "dualpipe"),
    "cp_kind": ("ring", "ulysses"),
    "tp_overlap": _ON_OFF,
    "grad_overlap": _ON_OFF,
    "param_overlap": _ON_OFF,
    "p2p_overlap": _ON_OFF,
    "ep_overlap": _ON_OFF,
    "dispatcher": ("alltoall", "deepep", "hybridep", "allgather"),
}

_LIMITED = {
    "tp": "Only these tensor-parallel degrees: 8, or 1,2, or 4..16.",
    "cp": "Only these context-parallel degrees.",
    "pp": "Only these numbers of pipeline stages.",
    "vpp": "Only these numbers of model chunks on a stage.",
    "ep": "Only these expert-parallel degrees.",
    "etp": "Only these expert-tensor-parallel degrees.",
    "dp": "Only these data-parallel degrees.",
    "zero": "Only these ZeRO stages, 0 to 3.",
    "shard": "Only these numbers of devices that ZeRO shards over; 0: all.",
    "mbs": "Only these micro-batches, in sequences.",
    "recompute": "Only these ways to recompute.",
    "schedule": "Only these pipeline schedules.",
    "cp_kind": "Only these ways to exchange a split context.",
    "tp_overlap": "Tensor-parallel traffic hides, or does not.",
    "grad_overlap": "The reduction of gradients hides, or does not.",
    "param_overlap": "The gathering of parameters hides, or does not.",
    "p2p_overlap": "Pipeline sends hide, or do not.",
    "ep_overlap": "The exchange of experts hides, or does not.",
    "dispatcher": "Only these ways for tokens to reach their experts.",
}

# Exit code where every plan breaks a limit: an answer, but not the one that was hoped for.
NO_PLAN = 3

__all__ = ["lang_option"]

json_option = click.option(
    "--json", "as_json", is_flag=True, help="Write JSON (SI units, named in the keys)."
)

timing_option = click.option(
    "--no-timing",
    is_flag=True,
    help="Leave out how long this took; the same input then gives the same bytes.",
)


batch_option = click.option(
    "--batch",
    metavar="SEQUENCES|TOKENS",
    help='Global batch in sequences (512), or in tokens that it shall be near ("4M tokens"); chosen if absent.',
)
seq_option = click.option(
    "--seq", metavar="TOKENS", help="Sequence length in tokens (8192 or 8k); 4096 or 8192 by model if absent."
)
objective_option = click.option(
    "--objective",
    type=click.Choice(OBJECTIVES),
    default="time",
    show_default=True,
    help="What the best plan saves; for energy and money a plan may leave devices unused.",
)
software_option = click.option(
    "--software",
    metavar="NAME|FILE",
    help="What the plans are for, instead of each machine's own: a name of the catalog, a stack of the published "
    "results (nemo-26.04), unknown, or a capability file.",
)
profile_option = click.option(
    "--profile", metavar="FILE", help="A personal profile from `fullmesh calibrate results`."
)
offload_option = click.option("--offload", is_flag=True, help="Consider optimizer states in host memory.")


def limit_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """An option for each axis of the search: a value, several, or a range."""
    for name, words in reversed(LIMITS.items()):
        command = click.option(
            f"--{name.replace('_', '-')}",
            name,
            metavar="|".join(words) if words else "NUMBERS",
            help=_LIMITED[name],
        )(command)
    return command


def tell(text: str) -> None:
    """A line of talk on standard error, in the language that is asked for."""
    click.echo(say(text), err=True)


def searched(search: Callable[[], Found], *, timing: bool) -> tuple[Found, str]:
    """What a search found, and in words how long it took, or nothing; on a terminal it is said that it runs."""
    from fullmesh.units import duration

    if sys.stderr.isatty():
        tell("searching ...")
    start = time.perf_counter()
    found = search()
    return found, f" in {duration(time.perf_counter() - start)}" if timing else ""


def one_format(as_json: bool, as_csv: bool) -> None:
    """Refuse two output formats at once."""
    if as_json and as_csv:
        raise click.UsageError("--json and --csv exclude each other")


class _File(_TextType):
    """A file or folder that a command reads or writes; a command never writes over what it reads."""

    name = "path"

    def remember(self, role: str, path: str, ctx: click.Context | None) -> None:
        """Note the path for this run, after a look at those of the other role."""
        from fullmesh.files import check_writable

        if ctx is None:
            return
        ctx.meta.setdefault(role, []).append(path)
        for output in ctx.meta.get("written", ()):
            check_writable(output, inputs=ctx.meta.get("read", ()))


class InputFile(_File):
    """A path, or a name that may be one, of something that is read."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        self.remember("read", str(value), ctx)
        return str(value)


class OutputFolder(_PathType):
    """A new folder that is written in the end: refused at once where that could not succeed."""

    name = "folder"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        from fullmesh.files import check_folder

        check_folder(str(value), where=param.opts[0] if param else "")
        return Path(str(value))


class OutputFile(_PathType):
    """A file that is written in the end: refused at once where that could not succeed.

    Parameters
    ----------
    *endings : str
        What its name must end in.
    stdout : bool
        ``-`` means standard output.
    """

    name = "file"

    def __init__(self, *endings: str, stdout: bool = False) -> None:
        self.endings = endings
        self.stdout = stdout

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        from fullmesh.files import check_writable

        text = str(value)
        if not (self.stdout and text == "-"):
            where = param.opts[0] if param else ""
            check_writable(text, where=where, endings=self.endings)
            _File().remember("written", text, ctx)
        return Path(text)

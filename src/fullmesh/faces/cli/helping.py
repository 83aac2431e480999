"""Help in the language that is asked for, and the option that asks for it."""

from __future__ import annotations

from typing import Any

import click

from fullmesh.glossary import LANGUAGES
from fullmesh.language import current, use


class Context(click.Context):
    """What a command knows while it runs."""

    def make_formatter(self) -> click.HelpFormatter:
        if current() == "en":
            return super().make_formatter()
        from fullmesh.faces.cli.chinese_help import ChineseFormatter

        return ChineseFormatter(width=self.terminal_width, max_width=self.max_content_width)


class Group(click.Group):
    """A group that tells of its commands in the language that is asked for."""

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        if current() == "en":
            super().format_commands(ctx, formatter)
            return
        with formatter.section("Commands"):
            formatter.write_dl([(name, _first(self.commands[name])) for name in self.list_commands(ctx)])


def _first(command: click.Command) -> str:
    return " ".join((command.help or "").strip().split("\n\n")[0].split())


def _use(ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:
    for lang in LANGUAGES:
        if value == lang:
            use(lang)
    return value


def lang_parameter(*, exposed: bool) -> click.Option:
    """``--lang`` as a parameter; with ``exposed`` the command is given its value."""
    return click.Option(
        ["--lang"],
        type=click.Choice(LANGUAGES),
        default=current,
        help="Language of the output; FULLMESH_LANG, or en, if absent.",
        is_eager=True,
        expose_value=exposed,
        callback=_use,
    )


def speak(command: click.Command) -> click.Command:
    """Give a command and those inside it the help of this module, and ``--lang`` where they lack it."""
    command.context_class = Context
    if not any(p.name == "lang" for p in command.params):
        command.params.append(lang_parameter(exposed=False))
    if isinstance(command, click.Group):
        for inner in command.commands.values():
            speak(inner)
    return command


def lang_option(command: Any) -> Any:
    """``--lang`` for a command that takes its value."""
    params: list[click.Parameter] = command.__dict__.setdefault("__click_params__", [])
    params.append(lang_parameter(exposed=True))
    return command

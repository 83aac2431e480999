"""Help in the language that is asked for, and the option that asks for it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import click

from fullmesh.glossary import LANGUAGES
from fullmesh.language import current, render, use, wrapped

# the same columns as Click's own
_FIRST, _GAP = 30, 2


class Formatter(click.HelpFormatter):
    """Click's own help; in Chinese from the same texts, wrapped by cells."""

    def write_usage(self, prog: str, args: str = "", prefix: str | None = None) -> None:
        super().write_usage(prog, args, prefix if current() == "en" else "用法：")

    def write_heading(self, heading: str) -> None:
        if current() == "en":
            super().write_heading(heading)
        else:
            self.write(f"{'':>{self.current_indent}}{render(heading)}：\n")

    def write_text(self, text: str) -> None:
        if current() == "en":
            super().write_text(text)
            return
        for i, paragraph in enumerate(re.split(r"\n\s*\n", text.strip())):
            if i:
                self.write("\n")
            if paragraph.startswith("\b"):
                for line in paragraph.split("\n")[1:]:
                    indent = len(line) - len(line.lstrip())
                    self._lines(line if line.lstrip().startswith("$") else _labelled(line), indent)
            else:
                self._lines(render(" ".join(paragraph.split())), 0)

    def _lines(self, text: str, indent: int) -> None:
        margin = " " * (self.current_indent + indent)
        for line in wrapped(text.strip(), self.width - len(margin)):
            self.write(f"{margin}{line}\n")

    def write_dl(
        self, rows: Iterable[tuple[str, str]], col_max: int = _FIRST, col_spacing: int = _GAP
    ) -> None:
        if current() == "en":
            super().write_dl(rows, col_max, col_spacing)
            return
        first = min(max(len(name) for name, _ in rows), col_max) + col_spacing
        margin = " " * self.current_indent
        for name, text in rows:
            lines = wrapped(_described(text), max(self.width - self.current_indent - first, 10))
            if len(name) > first - col_spacing:
                self.write(f"{margin}{name}\n")
            else:
                self.write(f"{margin}{name:<{first}}{lines.pop(0)}\n")
            for line in lines:
                self.write(f"{margin}{'':{first}}{line}\n")


def _labelled(line: str) -> str:
    return render(line.strip().removesuffix(":")) + "："


def _described(text: str) -> str:
    """What an option does, and its default or range behind it."""
    found = re.fullmatch(r"(.*?)  (\[[^\[\]]*\])", text, re.DOTALL)
    if not found:
        return render(text)
    behind = found[2].replace("default: ", "默认：").replace("required", "必填").replace("; ", "；")
    return f"{render(found[1])} {behind}"


class Context(click.Context):
    """What a command knows while it runs."""

    formatter_class = Formatter


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

"""Help in Chinese: Click's own, from the same texts, wrapped by cells."""

from __future__ import annotations

import re
from collections.abc import Iterable

import click

from fullmesh.language.rendering import render
from fullmesh.language.wrapping import wrapped

# the same columns as Click's own
_FIRST, _GAP = 30, 2


class ChineseFormatter(click.HelpFormatter):
    """What ``--help`` prints, paragraph by paragraph."""

    def write_usage(self, prog: str, args: str = "", prefix: str | None = None) -> None:
        super().write_usage(prog, args, "用法：")

    def write_heading(self, heading: str) -> None:
        self.write(f"{'':>{self.current_indent}}{render(heading)}：\n")

    def write_text(self, text: str) -> None:
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

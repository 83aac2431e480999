"""How commands print: tables and lines in the width of the terminal, JSON, CSV."""

from __future__ import annotations

import csv
import io
import json
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from fullmesh.glossary import Language, label
from fullmesh.language import current
from fullmesh.output.formats import gigabytes, percent, seconds

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from fullmesh.faces.cli.sheet import Sheet

# Where standard output is no terminal and COLUMNS says nothing.
PLAIN_WIDTH = 120
# Nothing is designed for less.
LEAST_WIDTH = 60


def console(plain_width: int = PLAIN_WIDTH) -> Console:
    """Standard output: as wide as the terminal or COLUMNS, no escape codes where NO_COLOR is set."""
    from rich.console import Console

    own = sys.stdout.isatty() or "COLUMNS" in os.environ
    width = max(Console().width, LEAST_WIDTH) if own else plain_width
    plain = bool(os.environ.get("NO_COLOR"))
    return Console(
        highlight=False,
        # a name with brackets is a name
        markup=False,
        emoji=False,
        width=width,
        color_system=None if plain else "auto",
        force_terminal=False if plain else None,
    )


def show(*items: Table | str, plain_width: int = PLAIN_WIDTH) -> None:
    """Print tables and lines; a line that begins with a dash wraps behind it."""
    from rich.table import Table
    from rich.text import Text

    from fullmesh.faces.cli.sheet import print_fitted

    out = console(plain_width)
    chinese = current() != "en"
    for item in items:
        if not isinstance(item, str):
            print_fitted(out, _spoken(item) if chinese else item)
        elif chinese:
            for line in _spoken_lines(item, out.width):
                out.print(Text(line))
        elif item.startswith("- "):
            entry = Table.grid(padding=(0, 1, 0, 0))
            entry.add_column()
            entry.add_column(overflow="fold")  # wide characters are wrapped one too late, and would be cut
            entry.add_row("-", Text(item[2:]))
            out.print(entry)
        else:
            out.print(Text(item))


def _spoken_lines(text: str, width: int) -> list[str]:
    """A text in the language that is asked for, in lines of a width."""
    from fullmesh.language.rendering import render
    from fullmesh.language.wrapping import wrapped

    dash = text.startswith("- ")
    lines = wrapped(render(text.removeprefix("- ")), width - 2 * dash)
    return [("  " if i else "- ") * dash + line for i, line in enumerate(lines)]


def _spoken(sheet: Table) -> Table:
    """A table in the language that is asked for: heading, names of columns and cells."""
    from fullmesh.language.rendering import render, render_cell

    if hasattr(sheet, "heading"):
        sheet.heading = render(sheet.heading)
    quoted = getattr(sheet, "quoted", ())
    for i, column in enumerate(sheet.columns):
        column.header = render(str(column.header))
        if i not in quoted:
            column._cells = [render_cell(str(cell)) for cell in column._cells]
    return sheet


def write_json(data: Mapping[str, Any]) -> None:
    """One JSON object on standard output."""
    click.echo(json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False))


def write_csv(columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
    """Rows on standard output, with a header."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    click.echo(text.getvalue(), nl=False)


def title(key: str, lang: Language) -> str:
    """A label with a capital, at the start of a line."""
    text = label(key, lang)
    return text[:1].upper() + text[1:]


def table(heading: str, *columns: str, leading: int = 0) -> Sheet:
    """An empty table.

    Parameters
    ----------
    columns : str
        A name that ends in ``>`` is a column of figures, to the right; one that ends in ``?`` goes first on a narrow
        terminal; one that ends in ``=`` holds names and quotations, which stay as they are in every language.
    leading : int
        Columns that are repeated where the table continues below; 0 where it may not be split.
    """
    from fullmesh.faces.cli.sheet import Sheet

    out = Sheet(heading, leading=leading)
    for column in columns:
        name = column.removesuffix("=")
        quoted = name != column
        optional, name = name.endswith("?"), name.removesuffix("?")
        out.add(name.removesuffix(">"), right=name.endswith(">"), optional=optional, quoted=quoted)
    return out


OFFLOAD_NOTE = (
    "Optimizer states in host memory cost the copy of gradients and weights over the host link; the arithmetic of the "
    "host is taken to hide behind it."
)

__all__ = [
    "OFFLOAD_NOTE",
    "console",
    "gigabytes",
    "percent",
    "seconds",
    "show",
    "table",
    "title",
    "write_csv",
    "write_json",
]

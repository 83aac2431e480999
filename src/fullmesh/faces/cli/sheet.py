"""Tables that fit the terminal by design: figures are never broken, texts wrap at words, columns give way in order."""

from __future__ import annotations

import copy
from collections.abc import Sequence

from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.table import Column, Table

# A column of text is not made narrower than this where words allow it.
_TEXT_WIDTH = 16


class Sheet(Table):
    """A table that knows what gives way on a narrow terminal.

    Columns to the right (figures) keep their width, columns of text wrap at words. If that is not enough, optional
    columns go, the last first, and a line below names them; after that a sheet that may be split continues below with
    its leading columns repeated.
    """

    def __init__(self, title: str = "", *, leading: int = 0, header: bool = True) -> None:
        super().__init__(
            title=title or None,
            title_justify="left",
            title_style="bold",
            box=box.SIMPLE_HEAD,
            pad_edge=False,
            show_header=header,
        )
        self.leading = leading
        self.optional: list[int] = []

    def add(self, name: str, *, right: bool = False, optional: bool = False) -> None:
        """One more column; ``right`` for figures."""
        if optional:
            self.optional.append(len(self.columns))
        self.add_column(name, justify="right" if right else "left", overflow="fold")

    def fitted(self, width: int) -> list[Table]:
        """The sheet, or the parts of it, in at most ``width`` cells where words and figures allow it."""
        kept = list(range(len(self.columns)))
        dropped: list[int] = []
        for index in reversed(self.optional):
            if self._least(kept) <= width:
                break
            kept.remove(index)
            dropped.append(index)
        whole = self._least(kept) <= width or not self.leading
        parts = [kept] if whole else self._split(kept, width)
        tables = [self._part(part, width, titled=i == 0) for i, part in enumerate(parts)]
        if dropped:
            names = ", ".join(str(self.columns[i].header) for i in sorted(dropped))
            tables[-1].caption = f"not shown at this width: {names}"
            tables[-1].caption_justify = "left"
        return tables

    def _split(self, kept: Sequence[int], width: int) -> list[list[int]]:
        lead, rest = list(kept[: self.leading]), list(kept[self.leading :])
        parts: list[list[int]] = []
        part: list[int] = []
        for index in rest:
            if part and self._least([*lead, *part, index]) > width:
                parts.append([*lead, *part])
                part = []
            part.append(index)
        return [*parts, [*lead, *part]]

    def _part(self, kept: Sequence[int], width: int, *, titled: bool) -> Table:
        out = Sheet(str(self.title or "") if titled else "", header=self.show_header)
        out.rows = list(self.rows)
        widths = self._widths(kept, width)
        for place, index in enumerate(kept):
            column = copy.copy(self.columns[index])
            column._index = place
            column.width = widths[place]
            out.columns.append(column)
        return out

    def _widths(self, kept: Sequence[int], width: int) -> list[int]:
        """Widths of columns: at least what they need, and the room that is left where most lines are saved."""
        wanted = [_natural(self.columns[i]) for i in kept]
        given = [_least(self.columns[i]) for i in kept]
        room = width - _frame(len(kept)) - sum(given)
        while room > 0:
            short = [i for i in range(len(kept)) if given[i] < wanted[i]]
            if not short:
                break
            given[max(short, key=lambda i: wanted[i] / max(given[i], 1))] += 1
            room -= 1
        return given

    def _least(self, kept: Sequence[int]) -> int:
        return _frame(len(kept)) + sum(_least(self.columns[i]) for i in kept)


def print_fitted(console: Console, sheet: Table) -> None:
    """Print a table in the width of the console."""
    for part in sheet.fitted(console.width) if isinstance(sheet, Sheet) else [sheet]:
        console.print(part)


def _frame(num_columns: int) -> int:
    """Cells that margins and gaps take."""
    return 2 + 3 * max(num_columns - 1, 0)


def _texts(column: Column) -> list[str]:
    return [str(column.header), *(str(cell) for cell in column._cells)]


def _natural(column: Column) -> int:
    return max((cell_len(line) for text in _texts(column) for line in text.split("\n")), default=0)


def _least(column: Column) -> int:
    if column.justify == "right":
        # a figure stays whole; its heading may wrap at words
        cells = max((cell_len(str(cell)) for cell in column._cells), default=0)
        return max(cells, *(cell_len(word) for word in str(column.header).split(" ")))
    word = max((cell_len(word) for text in _texts(column) for word in text.split()), default=0)
    # a word longer than that (a path, an address) is folded
    return min(_natural(column), max(min(word, 2 * _TEXT_WIDTH), _TEXT_WIDTH))

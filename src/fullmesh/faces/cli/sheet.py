"""Tables that fit the terminal by design: figures are never broken, texts wrap at words, columns give way in order."""

from __future__ import annotations

import copy
from collections.abc import Sequence

from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from fullmesh.language import say
from fullmesh.language.wrapping import fold, words

# A column of text is not made narrower than this where words allow it.
_TEXT_WIDTH = 16
# Names of lines get this much first.
_NAME_WIDTH = 26
# No text is narrower than this where words are folded because nothing else is left.
_FOLDED_WIDTH = 8


class Sheet(Table):
    """A table that knows what gives way on a narrow terminal.

    Columns to the right (figures) keep their width, columns of text wrap at words. If that is not enough, optional
    columns go, the last first, and a line below names them; after that a sheet that may be split continues below with
    its leading columns repeated.
    """

    def __init__(self, title: str = "", *, leading: int = 0, header: bool = True) -> None:
        super().__init__(box=box.SIMPLE_HEAD, pad_edge=False, show_header=header)
        # a title of rich would wrap in the width of the table, which may be less than that of the terminal
        self.heading = title
        self.leading = leading
        self.optional: list[int] = []
        self.quoted: list[int] = []

    def add(self, name: str, *, right: bool = False, optional: bool = False, quoted: bool = False) -> None:
        """One more column; ``right`` for figures, ``quoted`` for what is the same in every language."""
        if optional:
            self.optional.append(len(self.columns))
        if quoted:
            self.quoted.append(len(self.columns))
        self.add_column(name, justify="right" if right else "left", overflow="fold")

    def fitted(self, width: int) -> list[Table | Text]:
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
        out: list[Table | Text] = [Text(self.heading, style="bold")] if self.heading else []
        out += [self._part(part, width) for part in parts]
        if dropped:
            names = ", ".join(str(self.columns[i].header) for i in sorted(dropped))
            out.append(Text(say(f"not shown at this width: {names}") + "\n"))
        return out

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

    def _part(self, kept: Sequence[int], width: int) -> Table:
        out = Sheet(header=self.show_header)
        out.rows = list(self.rows)
        widths = self._widths(kept, width)
        for place, index in enumerate(kept):
            column = copy.copy(self.columns[index])
            column._index = place
            column.width = widths[place]
            column._cells = [fold(str(cell), widths[place]) for cell in column._cells]
            column.header = fold(str(column.header), widths[place])
            out.columns.append(column)
        return out

    def _widths(self, kept: Sequence[int], width: int) -> list[int]:
        """Widths of columns: at least what they need, and the room that is left where most lines are saved."""
        columns = [self.columns[i] for i in kept]
        wanted = [_natural(c) for c in columns]
        given = [_least(c) for c in columns]
        texts = [i for i, c in enumerate(columns) if c.justify != "right"]
        room = width - _frame(len(kept)) - sum(given)
        while room < 0 and any(given[i] > _FOLDED_WIDTH for i in texts):
            # words are folded, figures never
            given[max(texts, key=lambda i: given[i])] -= 1
            room += 1
        # what names the lines stays on one line where there is room, then texts, then headings of figures
        names = [i for i in texts if i < self.leading]
        wanted = [min(w, _NAME_WIDTH) if i in names else w for i, w in enumerate(wanted)]
        for group in (names, texts, range(len(kept))):
            while room > 0:
                short = [i for i in group if given[i] < wanted[i]]
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
        heading = str(column.header)
        word = max((cell_len(word) for word in words(heading)), default=0)
        # a Chinese heading may break anywhere, but not into single letters
        return max(cells, word, min(_FOLDED_WIDTH, cell_len(heading)) if not heading.isascii() else 0)
    word = max((cell_len(word) for text in _texts(column) for word in words(text)), default=0)
    # a word longer than that (a path, an address) is folded
    return min(_natural(column), max(min(word, 2 * _TEXT_WIDTH), _TEXT_WIDTH))

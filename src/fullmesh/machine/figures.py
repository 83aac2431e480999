"""The figures of one machine file, read one by one and kept with their origin."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from fullmesh.catalog.facts import FactBook
from fullmesh.machine.quantities import Quantity, resolve

if TYPE_CHECKING:
    from fullmesh.machine.source_lines import Location, SourceLines


@dataclasses.dataclass(slots=True, kw_only=True)
class Figures:
    """Reads figures of a machine file and remembers each.

    Parameters
    ----------
    facts : FactBook
    lines : SourceLines
        Of the file, for error messages.
    chip_id : str
        The chip that ``chip:`` refers to; empty for a fabric without one.
    quantities : list of Quantity
        Everything read so far.
    """

    facts: FactBook
    lines: SourceLines
    chip_id: str = ""
    quantities: list[Quantity] = dataclasses.field(default_factory=list)

    def read(
        self,
        text: str,
        dimension: str,
        label: str,
        location: Location,
        source: str = "",
        *,
        zero: bool = False,
    ) -> Quantity:
        """A figure that must be there.

        Parameters
        ----------
        text, dimension : str
            As the file has it, and the dimension that it must have.
        label, location : str, tuple
            What it is, and where it stands.
        source : str
            Source of a figure that is stated literally.
        zero : bool
            Whether nothing is allowed.
        """
        quantity = resolve(
            text,
            dimension,
            label=label,
            facts=self.facts,
            chip_id=self.chip_id,
            source=source,
            where=self.lines.where(location),
            zero=zero,
        )
        self.quantities.append(quantity)
        return quantity

    def read_any(
        self, text: str | None, dimension: str, label: str, location: Location, source: str = ""
    ) -> Quantity | None:
        """A figure that may be left out."""
        return None if text is None else self.read(text, dimension, label, location, source)

    def value(
        self, text: str | None, dimension: str, label: str, location: Location, source: str = ""
    ) -> float | None:
        """A figure that may be left out, in SI units."""
        quantity = self.read_any(text, dimension, label, location, source)
        return None if quantity is None else quantity.si_value

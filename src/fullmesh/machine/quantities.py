"""A figure of a machine together with where it comes from."""

from __future__ import annotations

import dataclasses
import math

from fullmesh.catalog.facts import Fact, FactBook
from fullmesh.errors import CatalogError
from fullmesh.units import parse_quantity


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Quantity:
    """One figure of a chip or machine.

    Parameters
    ----------
    label : str
        What it is, in the words of the machine file (``tier nvlink: bandwidth``).
    si_value, dimension : float, str
    fact : Fact or None
        The fact row that it is read from; None for a figure that a user's file states itself.
    source : str
    """

    label: str
    si_value: float
    dimension: str
    fact: Fact | None
    source: str


def resolve(
    text: str,
    dimension: str,
    *,
    label: str,
    facts: FactBook,
    chip_id: str,
    source: str,
    where: str,
    zero: bool = False,
) -> Quantity:
    """Read a figure of a machine file.

    Parameters
    ----------
    text : str
        ``fact:ITEM/PARAMETER``, ``chip:PARAMETER`` (of the machine's own chip), or a quantity such as ``450 GB/s``.
    dimension : str
        The dimension it must have.
    chip_id : str
        The chip that ``chip:`` refers to.
    source : str
        Source of a figure that is stated literally.
    zero : bool
        Whether 0 is allowed.

    Raises
    ------
    CatalogError
        No such fact, another dimension, not a positive quantity, or a literal figure without source.
    """
    scheme, _, rest = text.partition(":")
    if scheme in ("fact", "chip") and rest:
        item, _, parameter = rest.partition("/") if scheme == "fact" else (chip_id, "/", rest)
        fact = facts.used(item, parameter, where=where)
        if fact.dimension != dimension:
            raise CatalogError(
                f"{fact.key} is a quantity of {fact.dimension}",
                where=where,
                expected=f"a quantity of {dimension}",
            )
        return Quantity(
            label=label, si_value=fact.si_value, dimension=dimension, fact=fact, source=fact.source
        )
    value = parse_quantity(text, dimension, where=where)
    if not math.isfinite(value) or value < 0 or (value == 0 and not zero):
        raise CatalogError(f"{text!r} is not allowed", where=where, expected="a positive quantity")
    if not source:
        raise CatalogError(
            f"{text!r} has no source",
            where=where,
            expected='a fact reference such as "fact:h200/nvlink_bandwidth", or a `source` key beside the quantity',
        )
    return Quantity(label=label, si_value=value, dimension=dimension, fact=None, source=source)

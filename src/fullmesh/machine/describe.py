"""What the catalog shows of a machine, a chip or a fact: plain records, ready to be printed or written as JSON."""

from __future__ import annotations

import dataclasses
from typing import Any

from fullmesh.catalog.facts import Fact, FactBook, load_facts
from fullmesh.catalog.prices import DevicePrice, load_prices, price_per_device_hour
from fullmesh.errors import CatalogError, did_you_mean
from fullmesh.machine.chips import chip_facts, chip_names, list_chips, load_chip, without_facts
from fullmesh.machine.hardware import Chip
from fullmesh.machine.load import MachineRecord, load_machine_record
from fullmesh.machine.names import is_file_name, list_machines, machine_aliases
from fullmesh.machine.quantities import Quantity


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Description:
    """Everything that the catalog knows under one name.

    Parameters
    ----------
    name : str
        As it was asked for.
    record : MachineRecord or None
        The machine of that name.
    chip : Chip or None
        The machine's chip, or the chip of that name.
    facts : tuple of Fact
        The rows of the chip, of the items of that name and of the figures that the machine rests on, alternatives
        and rejected ones included.
    price : DevicePrice or None
        US dollars for one device and hour, and what that rests on.
    """

    name: str
    record: MachineRecord | None
    chip: Chip | None
    facts: tuple[Fact, ...]
    price: DevicePrice | None


def describe(name: str) -> Description:
    """Look a name up among machines (with their aliases and files), chips and the items of fact rows.

    Raises
    ------
    CatalogError
        Nothing has that name.
    """
    facts = load_facts()
    lowered = name.strip().lower()
    record = load_machine_record(name) if is_file_name(name) or lowered in machine_aliases() else None
    named = chip_names().get(lowered)
    chip = record.machine.chip if record else load_chip(named) if named else None
    rows: dict[int, Fact] = {}
    if chip is not None and chip.id in list_chips():
        rows |= {id(f): f for f in chip_facts(chip.id)}
    for item in dict.fromkeys((lowered, record.machine.id if record else lowered)):
        rows |= {id(f): f for f in facts.rows(item)}
    for quantity in record.quantities if record else ():
        if quantity.fact is not None:
            rows |= {id(f): f for f in facts.rows(quantity.fact.item, quantity.fact.parameter)}
    if record is None and not rows:
        if (missing := without_facts(name)) is not None:
            raise missing
        known = [*machine_aliases(), *chip_names(), *facts.items]
        raise CatalogError(
            f"nothing in the catalog is called {name!r}",
            expected="a machine, a chip, the item of a fact, or the path of a machine file",
            hint=did_you_mean(name, list(dict.fromkeys(known))),
        )
    price = price_per_device_hour(record.machine, load_prices()) if record else None
    return Description(name=name, record=record, chip=chip, facts=tuple(rows.values()), price=price)


def filter_facts(
    *,
    item: str | None = None,
    parameter: str | None = None,
    kind: str | None = None,
    source: str | None = None,
    conflicts: bool = False,
) -> tuple[Fact, ...]:
    """The fact rows that match every given filter.

    Parameters
    ----------
    item, parameter : str, optional
        Exact names; an unknown one is an error.
    kind : str, optional
    source : str, optional
        Part of the source's name, upper and lower case alike.
    conflicts : bool
        Only parameters on which sources differ.

    Raises
    ------
    CatalogError
        No fact has that item or parameter, or such a source.
    """
    facts = load_facts()
    parameters = tuple(dict.fromkeys(f.parameter for f in facts))
    for wanted, known, what in ((item, facts.items, "item"), (parameter, parameters, "parameter")):
        if wanted is not None and wanted not in known:
            if what == "item" and (missing := without_facts(wanted)) is not None:
                raise missing
            raise CatalogError(f"no fact has the {what} {wanted!r}", hint=did_you_mean(wanted, list(known)))
    found = tuple(
        fact
        for fact in (facts.conflicts() if conflicts else facts)
        if item in (None, fact.item)
        and parameter in (None, fact.parameter)
        and kind in (None, fact.kind)
        and (source is None or source.lower() in fact.source.lower())
    )
    if source is not None and not found:
        raise CatalogError(
            f"no such fact has a source with {source!r} in its name",
            where="--source",
            hint="`fullmesh catalog --facts` lists all facts with their sources",
        )
    return found


def chip_record(chip: Chip) -> dict[str, Any]:
    """A chip as JSON: SI units, named in the keys."""
    return dataclasses.asdict(chip)


def fact_record(fact: Fact) -> dict[str, Any]:
    """A fact row as JSON."""
    return dataclasses.asdict(fact)


def quantity_record(quantity: Quantity, facts: FactBook) -> dict[str, Any]:
    """A figure of a machine as JSON, with the rows that say otherwise."""
    fact = quantity.fact
    return {
        "label": quantity.label,
        "si_value": quantity.si_value,
        "dimension": quantity.dimension,
        "source": quantity.source,
        "fact": None if fact is None else fact_record(fact),
        "alternatives": [] if fact is None else [fact_record(f) for f in facts.alternatives(fact)],
    }


def machine_record(record: MachineRecord) -> dict[str, Any]:
    """A machine as JSON: SI units, named in the keys, each figure with its origin."""
    facts = load_facts()
    return {
        **dataclasses.asdict(record.machine),
        "aliases": list(record.aliases),
        "chip_alternatives": list(record.chip_alternatives),
        "structure_source": record.source,
        "quantities": [quantity_record(q, facts) for q in record.quantities],
    }


def description_record(description: Description) -> dict[str, Any]:
    """What `catalog show` prints, as JSON."""
    price = description.price
    return {
        "name": description.name,
        "machine": None if description.record is None else machine_record(description.record),
        "chip": None if description.chip is None else chip_record(description.chip),
        "facts": [fact_record(f) for f in description.facts],
        "usd_per_device_hour": None if price is None else {"usd": price.usd_per_hour, "basis": price.basis},
    }


def all_chips() -> tuple[Chip, ...]:
    """Every chip of the catalog."""
    return tuple(load_chip(chip_id) for chip_id in list_chips())


def all_machines() -> tuple[MachineRecord, ...]:
    """Every machine of the catalog, in its default size."""
    return tuple(load_machine_record(machine_id) for machine_id in list_machines())

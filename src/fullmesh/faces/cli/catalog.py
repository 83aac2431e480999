"""``fullmesh catalog``: chips, machines and facts, each figure with its source."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from fullmesh.catalog.facts import COLUMNS, Fact
from fullmesh.errors import CatalogError
from fullmesh.faces.cli.catalog_models import model, models
from fullmesh.faces.cli.catalog_runs import faults, inputs
from fullmesh.faces.cli.helping import Group
from fullmesh.faces.cli.options import tell
from fullmesh.faces.cli.tables import show as show_tables
from fullmesh.faces.cli.tables import table
from fullmesh.machine.describe import (
    Description,
    all_chips,
    all_machines,
    chip_record,
    describe,
    description_record,
    fact_record,
    filter_facts,
    machine_record,
)
from fullmesh.units import duration, si_prefix

if TYPE_CHECKING:
    from rich.table import Table

    from fullmesh.machine.hardware import Chip
    from fullmesh.machine.load import MachineRecord
    from fullmesh.machine.quantities import Quantity

_UNITS = {
    "bytes": "B",
    "bytes_per_s": "B/s",
    "flop_per_s": "FLOP/s",
    "w": "W",
    "hz": "Hz",
    "usd": "USD",
    "count": "",
    "ratio": "",
}
_PLAIN_WIDTH = 10_000  # where standard output is no terminal and COLUMNS is not set, a row is one line


@click.group(
    cls=Group,
    invoke_without_command=True,
    help="""List chips, machines and facts; every figure has a unit, a basis, a kind and a source.

    Without options: all chips and machines. With a filter: the fact rows that match all filters.
    `fullmesh catalog show NAME` prints one machine, chip or item in full.""",
)
@click.option("--item", help="Only facts about this item (h200, cloudmatrix384, nvlink4 ...).")
@click.option("--parameter", help="Only this parameter (hbm_bandwidth, power ...).")
@click.option(
    "--kind",
    type=click.Choice(["datasheet", "measured", "derived", "assumed"]),
    help="Only facts of this kind.",
)
@click.option("--source", help="Only facts whose source contains this text.")
@click.option(
    "--conflicts", is_flag=True, help="Only parameters on which sources differ, with all their rows."
)
@click.option("--facts", "list_facts", is_flag=True, help="All fact rows.")
@click.option("--json", "as_json", is_flag=True, help="Write JSON (SI units, named in the keys).")
@click.option(
    "--csv", "as_csv", is_flag=True, help="Write the fact rows as CSV, in the form of the fact files."
)
@click.pass_context
def command(
    ctx: click.Context,
    item: str | None,
    parameter: str | None,
    kind: str | None,
    source: str | None,
    conflicts: bool,
    list_facts: bool,
    as_json: bool,
    as_csv: bool,
) -> None:
    """List the catalog, or the facts that match the filters."""
    filtered = bool(item or parameter or kind or source or conflicts or list_facts)
    if ctx.invoked_subcommand is not None:
        if filtered or as_json or as_csv:
            raise click.UsageError("put --json or --csv after `show NAME`; filters go without `show`")
        return
    if as_json and as_csv:
        raise click.UsageError("--json and --csv exclude each other")
    facts = filter_facts(item=item, parameter=parameter, kind=kind, source=source, conflicts=conflicts)
    if as_csv:
        _write_csv(facts)
    elif as_json:
        data: dict[str, Any] = {"facts": [fact_record(f) for f in facts]}
        if not filtered:
            data = {
                "chips": [chip_record(c) for c in all_chips()],
                "machines": [machine_record(m) for m in all_machines()],
                **data,
            }
        _write_json(data)
    elif filtered:
        sources = _Sources()
        items = {fact.item for fact in facts}
        about = f" about {item}" if item is not None and len(items) == 1 else ""
        _print(_fact_table(facts, sources, title=f"{len(facts)} facts{about}"), sources.table())
    else:
        _print(_chip_table(all_chips()), _machine_table(all_machines()))
        tell(
            f"{len(facts)} facts: --facts, --conflicts or a filter lists them; `show NAME` prints one in full."
        )


@command.command(
    help="""Print one machine, chip or item: each figure with unit, basis, kind, source and alternatives. The name of a
    model prints that model, as `fullmesh catalog model` does."""
)
@click.argument("name")
@click.option("--json", "as_json", is_flag=True, help="Write JSON (SI units, named in the keys).")
@click.option(
    "--csv", "as_csv", is_flag=True, help="Write the fact rows as CSV, in the form of the fact files."
)
@click.pass_context
def show(ctx: click.Context, name: str, as_json: bool, as_csv: bool) -> None:
    """Print everything under one name."""
    from fullmesh.workload.readers import shipped

    if as_json and as_csv:
        raise click.UsageError("--json and --csv exclude each other")
    try:
        description = describe(name)
    except CatalogError:
        if as_csv or shipped.find(name) is None:
            raise
        ctx.invoke(model, name=name, ops=False, csv_file=None, as_json=as_json)
        return
    if as_json:
        _write_json(description_record(description))
    elif as_csv:
        _write_csv(description.facts)
    else:
        _print(*_description_tables(description))


command.add_command(models)
command.add_command(model)
command.add_command(faults)
command.add_command(inputs)


def _write_json(data: dict[str, Any]) -> None:
    click.echo(json.dumps(data, indent=2, ensure_ascii=False))


def _write_csv(facts: Sequence[Fact]) -> None:
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(fact_record(f) | {"value": f"{f.value:.12g}"} for f in facts)
    click.echo(text.getvalue(), nl=False)


def _print(*tables: Table) -> None:
    show_tables(*tables, plain_width=_PLAIN_WIDTH)


class _Sources:
    """Numbers for sources, so that a table cites each in a narrow column and names it once below."""

    def __init__(self) -> None:
        self._numbers: dict[tuple[str, str], int] = {}

    def cite(self, source: str, date: str = "") -> str:
        return str(self._numbers.setdefault((source, date), len(self._numbers) + 1))

    def table(self) -> Table:
        out = table("Sources", "no.>", "source=", "date")
        for (source, date), number in self._numbers.items():
            out.add_row(str(number), source, date)
        return out


def _amount(si_value: float, dimension: str) -> str:
    if dimension == "s":
        return duration(si_value)
    if dimension == "count":
        return f"{si_value:g}"
    return si_prefix(si_value, _UNITS.get(dimension, dimension), 4)


def _peak(chip: Chip, dtype: str) -> str:
    value = chip.matrix_flop_per_s.get(dtype)
    return "-" if value is None else si_prefix(value, "", 4).strip()


def _chip_table(chips: Sequence[Chip]) -> Table:
    out = table(
        "Chips (dense peak of the matrix units per device, FLOP/s or OP/s; memory that a process sees)",
        *(
            "id=",
            "name=",
            "device?",
            "BF16>",
            "FP16>?",
            "FP8>",
            "NVFP4>?",
            "INT8>?",
            "memory>",
            "bandwidth>",
            "power>?",
        ),
    )
    for chip in chips:
        out.add_row(
            chip.id,
            chip.name,
            chip.basis,
            *(_peak(chip, dtype) for dtype in ("bf16", "fp16", "fp8", "nvfp4", "int8")),
            si_prefix(chip.hbm_bytes, "B"),
            si_prefix(chip.hbm_bytes_per_s, "B/s"),
            "not published" if chip.power_w is None else f"{chip.power_w:g} W",
        )
    return out


def _machine_table(records: Sequence[MachineRecord]) -> Table:
    out = table(
        "Machines (in their default size)",
        *(
            "id=",
            "also?=",
            "chip=",
            "devices>",
            "unit?",
            "fabric, innermost first (per device and direction)",
            "unit power>?",
        ),
    )
    for record in records:
        machine = record.machine
        tiers = ", ".join(
            f"{t.name} {t.full_num_devices or 'all'} x {si_prefix(t.bytes_per_s, 'B/s')}"
            for t in machine.tiers
        )
        out.add_row(
            machine.id,
            " ".join(record.aliases),
            machine.chip.id,
            str(machine.num_devices),
            f"{machine.unit_name} of {machine.devices_per_unit}",
            tiers,
            "not published" if machine.unit_power_w is None else si_prefix(machine.unit_power_w, "W"),
        )
    return out


def _fact_table(facts: Sequence[Fact], sources: _Sources, *, title: str) -> Table:
    """One row a fact; a column of items only where there are several."""
    several = len({fact.item for fact in facts}) > 1
    columns = ("parameter=", "value>", "basis", "kind", "status?", "source>", "note?=")
    out = table(title, *(("item=",) if several else ()), *columns)
    for fact in facts:
        basis = fact.basis if fact.direction == "-" else f"{fact.basis}; {fact.direction}"
        out.add_row(
            *((fact.item,) if several else ()),
            fact.parameter,
            f"{fact.value:,.12g} {fact.unit}".removesuffix(" count"),
            basis,
            fact.kind,
            fact.status,
            sources.cite(fact.source, fact.date),
            fact.note,
        )
    return out


def _description_tables(description: Description) -> list[Table]:
    tables, sources = [], _Sources()
    if description.record is not None:
        tables += [_structure_table(description), _quantity_table(description.record.quantities, sources)]
    for item in dict.fromkeys(fact.item for fact in description.facts):
        facts = [fact for fact in description.facts if fact.item == item]
        tables.append(_fact_table(facts, sources, title=f"Facts about {item}"))
    return [*tables, sources.table()]


def _structure_table(description: Description) -> Table:
    assert description.record is not None
    record, machine = description.record, description.record.machine
    out = table(machine.name, "", "", leading=1)
    out.show_header = False
    rows = {
        "id": f"{machine.id}" + (f" (also {', '.join(record.aliases)})" if record.aliases else ""),
        "chip": f"{machine.chip.id}, one device is one {machine.chip.basis}",
        "or with the chip": ", ".join(record.chip_alternatives),
        "devices by default": str(machine.num_devices),
        "devices per package, node, unit": f"{machine.devices_per_package}, {machine.devices_per_node}, "
        f"{machine.devices_per_unit} ({machine.unit_name})",
        "software": machine.software,
        "power covers": machine.power_basis,
        "price of a device-hour": "no price"
        if description.price is None
        else f"US$ {description.price.usd_per_hour:.3g}: {description.price.basis}",
        "source of the structure": record.source,
    }
    for label, text in rows.items():
        if text:
            out.add_row(label, text)
    return out


def _quantity_table(quantities: Sequence[Quantity], sources: _Sources) -> Table:
    out = table("Figures of the machine", "figure", "value>", "basis", "kind", "fact?", "source>")
    for quantity in quantities:
        fact = quantity.fact
        amount = _amount(quantity.si_value, quantity.dimension)
        if fact is None:
            out.add_row(
                quantity.label, amount, "as stated in the file", "-", "-", sources.cite(quantity.source), "-"
            )
        else:
            cite = sources.cite(fact.source, fact.date)
            out.add_row(quantity.label, amount, fact.basis, fact.kind, fact.key, cite)
    return out

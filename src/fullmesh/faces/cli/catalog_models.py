"""``fullmesh catalog models`` and ``fullmesh catalog model``: what is known of models, and what a file says."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fullmesh.faces.cli.options import InputFile, OutputFile, tell

if TYPE_CHECKING:
    from fullmesh.workload.readers.describe import ModelDescription

_CUT = 60  # characters of a value in a table; --json has it in full


@click.command(
    help="""List the shipped models: layers, hidden size, parameters in total and those that one token uses.

    Other models are read from their own config.json: `fullmesh catalog model FILE`."""
)
@click.option("--json", "as_json", is_flag=True, help="Write JSON, with all aliases.")
def models(as_json: bool) -> None:
    """List all shipped models."""
    from fullmesh.faces.cli.tables import show, table, write_json
    from fullmesh.workload.readers.describe import model_lines

    lines = model_lines()
    if as_json:
        write_json({"models": [dataclasses.asdict(line) for line in lines]})
        return
    out = table(f"{len(lines)} models", "id", "parameters>", "active>", "layers>", "hidden>", "kind")
    for line in lines:
        out.add_row(
            line.id,
            _count(line.parameters),
            "" if line.active_parameters == line.parameters else _count(line.active_parameters),
            str(line.num_layers),
            str(line.hidden),
            line.kind,
        )
    show(out)
    tell("`fullmesh catalog model NAME` prints one in full; a config.json works in its place.")


@click.command(
    help="""Print one model: its layers and parameters, and of a configuration what was read and what was not.

    NAME is a shipped name or alias, a config.json, or a folder that holds one. Spelling, an organisation in front and
    words like Instruct behind do not matter."""
)
@click.argument("name", type=InputFile(), metavar="NAME_OR_CONFIG")
@click.option("--ops", is_flag=True, help="The operators of one sequence of 4,096 tokens instead.")
@click.option(
    "--csv",
    "csv_file",
    type=OutputFile(),
    help="Write the operators to this file (with --ops).",
)
@click.option("--json", "as_json", is_flag=True, help="Write JSON; sizes are parameters, not bytes.")
def model(name: str, ops: bool, csv_file: Path | None, as_json: bool) -> None:
    """Print everything about one model."""
    from fullmesh.faces.cli.tables import show, write_json
    from fullmesh.workload.readers.describe import describe_model, model_record

    if csv_file is not None and not ops:
        raise click.UsageError("--csv FILE writes the operators: add --ops")
    if csv_file is not None and as_json:
        raise click.UsageError("--json and --csv exclude each other")
    description = describe_model(name)
    if ops:
        _operators(description, csv_file, as_json=as_json)
    elif as_json:
        write_json(model_record(description))
    else:
        show(*_report(description))


# how the phases of an operator are called where there is little room
_PHASES = {
    "forward": "fwd",
    "backward by input": "dgrad",
    "backward by weight": "wgrad",
    "optimizer": "update",
}


def _operators(d: ModelDescription, csv_file: Path | None, *, as_json: bool) -> None:
    from fullmesh.faces.cli.tables import show, table, write_json
    from fullmesh.workload.table import operator_table

    rows = operator_table(d.model)
    if csv_file is not None:
        rows.save(csv_file)
        tell(f"operators written to {csv_file}")
        return
    if as_json:
        write_json({"model": d.model.id, "operators": list(rows.records())})
        return
    # no column for the layers: at 80 columns there is room for names and shapes, or for it
    columns = ("operator", "phase", "shape", "TFLOP>", "MB read>", "written>?", "saved>?")
    head = (
        f"Operators of {d.model.name}, one sequence of 4,096 tokens; fwd: forward, dgrad and wgrad: backward by input "
        "and by weight, update: optimizer"
    )
    figures = zip(rows.flop, rows.read_bytes, rows.written_bytes, rows.saved_bytes, strict=True)
    words = zip(rows.layers, rows.name, rows.phase, rows.shape, strict=True)
    sheets: dict[str, Any] = {}
    before = ("", "")
    for (layers, name, phase, shape), (flop, *sizes) in zip(words, figures, strict=True):
        if layers not in sheets:
            sheets[layers] = table(
                f"Layers {layers}" if layers[:1].isdigit() else layers.capitalize(), *columns
            )
        cells = [f"{flop / 1e12:.3g}" if flop else "", *(f"{v / 1e6:,.0f}" if v else "" for v in sizes)]
        shown = "" if (layers, name) == before else name
        before = (layers, name)
        sheets[layers].add_row(shown, _PHASES[phase], "x".join(f"{v:.10g}" for v in shape), *cells)
    show(head, "", *sheets.values())


def _report(d: ModelDescription) -> list[Any]:
    from fullmesh.faces.cli.tables import table
    from fullmesh.workload.readers.describe import part_text

    model, entry = d.model, d.entry
    head = table(model.name, "", "")
    head.show_header = False
    rows = {
        "id": model.id + (f" (also {', '.join(entry.aliases)})" if entry and entry.aliases else ""),
        "parameters": f"{d.counts.total:,}" + (f" ({_count(d.counts.total)})"),
        "active parameters": f"{d.counts.active:,} ({_count(d.counts.active)}) of one token"
        if d.counts.active != d.counts.total
        else "",
        "published": f"{_count(int(entry.published_parameters))}: {entry.published_source}"
        if entry and entry.published_parameters
        else "",
        "layers": str(model.num_layers),
        "hidden size, vocabulary": f"{model.hidden:,}, {model.vocab:,}"
        + (" (head tied to the embedding)" if model.tied_embeddings else ""),
        "source": model.source,
        "note": entry.note if entry else "",
    }
    for label, text in rows.items():
        if text:
            head.add_row(label, text)
    layers = table("Layers", "layers", "count>", "mixer", "feed-forward part", "parameters each>")
    for group in d.groups:
        layers.add_row(
            group.where,
            str(len(group.at)),
            part_text(group.layer.mixer),
            part_text(group.layer.ffn),
            f"{group.parameters.total:,}",
        )
    parts = table("Parameters by part", "part", "parameters>")
    for part, count in d.counts.by_part().items():
        if count:
            parts.add_row(part.replace("_", " "), f"{count:,}")
    out = [head, layers, parts, *(f"- {note}" for note in model.notes)]
    if entry is None:
        out.append(_keys("Read from the configuration", d.read))
        if d.not_read:
            out.append(_keys("Not read: without influence on layers and sizes", d.not_read))
    return out


def _keys(heading: str, values: dict[str, Any]) -> Any:
    from fullmesh.faces.cli.tables import table

    out = table(heading, "key", "value")
    for key, value in values.items():
        text = str(value)
        out.add_row(key[:_CUT], text if len(text) <= _CUT else f"{text[:_CUT]} ...")
    return out


def _count(parameters: int) -> str:
    from fullmesh.units import si_prefix

    return si_prefix(parameters, "", 4).strip().replace("G", "B")

"""``fullmesh fabric``: a machine's fabric as it is wired."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from fullmesh.faces.cli.options import InputFile, OutputFile, tell, timing_option


@click.command(
    help="""A machine's fabric as it is wired: links, switches, bandwidth, collectives, failures.

    MACHINE is a name (cloudmatrix384, gb200-nvl72, dgx-h200 ...) or the path of a machine file (.toml)."""
)
@click.argument("machine", type=InputFile())
@click.option("--devices", type=int, help="Another number of devices than the machine's own.")
@click.option("--scale", type=float, help="What if there were this many units (supernodes, racks, nodes).")
@click.option(
    "--fail",
    "fails",
    multiple=True,
    metavar="PART=N",
    help="What if parts fail: l2=1, link=1, module=1, links=1%, l1=1, plane=1, l2@0,16, link=1:0.5 (half its rate).",
)
@click.option(
    "--policy",
    type=click.Choice(["static", "resplit", "ecmp"]),
    default="resplit",
    show_default=True,
    help="How traffic chooses among equal paths.",
)
@click.option(
    "--queue-pairs", type=int, default=1, show_default=True, help="Sub-flows of each flow under ecmp."
)
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of random failures and of ecmp.")
@click.option(
    "--bytes", "size", default="1 GB", show_default=True, help="What one device sends in the all-to-all."
)
@click.option("--failures", is_flag=True, help="The failure table: one of each part, static and re-split.")
@click.option(
    "--collectives", is_flag=True, help="Collectives over sizes and group shapes beside measured times."
)
@click.option(
    "--kinds", default="all", help="Comma-separated kinds of collectives, or all.", show_default=True
)
@click.option(
    "--sizes", default="1 MiB,16 MiB,256 MiB,1 GiB", show_default=True, help="Sizes of collectives."
)
@click.option(
    "--groups", help="Group shapes: ranks or ranks@stride, as 16,48@16. Default: by the machine's tiers."
)
@click.option(
    "--algorithm", help="Force an algorithm instead of the library's choice (ring, direct, nhr ...)."
)
@click.option(
    "--level",
    type=click.Choice(["bottleneck", "max-min"]),
    default="bottleneck",
    show_default=True,
    help="How the wired graph is evaluated.",
)
@click.option(
    "--measured", is_flag=True, help="Every measured point of this machine beside its calibrated time."
)
@click.option("--placements", metavar="AXES", help="Compare orders of parallel axes, as tp=8,ep=16,dp=6.")
@click.option(
    "--oversubscription", type=float, help="What if leaves had this many times less bandwidth upwards."
)
@click.option("--matrix", is_flag=True, help="Bandwidth and latency between devices of each tier.")
@click.option("--load", is_flag=True, help="How full each kind of link is during the all-to-all.")
@click.option(
    "--jobs", metavar="A-B,C-D", help="All-to-alls of several jobs at once: 0-255,256-511 or 0-510:2,1-511:2."
)
@click.option(
    "--experts",
    metavar="KEY=N,...",
    help="Expert dispatch and combine: ranks=64,experts=256,top=8,tokens=4096,hidden=7168,imbalance=0.5,groups=4/8.",
)
@click.option("--svg", type=OutputFile(".svg"), help="Write a drawing.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@timing_option
def command(machine: str, svg: Path | None, as_json: bool, no_timing: bool, **options: Any) -> None:
    from fullmesh.faces.cli import fabric_tables
    from fullmesh.faces.cli.fabric_answers import ANSWERS, Asked, View, what_if
    from fullmesh.network import summary as report
    from fullmesh.network.draw import write_svg
    from fullmesh.network.wiring.build import load_topology

    asked = Asked(**options)
    asked.check()
    before = load_topology(machine, asked.devices)
    for note in report.notes(before):
        tell(f"note: {note}")
    view = View(asked=asked, before=before, after=what_if(asked, machine, before))
    out: dict[str, Any] = {}
    for name, fabric in (("before", before), ("after", view.after)) if asked.changes else (("now", before),):
        out[name] = report.summary(fabric, asked.num_bytes, view.route)
    out |= {name: answer(view) for name, answer in ANSWERS.items() if getattr(asked, name)}
    if svg:
        write_svg(view.after, svg)
        tell(f"drawing written to {svg}")
    if as_json:
        from fullmesh.output.timing import timing_apart

        if not asked.changes:
            out = out.pop("now") | out
        click.echo(json.dumps(timing_apart(out, leave_out=no_timing), indent=1))
        return
    fabric_tables.show(view, out)

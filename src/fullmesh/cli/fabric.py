"""``fullmesh fabric``: a machine's fabric as it is wired."""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING, Any, cast

import click

from fullmesh.errors import ScenarioError
from fullmesh.units import duration, parse_quantity, si_prefix

if TYPE_CHECKING:
    from fullmesh.fabric.topology import Topology
    from fullmesh.fabric.wiring import Policy

SHOWN_KINDS = ("all_reduce", "all_gather", "reduce_scatter", "all_to_all")


@click.command(
    help="""A machine's fabric as it is wired: links, switches, bandwidth, collectives, failures.

    MACHINE is a name (cloudmatrix384, gb200-nvl72, dgx-h200 ...) or the path of a topology file (.toml)."""
)
@click.argument("machine")
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
@click.option("--svg", metavar="FILE", help="Write a drawing.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(
    machine: str,
    devices: int | None,
    scale: float | None,
    fails: tuple[str, ...],
    policy: str,
    queue_pairs: int,
    seed: int,
    size: str,
    failures: bool,
    collectives: bool,
    kinds: str,
    sizes: str,
    groups: str | None,
    algorithm: str | None,
    level: str,
    measured: bool,
    placements: str | None,
    svg: str | None,
    as_json: bool,
) -> None:
    from fullmesh.fabric import report
    from fullmesh.fabric.build import load_topology
    from fullmesh.fabric.draw import write_svg
    from fullmesh.fabric.failures import break_parts, parse_failure
    from fullmesh.fabric.wiring import Policy

    for name, value in (("--devices", devices), ("--scale", scale), ("--queue-pairs", queue_pairs)):
        if value is not None and value <= 0:
            raise ScenarioError(f"{value} is not above zero", where=name, expected="a number above 0")
    if devices is not None and scale is not None:
        raise ScenarioError("both --devices and --scale", where="command line", expected="one of them")
    num_bytes = _positive(size, "--bytes")
    before = load_topology(machine, devices)
    after = load_topology(machine, units=scale) if scale is not None else before
    if fails:
        after = break_parts(after, [parse_failure(f) for f in fails], seed)
    route = Policy(name=cast("Any", policy), seed=seed, queue_pairs=queue_pairs)
    changed = bool(fails) or scale is not None
    out: dict[str, Any]
    if changed:
        out = {
            name: report.summary(t, num_bytes, route) for name, t in (("before", before), ("after", after))
        }
    else:
        out = report.summary(before, num_bytes, route)
    if failures:
        out["failures"] = [
            dataclasses.asdict(r) for r in report.failure_rows(before, list(fails) or None, seed)
        ]
    if collectives:
        shapes = (
            [report.parse_shape(g) for g in groups.split(",")] if groups else report.default_shapes(after)
        )
        rows = report.collective_rows(
            after,
            cast("Any", _kinds(kinds)),
            shapes,
            [_positive(s, "--sizes") for s in sizes.split(",")],
            policy=route,
            level=cast("Any", level),
            algorithm=algorithm,
        )
        out["collectives"] = [dataclasses.asdict(r) | {"closed_form_off": r.closed_form_off} for r in rows]
    if measured:
        out["measured"] = _measured(after.name)
    if placements:
        found = report.placement_rows(
            after, _axes(placements), "all_reduce", _positive(sizes.split(",")[-1], "--sizes"), policy=route
        )
        out["placements"] = [dataclasses.asdict(r) for r in found]
    if svg:
        write_svg(after, svg)
        click.echo(f"drawing written to {svg}", err=True)
    if as_json:
        click.echo(json.dumps(out, indent=1))
        return
    _print(before, after, out, changed, fails, route, num_bytes)


def _positive(text: str, option: str) -> float:
    value = parse_quantity(text, "bytes", where=option)
    if value <= 0:
        raise ScenarioError(f"{text!r} is not above zero", where=option, expected='a size as "16 MiB"')
    return value


def _kinds(text: str) -> tuple[str, ...]:
    from fullmesh.errors import did_you_mean

    if text == "all":
        return SHOWN_KINDS
    kinds = tuple(k.strip() for k in text.split(","))
    for kind in kinds:
        if kind not in SHOWN_KINDS:
            raise ScenarioError(
                f"unknown kind {kind!r}", where="--kinds", hint=did_you_mean(kind, list(SHOWN_KINDS))
            )
    return kinds


def _axes(text: str) -> dict[str, int]:
    axes: dict[str, int] = {}
    for part in text.split(","):
        name, _, degree = part.partition("=")
        if not name.strip() or not degree.strip().isdigit() or int(degree) < 1 or name.strip() in axes:
            raise ScenarioError(
                f"cannot read the axes {text!r}",
                where="--placements",
                expected="name=degree,..., as tp=8,ep=16,dp=6",
            )
        axes[name.strip()] = int(degree)
    if len([d for d in axes.values() if d > 1]) > 4:
        raise ScenarioError(f"{len(axes)} axes", where="--placements", expected="at most 4 axes above 1")
    return axes


def _measured(machine: str) -> dict[str, Any]:
    from fullmesh.fabric import curves

    rows = curves.residuals(machine)
    return {
        "summary": curves.error_summary(rows),
        "points": [dataclasses.asdict(r.point) | {"predicted_s": r.seconds, "error": r.error} for r in rows],
    }


def _rate(value: float | None) -> str:
    return "no path" if not value else si_prefix(value, "B/s", 4)


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:+.2f} %"


def _bytes(value: float) -> str:
    for unit, factor in (("GiB", 2.0**30), ("MiB", 2.0**20), ("KiB", 2.0**10)):
        if value >= factor and value % factor == 0:
            return f"{value / factor:g} {unit}"
    return si_prefix(value, "B")


def _table(title: str, header: list[str], rows: list[list[str]]) -> None:
    """A plain table: the first column to the left, figures to the right."""
    click.echo(f"\n{title}")
    widths = [max(len(r[i]) for r in [header, *rows]) for i in range(len(header))]
    for row in [header, ["-" * w for w in widths], *rows]:
        cells = [row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))]
        click.echo("  " + "  ".join(cells).rstrip())


def _print(
    before: Topology,
    after: Topology,
    out: dict[str, Any],
    changed: bool,
    fails: tuple[str, ...],
    policy: Policy,
    num_bytes: float,
) -> None:
    from fullmesh.fabric import report

    click.echo(f"{after.title}: {after.num_devices} devices (one device is one {after.device_basis})")
    states = [("before", out["before"]), ("after", out["after"])] if changed else [("now", out)]
    names = [n for n, _ in states]
    rows: list[list[str]] = [["devices", *(str(s["devices"]) for _, s in states)]]
    for tier in states[-1][1]["switches"]:
        rows.append([f"switch chips, {tier}", *(str(s["switches"].get(tier, 0)) for _, s in states)])
    for kind in states[-1][1]["links"]:
        cells = []
        for _, s in states:
            entry = s["links"].get(kind)
            cells.append(f"{entry['count']} x {si_prefix(entry['bytes_per_s'], 'B/s', 4)}" if entry else "0")
        rows.append([f"links, {kind} (one direction)", *cells])
    rows.append(
        ["all-to-all, per device", *(_rate(s["all_to_all"]["bytes_per_s_per_device"]) for _, s in states)]
    )
    rows.append(
        [
            f"all-to-all of {_bytes(num_bytes)} per device",
            *(
                "no path" if s["all_to_all"]["seconds"] is None else duration(s["all_to_all"]["seconds"], 4)
                for _, s in states
            ),
        ]
    )
    if changed and states[0][1]["all_to_all"]["bytes_per_s_per_device"]:
        rates = [s["all_to_all"]["bytes_per_s_per_device"] for _, s in states]
        rows.append(["change per device", "", _percent(report.change(rates[0], rates[1]))])
    what = f", failed: {', '.join(fails)}" if fails else ""
    _table(f"Fabric (policy {policy.name}{what}; line rates)", ["", *names], rows)
    _table(
        "Bandwidth and latency by tier, from device 0",
        ["tier", "kind", "devices", "latency", "to one peer", "to all peers", "to one, as reached"],
        [
            [
                r.name,
                r.kind,
                str(r.num_devices),
                duration(r.latency_s),
                si_prefix(r.pair_bytes_per_s, "B/s", 4),
                si_prefix(r.port_bytes_per_s, "B/s", 4),
                si_prefix(r.reached_bytes_per_s, "B/s", 4),
            ]
            for r in report.tier_rows(after, policy)
        ],
    )
    if "failures" in out:
        _table(
            f"All-to-all per device under failures of {before.title}",
            ["failure", "static", "change", "re-split", "change"],
            [
                [
                    r["failure"],
                    _rate(r["static_bytes_per_s"]),
                    _percent(r["static_change"]),
                    _rate(r["resplit_bytes_per_s"]),
                    _percent(r["resplit_change"]),
                ]
                for r in out["failures"]
            ],
        )
    if "collectives" in out:
        _print_collectives(out["collectives"])
    if "placements" in out:
        _table(
            "All-reduce of each axis by order of the axes (innermost first)",
            ["order", "axis", "ranks", "stride", "time", "bus bandwidth"],
            [
                [
                    r["order"],
                    r["axis"],
                    str(r["size"]),
                    str(r["stride"]),
                    duration(r["seconds"]),
                    si_prefix(r["bus_bytes_per_s"], "B/s"),
                ]
                for r in out["placements"]
            ],
        )
    if "measured" in out:
        _print_measured(out["measured"])


def _print_collectives(rows: list[dict[str, Any]]) -> None:
    _table(
        "Collectives, all groups at once (graph: links at reached rates, no software floor)",
        [
            "kind",
            "ranks",
            "size",
            "algorithm",
            "graph",
            "bus bandwidth",
            "closed form",
            "off",
            "calibrated",
            "measured",
        ],
        [
            [
                r["kind"],
                f"{r['size']}@{r['stride']}" if r["stride"] > 1 else str(r["size"]),
                _bytes(r["num_bytes"]),
                r["algorithm"],
                duration(r["graph_s"]),
                si_prefix(r["graph_bus_bytes_per_s"], "B/s"),
                duration(r["closed_form_s"]),
                _percent(r["closed_form_off"]),
                duration(r["table_s"]) if r["table_s"] else "-",
                duration(r["measured_s"]) if r["measured_s"] else "-",
            ]
            for r in rows
        ],
    )
    click.echo(f"  closed form: {rows[0]['closed_form_evidence']}" if rows else "  none")


def _print_measured(data: dict[str, Any]) -> None:
    _table(
        "Measured points beside the calibrated time",
        ["library", "kind", "ranks", "size", "measured", "calibrated", "error", "fitted"],
        [
            [
                p["family"],
                p["kind"],
                str(p["ranks"]),
                _bytes(p["num_bytes"]),
                duration(p["seconds"]),
                duration(p["predicted_s"]),
                _percent(p["error"]),
                "yes" if p["fitted"] else "no",
            ]
            for p in data["points"]
        ],
    )
    for name, figures in data["summary"].items():
        click.echo(
            f"  {name}: {figures['points']:.0f} points, median error {100 * figures['median']:.1f} %, "
            f"90th percentile {100 * figures['p90']:.1f} %"
        )

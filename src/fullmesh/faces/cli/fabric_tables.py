"""The tables of ``fullmesh fabric``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from fullmesh.faces.cli.fabric_answers import View
from fullmesh.faces.cli.tables import show as show_tables
from fullmesh.faces.cli.tables import table
from fullmesh.language import say
from fullmesh.network import summary
from fullmesh.output.formats import change
from fullmesh.units import duration, si_prefix


def _rate(value: float | None) -> str:
    return "no path" if not value else si_prefix(value, "B/s", 4)


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:+.2f} %"


def _bytes(value: float) -> str:
    for unit, factor in (("GiB", 2.0**30), ("MiB", 2.0**20), ("KiB", 2.0**10)):
        if value >= factor and value % factor == 0:
            return f"{value / factor:g} {unit}"
    return si_prefix(value, "B")


def _table(title: str, header: list[str], rows: list[list[str]], *, leading: int = 1) -> None:
    """A table: the first column to the left, figures to the right; where it is too wide it continues below."""
    out = table(title, header[0], *(f"{name}>" for name in header[1:]), leading=leading)
    for row in rows:
        out.add_row(*row)
    show_tables("", out)


def show(view: View, out: dict[str, Any]) -> None:
    """Print the fabric and every part of the answer."""
    after = view.after
    click.echo(say(f"{after.title}: {after.num_devices} devices (one device is one {after.device_basis})"))
    _print_fabric(view, {name: out[name] for name in ("before", "after", "now") if name in out})
    _print_tiers(view)
    if "failures" in out:
        _print_failures(view.before.title, out["failures"])
    for name, write in _PARTS.items():
        if name in out:
            write(out[name])


def _print_fabric(view: View, states: dict[str, dict[str, Any]]) -> None:
    rows: list[list[str]] = [["devices", *(str(s["devices"]) for s in states.values())]]
    last = list(states.values())[-1]
    for tier in last["switches"]:
        rows.append([f"switch chips, {tier}", *(str(s["switches"].get(tier, 0)) for s in states.values())])
    for kind in last["links"]:
        entries = [s["links"].get(kind) for s in states.values()]
        cells = [f"{e['count']} x {si_prefix(e['bytes_per_s'], 'B/s', 4)}" if e else "0" for e in entries]
        rows.append([f"{kind} links", *cells])
    exchange = [s["all_to_all"] for s in states.values()]
    rates = [e["bytes_per_s_per_device"] for e in exchange]
    rows.append(["all-to-all, per device", *map(_rate, rates)])
    times = ["no path" if e["seconds"] is None else duration(e["seconds"], 4) for e in exchange]
    rows.append([f"all-to-all, {_bytes(view.asked.num_bytes)} each", *times])
    if len(states) > 1 and rates[0]:
        rows.append(["change per device", "", _percent(summary.change(*rates))])
    failed = f", failed: {', '.join(view.asked.fails)}" if view.asked.fails else ""
    _table(
        f"Fabric (policy {view.route.name}{failed}; line rates, links in one direction)", ["", *states], rows
    )


def _print_tiers(view: View) -> None:
    _table(
        "Bandwidth and latency by tier, from device 0",
        ["tier", "kind", "devices", "latency", "to one peer", "to all peers", "to one, as reached"],
        [
            [
                r.name,
                r.kind,
                str(r.num_devices),
                duration(r.latency_s),
                *(_rate(x) for x in (r.pair_bytes_per_s, r.port_bytes_per_s, r.reached_bytes_per_s)),
            ]
            for r in summary.tier_rows(view.after, view.route)
        ],
    )


def _print_failures(title: str, rows: list[dict[str, Any]]) -> None:
    _table(
        f"All-to-all per device under failures of {title}",
        ["failure", "static", "change", "re-split", "change"],
        [
            [
                r["failure"],
                _rate(r["static_bytes_per_s"]),
                _percent(r["static_change"]),
                _rate(r["resplit_bytes_per_s"]),
                _percent(r["resplit_change"]),
            ]
            for r in rows
        ],
    )


def _print_placements(rows: list[dict[str, Any]]) -> None:
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
            for r in rows
        ],
    )


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
                change(r["closed_form_off"]),
                duration(r["table_s"]) if r["table_s"] else "-",
                duration(r["measured_s"]) if r["measured_s"] else "-",
            ]
            for r in rows
        ],
        leading=3,
    )
    show_tables(f"closed form: {rows[0]['closed_form_evidence']}" if rows else "none")


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
        leading=4,
    )
    if data["pairs"]:
        _table(
            "Measured pairs beside the graph",
            ["pair", "measured", "graph", "error", "used", "source"],
            [
                [
                    p["pair"],
                    _quantity(p["quantity"], p["measured"]),
                    _quantity(p["quantity"], p["graph"]),
                    _percent(p["error"]),
                    "yes" if p["used"] else "no",
                    p["source"],
                ]
                for p in data["pairs"]
            ],
        )
    for name, figures in data["summary"].items():
        line = (
            f"  {name}: {figures['points']:.0f} points, median error {100 * figures['median']:.1f} %, "
            f"90th percentile {100 * figures['p90']:.1f} %"
        )
        click.echo(say(line))


def _quantity(name: str, value: float) -> str:
    return si_prefix(value, "B/s", 4) if name == "bytes_per_s" else duration(value)


def _print_matrix(data: dict[str, Any]) -> None:
    names = [f"device {d}" for d in data["devices"]]
    for title, key in (("Bandwidth", "bytes_per_s"), ("Latency", "latency_s")):
        rows = [
            [name, *(_quantity(key, v) if v else "-" for v in row)]
            for name, row in zip(names, data[key], strict=True)
        ]
        _table(f"{title} of one pair alone, at line rate", ["", *names], rows)


def _print_load(rows: list[dict[str, Any]]) -> None:
    _table(
        "How full the links are during the all-to-all",
        ["kind", "links", "mean", "fullest"],
        [
            [r["kind"], str(r["links"]), f"{100 * r['mean']:.1f} %", f"{100 * r['fullest']:.1f} %"]
            for r in rows
        ],
    )


def _print_jobs(rows: list[dict[str, Any]]) -> None:
    _table(
        "All-to-alls of several jobs",
        ["devices", "count", "alone", "together", "slower by"],
        [
            [
                r["job"],
                str(r["devices"]),
                duration(r["alone_s"]),
                duration(r["together_s"]),
                _percent(r["slowdown"]),
            ]
            for r in rows
        ],
    )


def _print_experts(rows: list[dict[str, Any]]) -> None:
    _table(
        "Expert exchange (graph: max-min with events, reached rates; calibrated: even routing)",
        ["phase", "ranks", "per rank", "graph", "fullest rank", "calibrated", "library"],
        [
            [
                r["phase"],
                str(r["ranks"]),
                si_prefix(r["bytes_per_rank"], "B"),
                duration(r["wire_s"]),
                f"{r['imbalance']:.2f} x mean",
                duration(r["table_s"]) if r["table_s"] else "-",
                r["library"] or "-",
            ]
            for r in rows
        ],
    )


_PARTS: dict[str, Callable[[Any], None]] = {
    "collectives": _print_collectives,
    "placements": _print_placements,
    "matrix": _print_matrix,
    "load": _print_load,
    "jobs": _print_jobs,
    "experts": _print_experts,
    "measured": _print_measured,
}

"""The tables of ``fullmesh fabric``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from fullmesh.faces.cli.tables import show as show_tables
from fullmesh.faces.cli.tables import table
from fullmesh.language import say
from fullmesh.output.formats import change
from fullmesh.units import duration, si_prefix

if TYPE_CHECKING:
    from fullmesh.network.wiring.links import Policy
    from fullmesh.network.wiring.topology import Topology


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


def show(
    before: Topology,
    after: Topology,
    out: dict[str, Any],
    changed: bool,
    fails: tuple[str, ...],
    policy: Policy,
    num_bytes: float,
) -> None:
    from fullmesh.network import summary as report

    click.echo(say(f"{after.title}: {after.num_devices} devices (one device is one {after.device_basis})"))
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
    _print_whatif(out)
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


def _print_whatif(out: dict[str, Any]) -> None:
    if "matrix" in out:
        names = [f"device {d}" for d in out["matrix"]["devices"]]
        for title, key, unit in (
            ("Bandwidth", "bytes_per_s", "bytes_per_s"),
            ("Latency", "latency_s", "seconds"),
        ):
            rows = [
                [name, *(_quantity(unit, v) if v else "-" for v in row)]
                for name, row in zip(names, out["matrix"][key], strict=True)
            ]
            _table(f"{title} of one pair alone, at line rate", ["", *names], rows)
    if "load" in out:
        _table(
            "How full the links are during the all-to-all",
            ["kind", "links", "mean", "fullest"],
            [
                [r["kind"], str(r["links"]), f"{100 * r['mean']:.1f} %", f"{100 * r['fullest']:.1f} %"]
                for r in out["load"]
            ],
        )
    if "jobs" in out:
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
                for r in out["jobs"]
            ],
        )
    if "experts" in out:
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
                for r in out["experts"]
            ],
        )

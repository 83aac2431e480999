"""``fullmesh fabric``: a machine's fabric as it is wired."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import click

from fullmesh import values as values_of
from fullmesh.errors import ScenarioError
from fullmesh.faces.cli.options import InputFile, OutputFile, tell, timing_apart, timing_option
from fullmesh.units import parse_quantity

if TYPE_CHECKING:
    from fullmesh.network.flow.traffic import Router

_WHOLE = re.compile(r"[0-9]{1,9}")
# ranks, experts, tokens: beyond it a number is a slip of the pen
_MOST = 1_000_000
SHOWN_KINDS = ("all_reduce", "all_gather", "reduce_scatter", "all_to_all")


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
    oversubscription: float | None,
    matrix: bool,
    load: bool,
    jobs: str | None,
    experts: str | None,
    svg: Path | None,
    as_json: bool,
    no_timing: bool,
) -> None:
    import numpy as np

    from fullmesh.faces.cli import fabric_tables
    from fullmesh.network import summary as report
    from fullmesh.network import whatif
    from fullmesh.network.draw import write_svg
    from fullmesh.network.flow import traffic
    from fullmesh.network.wiring.build import load_topology
    from fullmesh.network.wiring.failures import break_parts, parse_failure
    from fullmesh.network.wiring.links import Policy

    for name, value in (("--devices", devices), ("--scale", scale), ("--queue-pairs", queue_pairs)):
        if value is not None and not 0 < value < math.inf:
            raise ScenarioError(f"{value} is not above zero", where=name, expected="a number above 0")
    if seed < 0:
        raise ScenarioError(f"{seed} is below zero", where="--seed", expected="a whole number from 0")
    if devices is not None and scale is not None:
        raise ScenarioError("both --devices and --scale", where="command line", expected="one of them")
    num_bytes = _positive(size, "--bytes")
    before = load_topology(machine, devices)
    for note in report.notes(before):
        tell(f"note: {note}")
    after = load_topology(machine, units=scale) if scale is not None else before
    if oversubscription is not None:
        after = whatif.oversubscribed(after, oversubscription)
    if fails:
        after = break_parts(after, [parse_failure(f) for f in fails], seed)
    route = Policy(name=cast("Any", policy), seed=seed, queue_pairs=queue_pairs)
    changed = bool(fails) or scale is not None or oversubscription is not None
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
        out["measured"] = _measured(after.name) | {
            "pairs": [dataclasses.asdict(r) | {"error": r.error} for r in whatif.pair_rows(after)]
        }
    if placements:
        found = report.placement_rows(
            after, _axes(placements), "all_reduce", _positive(sizes.split(",")[-1], "--sizes"), policy=route
        )
        out["placements"] = [dataclasses.asdict(r) for r in found]
    if matrix:
        found_matrix = whatif.tier_matrix(after, route)
        out["matrix"] = {
            "devices": list(found_matrix.devices),
            "bytes_per_s": found_matrix.bytes_per_s.tolist(),
            "latency_s": found_matrix.latency_s.tolist(),
        }
    if load:
        flows = traffic.all_to_all(np.arange(after.num_devices)[None, :], num_bytes)
        out["load"] = [dataclasses.asdict(r) for r in whatif.load_rows(after, flows, route)]
    if jobs:
        rows_of_jobs = whatif.job_rows(after, jobs.split(","), num_bytes, route)
        out["jobs"] = [dataclasses.asdict(r) | {"slowdown": r.slowdown} for r in rows_of_jobs]
    if experts:
        ranks, router, tokens, hidden = _experts(experts, seed)
        found_rows = whatif.expert_rows(
            after, ranks, router, tokens_per_rank=tokens, hidden=hidden, policy=route
        )
        out["experts"] = [dataclasses.asdict(r) for r in found_rows]
    if svg:
        write_svg(after, svg)
        tell(f"drawing written to {svg}")
    if as_json:
        click.echo(json.dumps(timing_apart(out, leave_out=no_timing), indent=1))
        return
    fabric_tables.show(before, after, out, changed, fails, route, num_bytes)


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
        if (
            not name.strip()
            or not _WHOLE.fullmatch(degree.strip())
            or int(degree) < 1
            or name.strip() in axes
        ):
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
    from fullmesh.network import curves

    rows = curves.residuals(machine)
    return {
        "summary": curves.error_summary(rows),
        "points": [dataclasses.asdict(r.point) | {"predicted_s": r.seconds, "error": r.error} for r in rows],
    }


def _experts(text: str, seed: int) -> tuple[int, Router, int, int]:
    """Ranks, router, tokens per rank and hidden size of ``--experts``."""
    from fullmesh.errors import did_you_mean
    from fullmesh.network.flow.traffic import Router

    values = {"ranks": "64", "experts": "256", "top": "8", "tokens": "4096", "hidden": "7168"}
    values |= {"imbalance": "0", "groups": "0/0"}
    for part in text.split(","):
        key, _, value = part.strip().partition("=")
        if key not in values:
            raise ScenarioError(
                f"unknown key {key!r}", where="--experts", hint=did_you_mean(key, list(values))
            )
        values[key] = value
    limit, _, groups = values["groups"].partition("/")
    whole = {k: values[k] for k in ("ranks", "experts", "top", "tokens", "hidden")}
    numbers = {k: values_of.whole(v, where=f"--experts {k}", least=1, most=_MOST) for k, v in whole.items()}
    numbers |= {
        k: values_of.whole(v, where="--experts groups", most=_MOST, hint="groups=4/8")
        for k, v in (("limit", limit), ("groups", groups or "0"))
    }
    imbalance = values_of.number(values["imbalance"], where="--experts imbalance", least=0.0, most=1e6)
    router = Router(
        num_experts=numbers["experts"],
        top_k=numbers["top"],
        imbalance=imbalance,
        groups_per_token=numbers["limit"],
        num_groups=numbers["groups"],
        seed=seed,
    )
    return numbers["ranks"], router, numbers["tokens"], numbers["hidden"]

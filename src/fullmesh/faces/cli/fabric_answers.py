"""What ``fullmesh fabric`` is asked, and the parts of its answer."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable
from typing import Any, cast

import numpy as np

from fullmesh import values as values_of
from fullmesh.errors import ScenarioError, did_you_mean
from fullmesh.network import curves, whatif
from fullmesh.network import summary as report
from fullmesh.network.flow import traffic
from fullmesh.network.flow.traffic import Router
from fullmesh.network.wiring.build import load_topology
from fullmesh.network.wiring.failures import break_parts, parse_failure
from fullmesh.network.wiring.links import Policy
from fullmesh.network.wiring.topology import Topology
from fullmesh.units import parse_quantity

_WHOLE = re.compile(r"[0-9]{1,9}")
# ranks, experts, tokens: beyond it a number is a slip of the pen
_MOST = 1_000_000
SHOWN_KINDS = ("all_reduce", "all_gather", "reduce_scatter", "all_to_all")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """The options that decide what is computed, as given."""

    devices: int | None
    scale: float | None
    fails: tuple[str, ...]
    policy: Any
    queue_pairs: int
    seed: int
    size: str
    failures: bool
    collectives: bool
    kinds: str
    sizes: str
    groups: str | None
    algorithm: str | None
    level: Any
    measured: bool
    placements: str | None
    oversubscription: float | None
    matrix: bool
    load: bool
    jobs: str | None
    experts: str | None

    @property
    def changes(self) -> bool:
        """Whether the fabric is asked about as it is not."""
        return bool(self.fails) or self.scale is not None or self.oversubscription is not None

    @property
    def num_bytes(self) -> float:
        """Bytes that one device sends in the all-to-all."""
        return positive_bytes(self.size, "--bytes")

    def check(self) -> None:
        """Refuse numbers that mean nothing."""
        for name in ("devices", "scale", "queue_pairs"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                where = f"--{name.replace('_', '-')}"
                raise ScenarioError(f"{value} is not above zero", where=where, expected="a number above 0")
        if self.seed < 0:
            raise ScenarioError(
                f"{self.seed} is below zero", where="--seed", expected="a whole number from 0"
            )
        if self.devices is not None and self.scale is not None:
            raise ScenarioError("both --devices and --scale", where="command line", expected="one of them")
        positive_bytes(self.size, "--bytes")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """A fabric as it is and as it would be, and what is sent over it."""

    asked: Asked
    before: Topology
    after: Topology

    @property
    def route(self) -> Policy:
        """How traffic chooses among equal paths."""
        asked = self.asked
        return Policy(name=asked.policy, seed=asked.seed, queue_pairs=asked.queue_pairs)


def what_if(asked: Asked, machine: str, before: Topology) -> Topology:
    """The fabric with what the options change."""
    after = load_topology(machine, units=asked.scale) if asked.scale is not None else before
    if asked.oversubscription is not None:
        after = whatif.oversubscribed(after, asked.oversubscription)
    if asked.fails:
        after = break_parts(after, [parse_failure(f) for f in asked.fails], asked.seed)
    return after


def _failures(view: View) -> list[dict[str, Any]]:
    rows = report.failure_rows(view.before, list(view.asked.fails) or None, view.asked.seed)
    return [dataclasses.asdict(r) for r in rows]


def _collectives(view: View) -> list[dict[str, Any]]:
    asked = view.asked
    shapes = [report.parse_shape(g) for g in asked.groups.split(",")] if asked.groups else None
    rows = report.collective_rows(
        view.after,
        cast("Any", _kinds(asked.kinds)),
        shapes or report.default_shapes(view.after),
        [positive_bytes(s, "--sizes") for s in asked.sizes.split(",")],
        policy=view.route,
        level=asked.level,
        algorithm=asked.algorithm,
    )
    return [dataclasses.asdict(r) | {"closed_form_off": r.closed_form_off} for r in rows]


def _measured(view: View) -> dict[str, Any]:
    rows = curves.residuals(view.after.name)
    return {
        "summary": curves.error_summary(rows),
        "points": [dataclasses.asdict(r.point) | {"predicted_s": r.seconds, "error": r.error} for r in rows],
        "pairs": [dataclasses.asdict(r) | {"error": r.error} for r in whatif.pair_rows(view.after)],
    }


def _placements(view: View) -> list[dict[str, Any]]:
    largest = positive_bytes(view.asked.sizes.split(",")[-1], "--sizes")
    axes = _axes(view.asked.placements or "")
    rows = report.placement_rows(view.after, axes, "all_reduce", largest, policy=view.route)
    return [dataclasses.asdict(r) for r in rows]


def _matrix(view: View) -> dict[str, Any]:
    found = whatif.tier_matrix(view.after, view.route)
    return {
        "devices": list(found.devices),
        "bytes_per_s": found.bytes_per_s.tolist(),
        "latency_s": found.latency_s.tolist(),
    }


def _load(view: View) -> list[dict[str, Any]]:
    flows = traffic.all_to_all(np.arange(view.after.num_devices)[None, :], view.asked.num_bytes)
    return [dataclasses.asdict(r) for r in whatif.load_rows(view.after, flows, view.route)]


def _jobs(view: View) -> list[dict[str, Any]]:
    rows = whatif.job_rows(view.after, (view.asked.jobs or "").split(","), view.asked.num_bytes, view.route)
    return [dataclasses.asdict(r) | {"slowdown": r.slowdown} for r in rows]


def _expert_rows(view: View) -> list[dict[str, Any]]:
    ranks, router, tokens, hidden = _experts(view.asked.experts or "", view.asked.seed)
    rows = whatif.expert_rows(
        view.after, ranks, router, tokens_per_rank=tokens, hidden=hidden, policy=view.route
    )
    return [dataclasses.asdict(r) for r in rows]


# what each option adds to the answer, in this order
ANSWERS: dict[str, Callable[[View], Any]] = {
    "failures": _failures,
    "collectives": _collectives,
    "measured": _measured,
    "placements": _placements,
    "matrix": _matrix,
    "load": _load,
    "jobs": _jobs,
    "experts": _expert_rows,
}


def positive_bytes(text: str, option: str) -> float:
    value = parse_quantity(text, "bytes", where=option)
    if value <= 0:
        raise ScenarioError(f"{text!r} is not above zero", where=option, expected='a size as "16 MiB"')
    return value


def _kinds(text: str) -> tuple[str, ...]:
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


def _experts(text: str, seed: int) -> tuple[int, Router, int, int]:
    """Ranks, router, tokens per rank and hidden size of ``--experts``."""
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

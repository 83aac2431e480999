"""Fits the constants of collectives to measured curves, all terms of one fabric together, never a point by itself.

The structure (which algorithm exists where, what may move, what is assumed or taken from a like fabric) is in
``data/profiles/collectives_start.toml``; the result is ``data/profiles/collectives.json``.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fullmesh.calibrate.collectives.curves import fit_times, gather
from fullmesh.calibrate.collectives.points import TABLES, Curve, read_curves
from fullmesh.catalog.facts import load_facts
from fullmesh.cost.collectives.algorithms import collective_s
from fullmesh.cost.collectives.constants import PROFILE, Column, Fabric, parse_profile
from fullmesh.cost.collectives.experts import experts_s
from fullmesh.errors import CatalogError, ResultsError
from fullmesh.files import write_text
from fullmesh.machine import load_machine
from fullmesh.reading import read_toml

START = PROFILE.with_name("collectives_start.toml")
#: Bounds of what may be fitted: physical (a share is at most one) or wide enough never to bind without reason.
BOUNDS = {
    "fraction": (0.01, 1.0),
    "spread": (0.0, 3.0),
    "crowd": (0.0, 1.0),
    "launch_s": (1e-7, 2e-4),
    "step_s": (1e-9, 5e-5),
    "token_s": (1e-13, 1e-7),
    "ramp_s": (1e-9, 1e-3),
    "power": (0.15, 0.95),
    "serial": (0.0, 1.0),
    "blend": (1.0, 12.0),
}
#: Few ranks use a port much less well in an exchange of experts; more ranks are hit as the group grows.
EXPERT_SPREAD = 8.0
#: Weight of the start values, in units of log residuals: only decides what the points leave open.
PRIOR_WEIGHT = 0.003
#: Relative error beyond which a point pulls linearly instead of quadratically.
SOFT = 0.05
#: Where a spread or crowding that the structure leaves out begins.
BEGIN = 0.02
HARNESS_BEGIN_S = 1.5e-5
#: Constants that describe the physics of a term, as opposed to which term it is.
CONSTANTS = tuple(BOUNDS)
#: Size from which the library takes in-switch reduction on eight Hopper GPUs (logged; stas00/ml-engineering @744d01e).
NVLS_SWITCH = 1 << 21
Document = dict[str, Any]


@dataclasses.dataclass(frozen=True, slots=True)
class _Knob:
    fabric: int
    group: str
    index: int
    name: str


def read_start(path: Path = START) -> Document:
    """The structure of the profile.

    Raises
    ------
    CatalogError
        The file cannot be read.
    """
    return read_toml(path, what="the structure of the collectives", error=CatalogError)[0]


def _find(document: Document, reference: str, home: Document) -> Document:
    fabric_id, _, rest = reference.rpartition(":")
    fabric = next(f for f in document["fabric"] if f["id"] == fabric_id) if fabric_id else home
    kind, _, name = rest.partition("/")
    term: Document = next(t for t in fabric["terms"] if t["kind"] == kind and t["algorithm"] == name)
    return term


def resolve(document: Document) -> Document:
    """A profile document in which tied and like terms hold the constants that they take from others."""
    fabrics = {f["id"]: f for f in document["fabric"]}
    resolved = []
    for fabric in document["fabric"]:
        home = fabrics[fabric["like"]] if "like" in fabric else fabric
        terms = []
        for term in home["terms"]:
            values = dict(term)
            chain = values
            while "tied" in chain:
                chain = _find(document, chain["tied"], home)
            values.update(
                {k: v for k, v in chain.items() if k in CONSTANTS and k != "serial" and k not in values}
            )
            if "fraction_of" in values:
                values["fraction"] = _find(document, values["fraction_of"], home)["fraction"]
            terms.append({k: v for k, v in values.items() if k not in ("tied", "free", "fraction_of")})
        experts = []
        library = fabrics[fabric["experts_like"]] if "experts_like" in fabric else home
        for expert in library.get("experts", ()):
            values = dict(expert)
            if "like" in values:
                other = next(
                    e
                    for e in fabrics[values["like"]]["experts"]
                    if e["phase"] == values["phase"] and e["dispatchers"] == values["dispatchers"]
                )
                values = dict(other)
            experts.append({k: v for k, v in values.items() if k not in ("like", "free")})
        entry = {k: fabric[k] for k in ("vendor", "arch", "kind", "tier")}
        entry["inner_step"] = fabric.get("inner_step", 0.0)
        entry["borrowed_from"] = _borrowed_from(fabric)
        resolved.append({**entry, "terms": terms, "experts": experts})
    return {"schema": 1, "date": document["date"], "fabrics": resolved}


def _borrowed_from(fabric: Document) -> str:
    """The fabric that most constants of another come from, where none of them is its own."""
    if "like" in fabric:
        return str(fabric["like"])
    homes = [str(t.get("tied", "")).rpartition(":")[0] for t in fabric["terms"]]
    return homes[0] if homes and all(homes) else ""


def only(fabrics: Sequence[Fabric], kind: str, name: str) -> tuple[Fabric, ...]:
    """Fabrics in which a collective has only the named algorithm, where it has that one at all."""
    out = []
    for fabric in fabrics:
        named = [t for t in fabric.terms if t.kind == kind and t.algorithm.removesuffix("-ll") == name]
        rest = tuple(t for t in fabric.terms if t.kind != kind or not named)
        out.append(dataclasses.replace(fabric, terms=rest + tuple(named)))
    return tuple(out)


def predict(curve: Curve, fabrics: tuple[Fabric, ...], harness_s: Mapping[str, float]) -> Column:
    """Seconds of the points of a curve."""
    machine = load_machine(curve.machine)
    if curve.num_devices != machine.num_devices:
        machine = machine.resized(curve.num_devices)
    if curve.tokens is not None and curve.hit_ranks is not None and curve.hit_nodes is not None:
        return experts_s(
            machine,
            curve.phase,
            curve.kind,
            curve.tokens,
            curve.num_bytes / np.maximum(curve.tokens, 1.0),
            curve.hit_ranks,
            curve.hit_nodes,
            curve.ranks,
            curve.stride,
            fabrics,
        )
    known = only(fabrics, curve.kind, curve.algorithm) if curve.algorithm else fabrics
    seconds = collective_s(machine, curve.kind, curve.num_bytes, curve.ranks, curve.stride, fabrics=known)
    return seconds + harness_s.get(curve.harness, 0.0)


def _knobs(document: Document, ids: Sequence[str], operation: tuple[str, str]) -> list[_Knob]:
    knobs = []
    for i, fabric in enumerate(document["fabric"]):
        if fabric["id"] in ids:
            for group in ("terms", "experts"):
                for j, term in enumerate(fabric.get(group, ())):
                    names = term["dispatchers"] if group == "experts" else (term["kind"],)
                    if operation[0] in names and operation[1] == term.get("phase", ""):
                        knobs += [_Knob(i, group, j, name) for name in term.get("free", ())]
    return knobs


def _most(document: Document, knob: _Knob) -> float:
    """Upper bound of a constant: the fabric's own, where a source gives one (protocol overhead, latency of a hop)."""
    limits = document["fabric"][knob.fabric].get("most", {})
    if knob.group == "experts" and knob.name == "spread":
        return EXPERT_SPREAD
    return float(limits.get(knob.name, BOUNDS[knob.name][1]))


def _logit(value: Column, low: Column, high: Column) -> Column:
    share = np.clip((value - low) / (high - low), 1e-4, 1.0 - 1e-4)
    return np.asarray(np.log(share / (1.0 - share)))


def _fit_fabrics(
    document: Document,
    ids: Sequence[str],
    operation: tuple[str, str],
    curves: Sequence[Curve],
    harness_s: dict[str, float],
    new: tuple[str, ...],
) -> None:
    """Moves the free constants of an operation on some fabrics, in place, to the least soft error over the curves."""
    from scipy.optimize import least_squares

    knobs = _knobs(document, ids, operation)
    if not knobs:
        return
    low = np.array([BOUNDS[k.name][0] for k in knobs] + [1e-7] * len(new))
    high = np.array([_most(document, k) for k in knobs] + [1e-4] * len(new))
    # seconds span decades and are searched by their logarithm; shares by their distance from both ends
    decades = np.array([k.name.endswith("_s") for k in knobs] + [True] * len(new))

    def encode(x: Column) -> Column:
        lo = np.where(decades, np.log(np.maximum(low, 1e-30)), low)
        hi = np.where(decades, np.log(high), high)
        return _logit(np.where(decades, np.log(np.maximum(x, 1e-30)), x), lo, hi)

    def decode(z: Column) -> Column:
        lo = np.where(decades, np.log(np.maximum(low, 1e-30)), low)
        hi = np.where(decades, np.log(high), high)
        x = lo + (hi - lo) / (1.0 + np.exp(-z))
        return np.where(decades, np.exp(np.where(decades, x, 0.0)), x)

    def write(x: Column) -> None:
        for knob, value in zip(knobs, x, strict=False):
            document["fabric"][knob.fabric][knob.group][knob.index][knob.name] = float(f"{value:.4g}")
        for name, value in zip(new, x[len(knobs) :], strict=True):
            harness_s[name] = float(f"{value:.4g}")

    start = [document["fabric"][k.fabric][k.group][k.index].get(k.name, BEGIN) for k in knobs]
    z0 = encode(np.array([*start, *(harness_s[n] for n in new)]))
    weights = [1.0 / np.sqrt(len(c.seconds)) for c in curves]
    scale = 1.0 / np.mean(weights)

    def residuals(z: Column) -> Column:
        write_full(decode(z))
        fabrics = parse_profile(resolve(document), "start")
        parts = [
            w * scale * _soft(np.log(predict(c, fabrics, harness_s) / c.seconds))
            for c, w in zip(curves, weights, strict=True)
        ]
        return np.concatenate([*parts, PRIOR_WEIGHT * (z - z0), _switch_penalty(ids, operation, fabrics)])

    def write_full(x: Column) -> None:
        for knob, value in zip(knobs, x, strict=False):
            document["fabric"][knob.fabric][knob.group][knob.index][knob.name] = float(value)
        for name, value in zip(new, x[len(knobs) :], strict=True):
            harness_s[name] = float(value)

    result = least_squares(residuals, z0, x_scale=1.0, max_nfev=300)
    write(decode(result.x))


def _soft(error: Column) -> Column:
    """Residuals whose square is the soft-L1 loss, so that a curve's few odd points do not bend it."""
    return np.asarray(np.sign(error) * SOFT * np.sqrt(2.0 * (np.sqrt(1.0 + (error / SOFT) ** 2) - 1.0)))


def _switch_penalty(ids: Sequence[str], operation: tuple[str, str], fabrics: tuple[Fabric, ...]) -> Column:
    """Pulls the crossing of ring and in-switch reduction on eight Hopper GPUs to where the library switches."""
    if "nvlink-sm90" not in ids or operation[0] != "all_reduce":
        return np.zeros(0)
    machine = load_machine("dgx-h200").resized(8)
    sizes = 2.0 ** np.arange(9, NVLS_SWITCH.bit_length())
    ring = np.minimum(
        *(
            collective_s(machine, "all_reduce", sizes, 8, fabrics=_exactly(fabrics, name))
            for name in ("ring", "ring-ll")
        )
    )
    nvls = collective_s(machine, "all_reduce", sizes, 8, fabrics=_exactly(fabrics, "nvls"))
    lead = np.log(nvls / ring) * np.where(sizes < NVLS_SWITCH, 1.0, -1.0)
    return np.maximum(0.02 - lead, 0.0) * 5.0


def _exactly(fabrics: tuple[Fabric, ...], name: str) -> tuple[Fabric, ...]:
    return tuple(
        dataclasses.replace(
            f,
            terms=tuple(
                t for t in f.terms if t.kind != "all_reduce" or t.algorithm == name or f.kind != "switch"
            ),
        )
        for f in fabrics
    )


def _errors(curve: Curve, fabrics: tuple[Fabric, ...], harness_s: Mapping[str, float]) -> Column:
    return np.asarray(np.abs(predict(curve, fabrics, harness_s) / curve.seconds - 1.0))


#: Fabrics fitted together, and the machines whose curves speak of them; later ones build on earlier ones.
STAGES = (
    (("nvlink-sm80",), ("dgx-a100",)),
    (("nvlink-sm90",), ("dgx-h200", "dgx-h100")),
    (("nvlink-sm100",), ("dgx-b200", "gb200-nvl72")),
    (("infiniband",), ("dgx-a100", "dgx-b200", "dgx-h100", "h800-cluster")),
    (("ub", "package"), ("cloudmatrix384",)),
)


def _crosses(curve: Curve) -> bool:
    """Whether a curve's groups leave the scale-up domain."""
    return bool(curve.ranks.max() > load_machine(curve.machine).scale_up_devices)


def fit_collectives(folder: Path) -> Document:
    """Fit all constants.

    Parameters
    ----------
    folder : Path
        Folder with ``nccl_intra_node.csv``, ``deepep_normal_h100.csv``, ``deepep_low_latency_h100.csv`` and
        ``nvl72_moe_alltoall.csv``; the published
        points that are shipped are always used.

    Returns
    -------
    dict
        The profile: ``fabrics`` with their constants, the starts added by ways of measuring (``harness_s``), per curve
        whether it was fitted on and the errors, shares of the line rate (``links``) and curves of measured times
        (``times``) for the wired graph. The same tables and library versions give the same profile.

    Raises
    ------
    ResultsError
        A table is missing or cannot be read.
    """
    missing = [name for name in TABLES if not (folder / name).is_file()]
    if missing:
        raise ResultsError(
            "tables to fit on are missing: " + ", ".join(missing),
            where=str(folder),
            expected=", ".join(TABLES),
        )
    curves = read_curves(folder)
    times, _ = fit_times(gather(folder))
    document = read_start()
    harness_s: dict[str, float] = {}
    for ids, machines in STAGES:
        rail = ids == ("infiniband",)
        chosen = [c for c in curves if c.role == "fit" and c.machine in machines and _crosses(c) == rail]
        # operations share no free constant, so each is a small fit of its own
        for operation in sorted({(c.kind, c.phase) for c in chosen}):
            some = [c for c in chosen if (c.kind, c.phase) == operation]
            new = tuple(sorted({c.harness for c in some} - set(harness_s) - {""}))
            harness_s.update(dict.fromkeys(new, HARNESS_BEGIN_S))
            _fit_fabrics(document, ids, operation, some, harness_s, new)
    profile = resolve(document)
    fabrics = parse_profile(profile, "fit")
    profile["harness_s"] = dict(sorted(harness_s.items()))
    profile["method"] = (
        "soft-L1 least squares of log seconds, curves weighing the same; see collectives_start.toml"
    )
    for entry, source in zip(profile["fabrics"], document["fabric"], strict=True):
        entry["evidence"] = source["note"]
    profile["curves"] = [_summary(c, fabrics, harness_s) for c in curves]
    profile["links"] = fit_links(document, curves)
    profile["times"] = times
    profile["residuals"] = {role: _overall(curves, role, fabrics, harness_s) for role in ("fit", "hold")}
    return profile


def fit_links(document: Document, curves: Sequence[Curve]) -> list[Document]:
    """Share of the line rate that every tier of ``[[link]]`` reaches, from measured facts and published curves.

    Raises
    ------
    CatalogError
        No such machine, tier or fact.
    """
    out = []
    for entry in document["link"]:
        machine = load_machine(entry["machine"])
        tier = next((t for t in machine.tiers if t.name == entry["tier"]), None)
        if tier is None:
            raise CatalogError(f"{machine.id} has no tier {entry['tier']!r}", where=START.name)
        efficiency, evidence = entry.get("assumed", 1.0), "assumed" if "assumed" in entry else "line rate"
        if "reached" in entry:
            fact = load_facts().used(*entry["reached"].split("/"), where=START.name)
            efficiency = round(fact.si_value / tier.bytes_per_s, 4)
            evidence = f"{fact.value:g} {fact.unit} of {tier.bytes_per_s / 1e9:g} GB/s: {fact.source}"
        reduction = _reduction_share(curves, entry["reduction"], tier.name) if "reduction" in entry else 1.0
        notes = [evidence, *([f"reductions: {entry['reduction']}"] if "reduction" in entry else [])]
        out.append(
            {
                "machine": machine.id,
                "tier": tier.name,
                "kind": tier.kind,
                "vendor": machine.chip.vendor,
                "arch": machine.chip.arch,
                "chip": machine.chip.id,
                "num_devices": tier.full_num_devices,
                "efficiency": efficiency,
                "reduction_efficiency": reduction,
                "measured": "reached" in entry,
                "evidence": "; ".join([*notes, *([entry["note"]] if "note" in entry else [])]),
            }
        )
    return out


def _reduction_share(curves: Sequence[Curve], name: str, tier: str) -> float:
    """Largest share of the line rate inside switches that reduce, where n (p + 1) / p bytes pass a port each way."""
    curve = next((c for c in curves if c.name == name and c.kind == "all_reduce"), None)
    if curve is None:
        raise CatalogError(f"no published curve is called {name!r}", where=START.name)
    line = next(t.bytes_per_s for t in load_machine(curve.machine).tiers if t.name == tier)
    wire = curve.num_bytes * (curve.ranks + 1.0) / curve.ranks
    return round(float((wire / curve.seconds).max()) / line, 3)


def _overall(
    curves: Sequence[Curve], role: str, fabrics: tuple[Fabric, ...], harness_s: Mapping[str, float]
) -> Document:
    error = np.concatenate([_errors(c, fabrics, harness_s) for c in curves if c.role == role])
    return {
        "points": len(error),
        "median_error": round(float(np.median(error)), 4),
        "p90_error": round(float(np.quantile(error, 0.9)), 4),
    }


def _summary(curve: Curve, fabrics: tuple[Fabric, ...], harness_s: Mapping[str, float]) -> Document:
    error = _errors(curve, fabrics, harness_s)
    what = f"{curve.kind} {curve.phase}".strip() + (f" ({curve.algorithm})" if curve.algorithm else "")
    return {
        "curve": curve.name,
        "what": what,
        "machine": curve.machine,
        "role": curve.role,
        "points": len(error),
        "median_error": round(float(np.median(error)), 4),
        "p90_error": round(float(np.quantile(error, 0.9)), 4),
        "source": curve.source,
    }


def write_profile(profile: Document, path: Path = PROFILE) -> None:
    """Write a profile whole or not at all, one term, link or curve a line."""
    parse_profile(profile, "fit")
    write_text(path, _lines(profile) + "\n")


def _lines(value: Any, depth: int = 0) -> str:
    """JSON with every innermost object on a line of its own."""
    inner = list(value.values()) if isinstance(value, dict) else value if isinstance(value, list) else []
    if not any(isinstance(v, dict | list) for v in inner) or not inner:
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, dict):
        rows = [f"{json.dumps(k)}: {_lines(v, depth + 1)}" for k, v in value.items()]
        opening, closing = "{}"
    else:
        rows = [_lines(v, depth + 1) for v in inner]
        opening, closing = "[]"
    margin = " " * (depth + 1)
    return opening + "\n" + ",\n".join(margin + row for row in rows) + "\n" + " " * depth + closing

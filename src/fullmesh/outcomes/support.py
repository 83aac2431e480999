"""Which plans published results speak for: attributes of plans, and the pairs of them that some result has.

A model is trusted where pairs of attributes have been seen together on chips with the same cores, for the same kind of
model. What was never seen together is said in words, and makes a prediction less sure.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib.resources
import itertools
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from fullmesh.cost.effects import architecture_of, cores_of
from fullmesh.cost.uncertainty import read_arrays
from fullmesh.machine import Machine
from fullmesh.plan import CUDA_GRAPHS, DISPATCHERS, RECIPES, RECOMPUTES, SCHEDULES, Plan, Plans
from fullmesh.plan.plan import MODULES
from fullmesh.workload import ModelSpec

Bools = npt.NDArray[np.bool_]
# Deviation of the logarithm of the step time for each pair that no result has, and how many pairs count at most.
# Predicted without their publisher, results that miss none scatter by 14.8 % (root mean square), those that miss one or
# two by 19.0 %, those that miss 21 and more by 34.7 %, which is what ten pairs make of it.
DEVIATION_PER_PAIR = 0.1
MOST_PAIRS = 10
# By how much a predicted use of the peak may exceed the best published one before the result says so.
MFU_MARGIN = 0.05
# Pairs that count as missing for a setting that no result has at all: a value never seen has none of its pairs.
PAIRS_OF_A_SETTING = MOST_PAIRS
# What is known: for cores and kind of model, the pairs of attribute values that some result has.
Known = Mapping[str, frozenset[tuple[str, str]]]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Attribute:
    """One attribute of plans: its values in words, and which of them each plan has, shape ``(num_plans,)``."""

    values: tuple[str, ...]
    code: npt.NDArray[np.int64]


def attributes(model: ModelSpec, machine: Machine, p: Plans) -> tuple[Attribute, ...]:
    """What published results are compared by; an empty word is an attribute that a plan does not have."""
    domain = machine.scale_up_devices

    def where(size: npt.NDArray[np.int64], name: str) -> Attribute:
        code = np.select([size <= 1, size <= 8, size <= domain], [0, 1, 2], 3)
        words = ("", f"{name} up to 8", f"{name} beyond 8 in one domain", f"{name} across domains")
        return Attribute(values=words, code=code)

    def either(flag: Bools, yes: str) -> Attribute:
        return Attribute(values=("", yes), code=flag.astype(np.int64))

    exchanged = (p.ep > 1).astype(np.int64)
    return (
        Attribute(values=(f"layers {architecture_of(model)}",), code=np.zeros(len(p), dtype=np.int64)),
        Attribute(values=tuple(f"precision {name}" for name in RECIPES), code=p.precision),
        Attribute(values=("ZeRO up to 1", "ZeRO-2", "ZeRO-3"), code=np.maximum(p.zero - 1, 0)),
        where(p.tp, "TP"),
        either(p.cp > 1, "context parallelism"),
        either(p.pp > 1, "pipeline"),
        either((p.pp > 1) & (p.vpp > 1), "virtual stages"),
        where(p.ep, "EP"),
        either(p.etp > 1, "expert tensor parallelism"),
        Attribute(
            values=("", *(f"dispatcher {name}" for name in DISPATCHERS)), code=exchanged * (p.dispatcher + 1)
        ),
        either((p.ep > 1) & p.ep_overlap, "expert overlap"),
        Attribute(values=("", *(f"{name} recompute" for name in RECOMPUTES[1:])), code=p.recompute),
        Attribute(values=("", *(f"{name} graph" for name in CUDA_GRAPHS[1:])), code=p.cuda_graph),
        Attribute(
            values=("", *SCHEDULES[1:]), code=np.where(p.pp > 1, p.schedule, 0)
        ),
        either(p.offload_optimizer > 0, "optimizer in host memory"),
    )  # fmt: skip


def key_of(model: ModelSpec, machine: Machine) -> str:
    """Cores and kind of model, by which results are gathered."""
    return f"{cores_of(machine.chip)}|{'moe' if model.is_moe else 'dense'}"


def seen_pairs(model: ModelSpec, machine: Machine, plans: Plans) -> set[tuple[str, str]]:
    """Pairs of attribute values that some of these plans have together."""
    columns = attributes(model, machine, plans)
    out: set[tuple[str, str]] = set()
    for a, b in itertools.combinations(columns, 2):
        for i, j in set(zip(a.code.tolist(), b.code.tolist(), strict=True)):
            out.add((a.values[i], b.values[j]))
    return out


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Neighbour:
    """A published result that a plan may be told to be near to: what ran, and its attributes in words."""

    key: str
    id: str
    model: str
    device: str
    devices: int
    values: tuple[str, ...]


_COLUMNS = tuple(f.name for f in dataclasses.fields(Neighbour))


def neighbour_arrays(found: Sequence[Neighbour]) -> dict[str, npt.NDArray[np.generic]]:
    """Results as arrays of the compressed file of the fit, a column a field."""
    return {f"neighbour_{name}": np.array([getattr(n, name) for n in found]) for name in _COLUMNS}


@functools.cache
def load_neighbours() -> tuple[Neighbour, ...]:
    """The results that the shipped profile was fitted on."""
    arrays = read_arrays("step_fits.npz", *(f"neighbour_{name}" for name in _COLUMNS))
    if not arrays:
        return ()
    columns = [arrays[f"neighbour_{name}"].tolist() for name in _COLUMNS]
    return tuple(
        Neighbour(key=key, id=id_, model=model, device=device, devices=devices, values=tuple(values))
        for key, id_, model, device, devices, values in zip(*columns, strict=True)
    )


@functools.cache
def _document() -> Mapping[str, Any]:
    path = importlib.resources.files("fullmesh.data").joinpath("profiles/support.json")
    document: Mapping[str, Any] = json.loads(path.read_text("utf-8")) if path.is_file() else {}
    return document


@functools.cache
def load_known() -> Known:
    """The pairs of the published results that the shipped profile was fitted on."""
    pairs = _document().get("pairs", {})
    return {key: frozenset((a, b) for a, b in found) for key, found in pairs.items()}


def above_published(model: ModelSpec, machine: Machine, precision: str, mfu: float) -> str:
    """A sentence where a predicted use of the peak lies above every published one like it, empty elsewhere."""
    best = _document().get("best_mfu", {}).get(f"{key_of(model, machine)}|{precision}")
    if best is None or mfu <= (1.0 + MFU_MARGIN) * best:
        return ""
    kind = "mixture of experts" if model.is_moe else "dense model"
    return (
        f"MFU {mfu:.1%} is above the best that a published run of a {kind} in {precision} reached on such cores, "
        f"{best:.1%}"
    )


def values_of(model: ModelSpec, machine: Machine, plan: Plan) -> tuple[str, ...]:
    """The words for a plan's attributes, empty for those that it does not have."""
    return tuple(a.values[int(a.code[0])] for a in attributes(model, machine, Plans.of([plan])))


def nearest(model: ModelSpec, machine: Machine, plan: Plan) -> str:
    """The published result that a plan has most attributes in common with, and where they differ, in one phrase.

    Among equals the one nearest in devices. Empty without a result on such cores for such a model.
    """
    key, values = key_of(model, machine), values_of(model, machine, plan)

    def distance(result: Neighbour) -> tuple[int, float]:
        differ = sum(a != b for a, b in zip(values, result.values, strict=True))
        return differ, abs(math.log(result.devices / plan.num_devices))

    found = min((n for n in load_neighbours() if n.key == key), key=distance, default=None)
    if found is None:
        return ""
    apart = [a or f"no {b}" for a, b in zip(values, found.values, strict=True) if a != b]
    who = f"{found.id}, {found.model} on {found.devices:,} {found.device}"
    return who + (f", which differs in {len(apart)}: {'; '.join(apart)}" if apart else ", of the same kind")


def longest_published() -> Mapping[str, int]:
    """Tokens of the longest sequence that a published result has, by cores."""
    found: Mapping[str, int] = _document().get("longest_seq", {})
    return found


def beyond_published(machine: Machine, seq: int) -> str:
    """A sentence where no published result on such cores has a sequence of that length, empty elsewhere."""
    found = longest_published()
    longest, where = found.get(cores_of(machine.chip), 0), "on such cores"
    if not longest:
        longest, where = max(found.values(), default=0), "on any chip"
    if seq <= longest:
        return ""
    return f"no published result {where} with a sequence beyond {longest:,} tokens; this one has {seq:,}"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Tried:
    """How far published results of a key go where attributes do not look.

    Parameters
    ----------
    modules : tuple of tuple of str
        Sets of modules that selective recompute named.
    share : bool
        Whether full recompute took a part of the layers.
    micro_batch, chunks : int
        Most sequences of a micro-batch, and most chunks of a pipeline rank.
    """

    modules: tuple[tuple[str, ...], ...] = ()
    share: bool = False
    micro_batch: int = 0
    chunks: int = 0


def tried_by(plans: Sequence[Plan]) -> Tried:
    """How far these plans go."""
    # naming no module means the attention core
    named = {
        tuple(sorted(p.recompute_modules or ("core_attn",))) for p in plans if p.recompute == "selective"
    }
    return Tried(
        modules=tuple(sorted(named)),
        share=any(p.recompute == "full" and p.recompute_fraction < 1.0 for p in plans),
        micro_batch=max((p.mbs for p in plans), default=0),
        chunks=max((p.vpp for p in plans), default=0),
    )


@functools.cache
def load_tried() -> Mapping[str, Tried]:
    """How far the published results went that the shipped profile was fitted on."""
    return {
        key: Tried(**{**found, "modules": tuple(tuple(names) for names in found["modules"])})
        for key, found in _document().get("tried", {}).items()
    }


def untried(model: ModelSpec, machine: Machine, p: Plans) -> tuple[tuple[str, Bools], ...]:
    """Settings of plans that go beyond every published result, in words, and which plans have them.

    Nothing is said of cores and kinds of model without any result: there every pair is missing already.
    """
    found = load_tried().get(key_of(model, machine))
    if found is None:
        return ()
    selective = p.recompute == RECOMPUTES.index("selective")
    seen = sum(1 << i for i, name in enumerate(MODULES) if any(name in names for names in found.modules))
    partial = (p.recompute == RECOMPUTES.index("full")) & (p.recompute_fraction < 1.0)
    named = np.where(p.recompute_modules == 0, 1 << MODULES.index("core_attn"), p.recompute_modules)
    return (
        ("selective recompute of such modules", selective & ((named & ~seen) != 0)),
        ("full recompute of a part of the layers", partial & (not found.share)),
        (f"a micro-batch beyond {found.micro_batch}", p.mbs > found.micro_batch),
        (f"more than {found.chunks} chunks a rank", (p.pp > 1) & (p.vpp > found.chunks)),
    )


def num_missing(
    model: ModelSpec, machine: Machine, plans: Plans, known: Known | None = None
) -> npt.NDArray[np.int64]:
    """Pairs of attributes of every plan that no result has, shape ``(num_plans,)``.

    With the shipped results also what none of them tried, as so many pairs (:func:`untried`).
    """
    pairs = (load_known() if known is None else known).get(key_of(model, machine), frozenset())
    columns = attributes(model, machine, plans)
    missing = np.zeros(len(plans), dtype=np.int64)
    for a, b in itertools.combinations(columns, 2):
        table = np.array([[(x, y) not in pairs for y in b.values] for x in a.values], dtype=np.int64)
        missing += table[a.code, b.code]
    if known is None:
        for _, beyond in untried(model, machine, plans):
            missing += PAIRS_OF_A_SETTING * beyond
    return missing


def missing_variance(missing: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Variance of the logarithm of the step time that pairs without a result add, by their number."""
    out: npt.NDArray[np.float64] = DEVIATION_PER_PAIR**2 * np.minimum(missing, MOST_PAIRS)
    return out


def missing_words(
    model: ModelSpec, machine: Machine, plan: Plan, known: Known | None = None
) -> tuple[str, ...]:
    """What of a plan no published result has, in words: attributes alone, and pairs of those that are known alone."""
    pairs = (load_known() if known is None else known).get(key_of(model, machine), frozenset())
    alone = {word for pair in pairs for word in pair}
    values = values_of(model, machine, plan)
    never = [v for v in values if v and v not in alone]
    apart = [
        f"{a} with {b}"
        for a, b in itertools.combinations(values, 2)
        if a and b and a not in never and b not in never and (a, b) not in pairs
    ]
    if known is None:
        never += [words for words, beyond in untried(model, machine, Plans.of([plan])) if beyond[0]]
    return (*never, *apart)

"""Terms of the step and memory models: priors, settings, fitted effects.

A term is a number such as "host seconds a launch" or "share of tensor-parallel traffic that hides". Its value in a
setting is its prior times the exponential of fitted effects that all rows with the same attribute share (on the logit
scale for shares). Priors are data (``data/profiles/*_priors.toml``); effects are fitted over all published results
together and lie in ``data/profiles/step.json``.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib.resources
import json
import tomllib
from collections.abc import Collection, Mapping, Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt

from fullmesh.cost.overlay import Overlay
from fullmesh.machine import Chip, Machine
from fullmesh.plan import CUDA_GRAPHS, DISPATCHERS, Plans
from fullmesh.plan.plan import KERNELS, PRECISIONS
from fullmesh.workload import ModelSpec

Floats = npt.NDArray[np.float64]
Model = Literal["step", "memory"]

#: What stands where nobody stated an attribute. It is no value: its effects are uncertain, never estimated.
UNKNOWN = "unknown"
# Effects are clipped here so that no sum of them leaves the plausible; a fit never comes near.
EFFECT_LIMIT = 6.0
# How sharply a term stops at its least value: within a few per cent of it.
SHARPNESS = 30.0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Term:
    """One term with its prior."""

    name: str
    form: str
    base: float
    levels: tuple[tuple[tuple[str, ...], float], ...]
    note: str
    offsets: tuple[tuple[str, str, float], ...] = ()
    least: float = 0.0

    def offset(self, setting: Setting) -> float:
        """What is assumed of a setting before any result is seen, in the units of effects."""
        return sum(value for name, at, value in self.offsets if getattr(setting, name) == at)


@functools.lru_cache(maxsize=2)
def load_terms(model: Model) -> tuple[Term, ...]:
    """The terms of a model, read from its priors."""
    resource = importlib.resources.files("fullmesh.data").joinpath(f"profiles/{model}_priors.toml")
    out = []
    for name, table in tomllib.loads(resource.read_text("utf-8")).items():
        levels = tuple(
            (tuple(attribute for attribute in key.split("+") if attribute), float(sd))
            for key, sd in table["levels"].items()
        )
        out.append(
            Term(
                name=name,
                form=table["form"],
                base=float(table["base"]),
                levels=levels,
                note=table["note"],
                least=float(table.get("least", 0.0)),
                offsets=tuple((*key.split("="), float(v)) for key, v in table.get("offsets", {}).items()),
            )
        )
    return tuple(out)


@functools.lru_cache(maxsize=2)
def term_index(model: Model) -> dict[str, int]:
    """Position of each term."""
    return {term.name: i for i, term in enumerate(load_terms(model))}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """What an effect may depend on: attributes that many rows share.

    ``publisher`` is who measured a published result; a prediction for somebody else has none.
    """

    family: str
    cores: str
    die: str
    precision: str
    framework: str
    stack: str
    graph: str
    compiled: str
    dispatcher: str
    grouped: str
    architecture: str
    kernels: str = UNKNOWN
    publisher: str = ""


def cores_of(chip: Chip) -> str:
    """Chips whose kernels behave alike. Both Ascend generations of one core share it; their fabrics differ."""
    return chip.arch if chip.vendor == "huawei" else chip.family


def architecture_of(model: ModelSpec) -> str:
    """Class of layers whose kernels differ.

    ``mla``, ``sinks`` (attention sinks and biased experts), ``hybrid`` (state-space or linear mixers) or ``gqa``.
    """
    families = {layer.mixer.family for layer in model.kinds if layer.mixer is not None}
    return next((name for name in ("hybrid", "mla", "sinks") if name in families), "gqa")


def settings_of(
    model: ModelSpec, machine: Machine, plans: Plans, publishers: Sequence[str] | None = None
) -> tuple[tuple[Setting, ...], npt.NDArray[np.intp]]:
    """The distinct settings of the plans, and which one each plan has.

    ``publishers`` says who measured each plan, where somebody has.
    """
    who = np.array(publishers if publishers is not None else [""] * len(plans), dtype=np.str_)
    keys = np.stack(
        [
            plans.precision,
            plans.cuda_graph,
            plans.compiled.astype(np.int64),
            plans.dispatcher,
            plans.grouped_experts.astype(np.int64),
            plans.kernels,
            np.unique(plans.stack, return_inverse=True)[1].astype(np.int64).reshape(-1),
            np.unique(who, return_inverse=True)[1].astype(np.int64).reshape(-1),
        ],
        axis=1,
    )
    _, first, inverse = np.unique(keys, axis=0, return_index=True, return_inverse=True)
    settings = tuple(
        Setting(
            family=machine.chip.family,
            cores=cores_of(machine.chip),
            die=machine.chip.die or machine.chip.id,
            precision=PRECISIONS[int(plans.precision[i])],
            framework=str(plans.stack[i]).split("-")[0],
            stack=str(plans.stack[i]),
            graph=CUDA_GRAPHS[int(plans.cuda_graph[i])],
            compiled="compiled" if plans.compiled[i] else "eager",
            dispatcher=DISPATCHERS[int(plans.dispatcher[i])],
            grouped="grouped" if plans.grouped_experts[i] else "looped",
            architecture=architecture_of(model),
            kernels=KERNELS[int(plans.kernels[i])],
            publisher=str(who[i]),
        )
        for i in first
    )
    return settings, inverse.reshape(-1)


def effect_keys(term: Term, setting: Setting) -> list[tuple[str, float]]:
    """Names and prior deviations of the effects that apply to a term in a setting."""
    return [
        ("|".join([term.name, *(f"{a}={getattr(setting, a)}" for a in attributes)]), sd)
        for attributes, sd in term.levels
    ]


@functools.lru_cache(maxsize=4096)
def _keys(model: Model, setting: Setting) -> tuple[tuple[float, tuple[str, ...]], ...]:
    """Offset and names of the effects of every term in a setting: many profiles are laid over the same settings."""
    return tuple(
        (term.offset(setting), tuple(key for key, _ in effect_keys(term, setting)))
        for term in load_terms(model)
    )


def is_open(name: str) -> bool:
    """Whether an effect is of something that nobody stated: it is not estimated, but counts as uncertain."""
    return f"={UNKNOWN}" in name


def seen_as(name: str, known: Collection[str]) -> str:
    """The effect that stands for one: FP16 runs on the same units as BF16 and takes its effect where it has none."""
    return name if name in known else name.replace("precision=fp16", "precision=bf16")


def level_of(name: str) -> str:
    """The level that an effect belongs to: its term and the attributes that it depends on, without their values."""
    return "|".join(part.split("=")[0] for part in name.split("|"))


def transform(model: Model, summed: Floats) -> Floats:
    """Turn summed effects into values of the terms: ``base * exp(x)``, or a share on the logit scale.

    A term with a least value nears it smoothly: work in a model is not faster than its kernel alone, by more than
    measurements of kernels differ.
    """
    terms = load_terms(model)
    base = np.array([t.base for t in terms])
    share = np.array([t.form == "share" for t in terms])
    safe = np.where(share, base, 0.5)
    logit = np.log(safe / (1.0 - safe))
    x = np.clip(summed, -EFFECT_LIMIT, EFFECT_LIMIT)
    out: Floats = np.where(share, 1.0 / (1.0 + np.exp(-(logit + x))), base * np.exp(x))
    least = np.array([t.least for t in terms])
    above = np.where(least > 0.0, out / np.where(least > 0.0, least, 1.0) - 1.0, 0.0)
    held: Floats = np.where(
        least > 0.0, least * (1.0 + np.logaddexp(0.0, SHARPNESS * above) / SHARPNESS), out
    )
    return held


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class TermTable:
    """Values of all terms for every plan, shape ``(num_plans, num_terms)``."""

    model: Model
    values: Floats

    def column(self, name: str) -> Floats:
        """Values of one term, shape ``(num_plans,)``."""
        out: Floats = self.values[:, term_index(self.model)[name]]
        return out


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class EffectProfile:
    """Fitted effects by name, with what they were fitted on.

    Parameters
    ----------
    effects : mapping of str to float
    provenance : mapping
    spread : mapping of str to float
        Standard deviation of the effects of a level (see :func:`level_of`) over the values that were seen: what an
        effect of a value never seen may be.
    kernels : mapping of str to sequence of str
        Whose kernels some result has, by cores.
    """

    effects: Mapping[str, float]
    provenance: Mapping[str, object]
    spread: Mapping[str, float] = dataclasses.field(default_factory=dict)
    kernels: Mapping[str, Sequence[str]] = dataclasses.field(default_factory=dict)

    def seen(self, setting: Setting) -> Setting:
        """A setting as far as results speak of it: kernels that were never seen on these cores count as unknown.

        What kernels gain was seen on the cores that they were written for, and older ones with results of their own
        need not gain as much. Cores without any result take it over, as they take over the kernels themselves.
        """
        if setting.kernels in self.kernels.get(setting.cores, (setting.kernels,)):
            return setting
        return dataclasses.replace(setting, kernels=UNKNOWN)

    def summed(self, model: Model, setting: Setting) -> list[float]:
        """Sum of the effects of every term in a setting."""
        return [
            offset + sum([self.effects.get(seen_as(key, self.effects), 0.0) for key in keys])
            for offset, keys in _keys(model, self.seen(setting))
        ]

    def deviation(self, name: str, expected: float) -> float:
        """How far an effect that was never seen may lie from zero; ``expected`` where nothing was fitted."""
        return self.spread.get(level_of(name), expected)

    def table(self, model: Model, settings: Sequence[Setting], index: npt.NDArray[np.intp]) -> TermTable:
        """Terms of every plan, given the distinct settings and which one each plan has."""
        summed = np.array([self.summed(model, s) for s in settings])
        return TermTable(model=model, values=transform(model, summed)[index])


EFFECTS: Overlay[EffectProfile] = Overlay("effects")


def load_effects() -> EffectProfile:
    """The effects in use: the shipped ones, unless others are laid over them; without a file, the priors alone."""
    return EFFECTS.get() or _shipped_effects()


@functools.lru_cache(maxsize=1)
def _shipped_effects() -> EffectProfile:
    path = importlib.resources.files("fullmesh.data").joinpath("profiles/step.json")
    if not path.is_file():
        return EffectProfile(effects={}, provenance={})
    data = json.loads(path.read_text("utf-8"))
    return EffectProfile(
        effects=data["effects"],
        provenance=data["provenance"],
        spread=data["spread"],
        kernels=data["kernels"],
    )


def known_stacks() -> tuple[str, ...]:
    """Software stacks that the results in use taught something about, in order."""
    parts = {part for key in load_effects().effects for part in key.split("|")}
    return tuple(sorted(part.removeprefix("stack=") for part in parts if part.startswith("stack=")))

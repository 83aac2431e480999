"""A model as a reader would describe it: layers, parameters, what of its configuration was read and what was not."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from fullmesh.workload.layers import FeedForward, Mixer
from fullmesh.workload.parameters import LayerParameters, ParameterCounts, layer_parameters, parameter_counts
from fullmesh.workload.readers import shipped
from fullmesh.workload.readers.config import Config
from fullmesh.workload.readers.huggingface import read_model
from fullmesh.workload.readers.keys import unread
from fullmesh.workload.spec import Layer, ModelSpec

# In a message and a table, a list of this length is cut.
_LONG = 8


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class LayerGroup:
    """Layers of one kind: where they stand, what they are, their parameters."""

    at: tuple[int, ...]
    layer: Layer
    parameters: LayerParameters

    @property
    def where(self) -> str:
        """``(0, 1, 2, 5)`` as ``0-2,5``; of a long order the beginning."""
        parts: list[list[int]] = []
        for n in self.at:
            if parts and parts[-1][1] == n - 1:
                parts[-1][1] = n
            else:
                parts.append([n, n])
        texts = [str(a) if a == b else f"{a}-{b}" for a, b in parts]
        return ",".join(texts if len(texts) <= _LONG else [*texts[: _LONG - 1], "..."])


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ModelDescription:
    """One model.

    Parameters
    ----------
    model : ModelSpec
    counts : ParameterCounts
    groups : tuple of LayerGroup
        By kind, in the order of their first layer.
    read, not_read : dict
        Keys of the configuration with their values.
    assumed : dict
        What was used for keys that are absent.
    entry : ShippedModel, optional
        The facts of a shipped model: aliases, published counts, source.
    """

    model: ModelSpec
    counts: ParameterCounts
    groups: tuple[LayerGroup, ...]
    read: dict[str, Any]
    not_read: dict[str, Any]
    assumed: dict[str, object]
    entry: shipped.ShippedModel | None


def describe_model(name_or_path: str | Path) -> ModelDescription:
    """Everything about one model.

    Raises
    ------
    ModelError
        The model is unknown, or its configuration is wrong.
    """
    model, c = read_model(name_or_path)
    entry = shipped.find(model.id)
    if entry is not None and c.where != entry.where:
        entry = None
    return ModelDescription(
        model=model,
        counts=parameter_counts(model),
        groups=tuple(
            LayerGroup(
                at=tuple(i for i, layer in enumerate(model.layers) if layer == kind),
                layer=kind,
                parameters=layer_parameters(model, kind),
            )
            for kind in model.kinds
        ),
        read=_finite(_values(c, sorted(k for k in c.read if k in c.values))),
        not_read=_finite(_values(c, unread(c))),
        assumed=dict(c.assumed),
        entry=entry,
    )


def _values(c: Config, names: list[str]) -> dict[str, Any]:
    return {k: c.values[k] for k in names if not k.startswith("_")}


def part_text(part: Mixer | FeedForward | None) -> str:
    """A mixer or feed-forward part in a few words: its kind and its sizes."""
    if part is None:
        return "-"
    sizes = [
        f"{field.name} {value}"
        for field in dataclasses.fields(part)
        if (value := getattr(part, field.name)) is not field.default
        and value != field.default
        and not isinstance(value, bool)
    ]
    flags = [
        ("" if getattr(part, field.name) else "not ") + field.name.replace("_", " ")
        for field in dataclasses.fields(part)
        if isinstance(getattr(part, field.name), bool) and getattr(part, field.name) != field.default
    ]
    return f"{part.title}: " + ", ".join([*sizes, *flags])


def model_record(d: ModelDescription) -> dict[str, Any]:
    """The description as JSON values."""
    model, entry = d.model, d.entry
    record: dict[str, Any] = {
        "id": model.id,
        "name": model.name,
        "source": model.source,
        "parameters": d.counts.total,
        "active_parameters": d.counts.active,
        "parameters_by_part": d.counts.by_part(),
        "num_layers": model.num_layers,
        "hidden": model.hidden,
        "vocab": model.vocab,
        "tied_embeddings": model.tied_embeddings,
        "learned_positions": model.learned_positions,
        "norm": model.norm,
        "layers": [_group_record(g) for g in d.groups],
        "read": d.read,
        "not_read": d.not_read,
        "assumed": d.assumed,
        "notes": list(model.notes),
    }
    if entry is not None:
        record["aliases"] = list(entry.aliases)
        record["published_parameters"] = entry.published_parameters
        record["published_active_parameters"] = entry.published_active_parameters
        record["published_source"] = entry.published_source
        record["note"] = entry.note
    return record


def _group_record(group: LayerGroup) -> dict[str, Any]:
    return {
        "layers": list(group.at),
        "mixer": _part_record(group.layer.mixer),
        "feed_forward": _part_record(group.layer.ffn),
        "extras": [{"name": e.name, "shape": list(e.shape)} for e in group.layer.extras],
        "parameters_each": group.parameters.total,
        "active_parameters_each": group.parameters.active,
    }


def _part_record(part: Mixer | FeedForward | None) -> dict[str, Any] | None:
    return None if part is None else {"kind": part.title, **dataclasses.asdict(part)}


def _finite(values: Any) -> Any:
    """The same values with texts for numbers that JSON has no form for."""
    if isinstance(values, dict):
        return {k: _finite(v) for k, v in values.items()}
    if isinstance(values, list):
        return [_finite(v) for v in values]
    if isinstance(values, float) and (values != values or values in (float("inf"), float("-inf"))):
        return str(values)
    return values


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ModelLine:
    """A shipped model in one line."""

    id: str
    name: str
    num_layers: int
    hidden: int
    parameters: int
    active_parameters: int
    kind: str
    aliases: tuple[str, ...]


def model_lines() -> list[ModelLine]:
    """All shipped models, by id."""
    out = []
    for entry in shipped.all_models():
        model, _ = read_model(entry.id)
        counts = parameter_counts(model)
        parts = dict.fromkeys(p.title for layer in model.kinds for p in layer.parts if p is not None)
        out.append(
            ModelLine(
                id=entry.id,
                name=entry.name,
                num_layers=model.num_layers,
                hidden=model.hidden,
                parameters=counts.total,
                active_parameters=counts.active,
                kind=", ".join(parts),
                aliases=entry.aliases,
            )
        )
    return out

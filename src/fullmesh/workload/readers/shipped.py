"""The models that come with the program: one small facts file each, and one table for the GPT-3-like families."""

from __future__ import annotations

import csv
import dataclasses
import functools
import re
from types import MappingProxyType
from typing import Any

from fullmesh.data import DATA_DIR
from fullmesh.errors import ModelError
from fullmesh.workload.readers.config import read_json

MODELS_DIR = DATA_DIR / "models"
_GPT_COLUMNS = (
    "id", "name", "aliases", "model_type", "layers", "hidden", "heads", "kv_heads", "head_dim", "ffn", "vocab",
    "positions", "tied", "published_parameters", "published_source", "source",
)  # fmt: skip


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ShippedModel:
    """One shipped model.

    Parameters
    ----------
    id, name : str
    aliases : tuple of str
    values : mapping
        Hugging Face keys.
    published_parameters, published_active_parameters : float, optional
        Published counts, with where they were published.
    benchmark_mtp_layers : mapping of str to int
        Multi-token-prediction modules in the published runs of this model, where these do not say: by a regular
        expression over "framework | source | device".
    """

    id: str
    name: str
    aliases: tuple[str, ...]
    where: str
    values: MappingProxyType[str, Any]
    published_parameters: float | None
    published_active_parameters: float | None
    published_source: str
    source: str
    note: str
    benchmark_mtp_layers: MappingProxyType[str, int]


def normalise(name: str) -> str:
    """How names are compared: lower case, no organisation in front, one dash between words and numbers.

    ``meta-llama/Llama-3.1-8B``, ``llama3_1_8b`` and ``LLaMA3.1-8B`` are all ``llama-3-1-8b``.
    """
    words = re.sub(r"[^a-z0-9]+", "-", name.strip().rsplit("/", 1)[-1].lower()).strip("-")
    return re.sub(r"([a-z])(?=\d)", r"\1-", words)


@functools.cache
def all_models() -> tuple[ShippedModel, ...]:
    """All shipped models, ordered by id.

    Raises
    ------
    ModelError
        A file is wrong, or two models share a name.
    """
    models = [_from_json(p.stem, read_json(p), p.name) for p in sorted(MODELS_DIR.glob("*.json"))]
    models += _from_table()
    seen: dict[str, str] = {}
    for model in models:
        for name in {normalise(n) for n in (model.id, model.name, *model.aliases)}:
            if seen.setdefault(name, model.id) != model.id:
                raise ModelError(f"{name!r} names two models: {seen[name]} and {model.id}", where=model.where)
    return tuple(sorted(models, key=lambda m: m.id))


@functools.cache
def _index() -> dict[str, ShippedModel]:
    return {normalise(n): m for m in all_models() for n in (m.id, m.name, *m.aliases)}


def find(name: str) -> ShippedModel | None:
    """The shipped model of a name or alias."""
    return _index().get(normalise(name))


def names() -> list[str]:
    """Ids of all shipped models."""
    return [m.id for m in all_models()]


def _from_json(stem: str, values: dict[str, Any], where: str) -> ShippedModel:
    for key in ("_name", "_source"):
        if not isinstance(values.get(key), str) or not values[key]:
            raise ModelError(f"the key {key!r} is missing", where=where)
    total, active = values.get("_published_parameters"), values.get("_published_active_parameters")
    return ShippedModel(
        id=stem,
        name=values["_name"],
        aliases=tuple(values.get("_aliases", ())),
        where=where,
        values=MappingProxyType(values),
        published_parameters=float(total) if total else None,
        published_active_parameters=float(active) if active else None,
        published_source=values.get("_published_source", ""),
        source=values["_source"],
        note=values.get("_note", ""),
        benchmark_mtp_layers=MappingProxyType(values.get("_benchmark_mtp_layers", {})),
    )


def _from_table() -> list[ShippedModel]:
    path = MODELS_DIR / "gpt.csv"
    models = []
    with path.open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file, strict=True)
        if tuple(reader.fieldnames or ()) != _GPT_COLUMNS:
            raise ModelError("the columns are wrong", where=path.name, expected=", ".join(_GPT_COLUMNS))
        for row in reader:
            where = f"{path.name}, line {reader.line_num}"
            values: dict[str, Any] = {
                "_name": row["name"],
                "_source": row["source"],
                "model_type": row["model_type"],
                "tie_word_embeddings": row["tied"] == "yes",
            }
            try:
                for column, key in (
                    ("layers", "num_hidden_layers"), ("hidden", "hidden_size"), ("heads", "num_attention_heads"),
                    ("kv_heads", "num_key_value_heads"), ("head_dim", "head_dim"), ("ffn", "intermediate_size"),
                    ("vocab", "vocab_size"),
                ):  # fmt: skip
                    values[key] = int(row[column])
                if row["positions"]:
                    values |= {"n_positions": int(row["positions"]), "max_seq_len": int(row["positions"])}
                published = float(row["published_parameters"]) if row["published_parameters"] else None
            except (TypeError, ValueError):
                raise ModelError("a value is missing or no number", where=where) from None
            if row["model_type"] == "mpt":
                values |= {"learned_pos_emb": True, "no_bias": False}
            models.append(
                ShippedModel(
                    id=row["id"],
                    name=row["name"],
                    aliases=tuple(a for a in row["aliases"].split("|") if a),
                    where=where,
                    values=MappingProxyType(values),
                    published_parameters=published,
                    published_active_parameters=None,
                    published_source=row["published_source"],
                    source=row["source"],
                    note="",
                    benchmark_mtp_layers=MappingProxyType({}),
                )
            )
    return models

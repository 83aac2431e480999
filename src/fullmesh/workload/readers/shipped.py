"""The models that come with the program: one small facts file each, and one table for the GPT-3-like families."""

from __future__ import annotations

import csv
import dataclasses
import difflib
import functools
import math
import re
from types import MappingProxyType
from typing import Any

from fullmesh.data import DATA_DIR
from fullmesh.errors import ModelError
from fullmesh.reading import read_json

MODELS_DIR = DATA_DIR / "models"
_GPT_COLUMNS = (
    "id", "name", "aliases", "model_type", "layers", "hidden", "heads", "kv_heads", "head_dim", "ffn", "vocab",
    "positions", "tied", "published_parameters", "published_source", "source",
)  # fmt: skip
# Words behind a name that change no shape: how a model was tuned, how it is stored, when it was released.
_BEHIND = re.compile(
    r"-(instruct|chat|base|it|hf|pt|thinking|preview|reasoning|latest|bf-16|fp-16|fp-8|fp-4|nvfp-4|mxfp-4|awq|gptq|gguf"
    r"|int-4|int-8|dynamic|text|v-[01]-\d|[12]\d[01]\d|0[1-9][0-3]\d)$"
)


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
    models = []
    for path in sorted(MODELS_DIR.glob("*.json")):
        values = read_json(path, what="a shipped model", error=ModelError)
        models.append(_from_json(path.stem, values, path.name))
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
    """The shipped model of a name or alias; words of tuning and of storage behind it do not matter."""
    words = normalise(name)
    while words:
        found = _index().get(words)
        if found is not None:
            return found
        shorter = _BEHIND.sub("", words)
        if shorter == words:
            return None
        words = shorter
    return None


def suggestion(name: str) -> str:
    """A hint that names the closest models: by letters first, then by the number of parameters in the name."""
    words = normalise(name[:200])
    size = _size(words)

    def distance(known: str) -> tuple[float, float]:
        # as many words of the known name as the asked one has: qwen3-253b is near qwen3-235b-a22b
        start = "-".join(known.split("-")[: words.count("-") + 1])
        near = max(difflib.SequenceMatcher(a=words, b=b, autojunk=False).ratio() for b in (start, known))
        other = _size(known)
        return -round(near, 2), abs(math.log(size / other)) if size and other else 1e9

    ranked: dict[str, tuple[float, float]] = {}
    for known, model in _index().items():
        ranked[model.id] = min(ranked.get(model.id, (0.0, 0.0)), distance(known))
    best = sorted(ranked, key=lambda i: (ranked[i], i))
    near = [i for i in best[:3] if ranked[i][0] <= -0.6]
    if near:
        return "did you mean " + " or ".join(near) + "? `fullmesh catalog models` lists all"
    return "`fullmesh catalog models` lists all names"


def _size(words: str) -> float:
    """Billions of parameters that a name speaks of, 0 where it does not."""
    found = re.search(r"(?:^|-)(\d+(?:-\d+)?)b(?:-|$)", words)
    return float(found.group(1).replace("-", ".")) if found else 0.0


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

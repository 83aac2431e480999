"""From a Hugging Face ``config.json`` to a :class:`~fullmesh.workload.ModelSpec`."""

from __future__ import annotations

import dataclasses
import functools
import re
from pathlib import Path

from fullmesh.errors import ModelError, did_you_mean
from fullmesh.reading import read_json
from fullmesh.workload.layers.norm import Norm
from fullmesh.workload.parameters import check_size
from fullmesh.workload.readers import shipped
from fullmesh.workload.readers.config import Config
from fullmesh.workload.readers.extras import other_parameters, with_extras
from fullmesh.workload.readers.families import ACTIVATIONS, FAMILIES, REFUSED, UNSUPPORTED, Family
from fullmesh.workload.readers.feed_forward import feed_forwards
from fullmesh.workload.readers.keys import HIDDEN, TIED, VOCAB, check_unread
from fullmesh.workload.readers.mixers import Kind, mixers
from fullmesh.workload.spec import Layer, ModelSpec

# Published models train one to three; more would be another model.
MAX_MTP_LAYERS = 64
_ACTIVATION_KEYS = (
    "hidden_act", "hidden_activation", "activation_function", "mlp_hidden_act", "activation", "afn",
)  # fmt: skip


def load_model(name_or_path: str | Path, *, mtp_layers: int | None = None) -> ModelSpec:
    """Read a model.

    Parameters
    ----------
    name_or_path : str or Path
        A shipped name or alias (case, dots, dashes, an organisation in front and words such as ``Instruct`` behind do
        not matter), a ``config.json``, or a folder that holds one.
    mtp_layers : int, optional
        Multi-token-prediction modules to train, at most 64. Configurations name modules that a release carries
        (``num_nextn_predict_layers``), not what a run trains, and most published runs leave them out: without this
        argument there are none.

    Raises
    ------
    ModelError
        The name is unknown, or a key is missing, wrong or not supported.
    """
    if mtp_layers is not None and (
        isinstance(mtp_layers, bool)
        or not isinstance(mtp_layers, int)
        or not 0 <= mtp_layers <= MAX_MTP_LAYERS
    ):
        raise ModelError(
            f"{str(mtp_layers)[:60]} multi-token-prediction modules",
            where="mtp_layers",
            expected=f"a whole number from 0 to {MAX_MTP_LAYERS}",
            hint="published models train 0 to 3 of them",
        )
    model, _ = read_model(name_or_path)
    if mtp_layers is not None and mtp_layers != model.mtp_layers:
        model = check_size(dataclasses.replace(model, mtp_layers=mtp_layers), where=str(name_or_path)[:200])
    return model


def read_model(name_or_path: str | Path) -> tuple[ModelSpec, Config]:
    """A model together with its configuration, which knows what was read of it.

    Raises
    ------
    ModelError
        As :func:`load_model`.
    """
    text = str(name_or_path).strip()
    path = _config_path(text)
    if path is None:
        entry = shipped.find(text)
        if entry is None:
            raise ModelError(
                f"the model {text[:200]!r} is unknown",
                expected="a shipped name, a config.json or a folder that holds one",
                hint=shipped.suggestion(text),
            )
        return _shipped(entry.id)
    values = read_json(
        path, what="the configuration", error=ModelError, expected="a Hugging Face config.json"
    )
    c = Config(values, str(path))
    own = path.resolve()
    fallback = own.parent.name if own.name == "config.json" else own.stem
    return check_size(model_from_config(c, fallback=fallback), where=str(path)), c


def _config_path(text: str) -> Path | None:
    """The file that ``text`` means, or None where it is a name."""
    try:
        path = Path(text).expanduser()
        is_folder, is_file = bool(text) and path.is_dir(), path.is_file()
    except (OSError, RuntimeError, ValueError) as error:
        # too long a name, a folder one may not enter, the home of nobody
        raise ModelError(f"cannot look for such a file: {error}", where=text[:80]) from None
    if is_file:
        return path
    if is_folder:
        if (path / "config.json").is_file():
            return path / "config.json"
        if shipped.find(text) is None:
            raise ModelError("the folder holds no config.json", where=text)
        return None
    if path.suffix == ".json" or text.startswith((".", "/", "~")):
        raise ModelError(
            "the file does not exist", where=text[:200], expected="a config.json, a folder or a shipped name"
        )
    return None


@functools.cache
def _shipped(model_id: str) -> tuple[ModelSpec, Config]:
    entry = shipped.find(model_id)
    assert entry is not None
    c = Config(dict(entry.values), entry.where)
    return dataclasses.replace(model_from_config(c, fallback=entry.id), id=entry.id), c


def model_from_config(c: Config, *, fallback: str = "model") -> ModelSpec:
    """Build the specification of one configuration.

    Parameters
    ----------
    c : Config
    fallback : str
        Name where the configuration has none.

    Raises
    ------
    ModelError
    """
    family, model_type = _family(c)
    for name, value in family.defaults:
        c.default(name, value)
    for refused, why in REFUSED.items():
        c.refuse(refused, why)
    c.check_rope()
    for key in _ACTIVATION_KEYS:
        # a mixer and a feed-forward part may have one each
        if c.find(key) and c.text(key).lower() not in ACTIVATIONS:
            raise c.error(
                key,
                f"the activation {c.text(key)[:60]!r} is unknown",
                expected="one of " + ", ".join(ACTIVATIONS),
            )
    hidden, vocab = c.size(*HIDDEN), c.size(*VOCAB)
    if (
        c.find("word_embed_proj_dim", "embedding_size")
        and c.size("word_embed_proj_dim", "embedding_size") != hidden
    ):
        raise c.error("word_embed_proj_dim", "an embedding narrower than the model is not supported")
    kinds = mixers(c, family, hidden)
    parts = feed_forwards(c, family, kinds, hidden)
    one_norm = _one_norm(c, family)
    layers = tuple(Layer(mixer=m, ffn=f, one_norm=one_norm) for (m, _), f in zip(kinds, parts, strict=True))
    layers = with_extras(c, layers, hidden)
    learned = _positions(c, family)
    head_bias = c.flag("lm_head_bias", default=family.head_bias, quiet=model_type != "phimoe")
    model = ModelSpec(
        id="",
        name="",
        hidden=hidden,
        vocab=vocab,
        layers=layers,
        tied_embeddings=c.flag(*TIED, "tie_embedding", default=family.tied),
        learned_positions=learned,
        norm=_norm(c, family),
        sandwich_norm=_sandwich(c, family),
        source=c.text("_source", default=f"model_type {model_type}"),
        mtp_block=_mtp_block(c, layers, kinds),
        embedding_norm=model_type in ("bloom", "modernbert-decoder"),
        final_norm=family.final_norm and _final_norm(c),
        other_parameters=other_parameters(c, hidden, vocab, len(layers)) + (vocab if head_bias else 0),
    )
    check_unread(c, harmless=family.harmless)
    name = _name(c, fallback)
    return dataclasses.replace(
        model, id=shipped.normalise(name), name=name.rsplit("/", 1)[-1], notes=_notes(c, family)
    )


def _name(c: Config, fallback: str) -> str:
    """What the configuration calls itself; a path of another machine is no name."""
    own = c.text("_name")
    saved = c.text("_name_or_path")
    if not own and re.fullmatch(r"[\w.-]+/[\w.-]+", saved) and not saved.startswith("."):
        own = saved
    return own or fallback


def _notes(c: Config, family: Family) -> tuple[str, ...]:
    for key in family.without:
        c.assumed.pop(key, None)
    out = []
    if c.dropped:
        out.append("left out: " + ", ".join(sorted(c.dropped)) + "; the language model alone is described")
    if c.assumed:
        values = ", ".join(
            f"{k} = {str(v).lower() if isinstance(v, bool) else v}" for k, v in c.assumed.items()
        )
        out.append(f"not in the configuration, assumed: {values}")
    out += c.remarks
    if c.text("model_type") in ("deepseek_v32", "glm_moe_dsa"):
        out.append(
            "approximated: attention to the tokens that an indexer chooses counts as a window of as many"
        )
    if family.kind == "compressed":
        out.append("approximated: indexer, compressor and the mixing of residual streams are left out")
    return tuple(out)


def _family(c: Config) -> tuple[Family, str]:
    model_type = c.text("model_type").lower()
    if not model_type:
        raise c.error(
            "model_type",
            "the key 'model_type' is missing",
            expected="llama, qwen3_moe, deepseek_v3 or another",
        )
    family = FAMILIES.get(model_type)
    if family is None:
        why = UNSUPPORTED.get(model_type, "")
        raise c.error(
            "model_type",
            f"the model type {model_type[:200]!r} is not supported" + (f": {why}" if why else ""),
            hint="" if why else did_you_mean(model_type[:200], list(FAMILIES)),
        )
    if family.kind not in ("latent",) and c.has("kv_lora_rank", "attention_kv_lora_dim"):
        raise c.error("kv_lora_rank", f"latent attention in a model of type {model_type!r} is not supported")
    return family, model_type


def _positions(c: Config, family: Family) -> int:
    """Rows of a learned position table."""
    if family.positions == "learned":
        return c.size("n_positions", "max_position_embeddings", "n_ctx") + family.position_offset
    if c.text("model_type") == "mpt" and c.flag("learned_pos_emb", default=True, quiet=True):
        # positions of the reference library's class are linear biases, whatever the other key says
        alibi = c.flag("alibi", default=False, quiet="attn_config" not in c.values)
        if not alibi:
            return c.size("max_seq_len")
    return 0


def _one_norm(c: Config, family: Family) -> bool:
    """Whether attention and feed-forward part read the output of one norm."""
    model_type = c.text("model_type")
    if model_type == "falcon":
        if c.flag("new_decoder_architecture", default=False):
            c.find("parallel_attn")
            return c.size("num_ln_in_parallel_attn", default=2) == 1
        c.find("num_ln_in_parallel_attn")
        return c.flag("parallel_attn", default=True)
    if model_type == "stablelm":
        return c.flag("use_parallel_residual", default=False)
    # GPT-NeoX has two norms in either form
    c.find("use_parallel_residual")
    return family.one_norm


def _norm(c: Config, family: Family) -> Norm:
    if c.text("model_type") == "mpt" and c.flag("no_bias", default=True):
        return "rmsnorm"
    if c.text("model_type") == "modernbert-decoder" and c.flag("norm_bias", default=False, quiet=True):
        return "layernorm"
    return family.norm


def _sandwich(c: Config, family: Family) -> bool:
    keys = {"lfm3": "use_sandwich_norm", "hyperclovax": "use_post_norm"}
    key = keys.get(c.text("model_type"), "sandwich_norm")
    return c.flag(key, default=family.sandwich, quiet=key == "sandwich_norm")


def _final_norm(c: Config) -> bool:
    """OPT has a norm in front of its head only where layers have theirs in front."""
    if c.text("model_type") != "opt":
        return True
    removed = c.flag("_remove_final_layer_norm", default=False, quiet=True)
    return c.flag("do_layer_norm_before", default=True) and not removed


def _mtp_block(c: Config, layers: tuple[Layer, ...], kinds: list[Kind]) -> tuple[Layer, ...]:
    """Layers of one multi-token-prediction module of a hybrid; other models copy their last layer."""
    pattern = c.text("mtp_hybrid_override_pattern")
    if not pattern:
        return ()
    by_letter = {letter: layer for layer, (_, letter) in zip(layers, kinds, strict=True)}
    unknown = re.sub("|".join(map(re.escape, by_letter)), "", pattern)
    if unknown:
        raise c.error(
            "mtp_hybrid_override_pattern", f"the layer kind {unknown[0]!r} is not one of the model's own"
        )
    return tuple(by_letter[letter] for letter in pattern)

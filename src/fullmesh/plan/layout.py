"""Which layers lie on which pipeline stage. Uneven stages are normal."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import re
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from fullmesh.errors import PlanError
from fullmesh.workload import Layer, ModelSpec


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class StageLayout:
    """Layers of each pipeline stage by kind.

    Parameters
    ----------
    kinds : tuple of Layer
        The distinct layers of the model, K of them.
    counts : int array, shape (pp, K)
        Layers of each kind on each stage.
    embedding, head, mtp : int array, shape (pp,)
        Embeddings, heads and multi-token-prediction modules on each stage.
    chunk_layers : int array, shape (pp * vpp,)
        Layers of every chunk in model order.
    """

    kinds: tuple[Layer, ...]
    counts: npt.NDArray[np.int64]
    embedding: npt.NDArray[np.int64]
    head: npt.NDArray[np.int64]
    mtp: npt.NDArray[np.int64]
    chunk_layers: npt.NDArray[np.int64]


# letters of a layout: more than any model has layers; a step of the expansion multiplies by at most 9,999
_LONGEST = 20_000


def parse_layout(text: str) -> list[str]:
    """Expand Megatron's layout notation into one string per chunk.

    ``Et*2|(t*3|)*2tmL`` is ``["Ett", "ttt", "ttt", "tmL"]``: E embedding, t layer, m MTP module, L loss.

    Raises
    ------
    PlanError
        A letter or a bracket that has no meaning here.
    """
    expanded = text
    for _ in range(64):
        # innermost group or single letter followed by a repeat count
        replaced = re.sub(
            r"\(([EtmL|]*)\)\*([0-9]{1,4})|([EtmL|])\*([0-9]{1,4})",
            lambda g: g.group(1) * int(g.group(2)) if g.group(2) else g.group(3) * int(g.group(4)),
            expanded,
        )
        if replaced == expanded:
            break
        if len(replaced) > _LONGEST:
            raise PlanError(
                f"the pipeline layout {text!r} has more than {_LONGEST:,} letters",
                expected="one letter a layer, separators |",
            )
        expanded = replaced
    if re.fullmatch(r"[EtmL|]+", expanded) is None:
        raise PlanError(
            f"cannot read the pipeline layout {text!r}",
            expected="letters E, t, m, L, separators | and repeats *n",
        )
    return expanded.split("|")


def text_count(chunks: list[str], letter: str) -> int:
    """How often a letter stands in all chunks of a layout."""
    return sum(c.count(letter) for c in chunks)


def default_chunks(num_layers: int, num_chunks: int) -> list[int]:
    """Layers of every chunk when nothing else is said.

    Even where it divides. Otherwise embedding and head count as a layer each where that makes it even (Megatron's
    ``account_for_embedding_in_pipeline_split``), else the head alone, else the longer chunks stand in the middle,
    where no embedding or head adds to them.
    """
    if num_layers % num_chunks == 0:
        return [num_layers // num_chunks] * num_chunks
    if num_chunks > 1 and (num_layers + 2) % num_chunks == 0:
        per = (num_layers + 2) // num_chunks
        return [per - 1, *[per] * (num_chunks - 2), per - 1]
    if (num_layers + 1) % num_chunks == 0:
        per = (num_layers + 1) // num_chunks
        return [*[per] * (num_chunks - 1), per - 1]
    base, extra = divmod(num_layers, num_chunks)
    chunks = [base] * num_chunks
    start = (num_chunks - extra + 1) // 2
    for i in range(start, start + extra):
        chunks[i] += 1
    return chunks


def layout_text(num_layers: int, num_chunks: int, mtp_layers: int = 0) -> str:
    """The default chunks in Megatron's notation, ``Et|(t*2|)*6tL``."""
    return chunks_text(default_chunks(num_layers, num_chunks), mtp_layers)


def chunks_text(chunks: Sequence[int], mtp_layers: int = 0) -> str:
    """Layers of every chunk in Megatron's notation; at least two chunks."""
    first, *between, last = (f"t*{n}" if n > 1 else "t" * n for n in chunks)
    text = f"E{first}|"
    for chunk, equal in itertools.groupby(between):
        repeats = len(list(equal))
        text += f"({chunk}|)*{repeats}" if repeats > 1 else f"{chunk}|"
    return text + last + "m" * mtp_layers + "L"


def layout_by_work(layers: Sequence[float], head: float, num_stages: int) -> str:
    """Stages of about equal work, in Megatron's notation: the next one begins where its share of the work is passed.

    Some frameworks place blocks so, by the FLOPs of their products: the first stages get more layers, the last one the
    head. Empty where a stage would be left without a layer or a head.

    Parameters
    ----------
    layers : sequence of float
        Work of every layer in order.
    head : float
        Work of the head, in the same unit.
    """
    total = sum(layers) + head
    chunks, done = ["E"], 0.0
    for letter, work in (*(("t", w) for w in layers), ("L", head)):
        chunks[-1] += letter
        done += work
        if done > total * len(chunks) / num_stages and letter == "t":
            chunks.append("")
    return "|".join(chunks) if len(chunks) == num_stages and all(chunks) else ""


@functools.lru_cache(maxsize=4096)
def stage_layout(model: ModelSpec, pp: int, vpp: int, layout: str = "") -> StageLayout:
    """Distribute the layers of ``model`` over ``pp`` stages of ``vpp`` chunks.

    Raises
    ------
    PlanError
        More chunks than layers, or a layout whose counts do not match.
    """
    num_chunks = pp * vpp
    embedding = np.zeros(pp, dtype=np.int64)
    head = np.zeros(pp, dtype=np.int64)
    mtp = np.zeros(pp, dtype=np.int64)
    if layout:
        chunks_text = parse_layout(layout)
        if len(chunks_text) != num_chunks:
            raise PlanError(
                f"the pipeline layout has {len(chunks_text)} chunks",
                expected=f"pp * vpp = {num_chunks} chunks",
            )
        chunks = [c.count("t") for c in chunks_text]
        if sum(chunks) != model.num_layers:
            raise PlanError(
                f"the pipeline layout places {sum(chunks)} layers", expected=f"{model.num_layers} layers"
            )
        if not (
            text_count(chunks_text, "E") == text_count(chunks_text, "L") == 1
            and "E" in chunks_text[0]
            and any("L" in c for c in chunks_text)
        ):
            raise PlanError(
                f"the pipeline layout {layout!r} needs one embedding and one head",
                expected="E once, in the first chunk, and L once",
            )
        for i, c in enumerate(chunks_text):
            embedding[i % pp] += c.count("E")
            head[i % pp] += c.count("L")
            mtp[i % pp] += c.count("m")
        if mtp.sum() == 0 or model.mtp_layers == 0:
            mtp[:] = 0
            mtp[(num_chunks - 1) % pp] = model.mtp_layers
    else:
        if num_chunks > model.num_layers + 2:
            raise PlanError(
                f"{num_chunks} pipeline chunks for {model.num_layers} layers",
                expected=f"pp * vpp at most {model.num_layers}",
                hint="lower pp or vpp",
            )
        chunks = default_chunks(model.num_layers, num_chunks)
        embedding[0] = 1
        head[pp - 1] = 1
        mtp[pp - 1] = model.mtp_layers
    kinds = tuple(dict.fromkeys(model.layers))
    index = {layer: k for k, layer in enumerate(kinds)}
    counts = np.zeros((pp, len(kinds)), dtype=np.int64)
    position = 0
    for chunk, size in enumerate(chunks):
        for layer in model.layers[position : position + size]:
            counts[chunk % pp, index[layer]] += 1
        position += size
    return StageLayout(
        kinds=kinds,
        counts=counts,
        embedding=embedding,
        head=head,
        mtp=mtp,
        chunk_layers=np.array(chunks, dtype=np.int64),
    )

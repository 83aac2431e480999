"""The batch of a study: sequences and their length, as given or chosen from the model."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

from fullmesh.machine import Machine
from fullmesh.output import formats
from fullmesh.study.options import Options
from fullmesh.study.sizing import default_batch
from fullmesh.workload import Attention, ModelSpec
from fullmesh.workload.parameters import parameter_counts

# Tokens of a global batch by total parameters, near what published pretraining runs of that size use.
_BATCH_TOKENS = (
    (15e9, 4 * 2**20),
    (50e9, 8 * 2**20),
    (200e9, 16 * 2**20),
    (2e12, 32 * 2**20),
    (math.inf, 64 * 2**20),
)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Sequences of a global batch and their length in tokens, with how they were chosen in words."""

    gbs: int
    seq: int
    note: str


def choose_batch(model: ModelSpec, machines: Sequence[Machine], options: Options) -> Batch:
    """The batch asked for, or one near the tokens that a model of this size uses, divisible on every machine."""
    seq = options.seq or default_seq(model)
    if options.gbs is not None:
        return Batch(gbs=options.gbs, seq=seq, note="as given")
    shared = "divisible on every machine" if len(machines) > 1 else "divisible on the machine"
    if options.batch_tokens is not None:
        tokens, why = options.batch_tokens, f"near the {formats.tokens(options.batch_tokens)} asked for"
    else:
        total = parameter_counts(model).total
        tokens = next(t for limit, t in _BATCH_TOKENS if total < limit)
        why = f"chosen: near {tokens / 2**20:g} Mi tokens for {formats.parameters(total)} parameters"
    return Batch(gbs=default_batch(machines, tokens, seq), seq=seq, note=f"{why}, and {shared}")


def default_seq(model: ModelSpec) -> int:
    """4,096 tokens; 8,192 for dense models with grouped-query attention; less where positions are learned."""
    mixers = [layer.mixer for layer in model.layers if isinstance(layer.mixer, Attention)]
    grouped = bool(mixers) and all(m.num_kv_heads < m.num_heads for m in mixers)
    seq = 8192 if grouped and not model.is_moe else 4096
    return min(seq, model.learned_positions) if model.learned_positions else seq

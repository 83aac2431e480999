"""Small training jobs for the machine at hand, and their predicted step time. No PyTorch here, and no measured run.

A job's step is a list of operators that follows from its :class:`~fullmesh.workload.ModelSpec`; each has a law in the
profile of the machine. The models are those of ``here_models``: what stands there is counted here.
"""

from __future__ import annotations

import collections
import dataclasses

import numpy as np

from fullmesh.errors import ModelError
from fullmesh.here.calibration import HereProfile
from fullmesh.workload import MLP, Attention, Layer, ModelSpec

ELEMENT_BYTES = {"float32": 4, "bfloat16": 2}
# operators that wait for arithmetic; all others wait for memory
_COMPUTE_BOUND = frozenset({"linear", "attention"})


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One small training job.

    Parameters
    ----------
    model : ModelSpec
        Llama-like (RMSNorm, rotary, gated) or GPT-like (LayerNorm, learned positions, biases).
    batch : int
        Sequences of one process.
    seq : int
    dp, tp : int
        Processes; their product is one or two.
    """

    model: ModelSpec
    batch: int
    seq: int
    dp: int = 1
    tp: int = 1

    @property
    def name(self) -> str:
        """The model and how it is split."""
        return (
            self.model.id
            + (f" dp{self.dp}" if self.dp > 1 else "")
            + (f" tp{self.tp}" if self.tp > 1 else "")
        )

    @property
    def num_processes(self) -> int:
        """Processes that train together."""
        return self.dp * self.tp

    @property
    def shape(self) -> str:
        """Extents a person reads."""
        m = self.model
        return f"{m.num_layers} x {m.hidden}, vocab {m.vocab}, {self.batch} x {self.seq}"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """An operator at one size, ``count`` times a step."""

    operator: str
    sizes: tuple[int, ...]
    count: int = 1


def gpt(hidden: int, layers: int, heads: int, vocab: int, positions: int) -> ModelSpec:
    """A GPT-2-like model: four times as wide inside the feed-forward part, head tied to the embedding."""
    attention = Attention(
        num_heads=heads, num_kv_heads=heads, head_dim=hidden // heads, bias=True, out_bias=True, rotary=False
    )
    layer = Layer(mixer=attention, ffn=MLP(ffn=4 * hidden, gated=False, bias=True))
    return ModelSpec(
        id=f"gpt-{layers}x{hidden}",
        name="GPT-like",
        hidden=hidden,
        vocab=vocab,
        layers=(layer,) * layers,
        tied_embeddings=True,
        learned_positions=positions,
        norm="layernorm",
        source="a small model for runs on the machine at hand",
    )


def llama(hidden: int, layers: int, heads: int, kv_heads: int, ffn: int, vocab: int) -> ModelSpec:
    """A Llama-like model with grouped keys and values."""
    attention = Attention(num_heads=heads, num_kv_heads=kv_heads, head_dim=hidden // heads)
    layer = Layer(mixer=attention, ffn=MLP(ffn=ffn))
    return ModelSpec(
        id=f"llama-{layers}x{hidden}",
        name="Llama-like",
        hidden=hidden,
        vocab=vocab,
        layers=(layer,) * layers,
        source="a small model for runs on the machine at hand",
    )


def small_jobs(device: str) -> tuple[Job, ...]:
    """The jobs of ``fullmesh validate --here``: sizes between the points of the calibration, not on them."""
    if device == "cpu":
        small, wide = gpt(192, 4, 3, 3000, 256), gpt(320, 3, 10, 5000, 512)
        lean, broad = llama(192, 5, 6, 2, 512, 4000), llama(448, 3, 7, 7, 1216, 6000)
        return (
            Job(model=small, batch=4, seq=128),
            Job(model=small, batch=2, seq=256),
            Job(model=wide, batch=2, seq=192),
            Job(model=gpt(128, 8, 2, 2000, 512), batch=1, seq=384),
            Job(model=lean, batch=4, seq=96),
            Job(model=lean, batch=1, seq=512),
            Job(model=broad, batch=2, seq=160),
            Job(model=llama(320, 4, 10, 2, 864, 7000), batch=1, seq=320),
            Job(model=small, batch=2, seq=128, dp=2),
            Job(model=broad, batch=1, seq=160, dp=2),
            Job(model=wide, batch=2, seq=192, tp=2),
            Job(model=llama(384, 3, 12, 4, 1024, 4000), batch=2, seq=192, tp=2),
        )
    small, broad = gpt(1536, 12, 12, 32000, 2048), llama(3072, 8, 24, 8, 8192, 48000)
    lean = llama(1280, 16, 20, 4, 3456, 32000)
    return (
        Job(model=small, batch=4, seq=1024),
        Job(model=small, batch=2, seq=2048),
        Job(model=gpt(2560, 8, 20, 32000, 2048), batch=2, seq=1536),
        Job(model=lean, batch=4, seq=768),
        Job(model=lean, batch=1, seq=4096),
        Job(model=broad, batch=2, seq=1536),
        Job(model=small, batch=4, seq=1024, dp=2),
        Job(model=lean, batch=4, seq=768, dp=2),
        Job(model=small, batch=4, seq=1024, tp=2),
        Job(model=broad, batch=1, seq=1536, tp=2),
    )


def step_calls(job: Job) -> tuple[Call, ...]:
    """Operators of one training step of one process: forward, backward and optimizer.

    Parameters
    ----------
    job : Job

    Returns
    -------
    tuple of Call
        Each stands for its forward pass and, where it has one, its backward pass. ``all_reduce`` is sized in bytes
        a element of the job's dtype, that is in elements here.

    Raises
    ------
    ModelError
        The model has a part that the small models do not have.
    """
    m = job.model
    tokens = job.batch * job.seq
    norm = (m.norm, (tokens * m.hidden,))
    residual = (tokens * m.hidden,)
    calls = [Call(operator="embedding", sizes=(tokens, m.vocab, m.hidden))]
    if m.learned_positions:
        calls += [
            Call(operator="embedding", sizes=(job.seq, m.learned_positions, m.hidden)),
            Call(operator="add", sizes=residual),
            # positions are shared by the sequences of the batch
            Call(operator="bias_gradient", sizes=residual),
        ]
    for layer in m.layers:
        calls += _layer_calls(layer, job)
    calls += [
        Call(operator=norm[0], sizes=norm[1]),
        Call(operator="linear", sizes=(tokens, m.vocab, m.hidden)),
        Call(operator="cross_entropy", sizes=(tokens, m.vocab)),
    ]
    if m.tied_embeddings:
        # the gradients of head and embedding are added
        calls.append(Call(operator="accumulate", sizes=(m.vocab * m.hidden,)))
    tensors = parameter_tensors(job)
    elements = sum(size * count for size, count in tensors.items())
    if job.dp > 1:
        calls += [
            Call(operator="flatten", sizes=(elements,)),
            Call(operator="all_reduce", sizes=(elements,)),
            # the mean over the processes
            Call(operator="accumulate", sizes=(elements,)),
        ]
    calls += [Call(operator="adamw", sizes=(size,), count=count) for size, count in tensors.items()]
    return tuple(calls)


def _layer_calls(layer: Layer, job: Job) -> list[Call]:
    m, tokens = job.model, job.batch * job.seq
    a, f = layer.mixer, layer.ffn
    if not isinstance(a, Attention) or not isinstance(f, MLP):
        raise ModelError(
            f"{m.id} has a layer that small runs do not have", expected="softmax attention and a dense MLP"
        )
    if a.num_heads % job.tp or a.num_kv_heads % job.tp or f.ffn % job.tp:
        raise ModelError(
            f"{m.id} does not split over {job.tp} processes", expected="heads that divide evenly"
        )
    heads, kv_heads, ffn = a.num_heads // job.tp, a.num_kv_heads // job.tp, f.ffn // job.tp
    queries, keys, residual = heads * a.head_dim, kv_heads * a.head_dim, tokens * m.hidden
    calls = [
        Call(operator=m.norm, sizes=(residual,), count=2),
        Call(operator="linear", sizes=(tokens, queries, m.hidden)),
        Call(operator="linear", sizes=(tokens, keys, m.hidden), count=2),
        Call(operator="attention", sizes=(job.batch, job.seq, heads, a.head_dim)),
        Call(operator="linear", sizes=(tokens, m.hidden, queries)),
        Call(operator="add", sizes=(residual,), count=2),
        # gradients that meet: at the input of queries, keys and values in place, and where each half leaves the
        # residual in a new tensor, since the one at hand belongs to both branches
        Call(operator="accumulate", sizes=(residual,), count=2),
        Call(operator="merge", sizes=(residual,), count=2),
    ]
    if a.rotary:
        calls += [
            Call(operator="rotary", sizes=(tokens * queries,)),
            Call(operator="rotary", sizes=(tokens * keys,)),
        ]
    if heads != kv_heads:
        calls.append(Call(operator="repeat_kv", sizes=(tokens * queries,), count=2))
    if a.bias:
        calls += [
            Call(operator="bias_gradient", sizes=(tokens * queries,)),
            Call(operator="bias_gradient", sizes=(tokens * keys,), count=2),
        ]
    if f.gated:
        calls += [
            Call(operator="linear", sizes=(tokens, ffn, m.hidden), count=2),
            Call(operator="swiglu", sizes=(tokens * ffn,)),
            Call(operator="accumulate", sizes=(residual,)),
        ]
    else:
        calls += [
            Call(operator="linear", sizes=(tokens, ffn, m.hidden)),
            Call(operator="gelu", sizes=(tokens * ffn,)),
        ]
    calls.append(Call(operator="linear", sizes=(tokens, m.hidden, ffn)))
    if f.bias:
        calls.append(Call(operator="bias_gradient", sizes=(tokens * ffn,)))
    row_biases = a.out_bias + f.bias
    if row_biases:
        calls.append(Call(operator="bias_gradient", sizes=(residual,), count=row_biases))
    if job.tp > 1:
        # two sums forward and two backward; a bias after a sum is an addition of its own
        calls.append(Call(operator="all_reduce", sizes=(residual,), count=4))
        if row_biases:
            calls.append(Call(operator="add", sizes=(residual,), count=row_biases))
    return calls


def parameter_tensors(job: Job) -> dict[int, int]:
    """Parameter tensors of one process: how many there are of each size."""
    m = job.model
    sizes: collections.Counter[int] = collections.Counter()
    per_norm = 2 if m.norm == "layernorm" else 1
    sizes[m.vocab * m.hidden] += 1 if m.tied_embeddings else 2
    if m.learned_positions:
        sizes[m.learned_positions * m.hidden] += 1
    sizes[m.hidden] += per_norm
    for layer in m.layers:
        a, f = layer.mixer, layer.ffn
        assert isinstance(a, Attention)
        assert isinstance(f, MLP)
        queries, keys, ffn = (
            x // job.tp for x in (a.num_heads * a.head_dim, a.num_kv_heads * a.head_dim, f.ffn)
        )
        sizes[m.hidden] += 2 * per_norm + a.out_bias + f.bias
        sizes[m.hidden * queries] += 2
        sizes[m.hidden * keys] += 2
        sizes[m.hidden * ffn] += 3 if f.gated else 2
        if a.bias:
            sizes[queries] += 1
            sizes[keys] += 2
        if f.bias:
            sizes[ffn] += 2 if f.gated else 1
    return dict(sizes)


def predict_step_s(profile: HereProfile, job: Job) -> float:
    """Seconds of one training step.

    Parameters
    ----------
    profile : HereProfile
    job : Job

    Returns
    -------
    float
        On an accelerator the larger of the device's seconds and of the host's that queues the work; on a CPU they
        are the same. Two processes on one CPU slow each other down as the calibration found.

    Raises
    ------
    ModelError
        The model has a part that the small models do not have.
    ValueError
        Two processes, and the profile has no collectives.
    """
    columns = ("device",) if profile.device == "cpu" else ("device", "host")
    total = dict.fromkeys(columns, 0.0)
    for call in step_calls(job):
        if call.operator == "all_reduce":
            if profile.all_reduce is None:
                raise ValueError(profile.all_reduce_reason)
            total["device"] += call.count * float(
                profile.all_reduce.seconds(call.sizes[0] * ELEMENT_BYTES[profile.dtype])
            )
            continue
        bound = "compute" if call.operator in _COMPUTE_BOUND else "memory"
        slower = profile.sharing[bound] if job.num_processes > 1 else 1.0
        for column in columns:
            for phase in ("forward", "backward"):
                seconds = profile.seconds(call.operator, phase, *call.sizes, column=column)
                total[column] += slower * call.count * float(np.sum(seconds))
    return max(total.values())

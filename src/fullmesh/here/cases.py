"""Operators of small language models at many sizes: what the calibration of the device at hand measures."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from fullmesh.here import ops
from fullmesh.here.device import Device, load_torch

torch: Any = load_torch()

# Elements of all copies of a case together: more than a core's own caches hold, since a step seldom finds operands
# there, and few enough that a case takes milliseconds.
WORKING_SET = {"cpu": 1 << 21, "cuda": 1 << 27, "npu": 1 << 27}
# an accelerator has this many times the extents of the CPU's grid along each dimension of a product
SCALE = {"cpu": 1, "cuda": 8, "npu": 8}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One operator at one size.

    Parameters
    ----------
    operator : str
    sizes : tuple of int
        As the fitted law of the operator takes them.
    elements : int
        Roughly, of operands and results, to choose how many copies to run in a row.
    make : callable
        Fresh operands.
    run : callable
        The operator on such operands.
    backward : bool
        Whether the gradient is taken too, and timed apart.
    parts : int
        How often ``run`` does the operator.
    """

    operator: str
    sizes: tuple[int, ...]
    elements: int
    make: Callable[[], tuple[Any, ...]]
    run: Callable[..., Any]
    backward: bool = True
    parts: int = 1


# --- cases ----------------------------------------------------------------------------------------------------


# fmt: off
_LINEAR = (  # rows, outputs, inputs
    (64, 128, 128), (256, 128, 128), (1024, 128, 128), (512, 128, 512), (512, 512, 128), (64, 512, 512),
    (256, 384, 384), (512, 1024, 256), (512, 256, 1024), (256, 1536, 384), (256, 384, 1536), (1024, 512, 512),
    (128, 2048, 512), (128, 512, 2048), (512, 4096, 256), (256, 8192, 128),
)
_ATTENTION = (  # batch, sequence, heads, width of a head
    (4, 64, 2, 32), (2, 128, 4, 64), (1, 256, 4, 64), (2, 256, 4, 32), (1, 512, 4, 64), (1, 512, 8, 32),
    (4, 128, 8, 64), (1, 1024, 2, 64),
)
_CROSS_ENTROPY = ((64, 1024), (128, 4096), (512, 2048), (512, 4096), (512, 8192))  # tokens, vocabulary
_EMBEDDING = (  # tokens, vocabulary, hidden
    (128, 1024, 64), (1024, 1024, 128), (256, 4096, 256), (1024, 4096, 512), (256, 8192, 384),
)
# fmt: on


def operator_cases(device: Device) -> list[Case]:
    """The grid of shapes. Every law is measured over the range of sizes that small models have on such a device."""
    scale = SCALE[device.kind]

    def leaf(*shape: int) -> Any:
        return torch.randn(*shape, dtype=device.dtype, device=device.name, requires_grad=True)

    def plain(*shape: int) -> Any:
        return torch.randn(*shape, dtype=device.dtype, device=device.name)

    wide = scale if scale == 1 else 2
    cases = [_linear(m * scale, n * scale, k * scale, device, leaf) for m, n, k in _LINEAR]
    cases += [_attention((b, s * scale, h * wide, d * wide), leaf) for b, s, h, d in _ATTENTION]
    for rows in (32, 128, 512, 2048, 8192):
        _elementwise(cases, device, rows * scale, 256 * scale, leaf, plain)
    cases += [_cross_entropy(tokens * scale, vocab * scale, device, leaf) for tokens, vocab in _CROSS_ENTROPY]
    cases += [
        _embedding(tokens * scale, vocab * wide, hidden * scale, device, leaf)
        for tokens, vocab, hidden in _EMBEDDING
    ]
    cases += [_adamw((1 << exponent) * scale, device) for exponent in (8, 12, 14, 16, 18, 20, 22)]
    return cases


def _linear(m: int, n: int, k: int, device: Device, leaf: Callable[..., Any]) -> Case:
    return Case(
        operator="linear",
        sizes=(m, n, k),
        elements=2 * (m * k + n * k + m * n),
        make=lambda: (
            torch.nn.Linear(k, n, bias=False, dtype=device.dtype, device=device.name),
            leaf(1, m, k),
        ),
        run=lambda module, x: module(x),
    )


def _cross_entropy(tokens: int, vocab: int, device: Device, leaf: Callable[..., Any]) -> Case:
    return Case(
        operator="cross_entropy",
        sizes=(tokens, vocab),
        elements=3 * tokens * vocab,
        make=lambda: (leaf(tokens, vocab), torch.randint(vocab, (tokens,), device=device.name)),
        run=ops.cross_entropy,
    )


def _embedding(tokens: int, vocab: int, hidden: int, device: Device, leaf: Callable[..., Any]) -> Case:
    return Case(
        operator="embedding",
        sizes=(tokens, vocab, hidden),
        elements=hidden * (2 * vocab + 2 * tokens),
        make=lambda: (torch.randint(vocab, (tokens,), device=device.name), leaf(vocab, hidden)),
        run=torch.nn.functional.embedding,
    )


def _attention(shape: tuple[int, int, int, int], leaf: Callable[..., Any]) -> Case:
    batch, seq, heads, head_dim = shape
    flat = (batch, seq, heads * head_dim)
    return Case(
        operator="attention",
        sizes=shape,
        elements=8 * batch * seq * heads * head_dim,
        make=lambda: (leaf(*flat), leaf(*flat), leaf(*flat)),
        run=lambda *qkv: ops.attention(*(x.view(shape) for x in qkv)),
    )


def _elementwise(
    cases: list[Case],
    device: Device,
    rows: int,
    width: int,
    leaf: Callable[..., Any],
    plain: Callable[..., Any],
) -> None:
    """Operators whose time depends on the number of elements alone."""
    elements = rows * width
    heads = 4
    head_dim = width // heads

    def add(
        operator: str, arrays: int, make: Callable[[], tuple[Any, ...]], run: Any, *, backward: bool = True
    ) -> None:
        cases.append(
            Case(
                operator=operator,
                sizes=(elements,),
                elements=arrays * elements,
                make=make,
                run=run,
                backward=backward,
            )
        )

    norms = {
        "layernorm": torch.nn.LayerNorm(width, dtype=device.dtype, device=device.name),
        "rmsnorm": torch.nn.RMSNorm(width, eps=1e-6, dtype=device.dtype, device=device.name),
    }
    for name, module in norms.items():
        add(name, 4, lambda: (leaf(rows, width),), module)
    add("gelu", 4, lambda: (leaf(rows, width),), torch.nn.functional.gelu)
    add("swiglu", 8, lambda: (leaf(rows, width), leaf(rows, width)), ops.swiglu)
    add("add", 3, lambda: (leaf(rows, width), leaf(rows, width)), lambda a, b: a + b)
    add(
        "accumulate",
        2,
        lambda: (plain(rows, width), plain(rows, width)),
        lambda a, b: a.add_(b),
        backward=False,
    )
    add("merge", 3, lambda: (plain(rows, width), plain(rows, width)), lambda a, b: a + b, backward=False)
    add("bias_gradient", 1, lambda: (plain(rows, width),), lambda x: x.sum(0), backward=False)
    add("flatten", 2, lambda: ([plain(rows // 8, width) for _ in range(8)],), ops.flatten, backward=False)
    cos, sin = ops.rotary_tables(rows, head_dim, device.name, device.dtype)
    add("rotary", 4, lambda: (leaf(1, rows, heads, head_dim),), lambda x: ops.rotary(x, cos, sin))
    # by the elements of the result
    add("repeat_kv", 2, lambda: (leaf(1, rows, heads // 2, head_dim),), lambda x: ops.repeat_kv(x, 2))


def _adamw(elements: int, device: Device) -> Case:
    """By the elements of one tensor, among others of its size."""
    num_tensors = max(2, min(16, WORKING_SET[device.kind] * 4 // elements))

    def make() -> tuple[Any, ...]:
        parameters = [
            torch.nn.Parameter(torch.randn(elements, dtype=device.dtype, device=device.name))
            for _ in range(num_tensors)
        ]
        return torch.optim.AdamW(parameters, lr=1e-4), parameters, [torch.randn_like(p) for p in parameters]

    def step(optimizer: Any, parameters: list[Any], gradients: list[Any]) -> Any:
        for p, g in zip(parameters, gradients, strict=True):
            p.grad = g
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return parameters[0][:1]

    return Case(
        operator="adamw",
        sizes=(elements,),
        # a real step has been through all activations since the last one: more copies, nothing left in a cache
        elements=max(1, num_tensors * elements // 4),
        make=make,
        run=step,
        backward=False,
        parts=num_tensors,
    )


# --- operators in turn ----------------------------------------------------------------------------------------

_MIXED_TOKENS, _MIXED_HEADS, _MIXED_LAYERS = 64, 4, 6


def mixed_calls(width: int) -> list[tuple[str, tuple[int, ...], int]]:
    """Operators of one layer of :func:`mixed_case`: name, sizes, how often."""
    rows = _MIXED_TOKENS * width
    return [
        ("rmsnorm", (rows,), 2),
        ("layernorm", (rows,), 1),
        ("linear", (_MIXED_TOKENS, width, width), 9),
        ("rotary", (rows,), 2),
        ("attention", (1, _MIXED_TOKENS, _MIXED_HEADS, width // _MIXED_HEADS), 1),
        ("gelu", (rows,), 1),
        ("swiglu", (rows,), 1),
        ("add", (rows,), 3),
        ("merge", (rows,), 3),
        ("accumulate", (rows,), 3),
    ]


def mixed_case(device: Device, width: int) -> Case:
    """All operators in turn, at small sizes.

    The same operator many times in a row finds its code in the caches and its branches predicted; in a model it does
    not. What this case takes beyond the laws of its operators is that difference.
    """
    nn, made = torch.nn, {"dtype": device.dtype, "device": device.name}
    shape = (1, _MIXED_TOKENS, _MIXED_HEADS, width // _MIXED_HEADS)
    tables = ops.rotary_tables(_MIXED_TOKENS, shape[-1], device.name, device.dtype)

    def make() -> tuple[Any, ...]:
        layers = [
            nn.ModuleList(
                [
                    nn.RMSNorm(width, eps=1e-6, **made),
                    nn.LayerNorm(width, **made),
                    nn.RMSNorm(width, eps=1e-6, **made),
                ]
                + [nn.Linear(width, width, bias=False, **made) for _ in range(9)]
            )
            for _ in range(_MIXED_LAYERS)
        ]
        return nn.ModuleList(layers), torch.randn(1, _MIXED_TOKENS, width, requires_grad=True, **made)

    def run(layers: Any, x: Any) -> Any:
        for first, second, third, q, k, v, out, up1, down1, gate, up2, down2 in layers:
            y = first(x)
            queries, keys = ops.rotary(q(y).view(shape), *tables), ops.rotary(k(y).view(shape), *tables)
            x = x + out(ops.attention(queries, keys, v(y).view(shape)))
            x = x + down1(nn.functional.gelu(up1(second(x))))
            y = third(x)
            x = x + down2(ops.swiglu(gate(y), up2(y)))
        return x

    elements = WORKING_SET[device.kind] // 2
    return Case(operator="mixed", sizes=(width,), elements=elements, make=make, run=run, parts=_MIXED_LAYERS)

"""Evaluations a second of the operator models over a million shapes: process CPU time, best of five after a warm-up."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np

from fullmesh.cost.operators.kernels import attention_s, gemm_s, grouped_gemm_s, load_profile, memory_bound_s
from fullmesh.machine.chips import load_chip

NUM_SHAPES = 1_000_000
REPEATS = 5


def best_s(run: Callable[[], object]) -> float:
    """Least process CPU time of a few runs, after one that is not counted."""
    run()
    times = []
    for _ in range(REPEATS):
        start = time.process_time()
        run()
        times.append(time.process_time() - start)
    return min(times)


def main() -> None:
    """Print millions of evaluations a second, one line an operator."""
    profile = load_profile(load_chip("h100-sxm"))
    rng = np.random.default_rng(0)
    m, n, k = (np.round(2.0 ** rng.uniform(0, 17, NUM_SHAPES)) for _ in range(3))
    experts = np.round(2.0 ** rng.uniform(0, 8, NUM_SHAPES))
    heads, length = (
        np.round(2.0 ** rng.uniform(0, 7, NUM_SHAPES)),
        np.round(2.0 ** rng.uniform(7, 17, NUM_SHAPES)),
    )
    runs: dict[str, Callable[[], object]] = {
        "gemm bf16": lambda: gemm_s(profile, m, n, k, "bf16"),
        "gemm fp8_block": lambda: gemm_s(profile, m, n, k, "fp8_block"),
        "grouped bf16": lambda: grouped_gemm_s(profile, m, n, k, experts, "bf16"),
        "attention forward": lambda: attention_s(
            profile, 1, length, length, heads, heads, 128, 128, causal=True
        ),
        "attention backward": lambda: attention_s(
            profile, 1, length, length, heads, heads, 128, 128, causal=True, backward=True
        ),
        "memory bound": lambda: memory_bound_s(profile, m * n),
    }
    for name, run in runs.items():
        print(f"{name:20} {NUM_SHAPES / best_s(run) / 1e6:8.2f} million evaluations a second")


if __name__ == "__main__":
    main()

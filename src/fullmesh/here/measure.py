"""Microbenchmarks of the device at hand: ``python -m fullmesh.here.measure`` in processes of its own."""

from __future__ import annotations

import collections
import itertools
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

from fullmesh.here.cases import SCALE, WORKING_SET, Case, mixed_calls, mixed_case, operator_cases
from fullmesh.here.device import Device, device_count, device_title, load_torch, open_device, serve

torch: Any = load_torch()

# Elements of results that are kept, so that new ones are written where nothing was for long, as in a step that keeps
# all activations for its backward pass.
_KEPT = {"cpu": 1 << 24, "cuda": 1 << 27, "npu": 1 << 27}
_MAX_COPIES = 16
_ROUNDS = 2


# --- time -----------------------------------------------------------------------------------------------------


class Stopwatch:
    """Times phases on a device: seconds of the device and of the host that queues the work.

    On the CPU both are the same. On an accelerator the queue is filled first, so that the device never waits for the
    host while the phases run and its own seconds show.
    """

    def __init__(self, device: Device) -> None:
        self.device = device
        self.host_s = 0.0
        if device.kind != "cpu":
            self.filler = torch.randn(8192, 8192, dtype=device.dtype, device=device.name)
            self.fill_s = 0.0
            for _ in range(2):  # the first product loads its library
                self.fill_s = self._phases([lambda: self.filler @ self.filler])[0][0]

    def phases(self, steps: Sequence[Callable[[], Any]]) -> list[tuple[float, float]]:
        """Run the steps in order; ``(device_s, host_s)`` of each."""
        if self.device.kind != "cpu":
            return self._phases(steps)
        marks = [self.device.now_s()]
        for step in steps:
            step()
            marks.append(self.device.now_s())
        spans = [b - a for a, b in itertools.pairwise(marks)]
        return [(s, s) for s in spans]

    def _phases(self, steps: Sequence[Callable[[], Any]]) -> list[tuple[float, float]]:
        event = self.device.module.Event
        self.device.synchronize()
        if self.fill_s > 0.0:
            for _ in range(1 + int(1.5 * self.host_s / self.fill_s)):
                self.filler @ self.filler
        events, hosts = [event(enable_timing=True)], [time.perf_counter()]
        events[0].record()
        for step in steps:
            step()
            events.append(event(enable_timing=True))
            events[-1].record()
            hosts.append(time.perf_counter())
        self.device.synchronize()
        # the next repetition fills the queue for as long as this one took the host
        self.host_s = hosts[-1] - hosts[0]
        return [
            (a.elapsed_time(b) / 1e3, d - c)
            for a, b, c, d in zip(events, events[1:], hosts, hosts[1:], strict=False)
        ]


def time_case(
    watch: Stopwatch, case: Case, seconds: float, *, at_least: int = 3, meet: Callable[[], None] | None = None
) -> list[list[tuple[float, float]]]:
    """Repeat a case for about ``seconds``; for each repetition ``(device_s, host_s)`` of forward (and backward).

    ``meet`` is called before each repetition; with it the number of repetitions is ``at_least``.
    """
    limit = WORKING_SET[watch.device.kind]
    copies = max(2, min(_MAX_COPIES, limit // max(1, case.elements)))
    operands = [case.make() for _ in range(copies)]
    results = [case.run(*x) for x in operands]
    gradients = (
        [torch.randn_like(r) if r.dim() else torch.ones_like(r) for r in results] if case.backward else []
    )
    outputs: list[Any] = []

    def forward() -> None:
        outputs.extend(case.run(*x) for x in operands)

    def backward() -> None:
        torch.autograd.backward(outputs, gradients)

    steps = [forward, backward] if case.backward else [forward]
    samples: list[list[tuple[float, float]]] = []
    kept_elements = max(1, sum(r.numel() for r in results))
    kept: collections.deque[list[Any]] = collections.deque(
        maxlen=max(1, _KEPT[watch.device.kind] // kept_elements)
    )
    del results
    start = time.perf_counter()
    for repetition in range(1000):
        if meet is not None:
            meet()
        spans = watch.phases(steps)
        kept.append([r.detach() for r in outputs])
        outputs.clear()
        for x in operands:
            _forget_gradients(x)
        if repetition:  # the first one warms up
            samples.append([(d / copies / case.parts, h / copies / case.parts) for d, h in spans])
        if len(samples) >= at_least and (meet is not None or time.perf_counter() - start > seconds):
            break
    return samples


def _forget_gradients(operands: tuple[Any, ...]) -> None:
    for x in operands:
        if isinstance(x, torch.nn.Module):
            x.zero_grad(set_to_none=True)
        elif isinstance(x, torch.Tensor):
            x.grad = None


# --- tasks ----------------------------------------------------------------------------------------------------


def _medians(samples: Sequence[list[tuple[float, float]]]) -> list[list[float]]:
    """Median ``[device_s, host_s]`` of every phase."""
    num_phases = len(samples[0])
    return [[statistics.median(s[p][i] for s in samples) for i in (0, 1)] for p in range(num_phases)]


def measure_operators(request: dict[str, Any]) -> dict[str, Any]:
    """Time every case in two rounds, so that a disturbance does not hit all repetitions of one of them."""
    device = open_device(request["device"], clock=request["clock"])
    torch.manual_seed(0)
    watch = Stopwatch(device)
    width = 128 * SCALE[device.kind]
    cases = [*operator_cases(device), mixed_case(device, width)]
    samples: list[list[list[tuple[float, float]]]] = [[] for _ in cases]
    deadline = time.perf_counter() + float(request["seconds"])
    for round_ in range(_ROUNDS):
        for i, case in enumerate(cases):
            left = deadline - time.perf_counter()
            todo = (_ROUNDS - round_) * len(cases) - i
            samples[i] += time_case(watch, case, max(0.0, left / todo), at_least=1)
    return {
        "device": device.kind,
        "clock": device.clock,
        "title": device_title(device),
        "num_devices": device_count(device.kind),
        "dtype": str(device.dtype).removeprefix("torch."),
        "torch": str(torch.__version__),
        "points": [
            {"operator": c.operator, "sizes": list(c.sizes), "phases": _medians(s), "repeats": len(s)}
            for c, s in zip(cases[:-1], samples[:-1], strict=True)
        ],
        "mixed": {"phases": _medians(samples[-1]), "calls": mixed_calls(width)},
    }


def measure_pair(request: dict[str, Any], rank: int) -> dict[str, Any]:
    """All-reduce by size, and how much slower operators are while the other process computes too."""
    device = open_device(request["device"], index=rank, clock=request["clock"])
    torch.manual_seed(0)
    dist = torch.distributed
    watch = Stopwatch(device)
    signal = torch.ones(1, device=device.name)

    def meet() -> None:
        dist.all_reduce(signal)
        signal.fill_(1.0)
        device.synchronize()

    element = torch.empty((), dtype=device.dtype).element_size()
    scale = 1 if device.kind == "cpu" else 16
    points = []
    for exponent in range(10, 23):
        size = (1 << exponent) * scale
        # as in a step, a row is not in the cache that its last sum left it in
        copies = max(2, min(_MAX_COPIES, WORKING_SET[device.kind] // size))
        rows = [torch.zeros(size, dtype=device.dtype, device=device.name) for _ in range(copies)]

        def reduce(rows: list[Any] = rows) -> None:
            for row in rows:
                dist.all_reduce(row)

        samples = []
        for _ in range(8 if exponent < 20 else 5):
            meet()
            samples.append(watch.phases([reduce]))
        spans = _medians(samples[1:])[0]
        points.append({"bytes": size * element, "device_s": spans[0] / copies, "host_s": spans[1] / copies})

    shared: dict[str, list[float]] = {}
    if device.kind == "cpu":
        shared = _sharing(device, watch, rank, meet)
    return {"points": points, "shared": shared}


# Of compute-bound and of memory-bound operators: what is timed alone on one rank, then on both at once.
_SHARING_OPERATORS = {"linear": "compute", "attention": "compute", "add": "memory", "layernorm": "memory"}


def _sharing(device: Device, watch: Stopwatch, rank: int, meet: Callable[[], None]) -> dict[str, list[float]]:
    chosen: dict[str, Case] = {}
    for case in operator_cases(device):
        if case.operator in _SHARING_OPERATORS and case.elements <= 4_000_000:
            chosen[case.operator] = case  # the largest of each that takes milliseconds
    ratios: dict[str, list[float]] = {"compute": [], "memory": []}
    for operator, case in sorted(chosen.items()):
        alone: list[float] = []
        for turn in (0, 1, 0, 1):
            meet()
            if turn == rank:
                alone += [sum(d for d, _ in s) for s in time_case(watch, case, 0.05, at_least=3)]
        together = [sum(d for d, _ in s) for s in time_case(watch, case, 0.0, at_least=8, meet=meet)]
        ratios[_SHARING_OPERATORS[operator]].append(statistics.median(together) / statistics.median(alone))
    return ratios


def handle(request: dict[str, Any], rank: int, num_processes: int) -> dict[str, Any]:
    """One process measures operators, two measure what they share."""
    return measure_operators(request) if num_processes == 1 else measure_pair(request, rank)


if __name__ == "__main__":
    serve(handle)

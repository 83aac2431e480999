"""Points answered by an existing Ray cluster, whose nodes have this release of fullmesh installed."""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import socket
import threading
from collections.abc import Iterator, Sequence
from typing import Any

from fullmesh import __version__
from fullmesh.errors import ScenarioError
from fullmesh.study.sweep.answer import Answerer, inputs_text
from fullmesh.study.sweep.grid import Inputs, Point, from_line, of_many, program_digest
from fullmesh.study.sweep.local import chunks

ADDRESS = "RAY_ADDRESS"
# pieces of work that wait for each processor, so that none waits for the next question
_AHEAD = 2
_KNOCK_S = 5.0


def check_ray() -> None:
    """Refuse, before the work, where Ray is not installed.

    Raises
    ------
    ScenarioError
    """
    try:
        import ray  # noqa: F401
    except ImportError:
        raise ScenarioError(
            "Ray is not installed",
            where="--engine ray",
            expected="the package ray, here and on the cluster",
            hint="pip install 'fullmesh[ray]', or leave out --engine: processes of this machine need nothing",
        ) from None


@contextlib.contextmanager
def ray_answers(
    inputs: Inputs, points: Sequence[Point], jobs: int | None, address: str | None
) -> Iterator[Iterator[bytes]]:
    """Rows as they are answered, as lines of JSON; leaving the ``with`` block ends the work.

    Parameters
    ----------
    jobs : int or None
        Processors of the cluster to use; all by default.
    address : str or None
        Where the cluster is, otherwise what ``RAY_ADDRESS`` says, otherwise the one that runs on this machine.

    Raises
    ------
    ScenarioError
        No cluster answers there, its nodes have no fullmesh or another release, or work on it fails.
    """
    import ray

    mine = not ray.is_initialized()
    if mine:
        _connect(address)
    try:
        yield _gathered(ray, inputs, points, jobs)
    finally:
        if mine:
            ray.shutdown()


def _connect(address: str | None) -> None:
    import ray

    asked = address or os.environ.get(ADDRESS) or "auto"
    where = (
        f"--ray-address {address}" if address else f"{ADDRESS}={asked}" if asked != "auto" else "--engine ray"
    )
    # Ray takes the signals over; an end is ours to act on
    in_main = threading.current_thread() is threading.main_thread()
    before = {n: signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)} if in_main else {}
    try:
        _knock(asked)
        ray.init(address=asked, configure_logging=False, log_to_driver=False)
    except (ConnectionError, ValueError, RuntimeError, OSError) as error:
        raise ScenarioError(
            f"no Ray cluster answers: {(str(error).splitlines() or [type(error).__name__])[0]}",
            where=where,
            expected="the address of a cluster that runs, and its token in RAY_AUTH_TOKEN where it asks for one",
            hint="start one with: ray start --head; or leave out --engine",
        ) from None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _knock(address: str) -> None:
    """Refuse a place where nothing listens at once: Ray would wait for minutes."""
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if host and port.isdecimal():
        socket.create_connection((host.strip("[]"), int(port)), timeout=_KNOCK_S).close()


def _gathered(ray: Any, inputs: Inputs, points: Sequence[Point], jobs: int | None) -> Iterator[bytes]:
    processors = max(1, int(ray.cluster_resources().get("CPU", 1)))
    workers = min(processors, jobs or processors)
    shared = ray.put(inputs_text(inputs))
    ask = ray.remote(num_cpus=1)(answered)
    todo = chunks(points, workers)
    waiting: list[Any] = []
    while True:
        while len(waiting) < (_AHEAD * workers if jobs is None else workers) and (chunk := next(todo, None)):
            waiting.append(ask.remote(program_digest(), shared, of_many(chunk)))
        if not waiting:
            return
        done, waiting = ray.wait(waiting, num_returns=1)
        for reference in done:
            try:
                rows = ray.get(reference)
            except ray.exceptions.RayError as error:
                raise _failed(error) from None
            if isinstance(rows, str):
                raise ScenarioError(
                    f"the cluster has fullmesh {rows}, this is {__version__} ({program_digest()[:12]})",
                    where="--engine ray",
                    expected="the same release on every node",
                    hint="install the same release there",
                )
            yield from rows


def _failed(error: Exception) -> ScenarioError:
    text = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    missing = next((line for line in text if "No module named" in line), "")
    return ScenarioError(
        f"work on the cluster has failed: {missing or text[-1]}",
        where="--engine ray",
        expected="nodes on which fullmesh is installed",
        hint="install the same release of fullmesh on every node; rows that are kept are not asked again",
    )


@functools.lru_cache(maxsize=2)
def _answerer(inputs: str) -> Answerer:
    """What a process of the cluster loads once."""
    return Answerer.from_text(inputs)


def answered(program: str, inputs: str, points: str) -> list[bytes] | str:
    """On a node: the rows of some points, or which fullmesh it has where that is another."""
    if program != program_digest():
        return f"{__version__} ({program_digest()[:12]})"
    answerer = _answerer(inputs)
    with answerer.profile():
        return [answerer.line(p).encode() for p in from_line(points)]

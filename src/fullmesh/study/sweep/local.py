"""Points answered by processes of this machine.

Each is a fresh Python that reads lines from a pipe: first a setting and what the points share, then points; it writes
rows. It ends with the pipe, so that none outlives a parent that is killed, and hears no Ctrl-C of the terminal, which
is the parent's to act on.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from typing import IO

from fullmesh.errors import ScenarioError
from fullmesh.language import current, use
from fullmesh.study.sweep.answer import Answerer, inputs_text
from fullmesh.study.sweep.grid import Inputs, Point, from_line, of_many

# points that a process is given at once: answers come one by one, so this only saves waiting for the next question
CHUNK = 8
# no thread of a library beside the processes
_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")
_START = "import sys; sys.path[:] = {path!r}; from fullmesh.study.sweep.local import work; work()"


def default_jobs() -> int:
    """Processors that this process may use."""
    with contextlib.suppress(AttributeError):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def chunks(points: Sequence[Point], workers: int) -> Iterator[Sequence[Point]]:
    """Points in pieces, small enough that all workers end at nearly the same time."""
    size = max(1, min(CHUNK, len(points) // (4 * workers)))
    return (points[i : i + size] for i in range(0, len(points), size))


@contextlib.contextmanager
def local_answers(inputs: Inputs, points: Sequence[Point], jobs: int) -> Iterator[Iterator[bytes]]:
    """Rows as they are answered, as lines of JSON; leaving the ``with`` block ends the work.

    A row does not depend on the number of jobs, to the last bit: libraries have one thread in each process, for sums in
    several pieces round another way. One job is done in this process where that holds already.
    """
    if min(jobs, len(points)) <= 1 and os.environ.get(_THREADS[0]) == "1":
        answerer = Answerer(inputs)
        with answerer.profile():
            yield (answerer.line(p).encode() for p in points)
        return
    workers: list[subprocess.Popen[bytes]] = []
    threads: list[threading.Thread] = []
    work = _Work(inputs, points, min(jobs, len(points)))
    try:
        for _ in range(work.num_workers):
            workers.append(_start())
            threads.append(threading.Thread(target=work.serve, args=(workers[-1],), daemon=True))
            threads[-1].start()
        yield work.rows()
    finally:
        # a process has nothing open that a kill could leave half written
        for worker in workers:
            worker.kill()
        for thread in threads:
            thread.join()
        for worker in workers:
            worker.wait()
            for pipe in (worker.stdin, worker.stdout):
                with contextlib.suppress(OSError):
                    pipe.close()  # type: ignore[union-attr]


def _start() -> subprocess.Popen[bytes]:
    env = os.environ | dict.fromkeys(_THREADS, "1")
    return subprocess.Popen(
        [sys.executable, "-c", _START.format(path=sys.path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=env,
        start_new_session=True,
    )


class _Work:
    """What processes still have to answer, and what they have answered; a thread serves each of them."""

    def __init__(self, inputs: Inputs, points: Sequence[Point], num_workers: int) -> None:
        self.num_workers = num_workers
        self._head = json.dumps({"lang": current()}).encode() + b"\n" + inputs_text(inputs).encode()
        self._todo, self._lock = chunks(points, num_workers), threading.Lock()
        # a row; None where a process has answered all it was given; what ended it before
        self._found: queue.SimpleQueue[bytes | Exception | None] = queue.SimpleQueue()

    def serve(self, worker: subprocess.Popen[bytes]) -> None:
        """Give a process points and take its rows, until there is nothing to answer or it is gone."""
        assert worker.stdin is not None
        assert worker.stdout is not None
        try:
            worker.stdin.write(self._head)
            while True:
                with self._lock:
                    chunk = next(self._todo, None)
                if chunk is None:
                    break
                worker.stdin.write(of_many(chunk).encode() + b"\n")
                worker.stdin.flush()
                for row in itertools.islice(_whole_lines(worker.stdout), len(chunk)):
                    self._found.put(row)
            self._found.put(None)
        except Exception as error:
            self._found.put(error)

    def rows(self) -> Iterator[bytes]:
        """Rows as they come."""
        working = self.num_workers
        while working:
            row = self._found.get()
            if isinstance(row, Exception):
                raise ScenarioError(
                    f"a process that answers points has ended: {row}",
                    where="--jobs",
                    expected="processes that live as long as there are points",
                    hint="where memory was short, ask with fewer --jobs; rows that are kept are not asked again",
                )
            if row is None:
                working -= 1
            else:
                yield row


def _whole_lines(stream: IO[bytes]) -> Iterator[bytes]:
    while True:
        line = stream.readline()
        if not line.endswith(b"\n"):
            raise EOFError("its pipe is closed")
        yield line


def work() -> None:
    """A process of its own: answer points from standard input until that ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    rows = os.fdopen(os.dup(1), "wb")
    # what a library prints is talk
    os.dup2(2, 1)
    questions = sys.stdin.buffer
    use(json.loads(questions.readline())["lang"])
    answerer = Answerer.from_text(questions.readline())
    with contextlib.suppress(BrokenPipeError), answerer.profile():
        for line in questions:
            for point in from_line(line):
                rows.write(answerer.line(point).encode())
                rows.flush()
    # the parent has gone, or wants no more: nothing is left to be written
    os._exit(0)

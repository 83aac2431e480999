"""The device at hand: which one it is, how time is taken on it, and processes that measure and end in time."""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from fullmesh.errors import FullmeshError
from fullmesh.files import write_json

DEVICES = ("auto", "cpu", "cuda", "npu")
# glibc's mallopt: keep freed memory in the process instead of handing its pages back and faulting them in again
_MALLOPT_TRIM_THRESHOLD, _MALLOPT_MMAP_THRESHOLD = -1, -3
_KEEP_BYTES = 1 << 30


def require_torch() -> None:
    """Check that PyTorch is installed, without importing it.

    Raises
    ------
    FullmeshError
        It is not.
    """
    if importlib.util.find_spec("torch") is None:
        raise FullmeshError(
            "PyTorch is not installed",
            where="measuring the machine at hand",
            expected="the optional package torch",
            hint="pip install 'fullmesh[torch]'",
        )


def load_torch() -> Any:
    """Import PyTorch, or say how to install it."""
    require_torch()
    return importlib.import_module("torch")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """One device and its clock.

    Parameters
    ----------
    kind : str
        ``cpu``, ``cuda`` or ``npu``.
    index : int
    clock : str
        ``device``: events on the device, the host's share apart. ``cpu``: processor time of this process, which is
        the wall time on a core of its own and holds where others use the cores too; waiting does not count.
        ``wall``: the wall clock of a CPU that nobody else uses.
    """

    kind: str
    index: int
    clock: str

    @property
    def name(self) -> str:
        """As PyTorch calls it."""
        return self.kind if self.kind == "cpu" else f"{self.kind}:{self.index}"

    @property
    def module(self) -> Any:
        """``torch.cuda`` or ``torch.npu``."""
        return getattr(load_torch(), self.kind)

    @property
    def dtype(self) -> Any:
        """Of parameters and activations: FP32 on the CPU, BF16 on an accelerator."""
        torch = load_torch()
        return torch.float32 if self.kind == "cpu" else torch.bfloat16

    def synchronize(self) -> None:
        """Wait until the device has done what was queued."""
        if self.kind != "cpu":
            self.module.synchronize()

    def now_s(self) -> float:
        """The host's clock that counts on this device."""
        return time.process_time() if self.clock == "cpu" else time.perf_counter()


def open_device(wanted: str, index: int = 0, clock: str = "") -> Device:
    """Find the device and prepare it.

    Parameters
    ----------
    wanted : {"auto", "cpu", "cuda", "npu"}
    index : int
    clock : str
        ``cpu`` or ``wall`` for a CPU, ``cpu`` if empty; an accelerator has its own.

    Raises
    ------
    FullmeshError
        The device is unknown or not there.
    """
    torch = load_torch()
    if wanted not in DEVICES:
        raise FullmeshError(
            f"unknown device {wanted!r}", where="--device", expected="one of " + ", ".join(DEVICES)
        )
    if wanted in ("auto", "npu") and importlib.util.find_spec("torch_npu") is not None:
        importlib.import_module("torch_npu")
    kinds = [k for k in ("cuda", "npu") if hasattr(torch, k) and getattr(torch, k).is_available()]
    kind = [*kinds, "cpu"][0] if wanted == "auto" else wanted
    if kind not in [*kinds, "cpu"]:
        raise FullmeshError(
            f"no {kind} device is available to PyTorch",
            where="--device",
            expected="one of " + ", ".join([*kinds, "cpu"]),
        )
    if kind != "cpu":
        getattr(torch, kind).set_device(index)
        return Device(kind=kind, index=index, clock="device")
    torch.set_num_threads(1)
    _keep_freed_memory()
    return Device(kind=kind, index=0, clock=clock or "cpu")


def device_count(kind: str) -> int:
    """Devices of a kind; a CPU serves any number of processes, its cores are counted."""
    if kind == "cpu":
        return os.cpu_count() or 1
    return int(getattr(load_torch(), kind).device_count())


def device_title(device: Device) -> str:
    """What the device calls itself."""
    if device.kind != "cpu":
        return str(device.module.get_device_name(device.index))
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    import platform

    return platform.processor() or platform.machine()


def _keep_freed_memory() -> None:
    """Keep freed pages in the process.

    Faulting fresh ones in costs as much as the operators themselves; allocators for training keep them too.
    """
    import ctypes

    try:
        libc = ctypes.CDLL(None)
        libc.mallopt(_MALLOPT_MMAP_THRESHOLD, _KEEP_BYTES)
        libc.mallopt(_MALLOPT_TRIM_THRESHOLD, _KEEP_BYTES)
    except (OSError, AttributeError, TypeError):
        pass  # another C library: its own policy holds, in the calibration and in the run alike


# --- processes ------------------------------------------------------------------------------------------------


def launch(
    module: str, request: Mapping[str, Any], *, num_processes: int, timeout_s: float, what: str
) -> list[dict[str, Any]]:
    """Run ``python -m module`` in fresh processes and collect what each returns.

    Parameters
    ----------
    module : str
        Its ``__main__`` calls :func:`serve`.
    request : mapping
        Handed over as JSON.
    num_processes : int
        Above one the processes form a group (``torch.distributed``) that meets on the loopback interface.
    timeout_s : float
        After it all of them are ended.
    what : str
        For messages.

    Returns
    -------
    list of dict
        One answer a process, in the order of ranks.

    Raises
    ------
    FullmeshError
        A process failed or did not end in time.
    """
    require_torch()
    with tempfile.TemporaryDirectory(prefix="fullmesh-here-") as folder:
        root = Path(folder)
        write_json(root / "request.json", dict(request))
        environment = dict(os.environ, OMP_NUM_THREADS="1", MKL_NUM_THREADS="1")
        package_root = str(Path(__file__).resolve().parents[2])
        environment["PYTHONPATH"] = os.pathsep.join(
            p for p in (package_root, environment.get("PYTHONPATH", "")) if p
        )
        if sys.platform == "linux":
            environment.setdefault("GLOO_SOCKET_IFNAME", "lo")
        processes: list[subprocess.Popen[bytes]] = []
        try:
            for rank in range(num_processes):
                with (root / f"log.{rank}").open("wb") as log:
                    processes.append(
                        subprocess.Popen(
                            [sys.executable, "-m", module, str(root), str(rank), str(num_processes)],
                            env=environment,
                            stdin=subprocess.DEVNULL,
                            stdout=log,
                            stderr=subprocess.STDOUT,
                        )
                    )
            _wait(processes, timeout_s, root, what)
        finally:
            for process in processes:
                if process.poll() is None:
                    process.kill()
                process.wait()
        return [
            json.loads((root / f"answer.{r}.json").read_text(encoding="utf-8")) for r in range(num_processes)
        ]


def _wait(processes: list[subprocess.Popen[bytes]], timeout_s: float, root: Path, what: str) -> None:
    deadline = time.monotonic() + timeout_s
    while True:
        codes = [p.poll() for p in processes]
        failed = [rank for rank, code in enumerate(codes) if code not in (None, 0)]
        if failed:
            lines = (
                (root / f"log.{failed[0]}").read_text(encoding="utf-8", errors="replace").strip().splitlines()
            )
            last = lines[-1] if lines else f"exit code {codes[failed[0]]}"
            raise FullmeshError(f"a process failed: {last}", where=what)
        if all(code == 0 for code in codes):
            return
        if time.monotonic() > deadline:
            raise FullmeshError(
                f"not done after {timeout_s:.0f} s; its processes were ended",
                where=what,
                hint="the machine may be busy: try again, or allow more time with --seconds",
            )
        time.sleep(0.05)


def serve(handler: Callable[[dict[str, Any], int, int], dict[str, Any]]) -> None:
    """Body of a measuring process: read the request, join the group, answer, leave the group."""
    folder, rank, num_processes = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    request = json.loads((folder / "request.json").read_text(encoding="utf-8"))
    torch = load_torch()
    if num_processes > 1:
        import datetime

        open_device(request["device"], index=rank)

        torch.distributed.init_process_group(
            backend={"cuda": "nccl", "npu": "hccl"}.get(request["device"], "gloo"),
            init_method=(folder / "rendezvous").as_uri(),
            rank=rank,
            world_size=num_processes,
            timeout=datetime.timedelta(seconds=60),
        )
    try:
        answer = handler(request, rank, num_processes)
    finally:
        if num_processes > 1:
            torch.distributed.destroy_process_group()
    write_json(folder / f"answer.{rank}.json", answer)

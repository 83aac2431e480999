"""Calibrate the machine at hand: microbenchmarks in PyTorch, and the profile that is fitted to them.

``calibrate_here`` takes a minute or two. PyTorch is imported only in the processes that measure.
"""

from __future__ import annotations

import dataclasses
import datetime
import functools
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fullmesh.errors import FullmeshError
from fullmesh.files import write_json
from fullmesh.here.device import DEVICES, launch, require_torch
from fullmesh.here.laws import Law, fit_law, law_from_json
from fullmesh.reading import read_json

Floats = npt.NDArray[np.float64]
FORMAT = "fullmesh-here-1"
CLOCKS = ("cpu", "wall")
# processes import PyTorch and build their operands before they measure
_START_S = 60.0
_MIN_SECONDS = 5.0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class HereProfile:
    """What the device at hand takes for the operators of a small language model.

    Parameters
    ----------
    device : str
        ``cpu``, ``cuda`` or ``npu``.
    title : str
        What the device calls itself.
    num_devices : int
        Cores of a CPU, accelerators otherwise.
    dtype : str
        Of parameters and activations.
    clock : str
        ``cpu``: processor time of a process with one thread, waiting not counted; ``wall``; ``device``: events on the
        accelerator.
    measured_on : str
        ISO date.
    provenance : mapping of str to str
        Versions and host.
    laws : tuple of Law
    turn_s : mapping of str to float
        By column and phase (``device.forward``): what an operator takes beyond its law where others run before it,
        as in a model, instead of the same one.
    all_reduce : Law or None
        By bytes, over two processes; None where two processes cannot run.
    all_reduce_reason : str
        Why not.
    sharing : mapping of str to float
        Seconds over seconds alone, of ``compute``-bound and ``memory``-bound operators, while a second process
        computes on the same CPU; 1 on accelerators.
    """

    device: str
    title: str
    num_devices: int
    dtype: str
    clock: str
    measured_on: str
    provenance: dict[str, str]
    laws: tuple[Law, ...]
    turn_s: dict[str, float]
    all_reduce: Law | None
    all_reduce_reason: str
    sharing: dict[str, float]

    def seconds(self, operator: str, phase: str, *sizes: npt.ArrayLike, column: str = "device") -> Floats:
        """Seconds of one phase of an operator; zero where the operator does not have that phase.

        Raises
        ------
        KeyError
            The operator was not measured.
        """
        return _seconds(self.laws, self.turn_s, operator, phase, column, sizes)

    def as_json(self) -> dict[str, Any]:
        """Plain data; :func:`profile_from_json` reads it back."""
        return {"format": FORMAT, **dataclasses.asdict(self)}

    def write(self, path: Path) -> None:
        """Write the profile, whole or not at all."""
        write_json(path, self.as_json())


def _seconds(
    laws: tuple[Law, ...],
    turn_s: Mapping[str, float],
    operator: str,
    phase: str,
    column: str,
    sizes: Sequence[npt.ArrayLike],
) -> Floats:
    table = _index(laws)
    if (operator, "forward", column) not in table:
        raise KeyError(operator)
    law = table.get((operator, phase, column))
    if law is None:
        return np.zeros(np.broadcast_shapes(*(np.shape(s) for s in sizes)))
    # without a backward pass: what autograd or the optimizer calls from its own loop
    takes_turns = (operator, "backward", column) in table
    return law.seconds(*sizes) + (turn_s.get(f"{column}.{phase}", 0.0) if takes_turns else 0.0)


@functools.lru_cache(maxsize=8)
def _index(laws: tuple[Law, ...]) -> dict[tuple[str, str, str], Law]:
    return {(law.operator, law.phase, law.column): law for law in laws}


def profile_from_json(data: Mapping[str, Any]) -> HereProfile:
    """Build a profile from the data that :meth:`HereProfile.as_json` gives.

    Raises
    ------
    FullmeshError
        It is not such data.
    """
    if data.get("format") != FORMAT:
        raise FullmeshError("not a profile of the machine at hand", expected=f'"format": "{FORMAT}"')
    fields = {k: v for k, v in data.items() if k != "format"}
    try:
        fields["laws"] = tuple(law_from_json(law) for law in fields["laws"])
        fields["all_reduce"] = law_from_json(fields["all_reduce"]) if fields["all_reduce"] else None
        return HereProfile(**fields)
    except (KeyError, TypeError, ValueError) as error:
        raise FullmeshError(f"the profile is incomplete: {error}", hint="measure it again") from None


def read_profile(path: Path) -> HereProfile:
    """Read a profile that :meth:`HereProfile.write` wrote.

    Raises
    ------
    FullmeshError
        The file is missing or is not a profile.
    """
    hint = "`fullmesh calibrate here --out FILE` writes one"
    return profile_from_json(read_json(path, what="the profile", error=FullmeshError, hint=hint))


def calibrate_here(device: str = "auto", seconds: float = 60.0, *, clock: str = "") -> HereProfile:
    """Measure the device at hand and fit its profile.

    Parameters
    ----------
    device : {"auto", "cpu", "cuda", "npu"}
        ``auto``: an accelerator that PyTorch can use, else the CPU.
    seconds : float
        Wall time for the operators; starting processes and measuring collectives takes about 20 s on top.
    clock : {"", "cpu", "wall"}
        The clock on a CPU: ``cpu`` (the default) holds on a machine that others use too.

    Returns
    -------
    HereProfile

    Raises
    ------
    FullmeshError
        PyTorch is absent, the device is not there, or a measuring process failed or hung.
    """
    check_device(device, clock)
    if seconds < _MIN_SECONDS:
        raise FullmeshError(
            f"{seconds:g} s are too few to measure", where="--seconds", expected=f"at least {_MIN_SECONDS:g}"
        )
    require_torch()
    module = "fullmesh.here.measure"
    measured = launch(
        module,
        {"device": device, "clock": clock, "seconds": seconds},
        num_processes=1,
        timeout_s=_START_S + 3.0 * seconds,
        what="measuring operators",
    )[0]
    kind = measured["device"]
    pair: list[dict[str, Any]] = []
    reason = f"two processes need two devices, and there is one {kind}"
    if kind == "cpu" or measured["num_devices"] >= 2:
        request = {"device": kind, "clock": measured["clock"]}
        pair = launch(module, request, num_processes=2, timeout_s=120.0, what="measuring two processes")
        reason = ""
    return fit_profile(measured, pair, reason)


def check_device(device: str, clock: str) -> None:
    """Reject names that no machine has.

    Raises
    ------
    FullmeshError
        The device or the clock is unknown.
    """
    if device not in DEVICES:
        raise FullmeshError(
            f"unknown device {device!r}", where="--device", expected="one of " + ", ".join(DEVICES)
        )
    if clock not in ("", *CLOCKS):
        raise FullmeshError(
            f"unknown clock {clock!r}", where="--clock", expected="one of " + ", ".join(CLOCKS)
        )


def fit_profile(measured: Mapping[str, Any], pair: list[dict[str, Any]], reason: str) -> HereProfile:
    """Fit laws to the answers of the measuring processes.

    Parameters
    ----------
    measured : mapping
        Answer of the process that measured operators.
    pair : list of dict
        Answers of the two processes that measured collectives; empty where they did not run.
    reason : str
        Why they did not.

    Returns
    -------
    HereProfile
    """
    columns = ("device",) if measured["device"] == "cpu" else ("device", "host")
    points: dict[str, list[Mapping[str, Any]]] = {}
    for point in measured["points"]:
        points.setdefault(point["operator"], []).append(point)
    laws = []
    for operator, rows in points.items():
        for i in range(len(rows[0]["phases"])):
            for c, column in enumerate(columns):
                sizes, seconds = [r["sizes"] for r in rows], [r["phases"][i][c] for r in rows]
                laws.append(fit_law(operator, ("forward", "backward")[i], column, sizes, seconds))
    found = tuple(laws)
    return HereProfile(
        device=measured["device"],
        title=measured["title"],
        num_devices=measured["num_devices"],
        dtype=measured["dtype"],
        clock=measured["clock"],
        measured_on=datetime.date.today().isoformat(),
        provenance={
            "torch": measured["torch"],
            "python": platform.python_version(),
            "system": f"{platform.system()} {platform.machine()}",
            "command": "fullmesh calibrate here",
        },
        laws=found,
        turn_s=_fit_turns(measured["mixed"], found, columns),
        all_reduce=_fit_all_reduce(pair) if pair else None,
        all_reduce_reason=reason,
        sharing=_fit_sharing(pair),
    )


def _fit_turns(mixed: Mapping[str, Any], laws: tuple[Law, ...], columns: Sequence[str]) -> dict[str, float]:
    """What a layer of operators in turn takes beyond their laws, a share for each that has a backward pass."""
    index = _index(laws)
    turns: dict[str, float] = {}
    for c, column in enumerate(columns):
        for p, phase in enumerate(("forward", "backward")):
            lawful, num = 0.0, 0
            for operator, sizes, count in mixed["calls"]:
                whole = (operator, "backward", column) in index
                num += count * whole
                # gradients are added while the backward pass runs
                name = phase if whole else {"backward": "forward"}.get(phase, "")
                law = index.get((operator, name, column))
                lawful += 0.0 if law is None else count * float(law.seconds(*sizes))
            beyond = (mixed["phases"][p][c] - lawful) / max(1, num)
            turns[f"{column}.{phase}"] = float(f"{max(0.0, beyond):.4g}")
    return turns


def _fit_all_reduce(pair: list[dict[str, Any]]) -> Law:
    """The mean over the ranks by size: each of them waits, copies and adds its part."""
    sizes = [[p["bytes"]] for p in pair[0]["points"]]
    seconds = [float(np.mean([r["points"][i]["device_s"] for r in pair])) for i in range(len(sizes))]
    return fit_law("all_reduce", "forward", "device", sizes, seconds)


def _fit_sharing(pair: list[dict[str, Any]]) -> dict[str, float]:
    sharing = {"compute": 1.0, "memory": 1.0}
    for kind in sharing:
        ratios = [r for answer in pair for r in answer["shared"].get(kind, [])]
        if ratios:
            # a second process never makes the first one faster
            sharing[kind] = round(max(1.0, float(np.median(ratios))), 4)
    return sharing

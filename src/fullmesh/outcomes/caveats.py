"""What a result must say of its machine and software: borrowed, announced, never seen."""

from __future__ import annotations

import dataclasses

from fullmesh.cost.borrowed import borrowed_by
from fullmesh.cost.effects import known_stacks, load_effects
from fullmesh.machine import Borrowed, Machine
from fullmesh.outcomes.intervals import ENOUGH_ROWS, results_of_chip


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Caveats:
    """What a machine and a stack take from elsewhere.

    Parameters
    ----------
    borrowed : tuple of Borrowed
    notes : tuple of str
        The same and the rest in words, one sentence each.
    unproven : str
        Why published results of the chip's family do not vouch for the estimate; empty where they do.
    """

    borrowed: tuple[Borrowed, ...]
    notes: tuple[str, ...]
    unproven: str


def caveats_of(machine: Machine, stack: str = "") -> Caveats:
    """The caveats of predictions for a machine, and for a software stack where one is named.

    A chip that borrows and has ten published results of its own or more keeps the interval of its family: what was
    borrowed is in their residuals.
    """
    chip = machine.chip
    borrowed = borrowed_by(machine)
    notes = [str(b) for b in borrowed]
    reasons = []
    if machine.announced:
        notes.insert(0, f"announced: {machine.name} has figures of hardware that has not shipped")
        reasons.append("the hardware is announced")
    rows = results_of_chip(chip.id)
    # what the file leaves open, its software, is taken from machines that the family's results are of
    hardware = [b.what for b in borrowed if b not in machine.borrowed]
    if hardware and rows < ENOUGH_ROWS:
        what = ", ".join(dict.fromkeys(hardware))
        reasons.append(f"borrowed: {what}; published results of {chip.name} itself: {rows}")
    if personal := load_effects().provenance.get("personal"):
        notes.append(f"software: {personal}")
    if stack and stack not in known_stacks():
        notes.append(f"software: no published result of the stack {stack!r}")
        reasons.append(f"no published result of the stack {stack!r}")
    return Caveats(borrowed=borrowed, notes=tuple(notes), unproven="; ".join(reasons))

"""What the software of a machine switches on where the user says nothing."""

from __future__ import annotations

from fullmesh.machine import Machine
from fullmesh.machine.software import Software, find_software

__all__ = ["Software", "software_of"]


def software_of(machine: Machine) -> Software:
    """The software generation that a prediction for ``machine`` is for, unless the user names another."""
    return find_software(machine.software, where=machine.id)

"""Chips, fabrics and machines, built from the facts of the catalog."""

from fullmesh.machine.chips import list_chips, load_chip
from fullmesh.machine.hardware import Chip, Machine, Tier
from fullmesh.machine.load import list_machines, load_machine

__all__ = ["Chip", "Machine", "Tier", "list_chips", "list_machines", "load_chip", "load_machine"]

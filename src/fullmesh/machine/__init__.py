"""Chips, fabrics and machines, built from the facts of the catalog."""

from fullmesh.machine.chips import list_chips, load_chip
from fullmesh.machine.load import list_machines, load_machine
from fullmesh.machine.types import Chip, Machine, Tier

__all__ = ["Chip", "Machine", "Tier", "list_chips", "list_machines", "load_chip", "load_machine"]

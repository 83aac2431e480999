"""Chips, fabrics and machines, built from the facts of the catalog."""

from fullmesh.machine.chips import list_chips, load_chip
from fullmesh.machine.hardware import Borrowed, Chip, FabricDescription, Machine, Tier
from fullmesh.machine.load import load_fabric, load_machine
from fullmesh.machine.names import list_machines

__all__ = [
    "Borrowed",
    "Chip",
    "FabricDescription",
    "Machine",
    "Tier",
    "list_chips",
    "list_machines",
    "load_chip",
    "load_fabric",
    "load_machine",
]

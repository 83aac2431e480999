"""Chips, fabrics and machines, built from the facts of the catalog."""

from fullmesh.machine.types import Chip, Machine, Tier

__all__ = ["Chip", "Machine", "Tier"]

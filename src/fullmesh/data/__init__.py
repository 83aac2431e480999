"""Shipped data: facts, machines, prices, models, published results, fitted profiles. No code, but for where it lies."""

from __future__ import annotations

from pathlib import Path

DATA_DIR = Path(__file__).resolve().parent
"""Folder of the shipped data files."""

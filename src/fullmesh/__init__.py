"""fullmesh: a virtual supernode for large-model training.

>>> import fullmesh
>>> result = fullmesh.compare("deepseek-v3", on=["cloudmatrix384", "gb200-nvl72", "h200"])
>>> print(result)  # doctest: +SKIP
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fullmesh.study.pipeline import best_plans, compare, simulate

__version__ = "0.1.0"
__all__ = ["__version__", "best_plans", "compare", "simulate"]


def __getattr__(name: str) -> Any:
    # the study imports NumPy and the cost models: only when one of its functions is asked for
    if name in ("best_plans", "compare", "simulate"):
        import importlib

        return getattr(importlib.import_module("fullmesh.study.pipeline"), name)
    raise AttributeError(f"module 'fullmesh' has no attribute {name!r}")

"""fullmesh: a virtual supernode for large-model training.

>>> import fullmesh
>>> result = fullmesh.compare("deepseek-v3", on=["cloudmatrix384", "gb200-nvl72", "h200"])
>>> print(result)  # doctest: +SKIP
"""

from __future__ import annotations

# type checkers take this name for true; the module itself is not imported, for an interrupt may come at any time
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from fullmesh.outcomes.estimate import Estimate, Infeasible
    from fullmesh.replays.replayed import Replayed
    from fullmesh.search.engine import SearchResult
    from fullmesh.study.api import (
        best_plans,
        check,
        chips,
        compare,
        goodput,
        machines,
        models,
        replay,
        simulate,
        sweep,
    )
    from fullmesh.study.check.checked import Checked
    from fullmesh.study.compare import Comparison
    from fullmesh.study.goodput import Goodput
    from fullmesh.study.sweep.run import Sweep

__version__ = "0.1.0"
__all__ = [
    "Checked",
    "Comparison",
    "Estimate",
    "Goodput",
    "Infeasible",
    "Replayed",
    "SearchResult",
    "Sweep",
    "__version__",
    "best_plans",
    "check",
    "chips",
    "compare",
    "goodput",
    "machines",
    "models",
    "replay",
    "simulate",
    "sweep",
]

# where each public name lives: the study imports NumPy and the cost models, only when one of its names is asked for
_HOMES = {
    "Checked": "fullmesh.study.check.checked",
    "Comparison": "fullmesh.study.compare",
    "Estimate": "fullmesh.outcomes.estimate",
    "Goodput": "fullmesh.study.goodput",
    "Infeasible": "fullmesh.outcomes.estimate",
    "Replayed": "fullmesh.replays.replayed",
    "SearchResult": "fullmesh.search.engine",
    "Sweep": "fullmesh.study.sweep.run",
}


def __getattr__(name: str) -> Any:
    if name in __all__:
        import importlib

        return getattr(importlib.import_module(_HOMES.get(name, "fullmesh.study.api")), name)
    raise AttributeError(f"module 'fullmesh' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__

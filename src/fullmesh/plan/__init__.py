"""How a model is split over devices: parallel degrees, schedule, precision, recompute."""

from fullmesh.plan.plan import (
    CUDA_GRAPHS,
    DISPATCHERS,
    RECOMPUTES,
    SCHEDULES,
    Plan,
    Plans,
)
from fullmesh.plan.precision import RECIPES, Recipe

__all__ = ["CUDA_GRAPHS", "DISPATCHERS", "RECIPES", "RECOMPUTES", "SCHEDULES", "Plan", "Plans", "Recipe"]

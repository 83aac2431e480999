"""How a model is split over devices: parallel degrees, schedule, precision, recompute."""

from fullmesh.plan.precision import RECIPES, Recipe
from fullmesh.plan.types import (
    CUDA_GRAPHS,
    DISPATCHERS,
    RECOMPUTES,
    SCHEDULES,
    Plan,
    Plans,
)

__all__ = ["CUDA_GRAPHS", "DISPATCHERS", "RECIPES", "RECOMPUTES", "SCHEDULES", "Plan", "Plans", "Recipe"]

"""The best plans of all feasible ones, and why the rest was rejected."""

from fullmesh.plan.software import Software, software_of
from fullmesh.search.engine import OBJECTIVES, Rejection, SearchResult, search

__all__ = ["OBJECTIVES", "Rejection", "SearchResult", "Software", "search", "software_of"]

"""The best plans of all feasible ones, and why the rest was rejected."""

from fullmesh.search.run import OBJECTIVES, Rejection, SearchResult, search
from fullmesh.search.software import Software, software_of

__all__ = ["OBJECTIVES", "Rejection", "SearchResult", "Software", "search", "software_of"]

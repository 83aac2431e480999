"""Plans of the published rows, and those that a training framework has settings for."""

from __future__ import annotations

import functools

from fullmesh.errors import ExportError
from fullmesh.evidence.cases import case_table
from fullmesh.evidence.mapping import Case
from fullmesh.evidence.results import read_results
from fullmesh.study.launch.folder import as_written


@functools.cache
def published() -> tuple[Case, ...]:
    """One case of each distinct plan of a model among the published rows."""
    table, _ = case_table(read_results())
    assert table is not None
    return tuple({(c.model, c.plan): c for c in table.cases}.values())


# every so many of the plans, of frameworks that take most of them
STRIDES = {"megatron": 4, "megatron-bridge": 4, "mindspeed": 3}


@functools.cache
def accepted(framework: str) -> tuple[Case, ...]:
    """Those that a framework has settings for, of a sample where these are many."""
    out = []
    for case in published()[:: STRIDES.get(framework, 1)]:
        try:
            as_written(case.plan, case.model, framework)
        except ExportError:
            continue
        out.append(case)
    return tuple(out)

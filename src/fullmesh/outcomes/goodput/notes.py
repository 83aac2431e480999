"""What a forecast of a run rests on, in sentences."""

from __future__ import annotations

import math

from fullmesh.catalog.faults import SHIPPED
from fullmesh.outcomes.goodput.case import DAY_S, Case, spare_kind
from fullmesh.outcomes.goodput.domains import is_supernode
from fullmesh.outcomes.goodput.draws import NORMAL
from fullmesh.outcomes.goodput.records import RunOptions
from fullmesh.outcomes.goodput.tornado import UNKNOWN_STEP
from fullmesh.output import formats


def notes_of(case: Case, o: RunOptions) -> list[str]:
    """Power, faults, and what a fault of a node does."""
    notes = []
    m = case.machine
    if case.power is not None:
        notes.append(case.power.basis)
        if m.chip.vendor == "huawei":
            notes.append(
                "no power of an Ascend machine under training and no PUE of one is public: energy may be off by "
                f"{formats.percent(math.expm1(NORMAL * case.power.log_error), 0)} either way (80 %)"
            )
    else:
        notes.append(f"no power of {m.name} is published, so there is no energy")
    if o.log is None and m.chip.vendor == "huawei" and o.faults.name == SHIPPED.name:
        notes.append("fault rates are those of GPU servers: no field data of Ascend machines are public")
    if not math.isfinite(case.e.interval.log_half_width):
        notes.append(
            f"the error of the step is unknown; its logarithm is taken to deviate by {UNKNOWN_STEP:g}"
        )
    if o.log is not None:
        copies = math.ceil(case.nodes / o.log_nodes)
        notes.append(
            f"faults replayed from {o.log.name}, {o.log_nodes:,} nodes over {o.log.span_s / DAY_S:.0f} days, each run "
            "from another day"
            + (f", laid over itself {copies} times for {case.nodes:,.0f} nodes" if copies > 1 else "")
            + "; slow nodes and lost bandwidth as in the table of rates"
        )
    if is_supernode(m) and spare_kind(m, o.spares) == "unit":
        notes.append(
            f"a fault of a node stops the job until another {m.unit_name} stands in; the node is replaced from stock "
            f"within {o.inputs['node_swap'] / 3600:g} h, and a site where that takes longer keeps more spares"
        )
    return notes

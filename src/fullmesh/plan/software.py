"""What the software of a machine switches on where the user says nothing, and capability files of one's own."""

from __future__ import annotations

from pathlib import Path
from types import MappingProxyType
from typing import Any

from fullmesh.errors import CatalogError, PlanError, did_you_mean, shown
from fullmesh.machine import Machine
from fullmesh.machine.software import Software, find_software
from fullmesh.plan.plan import FIELDS
from fullmesh.reading import read_toml

__all__ = ["CAPABILITIES", "Software", "read_software", "software_of"]

#: Fields of a plan that software decides and a planner does not.
CAPABILITIES = (
    "kernels", "grad_bytes", "grad_copy", "dispatcher", "cuda_graph", "grouped_experts", "flash_attention", "compiled",
    "fp8_params", "sequence_parallel", "tp_overlap", "grad_overlap", "param_overlap", "p2p_overlap", "optimizer_bytes",
    "fused_loss", "fsdp_prefetch", "weight_cache", "fused_casts", "issue_ns", "routing_syncs",
)  # fmt: skip
_KEYS = ("label", "stack", "options", "expert_options", "source", "date")
_HINT = (
    'a capability file has a label and [options] with fields of a plan, for instance dispatcher = "deepep"'
)


def software_of(machine: Machine) -> Software:
    """The software generation that a prediction for ``machine`` is for, unless the user names another."""
    return find_software(machine.software, where=machine.id)


def read_software(path: Path, stacks: tuple[str, ...]) -> Software:
    """A capability file: what one's own stack switches on, and whose fitted effects it takes.

    Parameters
    ----------
    stacks : tuple of str
        Stacks that results know, of which ``stack`` may name one; without it the stack is ``unknown``.

    Raises
    ------
    CatalogError
        The file cannot be read, or a key or value is not understood.
    """
    data, _ = read_toml(path, what="the capability file", error=CatalogError, hint=_HINT)
    for key in data:
        if key not in _KEYS:
            raise CatalogError(
                f"unknown key {shown(key)}",
                where=str(path),
                expected="one of " + ", ".join(_KEYS),
                hint=did_you_mean(key, list(_KEYS)),
            )
    texts = {key: data.get(key, "") for key in ("label", "stack", "source", "date")}
    for key, value in texts.items():
        # TOML has dates of its own
        texts[key] = value if isinstance(value, str) else str(value) if key == "date" else None
        if texts[key] is None or len(texts[key]) > 200:
            raise CatalogError(f"{key} is no text", where=f"{path}, {key}", expected="up to 200 characters")
    stack = texts["stack"] or "unknown"
    if stack not in (*stacks, "unknown"):
        raise CatalogError(
            f"unknown stack {shown(stack)}",
            where=f"{path}, stack",
            expected="one of " + ", ".join((*stacks, "unknown")),
            hint=did_you_mean(stack, list(stacks)) or "leave it out for a stack that no published result has",
        )
    return Software(
        name=path.stem,
        stack=stack,
        label=texts["label"] or path.stem,
        families=(),
        vendor="",
        options=MappingProxyType(_options(data.get("options", {}), f"{path}, [options]")),
        expert_options=MappingProxyType(
            _options(data.get("expert_options", {}), f"{path}, [expert_options]")
        ),
    )


def _options(table: Any, where: str) -> dict[str, Any]:
    if not isinstance(table, dict):
        raise CatalogError("options are no table", where=where, expected="[options]", hint=_HINT)
    for key, value in table.items():
        if key not in CAPABILITIES:
            raise CatalogError(
                f"{shown(key)} is nothing that software decides",
                where=where,
                expected="one of " + ", ".join(CAPABILITIES),
                hint=did_you_mean(key, list(CAPABILITIES)),
            )
        try:
            FIELDS[key].check(value, where=where)
        except PlanError as error:
            raise CatalogError(error.what, where=where, expected=error.expected, hint=error.hint) from None
    return dict(table)

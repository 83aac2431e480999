"""One step from a plan: every axis and switch moved once, priced together, the largest predicted gains first."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

from fullmesh.errors import PlanError
from fullmesh.machine import Machine
from fullmesh.outcomes.estimate import Estimate, estimates_of, evaluate
from fullmesh.outcomes.support import key_of, load_known, missing_words
from fullmesh.plan import CUDA_GRAPHS, DISPATCHERS, Plan, Plans
from fullmesh.plan.feasible import violations
from fullmesh.plan.plan import FIELDS, check_plan
from fullmesh.search.space import common_modules, max_tp
from fullmesh.study.launch.read import settled
from fullmesh.workload import ModelSpec

# gains below this share of the step are not worth a restart
LEAST_GAIN = 0.005


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """A plan one step away.

    Parameters
    ----------
    fields : tuple of str
        What differs, as ``tp 4 -> 2``.
    estimate : Estimate
    gain : float
        Share of the step that it saves, by prediction.
    missing : tuple of str
        What of it no published result has and the plan it starts from does not need either; none: supported.
    """

    fields: tuple[str, ...]
    estimate: Estimate
    gain: float
    missing: tuple[str, ...]

    @property
    def supported(self) -> bool:
        """Whether published results speak for it as much as for the plan it starts from."""
        return not self.missing


def best_changes(
    model: ModelSpec, machine: Machine, plan: Plan, *, fits: bool, top: int = 3
) -> tuple[Change, ...]:
    """The changes with the largest predicted gain that fit and break no rule.

    Parameters
    ----------
    fits : bool
        Whether the plan itself fits; where it does not, every change that does is a gain, the fastest first.
    """
    others = _distinct(plan, model, neighbours(model, machine, plan))
    if not others:
        return ()
    table = Plans.of([plan, *others])
    ok = violations(model, machine, table).ok
    ok[0] = True
    kept = [p for p, good in zip([plan, *others], ok, strict=True) if good]
    priced = evaluate(model, machine, Plans.of(kept))
    before = float(priced.times.step_s[0])
    gains = [(1.0 - float(s) / before, i) for i, s in enumerate(priced.times.step_s) if i and priced.fits[i]]
    chosen = [i for gain, i in sorted(gains, key=lambda g: (-g[0], g[1])) if gain >= LEAST_GAIN or not fits][
        :top
    ]
    if not chosen:
        return ()
    estimates = estimates_of(evaluate(model, machine, Plans.of([kept[i] for i in chosen])))
    known = set(missing_words(model, machine, plan))
    return tuple(
        Change(
            fields=tuple(_moved(plan, e.plan, model)),
            estimate=e,
            gain=1.0 - e.step_s / before,
            missing=tuple(w for w in missing_words(model, machine, e.plan) if w not in known),
        )
        for e in estimates
    )


def _distinct(plan: Plan, model: ModelSpec, found: Iterator[Plan]) -> list[Plan]:
    """Plans that are allowed and differ from the first one and from each other."""
    seen, out = {settled(plan, model)}, []
    for other in found:
        try:
            check_plan(other)
            same = settled(other, model)
        except PlanError:
            continue
        if same not in seen:
            seen.add(same)
            out.append(other)
    return out


def _moved(before: Plan, after: Plan, model: ModelSpec) -> Iterator[str]:
    a, b = settled(before, model), settled(after, model)
    for name in FIELDS:
        x, y = getattr(before, name), getattr(after, name)
        # what no longer matters is no change of its own
        if x != y and getattr(a, name) != getattr(b, name):
            yield f"{name} {_word(x)} -> {_word(y)}"


def _word(value: Any) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, tuple):
        return "+".join(value) or "core_attn"
    return f"{value:g}" if isinstance(value, float) else str(value) or "even"


def neighbours(model: ModelSpec, machine: Machine, plan: Plan) -> Iterator[Plan]:
    """Plans one step away, allowed or not; batch, sequence and precision stay."""

    def but(**changed: Any) -> Plan:
        return dataclasses.replace(plan, **changed)

    for axis in ("tp", "cp", "pp"):
        size = getattr(plan, axis)
        free: dict[str, Any] = {"layout": ""} if axis == "pp" else {}
        if axis != "tp" or size * 2 <= max_tp(machine):
            yield from _traded(but, {axis: size * 2, **free}, plan, "dp", 2)
        if size % 2 == 0:
            yield from _traded(but, {axis: size // 2, **free}, plan, "dp", -2)
    for axis in ("ep", "etp", "mbs"):
        size = getattr(plan, axis)
        yield but(**{axis: size * 2})
        if size % 2 == 0:
            yield but(**{axis: size // 2})
    if plan.ep > 1 or plan.etp > 1:
        yield but(ep=plan.ep * plan.etp, etp=1)
    if plan.pp > 1:
        for vpp in {plan.vpp * 2, max(1, plan.vpp // 2), 1}:
            yield but(vpp=vpp, layout="")
        yield but(layout="")
    yield from (but(zero=zero, shard=0) for zero in (0, 1, 2, 3))
    yield but(recompute="none", recompute_fraction=1.0, recompute_modules=())
    yield but(recompute="selective", recompute_fraction=1.0, recompute_modules=())
    yield but(recompute="selective", recompute_fraction=1.0, recompute_modules=common_modules(model))
    yield from (
        but(recompute="full", recompute_fraction=f, recompute_modules=()) for f in (0.25, 0.5, 0.75, 1.0)
    )
    for switch in (
        "sequence_parallel", "tp_overlap", "grad_overlap", "param_overlap", "p2p_overlap", "ep_overlap",
        "grouped_experts",
    ):  # fmt: skip
        yield but(**{switch: not getattr(plan, switch)})
    yield but(grad_bytes=2 if plan.grad_bytes == 4 else 4)
    yield but(offload_optimizer=0.0, offload_activations=0.0)
    yield but(offload_optimizer=1.0)
    yield but(cp_kind="ulysses" if plan.cp_kind == "ring" else "ring")
    # graphs and dispatchers are there only where some result on such chips ran with them
    there = {word for pair in load_known().get(key_of(model, machine), ()) for word in pair}
    yield from (but(cuda_graph=g) for g in CUDA_GRAPHS if g == "none" or f"{g} graph" in there)
    yield from (but(dispatcher=d) for d in DISPATCHERS if f"dispatcher {d}" in there)


def _traded(but: Any, changed: dict[str, Any], plan: Plan, other: str, factor: int) -> Iterator[Plan]:
    """A degree for another: devices stay as many."""
    size = getattr(plan, other)
    if factor < 0:
        yield but(**changed, **{other: size * -factor})
    elif size % factor == 0:
        yield but(**changed, **{other: size // factor})

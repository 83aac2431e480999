"""The main job: one model on several machines, same batch and sequence, side by side."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

from fullmesh.catalog import Price
from fullmesh.errors import ScenarioError, did_you_mean
from fullmesh.machine import Machine
from fullmesh.outcomes.estimate import Estimate, is_close
from fullmesh.outcomes.money import Money, money_of, time_to_tokens_s
from fullmesh.outcomes.waterfall import Waterfall, waterfall
from fullmesh.plan import RECIPES
from fullmesh.plan.plan import LARGEST, SIZE_RANGE
from fullmesh.search import SearchResult, search
from fullmesh.study.reasons import reason
from fullmesh.study.sizing import BASES, default_batch, size_machines
from fullmesh.workload import Attention, ModelSpec
from fullmesh.workload.parameters import parameter_counts

DEFAULT_TOKENS = 1e12

# Tokens of a global batch by total parameters, near what published pretraining runs of that size use.
_BATCH_TOKENS = (
    (15e9, 4 * 2**20),
    (50e9, 8 * 2**20),
    (200e9, 16 * 2**20),
    (2e12, 32 * 2**20),
    (math.inf, 64 * 2**20),
)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """One machine of a comparison.

    Parameters
    ----------
    machine : Machine
    found : SearchResult
        ``found.best`` is None where the model does not fit; ``found.closest`` says why.
    waterfall : Waterfall or None
    money : Money or None
        None where there is no price, or no plan.
    time_to_tokens_s : float or None
    matrix_flop_per_s : float
        Dense peak of the whole machine's matrix units in the precision used.
    racks : float or None
    power_w : float or None
    """

    machine: Machine
    found: SearchResult
    waterfall: Waterfall | None
    money: Money | None
    time_to_tokens_s: float | None
    matrix_flop_per_s: float
    racks: float | None
    power_w: float | None

    @property
    def best(self) -> Estimate | None:
        """The best plan, None where nothing fits."""
        return self.found.best

    @property
    def published_flop_per_s(self) -> float | None:
        """BF16 peak of the whole machine as its vendor publishes it."""
        unit = self.machine.unit_published_flop_per_s
        return None if unit is None else unit * self.machine.num_units

    @property
    def unit_matrix_flop_per_s(self) -> float:
        """BF16 peak of the matrix units of one unit."""
        return self.machine.chip.matrix_flop_per_s.get("bf16", 0.0) * self.machine.devices_per_unit

    @property
    def published_differs(self) -> bool:
        """Whether the published BF16 peak is another than that of the matrix units, by more than 1 %."""
        published = self.published_flop_per_s
        matrix = self.machine.chip.matrix_flop_per_s.get("bf16", 0.0) * self.machine.num_devices
        return published is not None and abs(published - matrix) > 0.01 * matrix


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Ratio:
    """Throughput of one machine over another's, as whole machines and per package.

    Parameters
    ----------
    low, high : float
        The range that the model's own error leaves (80 %); nan where no published result says.
    tie : bool or None
        Whether the difference lies within that error; None where the error is unknown.
    reason : str
    """

    a: Machine
    b: Machine
    ratio: float
    low: float
    high: float
    per_package: float
    tie: bool | None
    reason: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Everything that ``fullmesh compare`` prints.

    Parameters
    ----------
    columns : tuple of Column
        In the order asked.
    ratios : tuple of Ratio
        Every machine against each later one.
    equal_packages : tuple of Column
        The same machines with equal numbers of packages, where the basis is whole supernodes and they differ.
    """

    model: ModelSpec
    parameters: int
    active_parameters: int
    gbs: int
    seq: int
    batch_note: str
    precision: str
    objective: str
    basis: str
    num_tokens: float
    columns: tuple[Column, ...]
    ratios: tuple[Ratio, ...]
    equal_packages: tuple[Column, ...]
    equal_ratios: tuple[Ratio, ...]

    def __str__(self) -> str:
        lines = [f"{self.model.name}, global batch {self.gbs:,} x {self.seq:,} tokens"]
        for c in self.columns:
            if c.best is None:
                limit = c.found.closest.limit if c.found.closest else None
                lines.append(
                    f"{c.machine.name}: does not fit" + (f" ({limit.name}, {limit.where})" if limit else "")
                )
            else:
                lines.append(f"{c.machine.name}, {c.machine.num_devices:,} devices: {c.best}")
        for r in self.ratios:
            verdict = "error unknown" if r.tie is None else "a tie" if r.tie else "exceeds the error"
            lines.append(f"{r.a.name} / {r.b.name}: {r.ratio:.2f} times the tokens/s ({verdict}). {r.reason}")
        return "\n".join(lines)


def compare_machines(
    model: ModelSpec,
    machines: Sequence[Machine],
    *,
    basis: str = "units",
    resize: bool = True,
    gbs: int | None = None,
    seq: int | None = None,
    precision: str = "bf16",
    objective: str = "time",
    num_tokens: float = DEFAULT_TOKENS,
    prices: tuple[Price, ...] | None = None,
    offload: bool = False,
) -> Comparison:
    """Search the best plan on each machine, for the same batch in tokens.

    Parameters
    ----------
    machines : sequence of Machine
    basis : str
        One of :data:`fullmesh.study.sizing.BASES`.
    resize : bool
        Whether to size the machines by the basis; otherwise they stay as they are.
    gbs, seq : int, optional
        Global batch in sequences, and their length in tokens; chosen from the model where not given.
    precision, objective : str
    num_tokens : float
        For the time and the money to train.
    prices : tuple of Price, optional
    offload : bool
        Consider optimizer states in host memory.

    Raises
    ------
    ScenarioError, PlanError
        No machine, a machine twice, an unknown basis, precision or objective, a batch that divides nowhere.
    """
    if not machines:
        raise ScenarioError(
            "no machine to compare", hint="name some with --on, for instance gb200-nvl72,h200"
        )
    if precision not in RECIPES:
        raise ScenarioError(f"unknown precision {precision!r}", hint=did_you_mean(precision, list(RECIPES)))
    if not (math.isfinite(num_tokens) and num_tokens > 0):
        raise ScenarioError(
            f"{num_tokens:g} tokens", expected="a positive number of tokens", hint="for instance 300B or 15T"
        )
    for name, value in (("global batch", gbs), ("sequence length", seq)):
        if value is not None and not 1 <= value <= LARGEST:
            raise ScenarioError(
                f"{name} = {value}",
                expected=f"a whole number {SIZE_RANGE}",
                hint="leave it out, and one is chosen from the model",
            )
    sized = size_machines(machines, basis, prices) if resize else list(machines)
    ids = [(m.id, m.num_devices) for m in sized]
    if len(set(ids)) != len(ids):
        twice = next(m.name for m, key in zip(sized, ids, strict=True) if ids.count(key) > 1)
        raise ScenarioError(
            f"{twice} is named twice", where="--on", expected="each machine once", hint="leave one out"
        )
    beside = size_machines(machines, "packages", prices) if resize and basis == "units" else []
    seq = seq or default_seq(model)
    note = "as given"
    if gbs is None:
        gbs, note = choose_batch(model, [*sized, *beside], seq)
    columns = [_column(model, m, gbs, seq, precision, objective, num_tokens, prices, offload) for m in sized]
    known = dict(zip(ids, columns, strict=True))
    equal = [
        known.get((m.id, m.num_devices))
        or _column(model, m, gbs, seq, precision, objective, num_tokens, prices, offload)
        for m in beside
    ]
    if [c.machine.num_devices for c in equal] == [c.machine.num_devices for c in columns]:
        equal = []
    counts = parameter_counts(model)
    return Comparison(
        model=model,
        parameters=counts.total,
        active_parameters=counts.active,
        gbs=gbs,
        seq=seq,
        batch_note=note,
        precision=precision,
        objective=objective,
        basis=basis if resize else "as given",
        num_tokens=num_tokens,
        columns=tuple(columns),
        ratios=_ratios(columns),
        equal_packages=tuple(equal),
        equal_ratios=_ratios(equal),
    )


def default_seq(model: ModelSpec) -> int:
    """4,096 tokens; 8,192 for dense models with grouped-query attention; less where positions are learned."""
    mixers = [layer.mixer for layer in model.layers if isinstance(layer.mixer, Attention)]
    grouped = bool(mixers) and all(m.num_kv_heads < m.num_heads for m in mixers)
    seq = 8192 if grouped and not model.is_moe else 4096
    return min(seq, model.learned_positions) if model.learned_positions else seq


def choose_batch(model: ModelSpec, machines: Sequence[Machine], seq: int) -> tuple[int, str]:
    """A global batch for a model, and in words how it was chosen."""
    total = parameter_counts(model).total
    tokens = next(t for limit, t in _BATCH_TOKENS if total < limit)
    gbs = default_batch(machines, tokens, seq)
    return gbs, (
        f"chosen: near {tokens / 2**20:g} Mi tokens for {total / 1e9:,.0f} B parameters, "
        "and divisible on every machine"
    )


def _column(
    model: ModelSpec,
    machine: Machine,
    gbs: int,
    seq: int,
    precision: str,
    objective: str,
    num_tokens: float,
    prices: tuple[Price, ...] | None,
    offload: bool,
) -> Column:
    found = search(
        model, machine, gbs=gbs, seq=seq, precision=precision, objective=objective, top=5, offload=offload
    )
    best = found.best
    racks = machine.racks_per_unit
    return Column(
        machine=machine,
        found=found,
        waterfall=None if best is None else waterfall(best),
        money=None if best is None else money_of(best, num_tokens=num_tokens, prices=prices),
        time_to_tokens_s=None if best is None else time_to_tokens_s(best, num_tokens),
        matrix_flop_per_s=machine.chip.matrix_flop_per_s[RECIPES[found.precision].linear]
        * machine.num_devices,
        racks=None if racks is None else racks * machine.num_units,
        power_w=None if machine.unit_power_w is None else machine.unit_power_w * machine.num_units,
    )


def _ratios(columns: Sequence[Column]) -> tuple[Ratio, ...]:
    out = []
    for i, one in enumerate(columns):
        for other in columns[i + 1 :]:
            if one.best is not None and other.best is not None:
                out.append(_ratio(one, other))
    return tuple(out)


def _ratio(one: Column, other: Column) -> Ratio:
    """The faster machine over the slower one."""
    assert one.best is not None
    assert other.best is not None
    if one.best.tokens_per_s < other.best.tokens_per_s:
        one, other = other, one
    a, b = one.best, other.best
    assert a is not None
    assert b is not None
    ratio = a.tokens_per_s / b.tokens_per_s
    spread = math.hypot(a.interval.log_half_width, b.interval.log_half_width)
    known = math.isfinite(spread)
    return Ratio(
        a=one.machine,
        b=other.machine,
        ratio=ratio,
        low=ratio * math.exp(-spread) if known else math.nan,
        high=ratio * math.exp(spread) if known else math.nan,
        per_package=ratio * other.machine.num_packages / one.machine.num_packages,
        tie=is_close(a, b) if known else None,
        reason=reason(a, b, waterfall(a), waterfall(b)),
    )


__all__ = [
    "BASES",
    "Column",
    "Comparison",
    "Ratio",
    "choose_batch",
    "compare_machines",
    "default_seq",
]

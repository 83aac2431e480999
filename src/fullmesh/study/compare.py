"""The main job: one model on several machines, same batch and sequence, side by side."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from fullmesh.catalog import Price
from fullmesh.machine import Machine
from fullmesh.outcomes.estimate import Estimate, is_close, machine_power_w
from fullmesh.outcomes.money import Money, money_of, time_to_tokens_s
from fullmesh.outcomes.waterfall import Waterfall, waterfall
from fullmesh.output import formats
from fullmesh.output.result import Result
from fullmesh.search import SearchResult
from fullmesh.study.batch import Batch
from fullmesh.study.options import Options
from fullmesh.study.reasons import reason
from fullmesh.study.sizing import Sizes, size_key
from fullmesh.workload import ModelSpec
from fullmesh.workload.parameters import parameter_counts

if TYPE_CHECKING:
    from fullmesh.outcomes.goodput.records import PolicyForecast, Spread


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
    run : PolicyForecast or None
        The whole run with its faults, where it was asked for.
    """

    machine: Machine
    found: SearchResult
    waterfall: Waterfall | None
    money: Money | None
    time_to_tokens_s: float | None
    matrix_flop_per_s: float
    racks: float | None
    power_w: float | None
    run: PolicyForecast | None = None

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
    """Throughput of one machine over another's, as whole machines and for each package that the plans use.

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
class RunRatio:
    """What one run takes over what another takes, with the range that faults, both steps and all inputs leave (80 %).

    Parameters
    ----------
    figure : {"run_days", "run_energy", "run_money"}
    less, more : str
        Machines: the one that takes less, and the one that takes more.
    ratio, low, high : float
    tie : bool
        Whether the range holds one.
    """

    figure: str
    less: str
    more: str
    ratio: float
    low: float
    high: float
    tie: bool


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Comparison(Result):
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
    run_ratios: tuple[RunRatio, ...] = ()

    @classmethod
    def _late_types(cls) -> dict[str, type]:
        from fullmesh.outcomes.goodput.records import PolicyForecast

        return {"PolicyForecast": PolicyForecast}

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

    def summary(self) -> str:
        """Model, machines and their step times."""
        steps = (
            f"{c.machine.name} " + ("does not fit" if c.best is None else formats.seconds(c.best.step_s))
            for c in self.columns
        )
        return f"{self.model.name}, global batch {self.gbs:,} x {self.seq:,} tokens, " + ", ".join(steps)

    def to_dict(self) -> dict[str, Any]:
        """All figures as plain values."""
        from fullmesh.study.fields import comparison_record

        return comparison_record(self)

    def to_rows(self) -> list[dict[str, Any]]:
        """One row a machine and size."""
        from fullmesh.study.fields import comparison_rows

        return comparison_rows(self)

    def html_rows(self) -> list[Sequence[str]]:
        """One column a machine."""
        from fullmesh.study.fields import column_fields

        head = ["", *(c.machine.name for c in self.columns)]
        fields = column_fields(self.num_tokens)
        return [
            head,
            *(
                [f.label(), *(f.text(c, "en") for c in self.columns)]
                for f in fields
                if f.text is not None and "compare" in f.tables
            ),
        ]


def weigh(found: SearchResult, num_tokens: float, prices: tuple[Price, ...] | None) -> Column:
    """What follows from a search: where the step goes, what a run of ``num_tokens`` takes and costs."""
    machine, best = found.machine, found.best
    racks = machine.racks_per_unit
    return Column(
        machine=machine,
        found=found,
        waterfall=None if best is None else waterfall(best),
        money=None if best is None else money_of(best, num_tokens=num_tokens, prices=prices),
        time_to_tokens_s=None if best is None else time_to_tokens_s(best, num_tokens),
        matrix_flop_per_s=found.precision_flop_per_s * machine.num_devices,
        racks=None if racks is None else racks * machine.num_units,
        power_w=machine_power_w(machine),
    )


def side_by_side(
    model: ModelSpec, options: Options, batch: Batch, sizes: Sizes, columns: Sequence[Column]
) -> Comparison:
    """Machines beside each other, with their ratios.

    Parameters
    ----------
    columns : sequence of Column
        One for each of ``sizes.distinct``.
    """
    known = {size_key(c.machine): c for c in columns}
    asked = [known[size_key(m)] for m in sizes.machines]
    equal = [known[size_key(m)] for m in sizes.equal_packages]
    counts = parameter_counts(model)
    return Comparison(
        model=model,
        parameters=counts.total,
        active_parameters=counts.active,
        gbs=batch.gbs,
        seq=batch.seq,
        batch_note=batch.note,
        precision=options.precision,
        objective=options.objective,
        basis=sizes.basis,
        num_tokens=options.num_tokens,
        columns=tuple(asked),
        ratios=_ratios(asked),
        equal_packages=tuple(equal),
        equal_ratios=_ratios(equal),
        run_ratios=_run_ratios(asked),
    )


def _run_ratios(columns: Sequence[Column]) -> tuple[RunRatio, ...]:
    out = []
    for i, one in enumerate(columns):
        for other in columns[i + 1 :]:
            if one.run is None or other.run is None:
                continue
            pairs = {
                "run_days": (one.run.days, other.run.days),
                "run_energy": (one.run.energy_j, other.run.energy_j),
                "run_money": _like_for_like(one.run, other.run),
            }
            for figure, (a, b) in pairs.items():
                if a is not None and b is not None and math.isfinite(a.p90 + b.p90):
                    out.append(_run_ratio(figure, (one.machine.name, a), (other.machine.name, b)))
    return tuple(out)


def _like_for_like(one: PolicyForecast, other: PolicyForecast) -> tuple[Spread | None, Spread | None]:
    """Two rents or two purchases, whichever comes first; a rent is not set against a purchase."""
    for mine in one.money:
        for theirs in other.money:
            if mine.rented == theirs.rented:
                return mine.usd, theirs.usd
    return None, None


def _run_ratio(figure: str, one: tuple[str, Spread], other: tuple[str, Spread]) -> RunRatio:
    (less, a), (more, b) = sorted((one, other), key=lambda pair: pair[1].p50)
    ratio = b.p50 / a.p50
    # as if the two spreads had no cause in common: what they share, as the rates of a site, would only narrow it
    down = math.hypot(math.log(b.p50 / b.p10), math.log(a.p90 / a.p50))
    up = math.hypot(math.log(b.p90 / b.p50), math.log(a.p50 / a.p10))
    low = ratio * math.exp(-down)
    return RunRatio(
        figure=figure,
        less=less,
        more=more,
        ratio=ratio,
        low=low,
        high=ratio * math.exp(up),
        tie=low <= 1.0,
    )


def _ratios(columns: Sequence[Column]) -> tuple[Ratio, ...]:
    out = []
    for i, one in enumerate(columns):
        for other in columns[i + 1 :]:
            if one.best is not None and other.best is not None:
                out.append(_ratio(one, other))
    return tuple(out)


def _packages(e: Estimate) -> float:
    return e.plan.num_devices / e.machine.devices_per_package


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
        per_package=ratio * _packages(b) / _packages(a),
        tie=is_close(a, b) if known else None,
        reason=reason(a, b, waterfall(a), waterfall(b)),
    )

"""Rates of faults by domain: a table of facts, and the form of a file of one's own."""

from __future__ import annotations

import csv
import dataclasses
import functools
import io
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Literal, cast, get_args

from fullmesh.catalog.facts import one_of, read_csv
from fullmesh.catalog.run_inputs import RUN_DIR
from fullmesh.errors import CatalogError, did_you_mean
from fullmesh.values import number

# What breaks as one, and how it is counted; see `fullmesh.outcomes.goodput.domains`.
DOMAINS = (
    "die",
    "package",
    "board",
    "node",
    "rack",
    "l1",
    "l2",
    "optical",
    "cable",
    "nic",
    "switch",
    "spine",
    "power",
    "coolant",
    "software",
    "silent",
    "straggler",
    "flap",
)
# a row that is no rate: how far all rates of one site may lie from the table's together
SITE = "site"
# deviations of a normal distribution below which nine tenths of it lie
_P90 = 1.2816

FaultEffect = Literal["stop", "restart", "slow", "fabric", "silent", "straggler", "flap", "factor"]
FaultKind = Literal["measured", "claimed", "derived", "assumed"]

SHIPPED = RUN_DIR / "faults.csv"
#: what `fullmesh calibrate faults` made of one public trace of 400 servers alone
TRACE_FIT = RUN_DIR / "faults-400-servers.csv"
COLUMNS = (
    "domain",
    "effect",
    "rate_per_year",
    "spread",
    "repair_mean_h",
    "repair_median_h",
    "kind",
    "source",
    "date",
    "note",
)
_OPTIONAL = ("repair_median_h", "source", "date", "note")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class FaultRate:
    """How often one member of a domain fails, and how long until it is back.

    Parameters
    ----------
    domain : str
        One of ``DOMAINS``, or ``site``.
    effect : str
        ``stop``: the job stops, the part must be replaced; ``restart``: it stops, the part is good again;
        ``slow``: bandwidth is lost until the repair; ``fabric``: one of these two, as the machine is wired;
        ``silent``: wrong results that are noticed later; ``straggler``, ``flap``; ``factor`` for the site.
    rate_per_year : float
    spread : float
        Deviation of the logarithm of the rate.
    repair_mean_h, repair_median_h : float
        Hours until it is back.
    kind, source, date, note : str
    """

    domain: str
    effect: FaultEffect
    rate_per_year: float
    spread: float
    repair_mean_h: float
    repair_median_h: float
    kind: FaultKind
    source: str
    date: str
    note: str

    @property
    def low_per_year(self) -> float:
        """The rate that nine of ten lie above; ``rate_per_year`` is the mean of its law."""
        return self.rate_per_year * math.exp(-_P90 * self.spread - self.spread**2 / 2.0)

    @property
    def high_per_year(self) -> float:
        """The rate that nine of ten stay below."""
        return self.rate_per_year * math.exp(_P90 * self.spread - self.spread**2 / 2.0)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class FaultTable:
    """Rates by domain.

    Parameters
    ----------
    rates : tuple of FaultRate
    site_spread : float
        Deviation of the logarithm of a factor that all rates of one site share.
    name : str
        What it was read from.
    site : FaultRate or None
        The row that ``site_spread`` stands in.
    """

    rates: tuple[FaultRate, ...]
    site_spread: float
    name: str
    site: FaultRate | None = None


def load_faults(path: str | Path | None = None) -> FaultTable:
    """Read a table of rates; without a path, the shipped one.

    Raises
    ------
    CatalogError
        The file cannot be read, a domain is unknown or stands twice, a value is negative; with file and line.
    """
    return _read(SHIPPED if path is None else Path(path))


@functools.lru_cache(maxsize=8)
def _read(path: Path) -> FaultTable:
    rows: dict[str, FaultRate] = {}
    site = 0.0
    for line, row in read_csv(path, COLUMNS, _OPTIONAL):
        where = f"{path}:{line}"
        domain = row["domain"]
        if domain not in (*DOMAINS, SITE):
            raise CatalogError(
                f"unknown domain {domain!r}", where=where, hint=did_you_mean(domain, list(DOMAINS))
            )
        if domain in rows:
            raise CatalogError(f"{domain} stands twice", where=where, expected="every domain once")
        spread = number(row["spread"], where=where, least=0.0, most=3.0, error=CatalogError)
        if domain == SITE:
            site = spread
        mean = number(row["repair_mean_h"], where=where, least=0.0, most=1e5, error=CatalogError)
        median = row.get("repair_median_h", "")
        rows[domain] = FaultRate(
            domain=domain,
            effect=cast(FaultEffect, one_of(row["effect"], get_args(FaultEffect), "effect", where)),
            rate_per_year=number(row["rate_per_year"], where=where, least=0.0, most=1e4, error=CatalogError),
            spread=spread,
            repair_mean_h=mean,
            repair_median_h=number(median, where=where, least=0.0, error=CatalogError) if median else mean,
            kind=cast(FaultKind, one_of(row["kind"], get_args(FaultKind), "kind", where)),
            source=row.get("source") or path.name,
            date=row.get("date") or "no date",
            note=row.get("note", ""),
        )
        if (rows[domain].effect == "factor") != (domain == SITE):
            raise CatalogError(
                f"the effect {row['effect']!r} does not belong to {domain}",
                where=where,
                expected="factor for the row `site`, and for no other",
            )
    rates = tuple(r for r in rows.values() if r.domain != SITE)
    if not rates:
        raise CatalogError("the file has no rate", where=str(path), expected="a row for at least one domain")
    return FaultTable(rates=rates, site_spread=site, name=path.name, site=rows.get(SITE))


def faults_text(rates: Iterable[FaultRate]) -> str:
    """Rates in the form that :func:`load_faults` reads."""
    out = io.StringIO()
    writer = csv.DictWriter(out, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for rate in rates:
        row = dataclasses.asdict(rate)
        for key in ("rate_per_year", "spread", "repair_mean_h", "repair_median_h"):
            row[key] = f"{row[key]:.6g}"
        writer.writerow(row)
    return out.getvalue()

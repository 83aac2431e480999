"""Personal profiles: effects moved by a user's own runs, laid over the shipped ones for the length of a call."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fullmesh.cost.effects import EFFECT_LIMIT, EFFECTS, load_effects
from fullmesh.cost.uncertainty import UNCERTAINTY, load_uncertainty
from fullmesh.errors import CatalogError
from fullmesh.reading import read_json
from fullmesh.values import number

FORMAT = "fullmesh personal profile 1"
_HINT = "make one with: fullmesh calibrate results RUNS.csv --out FILE"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Personal:
    """What one's own runs say on top of the shipped profile.

    Parameters
    ----------
    provenance : mapping
        Date, version, number of runs, their digest, and the digest of the results that it lies on.
    effects : mapping of str to float
        Effects that moved.
    new : mapping of str to float
        Deviations, before any run, of effects that the shipped profile does not have.
    names : tuple of str, length E
        Effects of the columns of ``learned``: the shipped ones, then the new ones.
    learned : float array, shape (E, K)
        What the runs took from the covariance: it is smaller by ``learned @ learned.T``.
    """

    provenance: Mapping[str, Any]
    effects: Mapping[str, float]
    new: Mapping[str, float]
    names: tuple[str, ...]
    learned: npt.NDArray[np.float64]

    @property
    def note(self) -> str:
        """What a result that used it says."""
        runs = self.provenance.get("runs")
        return (
            f"personal profile of {self.provenance.get('date')}, from {runs} {'run' if runs == 1 else 'runs'}"
        )


def read_personal(path: str | Path) -> Personal:
    """Read a profile that ``fullmesh calibrate results`` wrote.

    Raises
    ------
    CatalogError
        The file cannot be read, is no such profile, or was made on top of another shipped profile.
    """
    data = read_json(Path(path), what="the profile", error=CatalogError, hint=_HINT)
    where = str(path)
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        raise CatalogError("this is no personal profile", where=where, expected=FORMAT, hint=_HINT)
    try:
        effects, new = _numbers(data["effects"], where), _numbers(data["new"], where)
        names = tuple(str(n) for n in data["names"])
        learned = np.array(data["learned"], dtype=np.float64)
        provenance = dict(data["provenance"])
    except (KeyError, TypeError, ValueError) as error:
        raise CatalogError(
            f"the profile is damaged: {error}",
            where=where,
            expected="a profile as it was written",
            hint=_HINT,
        ) from None
    uncertainty = load_uncertainty()
    shipped = uncertainty.names if uncertainty else ()
    same = provenance.get("on") == load_effects().provenance.get("rows_digest")
    if not same or names != (*shipped, *new):
        raise CatalogError(
            "the profile was made on top of another version's published results", where=where, hint=_HINT
        )
    shape_fits = learned.ndim == 2 and len(learned) == len(names)
    # no run takes more from the covariance than an effect may have
    in_range = np.isfinite(learned).all() and np.abs(learned).max(initial=0.0) <= EFFECT_LIMIT
    if not shape_fits or not in_range:
        raise CatalogError(
            "the profile is damaged: learned", where=where, expected="one row an effect", hint=_HINT
        )
    return Personal(provenance=provenance, effects=effects, new=new, names=names, learned=learned)


def is_personal(path: str | Path) -> bool:
    """Whether a file starts as personal profiles do; False for what cannot be read."""
    try:
        with Path(path).open("rb") as file:
            return FORMAT.encode() in file.read(200)
    except (OSError, ValueError):
        return False


def _numbers(table: Any, where: str) -> dict[str, float]:
    if not isinstance(table, dict):
        raise TypeError("a table of numbers is missing")
    out = {str(k): number(v, where=f"{where}, {k}", error=CatalogError) for k, v in table.items()}
    for name, value in out.items():
        if abs(value) > EFFECT_LIMIT:
            raise CatalogError(f"{value} is out of range", where=f"{where}, {name}", hint=_HINT)
    return out


@contextlib.contextmanager
def personal_profile(profile: str | Path | Personal | None) -> Iterator[Personal | None]:
    """Predict with a personal profile, or that of a file, inside the ``with`` block; without one nothing changes."""
    if profile is None:
        yield None
        return
    personal = profile if isinstance(profile, Personal) else read_personal(profile)
    base, uncertainty = load_effects(), load_uncertainty()
    assert uncertainty is not None, "a profile was read on top of it"
    effects = dataclasses.replace(
        base,
        effects={**base.effects, **personal.effects},
        provenance={**base.provenance, "personal": personal.note},
    )
    covariance = dataclasses.replace(uncertainty.extended(personal.new), learned=personal.learned)
    with EFFECTS.use(effects), UNCERTAINTY.use(covariance):
        yield personal

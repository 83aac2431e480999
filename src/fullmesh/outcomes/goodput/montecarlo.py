"""Many runs at once: renewal cycles as columns, with random numbers that every way to run shares."""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt

from fullmesh.outcomes.goodput.draws import Amount
from fullmesh.outcomes.goodput.engine import LOSSES, Outcomes, Run, expected
from fullmesh.outcomes.goodput.rates import Load

Floats = npt.NDArray[np.float64]

# runs and cycles that are drawn together: they fit a core's cache, and fix which number belongs to which cycle
ROWS, CYCLES = 500, 128


def simulate_runs(run: Run, load: Load, work_s: Floats, *, seed: int) -> Outcomes:
    """Simulate runs, one for each element of ``work_s``.

    Parameters
    ----------
    load : Load
        Rates of each run.
    work_s : array
        Seconds of steps that each run needs.
    seed : int
        The numbers of a run and cycle depend on it and their places alone: two ways to run meet the same luck.

    Notes
    -----
    A stop begins a cycle; the time to the next stop is exponential. Work since the last checkpoint is lost, and after
    a fault that only storage helps against, all since the last one there. A stop finds no spare with the probability
    of a loss system and then waits for the first of its repairs.
    """
    runs = work_s.shape[0]
    rate = np.broadcast_to(np.maximum(load.stops_per_s, 1e-300), (runs,)).astype(np.float64)
    mean = expected(run, load, work_s)
    hopeless = ~np.isfinite(np.broadcast_to(mean.wall_s, (runs,)))
    speed = np.broadcast_to(run.speed(load), (runs,))
    slow = np.broadcast_to(load.slow_nodes + load.slow_links, (runs,))
    need = work_s * (1.0 + slow) / speed
    r = run.recovery

    def column(values: Amount) -> Floats:
        return np.broadcast_to(np.asarray(values, dtype=np.float64), (runs,))

    columns = _Columns(
        rate=rate,
        need=np.where(hopeless, 0.0, need),
        wide=column(load.wide_share),
        silent=column(load.silent_share),
        blocked=column(run.blocked(load)),
        wait=column(run.wait_s(load)),
        near_s=column(run.near_s),
        store_s=column(run.store_s),
        stall_s=column(run.stall_s),
        silent_s=column(run.silent_s),
        near_total_s=column(r.near_total_s),
        wide_total_s=column(r.wide_total_s),
    )
    sums = np.zeros((runs, len(_Sums.__match_args__)))
    table = _spread_table(run.recovery_spread)
    for first in range(0, runs, ROWS):
        rows = slice(first, min(first + ROWS, runs))
        sums[rows] = _chunk(columns.rows(rows), table, seed, first // ROWS)
    s = _Sums(*sums.T)
    return _outcomes(run, load, work_s, need, s, hopeless)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Columns:
    rate: Floats
    need: Floats
    wide: Floats
    silent: Floats
    blocked: Floats
    wait: Floats
    near_s: Floats
    store_s: Floats
    stall_s: Floats
    silent_s: Floats
    near_total_s: Floats
    wide_total_s: Floats

    def rows(self, rows: slice | npt.NDArray[np.intp]) -> _Columns:
        """Some of the runs."""
        return _Columns(**{f.name: getattr(self, f.name)[rows] for f in dataclasses.fields(self)})


@dataclasses.dataclass(frozen=True, slots=True)
class _Sums:
    """Seconds and counts of each run."""

    wall: Floats
    near_down: Floats
    wide_down: Floats
    stalls: Floats
    waits: Floats
    stops: Floats


def _chunk(c: _Columns, table: npt.NDArray[np.float32], seed: int, chunk: int) -> Floats:
    """Runs of one chunk to their ends, block of cycles by block."""
    num = len(c.need)
    out = np.zeros((num, 6))
    state = np.zeros((num, 3))
    active = np.flatnonzero(c.need > 0)
    block = 0
    while active.size:
        rng = np.random.Generator(np.random.SFC64([seed, chunk, block]))
        draws = _Draws(
            up=rng.standard_exponential((num, CYCLES)),
            kind=rng.random((num, CYCLES), dtype=np.float32),
            down=rng.integers(0, len(table), (num, CYCLES), dtype=np.uint16),
        )
        k = active
        if k.size < num:
            draws = _Draws(up=draws.up[k], kind=draws.kind[k], down=draws.down[k])
        sums, after, done = _block(c.rows(k), draws, state[k], table, first=block == 0)
        out[k] += sums
        state[k] = after
        active = k[~done]
        block += 1
    # a run's first cycle begins with no stop
    out[:, 5] = np.maximum(out[:, 5] - 1.0, 0.0)
    return out


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Draws:
    """Luck of runs and cycles: times to the next stop in units of their mean, what a stop is, how long its recovery."""

    up: Floats
    kind: npt.NDArray[np.float32]
    down: npt.NDArray[np.uint16]


def _spread_table(spread: float) -> npt.NDArray[np.float32]:
    """Quantiles of a lognormal number of mean one: what is looked up costs less than what is drawn."""
    from scipy import special  # only where a whole run is asked for: it takes long to import

    places = (np.arange(4096) + 0.5) / 4096
    values = np.exp(spread * special.ndtri(places))
    out: npt.NDArray[np.float32] = (values / values.mean()).astype(np.float32)
    return out


def _block(
    c: _Columns, draws: _Draws, state: Floats, table: npt.NDArray[np.float32], *, first: bool
) -> tuple[Floats, Floats, npt.NDArray[np.bool_]]:
    """One block of cycles of some runs.

    Parameters
    ----------
    state : array
        Seconds of steps saved since the beginning, those at the last fall-back to storage, and those undone.

    Returns
    -------
    tuple of array
        Sums to add, the state afterwards, and whether the run has ended.
    """
    up = draws.up
    up /= c.rate[:, None]
    down = table[draws.down]
    down *= c.near_total_s[:, None].astype(np.float32)
    wide = draws.kind < c.wide[:, None].astype(np.float32)
    if first:  # a run does not begin with a stop
        down[:, 0], wide[:, 0] = 0.0, False
    at_row, at_col = np.nonzero(wide)
    longer = (c.wide_total_s / np.maximum(c.near_total_s, 1e-9)).astype(np.float32)
    down[at_row, at_col] *= longer[at_row]
    progress = up - down
    np.maximum(progress, 0.0, out=progress)
    intervals = progress / (c.near_s + c.stall_s)[:, None]
    np.floor(intervals, out=intervals)
    total = np.cumsum(intervals, axis=1)
    wait_row, wait_col, waits = _waits(c, draws.kind, first=first)
    extra, base = _fall_back(c, draws.kind, at_row, at_col, total, state)
    undone = state[:, 2] + np.bincount(at_row, extra, len(state))
    saved = state[:, 0] + total[:, -1] * c.near_s

    sums = np.empty((len(state), 6))
    sums[:, 4] = np.bincount(wait_row, waits, len(state))
    whole = up.sum(axis=1)
    sums[:, 0] = whole + sums[:, 4]
    met = up[at_row, at_col] - progress[at_row, at_col]
    sums[:, 2] = np.bincount(at_row, met, len(state))
    sums[:, 1] = whole - progress.sum(axis=1) - sums[:, 2]
    sums[:, 3] = total[:, -1] * c.stall_s
    sums[:, 5] = CYCLES
    # only these can have ended: the others had not enough even if nothing had been undone
    near_end = np.flatnonzero(saved - state[:, 2] + progress.max(axis=1) >= c.need)
    done = np.zeros(len(state), dtype=bool)
    if near_end.size:
        lost = np.zeros_like(up)
        lost[at_row, at_col] = extra
        waited = np.zeros_like(up)
        waited[wait_row, wait_col] = waits
        e = near_end
        done[e], sums[e] = _ends(
            c.rows(e), up[e], down[e], progress[e], intervals[e], total[e], lost[e], waited[e], wide[e],
            state[e], sums[e],
        )  # fmt: skip
    return sums, np.stack([saved, base, undone], axis=1), done


def _ends(
    c: _Columns, up: Floats, down: npt.NDArray[np.float32], progress: Floats, intervals: Floats,
    total: Floats, lost: Floats, waited: Floats, wide: npt.NDArray[np.bool_], state: Floats, sums: Floats,
) -> tuple[npt.NDArray[np.bool_], Floats]:  # fmt: skip
    """Which runs end in a block, and their sums up to there."""
    near, stall = c.near_s[:, None], c.stall_s
    before = (total - intervals) * near + state[:, :1]
    have = np.maximum(before - state[:, 2:] - np.cumsum(lost, axis=1), 0.0)
    left = np.maximum(c.need[:, None] - have, 0.0)
    time_left = left + stall[:, None] * np.floor(left / near)
    ends = progress >= time_left
    done: npt.NDArray[np.bool_] = np.asarray(ends.any(axis=1))
    at = np.where(done, ends.argmax(axis=1), CYCLES)
    places = np.arange(CYCLES)
    past, upto = places < at[:, None], places <= at[:, None]
    rows, last = np.flatnonzero(done), at[done]
    met = up - progress
    # the cycle in which a run ends lasts as long as its recovery and what was left
    met[rows, last] = down[rows, last]
    met *= upto
    out = np.empty_like(sums)
    out[:, 4] = (waited * upto).sum(axis=1)
    out[:, 0] = (up * past).sum(axis=1) + out[:, 4]
    out[rows, 0] += down[rows, last] + time_left[rows, last]
    out[:, 2] = (met * wide).sum(axis=1)
    out[:, 1] = met.sum(axis=1) - out[:, 2]
    out[:, 3] = (intervals * past).sum(axis=1)
    out[rows, 3] += np.floor(left[rows, last] / c.near_s[rows])
    out[:, 3] *= stall
    out[:, 5] = np.minimum(at + 1, CYCLES)
    return done, np.where(done[:, None], out, sums)


def _waits(
    c: _Columns, kind: npt.NDArray[np.float32], *, first: bool
) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp], Floats]:
    """Which stops find no spare, and how long each then waits for the first of the repairs."""
    blocked = np.minimum(c.blocked, 1.0 - c.wide)
    if not (blocked > 0).any():
        none = np.zeros(0, dtype=np.intp)
        return none, none, np.zeros(0)
    hit = kind > (1.0 - blocked[:, None]).astype(np.float32)
    if first:
        hit[:, 0] = False
    row, col = np.nonzero(hit)
    share = (1.0 - kind[row, col].astype(np.float64)) / blocked[row]
    # the stops that waits are counted for may be fewer than those that find no spare
    scale = np.divide(c.blocked, blocked, out=np.zeros_like(blocked), where=blocked > 0)
    return row, col, -np.log(np.clip(share, 1e-12, 1.0)) * (c.wait * scale)[row]


def _fall_back(
    c: _Columns, kind: npt.NDArray[np.float32], row: npt.NDArray[np.intp], col: npt.NDArray[np.intp],
    total: Floats, state: Floats,
) -> tuple[Floats, Floats]:  # fmt: skip
    """Work undone by each fault that only storage helps against, and where each run then stands for the next one."""
    base = state[:, 1].copy()
    if row.size == 0:
        return np.zeros(0), base
    before = state[row, 0] + np.where(col > 0, total[row, col - 1], 0.0) * c.near_s[row]
    # the last such fault of the same run, in this block or before
    again = np.concatenate([[False], row[1:] == row[:-1]])
    since = before - np.where(again, np.concatenate([[0.0], before[:-1]]), state[row, 1])
    extra = np.mod(since + 1e-6, c.store_s[row])
    extra[extra < 2e-6] = 0.0
    silent = kind[row, col] < c.silent[row]
    extra = np.where(silent, np.minimum(extra + c.silent_s[row], before), extra)
    base[row] = before  # of equal rows the last one stays
    return extra, base


def _outcomes(
    run: Run, load: Load, work: Floats, need: Floats, s: _Sums, hopeless: npt.NDArray[np.bool_]
) -> Outcomes:
    r = run.recovery
    near_total, wide_total = np.maximum(r.near_total_s, 1e-9), np.maximum(r.wide_total_s, 1e-9)
    grown = s.stops * run.regrow_s(load)
    planned = (s.wall + grown) * run.planned_share / (1.0 - run.planned_share)
    losses = {
        "detection": s.near_down * r.detection_s / near_total + s.wide_down * r.wide_detection_s / wide_total,
        "restart": s.near_down * (r.restart_s + r.load_s) / near_total
        + s.wide_down * (r.wide_restart_s + r.wide_load_s) / wide_total
        + grown,
        "recomputed": s.wall - s.near_down - s.wide_down - s.stalls - s.waits - need,
        "checkpoint_stalls": s.stalls,
        "warm_up": s.near_down * r.warm_up_s / near_total + s.wide_down * r.warm_up_s / wide_total,
        "waiting_for_repair": s.waits,
        "fewer_devices": need * (1.0 - run.speed(load)),
        "planned_stops": planned,
        "slow_nodes": work * load.slow_nodes,
        "slow_links": work * load.slow_links,
    }
    wall = s.wall + grown + planned
    return Outcomes(
        wall_s=np.where(hopeless, np.inf, wall),
        work_s=work,
        losses_s={k: np.where(hopeless, np.inf, losses[k]) for k in LOSSES},
        stops=np.where(hopeless, np.inf, s.stops),
        planned=np.where(hopeless, np.inf, wall * run.planned_per_s),
    )

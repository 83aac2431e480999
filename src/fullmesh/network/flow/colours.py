"""Compiled kernels of symmetry: dense labels of 64-bit colours, and colour refinement.

A colour is a 64-bit hash that stands for everything known of a flow or link; equal colours are one class. The plain
twin of the refinement is `oracles.flow.refine`. Flows, segments and links are as in
`fullmesh.network.flow.records.Paths`.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fullmesh.compiled import inlined, kernel
from fullmesh.network.wiring.links import FloatArray, IntArray, LongArray

ColourArray = NDArray[np.uint64]
_MOST_ROUNDS = 64


class Incidence(NamedTuple):
    """Which flows load which links, with codes in place of figures.

    Attributes
    ----------
    seg : int32, shape (flows, columns)
    mult_code : uint64, shape (flows, columns) or (0, 0)
        Code of the multiplicity of each entry.
    ptr : int64, shape (segments + 1,)
    link : int32, shape (entries,)
    weight_code : uint64, shape (entries,)
    """

    seg: IntArray
    mult_code: ColourArray
    ptr: LongArray
    link: IntArray
    weight_code: ColourArray


class Sums(NamedTuple):
    """Scratch: what segments hear from their links (``up``) and flows (``down``), links from segments (``gathered``).

    ``up`` and ``down`` have shape (segments,), ``gathered`` (links,).
    """

    up: ColourArray
    down: ColourArray
    gathered: ColourArray


class Table(NamedTuple):
    """A hash table: ``slots`` int32, shape (a power of two,), -1 where free; ``owner`` int32, first of each label."""

    slots: IntArray
    owner: IntArray


@inlined
def _scramble(x):  # type: ignore[no-untyped-def]
    z = np.uint64(x) + np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


@kernel
def _label(colours: ColourArray, table: Table, labels: IntArray) -> int:
    """Number colours in order of appearance; writes ``labels`` and ``table.owner``.

    Returns how many there are, or -1 if they would fill more than half of the table.
    """
    mask = np.uint64(len(table.slots) - 1)
    found = 0
    for i in range(len(colours)):
        h = np.int64(_scramble(colours[i]) & mask)
        while table.slots[h] >= 0 and colours[table.owner[table.slots[h]]] != colours[i]:
            h = (h + 1) & np.int64(mask)
        if table.slots[h] < 0:
            if 2 * found >= len(table.slots):
                return -1
            table.slots[h] = found
            table.owner[found] = i
            found += 1
        labels[i] = table.slots[h]
    return found


def label(colours: ColourArray) -> tuple[IntArray, IntArray]:
    """Number 64-bit colours densely in order of appearance.

    Parameters
    ----------
    colours : uint64, shape (n,)

    Returns
    -------
    tuple of int32 arrays
        The label of each, shape (n,), and the place where each label first occurs, shape (labels,).
    """
    labels, found, size = np.empty(len(colours), np.int32), -1, 256
    while found < 0:  # most often there are few colours, and a small table is quicker to search
        size *= 16
        table = Table(np.full(size, -1, np.int32), np.empty(size // 2 + 1, np.int32))
        found = _label(colours, table, labels)
    return labels, table.owner[:found].copy()


@kernel
def _round(incidence: Incidence, flow_colour: ColourArray, link_colour: ColourArray, sums: Sums) -> None:
    """Let every flow hear its links' colours, and every link its flows'; both colours change in place."""
    seg, ptr, link = incidence.seg, incidence.ptr, incidence.link
    many = incidence.mult_code.size > 0
    for s in range(len(ptr) - 1):
        acc = np.uint64(0)
        for e in range(ptr[s], ptr[s + 1]):
            acc += _scramble(link_colour[link[e]] ^ incidence.weight_code[e])
        sums.up[s] = _scramble(acc)
        sums.down[s] = np.uint64(0)
    for f in range(len(flow_colour)):
        acc = np.uint64(0)
        for c in range(seg.shape[1]):
            s = seg[f, c]
            if s >= 0:
                acc += _scramble(sums.up[s] ^ incidence.mult_code[f, c]) if many else sums.up[s]
        colour = _scramble(flow_colour[f] + acc)
        flow_colour[f] = colour
        for c in range(seg.shape[1]):
            s = seg[f, c]
            if s >= 0:
                sums.down[s] += _scramble(colour ^ incidence.mult_code[f, c]) if many else colour
    for ln in range(len(link_colour)):
        sums.gathered[ln] = np.uint64(0)
    for s in range(len(ptr) - 1):
        for e in range(ptr[s], ptr[s + 1]):
            sums.gathered[link[e]] += sums.down[s] * (incidence.weight_code[e] | np.uint64(1))
    for ln in range(len(link_colour)):
        link_colour[ln] = _scramble(link_colour[ln] + _scramble(sums.gathered[ln]))


def refine(incidence: Incidence, flow_colour: ColourArray, link_colour: ColourArray) -> int:
    """Colour refinement on the flow-segment-link incidence, until the links' partition stands still.

    Colours hold the colour before, so that classes only split.

    Parameters
    ----------
    incidence : Incidence
    flow_colour : uint64, shape (flows,)
    link_colour : uint64, shape (links,)
        Both are changed in place.

    Returns
    -------
    int
        Number of rounds.
    """
    segments = len(incidence.ptr) - 1
    sums = Sums(
        np.zeros(segments, np.uint64), np.zeros(segments, np.uint64), np.zeros(len(link_colour), np.uint64)
    )
    classes = len(label(link_colour)[1])
    for rounds in range(1, _MOST_ROUNDS + 1):
        _round(incidence, flow_colour, link_colour, sums)
        now = len(label(link_colour)[1])
        if now == classes:
            return rounds
        classes = now
    return _MOST_ROUNDS + 1


@kernel
def _sign(
    ptr: LongArray, link: IntArray, weight: FloatArray, first: FloatArray, signature: ColourArray
) -> None:
    """Write the first weight on each link, and a colour that says which segments load it in which proportion."""
    for s in range(len(ptr) - 1):
        code = _scramble(np.uint64(s))
        for e in range(ptr[s], ptr[s + 1]):
            ln = link[e]
            if first[ln] == 0.0:
                first[ln] = weight[e]
            ratio = np.uint64(np.int64(weight[e] / first[ln] * 1099511627776.0 + 0.5))
            signature[ln] += _scramble(code ^ ratio)


@kernel
def _find_tightest(
    group: IntArray, used: LongArray, capacity: FloatArray, first: FloatArray, tightest: LongArray
) -> None:
    """Write the link of the least capacity in each group, measured by its first weight; the first one on a tie."""
    for i in range(len(used)):
        ln, best = used[i], tightest[group[i]]
        if best < 0 or capacity[ln] / first[ln] < capacity[best] / first[best]:
            tightest[group[i]] = ln


class Rows(NamedTuple):
    """Compressed rows: ``ptr`` int64, shape (segments + 1,); ``link`` int32 and ``weight`` float64, (entries,)."""

    ptr: LongArray
    link: IntArray
    weight: FloatArray


@kernel
def _compress(rows: Rows, number: IntArray, first: FloatArray, out: Rows) -> int:
    """Write the rows over the links that have a ``number`` (int32, shape (links,), else -1); returns their entries."""
    at = 0
    for s in range(len(rows.ptr) - 1):
        for e in range(rows.ptr[s], rows.ptr[s + 1]):
            ln = rows.link[e]
            if number[ln] >= 0:
                out.link[at] = number[ln]
                out.weight[at] = rows.weight[e] / first[ln]
                at += 1
        out.ptr[s + 1] = at
    return at


def merge_links(
    ptr: LongArray, link: IntArray, weight: FloatArray, capacity: FloatArray
) -> tuple[LongArray, IntArray, FloatArray, FloatArray]:
    """Merge links that the same segments load in the same proportion; the tightest of each group stays.

    Parameters
    ----------
    ptr, link, weight : arrays
        Segments as compressed rows, see `fullmesh.network.flow.records.Paths`.
    capacity : float64, shape (links,)
        Bytes per second.

    Returns
    -------
    tuple of arrays
        Compressed rows (``ptr``, ``link``, ``weight``) over the merged links, weights relative to the first segment of
        each link, and capacities in the same measure.
    """
    first, signature = np.zeros(len(capacity)), np.zeros(len(capacity), np.uint64)
    _sign(ptr, link, weight, first, signature)
    used = np.flatnonzero(first > 0)
    group, owner = label(signature[used])
    tightest = np.full(len(owner), -1, np.int64)
    _find_tightest(group, used, capacity, first, tightest)
    number = np.full(len(capacity), -1, np.int32)
    number[tightest] = np.arange(len(owner), dtype=np.int32)
    new_ptr, new_link, new_weight = np.zeros_like(ptr), np.empty_like(link), np.empty_like(weight)
    size = _compress(Rows(ptr, link, weight), number, first, Rows(new_ptr, new_link, new_weight))
    return new_ptr, new_link[:size].copy(), new_weight[:size].copy(), capacity[tightest] / first[tightest]

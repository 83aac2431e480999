"""A fabric that is given link by link, from its form."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fullmesh.errors import CatalogError, did_you_mean
from fullmesh.machine.figures import Figures
from fullmesh.machine.wiring import Cable, CableList

if TYPE_CHECKING:
    from fullmesh.machine.file_form import CableListSpec
    from fullmesh.machine.source_lines import SourceLines


def read_cable_list(spec: CableListSpec, figures: Figures) -> CableList:
    """The fabric as a record.

    Raises
    ------
    CatalogError
        A name stands twice, a link ends nowhere or where it begins, or a device cannot be reached.
    """
    lines = figures.lines
    number = _numbers(spec, lines)
    cables = []
    for i, link in enumerate(spec.link):
        for key, end in (("a", link.a), ("b", link.b)):
            if end not in number:
                raise CatalogError(
                    f"dangling link: {end!r} is not a device or switch",
                    where=lines.where(("link", i, key)),
                    hint=did_you_mean(end, list(number)),
                )
        if link.a == link.b:
            raise CatalogError(f"the link joins {link.a!r} with itself", where=lines.where(("link", i, "b")))
        rate = figures.read(
            link.bandwidth, "bytes_per_s", "link: bandwidth", ("link", i, "bandwidth"), spec.source
        )
        latency = figures.read(
            link.latency, "s", "link: latency", ("link", i, "latency"), spec.source, zero=True
        )
        cables.append(
            Cable(
                a=number[link.a],
                b=number[link.b],
                bytes_per_s=rate.si_value,
                latency_s=latency.si_value,
                kind=link.kind,
            )
        )
    found = CableList(
        id=spec.id,
        name=spec.name or spec.id,
        device_basis=spec.basis,
        devices=tuple(d.name for d in spec.device),
        switch_tiers=tuple(s.tier for s in spec.switch),
        cables=tuple(cables),
        source=spec.source,
    )
    _require_connected(found, lines)
    return found


def _numbers(spec: CableListSpec, lines: SourceLines) -> dict[str, int]:
    number: dict[str, int] = {}
    places: dict[str, str] = {}
    named = [("device", i, node.name) for i, node in enumerate(spec.device)]
    named += [("switch", i, node.name) for i, node in enumerate(spec.switch)]
    for table, i, name in named:
        here = lines.where((table, i, "name"))
        if name in number:
            raise CatalogError(
                f"duplicate name {name!r}",
                where=here,
                expected="every name once",
                hint=f"first used at {places[name]}",
            )
        number[name] = len(number)
        places[name] = here
    return number


def _require_connected(found: CableList, lines: SourceLines) -> None:
    beside: dict[int, list[int]] = {}
    for cable in found.cables:
        beside.setdefault(cable.a, []).append(cable.b)
        beside.setdefault(cable.b, []).append(cable.a)
    reached, todo = {0}, [0]
    while todo:
        for node in beside.get(todo.pop(), ()):
            if node not in reached:
                reached.add(node)
                todo.append(node)
    lost = [i for i in range(len(found.devices)) if i not in reached]
    if lost:
        raise CatalogError(
            f"disconnected rank: no path from {found.devices[0]!r} to {found.devices[lost[0]]!r}",
            where=lines.where(("device", lost[0], "name")),
            expected="every device reachable from every other",
        )

"""How large each machine of a comparison is, by basis: whole supernodes, equal devices, packages, power or money."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

from fullmesh.catalog import Price, price_per_device_hour
from fullmesh.errors import ScenarioError
from fullmesh.machine import Machine
from fullmesh.outcomes.estimate import machine_power_w

BASES = ("units", "devices", "packages", "power", "money")


def is_supernode(machine: Machine) -> bool:
    """Whether one buys it as a unit of several nodes (a rack of NVL72, a CloudMatrix), not node by node."""
    return machine.devices_per_unit > machine.devices_per_node


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """The machines of a comparison in their sizes.

    Parameters
    ----------
    basis : str
        What is equal, ``as given`` where the sizes were given.
    machines : tuple of Machine
        In the order asked.
    equal_packages : tuple of Machine
        The same ones with equal numbers of packages, where whole supernodes are compared and differ in them.
    """

    basis: str
    machines: tuple[Machine, ...]
    equal_packages: tuple[Machine, ...]

    @property
    def distinct(self) -> list[Machine]:
        """Every machine and size once."""
        return list({size_key(m): m for m in (*self.machines, *self.equal_packages)}.values())


def size_key(machine: Machine) -> tuple[str, int]:
    """What two equal columns of a comparison share."""
    return machine.id, machine.num_devices


def size_machines(
    machines: Sequence[Machine],
    basis: str,
    prices: tuple[Price, ...] | None = None,
    *,
    resize: bool = True,
) -> Sizes:
    """Size the machines of a comparison by ``basis``, or leave them as they are.

    Raises
    ------
    ScenarioError
        The basis is unknown, a machine is named twice or has the id of another, or has no published power or no price.
    """
    sized = resized(machines, basis, prices) if resize else list(machines)
    keys = [size_key(m) for m in sized]
    _check_distinct(sized)
    beside = resized(machines, "packages", prices) if resize and basis == "units" else []
    if [size_key(m) for m in beside] == keys:
        beside = []
    return Sizes(basis=basis if resize else "as given", machines=tuple(sized), equal_packages=tuple(beside))


def _check_distinct(machines: Sequence[Machine]) -> None:
    """Refuse a machine that is named twice, and two machines that results could not tell apart."""
    seen: dict[tuple[str, int], Machine] = {}
    for machine in machines:
        other = seen.setdefault(size_key(machine), machine)
        if other is machine:
            continue
        if other == machine:
            raise ScenarioError(
                f"{machine.name} is named twice",
                where="--on",
                expected="each machine once",
                hint="leave one out",
            )
        names = machine.name if machine.name == other.name else f"{other.name} and {machine.name}"
        raise ScenarioError(
            f"two different machines have the id {machine.id!r}: {names}",
            where="--on",
            expected="an id of its own for each machine, by which results tell them apart",
            hint=f'change `id = "{machine.id}"` in your machine file; `fullmesh catalog` lists the ids that are taken',
        )


def resized(
    machines: Sequence[Machine], basis: str, prices: tuple[Price, ...] | None = None
) -> list[Machine]:
    """Machines in sizes that are equal by ``basis``.

    ``units`` keeps one whole supernode each, and gives clusters as many packages as the largest supernode has; among
    clusters alone all get the packages of the largest default. The other bases take the first machine's default size
    as the measure, except that devices and packages follow the largest. Sizes are whole nodes whose number of
    devices has no prime factor but 2 and 3, since no layout divides others well.

    Raises
    ------
    ScenarioError
        The basis is unknown, or a machine has no published power or no price.
    """
    if basis not in BASES:
        raise ScenarioError(f"unknown basis {basis!r}", expected="one of " + ", ".join(BASES))
    whole = [m.resized(m.devices_per_unit) for m in machines if is_supernode(m)]
    base = whole or list(machines)
    packages = max(m.num_packages for m in base)
    if basis == "units":
        return [
            m.resized(m.devices_per_unit)
            if is_supernode(m)
            else _nearest(m, packages * m.devices_per_package)
            for m in machines
        ]
    if basis == "packages":
        return [_nearest(m, packages * m.devices_per_package) for m in machines]
    if basis == "devices":
        devices = max(m.num_devices for m in base)
        return [_nearest(m, devices) for m in machines]
    rate = _watts if basis == "power" else _usd_per_hour
    per_device = [rate(m, prices) for m in machines]
    first = machines[0].devices_per_unit if is_supernode(machines[0]) else machines[0].num_devices
    budget = first * per_device[0]
    return [_nearest(m, budget / each) for m, each in zip(machines, per_device, strict=True)]


def _watts(machine: Machine, prices: tuple[Price, ...] | None) -> float:
    power = machine_power_w(machine)
    if power is None:
        raise ScenarioError(
            f"the power of {machine.name} is not published",
            where="--basis power",
            hint="use another basis, or a machine file with a [power] table",
        )
    return power / machine.num_devices


def _usd_per_hour(machine: Machine, prices: tuple[Price, ...] | None) -> float:
    price = price_per_device_hour(machine, prices)
    if price is None:
        raise ScenarioError(
            f"{machine.name} has no price",
            where="--basis money",
            expected=f"a row for {machine.id} or {machine.chip.id} in the price file",
            hint="give a price file with --prices FILE",
        )
    return price.usd_per_hour


def _nearest(machine: Machine, wanted: float) -> Machine:
    """The machine in the valid, divisible size nearest to ``wanted`` devices (by ratio)."""
    best, distance = machine.devices_per_package, math.inf
    for twos in range(0, 20):
        for threes in range(0, 4):
            size = 2**twos * 3**threes
            group = (
                machine.devices_per_package if size <= machine.devices_per_node else machine.devices_per_node
            )
            if size % group:
                continue
            off = abs(math.log(size / wanted))
            if off < distance - 1e-12:
                best, distance = size, off
    return machine.resized(best)


def default_batch(machines: Sequence[Machine], tokens: float, seq: int) -> int:
    """A global batch near ``tokens`` that data-parallel ranks of all these machines can share.

    It is a multiple of the odd part of every machine's number of devices, times a power of two.
    """
    odd = 1
    for machine in machines:
        n = machine.num_devices
        while n % 2 == 0:
            n //= 2
        odd = math.lcm(odd, n)
    if odd > 81:
        odd = 1
    doublings = max(0, round(math.log2(max(tokens / seq / odd, 1.0))))
    return odd << doublings

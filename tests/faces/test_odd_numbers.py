"""Odd numbers on the command line of fabric and catalog end with one message, not with a traceback."""

from __future__ import annotations

import pytest

from fullmesh.errors import CatalogError, FullmeshError
from fullmesh.faces.cli.main import cli
from fullmesh.machine import load_machine


@pytest.mark.parametrize(
    "options",
    [
        ["--seed", "-1", "--fail", "links=1%"],
        ["--scale", "nan"],
        ["--scale", "inf"],
        ["--scale", "1e9"],
        ["--devices", "100000000"],
        ["--oversubscription", "nan"],
        ["--oversubscription", "inf"],
    ],
)
def test_fabric_numbers(options: list[str]) -> None:
    with pytest.raises(FullmeshError):
        cli.main(["fabric", "dgx-h200", *options], standalone_mode=False)


@pytest.mark.parametrize("count", [10**12, 10**20])
def test_a_machine_of_a_million_million_devices(count: int) -> None:
    with pytest.raises(CatalogError, match="cannot have") as caught:
        load_machine("dgx-h200", num_devices=count)
    assert "10000000" in caught.value.render()


def test_a_source_that_no_fact_has() -> None:
    with pytest.raises(CatalogError, match="source"):
        cli.main(["catalog", "--source", "no such place"], standalone_mode=False)

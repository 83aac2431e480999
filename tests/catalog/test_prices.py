"""Prices: read strictly, replaced by a file of the user's, never made up."""

from __future__ import annotations

from pathlib import Path

import pytest

from fullmesh.catalog import load_prices, price_per_device_hour
from fullmesh.errors import CatalogError
from fullmesh.machine import load_machine

HEADER = "item,usd,low_usd,high_usd,per,kind,source,date,note\n"


def write(path: Path, *rows: str) -> Path:
    path.write_text(HEADER + "".join(row + "\n" for row in rows))
    return path


def test_shipped_prices_have_source_and_date() -> None:
    prices = load_prices()
    assert {p.item for p in prices} >= {"h100-sxm", "h800", "gb200-nvl72", "cloudmatrix384"}
    for price in prices:
        assert price.source
        assert price.date


def test_rent_is_taken_as_it_is() -> None:
    price = price_per_device_hour(load_machine("h800"))
    assert price is not None
    assert price[0] == 2.0
    assert "rent" in price[1]


def test_a_purchase_is_spread_over_the_stated_period() -> None:
    price = price_per_device_hour(load_machine("cloudmatrix384"))
    assert price is not None
    assert price[0] == pytest.approx(8e6 / 768 / (4 * 365.25 * 24))
    assert "4 years" in price[1]
    assert "assumption" in price[1]


def test_more_units_cost_the_same_per_device() -> None:
    one, two = (price_per_device_hour(load_machine("gb200-nvl72", num_devices=n)) for n in (72, 144))
    assert one == two


@pytest.mark.parametrize("machine", ["h200", "a100", "b200", "gb300-nvl72", "atlas-800t-a2"])
def test_where_no_price_is_known_there_is_none(machine: str) -> None:
    assert price_per_device_hour(load_machine(machine)) is None


def test_a_users_file_replaces_the_shipped_one(tmp_path: Path) -> None:
    prices = load_prices(
        write(tmp_path / "p.csv", "dgx-h200,3.5,,,device_hour,assumed,our contract,2026-10,")
    )
    assert price_per_device_hour(load_machine("h200"), prices) == (
        3.5,
        "rent of one dgx-h200 for an hour (assumed; our contract, 2026-10)",
        True,
    )
    assert price_per_device_hour(load_machine("h100"), prices) is None


def test_rent_goes_before_purchase(tmp_path: Path) -> None:
    prices = load_prices(
        write(
            tmp_path / "p.csv",
            "dgx-h200,400000,,,unit,assumed,a,2026-10,",
            "h200,3,,,device_hour,assumed,b,2026-10,",
        )
    )
    price = price_per_device_hour(load_machine("h200"), prices)
    assert price is not None
    assert price.usd_per_hour == 3.0
    assert price.rented


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("h200,-3,,,device_hour,assumed,s,2026,", "positive"),
        ("h200,cheap,,,device_hour,assumed,s,2026,", "not a number"),
        ("h200,3,,,month,assumed,s,2026,", "one of device_hour, unit"),
        ("h200,3,,,device_hour,rumour,s,2026,", "unknown kind"),
        ("h200,3,,,device_hour,assumed,,2026,", "column 'source' is empty"),
        ("h200,3,4,5,device_hour,assumed,s,2026,", "outside its own range"),
        ("h200,3,,,device_hour,assumed,s", "fields"),
    ],
)
def test_a_bad_row_is_an_error_with_file_and_line(tmp_path: Path, row: str, message: str) -> None:
    path = write(tmp_path / "p.csv", row)
    with pytest.raises(CatalogError, match=message) as caught:
        load_prices(path)
    assert f"{path}:2" in str(caught.value)


def test_two_prices_of_one_item(tmp_path: Path) -> None:
    row = "h200,3,,,device_hour,assumed,s,2026,"
    with pytest.raises(CatalogError, match="second price"):
        load_prices(write(tmp_path / "p.csv", row, row))


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(CatalogError, match="cannot read"):
        load_prices(tmp_path / "none.csv")

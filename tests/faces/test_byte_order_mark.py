"""Files that an editor saved with a byte order mark are read like others."""

from __future__ import annotations

from pathlib import Path

from fullmesh.catalog import load_prices
from fullmesh.data import DATA_DIR
from fullmesh.machine import load_machine
from fullmesh.machine.names import MACHINES_DIR
from fullmesh.network.wiring.build import load_topology
from fullmesh.study.scenario import load_scenario


def marked(source: Path, target: Path) -> Path:
    target.write_bytes(b"\xef\xbb\xbf" + source.read_bytes())
    return target


def test_a_machine_file(tmp_path: Path) -> None:
    path = marked(MACHINES_DIR / "dgx-h200.toml", tmp_path / "mine.toml")
    assert load_machine(str(path)) == load_machine("dgx-h200")


def test_a_price_file(tmp_path: Path) -> None:
    shipped = max((DATA_DIR / "prices").glob("*.csv"))
    assert load_prices(marked(shipped, tmp_path / "prices.csv")) == load_prices(shipped)


def test_a_topology_file(tmp_path: Path) -> None:
    path = marked(MACHINES_DIR / "dgx-h200.toml", tmp_path / "mine.toml")
    assert load_topology(str(path)).num_devices == load_topology("dgx-h200").num_devices


def test_a_scenario_file(tmp_path: Path) -> None:
    path = tmp_path / "plan.toml"
    path.write_text(
        '\ufeff[model]\nname = "llama-3-8b"\n[machine]\nname = "dgx-h200"\nchips = 8\n'
        "[plan]\nmbs = 1\ngbs = 8\nseq = 4096\n",
        encoding="utf-8",
    )
    assert load_scenario(path).machine.num_devices == 8

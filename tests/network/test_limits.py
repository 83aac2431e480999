"""Descriptions of fabrics that would fill the memory, or hold what is no number, are refused before the wiring."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from fullmesh.data import DATA_DIR
from fullmesh.errors import FullmeshError
from fullmesh.network.wiring.build import load_topology

TREE = (DATA_DIR / "machines" / "fat-tree-16.toml").read_text(encoding="utf-8")
H200 = (DATA_DIR / "machines" / "dgx-h200.toml").read_text(encoding="utf-8")
CABLES = """id = "pair"
source = "test"
[[device]]
name = "a"
[[device]]
name = "b"
[[link]]
a = "a"
b = "b"
bandwidth = "1 GB/s"
"""
MANY = "".join(
    f'[[device]]\nname = "d{i}"\n[[link]]\na = "a"\nb = "d{i}"\nbandwidth = "1 GB/s"\n' for i in range(2000)
)
GRID = """id = "grid"
name = "grid"
source = "x"
[size]
default_devices = {n}
devices_per_node = 1
devices_per_unit = {n}
unit_name = "machine"
[[tier]]
name = "grid"
kind = "mesh"
num_devices = "all"
bandwidth = "1 GB/s"
latency = "1 us"
source = "x"
[[wiring]]
tiers = ["grid"]
source = "x"
"""


def refused(path: Path, text: str, what: str) -> None:
    path.write_text(text, encoding="utf-8")
    began = time.process_time()
    with pytest.raises(FullmeshError) as caught:
        load_topology(str(path))
    assert time.process_time() - began < 2
    assert what in str(caught.value)
    assert "hint: " in str(caught.value)
    assert len(str(caught.value)) < 1200


@pytest.mark.parametrize(
    ("text", "old", "new", "what"),
    [
        (TREE, '"50 GB/s"', '"1e999 GB/s"', "is not finite"),
        (TREE, '"50 GB/s"', '"1e308 PB/s"', "is not finite"),
        (TREE, '"2.8 us"', '"1e999 s"', "is not finite"),
        (TREE, "default_devices = 1024", "default_devices = 1000000000", "from 1 to 10,000,000"),
        (TREE, "default_devices = 1024", "default_devices = 0x" + "f" * 5000, "64 bits"),
        (TREE, '"fat-tree-16"', '"' + "n" * 5000 + '"', "at most 4,096 characters"),
        (TREE, "radix = 16", "radix = 16\nefficiency = nan", "efficiency"),
        (TREE, "radix = 16", "radix = 16\nattach = -1", "attach"),
        (H200, "links_per_plane = [5, 4, 4, 5]", "planes = 1000000000", "from 1 to 10,000,000"),
        (H200, "links_per_plane = [5, 4, 4, 5]", "planes = 5000000", "nvlink would have"),
        (H200, "spines = 32", "spines = 5000000", "infiniband would have"),
        (H200, "spines = 32", "spines = 3000\ncores = 3000", "infiniband would have"),
        (H200, "[[wiring]]", '[[endpoint]]\nname = "cpu"\nper_node = 9000000\n\n[[wiring]]', "endpoint cpu would have"),
        (CABLES, '"1 GB/s"', '"1e999 GB/s"', "is not finite"),
        (CABLES, "[[link]]", MANY + "[[link]]", "wired one by one"),
    ],
)  # fmt: skip
def test_a_description_is_refused_at_once(tmp_path: Path, text: str, old: str, new: str, what: str) -> None:
    assert old in text
    refused(tmp_path / "t.toml", text.replace(old, new, 1), what)


def test_grids_and_dragonflies_have_the_same_limit(tmp_path: Path) -> None:
    grid = (
        GRID.format(n=100_000).replace('"1 GB/s"', '"99999 GB/s"')
        + 'kind = "full-mesh"\nsizes = [100000]\nlink = ["1 GB/s"]\n'
    )
    refused(tmp_path / "t.toml", grid, "grid would have")
    fly = GRID.format(n=500_000).replace('"mesh"', '"switch"') + (
        'kind = "dragonfly"\ndevices_per_router = 1\nrouters_per_group = 500000\nglobal_per_router = 500000\n'
    )
    refused(tmp_path / "t.toml", fly, "grid would have")

"""Descriptions of fabrics that would fill the memory, or hold what is no number, are refused before the wiring."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from fullmesh.data import DATA_DIR
from fullmesh.errors import TopologyError
from fullmesh.network.wiring.build import load_topology

TREE = """name = "fat-tree-16"
title = "Fat tree, radix 16"
basis = "gpu"
devices = 1024
source = "example"

[[layer]]
name = "network"
kind = "fat-tree"
tier = "rail"
radix = 16
link = "50 GB/s"
latency = ["2.8 us", "3.7 us", "4.6 us"]
source = "example"
"""
H200 = (DATA_DIR / "topologies" / "dgx-h200.toml").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("text", "old", "new", "what"),
    [
        (TREE, "latency =", "attach = -1\nlatency =", "'attach' is not a list"),
        (TREE, '"50 GB/s"', '"1e999 GB/s"', "is not finite"),
        (TREE, '"50 GB/s"', '"1e308 PB/s"', "is not finite"),
        (TREE, '"2.8 us"', '"1e999 s"', "is not finite"),
        (TREE, "devices = 1024", "devices = 1000000000", "out of range"),
        (TREE, "devices = 1024", "devices = 0x" + "f" * 5000, "64 bits"),
        (TREE, "radix = 16", "radix = 2000000", "network would have"),
        (TREE, '"fat-tree-16"', '"' + "n" * 5000 + '"', "a text of 5,000 characters"),
        (TREE, 'tier = "rail"', "efficiency = nan", "is not a share"),
        (H200, "planes = 4", "planes = 1000000000", "out of range"),
        (H200, "planes = 4\nlinks_per_plane = [5, 4, 4, 5]", "planes = 5000000", "nvlink would have"),
        (H200, "spines = 32", "spines = 5000000", "infiniband would have"),
        (H200, "spines = 32", "spines = 3000\ncores = 3000", "infiniband would have"),
    ],
)
def test_a_description_is_refused_at_once(tmp_path: Path, text: str, old: str, new: str, what: str) -> None:
    assert old in text
    path = tmp_path / "t.toml"
    path.write_text(text.replace(old, new, 1), encoding="utf-8")
    began = time.process_time()
    with pytest.raises(TopologyError) as caught:
        load_topology(str(path))
    assert time.process_time() - began < 2
    assert what in str(caught.value)
    assert "hint: " in str(caught.value)


def test_grids_and_dragonflies_have_the_same_limit(tmp_path: Path) -> None:
    head = (
        'name = "x"\nbasis = "npu"\ndevices = {n}\nsource = "x"\n'
        '[[layer]]\nname = "grid"\nsource = "x"\nlatency = "1 us"\nlink = "1 GB/s"\n'
    )
    grid = head.format(n=100_000) + 'kind = "full-mesh"\nsizes = [100000]\n'
    fly = head.format(n=500_000) + (
        'kind = "dragonfly"\ndevices_per_router = 1\nrouters_per_group = 500000\nglobal_per_router = 500000\n'
    )
    for text in (grid, fly):
        path = tmp_path / "t.toml"
        path.write_text(text, encoding="utf-8")
        with pytest.raises(TopologyError, match="grid would have"):
            load_topology(str(path))

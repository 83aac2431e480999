"""Bad topology files are refused with file, line and a way out."""

from __future__ import annotations

from pathlib import Path

import pytest

from fullmesh.errors import TopologyError
from fullmesh.network.wiring.build import load_topology
from fullmesh.network.wiring.links import Policy

WIRED = """name = "lab"
basis = "gpu"

[[device]]
name = "a"

[[device]]
name = "b"

[[device]]
name = "c"

[[switch]]
name = "s"
tier = "leaf"

[[link]]
a = "a"
b = "s"
bandwidth = "10 GB/s"
latency = "1 us"

[[link]]
a = "b"
b = "s"
bandwidth = "10 GB/s"

[[link]]
a = "c"
b = "s"
bandwidth = "5 GB/s"
"""
LAYERED = """name = "lab"
devices = 16
devices_per_node = 4

[[layer]]
name = "net"
kind = "clos"
nodes_per_leaf = 2
spines = 4
link = "10 GB/s"
latency = "1 us"
source = "test"
"""


def refused(tmp_path: Path, text: str, line: int, *parts: str) -> None:
    path = tmp_path / "bad.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(TopologyError) as caught:
        load_topology(str(path))
    message = str(caught.value)
    assert f"bad.toml:{line}: " in message, message
    for part in parts:
        assert part in message, message


def test_good_files_load(tmp_path: Path) -> None:
    path = tmp_path / "good.toml"
    path.write_text(WIRED, encoding="utf-8")
    topology = load_topology(str(path))
    assert (topology.num_devices, topology.switch_counts()) == (3, {"leaf": 1})
    path.write_text(LAYERED, encoding="utf-8")
    assert load_topology(str(path)).switch_counts() == {"leaf": 2, "spine": 4}


def test_dangling_link(tmp_path: Path) -> None:
    refused(tmp_path, WIRED.replace('a = "b"\nb = "s"', 'a = "b"\nb = "t"'), 25, "dangling link", "'t'")


def test_dangling_endpoint(tmp_path: Path) -> None:
    attach = LAYERED + 'attach = [{ endpoint = "cpu", bandwidth = "1 GB/s" }]\n'
    refused(tmp_path, attach, 13, "dangling link", "'cpu'")


def test_zero_bandwidth(tmp_path: Path) -> None:
    refused(tmp_path, WIRED.replace('"5 GB/s"', '"0 GB/s"'), 31, "above zero", "hint")
    refused(tmp_path, LAYERED.replace('"10 GB/s"', '"0 GB/s"'), 10, "above zero")
    refused(tmp_path, LAYERED.replace('"10 GB/s"', '"-1 GB/s"'), 10, "above zero")


def test_disconnected_rank(tmp_path: Path) -> None:
    alone = WIRED[: WIRED.rindex("[[link]]")]
    refused(tmp_path, alone, 11, "disconnected rank", "'c'")
    refused(tmp_path, LAYERED.replace("spines = 4\n", ""), 5, "disconnected rank", "device 8")


def test_duplicate_name(tmp_path: Path) -> None:
    refused(tmp_path, WIRED.replace('name = "b"', 'name = "a"'), 8, "duplicate name", "bad.toml:5")
    refused(tmp_path, WIRED.replace('name = "s"', 'name = "a"'), 14, "duplicate name")
    twice = LAYERED + LAYERED[LAYERED.index("[[layer]]") :]
    refused(tmp_path, twice, 14, "duplicate name 'net'")


@pytest.mark.parametrize(
    ("old", "new", "line", "what"),
    [
        ('kind = "clos"', 'kind = "clo"', 7, "unknown layer kind"),
        ("spines = 4", "spinse = 4", 9, "unknown key 'spinse'"),
        ('"1 us"', '"1 GB/s"', 11, "quantity of"),
        ('"1 us"', "1", 11, "has no unit"),
        ('link = "10 GB/s"\n', "", 5, "'link' is missing"),
        ("devices = 16", 'devices = "16"', 2, "not a whole number"),
        ("spines = 4", "spines = -1", 9, "too small"),
        ('source = "test"\n', "", 5, "'source' is missing"),
        ("spines = 4", "spines = 4\nrails = 3", 10, "do not divide"),
        ("spines = 4", "spines = 4\nefficiency = 1.2", 10, "not a share"),
        ('name = "lab"', 'name = "lab', 1, "not valid TOML"),
    ],
)
def test_other_mistakes(tmp_path: Path, old: str, new: str, line: int, what: str) -> None:
    refused(tmp_path, LAYERED.replace(old, new), line, what)


def test_a_grid_must_be_filled(tmp_path: Path) -> None:
    torus = (
        'name = "t"\ndevices = 10\n[[layer]]\nname = "t"\nkind = "torus"\nsizes = [4, 4]\nlink = "1 GB/s"\n'
    )
    torus += 'latency = "1 us"\nsource = "t"\n'
    refused(tmp_path, torus, 6, "multiple of 16")
    refused(tmp_path, torus.replace("[4, 4]", "[]"), 6, "whole numbers")


def test_missing_file_and_empty_graph(tmp_path: Path) -> None:
    with pytest.raises(TopologyError, match="cannot read"):
        load_topology(str(tmp_path / "none.toml"))
    refused(tmp_path, 'name = "x"\n', 1, "neither layers nor a wired graph")


def test_wired_graph_routes_shortest_and_even(tmp_path: Path) -> None:
    """Two equal two-hop ways between the devices: half of the traffic each, re-split by capacity."""
    import numpy as np

    from fullmesh.network.flow import solve

    text = 'name = "x"\n' + "".join(f'[[device]]\nname = "d{i}"\n' for i in range(2))
    text += "".join(f'[[switch]]\nname = "s{i}"\n' for i in range(2))
    for i, rate in enumerate((10, 30)):
        for d in range(2):
            text += f'[[link]]\na = "d{d}"\nb = "s{i}"\nbandwidth = "{rate} GB/s"\nlatency = "{i + 1} us"\n'
    path = tmp_path / "two.toml"
    path.write_text(text, encoding="utf-8")
    topology = load_topology(str(path))
    pair = (np.array([0]), np.array([1]))
    for policy, rate in (("static", 20e9), ("resplit", 40e9)):
        routing = topology.route(*pair, Policy(name=policy))  # type: ignore[arg-type]
        assert solve.max_min_rates(solve.make_problem(topology, routing))[0] == pytest.approx(rate)
        assert routing.latency_s[0] == pytest.approx(4e-6)
    hashed = topology.route(*pair, Policy(name="ecmp"))
    assert solve.max_min_rates(solve.make_problem(topology, hashed))[0] in (
        pytest.approx(10e9),
        pytest.approx(30e9),
    )

"""Bad files of fabrics are refused with file, line and a way out."""

from __future__ import annotations

from pathlib import Path

import pytest

from fullmesh.errors import CatalogError, TopologyError
from fullmesh.machine import load_machine
from fullmesh.network.wiring.build import load_topology
from fullmesh.network.wiring.links import Policy

WIRED = """id = "lab"
source = "test"

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
TIERED = """id = "lab"
name = "Lab"
source = "test"

[size]
default_devices = 16
devices_per_node = 4
devices_per_unit = 4
unit_name = "node"

[[tier]]
name = "net"
kind = "switch"
num_devices = "all"
bandwidth = "10 GB/s"
latency = "1 us"
source = "test"

[[wiring]]
tiers = ["net"]
kind = "clos"
nodes_per_leaf = 2
spines = 4
source = "test"
"""


def refused(tmp_path: Path, text: str, line: int, *parts: str) -> None:
    path = tmp_path / "bad.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(CatalogError) as caught:
        load_topology(str(path))
    message = str(caught.value)
    assert f"bad.toml:{line}" in message, message
    for part in parts:
        assert part in message, message


def test_good_files_load(tmp_path: Path) -> None:
    path = tmp_path / "good.toml"
    path.write_text(WIRED, encoding="utf-8")
    topology = load_topology(str(path))
    assert (topology.num_devices, topology.switch_counts()) == (3, {"leaf": 1})
    path.write_text(TIERED, encoding="utf-8")
    assert load_topology(str(path)).switch_counts() == {"leaf": 2, "spine": 4}


def test_dangling_link(tmp_path: Path) -> None:
    refused(tmp_path, WIRED.replace('a = "b"\nb = "s"', 'a = "b"\nb = "t"'), 25, "dangling link", "'t'")
    refused(tmp_path, WIRED.replace('a = "b"\nb = "s"', 'a = "b"\nb = "b"'), 25, "with itself")


def test_dangling_endpoint(tmp_path: Path) -> None:
    attach = TIERED + 'attach = [{ endpoint = "cpu", bandwidth = "1 GB/s" }]\n'
    refused(tmp_path, attach, 25, "dangling link", "'cpu'")


def test_zero_bandwidth(tmp_path: Path) -> None:
    refused(tmp_path, WIRED.replace('"5 GB/s"', '"0 GB/s"'), 31, "a positive quantity")
    refused(tmp_path, TIERED.replace('"10 GB/s"', '"0 GB/s"'), 15, "a positive quantity")
    refused(tmp_path, TIERED.replace('"10 GB/s"', '"-1 GB/s"'), 15, "a positive quantity")


def test_disconnected_rank(tmp_path: Path) -> None:
    alone = WIRED[: WIRED.rindex("[[link]]")]
    refused(tmp_path, alone, 11, "disconnected rank", "'c'")
    path = tmp_path / "small.toml"
    path.write_text(
        TIERED.replace('kind = "clos"\nnodes_per_leaf = 2\nspines = 4', 'kind = "full-mesh"\nsizes = [8]'),
        encoding="utf-8",
    )
    with pytest.raises(TopologyError, match=r"lab: disconnected rank: .* device 8"):
        load_topology(str(path))


def test_duplicate_name(tmp_path: Path) -> None:
    refused(tmp_path, WIRED.replace('name = "b"', 'name = "a"'), 8, "duplicate name", "bad.toml:5")
    refused(tmp_path, WIRED.replace('name = "s"', 'name = "a"'), 14, "duplicate name")
    twice = TIERED + TIERED[TIERED.index("[[wiring]]") :]
    refused(tmp_path, twice, 26, "'net' is wired twice", "'net'")


@pytest.mark.parametrize(
    ("old", "new", "line", "what"),
    [
        ('kind = "clos"', 'kind = "clo"', 21, "did you mean clos"),
        ('kind = "clos"\n', "", 19, "'kind' is missing"),
        ("spines = 4", "spinse = 4", 23, "did you mean spine"),
        ('"1 us"', '"1 GB/s"', 16, "quantity of"),
        ('"1 us"', "1", 16, "not a text"),
        ('bandwidth = "10 GB/s"\n', "", 11, "'bandwidth' is missing"),
        ("default_devices = 16", 'default_devices = "16"', 6, "a number"),
        ("spines = 4", "spines = -1", 23, "is negative"),
        ('spines = 4\nsource = "test"\n', "spines = 4\n", 19, "'source' is missing"),
        ("spines = 4", "spines = 4\nrails = 3", 24, "do not divide"),
        ("spines = 4", "rails = 2", 19, "never meet"),
        ("spines = 4", "spines = 4\nefficiency = 1.2", 24, "at most 1"),
        ("spines = 4", 'spines = 4\nlatency = "1 us"', 24, "the latency stands at the tiers"),
        ("spines = 4", "spines = 4\nplanes = 3\nlinks_per_plane = [1, 1]", 25, "2 entries for 3 planes"),
        ("spines = 4", "spines = 4\nnodes_per_pod = 3", 24, "not whole leaves"),
        ('tiers = ["net"]', 'tiers = ["nett"]', 20, "did you mean net"),
        ('tiers = ["net"]\n', "", 19, "names no tiers"),
        ("spines = 4", "", 22, "said by a tier already"),
        ('name = "Lab"', 'name = "Lab', 2, "not a TOML file"),
    ],
)
def test_other_mistakes(tmp_path: Path, old: str, new: str, line: int, what: str) -> None:
    assert TIERED.count(old) == 1
    refused(tmp_path, TIERED.replace(old, new), line, what)


def test_tiers_of_one_wiring_share_their_ports(tmp_path: Path) -> None:
    inner = (
        '[[tier]]\nname = "near"\nkind = "switch"\nnum_devices = 8\nbandwidth = "20 GB/s"\nlatency = "1 us"\n'
        'source = "test"\n\n[[tier]]'
    )
    two = TIERED.replace("[[tier]]", inner).replace('tiers = ["net"]', 'tiers = ["near", "net"]')
    refused(tmp_path, two, 28, "other kinds or bandwidths")
    equal = two.replace("20 GB/s", "10 GB/s")
    refused(tmp_path, equal, 30, "nodes_per_leaf is said by a tier already")
    path = tmp_path / "good.toml"
    path.write_text(equal.replace("nodes_per_leaf = 2\n", ""), encoding="utf-8")
    assert load_topology(str(path)).switch_counts() == {"leaf": 2, "spine": 4}


def test_a_grid_must_be_filled_and_its_links_make_the_port(tmp_path: Path) -> None:
    grid = TIERED.replace('kind = "clos"\nnodes_per_leaf = 2\nspines = 4', 'kind = "torus"\nsizes = [3, 3]')
    path = tmp_path / "grid.toml"
    path.write_text(grid, encoding="utf-8")
    with pytest.raises(TopologyError, match="multiple of 9"):
        load_topology(str(path))
    refused(tmp_path, grid.replace("[3, 3]", "[0]"), 22, "from 1 to")
    links = grid.replace("sizes = [3, 3]", 'sizes = [4, 4]\nlink = ["1 GB/s", "2 GB/s"]')
    refused(tmp_path, links, 23, "6e+09 B/s", "1e+10 B/s")
    path.write_text(links.replace('"2 GB/s"', '"4 GB/s"'), encoding="utf-8")
    assert load_topology(str(path)).link_counts()["net-1"] == (16, 4e9)


def test_missing_file_and_empty_graph(tmp_path: Path) -> None:
    with pytest.raises(CatalogError, match="cannot read"):
        load_topology(str(tmp_path / "none.toml"))
    refused(tmp_path, 'id = "x"\nname = "x"\nsource = "x"\n', 1, "'size' is missing")


def test_fabrics_without_chips_are_for_fabric_alone(tmp_path: Path) -> None:
    with pytest.raises(CatalogError, match="fabric without chips"):
        load_machine("fat-tree-16")
    for text, what in ((TIERED, "lab has no chip"), (WIRED, "lab is a list of links")):
        path = tmp_path / "lab.toml"
        path.write_text(text, encoding="utf-8")
        with pytest.raises(CatalogError, match=what):
            load_machine(str(path))


def test_wired_graph_routes_shortest_and_even(tmp_path: Path) -> None:
    """Two equal two-hop ways between the devices: half of the traffic each, re-split by capacity."""
    import numpy as np

    from fullmesh.network.flow import solve

    text = 'id = "x"\nsource = "test"\n' + "".join(f'[[device]]\nname = "d{i}"\n' for i in range(2))
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

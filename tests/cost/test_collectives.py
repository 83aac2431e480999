"""Collectives: known formulas at full efficiency, monotone and below the line rate with fitted constants."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fullmesh.cost.collectives.algorithms import KINDS, algorithm, collective_s
from fullmesh.cost.collectives.constants import (
    PROFILE,
    Fabric,
    Term,
    find_fabric,
    load_fabrics,
    parse_profile,
)
from fullmesh.cost.collectives.levels import levels_of
from fullmesh.errors import CatalogError, PlanError
from fullmesh.machine import load_machine
from fullmesh.machine.hardware import Chip, Machine, Tier

ALPHA, STEP = 5e-6, 2e-6
MACHINES = (
    "dgx-a100",
    "dgx-h100",
    "h800-cluster",
    "dgx-b200",
    "gb200-nvl72",
    "cloudmatrix384",
    "atlas-800t-a2",
)
MIB = float(1 << 20)


def machine(*tiers: Tier) -> Machine:
    chip = Chip(
        id="x",
        name="X",
        vendor="v",
        family="X",
        arch="a",
        basis="gpu",
        matrix_flop_per_s={"bf16": 1e15},
        vector_flop_per_s=1e13,
        hbm_bytes=8e10,
        hbm_bytes_per_s=2e12,
        num_cores=100,
        power_w=None,
        operator_profile="x",
    )
    return Machine(
        id="m",
        name="M",
        chip=chip,
        num_devices=tiers[-1].num_devices,
        tiers=tiers,
        devices_per_node=8,
        devices_per_package=1,
        devices_per_unit=8,
        unit_name="node",
        racks_per_unit=None,
        unit_power_w=None,
        power_basis="",
        software="",
    )


def tier(kind: str, size: int, rate: float, latency: float = 0.0, sharp: bool = False) -> Tier:
    return Tier(
        name=kind,
        kind=kind,  # type: ignore[arg-type]
        num_devices=size,
        bytes_per_s=rate,
        latency_s=latency,
        in_network_reduction=sharp,
    )


def fabric(kind: str, *extra: Term, steps: str = "ring", flat: bool = False, serial: float = 0.0) -> Fabric:
    plain = [
        Term(kind=k, algorithm="ring", steps=steps, flat=flat, launch_s=ALPHA, step_s=STEP, serial=serial)
        for k in KINDS[:4]
    ]
    plain += [
        Term(kind="broadcast", algorithm="chain", steps="ring", launch_s=ALPHA, step_s=STEP),
        Term(kind="send_recv", algorithm="message", steps="one", launch_s=ALPHA),
    ]
    return Fabric(vendor="v", arch="a", kind=kind, tier=kind, terms=(*plain, *extra))


SWITCH = machine(tier("switch", 8, 400e9, sharp=True))
MESH = machine(tier("mesh", 8, 196e9))
CLUSTER = machine(tier("switch", 8, 400e9), tier("rail", 64, 50e9))
LEVELS = (fabric("switch"), fabric("mesh"), fabric("rail"))


def test_ring_formulas_on_one_switch():
    n, p, line = 1e9, 8, 400e9
    gather = ALPHA + (p - 1) * STEP + (p - 1) / p * n / line
    reduce = ALPHA + 2 * (p - 1) * STEP + 2 * (p - 1) / p * n / line
    for kind in ("all_gather", "reduce_scatter", "all_to_all"):
        assert collective_s(SWITCH, kind, n, p, fabrics=LEVELS) == pytest.approx(gather)
    assert collective_s(SWITCH, "all_reduce", n, p, fabrics=LEVELS) == pytest.approx(reduce)
    assert collective_s(SWITCH, "broadcast", n, p, fabrics=LEVELS) == pytest.approx(
        ALPHA + 7 * STEP + n / line
    )
    assert collective_s(SWITCH, "send_recv", n, 2, fabrics=LEVELS) == pytest.approx(ALPHA + n / line)


def test_logarithmic_steps():
    fabrics = (fabric("switch", steps="log2"),)
    p = np.array([2, 4, 5, 8])
    steps = np.array([1, 2, 3, 3])
    expected = ALPHA + 2 * steps * STEP + 2 * (p - 1) / p * 1e6 / 400e9
    np.testing.assert_allclose(collective_s(SWITCH, "all_reduce", 1e6, p, fabrics=fabrics), expected)


def test_in_switch_reduction_sends_once_and_only_where_switches_reduce():
    nvls = Term(kind="all_reduce", algorithm="nvls", steps="one", in_network=True, launch_s=3e-5)
    fabrics = (fabric("switch", nvls),)
    n = 1e9
    assert collective_s(SWITCH, "all_reduce", n, 8, fabrics=fabrics) == pytest.approx(
        3e-5 + 9 / 8 * n / 400e9
    )
    assert algorithm(SWITCH, "all_reduce", [1e3, n], 8, fabrics=fabrics).tolist() == ["nvls", "nvls"]
    assert algorithm(CLUSTER, "all_reduce", n, 8, fabrics=(*fabrics, fabric("rail"))) == "ring"


def test_mesh_gives_one_peer_one_link_and_all_peers_the_port():
    n, link = 1e9, 28e9
    pair = collective_s(MESH, "all_gather", n, 2, fabrics=LEVELS) - ALPHA - STEP
    everyone = collective_s(MESH, "all_gather", n, 8, fabrics=LEVELS) - ALPHA - 7 * STEP
    assert pair == pytest.approx(n / 2 / link)
    assert everyone == pytest.approx(n / 8 / link)
    assert collective_s(MESH, "send_recv", n, 2, fabrics=LEVELS) == pytest.approx(ALPHA + n / link)
    # two groups of four in one mesh: each uses three of its seven links
    four = collective_s(MESH, "all_to_all", n, 4, 2, fabrics=LEVELS) - ALPHA - 3 * STEP
    assert four == pytest.approx(n / 4 / link)
    # a mesh cut down to fewer devices keeps its links
    small = MESH.resized(4)
    cut = machine(
        Tier(name="mesh", kind="mesh", num_devices=4, bytes_per_s=196e9, latency_s=0.0, full_num_devices=8)
    )
    assert small.num_devices == cut.num_devices
    assert collective_s(cut, "all_gather", n, 4, fabrics=LEVELS) == pytest.approx(
        ALPHA + 3 * STEP + n / 4 / link
    )


def test_switch_gives_the_whole_port_to_any_peer():
    pair = collective_s(SWITCH, "send_recv", 1e9, 2, fabrics=LEVELS)
    assert pair == pytest.approx(ALPHA + 1e9 / 400e9)


def test_hierarchy_uses_every_card_of_the_members():
    n = 4e9
    inside = ALPHA + 14 * STEP + 2 * 7 / 8 * n / 400e9
    outside = ALPHA + 2 * STEP + 2 * 1 / 2 * (n / 8) / 50e9
    assert collective_s(CLUSTER, "all_reduce", n, 16, fabrics=LEVELS) == pytest.approx(max(inside, outside))
    serial = (fabric("switch"), fabric("rail", serial=1.0))
    assert collective_s(CLUSTER, "all_reduce", n, 16, fabrics=serial) == pytest.approx(inside + outside)
    # neighbours four apart: two members in a node, two cards for the buffer
    inside = ALPHA + 2 * STEP + n / 400e9
    outside = ALPHA + 2 * 7 * STEP + 2 * 7 / 8 * (n / 2) / 50e9
    assert collective_s(CLUSTER, "all_reduce", n, 16, 4, fabrics=LEVELS) == pytest.approx(
        max(inside, outside)
    )
    # every rank in a node of its own: its own card for the whole buffer
    alone = ALPHA + 14 * STEP + 2 * 7 / 8 * n / 50e9
    assert collective_s(CLUSTER, "all_reduce", n, 8, 8, fabrics=LEVELS) == pytest.approx(alone)


def test_flat_ring_reduces_nothing_before_it_leaves():
    ring = Term(kind="all_reduce", algorithm="ring", steps="ring", flat=True, launch_s=ALPHA)
    rail = Fabric(vendor="v", arch="a", kind="rail", tier="rail", terms=(ring,))
    n = 4e9
    expected = ALPHA + 2 * 15 / 16 * (n / 8) / 50e9
    assert collective_s(CLUSTER, "all_reduce", n, 16, fabrics=(fabric("switch"), rail)) == pytest.approx(
        expected
    )


def test_all_to_all_shares_by_tier():
    n = 4e9
    outside = ALPHA + 8 * STEP + 8 / 16 * n / 50e9
    assert collective_s(CLUSTER, "all_to_all", n, 16, fabrics=LEVELS) == pytest.approx(outside)


def test_package_links_carry_their_share_beside_the_ports():
    dies = machine(tier("package", 2, 200e9), tier("switch", 16, 200e9), tier("switch", 64, 200e9))
    fabrics = (fabric("package"), fabric("switch"))
    n = 1.6e9
    assert collective_s(dies, "all_gather", n, 16, fabrics=fabrics) == pytest.approx(
        ALPHA + 14 * STEP + 14 / 16 * n / 200e9
    )
    assert collective_s(dies, "all_gather", n, 2, fabrics=fabrics) == pytest.approx(
        ALPHA + STEP + n / 2 / 200e9
    )
    levels = levels_of(dies, np.array([64.0]), np.array([1.0]))
    assert [len(level.tiers) for level in levels] == [1, 2], "switch tiers of one rate share a rank's ports"


def test_latency_of_a_message_is_that_of_the_outermost_tier():
    two = machine(tier("switch", 8, 400e9, 1e-6), tier("switch", 64, 400e9, 3e-6))
    near, far = (collective_s(two, "send_recv", 0.0, 2, s, fabrics=LEVELS) for s in (1, 8))
    assert near == pytest.approx(ALPHA + 1e-6)
    assert far == pytest.approx(ALPHA + 3e-6)


def test_bounded_algorithm_is_taken_below_its_bound_only():
    small = Term(
        kind="all_gather", algorithm="small", steps="one", up_to_bytes=1e5, up_to_ranks=4, launch_s=1e-3
    )
    fabrics = (fabric("switch", small),)
    names = algorithm(SWITCH, "all_gather", [4e5, 4.1e5, 4e5], [4, 4, 8], fabrics=fabrics)
    assert names.tolist() == ["small", "ring", "ring"]


def test_group_of_one_and_no_columns():
    for name in MACHINES:
        for kind in KINDS:
            assert collective_s(load_machine(name), kind, 1e9, 1) == 0.0
            assert algorithm(load_machine(name), kind, 1e9, 1) == "none"
    assert collective_s(SWITCH, "all_reduce", [], 8, fabrics=LEVELS).shape == (0,)


def test_scalars_and_columns_are_the_same_code():
    m = load_machine("dgx-h100")
    n, p, s = np.array([1e3, 1e6, 1e9]), np.array([8, 16, 4]), np.array([1, 2, 8])
    together = collective_s(m, "all_reduce", n, p, s)
    assert together.tolist() == [float(collective_s(m, "all_reduce", *x)) for x in zip(n, p, s, strict=True)]
    assert collective_s(m, "all_gather", n[:, None], p).shape == (3, 3)


@pytest.mark.parametrize("bad", [(-1.0, 8, 1), (1e6, 0, 1), (1e6, 8, 0), (float("nan"), 8, 1)])
def test_impossible_arguments_are_refused(bad):
    with pytest.raises(PlanError, match="collective"):
        collective_s(SWITCH, "all_reduce", *bad, fabrics=LEVELS)


def test_unknown_kind_is_refused():
    with pytest.raises(PlanError, match="all_reduce"):
        collective_s(SWITCH, "gossip", 1e6, 8)


@settings(max_examples=60, deadline=None)
@given(
    name=st.sampled_from(MACHINES),
    kind=st.sampled_from(KINDS),
    log_bytes=st.floats(5, 34),
    more=st.floats(1.0, 64.0),
    log_ranks=st.integers(1, 8),
    log_stride=st.integers(0, 4),
)
def test_more_bytes_never_take_less_time_and_never_beat_the_line(
    name, kind, log_bytes, more, log_ranks, log_stride
):
    m = load_machine(name)
    n, p, s = 2.0**log_bytes, 2**log_ranks, 2**log_stride
    less, greater = collective_s(m, kind, [n, n * more], p, s)
    assert 0 < less <= greater * (1 + 1e-12)
    # what leaves a domain of the outermost level spanned goes through the members' ports
    levels = [
        v for v in levels_of(m, np.array([float(p)]), np.array([float(s)])) if v.members[0] > v.inside[0]
    ]
    outer = levels[-1]
    share = (outer.members[0] - outer.inside[0]) / outer.members[0]
    if kind in ("all_gather", "reduce_scatter"):
        below = 1.0 if outer.kind != "rail" else outer.inside[0]
        floor = n * share / below / outer.tiers[-1].bytes_per_s
    elif kind == "all_to_all":
        floor = n * share / outer.tiers[-1].bytes_per_s
    elif kind == "all_reduce":
        floor = n / outer.inside[0] / outer.tiers[-1].bytes_per_s
    else:
        floor = n / outer.tiers[-1].bytes_per_s if outer.kind != "rail" or kind == "send_recv" else 0.0
    if outer.kind == "switch" and levels[0].kind == "package" and kind == "all_reduce":
        floor *= share
    assert less >= floor * (1 - 1e-9)


@pytest.mark.parametrize("name", MACHINES)
@pytest.mark.parametrize("kind", KINDS)
def test_more_nodes_never_take_less_time(name, kind):
    """Beyond one scale-up domain; inside one, in-switch reduction and mesh links may gain from more ranks."""
    m = load_machine(name)
    p = m.scale_up_devices * 2 ** np.arange(1, 5)
    seconds = collective_s(m, kind, 2.0 ** np.arange(8, 33, 0.1)[:, None], p)
    assert (seconds[:, 1:] >= seconds[:, :-1] * (1 - 1e-9)).all()


def test_more_nodes_do_not_change_what_runs_inside_one():
    """A size bound is held against the exchange inside the node, not against the whole group's share."""
    small = Term(kind="reduce_scatter", algorithm="small", steps="one", up_to_bytes=1e6, launch_s=1e-9)
    slow = (
        *(t for t in fabric("switch").terms if t.kind != "reduce_scatter"),
        Term(kind="reduce_scatter", algorithm="ring", steps="one", launch_s=1.0),
        small,
    )
    inner = Fabric(vendor="v", arch="a", kind="switch", tier="switch", terms=slow)
    n = 1.6e7  # two megabytes for each of eight, half of one for each of thirty-two
    two, four = collective_s(CLUSTER, "reduce_scatter", n, [16, 32], fabrics=(inner, fabric("rail")))
    assert two > 1
    assert four > 1


@pytest.mark.parametrize("kind", ["all_gather", "reduce_scatter", "all_to_all"])
def test_more_ranks_in_a_switch_never_take_less_time(kind):
    for name in ("dgx-a100", "dgx-h100", "dgx-b200", "gb200-nvl72"):
        m = load_machine(name)
        p = np.arange(2, m.scale_up_devices + 1)
        for n in (1e4, 1e6, 1e8, 1e10):
            assert (np.diff(collective_s(m, kind, n, p)) >= 0).all(), (name, n)


def test_more_bandwidth_is_never_slower():
    base = load_machine("dgx-h100")
    for i in range(2):
        tiers = list(base.tiers)
        old = tiers[i]
        tiers[i] = tier(
            old.kind, old.num_devices, 2 * old.bytes_per_s, old.latency_s, old.in_network_reduction
        )
        faster = machine(*tiers)
        object.__setattr__(faster, "chip", base.chip)
        for kind in KINDS:
            n = np.array([1e4, 1e7, 1e10])[:, None]
            p = np.array([2, 8, 16, 128])
            assert (collective_s(faster, kind, n, p) <= collective_s(base, kind, n, p) * (1 + 1e-12)).all()


def test_nccl_switches_from_ring_to_nvls_at_two_mebibytes_on_eight_h200():
    m = load_machine("dgx-h200")
    sizes = 2.0 ** np.arange(10, 34)
    names = algorithm(m, "all_reduce", sizes, 8)
    assert all(n.startswith("ring") for n in names[sizes <= MIB])
    assert all(n == "nvls" for n in names[sizes >= 2 * MIB])


def test_large_jobs_take_trees_for_small_buffers_and_rings_for_large_ones():
    m = load_machine("dgx-b200").resized(512)
    names = algorithm(m, "all_reduce", [MIB, 256 * MIB, 8192 * MIB], 512)
    assert names.tolist() == ["tree", "tree", "ring"]


def test_nvl72_keeps_its_all_to_all_and_dgx_does_not():
    n = 2.0**34
    nvl, dgx = load_machine("gb200-nvl72"), load_machine("dgx-h100")
    keep = collective_s(nvl, "all_to_all", n, [8, 32])
    lose = collective_s(dgx, "all_to_all", n, [8, 32])
    assert keep[1] / keep[0] < 1.3
    assert lose[1] / lose[0] > 5


def test_a2_mesh_cannot_do_what_ub_can():
    a2, ub = load_machine("atlas-800t-a2"), load_machine("cloudmatrix384")
    mesh = collective_s(a2, "send_recv", 1e9, 2)
    whole = collective_s(ub, "send_recv", 1e9, 2, 2)
    assert 4 < mesh / whole < 8


def test_profile_is_physical_and_covers_every_tier_of_every_machine():
    for f in load_fabrics():
        for kind in KINDS:
            assert any(t.kind == kind for t in f.terms), (f.tier, kind)
    for name in (*MACHINES, "atlas-910a-pod", "gb300-nvl72", "dgx-b300"):
        m = load_machine(name)
        for t in m.tiers:
            found = find_fabric(load_fabrics(), m, t)
            assert found.kind == t.kind
            assert found.vendor == m.chip.vendor


def test_unphysical_or_broken_profiles_are_refused():
    document = json.loads(PROFILE.read_text(encoding="utf-8"))
    document["fabrics"][0]["terms"][0]["fraction"] = 1.2
    with pytest.raises(CatalogError, match="not physical"):
        parse_profile(document, "x.json")
    document["fabrics"][0]["terms"][0] = {"kind": "all_reduce", "speed": 3}
    with pytest.raises(CatalogError, match="speed"):
        parse_profile(document, "x.json")
    with pytest.raises(CatalogError, match="fabrics"):
        parse_profile({}, "x.json")
    assert Path(PROFILE).is_file()

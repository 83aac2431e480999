"""Chips and machines: each loads, and a bad machine file is named with file, line and key."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fullmesh.catalog import load_facts
from fullmesh.errors import CatalogError
from fullmesh.machine import Machine, list_chips, list_machines, load_chip, load_machine
from fullmesh.machine.describe import describe
from fullmesh.machine.load import load_machine_record
from fullmesh.machine.names import MACHINES_DIR, machine_aliases
from fullmesh.machine.software import load_software

CHIPS = {
    "a100-40",
    "a100-80",
    "h100-sxm",
    "h100-96-hbm2e",
    "h100-94",
    "h800",
    "h200",
    "b200",
    "b300",
    "gb200",
    "gb300",
    "ascend-910a",
    "ascend-910b2",
    "ascend-910b3",
    "ascend-910b4",
    "ascend-910c",
    "ascend-910c-560t",
    "ascend-950pr",
    "ascend-950dt",
    "rubin",
}
MACHINES = {
    "dgx-a100",
    "dgx-a100-40",
    "dgx-h100",
    "h100-94-cluster",
    "h100-96-cluster",
    "h800-cluster",
    "dgx-h200",
    "dgx-b200",
    "dgx-b300",
    "gb200-nvl72",
    "gb300-nvl72",
    "atlas-910a-pod",
    "atlas-800t-a2",
    "atlas-900-a2-podc",
    "atlas-350",
    "atlas-950-superpod",
    "vera-rubin-nvl72",
    "cloudmatrix384",
}

USER_FILE = """\
id = "my-cluster"
name = "My cluster"
software = "megatron-core"
source = "our own data sheet"

[chip]
id = "my-chip"
name = "My chip"
vendor = "nobody"
family = "H100"
arch = "sm90"
basis = "gpu"
operator_profile = "h100"
source = "our own data sheet"
vector_fp32 = "60 TFLOP/s"
hbm_capacity = "96 GB"
hbm_bandwidth = "4 TB/s"
num_cores = 132
power = "650 W"

[chip.matrix]
bf16 = "1 PFLOP/s"
fp8 = "2 PFLOP/s"

[size]
default_devices = 64
devices_per_node = 8
devices_per_unit = 8
unit_name = "node"

[[tier]]
name = "nvlink"
kind = "switch"
num_devices = 8
bandwidth = "fact:h200/nvlink_bandwidth"
latency = "fact:nvlink4/latency"

[[tier]]
name = "ethernet"
kind = "rail"
num_devices = "all"
bandwidth = "400 Gb/s"
latency = "4 us"
source = "our network team"

[power]
unit = "9 kW"
covers = "node"
source = "our own meter"
"""


def test_the_catalog_is_complete() -> None:
    assert set(list_chips()) == CHIPS
    assert set(list_machines()) == MACHINES


@pytest.mark.parametrize("chip_id", sorted(CHIPS))
def test_each_chip_is_sane(chip_id: str) -> None:
    chip = load_chip(chip_id)
    assert chip.id == chip_id
    peaks = chip.matrix_flop_per_s
    assert peaks["fp16"] > chip.vector_flop_per_s > 1e12
    assert 25e9 < chip.hbm_bytes < 400e9
    assert 1e12 < chip.hbm_bytes_per_s < 25e12
    assert 20 <= chip.num_cores <= 240
    # of Rubin the narrow types alone were announced
    if "fp8" in peaks and chip_id != "rubin":
        assert peaks["fp8"] == pytest.approx(2 * peaks["bf16"], rel=1e-2)
    assert chip == pickle.loads(pickle.dumps(chip))


def test_basis_and_dtypes() -> None:
    die = load_chip("ascend-910c")
    assert die.basis == "die"
    assert die.matrix_flop_per_s["bf16"] == pytest.approx(353.9e12)
    assert not {"fp8", "nvfp4"} & set(die.matrix_flop_per_s)
    assert "bf16" not in load_chip("ascend-910a").matrix_flop_per_s
    assert "nvfp4" not in load_chip("h200").matrix_flop_per_s
    assert load_chip("gb200").matrix_flop_per_s["bf16"] == 2500e12
    assert {load_chip(c).family for c in CHIPS} == {
        "A100",
        "H100",
        "B200",
        "GB200",
        "Ascend 910A",
        "Ascend 910B",
        "Rubin",
        "Ascend 910C",
        "Ascend 950",
    }


@pytest.mark.parametrize("name", sorted(MACHINES))
def test_each_machine_loads(name: str) -> None:
    record = load_machine_record(name)
    machine = record.machine
    assert machine.num_devices % machine.devices_per_node == 0
    assert machine.tiers[-1].num_devices == machine.num_devices
    assert machine.tiers[-1].kind == "rail"
    sizes = [t.num_devices for t in machine.tiers]
    assert sizes == sorted(sizes)
    for inner, outer in zip(machine.tiers, machine.tiers[1:], strict=False):
        assert inner.latency_s <= outer.latency_s
        assert inner.bytes_per_s >= outer.bytes_per_s
    assert machine.software
    # A shipped machine states no figure of its own: each one is a fact row.
    assert record.quantities
    assert all(q.fact is not None and q.source for q in record.quantities)
    assert (machine.unit_power_w is None) == (machine.power_basis == "not published")


def test_aliases_lead_to_the_machine() -> None:
    for alias, machine_id in [
        ("h200", "dgx-h200"),
        ("H100", "dgx-h100"),
        ("a100", "dgx-a100"),
        ("b200", "dgx-b200"),
        ("h800", "h800-cluster"),
        ("cm384", "cloudmatrix384"),
        ("atlas-900-a3-superpod", "cloudmatrix384"),
        ("nvl72", "gb200-nvl72"),
    ]:
        assert load_machine(alias).id == machine_id
    assert set(machine_aliases().values()) == MACHINES


def test_cloudmatrix_is_wired_as_published() -> None:
    machine = load_machine("cloudmatrix384")
    assert (machine.num_devices, machine.num_packages, machine.num_units) == (768, 384, 1.0)
    assert machine.racks_per_unit == 16
    assert machine.scale_up_devices == 768
    assert machine.num_devices * machine.chip.matrix_flop_per_s["bf16"] == pytest.approx(272e15, rel=2e-3)
    assert machine.unit_published_flop_per_s == pytest.approx(300e15)
    supernode = machine.tiers[2]
    assert machine.num_devices * supernode.bytes_per_s == pytest.approx(150.5e12, rel=1e-3)
    assert [t.kind for t in machine.tiers] == ["package", "switch", "switch", "rail"]
    two = load_machine("cloudmatrix384", num_devices=1536)
    assert [t.num_devices for t in two.tiers] == [2, 16, 768, 1536]
    assert two.scale_up_devices == 768


def test_nvl72_and_several_racks() -> None:
    rack = load_machine("gb200-nvl72")
    assert rack.num_devices * rack.chip.matrix_flop_per_s["bf16"] == pytest.approx(180e15)
    assert rack.scale_up_devices == 72
    assert load_machine("gb200-nvl72", num_devices=576).num_units == 8
    assert load_machine("gb300-nvl72").tiers[-1].bytes_per_s == 100e9


def test_the_h800_has_the_narrow_link_and_an_a2_node_a_mesh() -> None:
    assert load_machine("h800").tiers[0].bytes_per_s == 200e9
    mesh = load_machine("atlas-800t-a2").tiers[0]
    assert (mesh.kind, mesh.num_devices, mesh.bytes_per_s) == ("mesh", 8, 196e9)
    assert not load_machine("a100").tiers[0].in_network_reduction
    assert load_machine("h100").tiers[0].in_network_reduction
    assert load_machine("a100").tiers[-1].bytes_per_s == 25e9


def test_the_bin_of_an_a2_machine_is_an_assumption_with_alternatives() -> None:
    assert load_machine("atlas-900-a2-podc").chip.id == "ascend-910b2"
    assert load_machine("atlas-800t-a2").chip.id == "ascend-910b3"
    other = load_machine("atlas-900-a2-podc", chip="ascend-910b3")
    assert other.chip.matrix_flop_per_s["bf16"] == pytest.approx(294.9e12)
    with pytest.raises(CatalogError, match="cannot hold the chip 'h200'"):
        load_machine("atlas-900-a2-podc", chip="h200")


@pytest.mark.parametrize("name", ["atlas-800t-a2", "atlas-900-a2-podc"])
def test_the_assumed_bin_is_a_fact_row_with_its_alternative(name: str) -> None:
    facts = load_facts()
    assumed = facts.used(name, "chip_matrix_bf16")
    assert assumed.kind == "assumed"
    assert load_machine(name).chip.matrix_flop_per_s["bf16"] == assumed.si_value
    loadable = {load_chip(c).matrix_flop_per_s["bf16"] for c in load_machine_record(name).chip_alternatives}
    assert {f.si_value for f in facts.alternatives(assumed)} <= loadable


def test_a_published_total_belongs_to_the_published_chip() -> None:
    assert load_machine("cloudmatrix384", chip="ascend-910c-560t").unit_published_flop_per_s is None


def test_an_unknown_machine_or_chip_is_an_error_with_a_hint() -> None:
    with pytest.raises(CatalogError, match="did you mean cloudmatrix384"):
        load_machine("cloudmatrix348")
    with pytest.raises(CatalogError, match="did you mean h200"):
        load_chip("h2000")


@pytest.mark.parametrize("name", ["h20", "H20", "nvidia-h20", "H20-96GB"])
def test_a_chip_without_sourced_facts_says_so_and_how_to_describe_it(name: str) -> None:
    for load in (load_machine, load_chip):
        with pytest.raises(CatalogError, match="no facts of NVIDIA H20 are shipped") as caught:
            load(name)
        assert "machine file of your own" in caught.value.hint
    assert not any("h20" in (item, item.split("-")[0]) for item in load_facts().items)


@pytest.mark.parametrize(
    ("name", "num_devices", "nearest"),
    [
        ("cm384", 3, "2 and 4"),
        ("cm384", 24, "16 and 32"),
        ("cm384", 0, "2"),
        ("cm384", -16, "2"),
        ("h200", 12, "8 and 16"),
        ("gb200-nvl72", 70, "68 and 72"),
        ("atlas-910a-pod", 4096, "2048"),
    ],
)
def test_a_size_that_makes_no_sense_names_the_nearest(name: str, num_devices: int, nearest: str) -> None:
    with pytest.raises(CatalogError, match=f"nearest sizes are {nearest}$"):
        load_machine(name, num_devices=num_devices)


@given(nodes=st.integers(1, 200), name=st.sampled_from(sorted(MACHINES)))
def test_any_number_of_nodes_is_a_machine_and_equals_a_resized_one(nodes: int, name: str) -> None:
    base = load_machine(name)
    machine = load_machine(name, num_devices=nodes * base.devices_per_node)
    assert machine == base.resized(machine.num_devices)
    assert all(t.num_devices <= machine.num_devices for t in machine.tiers)
    assert machine == machine.resized(base.devices_per_node).resized(machine.num_devices)


@given(devices=st.integers(1, 8))
def test_a_part_of_a_node(devices: int) -> None:
    machine = load_machine("h200", num_devices=devices)
    assert [t.num_devices for t in machine.tiers] == [devices, devices]


def user_machine(tmp_path: Path, text: str) -> Machine:
    path = tmp_path / "mine.toml"
    path.write_text(text)
    return load_machine(str(path))


def test_a_users_machine_is_one_file(tmp_path: Path) -> None:
    machine = user_machine(tmp_path, USER_FILE)
    assert (machine.num_devices, machine.unit_power_w) == (64, 9000)
    assert machine.chip.hbm_bytes == 96e9
    assert machine.chip.matrix_flop_per_s == {"bf16": 1e15, "fp8": 2e15}
    assert machine.tiers[0].bytes_per_s == 450e9
    assert machine.tiers[1].bytes_per_s == 50e9
    assert machine.power_basis == "node (our own meter)"
    record = load_machine_record(str(tmp_path / "mine.toml"))
    assert {q.source for q in record.quantities if q.label.startswith("chip")} == {"our own data sheet"}


def test_a_users_machine_may_hold_a_chip_of_the_catalog() -> None:
    assert load_machine(str(MACHINES_DIR / "dgx-h200.toml")) == load_machine("h200")


@pytest.mark.parametrize(
    ("old", "new", "message", "line"),
    [
        ("unit_name =", "unit_nmae =", "did you mean unit_name", 29),
        ('unit_name = "node"\n', "", "key 'unit_name' is missing", 25),
        ("num_cores = 132", 'num_cores = "many"', "a number", 18),
        ("num_cores = 132", "num_cores = -1", "from 1 to 10,000,000", 18),
        ("num_cores = 132", "num_cores = 132.0", "a whole number", 18),
        ('hbm_bandwidth = "4 TB/s"', 'hbm_bandwidth = "4 TB"', "a quantity of bytes_per_s", 17),
        ('hbm_bandwidth = "4 TB/s"', 'hbm_bandwidth = "4 TBps"', "unknown unit 'TBps'", 17),
        ('hbm_bandwidth = "4 TB/s"', 'hbm_bandwidth = "-4 TB/s"', "a positive quantity", 17),
        ('hbm_bandwidth = "4 TB/s"', 'hbm_bandwidth = "fast"', "cannot read the quantity", 17),
        ('hbm_bandwidth = "4 TB/s"\n', "", "key 'hbm_bandwidth' is missing", 6),
        ('fp8 = "2 PFLOP/s"', 'fp9 = "2 PFLOP/s"', "one of bf16, fp16, fp8", 23),
        ('kind = "rail"', 'kind = "rails"', "did you mean rail", 40),
        ('source = "our network team"\n', "", "has no source", 42),
        ("fact:h200/nvlink_bandwidth", "fact:h200/nvlink_bandwith", "did you mean h200/nvlink_bandwidth", 35),
        ("fact:h200/nvlink_bandwidth", "fact:h200/power", "a quantity of bytes_per_s", 35),
        ("fact:h200/nvlink_bandwidth", "chip:nvlink_bandwidth", "no fact my-chip/nvlink_bandwidth", 35),
        ('operator_profile = "h100"', 'operator_profile = "h1000"', "did you mean h100", 13),
        ('num_devices = "all"', "num_devices = 64", '"all" in the last tier', 41),
        ("num_devices = 8\n", 'num_devices = "all"\n', '"all" in the last tier', 34),
        ("devices_per_unit = 8", "devices_per_unit = 12", "12 is not a multiple of 8", 28),
        ('id = "my-cluster"', "id = my-cluster", "not a TOML file", 1),
        ('basis = "gpu"', 'basis = "rack"', "one of gpu, npu, die", 12),
    ],
)
def test_a_bad_machine_file_is_named_with_file_line_and_key(
    tmp_path: Path, old: str, new: str, message: str, line: int
) -> None:
    assert USER_FILE.count(old) == 1
    with pytest.raises(CatalogError) as caught:
        user_machine(tmp_path, USER_FILE.replace(old, new))
    assert message in str(caught.value)
    assert f"mine.toml:{line}" in str(caught.value)


def test_an_unknown_chip_in_a_machine_file(tmp_path: Path) -> None:
    text = (MACHINES_DIR / "dgx-h200.toml").read_text().replace('chip = "h200"', 'chip = "h2000"')
    with pytest.raises(CatalogError, match=r"mine\.toml:4: chip: unknown chip 'h2000'"):
        user_machine(tmp_path, text)


def test_a_default_size_that_is_not_a_size(tmp_path: Path) -> None:
    with pytest.raises(CatalogError, match="cannot have 65 devices"):
        user_machine(tmp_path, USER_FILE.replace("default_devices = 64", "default_devices = 65"))


def test_a_machine_file_that_is_not_there_or_not_text(tmp_path: Path) -> None:
    with pytest.raises(CatalogError, match="cannot read the machine file"):
        load_machine(str(tmp_path / "none.toml"))
    path = tmp_path / "binary.toml"
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(CatalogError, match="not UTF-8"):
        load_machine(str(path))


@pytest.mark.parametrize(
    ("name", "machine", "chip"),
    [
        ("910B3", "atlas-800t-a2", "ascend-910b3"),
        ("ascend-910b4", "atlas-800t-a2", "ascend-910b4"),
        ("910b2", "atlas-900-a2-podc", "ascend-910b2"),
        ("910c-560t", "cloudmatrix384", "ascend-910c-560t"),
        ("h100-sxm", "dgx-h100", "h100-sxm"),
        # a machine's name goes before a chip's
        ("910b", "atlas-900-a2-podc", "ascend-910b2"),
        ("h200", "dgx-h200", "h200"),
    ],
)
def test_the_name_of_a_chip_means_its_machine(name: str, machine: str, chip: str) -> None:
    found = load_machine(name)
    assert (found.id, found.chip.id) == (machine, chip)
    assert describe(name).chip == found.chip


def test_every_machine_names_an_entry_of_the_software() -> None:
    for name in list_machines():
        machine = load_machine(name)
        assert machine.software in load_software()
        assert not machine.borrowed
        assert machine.chip.family in load_software()[machine.software].families


def test_a_file_without_software_takes_that_of_its_chips_family_and_says_so(tmp_path: Path) -> None:
    line = 'software = "megatron-core"\n'
    machine = user_machine(tmp_path, USER_FILE.replace(line, ""))
    assert machine.software == "nemo"
    assert [str(b) for b in machine.borrowed] == ["software (nemo) taken from machines with H100 chips"]
    other = USER_FILE.replace(line, "").replace('family = "H100"', 'family = "X1"')
    assert "no other machine" in str(user_machine(tmp_path, other).borrowed[0])
    assert user_machine(tmp_path, other).software == "megatron-core"
    assert not user_machine(tmp_path, USER_FILE).borrowed
    with pytest.raises(CatalogError, match=r"mine\.toml:3: software: unknown software 'nemoo'") as caught:
        user_machine(tmp_path, USER_FILE.replace(line, 'software = "nemoo"\n'))
    assert all(name in str(caught.value) for name in load_software())


def test_announced_hardware_is_marked_and_shipped_hardware_is_not() -> None:
    assert load_machine("atlas-950-superpod").announced
    assert load_chip("ascend-950dt").announced
    assert [m for m in list_machines() if load_machine(m).announced] == [
        "atlas-950-superpod",
        "vera-rubin-nvl72",
    ]
    card, facts = load_chip("ascend-950pr"), load_facts()
    for parameter, value in (("matrix_fp8", card.matrix_flop_per_s["fp8"]), ("hbm_capacity", card.hbm_bytes)):
        (announced,) = facts.alternatives(facts.used("ascend-950pr", parameter))
        assert announced.kind == "announced"
        assert value < announced.si_value


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('measured = "nvlink4"', 'measured = "nvlink44"', "no fact is about 'nvlink44'"),
        ("links_per_plane = [5, 4, 4, 5]", "links_per_plane = [0]", "from 1 to"),
        ('tiers = ["nvlink"]', 'tiers = ["nvlink", "infiniband"]', "other kinds or bandwidths"),
    ],
)
def test_a_bad_wiring_is_refused_by_every_command(tmp_path: Path, old: str, new: str, message: str) -> None:
    text = (MACHINES_DIR / "dgx-h200.toml").read_text()
    assert text.count(old) == 1
    with pytest.raises(CatalogError, match=message):
        user_machine(tmp_path, text.replace(old, new))


def test_no_wiring_states_a_figure_of_its_own() -> None:
    """Figures are facts and stand at tiers; a wiring adds counts and names."""
    for name in list_machines():
        for quantity in load_machine_record(name).quantities:
            assert quantity.fact is not None
    for wiring in load_machine("cloudmatrix384").wirings:
        assert wiring.source

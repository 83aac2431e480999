"""Fact files: what they hold closes, and a bad row is named with file and line."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fullmesh.catalog import FactBook, load_facts, load_parameters, read_facts
from fullmesh.catalog.facts import COLUMNS, FACTS_DIR
from fullmesh.errors import CatalogError
from fullmesh.units import UNITS, parse_quantity, si_prefix, to_si

GOOD = {
    "item": "chip-x",
    "parameter": "hbm_bandwidth",
    "value": "3.35",
    "unit": "TB/s",
    "basis": "per GPU",
    "direction": "-",
    "kind": "datasheet",
    "source": "a test",
    "date": "2026-11",
    "status": "used",
    "note": "",
}


def write(path: Path, *rows: dict[str, str], columns: tuple[str, ...] = COLUMNS) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return path


def test_a_good_row_is_read_in_si_units(tmp_path: Path) -> None:
    (fact,) = read_facts(write(tmp_path / "f.csv", GOOD))
    assert fact.si_value == pytest.approx(3.35e12)
    assert (fact.dimension, fact.key, fact.line) == ("bytes_per_s", "chip-x/hbm_bandwidth", 2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"parameter": "hbm_bandwith"}, "did you mean hbm_bandwidth"),
        ({"unit": "TBps"}, "unknown unit"),
        ({"unit": "TB"}, "a unit of bytes_per_s"),
        ({"unit": ""}, "column 'unit' is empty"),
        ({"source": ""}, "column 'source' is empty"),
        ({"basis": " "}, "column 'basis' is empty"),
        ({"date": ""}, "column 'date' is empty"),
        ({"value": "three"}, "not a number"),
        ({"value": "-3.35"}, "positive"),
        ({"value": "0"}, "positive"),
        ({"value": "nan"}, "positive"),
        ({"value": "inf"}, "positive"),
        ({"kind": "guess"}, "one of datasheet, measured, derived, assumed, announced"),
        ({"direction": "up"}, "one of one-way, both, -"),
        ({"status": "maybe"}, "one of used, alternative, rejected"),
    ],
)
def test_a_bad_field_is_an_error_with_file_and_line(
    tmp_path: Path, change: dict[str, str], message: str
) -> None:
    path = write(tmp_path / "f.csv", {**GOOD, "item": "other"}, GOOD | change)
    with pytest.raises(CatalogError) as caught:
        read_facts(path)
    assert message in str(caught.value)
    assert f"{path}:3" in str(caught.value)


def test_unknown_missing_and_doubled_columns(tmp_path: Path) -> None:
    with pytest.raises(CatalogError, match="unknown column 'colour'"):
        read_facts(write(tmp_path / "a.csv", columns=(*COLUMNS, "colour")))
    with pytest.raises(CatalogError, match="column 'kind' is missing"):
        read_facts(write(tmp_path / "b.csv", columns=tuple(c for c in COLUMNS if c != "kind")))
    with pytest.raises(CatalogError, match="stands twice"):
        read_facts(write(tmp_path / "c.csv", columns=(*COLUMNS, "kind")))


def test_a_row_with_too_many_fields(tmp_path: Path) -> None:
    path = tmp_path / "f.csv"
    path.write_text(",".join(COLUMNS) + "\n" + ",".join([*GOOD.values(), "x"]) + "\n")
    with pytest.raises(CatalogError, match="the row has 12 fields"):
        read_facts(path)


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", b"", b'item,"broken\n'])
def test_files_that_are_no_fact_files(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "f.csv"
    path.write_bytes(content)
    with pytest.raises(CatalogError, match=r"f\.csv"):
        read_facts(path)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(CatalogError, match="cannot read"):
        read_facts(tmp_path / "none.csv")


def test_two_used_rows_are_an_error_and_an_alternative_is_not(tmp_path: Path) -> None:
    second = GOOD | {"value": "3.0", "source": "another"}
    with pytest.raises(CatalogError, match="second row marked used"):
        FactBook(read_facts(write(tmp_path / "a.csv", GOOD, second)))
    book = FactBook(read_facts(write(tmp_path / "b.csv", GOOD, second | {"status": "alternative"})))
    fact = book.used("chip-x", "hbm_bandwidth")
    assert fact.value == 3.35
    assert [f.value for f in book.alternatives(fact)] == [3.0]
    assert len(book.conflicts()) == 2


def test_a_repeated_row_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CatalogError, match="repeats a row"):
        FactBook(read_facts(write(tmp_path / "a.csv", GOOD, GOOD | {"status": "rejected"})))


def test_a_missing_fact_names_the_closest() -> None:
    with pytest.raises(CatalogError, match="did you mean h200/hbm_bandwidth"):
        load_facts().used("h200", "hbm_bandwith")


def test_every_shipped_row_has_source_basis_and_date() -> None:
    facts = load_facts()
    assert len(facts) > 400
    for fact in facts:
        assert fact.source
        assert fact.basis
        assert fact.date[:2] == "20"
        assert "/work" not in fact.source + fact.note


def test_recalled_figures_say_so() -> None:
    for fact in load_facts():
        if "recalled" in fact.source:
            assert fact.kind == "assumed", fact.key
            assert "not verified" in fact.note, fact.key


def test_links_state_their_direction_and_nothing_else_does() -> None:
    one_way = {"bytes_per_s", "s"}
    for fact in load_facts():
        if fact.direction != "-":
            assert fact.dimension in one_way, fact.key
        elif fact.parameter.endswith("bandwidth"):
            assert fact.parameter in ("hbm_bandwidth", "system_hbm_bandwidth"), fact.key


def test_every_alternative_stands_beside_a_used_row_or_a_rejected_one() -> None:
    facts = load_facts()
    lonely = {f.key for f in facts if f.status != "used" and facts.find(f.item, f.parameter) is None}
    # No source publishes the load power of these chips: what there is was rejected or is a guess.
    assert lonely == {
        "ascend-910b2/power",
        "ascend-910b3/power",
        "ascend-910b4/power",
        "ascend-910c-package/power",
    }


def test_published_conflicts_are_recorded() -> None:
    facts = load_facts()
    for item, parameter, value in [
        ("ascend-910c", "ub_bandwidth", 784e9),
        ("ascend-910c", "ub_bandwidth", 350e9),
        ("ascend-910c", "sio_bandwidth", 270e9),
        ("ascend-910c", "sio_bandwidth", 210e9),
        ("ascend-910c-package", "matrix_bf16", 780e12),
        ("ascend-910c-package", "matrix_int8", 1054e12),
        ("cloudmatrix384", "unit_power", 600e3),
        ("cloudmatrix384", "rdma_bandwidth", 9.6e12),
        ("ub-supernode", "latency", 5.5e-6),
        ("b200", "hbm_bandwidth", 7.7e12),
    ]:
        values = [f.si_value for f in facts.rows(item, parameter) if f.status != "used"]
        assert any(v == pytest.approx(value) for v in values), (item, parameter)


def test_sums_close() -> None:
    def si(item: str, parameter: str) -> float:
        return load_facts().used(item, parameter).si_value

    c = "cloudmatrix384"
    assert si(c, "num_packages") * si("ascend-910c-package", "num_dies") == si(c, "num_dies") == 768
    assert si(c, "num_nodes") * 8 == si(c, "num_packages")
    assert si(c, "num_l1_switches") == si(c, "num_nodes") * si(c, "num_planes")
    assert si(c, "num_l1_l2_links") == si(c, "num_planes") * 16 * 48 == 5376
    assert si(c, "num_l1_l2_links") * si("ub", "link_bandwidth") == pytest.approx(150.5e12, rel=1e-3)
    assert si(c, "num_packages") * si("ascend-910c-package", "ub_bandwidth") == pytest.approx(
        si(c, "system_scale_up_bandwidth"), rel=1e-3
    )
    assert si(c, "num_planes") * si("ub", "link_bandwidth") == si("ascend-910c", "ub_bandwidth")
    assert 768 * si("ascend-910c", "matrix_bf16") == pytest.approx(272e15, rel=2e-3)
    assert si(c, "num_packages") * 400e9 / 8 == pytest.approx(si(c, "rdma_bandwidth"))
    assert si("gb200-nvl72", "num_gpus") * si("gb200", "matrix_bf16") == pytest.approx(180e15)
    assert si("gb200-nvl72", "num_gpus") * si("gb200", "matrix_bf16") == si(
        "gb200-nvl72", "system_matrix_bf16"
    )
    assert 7 * si("hccs", "link_bandwidth") == si("ascend-910b2", "hccs_bandwidth")


@pytest.mark.parametrize(
    "chip", ["ascend-910b2", "ascend-910b3", "ascend-910b4", "ascend-910c", "ascend-910c-560t"]
)
def test_the_cube_peak_follows_from_cores_and_clock(chip: str) -> None:
    facts = load_facts()
    cores, clock = facts.used(chip, "num_cores").si_value, facts.used(chip, "clock").si_value
    assert cores * clock * 4096 * 2 == pytest.approx(facts.used(chip, "matrix_bf16").si_value, rel=2e-3)


def test_each_parameter_is_described_and_used() -> None:
    used = {f.parameter for f in load_facts()}
    assert used == set(load_parameters())
    dimensions = {dimension for dimension, _ in UNITS.values()}
    for parameter in load_parameters().values():
        assert parameter.dimension in dimensions
        assert parameter.meaning


def test_fact_files_are_unix_text() -> None:
    for path in FACTS_DIR.iterdir():
        assert b"\r" not in path.read_bytes(), path.name


units = st.sampled_from(sorted(u for u in UNITS if u))
numbers = st.floats(min_value=1e-6, max_value=1e9)


@given(value=numbers, unit=units)
def test_units_are_linear_and_a_quantity_reads_back(value: float, unit: str) -> None:
    si, dimension = to_si(value, unit)
    assert si == pytest.approx(value * UNITS[unit][1])
    assert to_si(2 * value, unit)[0] == pytest.approx(2 * si)
    assert parse_quantity(f"{value!r} {unit}", dimension) == pytest.approx(si)


@given(value=st.floats(min_value=1.0, max_value=1e20))
def test_a_printed_quantity_reads_back(value: float) -> None:
    assert parse_quantity(si_prefix(value, "B/s", 6), "bytes_per_s") == pytest.approx(value, rel=1e-5)


@given(unit=st.text(min_size=1, max_size=8).filter(lambda u: u not in UNITS))
def test_an_unknown_unit_is_an_error(unit: str) -> None:
    with pytest.raises(CatalogError):
        to_si(1.0, unit)

"""The command: exact JSON keys, before and after, drawings, and clear errors."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
from click.testing import CliRunner

from fullmesh.errors import FullmeshError
from fullmesh.faces.cli import main as entry
from fullmesh.faces.cli.main import cli
from fullmesh.machine import load_machine
from fullmesh.machine.names import MACHINES_DIR

SUMMARY = {"devices", "switches", "links", "all_to_all"}


def run(*arguments: str) -> str:
    result = CliRunner().invoke(cli, ["fabric", *arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_json_has_exactly_the_promised_keys() -> None:
    data = json.loads(run("cloudmatrix384", "--json"))
    assert set(data) == {*SUMMARY, "timing"}
    assert set(data["timing"]) == {"all_to_all.solve_s"}
    assert set(json.loads(run("cloudmatrix384", "--json", "--no-timing"))) == SUMMARY
    assert data["devices"] == 768
    assert data["switches"]["l1"] == 336
    assert data["links"]["l1-l2"] == {"count": 5376, "bytes_per_s": 28e9}
    assert set(data["all_to_all"]) == {"bytes_per_s_per_device", "seconds"}
    assert data["all_to_all"]["bytes_per_s_per_device"] == pytest.approx(196e9, rel=0.002)


@pytest.mark.parametrize(
    ("policy", "fail", "change"),
    [
        ("static", "l2=1", -0.045),
        ("resplit", "l2=1", -0.0088),
        ("resplit", "l1=1", -1 / 7),
        ("resplit", "plane=1", -1 / 7),
    ],
)
def test_fail_gives_before_and_after(policy: str, fail: str, change: float) -> None:
    data = json.loads(run("cloudmatrix384", "--fail", fail, "--policy", policy, "--json"))
    assert set(data) == {"before", "after", "timing"}
    assert set(data["before"]) == set(data["after"]) == SUMMARY
    rates = [data[k]["all_to_all"]["bytes_per_s_per_device"] for k in ("before", "after")]
    assert rates[1] / rates[0] - 1 == pytest.approx(change, abs=5e-5)
    assert data["before"]["switches"]["l2"] == 112


def test_a_cut_job_is_a_result() -> None:
    data = json.loads(run("cloudmatrix384", "--fail", "plane=1", "--policy", "static", "--json"))
    assert data["after"]["all_to_all"]["seconds"] is None
    assert data["after"]["all_to_all"]["bytes_per_s_per_device"] == 0
    assert "no path" in run("cloudmatrix384", "--fail", "plane=1", "--policy", "static")


def test_scale_gives_before_and_after() -> None:
    data = json.loads(run("gb200-nvl72", "--scale", "2", "--json"))
    assert (data["before"]["devices"], data["after"]["devices"]) == (72, 144)
    assert data["after"]["switches"]["nvswitch"] == 36


def test_tables_show_the_failure_table_and_tiers() -> None:
    text = run("cloudmatrix384", "--failures")
    for part in (
        "l2=1",
        "-4.50 %",
        "-0.88 %",
        "links=1%",
        "plane=1",
        "-14.29 %",
        "ub-supernode",
        "no path",
        "2.1 us",
    ):
        assert part in text, part


def test_collectives_stand_beside_measured_points() -> None:
    text = run(
        "dgx-h200",
        "--devices",
        "8",
        "--collectives",
        "--kinds",
        "all_reduce",
        "--sizes",
        "1 MiB,2 MiB,256 MiB",
    )
    assert "ring" in text
    assert "nvls" in text
    rows = json.loads(
        run(
            "dgx-h200",
            "--devices",
            "8",
            "--collectives",
            "--kinds",
            "all_reduce",
            "--sizes",
            "256 MiB",
            "--json",
        )
    )["collectives"]
    (row,) = [r for r in rows if r["size"] == 8]
    assert row["measured_s"] == pytest.approx(1.05e-3, rel=0.05)
    assert row["table_s"] == pytest.approx(row["measured_s"], rel=0.08)
    assert row["graph_s"] == pytest.approx(row["measured_s"], rel=0.15)


def test_measured_points_are_listed_one_by_one() -> None:
    text = run("cloudmatrix384", "--measured")
    assert "hccl" in text
    assert "median error" in text


def test_placements_are_compared() -> None:
    rows = json.loads(run("dgx-h200", "--devices", "64", "--placements", "tp=8,dp=8", "--json"))["placements"]
    time = {(r["order"], r["axis"]): r["seconds"] for r in rows}
    assert time["dp,tp", "tp"] > 2 * time["tp,dp", "tp"]


@pytest.mark.parametrize(
    "machine", ["cloudmatrix384", "gb200-nvl72", "dgx-h200", "atlas-800t-a2", "fat-tree-16"]
)
def test_drawing_is_whole_and_readable(machine: str, tmp_path: Path) -> None:
    path = tmp_path / "fabric.svg"
    run(machine, "--svg", str(path))
    root = ElementTree.fromstring(path.read_text(encoding="utf-8"))
    boxes = root.findall("{http://www.w3.org/2000/svg}rect")
    labels = [t.text or "" for t in root.iter("{http://www.w3.org/2000/svg}text")]
    assert len(boxes) > 70
    width = float(root.attrib["width"])
    for box in boxes[1:]:
        assert 0 <= float(box.attrib["x"]) <= width
    if machine == "cloudmatrix384":
        assert len(boxes) >= 1 + 48 + 768 + 336 + 112
        assert sum("plane" in text for text in labels) >= 7
        assert min(float(t.attrib["font-size"]) for t in root.iter("{http://www.w3.org/2000/svg}text")) >= 9
    assert not list(tmp_path.glob("*.tmp"))


def test_failures_are_drawn_in_red(tmp_path: Path) -> None:
    path = tmp_path / "fabric.svg"
    run("cloudmatrix384", "--fail", "l2=1", "--svg", str(path))
    assert path.read_text(encoding="utf-8").count('stroke="#e00000"') == 48


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["cloudmatrix38"], "unknown machine"),
        (["cloudmatrix384", "--fail", "l9=1"], "has no 'l9'"),
        (["cloudmatrix384", "--devices", "-4"], "not above zero"),
        (["cloudmatrix384", "--devices", "4", "--scale", "2"], "both --devices and --scale"),
        (["cloudmatrix384", "--bytes", "5 parsecs"], "unit"),
        (["cloudmatrix384", "--bytes", "0 GB"], "not above zero"),
        (["cloudmatrix384", "--collectives", "--kinds", "all_redcue"], "all_reduce"),
        (["cloudmatrix384", "--collectives", "--groups", "7"], "do not fill"),
        (["cloudmatrix384", "--collectives", "--groups", "x"], "group shape"),
        (["cloudmatrix384", "--collectives", "--algorithm", "rings"], "ring"),
        (["cloudmatrix384", "--placements", "tp=8"], "axes"),
        (["cloudmatrix384", "--svg", "/nowhere/x.svg"], "cannot write"),
        (["fat-tree-16", "--devices", "5000"], "holds"),
        (["cloudmatrix384", "--devices", "7"], "multiple of 2"),
    ],
)
def test_mistakes_are_errors_with_exit_code_2(
    arguments: list[str], part: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(FullmeshError, match=part):
        CliRunner().invoke(cli, ["fabric", *arguments], catch_exceptions=False)
    monkeypatch.setattr(sys, "argv", ["fullmesh", "fabric", *arguments])
    with pytest.raises(SystemExit) as stop:
        entry.main()
    assert stop.value.code == 2
    assert "error: " in capsys.readouterr().err


MINE = """\
id = "mine"
name = "Mine"
source = "mine"

[size]
default_devices = 64
devices_per_node = 8
devices_per_unit = 64
unit_name = "rack"

[[tier]]
name = "ub-mesh"
kind = "mesh"
num_devices = "all"
bandwidth = "392 GB/s"
latency = "1 us"
source = "mine"

[[wiring]]
tiers = ["ub-mesh"]
kind = "full-mesh"
sizes = [8, 8]
source = "mine"
"""


def test_a_users_fabric_works(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(MINE, encoding="utf-8")
    data = json.loads(run(str(path), "--fail", "link=1", "--json"))
    assert data["before"]["links"]["ub-mesh-0"] == {"count": 224, "bytes_per_s": 28e9}
    assert (
        data["after"]["all_to_all"]["bytes_per_s_per_device"]
        < data["before"]["all_to_all"]["bytes_per_s_per_device"]
    )


def test_a_users_machine_works_and_says_what_is_not_given(tmp_path: Path) -> None:
    """The file that `compare` takes is the file that `fabric` takes."""
    path = tmp_path / "lab.toml"
    text = (MACHINES_DIR / "dgx-h200.toml").read_text(encoding="utf-8")
    first = text.index("[[wiring]]")
    second = text.index("[[wiring]]", first + 1)
    path.write_text(
        text[:second].replace('id = "dgx-h200"', 'id = "lab"') + text[text.index("[power]") :],
        encoding="utf-8",
    )
    assert load_machine(str(path)).id == "lab"
    shown = CliRunner().invoke(cli, ["fabric", str(path), "--devices", "64"]).stderr
    assert (
        "infiniband: how this level is wired is not given: taken as one switch that does not block" in shown
    )
    assert "nvlink: how this level" not in shown
    assert json.loads(run(str(path), "--json"))["devices"] == 256

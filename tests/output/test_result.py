"""What results can do: short texts, data frames where a library is there, files that load again and print the same."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fullmesh
from fullmesh.errors import OutputError, ScenarioError
from fullmesh.faces.cli import compare_report, plan_report, replay_report, simulate_report, tables
from fullmesh.output.result import Result
from fullmesh.output.state import decode, encode, record_types

SCENARIO = """\
[model]
name = "MODEL"
[machine]
name = "h200"
chips = 8
[plan]
dp = 8
gbs = 8
"""


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Result]:
    path = tmp_path_factory.mktemp("scenario") / "s.toml"
    out: dict[str, Result] = {
        "Comparison": fullmesh.compare("deepseek-v3", "cloudmatrix384,gb200"),
        "SearchResult": fullmesh.best_plans("llama-3-8b", "h200", chips=16, batch=64, top=3),
    }
    for name, model in (("Estimate", "llama-3-8b"), ("Infeasible", "llama-3.1-405b")):
        path.write_text(SCENARIO.replace("MODEL", model), encoding="utf-8")
        out[name] = fullmesh.simulate(path)
    path.write_text(SCENARIO.replace("MODEL", "llama-3-8b"), encoding="utf-8")
    out["Replayed"] = fullmesh.replay(path, stragglers=["rank=3:1.2"], jitter="0.05")
    assert {n: type(r).__name__ for n, r in out.items()} == {n: n for n in out}
    return out


KINDS = ["Comparison", "SearchResult", "Estimate", "Infeasible", "Replayed"]


@pytest.mark.parametrize("kind", KINDS)
def test_repr_is_one_short_line(results: dict[str, Result], kind: str) -> None:
    text = repr(results[kind])
    assert text.startswith(f"<{kind}: ")
    assert len(text) < 400
    assert "\n" not in text


@pytest.mark.parametrize("kind", KINDS)
def test_html_is_escaped(results: dict[str, Result], kind: str) -> None:
    html = results[kind]._repr_html_()
    assert html.startswith("<table>")
    assert html.count("<tr>") == html.count("</tr>") >= 2
    assert len(html) < 20_000


def test_html_shows_names_as_text(results: dict[str, Result]) -> None:
    found = results["Infeasible"]
    assert isinstance(found, fullmesh.Infeasible)
    odd = dataclasses.replace(found, model=dataclasses.replace(found.model, name="<script>"))
    assert "<script>" not in odd._repr_html_()


def printed(result: Result) -> list[Any]:
    """Everything that a command prints of a result, as rich renders it."""
    if isinstance(result, fullmesh.Comparison):
        items = compare_report.report(result, "en")
    elif isinstance(result, fullmesh.SearchResult):
        items = plan_report.report(result, "en")
    elif isinstance(result, fullmesh.Estimate):
        items = simulate_report.report(result, "en")
    elif isinstance(result, fullmesh.Replayed):
        items = [
            *simulate_report.report(result.estimate, "en"),
            *replay_report.replay_report(result, (), (), "en"),
        ]
    else:
        assert isinstance(result, fullmesh.Infeasible)
        items = [simulate_report.infeasible_line(result, "en")]
    return items


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_saved_loads_and_prints_the_same(
    results: dict[str, Result], kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = results[kind]
    path = tmp_path / "result.json"
    result.save(path)
    again = getattr(fullmesh, kind).load(path)
    if not isinstance(result, fullmesh.Replayed):  # its columns are arrays, of which many are compared below
        assert again == result
    assert str(again) == str(result)
    assert again.to_dict() == result.to_dict() == json.loads(path.read_text("utf-8"))["figures"]
    tables.show(*printed(result))
    before = capsys.readouterr().out
    tables.show(*printed(again))
    assert capsys.readouterr().out == before
    # equal parts are written once: a model of sixty layers on several machines stays a small file
    assert path.stat().st_size < 3_000_000


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("{", "not JSON"),
        ("[1]", "no result"),
        ('{"kind": "Comparison"}', "Comparison"),
        ('{"kind": "Estimate", "state": {}}', "state"),
        ('{"kind": "Estimate", "state": {"objects": [{"type": "Popen", "fields": {}}], "root": 0}}', "Popen"),
        ('{"kind": "Estimate", "state": {"objects": [], "root": {"object": 0}}}', "0"),
        ('{"kind": "Estimate", "state": {"objects": [], "root": 1}}', "another record"),
        ('{"kind": "Estimate", "state": {"objects": [], "root": {"object": 0, "map": 1}}}', "state"),
        ('{"kind": "Estimate", "state": {"objects": [], "root": {"map": 1}}}', "state"),
    ],
)  # fmt: skip
def test_a_file_that_is_something_else_is_refused(text: str, word: str, tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ScenarioError, match=word) as caught:
        fullmesh.Estimate.load(path)
    assert str(path) in caught.value.where
    with pytest.raises(ScenarioError):
        fullmesh.Estimate.load(tmp_path / "none.json")


def test_state_keeps_what_is_no_number_and_shares_what_is_equal() -> None:
    from fullmesh.outcomes.intervals import Interval

    one = Interval(low_s=float("nan"), high_s=float("inf"), log_half_width=1.0, basis="b")
    state = json.loads(json.dumps(encode((one, one)), allow_nan=False))
    assert len(state["objects"]) == 1
    a, b = decode(state, record_types(Interval))
    assert a is b
    assert a.high_s == float("inf")
    assert a.low_s != a.low_s


def test_a_frame_is_of_the_library_that_is_there(
    results: dict[str, Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = results["Comparison"].to_rows()
    for name in ("polars", "pandas"):
        module = types.ModuleType(name)
        module.DataFrame = lambda data, name=name: (name, data)  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, name, module)
        if name == "polars":
            monkeypatch.setitem(sys.modules, "pandas", None)
        if name == "polars":
            with pytest.raises(ModuleNotFoundError):
                __import__("pandas")
        assert results["Comparison"].to_frame() == (name, rows)


def test_without_a_library_a_frame_is_a_named_error(
    results: dict[str, Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    monkeypatch.setitem(sys.modules, "polars", None)
    with pytest.raises(ScenarioError, match="pandas") as caught:
        results["Estimate"].to_frame()
    assert "pip install" in caught.value.hint


def test_names_are_listed() -> None:
    assert "deepseek-v3" in fullmesh.models()
    assert "cloudmatrix384" in fullmesh.machines()
    assert "h200" in fullmesh.chips()
    assert set(fullmesh.__all__) == set(dir(fullmesh))
    assert all(getattr(fullmesh, name) for name in fullmesh.__all__)


def test_importing_is_silent_and_imports_nothing_heavy() -> None:
    code = (
        "import sys, fullmesh; sys.exit(any(m in sys.modules for m in ('numpy', 'rich', 'click', 'scipy')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def test_a_replay_that_cannot_run_is_a_result_too(tmp_path: Path) -> None:
    scenario = tmp_path / "s.toml"
    text = SCENARIO.replace("MODEL", "llama-3-8b").replace(
        "dp = 8", "dp = 4\npp = 2\nschedule = 'zero-bubble'"
    )
    scenario.write_text(text.replace("gbs = 8", "gbs = 4"), encoding="utf-8")
    ran = fullmesh.replay(scenario)
    assert isinstance(ran, fullmesh.Replayed)
    (row,) = ran.to_rows()
    assert row["closed_form_step_s"] == ran.estimate.step_s
    assert row["step_s"] == ran.to_dict()["step_s"]
    none = dataclasses.replace(ran, simulation=None, reason="no such order")
    assert "cannot run: no such order" in str(none)
    assert none.to_rows()[0]["step_s"] is None
    assert none.to_dict()["replay"]["cannot_run"] == "no such order"
    none.save(tmp_path / "none.json")
    assert fullmesh.Replayed.load(tmp_path / "none.json").to_dict() == none.to_dict()


def test_what_the_replay_took_stands_apart(results: dict[str, Result]) -> None:
    record = results["Replayed"].to_dict()
    assert set(record["timing"]) == {"engine_s", "replay.build_s"}
    assert "engine_s" not in record


@pytest.mark.parametrize("kind", KINDS)
def test_no_result_is_saved_into_a_folder_that_is_missing(
    results: dict[str, Result], kind: str, tmp_path: Path
) -> None:
    with pytest.raises(OutputError, match="there is no folder"):
        results[kind].save(tmp_path / "none" / "result.json")
    with pytest.raises(OutputError, match="is a folder"):
        results[kind].save(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_arrays_load_again_and_damaged_ones_are_refused() -> None:
    values = np.arange(12, dtype=np.int16).reshape(3, 4)
    state = json.loads(json.dumps(encode((values, np.float64(1.5)))))
    again, number = decode(state, {})
    assert again.dtype == values.dtype
    assert np.array_equal(again, values)
    assert number == 1.5
    packed = state["root"][0]["array"]
    for change in (
        {"shape": [4, 4]}, {"shape": [-3, -4]}, {"shape": [10**12]}, {"dtype": "O"}, {"dtype": "|S9"}, {"zlib": "x"},
        {"zlib": "AAAA"}, {"shape": ["x"]},
    ):  # fmt: skip
        damaged = {"objects": [], "root": {"array": packed | change}}
        with pytest.raises(ValueError):  # noqa: PT011
            decode(damaged, {})


def test_no_package_has_the_name_of_a_public_function() -> None:
    # `import fullmesh.x` would put the package in the place of the function
    packages = {path.stem for path in Path(fullmesh.__file__).parent.iterdir()}
    assert not packages & set(fullmesh.__all__)
    code = (
        "import fullmesh, fullmesh.replays.replayed, fullmesh.study.compare\n"
        "assert all(callable(getattr(fullmesh, n)) for n in fullmesh.__all__ if n != '__version__')"
    )
    subprocess.run([sys.executable, "-c", code], check=True)

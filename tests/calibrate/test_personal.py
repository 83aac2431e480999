"""Personal profiles: a few runs of one's own move what the published results leave open, and nothing else breaks."""

from __future__ import annotations

import csv
import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from fullmesh.calibrate.effects.few_shot import few_shot
from fullmesh.calibrate.effects.personal import fit_own, update, write_personal
from fullmesh.cost.effects import load_effects
from fullmesh.cost.personal import is_personal, personal_profile, read_personal
from fullmesh.cost.uncertainty import load_uncertainty
from fullmesh.errors import CatalogError, ResultsError
from fullmesh.evidence.cases import case_table
from fullmesh.evidence.results import ResultRow, read_results
from fullmesh.outcomes.intervals import noise
from fullmesh.study.api import simulate

HEAD = "framework,machine,n_gpus,model,seq,precision,TP,PP,EP,mbs,gbs,recompute,step_s"
RUNS = (
    "our own fork,h200,64,llama-3-70b,8192,BF16,4,4,,1,256,none,",
    "our own fork,h200,256,llama-3-70b,8192,BF16,4,8,,1,512,none,",
    "our own fork,h200,64,llama-3-8b,8192,BF16,1,1,,1,256,none,",
    "our own fork,h200,128,llama-3-70b,8192,BF16,8,2,,1,256,none,",
    "our own fork,h200,512,llama-3.1-405b,8192,BF16,8,16,,1,512,full,",
)


def predicted(rows: list[ResultRow]) -> np.ndarray:
    table, refused = case_table(rows, own=True)
    assert table is not None, refused
    return table.step_times(load_effects()).step_s


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """Five runs of one cluster and stack that are 30 % slower than predicted, give or take 2 %."""
    path = tmp_path / "runs.csv"
    path.write_text("\n".join([HEAD, *(f"{run}1" for run in RUNS)]))
    rows = list(read_results(path))
    steps = predicted(rows) * 1.3 * np.array([1.02, 0.98, 1.01, 0.99, 1.0])
    path.write_text("\n".join([HEAD, *(f"{run}{s:.4f}" for run, s in zip(RUNS, steps, strict=True))]))
    return path


@pytest.mark.parametrize("given", [1, 3])
def test_a_few_runs_take_the_error_on_the_rest_to_a_third(runs: Path, given: int, tmp_path: Path) -> None:
    rows = list(read_results(runs))
    measured = np.array([r.step_s for r in rows])
    before = np.median(np.abs(predicted(rows) / measured - 1.0)[given:])
    write_personal(fit_own(rows[:given])[0], tmp_path / "mine.json")
    with personal_profile(tmp_path / "mine.json"):
        after = np.median(np.abs(predicted(rows) / measured - 1.0)[given:])
    assert before == pytest.approx(0.23, abs=0.02)
    assert after < before / 3.0
    # outside the block nothing has changed
    assert np.median(np.abs(predicted(rows) / measured - 1.0)[given:]) == before


def test_each_run_is_foretold_by_the_others(runs: Path) -> None:
    _, found = fit_own(read_results(runs))
    for run in found:
        assert abs(run.after_s / run.measured_s - 1.0) < 0.06
        assert abs(run.left_out_s / run.measured_s - 1.0) < 0.10 < abs(run.before_s / run.measured_s - 1.0)
    _, alone = fit_own(read_results(runs)[:1])
    assert np.isnan(alone[0].left_out_s)


def test_runs_that_agree_make_the_interval_narrower(runs: Path, tmp_path: Path) -> None:
    scenario = tmp_path / "s.toml"
    scenario.write_text(
        '[model]\nname = "llama-3-70b"\n[machine]\nname = "h200"\nchips = 128\n'
        '[plan]\ntp = 4\npp = 4\ngbs = 256\nseq = 8192\nstack = "unknown"\n'
    )
    profile = tmp_path / "mine.json"
    write_personal(fit_own(read_results(runs))[0], profile)
    before, after = simulate(scenario), simulate(scenario, profile=profile)
    assert after.interval.log_half_width < before.interval.log_half_width
    assert 1.1 < after.step_s / before.step_s < 1.5
    assert any("personal profile" in note for note in after.notes)
    assert not any("personal profile" in note for note in before.notes)


def test_the_update_is_that_of_a_dense_covariance(runs: Path) -> None:
    """One round of the update, for a linear model, is Kalman's; the compact covariance is the dense one."""
    u = load_uncertainty()
    assert u is not None
    dense = (
        np.diag(u.deviation)
        @ (np.eye(len(u.names)) - u.directions @ np.diag(u.strength / (1 + u.strength)) @ u.directions.T)
        @ np.diag(u.deviation)
    )
    g = np.random.default_rng(1).normal(size=(4, len(u.names)))
    assert u.times(g) == pytest.approx(dense @ g.T)
    assert u.variance(g) == pytest.approx(np.einsum("ij,jk,ik->i", g, dense, g))
    longer = u.extended({"all|stack=new": 0.5})
    more = np.concatenate([g, np.ones((4, 1))], axis=1)
    assert longer.variance(more) == pytest.approx(u.variance(g) + 0.25)
    root = np.linalg.cholesky(g @ dense @ g.T + 0.01 * np.eye(4))
    learned = dataclasses.replace(u, learned=np.linalg.solve(root, g @ dense).T)
    after = dense - dense @ g.T @ np.linalg.solve(g @ dense @ g.T + 0.01 * np.eye(4), g @ dense)
    assert learned.variance(g) == pytest.approx(np.einsum("ij,jk,ik->i", g, after, g))
    assert learned.times(g) == pytest.approx(after @ g.T)


def test_exact_runs_change_nothing(runs: Path) -> None:
    rows = list(read_results(runs))
    table, _ = case_table(rows, own=True)
    assert table is not None
    u = load_uncertainty()
    assert u is not None
    profile, _ = update(table, predicted(rows), load_effects(), u, noise())
    assert table.step_times(profile).step_s == pytest.approx(predicted(rows), rel=1e-9)


def test_few_shot_needs_enough_configurations(runs: Path) -> None:
    u = load_uncertainty()
    assert u is not None
    rows = read_results(runs)
    assert few_shot(rows, load_effects(), u, noise()) == ()
    seven = [
        dataclasses.replace(r, id=f"{r.id} {k}", gbs=r.gbs * (k + 1), step_s=r.step_s * (k + 1))
        for k in range(2)
        for r in rows
    ]
    one, three = few_shot(seven, load_effects(), u, noise())
    assert (one.shots, three.shots, one.configurations) == (1, 3, 10)
    assert three.after < three.before


class TestFiles:
    def test_round_trip(self, runs: Path, tmp_path: Path) -> None:
        personal, _ = fit_own(read_results(runs))
        path = tmp_path / "mine.json"
        write_personal(personal, path)
        again = read_personal(path)
        assert is_personal(path)
        assert again.effects == pytest.approx(personal.effects)
        assert again.learned == pytest.approx(personal.learned, abs=1e-6)
        assert again.provenance["runs"] == 5

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"format": "something"}, "no personal profile"),
            ({"effects": {"all|publisher=": "much"}}, "much"),
            ({"effects": {"all|publisher=": 1e9}}, "out of range"),
            ({"effects": []}, "damaged"),
            ({"names": 5}, "damaged"),
            ({"learned": [[1.0]]}, "damaged"),
            ({"names": []}, "another version"),
            ({"provenance": {"on": "somewhere else"}}, "another version"),
            ({"provenance": 7}, "damaged"),
        ],
    )
    def test_damaged(self, runs: Path, tmp_path: Path, change: dict[str, object], message: str) -> None:
        path = tmp_path / "mine.json"
        write_personal(fit_own(read_results(runs)[:1])[0], path)
        path.write_text(json.dumps(json.loads(path.read_text()) | change))
        with pytest.raises(CatalogError, match=message) as error:
            read_personal(path)
        assert str(path) in error.value.where
        assert "hint: " in error.value.render()

    def test_what_runs_cannot_teach_is_out_of_range(self, runs: Path, tmp_path: Path) -> None:
        path = tmp_path / "mine.json"
        write_personal(fit_own(read_results(runs)[:1])[0], path)
        data = json.loads(path.read_text())
        data["learned"][0][0] = 1e308
        path.write_text(json.dumps(data))
        with pytest.raises(CatalogError, match="damaged: learned"):
            read_personal(path)

    def test_nothing_to_learn_from(self, tmp_path: Path) -> None:
        path = tmp_path / "runs.csv"
        path.write_text("model,gpu,n_gpus,gbs,seq\nllama-3-8b,H100,8,64,4096\n")
        with pytest.raises(ResultsError, match="no run can be predicted"):
            fit_own(read_results(path))


def test_command_line(command_line, runs: Path, tmp_path: Path) -> None:
    lines = runs.read_text().splitlines()
    few, rest, profile = tmp_path / "few.csv", tmp_path / "rest.csv", tmp_path / "mine.json"
    few.write_text("\n".join(lines[:3]))
    rest.write_text("\n".join([lines[0], *lines[3:]]))
    code, out, err = command_line("calibrate", "results", str(few), "--out", str(profile))
    assert code == 0, err
    assert "left out" in out
    errors = []
    for more in ((), ("--profile", str(profile))):
        code, out, err = command_line("validate", "--results", str(rest), "--json", "-", *more)
        assert code == 0, err
        errors.append(
            [abs(r["predicted_step_s"] / r["published_step_s"] - 1) for r in json.loads(out)["rows"]]
        )
    assert np.median(errors[1]) < np.median(errors[0]) / 3
    ask = ("llama-3-70b", "--on", "h200", "--chips", "64", "--batch", "256", "--json", "--no-timing")
    plain, own = (
        json.loads(command_line("plan", *ask, "--software", "unknown", *more)[1])
        for more in ((), ("--profile", str(profile)))
    )
    assert any("personal profile" in note for note in own["notes"])
    assert own["ranked"][0]["step_s"] > plain["ranked"][0]["step_s"]
    code, _, err = command_line("validate", "--profile", str(profile))
    assert (code, "--results" in err) == (2, True)
    code, _, err = command_line("plan", *ask, "--profile", str(few))
    assert code == 2
    assert "error: " in err
    assert "hint: " in err


def test_columns_of_ones_own(tmp_path: Path) -> None:
    path = tmp_path / "runs.csv"

    def read(**fields: str) -> ResultRow:
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(fields))
            writer.writeheader()
            writer.writerow(fields)
        return read_results(path)[0]

    few = {
        "model": "llama-3-8b",
        "gpu": "H100",
        "n_gpus": "8",
        "gbs": "64",
        "seq": "4096",
        "tp": "2",
        "step_s": "3",
    }
    row = read(**few, comment="whatever")
    assert (row.id, row.tier, row.tp, row.step_s) == ("line 2", "A", 2, 3.0)
    with pytest.raises(ResultsError, match="unknown column 'recomputed'") as error:
        read(**few, recomputed="full")
    assert "recompute" in error.value.hint
    with pytest.raises(ResultsError, match="stands twice"):
        read(**few, TP="4")
    with pytest.raises(ResultsError, match="'gpu' is missing"):
        read(model="llama-3-8b")
    assert read(model="llama-3-8b", machine="h200").machine == "h200"

"""A real run, small: two jobs predicted, then trained with PyTorch."""

from __future__ import annotations

import importlib.util

import pytest

from fullmesh.here.comparison import validate_here
from fullmesh.here.jobs import parameter_tensors, small_jobs

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("torch") is None, reason="needs PyTorch: pip install 'fullmesh[torch]'"
)


@pytest.mark.slow
def test_two_small_jobs_come_out_near_their_predictions() -> None:
    """One process, and two over gloo. The bound is wide since others may use the cores; the command has no bound."""
    jobs = small_jobs("cpu")
    chosen = (0, next(i for i, job in enumerate(jobs) if job.dp == 2))
    heard: list[str] = []
    report = validate_here("cpu", 10.0, only=chosen, report=heard.append)
    assert [row.processes for row in report.rows] == [1, 2]
    assert len(heard) == 3
    for i, row in zip(chosen, report.rows, strict=True):
        assert row.job == jobs[i].name
        assert row.parameters == sum(n * c for n, c in parameter_tensors(jobs[i]).items())
        assert row.steps >= 7
        assert abs(row.error) < 0.6, f"{row.job}: predicted {row.predicted_s}, measured {row.measured_s}"
    assert report.profile.clock == "cpu"
    assert report.profile.title
    assert not report.skipped

"""Fields of results: one entry feeds the table, JSON, CSV and data frames; numbers read as their reader would."""

from __future__ import annotations

import csv
import io
import json
import math

import pytest

from fullmesh.faces.cli.plan_report import report
from fullmesh.glossary import LANGUAGES, load_glossary
from fullmesh.machine import load_machine
from fullmesh.outcomes import fields as outcome_fields
from fullmesh.outcomes.estimate import Estimate, estimate
from fullmesh.outcomes.fields import ESTIMATE_FIELDS, estimate_record, fixed_share_note
from fullmesh.output import formats
from fullmesh.output.fields import Field, columns, figure, lifted, record, row, shown
from fullmesh.plan import Plan
from fullmesh.study.api import best_plans
from fullmesh.study.fields import column_fields
from fullmesh.workload.readers.huggingface import load_model


@pytest.fixture(scope="module")
def one() -> Estimate:
    found = estimate(
        load_model("llama-3-8b"), load_machine("h200", num_devices=8), Plan(dp=8, gbs=8, seq=8192)
    )
    assert isinstance(found, Estimate)
    return found


def test_every_field_has_a_label_in_every_language() -> None:
    for field in (*ESTIMATE_FIELDS, *column_fields(1e12)):
        term = load_glossary()[field.key]
        assert all(field.label(lang) for lang in LANGUAGES)
        assert term.meaning
        assert field.unit == term.unit


def test_columns_and_keys_name_one_figure_each() -> None:
    fields = column_fields(1e12)
    names = columns(fields)
    paths = [g.path for f in fields for g in f.figures if g.path]
    assert len(set(names)) == len(names)
    assert len(set(paths)) == len(paths)


def test_units_stand_at_the_end_of_names() -> None:
    suffixes = {"s": "_s", "J": "_j", "B": "_bytes", "tokens/s": "tokens_per_s", "FLOP/s": "flop_per_s"}
    for field in ESTIMATE_FIELDS:
        if suffix := suffixes.get(field.unit):
            named = [g.name for g in field.figures if g.name]
            assert named
            assert all(suffix in name for name in named), field.key


def test_a_new_column_is_one_entry(one: Estimate, monkeypatch: pytest.MonkeyPatch) -> None:
    """Added to the declaration alone it is in the table, in JSON and in CSV of a search."""
    tenfold: Field[Estimate] = Field(
        key="total",
        tables=("plan", "compare", "simulate"),
        text=lambda e, lang: f"{10 * e.step_s:.0f} tens",
        figures=(figure("tenfold_s", lambda e: 10 * e.step_s),),
    )
    extended = (*ESTIMATE_FIELDS, tenfold)
    for module in ("fullmesh.outcomes.fields", "fullmesh.search.fields", "fullmesh.faces.cli.plan_report"):
        monkeypatch.setattr(f"{module}.ESTIMATE_FIELDS", extended)
    found = best_plans("llama-3-8b", "h200", chips=8, batch=8, top=1)
    assert found.best is not None
    assert found.to_dict()["ranked"][0]["tenfold_s"] == pytest.approx(10 * found.best.step_s)
    assert found.to_rows()[0]["tenfold_s"] == pytest.approx(10 * found.best.step_s)
    tables = [t for t in report(found, "en") if not isinstance(t, str)]
    assert "total" in [c.header for c in tables[0].columns]


def test_a_figure_that_is_no_number_is_none() -> None:
    fields: tuple[Field[float], ...] = (
        Field(
            key="step_time",
            figures=(figure("a_s", lambda x: x), figure("b_s", lambda x: 2 * x, path="in.b_s")),
        ),
    )
    assert row(fields, math.nan) == {"a_s": None, "b_s": None}
    assert record(fields, 1.5) == {"a_s": 1.5, "in": {"b_s": 3.0}}
    outer = lifted(fields, lambda x: x, "-")
    assert row(outer, None) == {"a_s": None, "b_s": None}
    assert record(outer, 1.0) == {}


def test_a_record_is_plain_json_and_a_row_plain_csv(one: Estimate) -> None:
    again = json.loads(json.dumps(estimate_record(one), allow_nan=False))
    assert again["bounds"]["low_s"] <= again["step_s"] <= again["bounds"]["high_s"]
    out = io.StringIO()
    cells = one.to_rows()[0]
    csv.DictWriter(out, list(cells)).writerow(cells)
    assert "[" not in out.getvalue()


def test_shown_fields_have_a_text(one: Estimate) -> None:
    for table in ("compare", "plan", "simulate"):
        for field in shown(ESTIMATE_FIELDS, table):
            assert field.text is not None
            for lang in LANGUAGES:
                assert field.text(one, lang)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0 s"), (12.96, "13.0 s"), (97.0, "97.0 s"), (99.96, "100 s"), (99.94, "99.9 s"), (1.3, "1.30 s"),
        (0.264, "264 ms"), (-1.81, "-1.81 s"), (2e-7, "0 s"), (1234.0, "1,234 s"),
    ],
)  # fmt: skip
def test_seconds_have_three_digits(value: float, text: str) -> None:
    assert formats.seconds(value) == text


@pytest.mark.parametrize(("value", "text"), [(-1e-9, "0.0 %"), (0.365, "36.5 %"), (-0.02, "-2.0 %")])
def test_nothing_has_no_sign(value: float, text: str) -> None:
    assert formats.percent(value) == text


@pytest.mark.parametrize(("value", "text"), [(191.3, "192 times"), (0.165, "+16.5 %"), (-0.4, "-40.0 %")])
def test_a_large_difference_is_a_factor(value: float, text: str) -> None:
    assert formats.change(value) == text


def test_a_step_that_is_mostly_fixed_time_says_so(one: Estimate) -> None:
    assert fixed_share_note(one) == ""
    small = estimate(
        load_model("llama-3.2-1b"), load_machine("h200", num_devices=8), Plan(dp=8, gbs=8, seq=4096)
    )
    assert isinstance(small, Estimate)
    assert small.part_share("fixed_s") > outcome_fields.NOTABLE_FIXED_SHARE
    assert "once a step" in fixed_share_note(small)

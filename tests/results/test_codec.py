"""Results to and from JSON: the committed reports come through unchanged, and what is wrong is named."""

import json
import math
from dataclasses import fields
from pathlib import Path

import pytest

from edgedistill.errors import RunError
from edgedistill.results.report import Report
from edgedistill.results.row import Quality, Row
from edgedistill.results.share import TaskShare

RECORDS = Path(__file__).parents[2] / "bench" / "results"


@pytest.mark.parametrize("name", ["demo", "compare"])
def test_a_committed_report_comes_through_unchanged(name):
    record = json.loads((RECORDS / f"{name}.json").read_text(encoding="utf-8"))
    schema = {each.name for each in fields(Report)}
    report = {key: value for key, value in record.items() if key in schema}
    assert {"rows", "records", "front", "recovered", "predictions", "samples"} <= set(report)
    written = Report.from_json(report).to_json()
    assert {key: written[key] for key in report} == report
    assert Report.from_json(written).to_json() == written


def test_quality_is_flat_in_json_and_by_model_in_the_program():
    flat = {"tokens": 10, "ppl": 3.5, "kl_student_mean": 0.1, "kl_student_p99": 0.9, "top1_student": 0.8}
    quality = Quality.from_json(flat)
    assert (quality.ppl, quality.student.kl_p99, quality.student.top1) == (3.5, 0.9, 0.8)
    assert quality.teacher.kl_mean is None
    assert quality.to_json() == flat


def test_what_is_empty_has_no_key_and_what_is_no_number_is_null():
    row = Row.from_json({"label": "a", "kind": "float", "mix": None, "runtime": None, "speed": {"load_s": math.nan}})
    assert row.speed.load_s is None
    assert not {"tasks", "refusals", "worst", "differences", "bits_per_weight"} & set(row.to_json())
    share = TaskShare.from_json({"items": 4, "right": 1, "share": 0.25, "low": 0.0, "high": 0.5})
    assert "refused" not in share.to_json()


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ([], r"row is list; it must be an object"),
        ({"label": "a", "kind": "float", "mix": None}, r"row lacks 'runtime'"),
        ({"label": 3, "kind": "float", "mix": None, "runtime": None}, r"row: label is '3'; it must be a text"),
        ({"label": "a", "kind": "float", "mix": None, "runtime": None, "sped": {}}, r"row holds 'sped'; its keys are"),
        (
            {"label": "a", "kind": "float", "mix": None, "runtime": None, "quality": {"x": []}},
            r"row: quality.x is list; it must be an object",
        ),
        (
            {"label": "a", "kind": "float", "mix": None, "runtime": None, "worst": {}},
            r"row: worst is '{}'; it must be a list",
        ),
        (
            {"label": "a", "kind": "float", "mix": None, "runtime": None, "file_bytes": 1.5},
            r"row: file_bytes is '1.5'; it must be a whole number",
        ),
        (
            {"label": "a", "kind": "float", "mix": None, "runtime": None, "speed": {"busy": 1}},
            r"row: speed: busy is '1'; it must be true or false",
        ),
    ],
)
def test_what_is_no_row_is_said(data, words):
    with pytest.raises(RunError, match=words):
        Row.from_json(data)

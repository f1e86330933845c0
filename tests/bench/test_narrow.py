"""What a narrow task's record says of its students together, against counts by hand."""

from pathlib import Path
from typing import Any

import pytest
from contest.narrow import draw, summary

TEACHER, FLOAT, PACKED, RIVAL = "teacher", "float-student", "q4_0-recovered-llama.cpp", "teacher-in-its-smallest-grids"


def student(learnt: str, seed: int, right: str, size: str = "half") -> dict[str, Any]:
    row = {"kind": "recovered", "sha256": f"{learnt}{seed}", "file_bytes": 35_000_000, "task": {"share": 0.5}}
    rival = {"kind": "rival", "sha256": "rival", "file_bytes": 70_000_000, "task": {"share": 0.25}}
    speed = {"speed": {"decode_tokens_per_s": {"median": 300.0}}}
    return {
        "size": size,
        "learnt": learnt,
        "seed": seed,
        "rows": [row | speed, rival | speed],
        "right": {TEACHER: "1111000011", FLOAT: right, PACKED: right, RIVAL: "1000000000"},
    }


def test_shares_are_of_the_teacher_and_means_over_seeds():
    found = summary([student("distilled", 1, "1110000000"), student("distilled", 2, "1111000001")])["half"]
    assert found["seeds"] == [1, 2]
    assert found["float"]["score"] == pytest.approx((3 + 5) / 20)
    assert found["float"]["of_teacher"] == pytest.approx((3 + 5) / 12)
    assert "above_labels" not in found["float"]


def test_differences_are_paired_by_seed_and_row():
    students = [student("distilled", 1, "1111110000"), student("labels", 1, "1111000000")]
    students += [student("distilled", 2, "1111111100"), student("labels", 3, "0000000000")]
    found = summary(students)["half"]
    assert found["packed"]["above_labels"]["difference"] == pytest.approx(0.2)
    assert found["packed"]["above_labels"]["low"] >= 0
    assert found["packed"]["above_rival"]["difference"] == pytest.approx((5 + 7) / 20)
    same = summary([student("distilled", 1, "10" * 5), student("labels", 1, "10" * 5)])["half"]
    assert same["float"]["above_labels"] == {"difference": 0, "low": 0, "high": 0}


def test_a_picture_of_one_record_is_always_the_same(tmp_path: Path):
    pytest.importorskip("matplotlib")
    students = [student("distilled", 1, "1" * 10), student("labels", 1, "0" * 10, "quarter")]
    record = {"students": {str(number): each for number, each in enumerate(students)}, "grids": []}
    for name in ("a.svg", "b.svg"):
        draw(record, tmp_path / name)
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()
    assert "student, half, distilled, q4_0" in (tmp_path / "a.svg").read_text()

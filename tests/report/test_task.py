"""The user's own task in report, page, terminal, table, CSV and card: it leads, and hostile text in it stays text."""

import csv
import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edgedistill.bundle.card import model_card
from edgedistill.measure.intervals import wilson
from edgedistill.measure.task_answers import with_differences
from edgedistill.report.comparison import comparison, csv_text, render_comparison
from edgedistill.report.html import render_html
from edgedistill.report.recommend import RULE
from edgedistill.report.task import task_sentence
from edgedistill.report.terminal import render_terminal
from edgedistill.results.front import task_score
from edgedistill.results.measurement import TaskAnswers
from edgedistill.results.report import Report
from edgedistill.results.task import TaskScore, WrongAnswer
from edgedistill.runtimes.chat_defaults import ChatDefaults
from tests.report import sample

HOSTILE = '<img src=x onerror="alert(1)">\x1b[31m\u202e'
ITEMS = 100
# By row: rows answered rightly, of which the float student misses so many.
RIGHT = {
    "teacher (Q4_1 GGUF)": (91, 3),
    "float student": (90, 0),
    "q4_0 rounded": (61, 2),
    "q4_0 recovered, llama.cpp": (89, 1),
    "q4_0 recovered, onnxruntime": (88, 1),
    "q8_0 rounded": (90, 0),
    "q8_0 recovered, llama.cpp": (90, 0),
    "q8_0 recovered, onnxruntime": (90, 0),
}


def bits_of(label: str) -> str:
    """The float student gets the first 90 right; a file with `new` of its own misses some of these."""
    right, new = RIGHT[label]
    return "1" * (right - new) + "0" * (90 - right + new) + "1" * new + "0" * (10 - new)


def score_of(label: str) -> TaskScore:
    bits = bits_of(label)
    right = bits.count("1")
    low, high = wilson(right, ITEMS)
    wrong = (WrongAnswer(f"asked {HOSTILE}", "card_lost", f"said {HOSTILE}"), WrongAnswer("second", "a", ""))
    figures = {"macro_f1": right / ITEMS - 0.01, "no_label_share": 0.02, "cut_off_share": 0.0}
    score = TaskScore("accuracy", ITEMS, right, right / ITEMS, low, high, figures, wrong)
    bases = {"float": "float student", "teacher": "teacher (Q4_1 GGUF)"}
    others = {name: TaskAnswers(score, bits_of(base)) for name, base in bases.items() if base != label}
    return with_differences(TaskAnswers(score, bits), others, 7)


def parts(right: dict[str, tuple[int, int]] | None = None) -> dict[str, Any]:
    """A compile's findings with a task."""
    found = sample.parts()
    measure = found["measure"]
    measure["task"] = {
        "name": "banking",
        "kind": "classify",
        "metric": "accuracy",
        "items": ITEMS,
        "left_out": 3,
        "test_rows": 2000,
        "learn_rows": 8000,
        "labels": 77,
    }
    for row in measure["rows"]:
        score = score_of(row["label"])
        row["task"] = score.to_json()
        shared = {"artifact": row["label"], "file_sha256": row["sha256"], "runtime": row["runtime"], "unit": "share"}
        for name, value in {"accuracy": score.share, **score.figures}.items():
            record = {"what": f"own task, {name}", "value": value, "machine": sample.MACHINE, "command": sample.COMMAND}
            measure["records"].append(shared | record)
    return found


@pytest.fixture(scope="module")
def report() -> Report:
    return sample.report_of(**parts())


def test_every_row_keeps_its_score_and_both_differences(report: Report):
    by_label = {row.label: row for row in report.rows}
    assert {label: task_score(row) for label, row in by_label.items()} == {k: v[0] / 100 for k, v in RIGHT.items()}
    q4 = by_label["q4_0 rounded"].task
    assert q4 is not None
    assert q4.to_float is not None
    assert q4.to_teacher is not None
    assert q4.to_float.difference == pytest.approx(-0.29)
    assert q4.to_teacher.difference == pytest.approx(-0.30)
    assert by_label["float student"].task.to_float is None  # type: ignore[union-attr]
    assert not [words for words in report.left_out if "task" in words]
    assert Report.from_json(json.loads(json.dumps(report.to_json()))) == report


def test_a_score_without_a_record_is_left_out_and_named():
    found = parts()
    records = found["measure"]["records"]
    wrong = [r for r in records if r["artifact"] == "q4_0 rounded" and r["what"] == "own task, accuracy"]
    records.remove(wrong[0])
    changed = [r for r in records if r["artifact"] == "q8_0 rounded" and r["what"] == "own task, no_label_share"]
    records.remove(changed[0])
    report = sample.report_of(**found)
    by_label = {row.label: row for row in report.rows}
    assert by_label["q4_0 rounded"].task is None
    assert "q4_0 rounded: task, accuracy" in report.left_out
    assert "no_label_share" not in by_label["q8_0 rounded"].task.figures  # type: ignore[union-attr]


def test_a_difference_that_is_not_that_of_the_shares_is_left_out():
    found = parts()
    row = next(row for row in found["measure"]["rows"] if row["label"] == "q4_0 rounded")
    row["task"]["to_teacher"]["difference"] = 0.1
    report = sample.report_of(**found)
    score = next(row for row in report.rows if row.label == "q4_0 rounded").task
    assert score is not None
    assert (score.to_teacher, score.to_float is None) == (None, False)
    assert "q4_0 rounded: task, difference to the teacher" in report.left_out


def test_the_smallest_file_that_is_nearly_the_best_on_the_task_is_recommended(report: Report):
    """By KL alone it would be q8_0: q4_0's KL is noticed, its answers are as good as all others'."""
    assert report.recommendation is not None
    assert (report.recommendation.mix, report.recommendation.label) == ("q4_0", "q4_0 recovered, llama.cpp")
    assert "the smallest that isn't noticeably worse on the task than the best" in report.recommendation.sentence
    assert "Its accuracy is 89 % against 90 %" in report.recommendation.sentence
    assert report.recommendation.rule is not None
    assert "whose accuracy on the task is at most 2 percentage points below the best" in report.recommendation.rule
    without = sample.report_of(**sample.parts())
    assert without.recommendation is not None
    assert without.recommendation.rule == RULE


def test_a_file_that_loses_on_the_task_is_not_recommended(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(RIGHT, "q4_0 recovered, llama.cpp", (80, 1))
    report = sample.report_of(**parts())
    assert report.recommendation is not None
    assert report.recommendation.mix == "q8_0"
    assert "the best on the task" in report.recommendation.sentence


def test_the_verdict_begins_with_the_task(report: Report):
    assert report.verdict.sentences[0] == task_sentence(report)
    assert report.verdict.sentences[0] == (
        "On the task banking (accuracy of 100 rows that no training saw): teacher (Q4_1 GGUF) 91 %, "
        "float student 90 %, q4_0 89 %, q8_0 90 %."
    )
    assert task_sentence(sample.report_of(**sample.parts())) is None


def test_a_file_for_a_task_is_warned_of_by_the_task_alone(monkeypatch: pytest.MonkeyPatch):
    """Its perplexity on the texts is far above the teacher's, which a model for one task may well have."""
    found = parts()
    for row in found["measure"]["rows"]:
        if row["kind"] != "teacher" and row["quality"][sample.CHATS]:
            row["quality"][sample.CHATS]["ppl"] *= 3
    report = sample.report_of(**found)
    assert report.verdict.warning is None
    assert report.verdict.lineage is not None
    assert "accuracy 91 %) \u2192 q4_0 recovered, llama.cpp" in report.verdict.lineage
    for label in RIGHT:
        if label.startswith("q"):
            monkeypatch.setitem(RIGHT, label, (60, 0))
    monkeypatch.setitem(RIGHT, "float student", (90, 0))
    poor = sample.report_of(**parts()).verdict.warning
    assert poor is not None
    assert poor.endswith("is poor at the task: its accuracy is 60 %, the teacher's 91 %.")
    for label in RIGHT:
        monkeypatch.setitem(RIGHT, label, (0, 0))
    nothing = sample.report_of(**parts()).verdict.warning
    assert nothing is not None
    assert nothing.endswith("is poor at the task: it answers none of 100 rows rightly.")


def test_the_page_leads_with_it_and_text_stays_text(report: Report):
    page = render_html(report)
    assert page.index('id="task"') < page.index('id="choice"')
    assert '<a href="#task">The task</a>' in page
    section = page[page.index('<section id="task"') : page.index('<section id="choice"')]
    for words in ("one of 77 labels", "macro F1", "no label at all", "95 % interval", "to the teacher", "q4_0 rounded"):
        assert words in section
    assert "<b>\u221229.0</b>" in section
    assert "3 rows were left out" in section
    assert "&lt;img src=x" in section
    assert "<img" not in page
    assert "\x1b" not in page
    assert "\u202e" not in page
    assert "<i>nothing</i>" in section
    assert section.index("q4_0 recovered, llama.cpp: 2 of 11 wrong answers") < section.index("q8_0 rounded: 2 of 10")
    plain = render_html(sample.report_of(**sample.parts()))
    assert 'id="task"' not in plain
    assert "The task" not in plain


def test_terminal_and_table_have_it_right_behind_the_size(report: Report):
    wide = render_terminal(report, 160)
    head = next(line for line in wide.splitlines() if "artifact" in line)
    assert head.split()[2:5] == ["size", "accuracy", "bits"]
    narrow = render_terminal(report, 90)
    assert narrow.index("accuracy") < narrow.index("KL student")
    table = render_comparison(report, 120)
    assert next(line for line in table.splitlines() if "file" in line and "fits" in line).split()[1:3] == [
        "size",
        "accuracy",
    ]
    plain = sample.report_of(**sample.parts())
    for text in (render_terminal(plain, 160), render_terminal(plain, 90), render_comparison(plain, 120)):
        assert "accuracy" not in text


def test_csv_and_json_have_all_figures(report: Report):
    rows = {row["label"]: row for row in csv.DictReader(io.StringIO(csv_text(report)))}
    q4 = rows["q4_0 rounded"]
    assert float(q4["task_share"]) == 0.61
    assert float(q4["task_minus_float"]) == pytest.approx(-0.29)
    assert float(q4["task_minus_teacher_low"]) < float(q4["task_minus_teacher"]) < float(q4["task_minus_teacher_high"])
    assert float(q4["task_macro_f1"]) == pytest.approx(0.60)
    assert rows["float student"]["task_minus_float"] == ""
    record = comparison(report, {}, {})
    assert record["task"]["name"] == "banking"
    assert comparison(sample.report_of(**sample.parts()), {}, {})["task"] is None
    assert "task_share" not in csv_text(sample.report_of(**sample.parts()))


def test_the_f1_of_fields_has_columns_of_its_own():
    found = parts()
    f1s = {"float student": 0.95, "teacher (Q4_1 GGUF)": 0.97}
    for row in found["measure"]["rows"]:
        own = f1s.get(row["label"], 0.9)
        fields = {"f1": own, "low": own - 0.03, "high": own + 0.02}
        if row["label"] == "q4_0 rounded":
            fields["to_float"] = {"difference": own - 0.95, "low": -0.08, "high": -0.02}
            fields["to_teacher"] = {"difference": 0.5, "low": 0.4, "high": 0.6}
        row["task"]["f1"] = fields
        row["task"]["figures"]["field_f1"] = own
        shared = {"artifact": row["label"], "file_sha256": row["sha256"], "runtime": row["runtime"], "unit": "share"}
        record = {"what": "own task, field_f1", "value": own, "machine": sample.MACHINE, "command": sample.COMMAND}
        found["measure"]["records"].append(shared | record)
    report = sample.report_of(**found)
    assert [words for words in report.left_out if "task" in words] == [
        "q4_0 rounded: task, F1, difference to the teacher"
    ]
    section = render_html(report).partition('<section id="task"')[2].partition("</section>")[0]
    assert section.count("F1 of fields") == 1
    assert "90 % <small>87 % to 92 %</small>" in section
    assert "<b>\u22125.0</b> <small>\u22128.0 to \u22122.0</small>" in section
    row = next(row for row in csv.DictReader(io.StringIO(csv_text(report))) if row["label"] == "q4_0 rounded")
    assert float(row["task_field_f1_minus_float"]) == pytest.approx(-0.05)
    assert "task_field_f1_minus_teacher" not in row


def test_the_card_has_a_table_of_it(report: Report, tmp_path: Path):
    named = replace(report, task=replace(report.task, name="bank | [x](y) <b>"))  # type: ignore[type-var]
    card = model_card(named, "m", tmp_path, {}, {}, ChatDefaults())
    assert "## The task: bank" in card
    assert "<b>" not in card
    line = next(line for line in card.splitlines() if line.startswith("| q4\\_0 rounded |") or "q4_0 rounded |" in line)
    assert "61 % (51 % to 70 %)" in line
    assert "-29.0 (" in line
    assert "for the task set the temperature to 0." in card
    assert "## The task" not in model_card(sample.report_of(**sample.parts()), "m", tmp_path, {}, {}, ChatDefaults())

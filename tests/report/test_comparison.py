"""The comparison's table, CSV and JSON: order, marks, figures as a spreadsheet reads them, hostile names."""

import csv
import io
import json
from dataclasses import replace
from typing import Any

from edgedistill.report.comparison import (
    CHOSEN,
    FRONT,
    comparison,
    csv_text,
    render_comparison,
    sorted_rows,
    speed_ratio,
    write_csv,
)
from edgedistill.report.recommend import recommend
from edgedistill.results.front import front_of
from edgedistill.results.report import Report
from edgedistill.results.row import Row
from tests.report.test_front import JUDGES, report, row


def whole(rows: list[Row], **changes: Any) -> Report:
    """A report with its front and its recommendation."""
    found = report([replace(row, file=f"{row.label}.gguf", sha256="0" * 64) for row in rows], **changes)
    found = replace(found, front=front_of(found))
    return replace(found, recommendation=recommend(found))


def rows() -> list[Row]:
    return [
        row("float model", "float", mix=None, size=270, kl=0.0, speed=30.0),
        row("q4_0 rounded", size=92, kl=0.2, speed=80.0),
        row("q4_0 recovered, llama.cpp", "recovered", size=92.0001, kl=0.1, speed=81.0),
        row("q8_0 rounded", size=144, kl=0.001, speed=60.0),
        row("q8_0 recovered, llama.cpp", "recovered", size=144, kl=0.001, speed=61.0),
    ]


def with_trials(row: Row, *trials: float) -> Row:
    decode = replace(row.speed.decode, trials=trials)
    return replace(row, speed=replace(row.speed, decode_tokens_per_s=decode))


def test_largest_first_and_each_rounded_file_beside_its_recovered_twin():
    ordered = ["float model", "q8_0 rounded", "q8_0 recovered, llama.cpp", "q4_0 rounded", "q4_0 recovered, llama.cpp"]
    assert [found.label for found in sorted_rows(rows())] == ordered
    assert [found.label for found in sorted_rows(list(reversed(rows())))] == ordered
    text = render_comparison(whole(rows()), 120)
    places = [text.index(label) for label in ordered]
    assert places == sorted(places)


def test_the_table_marks_the_front_and_the_recommended_file_and_says_why_one_does_not_fit():
    found = whole(rows(), limits={"file": 100_000_000})
    text = render_comparison(found, 120)
    shown = ("q8_0 rounded", "q4_0 rounded", "q4_0 recovered")
    lines = {label: next(line for line in text.splitlines() if label in line) for label in shown}
    assert lines["q4_0 recovered"].lstrip().startswith(FRONT + CHOSEN)
    assert lines["q4_0 recovered"].rstrip().endswith("yes")
    assert not lines["q4_0 rounded"].lstrip().startswith(FRONT)
    assert lines["q8_0 rounded"].lstrip().startswith(FRONT)
    assert lines["q8_0 rounded"].rstrip().endswith("no")
    assert "q8_0 rounded doesn't fit: the file has 144 MB, at most 100 MB are allowed" in text
    assert found.recommendation.sentence.split(":")[0] in text
    assert "\x1b" not in text
    assert "\x1b[" in render_comparison(found, 120, color=True)


def test_where_nothing_fits_the_table_says_so():
    text = render_comparison(whole(rows(), usable_mb=1), 120)
    assert CHOSEN not in text.replace(f"{CHOSEN} recommended", "")
    assert "Nothing here fits a box (" in text.replace("\n", " ")


def test_the_ratio_to_the_float_file_is_a_median_over_rounds():
    base, rounded, *_ = rows()
    base = with_trials(base, 30.0, 3.0, 30.0)  # another program took the second round
    rounded = with_trials(rounded, 60.0, 6.0, 66.0)
    assert speed_ratio(rounded, [base, rounded]) == 2.0
    assert speed_ratio(with_trials(rounded, 60.0), [base, rounded]) is None
    assert speed_ratio(rounded, [rounded]) is None


def test_the_csv_has_a_line_a_row_and_a_unit_in_each_columns_name():
    lines = list(csv.DictReader(io.StringIO(csv_text(whole(rows())))))
    assert [line["label"] for line in lines] == [found.label for found in sorted_rows(rows())]
    chosen = next(line for line in lines if line["recommended"] == "yes")
    assert chosen["label"] == "q8_0 recovered, llama.cpp"
    assert float(chosen["chats_kl_mean_nats_per_token"]) == 0.001
    assert float(chosen["decode_tokens_per_s"]) == 61.0
    assert int(chosen["file_bytes"]) == 144_000_000
    assert chosen["fits"] == "yes"
    assert chosen["prose_perplexity"] == ""  # nobody measured it
    assert lines[0]["mix"] == ""


def test_a_spreadsheet_runs_nothing_that_a_model_is_called():
    hostile = [
        "=cmd|' /C calc'!A0",
        "+1+1",
        "-2+3",
        "@SUM(1)",
        "\t=1",
        "\r=1",
        "\n=1",
        "\x1b]0;x\x07=1",
        'a",=1,"b',
        "＝1",
    ]
    found = whole([row(f"{name} x", mix=f"m{number}") for number, name in enumerate(hostile)])
    lines = list(csv.reader(io.StringIO(csv_text(found), newline="")))
    assert len({len(line) for line in lines}) == 1
    assert len(lines) == len(hostile) + 1
    for line in lines[1:]:
        for cell in line:
            assert cell[:1] not in ("=", "+", "@", "\t", "\r", "\n")
            assert cell[:1] != "-" or float(cell) < 0
            assert "\x1b" not in cell
    text = render_comparison(found, 120)
    assert "\x1b" not in text
    assert "\x07" not in text


def test_the_file_is_left_alone_where_it_says_the_same(tmp_path):
    path = tmp_path / "compare.csv"
    write_csv(whole(rows()), path)
    before = path.stat()
    write_csv(whole(rows()), path)
    assert path.stat().st_ino == before.st_ino
    write_csv(whole(rows()[:3]), path)
    assert len(path.read_text().splitlines()) == 4


def test_json_has_the_essentials_and_where_the_recommended_file_lies():
    found = comparison(
        whole(rows()),
        {"gguf-q4_0": "b/x-q4_0.gguf", "gguf-q8_0": "b/x-q8_0.gguf"},
        {"run": "r", "report": "r/report.html"},
    )
    assert json.loads(json.dumps(found)) == found
    assert found["schema"] == "edgedistill.compare/1"
    assert found["recommendation"]["file"] == "b/x-q8_0.gguf"
    assert found["front"]["labels"] == [
        "float model",
        "q4_0 recovered, llama.cpp",
        "q8_0 rounded",
        "q8_0 recovered, llama.cpp",
    ]
    assert [judge["name"] for judge in found["judges"]] == list(JUDGES)
    given = row("model as given", "teacher", mix=None, size=99, kl=0.0004)
    kept = comparison(whole([given, *rows()], quantized="q4_1"), {}, {}, "model.Q4_1.gguf")
    assert (kept["recommendation"]["label"], kept["recommendation"]["file"]) == ("model as given", "model.Q4_1.gguf")
    none = comparison(whole(rows(), usable_mb=1), {}, {})
    assert none["recommendation"] is None
    assert none["why"].startswith("Nothing here fits a box")


def test_tasks_have_a_column_where_there_are_any():
    assert "tasks" not in render_comparison(whole(rows()), 120).replace("losses on tasks", "")
    asked = [row("q8_0 rounded", task=0.5), row("q4_0 rounded", size=50, task=0.4, kl=0.3)]
    text = render_comparison(whole(asked), 140)
    assert "tasks" in text
    assert "50 %" in text
    lines = list(csv.DictReader(io.StringIO(csv_text(whole(asked)))))
    assert {line["task_quiz_share"] for line in lines} == {"0.5", "0.4"}

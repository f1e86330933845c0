"""The table of `recover`: on each text each file's figures as the report has them, and the shares that they make."""

import re

import pytest

from edgedistill.report.recovery import recovery_rows, render_recovery
from tests.report.sample import CHATS, PROSE, parts, report_of

FILES = {"gguf-q4_0": "runs/mine/bundle/m-q4_0.gguf"}


@pytest.fixture
def report():
    return report_of(**parts())


def test_shares_are_those_of_the_figures_beside_them(report):
    rows = recovery_rows(report, FILES)["rows"]
    by = {(row["mix"], row["kind"], row["runtime"], row["judge"]): row for row in rows}
    for judge in (CHATS, PROSE):
        rounded, recovered = by["q4_0", "rounded", "llama.cpp", judge], by["q4_0", "recovered", "llama.cpp", judge]
        assert recovered["recovered_kl"] == pytest.approx(1 - recovered["kl"] / rounded["kl"], abs=0.02)
        assert "recovered_kl" not in rounded
        # The share is of llama.cpp's two files: rounded was run nowhere else.
        assert by["q4_0", "recovered", "onnxruntime", judge]["recovered_kl"] is None


@pytest.mark.parametrize("width", [80, 100, 160])
def test_a_table_for_each_text_and_the_files_below(report, width: int):
    lines = render_recovery(report, FILES, width).splitlines()
    assert any(line.startswith(f"{CHATS}, 3\u202f000 tokens") for line in lines)
    assert any(line.startswith(f"{PROSE}, 3\u202f000 tokens") for line in lines)
    assert lines[-1] == "gguf-q4_0  runs/mine/bundle/m-q4_0.gguf"
    assert max(map(len, lines)) <= width
    if width > 80:
        row = next(line for line in lines if line.strip().startswith("q4_0 recovered, llama.cpp"))
        assert re.split(r"\s{2,}", row.strip())[1:6] == ["81.6 MB", "4.520", "0.141", "0.980", "80 %"]


def test_nothing_of_a_models_name_acts_on_the_terminal(report):
    files = {"gguf-q4_0": "runs/\x1b[31m\u202ered"}
    assert not set("\x1b\u202e") & set(render_recovery(report, files, 100))

"""Narrow terminals: no number and no word is cut, and a table keeps its rows and heads."""

import itertools
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from edgedistill.cli.page import fold
from edgedistill.report.comparison import render_comparison
from edgedistill.report.terminal import render_terminal
from edgedistill.show import show_bytes, wrapped
from tests.e2e.conftest import RECIPE
from tests.report.sample import parts, report_of
from tests.runtimes.conftest import write_gguf

TABLE = """\
        file    decode               fits
  q4_0  117 kB  <= 481 000 tokens/s  yes
  q8_0  173 kB  <= 308 000 tokens/s  no"""
WIDE_NAMES = """\
 1  measure-q4_0-recovered   1.2 s  449 MB peak
12  capture                 12.0 s    9 MB peak"""


def cells(text: str) -> list[str]:
    """What stands between two spaces or more."""
    return [cell for line in text.splitlines() for cell in re.split(r" {2,}", line.strip()) if cell]


def test_a_wide_table_falls_into_several_with_its_names():
    assert fold(TABLE, 50) == TABLE
    assert fold(TABLE, 30).splitlines() == [
        "        file",
        "  q4_0  117 kB",
        "  q8_0  173 kB",
        "",
        "        decode",
        "  q4_0  <= 481 000 tokens/s",
        "  q8_0  <= 308 000 tokens/s",
        "",
        "        fits",
        "  q4_0  yes",
        "  q8_0  no",
    ]


def test_a_wide_name_stands_above_its_cells():
    assert fold(WIDE_NAMES, 30).splitlines() == [
        "1  measure-q4_0-recovered",
        "   1.2 s  449 MB peak",
        "12  capture",
        "  12.0 s    9 MB peak",
    ]


@pytest.mark.parametrize("width", [20, 30, 40, 60, 80])
def test_a_drawn_table_loses_nothing(width: int):
    table = "\n".join(["file    KL prose    size", "─" * 24, "q4_0       0.141  91.7 MB", "float         –   271 MB"])
    shown = fold(table, width)
    assert max(map(len, shown.splitlines())) <= width
    assert set(cells(table)) - {"─" * 24} <= set(cells(shown))


def test_prose_is_cut_between_words_and_never_before_a_unit():
    line = "  RAM 63.8 MB of 18 GB, 1 h 20 min, at /a/path/that/is/longer/than/any/line/here.gguf as said"
    for width in range(20, 60):
        lines = wrapped(line, width, 2)
        assert " ".join(" ".join(lines).split()) == " ".join(line.split())
        assert not [
            one for one, other in itertools.pairwise(lines) if one[-1].isdigit() and other.strip()[:1] in "MGhm"
        ]
        assert all(len(part) <= width or "/a/path" in part for part in lines)


def edgedistill(*words: object, **environment: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-m", "edgedistill", *map(str, words)],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_commands_fold_to_forty_columns(tiny_llama: Path, tmp_path: Path):
    files = [write_gguf(tiny_llama, tmp_path / f"a-model-with-a-long-name-{name}.gguf") for name in "ab"]
    short = ["--prefill", 8, "--decode", 4, "--repetitions", 1, "--threads", 1]
    plan = ["plan", tiny_llama, "--target", "laptop-cpu", "--recipe", RECIPE]
    for words in (
        plan,
        ["bench", *files, *short],
        ["bench", files[0], *short],
        ["verify", files[0]],
        ["targets", "list"],
    ):
        lines = edgedistill(*words, COLUMNS="40")
        too_long = [line for line in lines if len(line) > 40 and len(line.split()) > 1]
        assert too_long == []
        if words is plan:
            assert {"file", "RAM", "decode", "fits"} <= set(cells("\n".join(lines)))
        else:
            assert lines


def test_colours_stay_where_nothing_is_folded():
    line = "\x1b[1mfits\x1b[0m " + "x" * 30
    assert fold(line, 36) == line
    assert fold(line, 34) == "fits\n  " + "x" * 30


@pytest.mark.parametrize("render", [render_comparison, render_terminal])
def test_reports_fold_to_forty_columns_without_losing_a_cell(render):
    report = report_of(**parts())
    for width in (40, 60):
        lines = fold(render(report, width), width).splitlines()
        assert [line for line in lines if len(line) > width] == []
        assert not [line for line in lines if "…" in line]
        for row in report.rows:
            assert show_bytes(row.file_bytes) in cells("\n".join(lines))


def test_what_a_program_reads_is_not_folded(tiny_llama: Path):
    assert max(map(len, edgedistill("plan", tiny_llama, "--target", "laptop-cpu", "--recipe", RECIPE, COLUMNS=""))) > 80

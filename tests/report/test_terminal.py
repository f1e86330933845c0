"""The terminal's text: the facts at the right place, nothing wider than asked for, nothing of the data's own acting."""

import re
import unicodedata

import pytest

from edgedistill.report.terminal import render_terminal
from tests.report.sample import parts, report_of


def test_the_verdict_comes_first_and_each_artifact_has_its_row():
    lines = render_terminal(report_of(**parts()), 140).splitlines()
    assert "q4_0 and q8_0 fit a laptop's CPU." in lines[:4]
    heading = next(line for line in lines if "artifact" in line)
    expected = [
        "artifact",
        "runtime",
        "size",
        "bits",
        "ppl",
        "KL student",
        "99 %",
        "top-1",
        "decode",
        "prefill",
        "load",
        "RSS",
    ]
    assert re.split(r"\s{2,}", heading.strip()) == expected
    row = next(line for line in lines if line.strip().startswith("q4_0 recovered, llama.cpp"))
    cells = ["llama.cpp", "81.6 MB", "5.42", "4.520", "0.141", "0.980", "80 %", "117", "379", "0.21 s", "211 MB"]
    assert re.split(r"\s{2,}", row.strip())[1:] == cells
    rounded = next(line for line in lines if line.strip().startswith("q4_0 rounded"))
    assert rounded.split()[-4:] == ["–"] * 4  # nobody measured its speed
    assert any("66.9*" in line for line in lines)
    assert "* measured while the machine was busy with other work" in lines


@pytest.mark.parametrize("width", [80, 100, 131, 132, 200])
def test_no_line_is_wider_than_the_terminal(width):
    for line in render_terminal(report_of(**parts()), width).splitlines():
        assert len(line) <= width


def test_a_narrow_terminal_loses_no_digit():
    text = render_terminal(report_of(**parts()), 40)
    for figure in ("81.6 MB", "117", "379", "211 MB", "0.0051"):
        assert figure in text


def test_colors_only_if_asked_for():
    report = report_of(**parts())
    assert "\x1b" not in render_terminal(report, 120)
    assert "\x1b[" in render_terminal(report, 120, color=True)


def test_hostile_labels_neither_act_nor_are_read_as_markup():
    found = parts()
    hostile = "[red]\x1b[31m\u202eevil\nrow[/red]"
    for row in found["measure"]["rows"]:
        row["label"], row["runtime"] = hostile, "\x1b]0;title\x07"
    found["measure"]["records"] = []
    found["plan"]["target"]["title"] = "\x1b[2Jwiped"
    text = render_terminal(report_of(**found), 200)
    assert not [char for char in text if unicodedata.category(char) in ("Cc", "Cf") and char != "\n"]
    assert "[red]␛[31m⟨U+202E⟩evil row[/red]" in text
    assert "figures have no record and aren't shown" in text


def test_a_report_without_rows_still_gives_its_verdict():
    found = parts()
    found["measure"].update(rows=[], records=[], recovered={}, judges=[])
    assert render_terminal(report_of(**found), 80).startswith("q4_0 and q8_0 fit")

"""Ticks are round, labels keep their distance, and words are escaped."""

import math
import xml.etree.ElementTree as ElementTree

import pytest

from edgedistill.report import svg


@pytest.mark.parametrize(("low", "high"), [(0, 0.4), (0, 3e8), (1.3, 2.4), (-0.05, 0.06), (0, 1e-6), (70, 71)])
def test_ticks_are_round_and_inside(low, high):
    found = svg.ticks(low, high)
    assert 2 <= len(found) <= 7
    step = found[1] - found[0]
    assert round(step / 10 ** math.floor(math.log10(step) + 1e-9)) in (1, 2, 5)
    for value in found:
        assert low - step * 1e-6 <= value <= high + step * 1e-6
        assert math.isclose(value / step, round(value / step), abs_tol=1e-6)


def test_an_axis_without_length_has_one_tick():
    assert svg.ticks(3.0, 3.0) == [3.0]


def test_labels_are_spread_in_order():
    placed = svg.spread_out([10, 11, 12, 90], 15, 0, 100)
    assert placed == sorted(placed)
    assert all(after - before >= 15 for before, after in zip(placed, placed[1:], strict=False))
    assert placed[0] >= 0
    assert placed[-1] <= 100
    assert svg.spread_out([99, 98], 15, 0, 100) == [100, 85]


def test_words_in_a_picture_are_text_only():
    words = "<script>&\"'\x1b"
    picture = svg.picture([svg.text(1, 2, words, "small")], 10, words)
    root = ElementTree.fromstring(str(picture))
    assert [child.tag for child in root] == ["text"]
    assert root[0].text == "<script>&\"'␛"
    assert root.attrib["aria-label"] == "<script>&\"'␛"


def test_long_names_are_cut_visibly():
    assert svg.shorten("q4_0 recovered, onnxruntime", 12) == "q4_0 recove…"
    assert svg.shorten("short", 12) == "short"

"""Ticks are round, and words are escaped."""

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


@pytest.mark.parametrize(("low", "high"), [(0.003, 1.5), (0.1, 1.0), (1.0, 2.0), (0.2, 0.9), (1e-6, 3.0), (0.04, 0.06)])
def test_logarithmic_ticks_are_few_round_and_inside(low, high):
    found = svg.log_ticks(low, high)
    assert 2 <= len(found) <= 8
    assert found == sorted(found)
    for value in found:
        assert low * 0.999 <= value <= high * 1.001
        assert len(svg.plain(value).replace(".", "").strip("0")) <= 2


def test_a_logarithmic_height_is_the_logarithm_and_zero_lies_on_the_base_line():
    frame = svg.Frame(0, 1, 0.01, 1.0, y_log=True)
    assert frame.y(0.1) == pytest.approx((frame.top + frame.bottom) / 2)
    assert frame.y(1.0) == pytest.approx(frame.top)
    assert frame.y(0.0) == frame.y(-1.0) == pytest.approx(frame.bottom)


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


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (0, "0"),
        (0.25, "0.25"),
        (1e-6, "0.000001"),
        (120.0, "120"),
        (-0.5, "−0.5"),
        (3.0000000001, "3"),
        (1234.0, "1234"),
        (12345.0, "12\u202f345"),
    ],
)
def test_plain_numbers_have_no_exponent(value, words):
    assert svg.plain(value) == words

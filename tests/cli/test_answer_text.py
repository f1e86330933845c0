"""Answers on their way to the screen, however a model splits them."""

import io
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgedistill.cli.answer_text import NEAR_CELLS, AnswerWriter, cells
from edgedistill.cli.questions import read_lines
from edgedistill.show import visible

# Words, wide and joined characters, escapes of several kinds, line ends and code.
PIECES = [
    "The ",
    "old",
    " fox",
    "  ",
    "\n",
    "\r\n",
    "\r",
    "\x1b[2J",
    "\x1b]0;t\x07",
    "\x9b31m",
    "日本",
    "👩\u200d🚀",
    "é",
]
PIECES += ["e\u0301", "\u202e", "a-b-c ", "\t", "```\n", " \x08", "word" * 3]


def written(pieces, width=None):
    out = io.StringIO()
    writer = AnswerWriter(out, None if width is None else lambda: width)
    for piece in pieces:
        writer.write(piece)
    writer.end()
    return out.getvalue()


def cut(text, places):
    """A text in pieces that end at these places."""
    edges = sorted({place % (len(text) + 1) for place in places} | {0, len(text)})
    return [text[a:b] for a, b in zip(edges, edges[1:], strict=False)]


@given(st.lists(st.sampled_from(PIECES), max_size=30).map("".join), st.lists(st.integers(0, 200), max_size=12))
@settings(max_examples=300, deadline=None, derandomize=True, database=None)
def test_a_file_gets_the_same_text_however_it_is_split(text, places):
    assert written(cut(text, places)) == visible(text) + "\n"


@given(
    st.lists(st.sampled_from(PIECES), max_size=30).map("".join),
    st.lists(st.integers(0, 200), max_size=12),
    st.integers(24, 60),
)
@settings(max_examples=300, deadline=None, derandomize=True, database=None)
def test_a_terminal_gets_nothing_but_newlines_beside_the_text(text, places, width):
    found = written(cut(text, places), width)
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]", found)
    assert re.sub(r"\s", "", found) == re.sub(r"\s", "", visible(text))


@given(
    st.lists(st.integers(1, NEAR_CELLS - 1).map("w".__mul__), max_size=40).map(" ".join),
    st.integers(20, 50),
    st.integers(1, 9),
)
@settings(max_examples=300, deadline=None, derandomize=True, database=None)
def test_words_stay_whole_and_lines_fit(text, width, step):
    found = written([text[at : at + step] for at in range(0, len(text), step)], width)
    assert found.split() == text.split()
    assert all(cells(line) <= width for line in found.splitlines())


def test_code_is_not_broken_and_long_words_are_left_to_the_terminal():
    code = "```python\nprint('one two three four five six seven eight')\n```\n"
    assert written([code], 20) == code + "\n"
    assert written(["x" * 50, " and so on, to the end"], 20) == "x" * 50 + " and so \non, to the end\n"


def test_far_from_the_edge_nothing_waits():
    out = io.StringIO()
    writer = AnswerWriter(out, lambda: 80)
    for piece, shown in [
        ("The bra", "The bra"),
        ("ve fox", "The brave fox"),
        ("\x1b", "The brave fox␛"),
        ("\r", "The brave fox␛"),
    ]:
        writer.write(piece)
        assert out.getvalue() == shown


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("One\n\n  two  \nthree", ["One", "two", "three"]),
        ('"""a\n  b\n\nc"""\nd\n', ["a\n  b\n\nc", "d"]),
        ('"""\na\n"""\n"""b"""\n""" """\n', ["a", "b"]),
        ('"""a\nb', ["a\nb"]),
        ("/etc/passwd?\n/reset\r\n", ["/etc/passwd?", "/reset"]),
        ("", []),
    ],
)
def test_piped_lines(text, expected, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO(text))
    assert list(read_lines(terminal=False)) == expected

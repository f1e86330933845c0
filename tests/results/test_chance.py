"""Tasks at which the float model guesses: by the exact binomial test, and left out of front, choice and table."""

import math
from dataclasses import replace

import pytest

from edgedistill.config.tasks import Choice, chance_share
from edgedistill.measure.intervals import wilson
from edgedistill.report.comparison import render_comparison
from edgedistill.report.recommend import recommend
from edgedistill.report.verdict import give_verdict
from edgedistill.results.chance import guessed_tasks
from edgedistill.results.front import front_of
from edgedistill.results.measurement import TaskSet
from edgedistill.results.report import Report
from edgedistill.results.share import TaskShare
from tests.report.test_front import report, row

ITEMS = 200
LOST = {"items": ITEMS, "difference": -0.05, "low": -0.09, "high": -0.01}


def share(right: int, items: int = ITEMS) -> TaskShare:
    low, high = wilson(right, items)
    return TaskShare(items, right / items, low, high, right=right)


def at_least(right: int, items: int, p: float) -> float:
    """The probability that guessing answers `right` of the items or more."""
    return math.fsum(math.comb(items, k) * p**k * (1 - p) ** (items - k) for k in range(right, items + 1))


def asked(float_right: int, chance: float | None = 0.25) -> Report:
    """A float model and two files, of which the smaller one certainly lost on the quiz and has fewer right answers."""
    rows = [
        replace(row("float model", "float", mix=None, size=270, kl=0.0), tasks={"quiz": share(float_right)}),
        replace(row("q8_0 rounded", size=144, kl=0.001), tasks={"quiz": share(120)}),
        replace(row("q5_0 rounded", size=105, kl=0.01, differences={"quiz": LOST}), tasks={"quiz": share(20)}),
    ]
    return replace(report(rows), task_sets=(TaskSet("quiz", "multiple choice", ITEMS, chance=chance),))


@pytest.mark.parametrize("options", [2, 4, 5])
def test_a_float_model_is_at_chance_where_the_binomial_test_cannot_tell_it_from_guessing(options: int):
    for right in range(0, 200, 3):
        p_value = at_least(right, ITEMS, 1 / options)
        guessing = bool(guessed_tasks(asked(right, 1 / options)))
        if p_value < 0.015:
            assert not guessing, right
        if p_value > 0.04:
            assert guessing, right


def test_the_share_of_guessing_is_that_of_the_options():
    questions = [Choice("?", ("a", "b"), 0), Choice("?", ("a", "b", "c", "d"), 1)]
    assert chance_share(questions) == (1 / 2 + 1 / 4) / 2
    assert chance_share(["Do it."]) is None


def test_a_task_that_the_float_model_guesses_decides_nothing():
    able, guessing = asked(120), asked(55)
    assert recommend(able).mix == "q8_0"
    assert recommend(guessing).mix == "q5_0"
    assert "q8_0 rounded" in front_of(able).labels
    smaller = replace(guessing.rows[2], quality=guessing.rows[1].quality)
    same = replace(guessing, rows=(*guessing.rows[:2], smaller))
    assert front_of(same).labels == ("float model", "q5_0 rounded")  # the task alone spoke for q8_0


def test_it_is_said_in_one_line_on_the_page_and_in_the_terminal():
    line = "quiz: the float model is at chance (28 % right, 22 % to 34 %; guessing gives 25 %), so it tells nothing."
    assert give_verdict(asked(55)).sentences[-1] == line
    text = render_comparison(asked(55), 140)
    assert line in text
    assert "60 %" not in text  # the mean over tasks has none left
    assert "60 %" in render_comparison(asked(120), 140)
    assert not any("at chance" in sentence for sentence in give_verdict(asked(120)).sentences)


def test_without_a_known_chance_or_a_float_file_every_task_counts():
    assert guessed_tasks(asked(55, None)) == []
    assert guessed_tasks(replace(asked(55), rows=asked(55).rows[1:])) == []

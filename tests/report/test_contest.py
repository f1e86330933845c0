"""The student against the teacher in its bytes: who is said to win, by what."""

from dataclasses import replace
from typing import Any

import pytest

from edgedistill.report.contest import contest
from edgedistill.report.terminal import render_terminal
from edgedistill.results.planned import Limits, PlannedMix, PlannedRival, TargetFacts
from edgedistill.results.report import JudgedText, Report
from edgedistill.results.row import Row

LABEL = "teacher in q4_0's bytes"


def row(label: str, kind: str, kl: float | None, decode: float, size: int = 80_000_000, **more: Any) -> Row:
    figures = {
        "label": label,
        "kind": kind,
        "mix": None if kind == "rival" else "q4_0",
        "runtime": "llama.cpp",
        "file": "stages/rival/model.gguf",
        "file_bytes": size,
        "bits_per_weight": 4.75,
        "quality": {"chats": {"tokens": 9, "ppl": 5.0, "kl_teacher_mean": kl}},
        "speed": {"decode_tokens_per_s": {"mean": decode}},
    }
    return Row.from_json(figures | more)


def report(student: Row, rival: Row, decode_limit: float | None = None, excess: int = 0) -> Report:
    planned = PlannedMix(fits=True, ram_bytes=10)
    return Report(
        target=TargetFacts(name="phone", title="a phone", usable_memory_bytes=100, limits=Limits(decode=decode_limit)),
        on_target=True,
        mixes={"q4_0": planned},
        judges=(JudgedText("chats"),),
        rows=(rival, student),
        rival=PlannedRival("q4_0", LABEL, excess, planned),
    )


def told(student: tuple[float | None, float], rival: tuple[float | None, float], **how: Any) -> tuple[str, str]:
    found = contest(report(row("q4_0 recovered, llama.cpp", "recovered", *student), row(LABEL, "rival", *rival), **how))
    assert found is not None
    return found.ship, found.sentence


@pytest.mark.parametrize(
    ("student", "rival", "ship"),
    [
        ((0.49, 254.0), (0.05, 203.0), "teacher"),  # better, though slower
        ((0.05, 203.0), (0.49, 254.0), "student"),
        ((0.07, 254.0), (0.05, 203.0), "student"),  # alike by KL, so the faster one
        ((0.05, 203.0), (0.07, 254.0), "teacher"),
        ((0.05, 203.0), (0.07, 204.0), "teacher"),  # alike in both: distilling brought nothing
    ],
)
def test_the_better_one_then_the_faster_one_then_the_teacher(student, rival, ship: str):
    winner, sentence = told(student, rival)
    assert winner == ship
    assert sentence.startswith(
        "Ship the student, q4_0 in 80.0 MB, not the teacher in 4.75 bits a weight (80.0 MB): "
        if ship == "student"
        else "The student loses. Ship the teacher in 4.75 bits a weight, 80.0 MB, not the student in q4_0 (80.0 MB): "
    )
    assert ("It lies in the run at stages/rival/model.gguf." in sentence) is (ship == "teacher")


def test_the_figures_are_said_with_the_deciding_ones_first():
    _, sentence = told((0.49, 254.0), (0.05, 203.0))
    assert "on chats the student's KL to the float teacher is 0.490 nats a token" in sentence
    assert "the student writes 254 tokens/s, the teacher 203 tokens/s; the student is 1.25 times as fast" in sentence
    _, sentence = told((0.07, 254.0), (0.05, 203.0))
    assert sentence.index("1.25 times") < sentence.index("KL to the float teacher")


def test_the_teacher_is_called_what_its_row_is_called():
    """Its smallest grids may be larger than the student, and then it isn't in the student's bytes."""
    label = "teacher in its smallest grids"
    found = contest(
        report(row("q4_0 recovered, llama.cpp", "recovered", 0.49, 254.0), row(label, "rival", 0.05, 203.0))
    )
    assert found is not None
    assert f"nats a token, that of the {label} 0.0500; " in found.sentence


def test_a_limit_that_one_of_them_misses_decides():
    ship, sentence = told((0.49, 254.0), (0.05, 203.0), decode_limit=220.0)
    assert ship == "student"
    assert "the teacher doesn't fit a phone (203 tokens/s measured, 220 tokens/s are wanted)" in sentence


def test_a_task_that_certainly_differs_comes_before_kl():
    share = {"items": 200, "share": 0.5, "low": 0.4, "high": 0.6}
    other = share | {"share": 0.3}
    sure = {"difference": 0.2, "low": 0.1, "high": 0.3, "items": 200}
    rival = row(LABEL, "rival", 0.05, 203.0, tasks={"quiz": other})
    for difference, ship in ((sure, "student"), (sure | {"low": -0.1}, "teacher")):
        student = row(
            "q4_0 recovered, llama.cpp",
            "recovered",
            0.49,
            203.0,
            tasks={"quiz": share},
            over_rival={"quiz": difference},
        )
        found = contest(report(student, rival))
        assert found is not None
        assert found.ship == ship
    assert "right on 50 %" not in found.sentence


def test_how_much_larger_the_smallest_grids_are_is_said():
    student = row("q4_0 recovered, llama.cpp", "recovered", 0.49, 254.0)
    found = contest(report(student, row(LABEL, "rival", 0.05, 203.0, 90_000_000), excess=10_001_000))
    assert found is not None
    assert "Even in the smallest grids the teacher is 10.0 MB larger than the student." in found.sentence


def test_without_a_rival_nothing_is_said():
    whole = report(row("q4_0 recovered, llama.cpp", "recovered", 0.4, 1.0), row(LABEL, "rival", 0.1, 1.0))
    assert contest(replace(whole, rows=whole.rows[1:])) is None
    assert contest(replace(whole, rival=None)) is None


def test_the_terminal_leads_with_it():
    whole = report(row("q4_0 recovered, llama.cpp", "recovered", 0.49, 254.0), row(LABEL, "rival", 0.05, 203.0))
    found = contest(whole)
    shown = render_terminal(replace(whole, verdict=replace(whole.verdict, contest=found)), 100)
    assert shown.startswith("The student loses. Ship the teacher in 4.75 bits a weight")
    assert LABEL in shown


def scored(share: float, to_rival: tuple[float, float, float] | None) -> dict[str, Any]:
    """A row's part on the user's own task."""
    task = {"metric": "accuracy", "items": 100, "right": round(100 * share), "share": share, "low": 0.0, "high": 1.0}
    if to_rival is not None:
        task["to_rival"] = dict(zip(("difference", "low", "high"), to_rival, strict=True))
    return {"task": task}


@pytest.mark.parametrize(
    ("interval", "decode", "ship"),
    [
        ((0.02, 0.06), 10.0, "student"),  # better on the task, though its KL and its speed are worse
        ((-0.06, -0.02), 900.0, "teacher"),
        ((-0.02, 0.06), 900.0, "student"),  # alike on the task, whatever the KL: the faster one
        ((-0.02, 0.06), 204.0, "teacher"),
    ],
)
def test_the_users_own_task_decides_in_place_of_the_distance(interval: tuple[float, float], decode: float, ship: str):
    own = row("q4_0 recovered, llama.cpp", "recovered", 0.9, decode, **scored(0.88, (0.04, *interval)))
    found = contest(report(own, row(LABEL, "rival", 0.05, 203.0, **scored(0.84, None))))
    assert found is not None
    assert found.ship == ship
    assert "on the task the student's accuracy is 88 %, the teacher's 84 % (difference from" in found.sentence
    assert "KL" not in found.sentence

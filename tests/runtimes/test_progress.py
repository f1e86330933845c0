"""What a stage's progress looks like in a log and on a terminal."""

import io

from edgedistill import progress
from edgedistill.progress import QuietProgress, RichProgress


class Terminal(io.StringIO):
    def isatty(self):
        return True


class Clock:
    now = 100.0

    def monotonic(self):
        return self.now


def test_a_log_gets_a_line_every_ten_seconds(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    stream = io.StringIO()
    shown = RichProgress(stream)
    shown.start("distill", 4000, "tokens")
    for _ in range(30):
        clock.now += 1
        shown.advance(100, loss=2.345678)
    shown.note("best so far")
    shown.finish()
    shown.finish()
    assert stream.getvalue().splitlines() == [
        "distill: 4,000 tokens",
        "distill: 25 % 1,000/4,000 tokens, 100/s, loss 2.35, 30 s left",
        "distill: 50 % 2,000/4,000 tokens, 100/s, loss 2.35, 20 s left",
        "distill: 75 % 3,000/4,000 tokens, 100/s, loss 2.35, 10 s left",
        "best so far",
        "distill: 3,000 tokens in 30 s, loss 2.35",
    ]


def test_an_unknown_total_shows_no_share(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    stream = io.StringIO()
    shown = RichProgress(stream, line_every_s=0)
    shown.start("read", 0, "files")
    clock.now += 7300
    shown.advance(2)
    shown.start("next", 1, "step")
    assert stream.getvalue().splitlines() == [
        "read",
        "read: 2 files, 0.000274/s",
        "read: 2 files in 2 h 01 min",
        "next: 1 step",
    ]


def test_a_terminal_gets_a_bar():
    stream = Terminal()
    shown = RichProgress(stream)
    shown.start("distill [x]", 10, "steps")
    shown.advance(10, loss=1.5)
    shown.note("[bold] is text")
    shown.finish()
    assert "distill [x]" in stream.getvalue()
    assert "100%" in stream.getvalue()
    assert "10/10 steps" in stream.getvalue()
    assert "[bold] is text" in stream.getvalue()


def test_quiet_says_nothing(capsys):
    quiet = QuietProgress()
    quiet.start("a", 1, "b")
    quiet.advance(1, loss=2)
    quiet.note("c")
    quiet.finish()
    assert capsys.readouterr() == ("", "")


def test_beside_each_task_it_says_how_far_all_of_it_is(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    stream = io.StringIO()
    shown = RichProgress(stream)
    shown.overall(lambda left: f"stage 1 of 2, {left} s here")
    shown.start("teach", 100, "tokens")
    clock.now += 10
    shown.advance(25)
    shown.finish()
    assert stream.getvalue().splitlines() == [
        "teach: 100 tokens (stage 1 of 2, None s here)",
        "teach: 25 % 25/100 tokens, 2.5/s, 30 s left (stage 1 of 2, 30.0 s here)",
        "teach: 25 tokens in 10 s",
    ]


def test_on_a_terminal_all_of_it_is_a_line_below_the_bar():
    stream = Terminal()
    shown = RichProgress(stream)
    shown.overall(lambda left: "[stage] 1 of 2, about 5 min left in all")
    shown.start("teach", 100, "tokens")
    shown.advance(25)
    shown.finish()
    last = [line for line in stream.getvalue().splitlines() if "left in all" in line][-1]
    assert "[stage] 1 of 2, about 5 min left in all" in last
    assert "%" not in last
    assert "25%" in stream.getvalue()

"""The student's file against the rival that costs nothing, the teacher on grids in the same bytes: which one to ship.

The one that alone meets the target's limits; else the better one; else the faster one; else the teacher, which takes no
distilling. Better is a certain difference on the user's own task: its whole paired interval lies on one side of 0.
Where there is no such task it is a certain difference on a set of questions, else a mean KL to the teacher that is
lower by more than is noticed, on the text where it is highest.
"""

from dataclasses import dataclass

from edgedistill.report.recommend import NOTICEABLE_KL, row_troubles
from edgedistill.report.rows import shipped_row
from edgedistill.results.report import Contest, Report
from edgedistill.results.row import RIVAL, Row
from edgedistill.show import NATS, show, show_bytes, show_rate

STUDENT, TEACHER = "student", "teacher"
FASTER = 1.05  # a ratio of speeds that trials in turn can tell from none


@dataclass(frozen=True)
class _Finding:
    """Who is ahead (None: neither) in a figure, and the figures in words."""

    ahead: str | None
    words: str


def contest(report: Report) -> Contest | None:
    """Which of the two to ship; None without a rival, or where one of them wasn't judged."""
    rival = next((row for row in report.rows if row.kind == RIVAL), None)
    student = shipped_row(report.rows, report.rival.mix) if report.rival else None
    if rival is None or student is None:
        return None
    quality = _quality(report, student, rival)
    if quality is None:
        return None
    speed = _speed(student, rival)
    limits = _limits(report, student, rival)
    tie = _Finding(None, "neither is certainly better, nor faster, and it takes no distilling")
    reasons = [each for each in (limits, quality, speed) if each is not None]
    deciding = next((each for each in reasons if each.ahead), tie)
    ship = deciding.ahead or TEACHER
    words = [deciding.words, *(each.words for each in reasons if each is not deciding)]
    told = f"{_opening(ship, student, rival)}: {'; '.join(words)}."
    return Contest(ship, f"{told}{_excess(report, student, rival)}{_place(ship, rival)}")


def _opening(ship: str, student: Row, rival: Row) -> str:
    bits = f"{show(rival.bits_per_weight, 'bits')} bits a weight"
    sizes = f"{show_bytes(student.file_bytes)}, not the teacher in {bits} ({show_bytes(rival.file_bytes)})"
    if ship == STUDENT:
        return f"Ship the student, {student.mix} in {sizes}"
    sizes = f"{show_bytes(rival.file_bytes)}, not the student in {student.mix} ({show_bytes(student.file_bytes)})"
    return f"The student loses. Ship the teacher in {bits}, {sizes}"


def _limits(report: Report, student: Row, rival: Row) -> _Finding | None:
    """Who alone meets the target's limits; None where both do, or neither."""
    own, theirs = row_troubles(student, report), row_troubles(rival, report)
    if own and not theirs:
        return _Finding(TEACHER, f"the student doesn't fit {report.target.words} ({'; '.join(own)})")
    if theirs and not own:
        return _Finding(STUDENT, f"the teacher doesn't fit {report.target.words} ({'; '.join(theirs)})")
    return None


def _quality(report: Report, student: Row, rival: Row) -> _Finding | None:
    """Who is better; None where nothing was measured of both."""
    by_task = _own_task(student, rival) or _tasks(student, rival)
    return by_task or _closeness(report, student, rival) or _perplexity(report, student, rival)


def _own_task(student: Row, rival: Row) -> _Finding | None:
    """The user's own task, which decides alone where both were asked it; None where they weren't."""
    if student.task is None or rival.task is None or student.task.to_rival is None:
        return None
    difference, metric = student.task.to_rival, student.task.metric
    own, theirs = (show(task.share, "share") for task in (student.task, rival.task))
    interval = f"{show(difference.low, 'share')} to {show(difference.high, 'share')}"
    words = f"on the task the student's {metric} is {own}, the teacher's {theirs} (difference from {interval})"
    if not difference.sure:
        return _Finding(None, words)
    return _Finding(STUDENT if difference.low > 0 else TEACHER, words)


def _tasks(student: Row, rival: Row) -> _Finding | None:
    """The task with the largest certain difference; None without one."""
    certain = [(name, each) for name, each in student.over_rival.items() if name in student.tasks and each.sure]
    if not certain:
        return None
    name, difference = max(certain, key=lambda item: abs(item[1].difference))
    own, theirs = (show(row.tasks[name].share, "share") for row in (student, rival))
    interval = f"{show(difference.low, 'share')} to {show(difference.high, 'share')}"
    words = f"on {name} the student is right on {own}, the teacher on {theirs} (difference from {interval})"
    return _Finding(STUDENT if difference.low > 0 else TEACHER, words)


def _closeness(report: Report, student: Row, rival: Row) -> _Finding | None:
    """The KL to the teacher, on the text where either's is highest."""
    pairs = [(name, student.on(name).teacher.kl_mean, rival.on(name).teacher.kl_mean) for name in report.judge_names]
    kls = [(name, own, theirs) for name, own, theirs in pairs if own is not None and theirs is not None]
    if not kls:
        return None
    name, own, theirs = max(kls, key=lambda each: max(each[1:]))
    words = (
        f"on {name} the student's KL to the float teacher is {show(own, NATS)} nats a token, that of the "
        f"{rival.label} {show(theirs, NATS)}"
    )
    if abs(own - theirs) <= NOTICEABLE_KL:
        return _Finding(None, words)
    return _Finding(STUDENT if own < theirs else TEACHER, words)


def _perplexity(report: Report, student: Row, rival: Row) -> _Finding | None:
    """The perplexity on the first text, where no KL to the teacher could be had."""
    judge = report.first_judge
    own, theirs = student.on(judge).ppl, rival.on(judge).ppl
    if own is None or theirs is None:
        return None
    shown, other = show(own, "perplexity"), show(theirs, "perplexity")
    words = f"on {judge} the student's perplexity is {shown}, that of the {rival.label} {other}"
    if max(own, theirs) <= (1 + NOTICEABLE_KL) * min(own, theirs):
        return _Finding(None, words)
    return _Finding(STUDENT if own < theirs else TEACHER, words)


def _speed(student: Row, rival: Row) -> _Finding | None:
    """Who writes faster, and how many times."""
    own, theirs = student.speed.decode.mean, rival.speed.decode.mean
    if not own or not theirs:
        return None
    figures = f"the student writes {show_rate(own)}, the teacher {show_rate(theirs)}"
    ratio = max(own, theirs) / min(own, theirs)
    if ratio < FASTER:
        return _Finding(None, f"{figures}, alike")
    ahead = STUDENT if own > theirs else TEACHER
    return _Finding(ahead, f"{figures}; the {ahead} is {ratio:.2f} times as fast")


def _excess(report: Report, student: Row, rival: Row) -> str:
    """That no grid takes the teacher down to the student's bytes, where it is so."""
    excess = (rival.file_bytes or 0) - (student.file_bytes or 0)
    if not (report.rival and report.rival.excess_bytes and excess > 0):
        return ""
    return f" Even in the smallest grids the teacher is {show_bytes(excess)} larger than the student."


def _place(ship: str, rival: Row) -> str:
    return f" It lies in the run at {rival.file}." if ship == TEACHER and rival.file else ""

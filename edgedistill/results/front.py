"""The Pareto front: which files are worth choosing between. Page, terminal and CSV all show this one.

A figure that differs by less than measuring can tell counts as equal; otherwise chance would put a file on the front
beside one that is as good.
"""

import math
from collections.abc import Sequence

from edgedistill.results.chance import telling_rows
from edgedistill.results.report import Front, Report
from edgedistill.results.row import Row

AXES = ("file_bytes", "decode_tokens_per_s", "kl", "task")
# Factors that a difference must reach: 0.5 % of a size (metadata differ between two files of the same weights), 3 % of
# a speed (what trials in turn leave of the noise), 5 % of a KL (a few thousand tokens).
STEPS = {"file_bytes": 1.005, "decode_tokens_per_s": 1.03, "kl": 1.05}
LEAST_KL = 1e-4  # a smaller KL, in nats per token, is the runtime's own rounding
LEAST_TASK_STEP = 0.01
# What may be recommended; a float file is only compared with. A file that came quantized may be the one to keep.
OFFERED = ("recovered", "rounded")
GIVEN = "teacher"  # the kind of the row of the file as it was given, where the student is that model

Key = tuple[float | None, ...]


def front_of(report: Report) -> Front:
    """The front of a report's rows, over all its judges and the tasks that tell something."""
    given = (GIVEN,) if report.student.as_is else ()
    kinds = ("float", *OFFERED, *given)
    return Front(AXES, tuple(pareto_front(telling_rows(report), report.judge_names, kinds)))


def pareto_front(rows: Sequence[Row], judges: Sequence[str], kinds: Sequence[str] = ("float", *OFFERED)) -> list[str]:
    """Labels of the rows that no other beats, in the order of the rows.

    One row beats another where it is at least as good in each of AXES and better in one. A figure that is missing beats
    nothing; a row that has it is as good as one that lacks it. Rows without a size or a KL are on no front.

    Args:
        rows: a report's.
        judges: names of the texts that KL is taken over.
        kinds: the kinds of rows that are compared.
    """
    able = [row for row in rows if row.kind in kinds and row.file_bytes and mean_kl(row, judges) is not None]
    keys = _keys(able, judges)
    return [able[index].label for index in unbeaten(keys)]


def unbeaten(keys: Sequence[Key]) -> list[int]:
    """Indices of the keys that no other beats."""
    return [index for index, key in enumerate(keys) if not any(beats(other, key) for other in keys)]


def beats(one: Key, other: Key) -> bool:
    """Whether a key is at least as good on every axis and better on one; higher is better on each, None is missing."""
    pairs = list(zip(one, other, strict=True))
    if any(b is not None and (a is None or a < b) for a, b in pairs):
        return False
    return any(a is not None and b is not None and a > b for a, b in pairs)


def mean_kl(row: Row, judges: Sequence[str]) -> float | None:
    """Mean KL to the float model over the judges, in nats per token; None where one of them is missing."""
    kls = _kls(row, judges)
    return sum(kls) / len(kls) if kls else None


def worst_kl(row: Row, judges: Sequence[str]) -> float | None:
    """The highest mean KL of all judges; None where one of them is missing."""
    return max(_kls(row, judges), default=None)


def mean_task(row: Row) -> float | None:
    """Mean share of right answers over the multiple-choice tasks; None without tasks."""
    shares = [task.share for task in row.tasks.values()]
    return sum(shares) / len(shares) if shares else None


def task_score(row: Row) -> float | None:
    """Share of the user's own task's rows that a file answers rightly, in [0, 1]; None where it wasn't asked."""
    return row.task.share if row.task is not None else None


def twin_speed(row: Row, rows: Sequence[Row]) -> float | None:
    """Decoding speed in tokens/s: rounded and recovered files of one mix have the same tensors, so their mean is what
    each of them has.
    """
    speeds = [twin.speed.decode.mean for twin in rows if row.is_twin(twin)]
    measured = [speed for speed in speeds if speed is not None]
    return sum(measured) / len(measured) if measured else row.speed.decode.mean


def in_steps(value: float, axis: str) -> float:
    """A figure above 0 in steps of its axis' factor: figures in one step count as equal."""
    return float(round(math.log(value) / math.log(STEPS[axis])))


def _kls(row: Row, judges: Sequence[str]) -> list[float]:
    """Mean KL to the float model on each judge; none at all where one is missing."""
    kls = [row.on(judge).student.kl_mean for judge in judges]
    measured = [kl for kl in kls if kl is not None]
    return measured if len(measured) == len(kls) else []


def _keys(rows: Sequence[Row], judges: Sequence[str]) -> list[Key]:
    """Each row's figures in steps, higher always better."""
    step = _task_step(rows)
    return [_key(row, rows, judges, step) for row in rows]


def _key(row: Row, rows: Sequence[Row], judges: Sequence[str], step: float) -> Key:
    kl, speed = mean_kl(row, judges), twin_speed(row, rows)
    task = mean_task(row) if row.task is None else task_score(row)
    assert row.file_bytes is not None
    assert kl is not None
    return (
        -in_steps(row.file_bytes, "file_bytes"),
        in_steps(speed, "decode_tokens_per_s") if speed else None,
        -in_steps(max(kl, LEAST_KL), "kl"),
        None if task is None else float(round(task / step)),
    )


def _task_step(rows: Sequence[Row]) -> float:
    """Half the widest interval of any task's share, which a difference must reach to count; at least a hundredth. The
    user's own task comes before all others.
    """
    widths = [row.task.high - row.task.low for row in rows if row.task is not None]
    widths = widths or [task.high - task.low for row in rows for task in row.tasks.values()]
    return max([LEAST_TASK_STEP, *(width / 2 for width in widths)])

"""What of the rows and of a mix's layer errors has a record behind it; the rest is left out and named.

A figure stands on a record of the same label, file, text and value. A list stands on one of its mean, since a record an
entry would be thousands. A difference from the float row stands on both rows' shares, whose difference it must be.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from edgedistill.results.measurement import LayerError
from edgedistill.results.record import Record
from edgedistill.results.row import LLAMA_CPP, RIVAL, Quality, Row, Speed, Timing
from edgedistill.results.share import Difference, TaskShare
from edgedistill.results.task import TaskScore

COUNTS = ("tokens",)  # how much was judged; not itself a measurement


def same(first: float, second: float) -> bool:
    """Whether two numbers are the same but for the last digits that text and sums lose."""
    return math.isclose(first, second, rel_tol=1e-6, abs_tol=1e-12)


class Sources:
    """The records, and the figures that were left out for want of one."""

    def __init__(self, records: Sequence[Record]) -> None:
        self.records = records
        self.left_out: list[str] = []

    def vouch(self, row: Row, value: float | None, name: str, judge: str | None = None) -> bool:
        """Whether a record of the row has the value; if not, and there is a value, it is named as left out."""
        if value is None:
            return False
        own = (r for r in self.records if r.artifact == row.label and r.file_sha256 == row.sha256)
        if any(same(record.value, value) and record.text in (judge, None) for record in own):
            return True
        self.leave_out(row.label, f"{judge}, {name}" if judge else name)
        return False

    def leave_out(self, owner: str, name: str) -> None:
        """Name a figure that isn't shown."""
        self.left_out.append(f"{owner}: {name}")


def sourced_row(row: Row, sources: Sources) -> Row:
    """The row with only those figures that a record vouches for; of its differences see `sourced_differences`."""
    quality = {judge: _quality(row, judge, figures, sources) for judge, figures in row.quality.items()}
    speed = _speed(row, sources)
    task = _task(row, row.task, sources) if row.task else None
    tasks = _shares(row, "tasks", row.tasks, sources)
    refusals = _shares(row, "refusals", row.refusals, sources)
    mean = _mean(token.kl for token in row.worst)
    worst = row.worst if sources.vouch(row, mean, "worst tokens") else ()
    return replace(row, quality=quality, speed=speed, task=task, tasks=tasks, refusals=refusals, worst=worst)


def sourced_differences(rows: Sequence[Row], sources: Sources) -> list[Row]:
    """The rows with their paired differences from the float row and from the rival's, where both shares are there and
    differ by so much; those of the user's own task from the teacher's too.
    """
    base, rival = (next((shares_of(row) for row in rows if row.kind == kind), {}) for kind in ("float", RIVAL))
    scores = {row.kind: row.task for row in reversed(rows) if row.task is not None}
    return [
        replace(
            row,
            differences=_differences(row, row.differences, base, sources),
            over_rival=_differences(row, row.over_rival, rival, sources),
            task=_task_differences(row, row.task, scores, sources) if row.task else None,
        )
        for row in rows
    ]


def shares_of(row: Row) -> dict[str, float]:
    """Shares by the names that `differences` has: of tasks, and "refusals unsafe" and "refusals safe"."""
    shares = {name: task.share for name, task in row.tasks.items()}
    return shares | {f"refusals {name}": refusals.share for name, refusals in row.refusals.items()}


def sourced_layers(
    layers: Mapping[str, Sequence[LayerError]], rows: Sequence[Row], sources: Sources
) -> dict[str, tuple[LayerError, ...]]:
    """Each mix's errors by tensor, None everywhere of a kind (rounded, recovered) whose mean has no record; a mix
    without any goes.
    """
    sourced: dict[str, tuple[LayerError, ...]] = {}
    for mix, entries in layers.items():
        kept = tuple(entries)
        if not _layers_vouched(mix, "rounded", kept, rows, sources):
            kept = tuple(replace(entry, rounded=None) for entry in kept)
        if not _layers_vouched(mix, "recovered", kept, rows, sources):
            kept = tuple(replace(entry, recovered=None) for entry in kept)
        if any(entry.rounded is not None or entry.recovered is not None for entry in kept):
            sourced[mix] = kept
    return sourced


def _quality(row: Row, judge: str, figures: Quality | None, sources: Sources) -> Quality | None:
    if figures is None:
        return None
    flat = figures.to_json()
    kept = {name: value for name, value in flat.items() if name in COUNTS or sources.vouch(row, value, name, judge)}
    return Quality.from_json({name: kept.get(name) for name in flat})


def _speed(row: Row, sources: Sources) -> Speed:
    speed = row.speed
    return replace(
        speed,
        prefill_tokens_per_s=_timing(row, speed.prefill_tokens_per_s, "prefill_tokens_per_s", sources),
        decode_tokens_per_s=_timing(row, speed.decode_tokens_per_s, "decode_tokens_per_s", sources),
        load_s=speed.load_s if sources.vouch(row, speed.load_s, "load_s") else None,
        peak_rss_bytes=speed.peak_rss_bytes if sources.vouch(row, speed.peak_rss_bytes, "peak_rss_bytes") else None,
    )


def _timing(row: Row, timing: Timing | None, name: str, sources: Sources) -> Timing | None:
    return timing if timing and sources.vouch(row, timing.mean, name) else None


def _shares(row: Row, key: str, shares: Mapping[str, TaskShare], sources: Sources) -> dict[str, TaskShare]:
    return {name: share for name, share in shares.items() if sources.vouch(row, share.share, f"{key} share", name)}


def _task(row: Row, task: TaskScore, sources: Sources) -> TaskScore | None:
    """The user's task with those figures that have a record; None where its share has none."""
    figures = {name: value for name, value in task.figures.items() if sources.vouch(row, value, f"task, {name}")}
    return replace(task, figures=figures) if sources.vouch(row, task.share, f"task, {task.metric}") else None


def _task_differences(row: Row, task: TaskScore, scores: Mapping[str, TaskScore], sources: Sources) -> TaskScore:
    """The score with the differences that are those of the rows' shares, and the F1 of fields likewise.

    Args:
        scores: of the float row, the teacher's and the rival's, by their kind.
    """

    def kept(difference: Difference | None, own: float, base: float | None, name: str) -> Difference | None:
        if difference is None or (base is not None and same(own - base, difference.difference)):
            return difference
        sources.leave_out(row.label, f"task, {name}")
        return None

    shares = {kind: score.share for kind, score in scores.items()}
    f1s = {kind: score.f1.f1 for kind, score in scores.items() if score.f1 is not None}
    f1 = task.f1 if task.f1 is not None and task.f1.f1 == task.figures.get("field_f1") else None
    if f1 is not None:
        f1 = replace(
            f1,
            to_float=kept(f1.to_float, f1.f1, f1s.get("float"), "F1, difference to the float"),
            to_teacher=kept(f1.to_teacher, f1.f1, f1s.get("teacher"), "F1, difference to the teacher"),
        )
    return replace(
        task,
        to_float=kept(task.to_float, task.share, shares.get("float"), "difference to the float"),
        to_teacher=kept(task.to_teacher, task.share, shares.get("teacher"), "difference to the teacher"),
        to_rival=kept(task.to_rival, task.share, shares.get(RIVAL), "difference to the rival"),
        f1=f1,
    )


def _differences(
    row: Row, differences: Mapping[str, Difference], base: Mapping[str, float], sources: Sources
) -> dict[str, Difference]:
    shares, kept = shares_of(row), {}
    for name, difference in differences.items():
        both = name in shares and name in base
        if both and same(shares[name] - base[name], difference.difference):
            kept[name] = difference
        else:
            sources.leave_out(row.label, f"{name}, difference")
    return kept


def _layers_vouched(mix: str, kind: str, entries: Sequence[LayerError], rows: Sequence[Row], sources: Sources) -> bool:
    """Whether a record has the mean error of a kind of file; True where there is no error at all."""
    mean = _mean(entry.error(kind) for entry in entries)
    if mean is None:
        return True
    files = [(row.label, row.sha256) for row in rows if (row.mix, row.kind, row.runtime) == (mix, kind, LLAMA_CPP)]
    if any((record.artifact, record.file_sha256) in files and same(record.value, mean) for record in sources.records):
        return True
    sources.leave_out(f"{mix} {kind}", "layer errors")
    return False


def _mean(values: Iterable[float | None]) -> float | None:
    """The mean of the numbers there are; None where there is none."""
    numbers = [value for value in values if value is not None]
    return math.fsum(numbers) / len(numbers) if numbers else None

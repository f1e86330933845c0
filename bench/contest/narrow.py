"""What the students of a narrow task show together, and their picture: the score against bytes and against tokens/s."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgedistill.measure.bootstrap import middle, resampled_sums
from edgedistill.measure.intervals import CONFIDENCE

STUDENTS = {"float": "float-student", "packed": "q4_0-recovered-llama.cpp"}
MARKS = {"distilled": "o", "labels": "s"}
COLOURS = {"half": "C0", "quarter": "C1"}


def summary(students: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """By size: the share of the teacher's score that the float student and its packed file reach, mean over seeds; and
    what distilling adds to the labels alone, and to the teacher in its smallest grids, with paired intervals.

    The interval resamples the test's rows; a row's difference is the mean over the seeds.
    """
    found: dict[str, Any] = {}
    for size in dict.fromkeys(each["size"] for each in students):
        ours = {
            each["seed"]: each["right"] for each in students if (each["size"], each["learnt"]) == (size, "distilled")
        }
        labels = {
            each["seed"]: each["right"] for each in students if (each["size"], each["learnt"]) == (size, "labels")
        }
        if not ours:
            continue
        found[size] = {"seeds": sorted(ours)}
        for name, row in STUDENTS.items():
            right = np.stack([_bits(each[row]) for each in ours.values()])
            teacher = np.stack([_bits(each["teacher"]) for each in ours.values()])
            found[size][name] = {
                "score": float(right.mean()),
                "teacher": float(teacher.mean()),
                "of_teacher": float(right.mean() / teacher.mean()),
            }
            both = sorted(set(ours) & set(labels))
            if both:
                pairs = np.stack([_bits(ours[seed][row]) - _bits(labels[seed][row]) for seed in both])
                found[size][name]["above_labels"] = _difference(pairs)
        rivals = [
            (_bits(each[STUDENTS["packed"]]), _bits(each[rival]))
            for each in ours.values()
            for rival in each
            if rival.startswith("teacher-in")
        ]
        if rivals:
            found[size]["packed"]["above_rival"] = _difference(np.stack([own - other for own, other in rivals]))
    return found


def _bits(right: str) -> np.ndarray:
    return np.array([int(bit) for bit in right], np.int64)


def _difference(pairs: np.ndarray) -> dict[str, float]:
    """The mean of differences [seeds, rows], and its 95 % interval over the rows."""
    rows = pairs.mean(0)
    low, high = middle(resampled_sums(rows) / len(rows), CONFIDENCE)
    return {"difference": float(rows.mean()), "low": low, "high": high}


def draw(record: dict[str, Any], out: Path) -> None:
    """Write an SVG file, whose bytes depend on the record alone."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams.update({"svg.hashsalt": "edgedistill", "font.size": 8})
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(9, 4), sharey=True)
    for points, style in _series(record):
        for axis, column in zip(axes, (0, 1), strict=True):
            axis.plot([point[column] for point in points], [100 * point[2] for point in points], **style)
            style = {**style, "label": None}
    axes[0].set(xlabel="file, MB", ylabel="right answers, %", xscale="log")
    axes[1].set(xlabel="tokens/s", xscale="log")
    axes[0].legend(fontsize=6)
    figure.tight_layout()
    figure.savefig(out, metadata={"Date": None})
    plt.close(figure)


Point = tuple[float, float, float]  # MB, tokens/s, share of right answers


def _series(record: dict[str, Any]) -> list[tuple[list[Point], dict[str, Any]]]:
    """Points and how they are drawn: the students, packed, and the teacher in each of its formats."""
    found: list[tuple[list[Point], dict[str, Any]]] = []
    students = list(record["students"].values())
    for size, colour in COLOURS.items():
        for learnt, mark in MARKS.items():
            rows = [
                row for each in students if (each["size"], each["learnt"]) == (size, learnt) for row in each["rows"]
            ]
            points = [_point(row) for row in rows if row["kind"] == "recovered"]
            label = f"student, {size}, {'distilled' if learnt == 'distilled' else 'labels alone'}, q4_0"
            found.append((points, {"marker": mark, "color": colour, "linewidth": 0, "label": label}))
    teachers = [row for each in students for row in each["rows"] if row["kind"] in ("teacher", "rival")]
    teachers += [row for row in record.get("grids", []) if row["kind"] not in ("teacher", "rounded")]
    points = sorted({_point(row) for row in {row["sha256"]: row for row in teachers}.values()})
    found.append((points, {"marker": "x", "color": "C3", "linewidth": 1, "label": "the teacher in its grids"}))
    return [(points, style) for points, style in found if points]


def _point(row: dict[str, Any]) -> Point:
    return row["file_bytes"] / 1e6, row["speed"]["decode_tokens_per_s"]["median"], row["task"]["share"]

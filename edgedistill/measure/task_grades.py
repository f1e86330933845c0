"""Right or wrong: a file's answers to the user's task, held against the rows' own.

classify    accuracy, blanks and case aside; the mean over labels of 2 TP / (2 TP + FP + FN) (macro F1); the share of
            answers that are no label at all
extract     exact match of the whole object, whatever the order of its keys; of the (field, value) pairs of all objects
            the share of the expected ones that are there, and 2 TP / (2 TP + FP + FN) (micro F1); valid JSON objects
text        exact match, blanks aside, or what the user's verifier says

Source of both F1: Manning, Raghavan and Schütze 2008, Introduction to Information Retrieval, section 13.6.
"""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from edgedistill.config.task_data import canonical, label_of
from edgedistill.config.task_rows import object_of
from edgedistill.measure.bootstrap import micro_f1

# A field's place in an object, from the outside in; an element of a list has "[]", whichever it is.
Path = tuple[str, ...]
Pairs = Counter[tuple[Path, str]]


@dataclass(frozen=True)
class Grades:
    """Which answers are right, the other figures of the kind by their names (results/task.py), and of objects what each
    row adds to the F1: true positives, false positives, false negatives.
    """

    right: list[bool]
    figures: dict[str, float]
    fields: tuple[tuple[int, ...], ...] = ()


@dataclass
class Counts:
    """True positives, false positives, false negatives."""

    both: int = 0
    only_got: int = 0
    only_expected: int = 0

    @property
    def f1(self) -> float:
        """2 TP / (2 TP + FP + FN); 0 where nothing was found of nothing."""
        total = 2 * self.both + self.only_got + self.only_expected
        return 2 * self.both / total if total else 0.0


def grade_labels(expected: Sequence[str], got: Sequence[str], labels: Sequence[str]) -> Grades:
    """Answers that should be one of the labels.

    Args:
        expected, got: by item.
        labels: all of them; an answer that is none of them is wrong, and counts for no label's precision.
    """
    known = {label_of(label) for label in labels}
    pairs = [(label_of(one), label_of(other)) for one, other in zip(expected, got, strict=True)]
    counts = {label: Counts() for label, _ in pairs}
    for right, answer in pairs:
        if right == answer:
            counts[right].both += 1
            continue
        counts[right].only_expected += 1
        if answer in counts:
            counts[answer].only_got += 1
    figures = {
        "macro_f1": sum(each.f1 for each in counts.values()) / len(counts),
        "no_label_share": sum(answer not in known for _, answer in pairs) / len(pairs),
    }
    return Grades([right == answer for right, answer in pairs], figures)


def grade_objects(expected: Sequence[str], got: Sequence[str]) -> Grades:
    """Answers that should be the JSON of an object, whatever the order of its keys."""
    right, valid, fields = [], 0, []
    for one, other in zip(expected, got, strict=True):
        value = object_of(other)
        valid += value is not None
        right.append(value is not None and canonical(value) == canonical(json.loads(one)))
        right_pairs, got_pairs = pairs_of(json.loads(one)), pairs_of(value)
        fields.append(
            ((right_pairs & got_pairs).total(), (got_pairs - right_pairs).total(), (right_pairs - got_pairs).total())
        )
    both, missing = sum(each[0] for each in fields), sum(each[2] for each in fields)
    figures = {
        "field_share": both / (both + missing),
        "field_f1": micro_f1(fields),
        "valid_json_share": valid / len(right),
    }
    return Grades(right, figures, tuple(fields))


def grade_texts(expected: Sequence[str], got: Sequence[str]) -> Grades:
    """Answers that should be the rows' own texts, but for blanks."""
    return Grades([one.split() == other.split() for one, other in zip(expected, got, strict=True)], {})


def pairs_of(value: dict[str, Any] | None) -> Pairs:
    """The (field, value) pairs of an object, each as often as it is there; none of None. Values are canonical JSON;
    what an inner object or a list holds has its field's path before it.
    """
    pairs: Pairs = Counter()
    waiting: list[tuple[Path, Any]] = [] if value is None else [((name,), inner) for name, inner in value.items()]
    while waiting:
        path, inner = waiting.pop()
        if isinstance(inner, dict) and inner:
            waiting += [((*path, name), each) for name, each in inner.items()]
        elif isinstance(inner, list) and inner:
            waiting += [((*path, "[]"), each) for each in inner]
        else:
            pairs[path, canonical(inner)] += 1
    return pairs

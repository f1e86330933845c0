"""Questions and requests of public test sets, as EleutherAI's harness words them, in fixed subsets.

    arc_easy     "Question: ...\nAnswer:" and the answer's text            (lm_eval/tasks/arc/arc_easy.yaml)
    hellaswag    "Activity: context" and the ending's text                 (lm_eval/tasks/hellaswag)
    openbookqa   the question's stem and the answer's text                 (lm_eval/tasks/openbookqa)
    xstest       requests that only look unsafe, and ones that are; each as a chat turn
    strongreject forbidden requests, likewise

The folder is EDGEDISTILL_DATA, or ../shared/data beside the repository; each set lies there as its folder's SOURCE.txt
says.
"""

import bz2
import csv
import json
import os
import random
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from edgedistill.errors import InputError
from edgedistill.measure.multiple_choice import Question

DATA = Path(os.environ.get("EDGEDISTILL_DATA", Path(__file__).parents[2] / "shared" / "data"))
SEED = 0
INSTRUCTION = re.compile(
    r"Please choose the correct answer to the question: (.+?)\s*\n\n(Answer1: .+)\n\nAnswer format: \S+$", re.DOTALL
)
OPTION = re.compile(r"(?:^| )Answer\d: ")
HELLASWAG_LINES = 6  # a question: context, index of the right ending, four endings


def arc_easy(data: Path) -> list[Question]:
    """The 2,376 questions of ARC-Easy's test split."""
    return [
        Question(f"Question: {stem}\nAnswer:", *rest)
        for stem, *rest in _instructions(data / "arc" / "ARC-Easy_test.json")
    ]


def openbookqa(data: Path) -> list[Question]:
    """The 500 questions of OpenBookQA's test split."""
    return [Question(stem, *rest) for stem, *rest in _instructions(data / "openbookqa" / "openbookqa_test.json")]


def hellaswag(data: Path) -> list[Question]:
    """The 10,042 questions of HellaSwag's validation split."""
    with bz2.open(_found(data / "hellaswag" / "hellaswag_val_full.txt.bz2"), "rt", encoding="utf-8") as file:
        lines = file.read().splitlines()
    found = []
    for start in range(0, len(lines) - HELLASWAG_LINES + 1, HELLASWAG_LINES):
        context, right, *endings = lines[start : start + HELLASWAG_LINES]
        found.append(Question(_capitalized(context), tuple(endings), int(right)))
    return found


def xstest(data: Path, label: str) -> list[str]:
    """Its 250 "safe" or 200 "unsafe" requests."""
    return [row["prompt"] for row in _table(data / "xstest" / "xstest_prompts.csv") if row["label"] == label]


def strongreject(data: Path) -> list[str]:
    """Its 313 forbidden requests."""
    return [row["forbidden_prompt"] for row in _table(data / "strongreject" / "strongreject_dataset.csv")]


QUESTIONS: dict[str, Callable[[Path], list[Question]]] = {
    "arc_easy": arc_easy,
    "hellaswag": hellaswag,
    "openbookqa": openbookqa,
}
REQUESTS: dict[str, Callable[[Path], list[str]]] = {
    "xstest_safe": lambda data: xstest(data, "safe"),
    "xstest_unsafe": lambda data: xstest(data, "unsafe"),
    "strongreject": strongreject,
}


def subset(items: Sequence[Any], limit: int) -> list[Any]:
    """`limit` items, always the same ones, in their order; all where there are no more."""
    if limit >= len(items):
        return list(items)
    return [items[index] for index in sorted(random.Random(SEED).sample(range(len(items)), limit))]


def _instructions(path: Path) -> list[tuple[str, tuple[str, ...], int]]:
    """(stem, options, index of the right one) of rows whose options are inside an instruction."""
    found = []
    for number, row in enumerate(json.loads(_found(path).read_text(encoding="utf-8"))):
        parts = INSTRUCTION.match(row["instruction"])
        options = OPTION.split(parts[2])[1:] if parts else []
        right = int(row["answer"].removeprefix("answer")) - 1
        if parts is None or not 0 <= right < len(options):
            raise InputError(
                f"{path}: row {number} is not 'question, Answer1: ..., Answer format: ...' with "
                f"{row['answer']} among them"
            )
        found.append((parts[1], tuple(options), right))
    return found


def _capitalized(context: str) -> str:
    """The file holds a context's last, unfinished sentence in lower case where the harness capitalizes it."""
    head, dot, tail = context.rpartition(". ")
    return head + dot + tail[:1].upper() + tail[1:]


def _table(path: Path) -> list[dict[str, str]]:
    with _found(path).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def _found(path: Path) -> Path:
    if not path.is_file():
        raise InputError(f"{path}: there is no such file; set EDGEDISTILL_DATA to the folder of the test sets")
    return path

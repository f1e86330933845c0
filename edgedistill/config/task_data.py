"""A task's rows, read and split: what is learned and what every file is asked, no prompt on both sides.

`read_task` is the one way to them: the plan checks the files with it before anything long begins, teach and a
specialised teacher learn from `learn`, and measure asks `test`.
"""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from edgedistill.config.conversation import Message, Prompt
from edgedistill.config.prompt_id import place_of, prompt_id_of
from edgedistill.config.task import AUTO, CLASSIFY, EXTRACT, TEXT, Task, TaskKind
from edgedistill.config.task_rows import TaskRow, read_rows
from edgedistill.config.tasks import evenly
from edgedistill.errors import InputError

LEAST_ROWS = 10
LEAST_LEARN = 8
# A label is short, and comes again: with fewer rows a label than this on average, answers are texts.
LABEL_CHARACTERS = 64
ROWS_A_LABEL = 3
MOST_LABELS = 1000
# No vocabulary spells ordinary text in tokens of more characters; the model's own counts them before a build begins.
CHARACTERS_A_TOKEN = 16


@dataclass(frozen=True)
class Labelled:
    """One row: what is asked, the right answer, and the row's place in its file, "FILE:LINE".

    `messages` are a system's or none, then users' and answers in turn; the last is a user's. An object is
    JSON with its keys in the row's own order: what decides the rest should stand first.
    """

    messages: tuple[Message, ...]
    answer: str
    where: str

    @property
    def prompt(self) -> Prompt:
        """As a prompts file would bring it, with its answer."""
        return Prompt(self.messages, self.answer)

    @property
    def words(self) -> str:
        """All that is said before the answer, but for the system's message: what the row's side depends on."""
        return " ".join(message.text for message in self.messages if message.role != "system")

    @cached_property
    def prompt_id(self) -> str:
        """The id of `words`."""
        return prompt_id_of(self.words)


@dataclass(frozen=True)
class TaskData:
    """A task's rows.

    Attributes:
        kind: what its answers are.
        learn: rows to learn from, in the file's order.
        test: rows that no training sees.
        labels: of `classify`, every label once, by the number of rows; None of other kinds.
        fields: of `extract`, the names of the answers' fields, in the order of their first row; None of other kinds.
        notes: what a user should know, a sentence each without its full stop.
    """

    kind: TaskKind
    learn: tuple[Labelled, ...]
    test: tuple[Labelled, ...]
    labels: tuple[str, ...] | None = None
    fields: tuple[str, ...] | None = None
    notes: tuple[str, ...] = ()

    def learning_prompts(self) -> tuple[Prompt, ...]:
        """The rows to learn from as prompts with their answers, in an order that has nothing to do with the file's:
        files are often sorted by label, and a budget may end within them.
        """
        rows = sorted(enumerate(self.learn), key=lambda row: (place_of(row[1].prompt_id, "order of the task"), row[0]))
        return tuple(row.prompt for _, row in rows)

    def test_ids(self) -> frozenset[str]:
        """Ids of the test prompts, with their system's message and without: none may be in a training text."""
        return _ids(self.test)

    def prompt_ids(self) -> frozenset[str]:
        """The same of all prompts."""
        return _ids((*self.learn, *self.test))

    def unfit(self, answer: str) -> str | None:
        """Why an answer that nobody labelled is none of this task's; None where it may be one."""
        if self.labels is not None and label_of(answer) not in {label_of(label) for label in self.labels}:
            return "no label of the task"
        if self.fields is not None:
            try:
                given = json.loads(answer)
            except (ValueError, RecursionError):
                return "no JSON"
            if not isinstance(given, dict) or not given or not given.keys() <= set(self.fields):
                return "no object of the task's fields"
        return None

    def asked(self, most: int) -> tuple[Labelled, ...]:
        """At most so many of the test rows, evenly over them."""
        return tuple(evenly(self.test, most))


def _ids(rows: Sequence[Labelled]) -> frozenset[str]:
    whole = (prompt_id_of(" ".join(message.text for message in row.messages)) for row in rows)
    return frozenset((*whole, *(row.prompt_id for row in rows)))


def canonical(value: Any) -> str:
    """JSON as it is trained on: keys sorted, `, ` and `: ` between, letters of any language as they are."""
    return json.dumps(value, ensure_ascii=False, sort_keys=True)


def label_of(answer: str) -> str:
    """What two spellings of a label must share: the words, whatever their case and the blanks around and between."""
    return " ".join(answer.split()).casefold()


def read_task(task: Task) -> TaskData:
    """The rows of a task.

    Raises:
        InputError: a file is missing or malformed, the rows don't fit the kind, one side is too small, or a test file
            shares prompts with the training file.
    """
    rows = tuple(read_rows(task, Path(task.file)))
    if len(rows) < LEAST_ROWS and not isinstance(task.test, str):
        raise InputError(
            f"{task.file}: {len(rows)} rows are too few to learn from and to test; give at least {LEAST_ROWS}"
        )
    tested = tuple(read_rows(task, Path(task.test))) if isinstance(task.test, str) else ()
    kind = _kind(task, (*rows, *tested))
    whole = tuple(_labelled(row, kind) for row in rows)
    if isinstance(task.test, str):
        learn, test = whole, tuple(_labelled(row, kind) for row in tested)
        _refuse_shared(task, learn, test)
    else:
        share = task.test
        test = tuple(row for row in whole if place_of(row.prompt_id, "test of the task") < share)
        learn = tuple(row for row in whole if place_of(row.prompt_id, "test of the task") >= share)
    data = _of_kind(kind, learn, test)
    _check_sides(task, data)
    _check_lengths(task, (*learn, *test))
    return data


def _kind(task: Task, rows: Sequence[TaskRow]) -> TaskKind:
    """What the answers are.

    Raises:
        InputError: they are of several kinds, or not of the task's.
    """
    objects = [row for row in rows if row.object is not None]
    others = [row for row in rows if row.object is None]
    written = next((row for row in rows if row.written_as_object), None)
    kind = task.kind
    if kind == EXTRACT:
        if others:
            raise InputError(
                f"{others[0].where}: the answer is no JSON object, and task.kind is extract; write an object"
            )
        return kind
    if kind == CLASSIFY and objects:
        raise InputError(f"{objects[0].where}: the answer is an object, and task.kind is classify; write a label")
    if kind == TEXT and written is not None:
        raise InputError(
            f"{written.where}: the answer is an object, and task.kind is text; write a text, or set extract"
        )
    if kind != AUTO:
        return kind
    if objects and others:
        raise InputError(
            f"{others[0].where}: the answer is a text, and that of {objects[0].where} is an object; answers must be of "
            "one kind. Write all as objects or none, or set task.kind"
        )
    if objects:
        return EXTRACT
    labels = {label_of(row.answer) for row in rows}
    few = len(labels) * ROWS_A_LABEL <= len(rows) and len(labels) <= MOST_LABELS
    short = all(len(row.answer) <= LABEL_CHARACTERS and "\n" not in row.answer.strip() for row in rows)
    return CLASSIFY if few and short else TEXT


def _labelled(row: TaskRow, kind: TaskKind) -> Labelled:
    answer = json.dumps(row.object, ensure_ascii=False) if kind == EXTRACT else row.answer.strip()
    return Labelled(row.messages, answer, row.where)


def _of_kind(kind: TaskKind, learn: tuple[Labelled, ...], test: tuple[Labelled, ...]) -> TaskData:
    """The rows with what their kind has: labels in one spelling each, or fields."""
    if kind == EXTRACT:
        names = dict.fromkeys(name for row in (*learn, *test) for name in json.loads(row.answer))
        return TaskData(kind, learn, test, fields=tuple(names))
    if kind == TEXT:
        return TaskData(kind, learn, test)
    spellings = _spellings((*learn, *test))
    learn, test = tuple(_spelled(learn, spellings)), tuple(_spelled(test, spellings))
    counts = Counter(row.answer for row in (*learn, *test))
    return TaskData(
        kind, learn, test, tuple(label for label, _ in counts.most_common()), notes=_label_notes(learn, test)
    )


def _spellings(rows: Sequence[Labelled]) -> dict[str, str]:
    """Of each label the spelling that most rows have, the first of equals."""
    counts = Counter(row.answer for row in rows)
    spellings: dict[str, str] = {}
    for answer, _ in counts.most_common():
        spellings.setdefault(label_of(answer), answer)
    return spellings


def _spelled(rows: Sequence[Labelled], spellings: dict[str, str]) -> Iterator[Labelled]:
    yield from (replace(row, answer=spellings[label_of(row.answer)]) for row in rows)


def _label_notes(learn: Sequence[Labelled], test: Sequence[Labelled]) -> tuple[str, ...]:
    missing = {row.answer for row in test} - {row.answer for row in learn}
    if not missing:
        return ()
    count = sum(row.answer in missing for row in test)
    rows = "1 test row has" if count == 1 else f"{count} test rows have"
    return (f"{rows} a label that no row to learn from has, such as '{min(missing)[:40]}'",)


def _refuse_shared(task: Task, learn: Sequence[Labelled], test: Sequence[Labelled]) -> None:
    places = {row.prompt_id: row.where for row in learn}
    shared = [row for row in test if row.prompt_id in places]
    if shared:
        first = shared[0]
        raise InputError(
            f"{task.test}: {len(shared)} of {len(test)} test prompts are among those to learn from too, the first at "
            f"{first.where} and {places[first.prompt_id]}; a figure on them would say nothing. "
            "Take them out of one file"
        )


def _check_sides(task: Task, data: TaskData) -> None:
    if not data.test:
        share = task.test if isinstance(task.test, float) else 0.0
        raise InputError(f"{task.file}: no row is in the test's share of {share:g}; raise task.test, or give more rows")
    if len(data.learn) < LEAST_LEARN:
        raise InputError(
            f"{task.file}: {len(data.learn)} rows are too few to learn from; give at least {LEAST_LEARN} beside those "
            "to test"
        )
    learned = {row.answer for row in data.learn}
    if data.kind == CLASSIFY and len(learned) < 2:
        raise InputError(
            f"{task.file}: all rows to learn from have the one label '{next(iter(learned))[:40]}'; give rows of "
            "at least two"
        )


def _check_lengths(task: Task, rows: Sequence[Labelled]) -> None:
    most = task.max_answer_tokens * CHARACTERS_A_TOKEN
    for row in rows:
        if len(row.answer) > most:
            raise InputError(
                f"{row.where}: the answer has {len(row.answer)} characters, which no {task.max_answer_tokens} tokens "
                "hold; raise task.max_answer_tokens, or shorten it"
            )

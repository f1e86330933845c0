"""A task's answers, tried before anything is built on them: their tokens counted by the model's own tokenizer, and the
user's verifier asked whether it takes them for right.
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING

from edgedistill.config.task import Task
from edgedistill.config.task_data import TaskData
from edgedistill.errors import InputError
from edgedistill.facts import ModelFacts
from edgedistill.models.tokenizer import plain_tokenizer, tokenizer_json
from edgedistill.models.vocabulary import read_vocabulary
from edgedistill.progress import Progress
from edgedistill.show import visible

if TYPE_CHECKING:
    from tokenizers import Tokenizer

VERIFIED_ROWS = 3


def check_answers(facts: ModelFacts, task: Task, data: TaskData) -> None:
    """Check that every answer, with the token that ends it, fits into task.max_answer_tokens, and these into the
    model's context. Nothing is counted while only the model's config is here.

    Raises:
        InputError: one doesn't.
    """
    most, context = task.max_answer_tokens, facts.shape.context
    if most >= context:
        raise InputError(
            f"task.max_answer_tokens is {most}; the model {facts.name} reads at most {context} tokens, prompt and "
            "answer together. Choose less"
        )
    # No token has less than a byte, so that most answers needn't be tokenized, which takes a vocabulary.
    long = [row for row in (*data.learn, *data.test) if len(row.answer.encode()) >= most]
    tokenizer = _tokenizer(Path(facts.location)) if long else None
    if tokenizer is None:
        return
    counts = [len(tokenizer.encode(row.answer, add_special_tokens=False).ids) + 1 for row in long]
    if max(counts) > most:
        first = next(index for index, count in enumerate(counts) if count > most)
        longer = sum(count > most for count in counts)
        raise InputError(
            f"{long[first].where}: the answer has {counts[first]} tokens with its end, and task.max_answer_tokens is "
            f"{most}. Set it to at least {max(counts)}, the most of all {longer} longer ones, or shorten them"
        )


def check_verifier(task: Task, data: TaskData, progress: Progress) -> None:
    """Check that the user's verifier, if there is one, takes some of the rows' own answers for right.

    Raises:
        InputError: it doesn't.
    """
    if task.verify is None:
        return
    from edgedistill.measure.verifier import Verifier

    rows = data.asked(VERIFIED_ROWS)
    progress.start(f"try task.verify: {visible(' '.join(task.verify), lines=False)}", len(rows), "answers")
    for row in rows:
        Verifier(task.verify, task.verify_seconds).accept(row)
        progress.advance(1)
    progress.finish()


def _tokenizer(location: Path) -> "Tokenizer | None":
    """The model's own; None where it isn't here yet."""
    if not (location.is_file() or (location / "tokenizer.json").is_file()):
        return None
    from tokenizers import Tokenizer

    if location.is_dir():
        return Tokenizer.from_str(plain_tokenizer(location).decode("utf-8-sig"))
    return Tokenizer.from_str(json.dumps(tokenizer_json(location, read_vocabulary(location))))

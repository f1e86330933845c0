"""Multiple choice: which option of a question a packed file finds likeliest, by log-likelihood, without writing
anything.

As EleutherAI's evaluation harness defines it (lm_eval/api/task.py and api/model.py, `multiple_choice`):
- a question is a text, and an option follows it after a blank. Both are tokenized together; tokens past the question's
  are the option's.
- `acc` takes the option with the largest Σ log p of its tokens, `acc_norm` the one with the largest such sum per
  character of the option (without the blank). Of equal ones the first.
- a question that is a conversation goes through the file's chat template, and the option is what the assistant says,
  without a blank.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from edgedistill.errors import InputError
from edgedistill.progress import Progress
from edgedistill.runtimes.base import Message, Runtime


@dataclass(frozen=True)
class Question:
    """A question with its options.

    Attributes:
        prompt: the text before the options, or a conversation that the option answers.
        options: the texts to choose from, not empty.
        right: index of the right one.
    """

    prompt: str | tuple[Message, ...]
    options: tuple[str, ...]
    right: int


@dataclass(frozen=True)
class QuestionAnswer:
    """A file's answer to a question: Σ log p of each option in nats, and the index of the option with the largest sum
    and with the largest sum per character.
    """

    log_probs: tuple[float, ...]
    chosen: int
    chosen_norm: int


def answer_questions(model: Runtime, questions: Sequence[Question], progress: Progress) -> list[QuestionAnswer]:
    """Ask a packed file every question.

    Raises:
        InputError: a question has fewer than two options, an empty one, or a right one that isn't there; or it doesn't
            fit the context.
    """
    for number, question in enumerate(questions):
        _check(number, question)
    tokens = [_tokens(model, question) for question in questions]
    answers = []
    for question, log_probs in zip(questions, model.choice_log_probs(tokens), strict=True):
        per_character = [value / len(option) for value, option in zip(log_probs, question.options, strict=True)]
        answers.append(QuestionAnswer(tuple(log_probs), _largest(log_probs), _largest(per_character)))
        progress.advance(1)
    return answers


def right_answers(questions: Sequence[Question], answers: Sequence[QuestionAnswer], normalized: bool) -> list[bool]:
    """Whether each question was answered rightly, by `acc_norm` if `normalized`, otherwise by `acc`."""
    chosen = [answer.chosen_norm if normalized else answer.chosen for answer in answers]
    return [choice == question.right for choice, question in zip(chosen, questions, strict=True)]


def _check(number: int, question: Question) -> None:
    count = len(question.options)
    if count < 2 or not all(question.options) or not question.prompt:
        raise InputError(
            f"question {number} has {count} options; it needs a prompt and at least two options, none of them empty"
        )
    if not 0 <= question.right < count:
        raise InputError(f"question {number}: the right option is {question.right}; it must be in 0..{count - 1}")


def _tokens(model: Runtime, question: Question) -> tuple[list[int], list[list[int]]]:
    """Ids of the prompt and of each option."""
    if not isinstance(question.prompt, str):
        _, ids = model.apply_template(question.prompt)
        return ids, [model.tokenize(option, special=False) for option in question.options]
    # A blank at the end would be a token of its own; tokenizers join it to the word that follows.
    ids = model.tokenize(question.prompt.rstrip(), special=False, add_bos=True)
    texts = [f"{question.prompt} {option}" for option in question.options]
    wholes = [model.tokenize(text, special=False, add_bos=True) for text in texts]
    return ids, [whole[len(ids) :] for whole in wholes]


def _largest(values: Sequence[float]) -> int:
    return max(range(len(values)), key=values.__getitem__)

"""What the files of one model are asked: the recipe's questions and requests that fit into its context, the same for
every file.

Whether one fits is decided once, by the model's own tokenizer, before any file is measured: files that are compared
answer the same items.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from edgedistill.config.recipe import Measure
from edgedistill.config.tasks import Choice, Item, ItemSet, chance_share, read_questions, read_requests
from edgedistill.measure.refusals import MAX_NEW
from edgedistill.models.hf_folder import read_shape
from edgedistill.models.tokenizer import load_tokenizer
from edgedistill.progress import Progress
from edgedistill.show import visible

SLACK = 8  # tokens by which a runtime's count may differ from the tokenizer's: a blank of its own, a bos token


@dataclass(frozen=True)
class Asked:
    """Questions and requests, by set, and the room in tokens that the longest of each needs with its option or its
    answer.
    """

    questions: tuple[ItemSet[Choice], ...]
    requests: tuple[ItemSet[str], ...]
    question_tokens: int
    request_tokens: int

    def to_list(self) -> list[dict[str, Any]]:
        """What was asked, for measure.json."""
        kinds = (("multiple choice", self.questions), ("refusals", self.requests))
        return [
            {
                "name": found.name,
                "kind": kind,
                "items": len(found.items),
                "source": found.source,
                "license": found.license,
                "chance": chance_share(found.items),
            }
            for kind, sets in kinds
            for found in sets
        ]


def choose_items(settings: Measure, model: Path, progress: Progress) -> Asked:
    """The recipe's items for a model; requests only if it has a chat template. What doesn't fit its context is left
    out, and said.

    Args:
        settings: the recipe's part.
        model: a folder with the model's config and tokenizer.
    Raises:
        InputError: a file of questions is wrong.
    """
    tokenizer, context = load_tokenizer(model), read_shape(model).context

    def question_tokens(item: Choice) -> int:
        return (
            max(len(tokenizer(f"{item.question} {option}", verbose=False)["input_ids"]) for option in item.options)
            + SLACK
        )

    def request_tokens(item: str) -> int:
        text = tokenizer.apply_chat_template(
            [{"role": "user", "content": item}], tokenize=False, add_generation_prompt=True
        )
        return len(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]) + MAX_NEW + SLACK

    questions: list[ItemSet[Choice]] = []
    requests: list[ItemSet[str]] = []
    longest_question = longest_request = 0
    for entry in settings.tasks:
        asked, longest = _fitting(read_questions(entry, settings.task_items), question_tokens, context, progress)
        questions += asked
        longest_question = max(longest_question, longest)
    if settings.refusal_items and tokenizer.chat_template:
        for found in read_requests(settings.refusal_items):
            fitting, longest = _fitting(found, request_tokens, context, progress)
            requests += fitting
            longest_request = max(longest_request, longest)
    return Asked(tuple(questions), tuple(requests), longest_question, longest_request)


def _fitting(
    found: ItemSet[Item], tokens: Callable[[Item], int], context: int, progress: Progress
) -> tuple[list[ItemSet[Item]], int]:
    """The set with its items that fit (none where nothing does), and the tokens of the longest one."""
    lengths = [tokens(item) for item in found.items]
    kept = tuple(item for item, length in zip(found.items, lengths, strict=True) if length <= context)
    if left := len(found.items) - len(kept):
        why = f"longer than the model's context of {context} tokens and aren't asked"
        progress.note(f"{visible(found.name, lines=False)}: {left} of {len(found.items)} are {why}")
    sets = [replace(found, items=kept)] if kept else []
    return sets, max((length for length in lengths if length <= context), default=0)

"""What the files of one model are asked: the recipe's questions and requests that fit into its context, the same for
every file.

Whether an item fits is decided once, by the model's own tokenizer, before any file is measured: files that are compared
answer the same items.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from edgedistill.config.recipe import Measure
from edgedistill.config.tasks import Choice, Item, ItemSet, chance_share, read_questions, read_requests
from edgedistill.measure.refusals import MAX_NEW, asking
from edgedistill.measure.task_items import SLACK, TaskItems, context_of_model
from edgedistill.models.hf_folder import read_shape
from edgedistill.models.tokenizer import load_tokenizer
from edgedistill.progress import Progress
from edgedistill.results.measurement import TaskSet
from edgedistill.show import visible
from edgedistill.templates.render import render_for


@dataclass(frozen=True)
class Items:
    """Questions and requests, by set, and the room in tokens that the longest of each needs with its option or its
    answer; the system message that requests begin with; and the user's task, if there is one.
    """

    questions: tuple[ItemSet[Choice], ...]
    requests: tuple[ItemSet[str], ...]
    question_tokens: int
    request_tokens: int
    system: str | None = None
    task: TaskItems | None = None

    def task_sets(self) -> tuple[TaskSet, ...]:
        """What the sets are, for measure.json."""
        questions = [_task_set(one, "multiple choice") for one in self.questions]
        requests = [_task_set(one, "refusals") for one in self.requests]
        return (*questions, *requests)


def choose_items(
    settings: Measure, model: Path, progress: Progress, system: str | None = None, others: Sequence[Path] = ()
) -> Items:
    """The recipe's items for a model; requests only if it has a chat template. An item that doesn't fit its context is
    left out, and a note says so.

    Args:
        settings: the recipe's part.
        model: a folder with the model's config and tokenizer.
        progress: where the note is shown.
        system: the message that all chats of the training text began with, where there was one.
        others: folders or .gguf files of models with other tokenizers that are asked the same: an item must fit into
            theirs too.
    Raises:
        InputError: a file of questions is wrong.
    """
    tokenizer, context = load_tokenizer(model), read_shape(model).context
    tokenizers = [tokenizer, *map(load_tokenizer, others)]
    context = min([context, *map(context_of_model, others)])

    def question_tokens(item: Choice) -> int:
        texts = [f"{item.question} {option}" for option in item.options]
        return max(len(each(text, verbose=False)["input_ids"]) for each in tokenizers for text in texts) + SLACK

    def request_tokens(item: str) -> int:
        lengths = []
        for each in tokenizers:
            if each.chat_template:
                text = render_for(each, asking(item, system))
                lengths.append(len(each(text, add_special_tokens=False, verbose=False)["input_ids"]))
        return max(lengths) + MAX_NEW + SLACK

    questions: list[ItemSet[Choice]] = []
    requests: list[ItemSet[str]] = []
    longest_question = longest_request = 0
    for entry in settings.tasks:
        every = read_questions(entry, settings.task_items)
        fitting, longest = _fitting(every, question_tokens, context, progress)
        questions += fitting
        longest_question = max(longest_question, longest)
    if settings.refusal_items and tokenizer.chat_template:
        for each in read_requests(settings.refusal_items):
            fitting_requests, longest = _fitting(each, request_tokens, context, progress)
            requests += fitting_requests
            longest_request = max(longest_request, longest)
    return Items(tuple(questions), tuple(requests), longest_question, longest_request, system)


def _task_set(items: ItemSet[Choice] | ItemSet[str], kind: str) -> TaskSet:
    return TaskSet(items.name, kind, len(items.items), items.source, items.license, chance_share(items.items))


def _fitting(
    items: ItemSet[Item], tokens_of: Callable[[Item], int], context: int, progress: Progress
) -> tuple[list[ItemSet[Item]], int]:
    """The set with its items that fit (none where nothing does), and the tokens of the longest one."""
    kept, longest = [], 0
    for item in items.items:
        tokens = tokens_of(item)
        if tokens <= context:
            kept.append(item)
            longest = max(longest, tokens)
    if left := len(items.items) - len(kept):
        why = f"longer than the model's context of {context} tokens and aren't asked"
        progress.note(f"{visible(items.name, lines=False)}: {left} of {len(items.items)} are {why}")
    return ([replace(items, items=tuple(kept))] if kept else []), longest

"""From drafts to kept texts: the teacher's, or the file's own answers. Each is filtered, put into a split, and stored
as a trace and an example.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch

from edgedistill.data.example import Example, counted_from
from edgedistill.data.tokenize import tokenize
from edgedistill.data.trace import (
    ASSISTANT,
    TEXT,
    TRAIN,
    Sampling,
    Trace,
    Turn,
    Verdict,
    normalized,
    prompt_id_of,
    split_of,
)
from edgedistill.runtimes.sampling import BatchSettings
from edgedistill.signals.shards import FREE
from edgedistill.teach.drafts import HALF, Assignment, Draft
from edgedistill.teach.filters import CUT_OFF, DUPLICATE, why_dropped
from edgedistill.teach.writers import Continuation, read_signals

FILTERS = "filters"
ASKED = "asked already, by a row of the task or to judge on"


@dataclass(frozen=True)
class Text:
    """One kept text and where it goes."""

    split: str
    trace: Trace
    example: Example


@dataclass
class Selection:
    """Which texts of a round are kept.

    Attributes:
        assignment, source: whose they are.
        number: the round's.
        seed: the round's.
        seen: the normalized words of all texts that were kept so far; grows.
        dropped: how many were dropped, by reason; grows.
        count: texts kept of this round.
    """

    assignment: Assignment
    source: str
    number: int
    seed: int
    seen: set[str]
    dropped: Counter[str]
    count: int = field(default=0)

    def keeps(self, turns: Sequence[Turn], prompt_id: str, why: str | None) -> bool:
        """Whether a text is kept: not if it is a duplicate, if its prompt is held out, or if `why` says so."""
        words = normalized(" ".join(turn.text for turn in turns))
        if why is None and words in self.seen:
            why = DUPLICATE
        if why is None and prompt_id in self.assignment.never:
            why = ASKED
        if why is not None:
            self.dropped[why] += 1
            return False
        self.seen.add(words)
        return True

    def trace(self, turns: tuple[Turn, ...], prompt_id: str, sampling: Sampling | None) -> Trace:
        """The next kept text's; without sampling it is the user's own."""
        number, self.count = self.count, self.count + 1
        return Trace(
            f"{self.source or 'written-'}{self.number:05d}-{number:05d}",
            prompt_id,
            turns,
            "" if sampling is None else self.assignment.name,
            sampling,
            (Verdict(FILTERS, True),),
            self.source or "written",
        )


def written_text(selection: Selection, drafts: Sequence[Draft]) -> list[Text]:
    """The teacher's continuations of some drafts, without those that the filters drop."""
    assignment = selection.assignment
    settings, tokenizer = assignment.settings, assignment.tokenizer
    frame = None if selection.source == FREE else assignment.frame
    stops: Sequence[int] = ()
    if frame is not None:
        stops = frame.stop_ids
    elif tokenizer.eos_token_id is not None:
        stops = (tokenizer.eos_token_id,)
    temperature = settings.temperature if frame is None else settings.answer_temperature
    sampling = Sampling(temperature, settings.top_p, selection.seed)
    written = assignment.author.write(
        [draft.ids for draft in drafts],
        settings.max_answer_tokens,
        BatchSettings(temperature, settings.top_p, stops, assignment.top_k),
        selection.seed,
    )
    # A plain text has no end of its own: the limit only says where we stopped reading.
    ends = frame is not None and settings.cut_answers == "drop"
    texts = []
    for draft, continuation in zip(drafts, written, strict=True):
        answer = str(tokenizer.decode([token for token in continuation.tokens if token not in stops]))
        if continuation.finish == "length":
            answer = answer.rstrip(HALF)  # the limit may fall within a character of several tokens
        why = why_dropped(answer, continuation.tokens, continuation.finish if ends else "stop")
        if why is None and assignment.unfit is not None:
            why = assignment.unfit(answer)
        turns = (*draft.turns, Turn(TEXT if frame is None else ASSISTANT, answer))
        prompt_id = prompt_id_of(draft.question or answer)
        if selection.keeps(turns, prompt_id, why):
            trace = selection.trace(turns, prompt_id, sampling)
            example = written_example(draft.ids, continuation, draft.first, trace.id)
            texts.append(Text(split_of(prompt_id, assignment.holdout), trace, example))
    return texts


def own_texts(selection: Selection, drafts: Sequence[Draft]) -> list[Text]:
    """The drafts that have an answer of the file's, with the teacher's log-probabilities of it, as many as are kept.

    All answers of a conversation that the file brings count, those before the last too. The teacher reads all of a
    round at once.
    """
    texts = [text for draft in drafts if draft.own is not None and (text := _own_text(selection, draft, draft.own))]
    assignment = selection.assignment
    if not assignment.top_k or not texts:
        return texts
    examples = read_signals(assignment.author, [text.example for text in texts], assignment.top_k)
    return [replace(text, example=example) for text, example in zip(texts, examples, strict=True)]


def _own_text(selection: Selection, draft: Draft, answer: str) -> Text | None:
    """A draft with an answer; None where it isn't kept."""
    assignment = selection.assignment
    before = tuple(Turn(turn.role, turn.text, train=float(turn.role == ASSISTANT)) for turn in draft.turns)
    turns = (*before, Turn(ASSISTANT, answer))
    prompt_id = prompt_id_of(draft.question)
    settings = assignment.settings
    example = tokenize(Trace("", prompt_id, turns), assignment.tokenizer, assignment.frame)
    answer_tokens = len(example.tokens) - len(draft.ids)
    too_long = settings.cut_answers == "drop" and answer_tokens > settings.max_answer_tokens
    if not selection.keeps(turns, prompt_id, CUT_OFF if too_long else None):
        return None
    if answer_tokens > settings.max_answer_tokens:
        example = example.cut(len(draft.ids) + settings.max_answer_tokens)
    trace = selection.trace(turns, prompt_id, None)
    split = split_of(prompt_id, assignment.holdout)
    if split == TRAIN and assignment.question_weight:
        example = _with_question(assignment, draft, example)
    return Text(split, trace, replace(example, trace_id=trace.id))


def _with_question(assignment: Assignment, draft: Draft, example: Example) -> Example:
    """The same with the user's words counted too, and the token that ends them: of a single question behind the frame's
    opening; another conversation stays as it is.
    """
    frame = assignment.frame
    if frame is None or tuple(draft.ids[: len(frame.opening)]) != frame.opening:
        return example
    start = len(frame.opening)
    ends = [place for place in range(start, len(draft.ids)) if draft.ids[place] in frame.stop_ids]
    if not ends:
        return example
    weight = example.weight.clone()
    weight[start - 1 : ends[0]] = assignment.question_weight
    return replace(example, weight=weight)


def written_example(opening: Sequence[int], continuation: Continuation, first: int, trace_id: str = "") -> Example:
    """The ids of a text and its continuation, with the writer's signals from position `first` on, where it gave any."""
    tokens = torch.tensor([*opening, *continuation.tokens], dtype=torch.int32)
    rows = slice(first, len(tokens) - 1)
    signal = {}
    if continuation.ids is not None and continuation.log_probs is not None:
        signal = {"ids": continuation.ids[rows].clone(), "log_probs": continuation.log_probs[rows].clone()}
    return counted_from(tokens, first, signal, trace_id)

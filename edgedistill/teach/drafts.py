"""The beginnings that the teacher continues: questions, the user's prompts, a few words of prose, or nothing."""

import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from edgedistill.config.conversation import Prompt, shared_system
from edgedistill.config.teach import Teach
from edgedistill.data.frame import ChatFrame, RefusedError, make_frame
from edgedistill.data.prose import ProseWords, bos_of
from edgedistill.data.trace import SYSTEM, TEXT, USER, Holdout, Turn, normalized
from edgedistill.errors import InputError
from edgedistill.runtimes.sampling import BatchSettings
from edgedistill.teach.filters import DUPLICATE, why_dropped
from edgedistill.teach.writers import Writer

START_TOKENS = 8  # of prose before a free text: enough to say what it is about, too few to be continued word for word
HALF = "\ufffd"  # what a part of a character decodes to
REFUSED = "refused by the chat template"


@dataclass(frozen=True)
class Assignment:
    """Which teacher writes what.

    Attributes:
        writer: the teacher, ready to write; None where the file's own answers are all there is.
        name: what messages call it.
        frame: of a chat; None writes plain text.
        prompts: the user's; None lets the teacher make them up, or write from nothing.
        words: of the training part of the prose, which free texts begin with; None where there are none.
        settings: the recipe's `teach` part.
        top_k: log-probabilities to keep of each token; 0 for none.
        holdout: shares of the prompts that validate and judge.
        never: ids of prompts that must not be kept, such as those of texts to judge on.
        starters: by kind, what other free texts begin with; each kind, and the prose, has as many.
        unfit: why an answer can't be kept, or None where it can; of questions like a task's.
        question_weight: of a row's question in training text, where the question is learned too; see `labels`.
    """

    writer: Writer | None
    tokenizer: PreTrainedTokenizerBase
    name: str
    frame: ChatFrame | None
    prompts: Sequence[Prompt] | None
    words: ProseWords | None
    settings: Teach
    top_k: int
    holdout: Holdout
    never: frozenset[str] = frozenset()
    starters: Sequence[Sequence[str]] = ()
    unfit: Callable[[str], str | None] | None = None
    question_weight: float = 0.0

    @property
    def author(self) -> Writer:
        """The writer.

        Raises:
            ValueError: there is none.
        """
        if self.writer is None:
            raise ValueError(f"{self.name} was to write, and no writer is open")
        return self.writer


@dataclass(frozen=True)
class Draft:
    """What a text begins with.

    Attributes:
        turns: what is said before the teacher's part; none of it counts unless it is plain text of the user's.
        question: the words that its prompt's id is taken of; "" where there is no prompt but the text itself.
        ids: as the model reads it.
        first: the first position whose next token counts.
        own: the file's own answer; None where it brings none.
    """

    turns: tuple[Turn, ...]
    question: str
    ids: list[int]
    first: int
    own: str | None = None


def own_questions(assignment: Assignment, count: int, seed: int, dropped: Counter[str]) -> list[Draft]:
    """Questions that the teacher makes up: given the opening of a user's turn, it writes the turn.

    Args:
        count: how many it begins; those that can't be kept are counted in `dropped`.
        seed: of the first one.
    Raises:
        InputError: the template has nothing before the user's words, so there is nothing to write on from.
    """
    settings, frame = assignment.settings, assignment.frame
    if frame is None:
        raise ValueError("a teacher makes up questions in a chat's frame")
    if not frame.opening:
        raise InputError(
            f"{assignment.name}: its chat template puts nothing before the user's message, so the teacher can't make "
            "up questions; name a file of prompts in teach.prompts"
        )
    written = assignment.author.write(
        [frame.opening] * count,
        settings.max_prompt_tokens,
        BatchSettings(settings.temperature, settings.top_p, frame.stop_ids),
        seed,
    )
    questions: dict[str, str] = {}
    for continuation in written:
        question = frame.question(continuation.tokens)
        why = why_dropped(question, continuation.tokens, continuation.finish)
        if why is None and normalized(question) in questions:
            why = DUPLICATE
        if why is None:
            questions[normalized(question)] = question
        else:
            dropped[why] += 1
    drafts = []
    led = () if frame.system is None else (Turn(SYSTEM, frame.system, train=0.0),)
    for number, question in enumerate(questions.values()):
        hint = settings.hints[number % len(settings.hints)]
        turns = (*led, Turn(USER, f"{question} {hint}".strip(), train=0.0))
        drafts.append(_chat_draft(frame, turns, question))
    return drafts


def shows_system(frame: ChatFrame | None, prompts: Sequence[Prompt]) -> bool:
    """Whether the prompts' system messages, if there are any, are asked with them; plain text has all that is said.

    Raises:
        LimitError: a prompt with one takes more time or memory than it may.
    """
    return frame is None or all(prompt.system is None for prompt in prompts) or frame.shows_system()


def task_frame(tokenizer: PreTrainedTokenizerBase, name: str, prompts: Sequence[Prompt]) -> ChatFrame:
    """The frame of one question behind the system's message that all of some prompts have, if they have one.

    Raises:
        InputError: as `make_frame`.
    """
    frame = make_frame(tokenizer, name)
    system = shared_system(prompts)
    return frame if system is None or not frame.shows_system() else make_frame(tokenizer, name, system)


def turns_of(prompt: Prompt, with_system: bool) -> tuple[Turn, ...]:
    """A prompt's messages as turns that don't count; without the system's where the template has no place for it."""
    return tuple(
        Turn(message.role, message.text, train=0.0)
        for message in prompt.messages
        if with_system or message.role != SYSTEM
    )


def words_of(turns: Sequence[Turn]) -> str:
    """The words that a prompt's id is taken of: all that is said before the answer."""
    return " ".join(turn.text for turn in turns)


def given_prompts(assignment: Assignment, prompts: Sequence[Prompt], dropped: Counter[str]) -> list[Draft]:
    """Some of the user's prompts as the model reads them; those that the template refuses are counted in `dropped`."""
    drafts, with_system = [], shows_system(assignment.frame, prompts)
    for prompt in prompts:
        turns = turns_of(prompt, with_system)
        question = words_of(turns)
        if assignment.frame is None:
            drafts.append(_text_draft(assignment.tokenizer, question))
            continue
        try:
            drafts.append(_chat_draft(assignment.frame, turns, question, prompt.answer))
        except RefusedError:
            dropped[REFUSED] += 1
    return drafts


def from_nothing(assignment: Assignment, count: int) -> list[Draft]:
    """Plain text that begins with the tokenizer's own beginning."""
    return [_text_draft(assignment.tokenizer, "")] * count


def from_few_words(assignment: Assignment, count: int, seed: int) -> list[Draft]:
    """A few words each, drawn by the seed, behind what the tokenizer puts before a text: in turn of the prose and of
    each kind of starter.
    """
    rng, before = random.Random(seed), bos_of(assignment.tokenizer)
    drafts = []
    for number in range(count):
        kind = number % (1 + len(assignment.starters))
        if kind:
            starter = rng.choice(assignment.starters[kind - 1])
            ids = list(assignment.tokenizer(starter, add_special_tokens=False)["input_ids"])
        else:
            ids = _prose_start(assignment, rng)
        start = str(assignment.tokenizer.decode(ids))
        whole = [*before, *ids]
        drafts.append(Draft((Turn(TEXT, start, train=0.0),), start, whole, len(whole) - 1))
    return drafts


def _prose_start(assignment: Assignment, rng: random.Random) -> list[int]:
    """START_TOKENS ids of the prose from a place that is drawn, fewer where they would end within a character."""
    if assignment.words is None:
        raise ValueError("free texts begin with words of prose, and there are none")
    words = assignment.words.draw(rng, START_TOKENS)
    ids = list(assignment.tokenizer(words, add_special_tokens=False)["input_ids"][:START_TOKENS])
    while len(ids) > 1 and str(assignment.tokenizer.decode(ids)).endswith(HALF):
        ids.pop()
    return ids


def _chat_draft(frame: ChatFrame, turns: tuple[Turn, ...], question: str, own: str | None = None) -> Draft:
    ids = frame.prompt(turns)
    return Draft(turns, question, ids, len(ids) - 1, own)


def _text_draft(tokenizer: PreTrainedTokenizerBase, text: str) -> Draft:
    """Plain text of the user's, which counts as what follows it does."""
    start = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    turns = (Turn(TEXT, text),) if text else ()
    return Draft(turns, text, [start, *tokenizer(text, add_special_tokens=False)["input_ids"]], 0)

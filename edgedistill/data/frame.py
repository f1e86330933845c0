"""The chat template as a frame around a conversation, found by rendering it, whatever the template.

The ids of a prompt are those of the rendered conversation up to where the answer begins: what the model is given when
it is used. An answer's ids follow them. No id is ever changed by what stands behind it, so a model learns to go on from
exactly what it will see.

A template rendered around a marker splits into what comes before the user's words and what comes after. The first part
lets the teacher write the user's turn itself; nothing about any model family is assumed.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from edgedistill.data.trace import ASSISTANT, SYSTEM, USER, Turn
from edgedistill.errors import InputError
from edgedistill.templates.render import LimitError, render_for

MARKER = "\x02edgedistill\x02"
# Beginnings of a user's words: what all of their ids share is the opening, whatever the tokenizer merges with it.
FIRST_WORDS = ("What", "a", "7", '"', "(", "é", "猫")


class RefusedError(InputError):
    """The chat template refuses a conversation."""


@dataclass(frozen=True)
class ChatFrame:
    """How a conversation looks to the model.

    Attributes:
        opening: the ids that every prompt of one question begins with; () where the template puts nothing before it.
        begun: text that a tokenizer merges with the user's first word, so that `opening` ends before it; mostly "".
        stop_ids: tokens that end a turn.
        end_ids: what ends an answer: one token of `stop_ids`, or () where the model has none.
        system: the message that `opening` begins with; None where there is none.
    """

    tokenizer: PreTrainedTokenizerBase
    opening: tuple[int, ...]
    begun: str
    stop_ids: tuple[int, ...]
    end_ids: tuple[int, ...]
    system: str | None = None

    def prompt(self, turns: Sequence[Turn]) -> list[int]:
        """Ids of a conversation up to where the next answer begins.

        Args:
            turns: the system's, users' and answers before, the last a user's.
        Raises:
            RefusedError: the template refuses this conversation.
            LimitError: it takes more time or memory than it may.
        """
        return _ids(self.tokenizer, _render(self.tokenizer, turns))

    def answer(self, turns: Sequence[Turn], text: str) -> list[int]:
        """Ids of an answer that follows `prompt(turns)`, with what ends it.

        They are those of the whole text where its ids begin with the prompt's; where the tokenizer merges across that
        border, those of the answer alone, since a model that answers can't take back the end of its prompt.
        """
        before = _render(self.tokenizer, turns)
        prompt, whole = _ids(self.tokenizer, before), _ids(self.tokenizer, before + text)
        merged = whole[: len(prompt)] != prompt
        return [*(_ids(self.tokenizer, text) if merged else whole[len(prompt) :]), *self.end_ids]

    def question(self, ids: Sequence[int]) -> str:
        """The question of a user's turn that was written from `opening` on; "" where it doesn't go on as begun."""
        text = str(self.tokenizer.decode([token for token in ids if token not in self.stop_ids]))
        return text.removeprefix(self.begun).strip() if text.startswith(self.begun) else ""

    def shows_system(self) -> bool:
        """Whether a prompt has the system's words in it.

        Raises:
            LimitError: such a prompt takes more time or memory than it may.
        """
        try:
            return MARKER in _render(self.tokenizer, [Turn(SYSTEM, MARKER), Turn(USER, "a")])
        except RefusedError:
            return False


def make_frame(tokenizer: PreTrainedTokenizerBase, name: str, system: str | None = None) -> ChatFrame:
    """Find the frame of a tokenizer's chat template; of one question behind a system message, where one is given.

    Raises:
        InputError: there is no template, or it doesn't show the user's words as they are.
    """
    if not tokenizer.chat_template:
        raise InputError(
            f"{name} has no chat template, and the recipe writes chats; use a chat model, or set teach.style "
            "to text in the recipe"
        )
    led = [] if system is None else [Turn(SYSTEM, system)]
    before, marker, after = _render(tokenizer, [*led, Turn(USER, MARKER)]).partition(MARKER)
    if not marker:
        raise InputError(
            f"{name}: its chat template doesn't show the user's message as it is; set teach.style to text in the recipe"
        )
    whole = _ids(tokenizer, before)
    length = len(whole)
    for word in FIRST_WORDS:
        length = min(length, _shared(whole, _ids(tokenizer, _render(tokenizer, [*led, Turn(USER, word)]))))
    begun = str(tokenizer.decode(whole[length:])) if length < len(whole) else ""
    ending = _ending(tokenizer)
    stops = {tokenizer.eos_token_id} | _first_special(tokenizer, _ids(tokenizer, after)) | set(ending)
    return ChatFrame(
        tokenizer,
        tuple(whole[:length]),
        begun,
        tuple(sorted(stop for stop in stops if stop is not None)),
        ending,
        system,
    )


def _ending(tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """What ends an answer: the special token behind it in a conversation that goes on, or else the end of the text."""
    turns = [Turn(USER, "a"), Turn(ASSISTANT, MARKER), Turn(USER, "a")]
    try:
        after = _render(tokenizer, turns).partition(MARKER)[2]
    except (RefusedError, LimitError):
        after = ""
    stops = _first_special(tokenizer, _ids(tokenizer, after))
    if not stops and tokenizer.eos_token_id is not None:
        stops = {tokenizer.eos_token_id}
    return tuple(stops)


def _first_special(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> set[int]:
    """The first of some ids, if it is a special token."""
    return set(ids[:1]) & set(tokenizer.all_special_ids)


def _shared(one: Sequence[int], other: Sequence[int]) -> int:
    """How many ids two sequences begin with alike."""
    count = 0
    for a, b in zip(one, other, strict=False):
        if a != b:
            break
        count += 1
    return count


def _render(tokenizer: PreTrainedTokenizerBase, turns: Sequence[Turn]) -> str:
    messages = [{"role": turn.role, "content": turn.text} for turn in turns]
    try:
        return render_for(tokenizer, messages)
    except LimitError:
        raise
    except InputError as error:
        raise RefusedError(str(error)) from error


def _ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])

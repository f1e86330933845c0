"""A teacher's chat template, tried before anything is built on what teaching, measuring, the report and the bundle ask
of it.

A template that fails or loops at the third message would otherwise stop a build at its end.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from edgedistill.bundle.turns import PROBES
from edgedistill.config.conversation import Prompt, shared_system
from edgedistill.config.teach import PROMPT_SPARE
from edgedistill.errors import InputError
from edgedistill.models.tokenizer import plain_tokenizer, tokenizer_json
from edgedistill.models.vocabulary import read_vocabulary, template_and_ends
from edgedistill.templates.render import LimitError, render

if TYPE_CHECKING:
    from tokenizers import Tokenizer

SYSTEM = ("system", "Be brief.")
MARK = "qzsystemqz"
TOO_MUCH = "takes more time or memory than it may"
BEHIND_SYSTEM, SEVERAL = "a question behind a system message", "a conversation of several messages"


@dataclass(frozen=True)
class Conversations:
    """What a run asks through the template.

    Attributes:
        samples: measure.prompts, which every file answers.
        most_tokens: what each of these must stay below.
        prompts: those of a file that the teacher answers in chats.
        file: what messages call that file.
        longest_prompt: tokens that each of these has at most, or isn't asked.
    """

    samples: Sequence[str] = ()
    most_tokens: int = 0
    prompts: Sequence[Prompt] = ()
    file: str = ""
    longest_prompt: int = 0


@dataclass(frozen=True)
class Trial:
    """What a run does without, a sentence each; and the system message that all of its chats begin with, if they do."""

    notes: tuple[str, ...] = ()
    system: str | None = None


def try_template(location: Path, name: str, conversations: Conversations = Conversations()) -> Trial:
    """Render the conversations that a run of this model renders. It may refuse all but a question on its own.

    Args:
        location: the model's folder or .gguf file.
        name: what messages call it.
        conversations: what is asked.
    Raises:
        InputError: the template can't write a question, or takes more time or memory than it may for one or for the
            prompts' system messages; or a prompt is too long.
    """
    if not location.exists():  # planned from figures alone
        return Trial(system=shared_system(conversations.prompts))
    text, bos, eos = template_and_ends(location)
    if text is None:
        return Trial()
    template = _Template(location, text, bos, eos)
    try:
        slow = template.slow_at()
        notes = [] if slow is None else [_without(slow)]
        systems = sum(prompt.system is not None for prompt in conversations.prompts)
        unused = _unused_system(template, systems, conversations.file) if systems else None
        if unused:
            notes.append(f"{conversations.file}: not used: the system's message, in {systems} rows; {unused}")
        system = None if unused else shared_system(conversations.prompts)
        _try_samples(template, conversations, system)
        _try_prompts(template, conversations, with_system=not unused)
    except InputError as error:
        raise InputError(f"{name}: {error}") from error
    return Trial(tuple(notes), system)


@dataclass(frozen=True)
class _Template:
    """A model's template and tokenizer."""

    location: Path
    template: str
    bos: str
    eos: str

    def render(self, conversation: Sequence[tuple[str, str]]) -> str:
        """The text of a conversation, given as roles and contents."""
        messages = [{"role": role, "content": content} for role, content in conversation]
        return render(self.template, messages, bos=self.bos, eos=self.eos)

    def slow_at(self) -> str | None:
        """The kind of conversation that takes more than it may, the first that is tried; None where none does.

        Raises:
            InputError: a question on its own can't be rendered.
        """
        for number, probe in enumerate(PROBES):
            for system, conversation in ((False, probe), (True, (SYSTEM, *probe))):
                try:
                    self.render(conversation)
                except InputError as error:
                    if number == 0 and not system:
                        raise
                    if isinstance(error, LimitError):
                        return BEHIND_SYSTEM if system else SEVERAL
        return None

    @cached_property
    def tokenizer(self) -> "Tokenizer":
        """The model's own."""
        from tokenizers import Tokenizer

        if self.location.is_dir():
            content = plain_tokenizer(self.location).decode("utf-8-sig")
        else:
            content = json.dumps(tokenizer_json(self.location, read_vocabulary(self.location)))
        return Tokenizer.from_str(content)

    def tokens(self, text: str, enough: int) -> int:
        """How many tokens a text has; its bytes where these are fewer than `enough`.

        No token has less than a byte, so that most texts needn't be tokenized, which takes a vocabulary.
        """
        size = len(text.encode())
        return size if size < enough else len(self.tokenizer.encode(text, add_special_tokens=False).ids)


def _without(conversation: str) -> str:
    return (
        f"the teacher's chat template {TOO_MUCH} for {conversation}: the Modelfile and the examples go without it, and "
        "chat and serve will refuse such conversations; repair the template"
    )


def _unused_system(template: _Template, systems: int, file: str) -> str | None:
    """Why the template doesn't show the system messages of a prompts file; None where it does.

    Raises:
        InputError: it takes more than it may for one.
    """
    try:
        shown = MARK in template.render((("system", MARK), ("user", "a")))
    except LimitError as error:
        raise InputError(
            f"its chat template {TOO_MUCH} for a system message, and {systems} prompts of {file} begin with one; "
            "repair the template, or take these messages out of the file"
        ) from error
    except InputError:
        return "the chat template refuses one"
    return None if shown else "the chat template has no place for it"


def _try_samples(template: _Template, conversations: Conversations, system: str | None) -> None:
    """Every file answers the recipe's own prompts, behind the system message that its training chats began with."""
    led = () if system is None else (("system", system),)
    most = conversations.most_tokens
    for prompt in conversations.samples:
        count = template.tokens(template.render((*led, ("user", prompt))), most)
        if count >= most:
            behind = f" behind the system message of {conversations.file}" if led else ""
            raise InputError(
                f"a prompt of measure.prompts has {count} tokens{behind}; it must have fewer than {most}, or the "
                "files couldn't answer it"
            )


def _try_prompts(template: _Template, conversations: Conversations, with_system: bool) -> None:
    """The teacher answers the shortest prompt of a file, and the shortest of several turns, or it answers none."""
    by_length = sorted(conversations.prompts, key=lambda prompt: prompt.characters)
    shortest = [*by_length[:1], *[prompt for prompt in by_length if prompt.turns > 1][:1]]
    for number, prompt in enumerate(shortest):
        turns = [(turn.role, turn.text) for turn in prompt.messages if with_system or turn.role != "system"]
        try:
            text = template.render(turns)
        except LimitError as error:
            raise InputError(
                f"its chat template {TOO_MUCH} for a prompt of {conversations.file}, a conversation of {len(turns)} "
                "messages; repair the template, or take such prompts out of the file"
            ) from error
        except InputError:  # the refused prompts are counted when they are asked
            continue
        if number == 0:
            _require_short(template, text, prompt.system if with_system else None, conversations)


def _require_short(template: _Template, text: str, system: str | None, conversations: Conversations) -> None:
    most = conversations.longest_prompt
    count = template.tokens(text, most + 1)
    if count <= most:
        return
    of_system = f", {template.tokens(system, 0)} of them its system message" if system else ""
    shorten = ", or shorten the system message" if system else ""
    raise InputError(
        f"the shortest prompt of {conversations.file} has {count} tokens with the chat template{of_system}; at most "
        f"{most} are asked: teach.max_prompt_tokens and {PROMPT_SPARE} more. Set teach.max_prompt_tokens to at least "
        f"{count - PROMPT_SPARE} in the recipe{shorten}"
    )

"""The prompt of a conversation: the text that its chat template gives, behind a bos where the file needs one.

`chat` and `serve` both call `write_prompt`, and tokenize its text with control tokens read and nothing added. That
gives the ids of transformers' apply_chat_template, which are those that training saw.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from edgedistill.errors import InputError
from edgedistill.templates.render import render


@dataclass(frozen=True)
class PromptFormat:
    """What a file says of its prompts.

    Args:
        template: Jinja text, None where the file has none.
        bos: text of the beginning-of-text token, "" where there is none; so for `eos`.
        bos_missing: a template that doesn't write the bos gets one before it.
    """

    template: str | None
    bos: str
    eos: str
    bos_missing: bool = False


def adds_missing_bos(add_bos: bool, ours: bool) -> bool:
    """Whether a prompt gets the bos that its template leaves out.

    In some published GGUF files the template was stripped of its bos, since llama.cpp's programs add the one that the
    file asks for; without a bos such a model (Gemma) writes nonsense. A file of ours holds the template as transformers
    has it, which gives exactly the text that the model was trained on, so nothing is added.
    """
    return add_bos and not ours


def write_prompt(
    form: PromptFormat,
    messages: list[dict[str, Any]],
    add_generation_prompt: bool = True,
    tools: list[dict[str, Any]] | None = None,
) -> str:
    """The text of a conversation, to be tokenized with control tokens read and no bos or eos added.

    Raises:
        InputError: there is no template, or it refuses the messages.
    """
    if not form.template:
        raise InputError(
            "it has no chat template, so there is no way to tell it who says what; use a model that was made to chat"
        )
    text = render(
        form.template, messages, bos=form.bos, eos=form.eos, add_generation_prompt=add_generation_prompt, tools=tools
    )
    check_text(text)
    return form.bos + text if form.bos_missing and not text.startswith(form.bos) else text


def check_text(text: str) -> None:
    """Raise InputError where a text holds half of a surrogate pair, which UTF-8 can't encode."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        at = error.start
        raise InputError(
            f"the text holds {text[at]!r} at character {at}, half of a surrogate pair; remove it: it spells nothing"
        ) from None


def special_text(token: int, piece: Callable[[int], bytes]) -> str:
    """The text of a control token; "" for -1, which means none."""
    return piece(token).decode("utf-8", errors="replace") if token >= 0 else ""

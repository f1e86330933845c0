"""The chat template as a frame around one question and one answer, found by rendering it, whatever the template.

A template rendered around a marker splits into what comes before the user's words and what comes between them and
the answer. The first part lets the teacher write the user's turn itself; nothing about any model family is assumed.
"""

from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from edgedistill.errors import InputError

MARKER = "\x02edgedistill\x02"


@dataclass(frozen=True)
class ChatFrame:
    """How a conversation of one question looks to the model.

    Attributes:
        opening: ids up to the user's first word.
        stop_ids: tokens that end a turn.
    """

    tokenizer: PreTrainedTokenizerBase
    opening: tuple[int, ...]
    stop_ids: tuple[int, ...]

    def prompt(self, question: str) -> list[int]:
        """Ids of the conversation up to where the answer begins."""
        return _ids(self.tokenizer, _render(self.tokenizer, question))


def make_frame(tokenizer: PreTrainedTokenizerBase, name: str) -> ChatFrame:
    """Find the frame of a tokenizer's chat template.

    Raises:
        InputError: there is no template, or it doesn't show the user's words as they are.
    """
    if not tokenizer.chat_template:
        raise InputError(
            f"{name} has no chat template, and the recipe writes chats; use a chat model, or set teach.style "
            "to text in the recipe"
        )
    before, marker, after = _render(tokenizer, MARKER).partition(MARKER)
    if not marker:
        raise InputError(
            f"{name}: its chat template doesn't show the user's message as it is; set teach.style to text in the recipe"
        )
    closing = _ids(tokenizer, after)
    special = set(tokenizer.all_special_ids)
    stops = {tokenizer.eos_token_id} | ({closing[0]} if closing and closing[0] in special else set())
    return ChatFrame(tokenizer, tuple(_ids(tokenizer, before)), tuple(sorted(s for s in stops if s is not None)))


def _render(tokenizer: PreTrainedTokenizerBase, question: str) -> str:
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": question}], add_generation_prompt=True, tokenize=False
    )
    return str(text)


def _ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])

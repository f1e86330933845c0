"""Bounds on a request's text that hold before a chat template or a tokenizer has read it.

What can't fit the context, whatever its tokens are, would take the template seconds, and all others wait for it.
"""

from typing import Any

from edgedistill.serve.openai_request import Question
from edgedistill.serve.refused import Refused

LISTS = ("content", "tool_calls")  # of a message
LARGER = "or start the server with a larger --context"


class ContextBound:
    """What the context can hold: `tokens` of `longest` bytes each at most."""

    def __init__(self, tokens: int, longest: int) -> None:
        """The tokens are those of a request with its answer."""
        self._tokens, self._most = tokens, tokens * longest

    def check_count(self, messages: Any) -> None:
        """Refuse more messages, parts and calls than there are tokens, before they are read one by one.

        Raises:
            Refused: there are more.
        """
        count = _count(messages, self._tokens)
        if count > self._tokens:
            raise too_long(
                f"the request has {count} messages, parts and tool calls, and the context holds {self._tokens} tokens "
                "with the answer",
                chat=True,
            )

    def check_text(self, characters: int, chat: bool) -> None:
        """Refuse a text with more characters than the longest tokens have bytes.

        Raises:
            Refused: it has.
        """
        if characters > self._most:
            raise too_long(
                f"the request has {characters} characters and the context of {self._tokens} tokens holds {self._most} "
                "at most",
                chat,
            )

    def check_tokens(self, count: int, chat: bool) -> None:
        """Refuse a prompt that leaves no room for an answer.

        Raises:
            Refused: it does.
        """
        if count >= self._tokens:
            raise too_long(f"the request has {count} tokens and the context holds {self._tokens} with the answer", chat)


def too_long(size: str, chat: bool) -> Refused:
    """The refusal of a request that doesn't fit the context."""
    return Refused(
        f"{size}; send {'fewer or shorter messages' if chat else 'a shorter prompt'}, {LARGER}",
        code="context_length_exceeded",
        param="messages" if chat else "prompt",
    )


def conversation_length(question: Question) -> int:
    """Characters of a chat's messages and tools, without its roles, for which each template has words of its own."""
    messages = sum(
        1 + sum(_characters(value) for name, value in message.items() if name != "role")
        for message in question.messages
    )
    return messages + sum(_characters(tool.declaration) for tool in question.tools)


def _count(messages: Any, most: int) -> int:
    """Messages, content parts and tool calls; of messages alone, where these are more than `most`."""
    if not isinstance(messages, list):
        return 0
    if len(messages) > most:
        return len(messages)
    lists = [message.get(name) for message in messages if isinstance(message, dict) for name in LISTS]
    return len(messages) + sum(len(each) for each in lists if isinstance(each, list))


def _characters(value: Any) -> int:
    if isinstance(value, str):
        return len(value)
    if isinstance(value, dict):
        return sum(len(name) + _characters(child) for name, child in value.items())
    if isinstance(value, list):
        return sum(map(_characters, value))
    return 1

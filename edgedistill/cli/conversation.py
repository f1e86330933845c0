"""The messages of a chat in the terminal, kept within the model's context."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edgedistill.runtimes.base import Message, Runtime


class Conversation:
    """What was said, as far as the context holds it.

    Args:
        model: counts the tokens.
        room: tokens of the conversation with an answer.
        system: a system message that stays; None leaves it to the template.
    """

    def __init__(self, model: "Runtime", room: int, system: str | None) -> None:
        self.model = model
        self.room = room
        self.messages: list[Message] = [{"role": "system", "content": system}] if system else []
        self._start = len(self.messages)

    def reset(self) -> None:
        """Forget all but the system message."""
        del self.messages[self._start :]

    def say(self, role: str, content: str) -> None:
        """Add a message."""
        self.messages.append({"role": role, "content": content})

    def take_back(self) -> None:
        """Forget the last message."""
        self.messages.pop()

    def make_room(self, answer_tokens: int) -> int:
        """Forget the oldest questions and answers where an answer of `answer_tokens` wouldn't fit; returns how many.

        At most a quarter of the room is kept free for the answer. If something must go, so much goes that the next
        questions fit too: each time that the beginning changes, the whole conversation is read again.
        """
        answer = min(answer_tokens, self.room // 4)
        if self.tokens() + answer <= self.room:
            return 0
        forgotten = 0
        while len(self.messages) - self._start > 2 and self.tokens() + answer > self.room * 3 // 4:
            del self.messages[self._start : self._start + 2]
            forgotten += 1
        return forgotten

    def tokens(self) -> int:
        """Tokens of the conversation as the model reads it."""
        return len(self.model.apply_template(self.messages)[1])

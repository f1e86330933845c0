"""Lists of chat messages, as OpenAI's `messages` and ShareGPT's `conversations` write them -> a prompt and its answer.

What can't be used (tools, pictures, a question that nobody answered before the next one) is left out and counted in
words: never silently.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

# Names that prompt files give their fields, tried in this order.
FIELDS = ("prompt", "question", "instruction", "text", "turns", "messages", "conversations")
ANSWER_FIELDS = ("answer", "output", "response", "completion")
SYSTEM_FIELDS = ("system", "system_prompt")
ROLES = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "model": "assistant",
}
UNANSWERED = "questions that follow one without an answer between"
BEFORE = "answers before the first question"
LATE_SYSTEM = "a system's message in the midst of a conversation, and what follows it"


@dataclass(frozen=True)
class Message:
    """One message: "system", "user" or "assistant", and its text."""

    role: str
    text: str


@dataclass(frozen=True)
class Prompt:
    """A conversation up to a user's turn.

    Attributes:
        messages: a system's message or none, then users' and answers in turn; the last is a user's.
        answer: the file's own answer to it; None where it brings none.
    """

    messages: tuple[Message, ...]
    answer: str | None = None

    @property
    def turns(self) -> int:
        """How many messages are the user's."""
        return sum(message.role == "user" for message in self.messages)

    @property
    def system(self) -> str | None:
        """The system's message, if it begins with one."""
        first = self.messages[0]
        return first.text if first.role == "system" else None

    @property
    def characters(self) -> int:
        """How long its messages are together."""
        return sum(len(message.text) for message in self.messages)


def shared_system(prompts: Sequence[Prompt]) -> str | None:
    """The system message that every prompt begins with; None where one has another or none.

    A model that never saw a chat without it is to be asked with it.
    """
    systems = {prompt.system for prompt in prompts}
    return next(iter(systems)) if len(systems) == 1 else None


def conversation(rows: Sequence[dict[str, Any]], unused: Counter[str]) -> Prompt | None:
    """The prompt of a list of messages; None where no user says anything.

    Args:
        rows: objects with `role` and `content`, or `from` and `value`.
        unused: what is left out is counted here, once a list.
    """
    messages: list[Message] = []
    left_out: set[str] = set()
    for row in rows:
        message, why = _message(row)
        if message is None:
            left_out.add(f"{why}, and what follows them")
            break
        last = messages[-1].role if messages else "nothing"
        if message.role == "system" and messages:
            left_out.add(LATE_SYSTEM)
            break
        if message.role == "user" and last == "user":
            left_out.add(UNANSWERED)
            break
        if message.role == "assistant" and last in ("nothing", "system"):
            left_out.add(BEFORE)
        elif message.role == "assistant" and last == "assistant":
            messages[-1] = Message("assistant", f"{messages[-1].text}\n\n{message.text}")
        else:
            messages.append(message)
    unused.update(left_out)
    answer = None
    if messages and messages[-1].role == "assistant":
        answer = messages.pop().text
    if not messages or messages[-1].role != "user":
        return None
    return Prompt(tuple(messages), answer)


def first_turn(turns: Sequence[Any], unused: Counter[str]) -> Any:
    """The first of a list of questions; those after it would need an answer between, and are counted."""
    if len(turns) > 1:
        unused[UNANSWERED] += 1
    return turns[0] if turns else None


def _message(row: dict[str, Any]) -> tuple[Message | None, str]:
    """A message, or None and why it can't be used."""
    name = str(row.get("role", row.get("from")))
    role = ROLES.get(name)
    if role is None:
        return None, f"messages of the role '{name[:40]}'"
    content = row.get("content", row.get("value"))
    if isinstance(content, list):
        texts = [part.get("text") for part in content if isinstance(part, dict) and part.get("type") == "text"]
        if len(texts) < len(content):
            return None, "messages with something else than text"
        content = "\n".join(map(str, texts))
    if not isinstance(content, str) or not content.strip():
        return None, "messages without a text"
    return Message(role, content), ""

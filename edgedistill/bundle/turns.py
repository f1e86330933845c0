"""A chat template as fixed texts between the messages, where it is nothing more than that.

Ollama's templates are written in Go's language and a C++ program has no Jinja at hand: both can put fixed texts between
messages. So conversations of marks are rendered, the texts between the marks are read off, and the result counts only
if it renders every probe as the template itself does. Templates that trim messages are taken as if they didn't: nobody
types spaces around a question.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from edgedistill.errors import InputError
from edgedistill.templates.render import LimitError, render

Chat = Sequence[tuple[str, str]]  # (role, content), a system message first or none at all

SYSTEM, ASKED, ANSWERED, AGAIN = "qzsystemqz", "qzaskedqz", "qzansweredqz", "qzagainqz"
LONG = (
    "A sentence of some length, with 'quotes', \"double ones\", <b>tags</b> & {{ braces }}.\n\n- a list\n- naïve "
    "日本語 🦙\n\ttab"
)
PROBES: tuple[Chat, ...] = (
    (("user", "Hi"),),
    (("user", LONG),),
    (("user", "Hi"), ("assistant", "Hello."), ("user", LONG)),
    (("user", "1"), ("assistant", LONG), ("user", "2"), ("assistant", "b"), ("user", "3")),
    # Templates of thinking models drop or rewrite the thoughts of earlier answers.
    (("user", "Hi"), ("assistant", "<think>\nA thought.\n</think>\n\nHello."), ("user", "Why?")),
)
# strftime_now writes today's date: nothing that a file could hold. A macro of that name stands before the function.
DATE = "strftime_now"
FIXED_DATE = "{% macro strftime_now(form) %}26 Jul 2024{% endmacro %}"  # what Llama 3's templates write without a clock


@dataclass(frozen=True)
class Turns:
    """What stands between the messages of a conversation.

    `first` opens one without a system message, up to the first question; `system` stands before a system message and
    between it and the first question, and is None where the template takes no system message; `answer` stands behind a
    question and `lead` before an earlier answer, `again` between an answer and the next question.
    """

    first: str
    system: tuple[str, str] | None
    answer: str
    again: str
    lead: str = ""

    def render(self, chat: Chat) -> str:
        """The prompt of a conversation, ready for the next answer.

        Raises:
            ValueError: it begins with a system message, and the template takes none.
        """
        text, rest = self.first, list(chat)
        if rest[0][0] == "system":
            if self.system is None:
                raise ValueError("the template takes no system message")
            text = self.system[0] + rest.pop(0)[1] + self.system[1]
        for number, (role, content) in enumerate(rest):
            if role == "user":
                text += (self.again if number else "") + content + self.answer
            else:
                text += self.lead + content
        return text


def find_turns(template: str, bos: str, eos: str, drop_bos: bool) -> Turns | None:
    """The fixed texts of a chat template; None if it is more than that, or refuses a plain conversation.

    Args:
        bos, eos: texts of these tokens.
        drop_bos: leave out the bos token before all of it, since the runtime puts one there.
    Raises:
        LimitError: it takes more time or memory than it may for a conversation without a system message.
    """
    if DATE in template:
        return None

    def text_of(chat: Chat) -> str:
        rendered = _render(template, chat, bos, eos)
        return rendered.removeprefix(bos) if drop_bos else rendered

    try:
        first, earlier, again, answer = _between(
            text_of((("user", ASKED), ("assistant", ANSWERED), ("user", AGAIN))), (ASKED, ANSWERED, AGAIN)
        )
        turns = Turns(first, None, answer, again, earlier.removeprefix(answer))
        if any(turns.render(probe) != text_of(probe) for probe in PROBES):
            return None
    except LimitError:
        raise
    except (InputError, ValueError):
        return None
    try:
        before, between, _ = _between(text_of((("system", SYSTEM), ("user", ASKED))), (SYSTEM, ASKED))
        with_system = replace(turns, system=(before, between))
        led: list[Chat] = [(("system", LONG), *probe) for probe in PROBES]
        return with_system if all(with_system.render(probe) == text_of(probe) for probe in led) else None
    except InputError:
        return turns  # it refuses a system message, or takes more than it may for one
    except ValueError:
        return None  # it drops or repeats it


def around_question(template: str, bos: str, eos: str, system: str | None = None) -> tuple[str, str] | None:
    """The prompt of a single question: the texts before and behind it, the bos token among them; None if the template
    refuses it.

    `system` is a message before it. A template that writes the date gets 26 Jul 2024.
    """
    if DATE in template:
        template = FIXED_DATE + template
    try:
        led: Chat = () if system is None else (("system", system),)
        before, behind = _between(_render(template, (*led, ("user", ASKED)), bos, eos), (ASKED,))
    except (InputError, ValueError):
        return None
    return before, behind


def _render(template: str, chat: Chat, bos: str, eos: str) -> str:
    return render(template, [{"role": role, "content": content} for role, content in chat], bos=bos, eos=eos)


def _between(text: str, marks: Sequence[str]) -> list[str]:
    """The texts before, between and behind the marks.

    Raises:
        ValueError: a mark isn't there once, or they stand in another order.
    """
    found = []
    for mark in marks:
        before, there, text = text.partition(mark)
        if not there or mark in text:
            raise ValueError(f"{mark} isn't in the text once, in its place")
        found.append(before)
    return [*found, text]

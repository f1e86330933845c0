"""One answer in the terminal: written as it comes, stopped by Ctrl-C or where it repeats itself, with its figures."""

import contextlib
import sys
import threading
import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from edgedistill.cli.answer_text import AnswerWriter
from edgedistill.cli.conversation import Conversation
from edgedistill.cli.terminal import Reading, note, terminal_width
from edgedistill.runtimes.repetition import STOPPED, RepetitionGuard

if TYPE_CHECKING:
    from edgedistill.runtimes.base import ChatStats


@dataclass(frozen=True)
class AnswerSettings:
    """The longest answer in tokens, and how its tokens are drawn."""

    max_tokens: int
    temperature: float
    top_p: float
    seed: int


@dataclass(frozen=True)
class ChatAnswer:
    """An answer and its figures, in the order of `--json`.

    Attributes:
        finish: why it ended: "stop", "length", "repetition" where the guard stopped it, or "interrupted".
        forgotten: questions that were forgotten to make room for it.
        prompt_tokens: of the conversation before it; None where it was interrupted.
        ttft_s: seconds to its first piece of text.
        tokens_per_s: of the tokens after the first; None for fewer than two.
    """

    question: str
    answer: str
    finish: str
    forgotten: int
    prompt_tokens: int | None
    tokens: int
    ttft_s: float
    tokens_per_s: float | None

    def to_json(self) -> dict[str, object]:
        """Itself as JSON types."""
        return asdict(self)

    def describe(self, room: int) -> str:
        """One line of figures: "[8 tokens, 61.2 tokens/s, first after 0.21 s]"; `room`: tokens of the context."""
        rate = f", {self.tokens_per_s:.1f} tokens/s" if self.tokens_per_s else ""
        plural = "s" if self.tokens != 1 else ""
        return f"[{self.tokens} token{plural}{rate}, first after {self.ttft_s:.2f} s{self._ending(room)}]"

    def _ending(self, room: int) -> str:
        """Why it ended, where that isn't its own end."""
        if self.finish == "length":
            full = (self.prompt_tokens or 0) + self.tokens >= room
            why = f"the context of {room} tokens is full" if full else "--max-tokens allows no more"
            return f"; cut off: {why}"
        ending = {"interrupted": "; stopped", "repetition": f"; {STOPPED}"}.get(self.finish, "")
        return ending if self.answer else f"{ending}; the answer is empty"


def give_answer(
    conversation: Conversation, settings: AnswerSettings, pressed: threading.Event, stream: bool
) -> ChatAnswer:
    """The model's answer to the last message; if `stream`, it is written to stdout as it comes. It ends early when
    `pressed` is set, and keeps what was said until then.
    """
    model, said = conversation.model, list[str]()
    forgotten = conversation.make_room(settings.max_tokens)
    if forgotten:
        what = "question and its answer are" if forgotten == 1 else f"{forgotten} questions and their answers are"
        note(f"[the context of {conversation.room} tokens is full: the oldest {what} forgotten; /reset starts anew]")
    guard, looped = RepetitionGuard(), False
    writer = AnswerWriter(sys.stdout, terminal_width if sys.stdout.isatty() else None)
    reading = Reading()
    started, first = time.perf_counter(), None
    pieces = model.chat(conversation.messages, **asdict(settings), keep=True)
    with contextlib.closing(pieces):
        for piece in pieces:
            if pressed.is_set():
                break
            if not piece:
                reading.show(*model.reading)
                continue
            reading.done()
            first = first or time.perf_counter()
            said.append(piece)
            if stream:
                writer.write(piece)
            if guard.add(piece):
                looped = True
                break
    reading.done()
    if stream and said:
        writer.end()
    ended, stats = time.perf_counter(), model.last_chat
    tokens = stats.tokens if stats else len(said)
    spent = ended - (first or ended)
    return ChatAnswer(
        question=conversation.messages[-1]["content"],
        answer="".join(said),
        finish=_finish_of(stats, looped),
        forgotten=forgotten,
        prompt_tokens=stats.prompt_tokens if stats else None,
        tokens=tokens,
        ttft_s=round((first or ended) - started, 4),
        tokens_per_s=round((tokens - 1) / spent, 2) if tokens > 1 and spent > 0 else None,
    )


def _finish_of(stats: "ChatStats | None", looped: bool) -> str:
    if looped:
        return "repetition"
    return stats.finish if stats else "interrupted"

"""`edgedistill chat`: talk to a packed file in the terminal, or pipe questions into it, one a line."""

import contextlib
import json
import os
import shutil
import signal
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgedistill.cli.answer_text import AnswerWriter, tolerant_streams
from edgedistill.cli.artifacts import RUNTIMES, find_artifact
from edgedistill.cli.questions import HIDDEN, HINT, help_text, read_lines
from edgedistill.errors import InputError
from edgedistill.runtimes.repetition import STOPPED as STOPPED_LOOP
from edgedistill.runtimes.repetition import RepetitionGuard
from edgedistill.show import visible

if TYPE_CHECKING:
    from edgedistill.runtimes.base import ChatStats, Runtime

STOPPED = 130
READING_S = 1.0  # how long a conversation is read before the terminal says so


@dataclass(frozen=True)
class Wish:
    """How answers are to be made."""

    max_tokens: int
    temperature: float
    top_p: float
    seed: int


@click.command()
@click.argument("artifact", metavar="ARTIFACT|RUN_DIR", type=click.Path(path_type=Path))
@click.option(
    "--runtime", type=click.Choice(RUNTIMES), help="For a run folder, which of its artifacts; a file decides by itself."
)
@click.option(
    "--mix",
    metavar="NAME",
    help="For a run folder with several mixes: q4_0, q8_0, ... Default: the one that its report recommends.",
)
@click.option("--threads", type=click.IntRange(min=1), help="Processor threads. Default: all cores.")
@click.option(
    "--temperature",
    type=click.FloatRange(min=0),
    default=0.2,
    show_default=True,
    help="0 always takes the likeliest token.",
)
@click.option(
    "--top-p", type=click.FloatRange(0, 1, min_open=True), default=0.9, show_default=True, help="Cut the unlikely tail."
)
@click.option(
    "--seed", type=click.IntRange(min=0), default=0, show_default=True, help="The same seed gives the same answers."
)
@click.option("--max-tokens", type=click.IntRange(min=1), default=512, show_default=True, help="Longest answer.")
@click.option(
    "--context", type=click.IntRange(min=16), default=2048, show_default=True, help="Longest conversation, in tokens."
)
@click.option("--system", metavar="TEXT", help="A system message; the template's own otherwise.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object for each answer.")
@click.pass_context
def chat(
    ctx: click.Context,
    artifact: Path,
    runtime: str | None,
    mix: str | None,
    threads: int | None,
    temperature: float,
    top_p: float,
    seed: int,
    max_tokens: int,
    context: int,
    system: str | None,
    as_json: bool,
) -> None:
    """Talk to a .gguf file, an ONNX folder or a run's bundle, in its real runtime.

    Questions come from the keyboard or, piped, one a line; one of several lines stands between two \"\"\". Answers go
    to stdout, figures to stderr. /reset forgets the conversation, /help lists the commands, /quit leaves, Ctrl-C stops
    an answer; one that repeats itself is stopped, and that is said. Where the context is full, the oldest questions are
    forgotten.

    \b
    Example: echo "What is the capital of France?" | edgedistill chat runs/demo
    """
    from edgedistill.machine import usable_cores

    tolerant_streams()
    kind, path = find_artifact(artifact, runtime, mix)
    try:
        with open_artifact(kind, path, threads or usable_cores(), context) as model:
            info = model.info()
            if not info.chat_template:
                raise InputError(
                    f"{path}: it has no chat template, so it can't be talked to; use a model that was made to chat"
                )
            note(
                f"{visible(path.name, lines=False)} in {info.version}, {model.threads} "
                f"thread{'s' * (model.threads != 1)}"
            )
            if sys.stdin.isatty():
                note(HINT)
            talk(
                Conversation(model, min(context, info.n_ctx_train), system),
                Wish(max_tokens, temperature, top_p, seed),
                as_json,
            )
    except KeyboardInterrupt:
        click.echo("\nStopped.", err=True)
        ctx.exit(STOPPED)


def open_artifact(kind: str, path: Path, threads: int, context: int) -> "Runtime":
    """Load an artifact in its runtime's child process."""
    if kind == RUNTIMES[0]:
        from edgedistill.runtimes.llama import LlamaCpp

        return LlamaCpp(path, threads=threads, context=context, parallel=1)
    from edgedistill.runtimes.onnx import OnnxRuntime

    return OnnxRuntime(path, threads=threads, context=context)


class Conversation:
    """What was said, as far as the context holds it.

    Args:
        room: tokens of the conversation with an answer.
        system: a system message that stays; None leaves it to the template.
    """

    def __init__(self, model: "Runtime", room: int, system: str | None) -> None:
        self.model = model
        self.room = room
        self.messages: list[dict[str, Any]] = [{"role": "system", "content": system}] if system else []
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

    def make_room(self, wanted: int) -> int:
        """Forget the oldest questions and answers where an answer of `wanted` tokens wouldn't fit; how many were
        forgotten.

        A long answer gets a quarter of the room. If something must go, so much goes that the next questions fit too:
        each time that the beginning changes, the whole conversation is read again.
        """
        answer = min(wanted, self.room // 4)
        if self.tokens() + answer <= self.room:
            return 0
        forgotten = 0
        while len(self.messages) - self._start > 2 and self.tokens() + answer > self.room * 3 // 4:
            del self.messages[self._start : self._start + 2]
            forgotten += 1
        return forgotten

    def tokens(self) -> int:
        """Of the conversation as it is asked."""
        return len(self.model.apply_template(self.messages)[1])


def talk(conversation: Conversation, wish: Wish, as_json: bool) -> None:
    """Answer every line until there is no more.

    Raises:
        InputError: a piped question can't be asked. From a keyboard the next one may.
    """
    terminal = sys.stdin.isatty()
    for line in read_lines(terminal):
        if line == "/quit" or line in HIDDEN:
            return
        if line == "/help":
            click.echo(help_text(), err=True)
            continue
        if line == "/reset":
            conversation.reset()
            click.echo("The conversation is forgotten.", err=True)
            continue
        conversation.say("user", line)
        try:
            with first_interrupt() as pressed:
                result = answer(conversation, wish, pressed, stream=not as_json)
        except InputError as error:
            if not terminal:
                raise
            conversation.take_back()
            click.echo(f"Error: {visible(error)}", err=True)
            continue
        if result["answer"] or result["finish"] != "interrupted":
            conversation.say("assistant", result["answer"])
        else:
            conversation.take_back()  # nothing was said to it
        if as_json:
            click.echo(json.dumps(result))
        else:
            note(describe(result, conversation.room))
            if terminal and sys.stdout.isatty():
                click.echo(err=True)


def answer(conversation: Conversation, wish: Wish, pressed: threading.Event, stream: bool) -> dict[str, Any]:
    """Ask for one answer and, if `stream`, write it to stdout as it comes. It ends early when `pressed` is set; what
    was said stays.
    """
    model, said = conversation.model, list[str]()
    forgotten = conversation.make_room(wish.max_tokens)
    if forgotten:
        what = "question and its answer are" if forgotten == 1 else f"{forgotten} questions and their answers are"
        note(f"[the context of {conversation.room} tokens is full: the oldest {what} forgotten; /reset starts anew]")
    guard, looped = RepetitionGuard(), False
    writer = AnswerWriter(sys.stdout, terminal_width if sys.stdout.isatty() else None)
    reading = Reading()
    started, first = time.perf_counter(), None
    pieces = model.chat(
        conversation.messages,
        max_tokens=wish.max_tokens,
        temperature=wish.temperature,
        top_p=wish.top_p,
        seed=wish.seed,
        keep=True,
    )
    with contextlib.closing(pieces):
        for piece in pieces:
            if pressed.is_set():
                break
            if piece:
                reading.done()
                first = first or time.perf_counter()
                said.append(piece)
                if stream:
                    writer.write(piece)
                if guard.add(piece):
                    looped = True
                    break
            else:
                reading.show(*model.reading)
    reading.done()
    if stream and said:
        writer.end()
    ended, stats = time.perf_counter(), model.last_chat
    tokens = stats.tokens if stats else len(said)
    spent = ended - (first or ended)
    return {
        "question": conversation.messages[-1]["content"],
        "answer": "".join(said),
        "finish": finish_of(stats, looped),
        "forgotten": forgotten,
        "prompt_tokens": stats.prompt_tokens if stats else None,
        "tokens": tokens,
        "ttft_s": round((first or ended) - started, 4),
        "tokens_per_s": round((tokens - 1) / spent, 2) if tokens > 1 and spent > 0 else None,
    }


def finish_of(stats: "ChatStats | None", looped: bool) -> str:
    """Why an answer ended: "stop", "length", "repetition" where the guard stopped it, or "interrupted"."""
    if looped:
        return "repetition"
    return stats.finish if stats else "interrupted"


class Reading:
    """On a terminal, how far a long conversation is read, once that takes longer than a moment; gone before the
    answer.
    """

    def __init__(self) -> None:
        self._since = time.perf_counter()
        self._shown = False
        self._may = sys.stderr.isatty() and os.environ.get("TERM") != "dumb"

    def show(self, read: int, tokens: int) -> None:
        """Say so, in the place of the last time."""
        if self._may and time.perf_counter() - self._since > READING_S:
            click.echo(f"\r[read {read} of {tokens} tokens]", nl=False, err=True)
            self._shown = True

    def done(self) -> None:
        """Wipe it away."""
        if self._shown:
            click.echo("\r\x1b[K", nl=False, err=True, color=True)
            self._shown = False


def terminal_width() -> int:
    """Cells of a line; a terminal that says nonsense has 80."""
    return max(20, shutil.get_terminal_size().columns)


@contextlib.contextmanager
def first_interrupt() -> Iterator[threading.Event]:
    """Let Ctrl-C set an event, so that it doesn't tear a frame in the pipe; a second one interrupts at once."""
    pressed = threading.Event()

    def handle(*_: object) -> None:
        if pressed.is_set():
            raise KeyboardInterrupt
        pressed.set()

    before = signal.signal(signal.SIGINT, handle)
    try:
        yield pressed
    finally:
        signal.signal(signal.SIGINT, before)


def note(text: str) -> None:
    """A line beside the conversation, on stderr: paler where that is a terminal that wants colours."""
    plain = bool(os.environ.get("NO_COLOR")) or os.environ.get("TERM") == "dumb" or not sys.stderr.isatty()
    if sys.stderr.isatty():
        text = textwrap.fill(text, terminal_width())
    click.echo(text if plain else click.style(text, dim=True), err=True)


def describe(result: dict[str, Any], room: int) -> str:
    """One line of figures: "[8 tokens, 61.2 tokens/s, first after 0.21 s]"."""
    tokens, finish = result["tokens"], result["finish"]
    rate = f", {result['tokens_per_s']:.1f} tokens/s" if result["tokens_per_s"] else ""
    ending = {"interrupted": "; stopped", "repetition": f"; {STOPPED_LOOP}"}.get(finish, "")
    if finish == "length":
        full = result["prompt_tokens"] + tokens >= room
        ending = (
            f"; cut off: the context of {room} tokens is full" if full else "; cut off: --max-tokens allows no more"
        )
    elif not result["answer"]:
        ending += "; the answer is empty"
    return f"[{tokens} token{'s' * (tokens != 1)}{rate}, first after {result['ttft_s']:.2f} s{ending}]"

"""`edgedistill chat`: talk to a packed file in the terminal, or pipe questions into it, one a line."""

import contextlib
import json
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgedistill.bundle.recommended import read_chat_defaults
from edgedistill.cli.answer import AnswerSettings, give_answer
from edgedistill.cli.answer_text import tolerant_streams
from edgedistill.cli.artifacts import RUNTIMES, find_artifact
from edgedistill.cli.conversation import Conversation
from edgedistill.cli.options import NonEmptyPath
from edgedistill.cli.questions import HIDDEN, HINT, help_text, read_lines
from edgedistill.cli.terminal import note
from edgedistill.errors import InputError
from edgedistill.runtimes.chat_defaults import MAX_TOKENS, TEMPERATURE, TOP_P
from edgedistill.show import one_line

if TYPE_CHECKING:
    from edgedistill.runtimes.base import Runtime

STOPPED = 130  # exit code after Ctrl-C


@click.command()
@click.argument("artifact", metavar="ARTIFACT|RUN_DIR", type=NonEmptyPath())
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
    help=f"0 always takes the likeliest token. Default: what the bundle says, else {TEMPERATURE:g}.",
)
@click.option(
    "--top-p",
    type=click.FloatRange(0, 1, min_open=True),
    help=f"Cut the unlikely tail. Default: what the bundle says, else {TOP_P:g}.",
)
@click.option(
    "--seed", type=click.IntRange(min=0), default=0, show_default=True, help="The same seed gives the same answers."
)
@click.option("--max-tokens", type=click.IntRange(min=1), default=MAX_TOKENS, show_default=True, help="Longest answer.")
@click.option(
    "--context", type=click.IntRange(min=16), default=2048, show_default=True, help="Longest conversation, in tokens."
)
@click.option(
    "--system",
    metavar="TEXT",
    help="A system message, '' for none. Default: the bundle's, which training had, else the template's own.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object for each answer.")
@click.pass_context
def chat(
    ctx: click.Context,
    artifact: Path,
    runtime: str | None,
    mix: str | None,
    threads: int | None,
    temperature: float | None,
    top_p: float | None,
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
    defaults = read_chat_defaults(bundle_of(path))
    settings = AnswerSettings(
        max_tokens,
        defaults.temperature if temperature is None else temperature,
        defaults.top_p if top_p is None else top_p,
        seed,
    )
    try:
        with open_artifact(kind, path, threads or usable_cores(), context) as model:
            info = model.info()
            if not info.chat_template:
                raise InputError(
                    f"{path}: it has no chat template, so it can't be talked to; use a model that was made to chat"
                )
            threads_word = "thread" if model.threads == 1 else "threads"
            note(f"{one_line(path.name)} in {info.version}, {model.threads} {threads_word}")
            if system is None and defaults.system is not None:
                note(f"system message, as in training (--system '' for none): {one_line(defaults.system)}")
            if sys.stdin.isatty():
                note(HINT)
            said_first = defaults.system if system is None else system
            talk(Conversation(model, min(context, info.n_ctx_train), said_first), settings, as_json)
    except KeyboardInterrupt:
        click.echo("\nStopped.", err=True)
        ctx.exit(STOPPED)


def bundle_of(artifact: Path) -> Path:
    """The folder in which a bundle's artifact lies: a .gguf file, an ONNX folder, or the graph in its onnx/."""
    if not artifact.is_file():
        return artifact.resolve().parent
    folder = artifact.parent.resolve()  # not the file itself: the hub's cache keeps files elsewhere, behind links
    return folder.parent.parent if artifact.suffix == ".onnx" else folder


def open_artifact(kind: str, path: Path, threads: int, context: int) -> "Runtime":
    """Load an artifact in its runtime's child process."""
    if kind == RUNTIMES[0]:
        from edgedistill.runtimes.llama import LlamaCpp

        return LlamaCpp(path, threads=threads, context=context, parallel=1)
    from edgedistill.runtimes.onnx import OnnxRuntime

    return OnnxRuntime(path, threads=threads, context=context)


def talk(conversation: Conversation, settings: AnswerSettings, as_json: bool) -> None:
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
                answer = give_answer(conversation, settings, pressed, stream=not as_json)
        except InputError as error:
            if not terminal:
                raise
            conversation.take_back()
            click.echo(f"Error: {one_line(error)}", err=True)
            continue
        if answer.answer or answer.finish != "interrupted":
            conversation.say("assistant", answer.answer)
        else:
            conversation.take_back()  # nothing was answered
        if as_json:
            click.echo(json.dumps(answer.to_json()))
        else:
            note(answer.describe(conversation.room))
            if terminal and sys.stdout.isatty():
                click.echo(err=True)


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

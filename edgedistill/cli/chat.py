"""`edgedistill chat`: talk to a packed file in the terminal, or pipe questions into it, one a line."""

import contextlib
import json
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgedistill.cli.artifacts import RUNTIMES, find_artifact
from edgedistill.errors import InputError
from edgedistill.records import visible

if TYPE_CHECKING:
    from edgedistill.runtimes.base import Runtime

HELP = "/reset forgets the conversation, /quit leaves"


@click.command()
@click.argument("artifact", metavar="ARTIFACT|RUN_DIR", type=click.Path(path_type=Path))
@click.option("--runtime", type=click.Choice(RUNTIMES), help="For a run folder, which of its artifacts; a file decides by itself.")
@click.option("--mix", metavar="NAME", help="For a run folder with several mixes: q4_0, q8_0, ... Default: the first there is.")
@click.option("--threads", type=click.IntRange(min=1), help="Processor threads. Default: all cores.")
@click.option("--temperature", type=click.FloatRange(min=0), default=0.2, show_default=True, help="0 always takes the likeliest token.")
@click.option("--top-p", type=click.FloatRange(0, 1, min_open=True), default=0.9, show_default=True, help="Cut the unlikely tail.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="The same seed gives the same answers.")
@click.option("--max-tokens", type=click.IntRange(min=1), default=512, show_default=True, help="Longest answer.")
@click.option("--context", type=click.IntRange(min=16), default=2048, show_default=True, help="Longest conversation, in tokens.")
@click.option("--system", metavar="TEXT", help="A system message; the template's own otherwise.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object for each answer.")
def chat(
    artifact: Path, runtime: str | None, mix: str | None, threads: int | None, temperature: float, top_p: float, seed: int,
    max_tokens: int, context: int, system: str | None, as_json: bool,
) -> None:
    """Talk to a .gguf file, an ONNX folder or a run's bundle, in its real runtime.

    Questions come from the keyboard or, piped, one a line. Answers go to stdout, tokens/s to stderr.
    /reset forgets the conversation, /quit leaves, Ctrl-C stops an answer.

    \b
    Example: echo "What is the capital of France?" | edgedistill chat runs/demo
    """
    from edgedistill.machine import usable_cores

    kind, path = find_artifact(artifact, runtime, mix)
    with open_artifact(kind, path, threads or usable_cores(), context) as model:
        info = model.info()
        if not info.chat_template:
            raise InputError(f"{path}: it has no chat template, so it can't be talked to; use a model that was made to chat")
        click.echo(f"{path} in {info.version}, {model.threads} threads. {HELP}.", err=True)
        history: list[dict[str, Any]] = [{"role": "system", "content": system}] if system else []
        start = len(history)
        for line in questions(sys.stdin.isatty()):
            if line == "/quit":
                break
            if line == "/reset":
                del history[start:]
                click.echo("The conversation is forgotten.", err=True)
                continue
            history.append({"role": "user", "content": line})
            try:
                result = answer(model, history, max_tokens, temperature, top_p, seed, stream=not as_json)
            except InputError as error:
                if not sys.stdin.isatty():
                    raise
                history.pop()
                click.echo(f"Error: {error}", err=True)
                continue
            history.append({"role": "assistant", "content": result["answer"]})
            if as_json:
                click.echo(json.dumps(result))
            else:
                click.echo(describe(result), err=True)


def open_artifact(kind: str, path: Path, threads: int, context: int) -> "Runtime":
    """Load an artifact in its runtime's child process."""
    if kind == RUNTIMES[0]:
        from edgedistill.runtimes.llama import LlamaCpp

        return LlamaCpp(path, threads=threads, context=context, parallel=1)
    from edgedistill.runtimes.onnx import OnnxRuntime

    return OnnxRuntime(path, threads=threads, context=context)


def questions(terminal: bool) -> Iterator[str]:
    """Lines that say something: typed after a prompt, with line editing, or piped. Ends with the input, or with Ctrl-C at the prompt."""
    if not terminal:
        for line in sys.stdin:
            if line.strip():
                yield line.strip()
        return
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401 (input() then edits lines)
    while True:
        try:
            line = input("> ").strip()
        except (EOFError, KeyboardInterrupt):
            click.echo(err=True)
            return
        if line.startswith("/") and line not in ("/reset", "/quit"):
            click.echo(f"{visible(line.split()[0])} is no command: {HELP}.", err=True)
        elif line:
            yield line


def answer(
    model: "Runtime", history: list[dict[str, Any]], max_tokens: int, temperature: float, top_p: float, seed: int, stream: bool
) -> dict[str, Any]:
    """Ask for one answer and, if `stream`, write it to stdout as it comes. Ctrl-C ends it early; what was said stays."""
    said: list[str] = []
    started, first = time.perf_counter(), None
    with (
        first_interrupt() as pressed,
        contextlib.closing(model.chat(history, max_tokens=max_tokens, temperature=temperature, top_p=top_p, seed=seed)) as pieces,
    ):
        for piece in pieces:
            first = first or time.perf_counter()
            said.append(piece)
            if stream:
                click.echo(visible(piece), nl=False)
                sys.stdout.flush()
            if pressed.is_set():
                break
    if stream:
        click.echo()
    ended, stats = time.perf_counter(), model.last_chat
    tokens = stats.tokens if stats else len(said)
    spent = ended - (first or ended)
    return {
        "question": history[-1]["content"],
        "answer": "".join(said),
        "finish": stats.finish if stats else "interrupted",
        "prompt_tokens": stats.prompt_tokens if stats else None,
        "tokens": tokens,
        "ttft_s": round((first or ended) - started, 4),
        "tokens_per_s": round((tokens - 1) / spent, 2) if tokens > 1 and spent > 0 else None,
    }


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


def describe(result: dict[str, Any]) -> str:
    """One line of figures: "8 tokens, 61.2 tokens/s, first after 0.21 s"."""
    rate = f", {result['tokens_per_s']:.1f} tokens/s" if result["tokens_per_s"] else ""
    ending = {"stop": "", "length": "; cut off at the longest answer or the end of the context", "interrupted": "; interrupted"}
    return f"[{result['tokens']} tokens{rate}, first after {result['ttft_s']:.2f} s{ending[result['finish']]}]"

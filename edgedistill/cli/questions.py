"""The lines that a person types to `edgedistill chat`, or pipes into it: questions, and the commands among them."""

import contextlib
import sys
from collections.abc import Iterator

import click

from edgedistill.errors import did_you_mean
from edgedistill.show import one_line

COMMANDS = {
    "/reset": "forget the conversation",
    "/help": "this list",
    "/quit": "leave; so do /exit and Ctrl-D",
}
HIDDEN = ("/exit",)
BLOCK = '"""'  # begins and ends a question of several lines
HINT = "/help lists the commands, Ctrl-C stops an answer"
PROMPT, MORE = "> ", ". "
CANCELLED = "\x03"  # a block that Ctrl-C gave up, by identity


def help_text() -> str:
    """What can be typed."""
    lines = [f"{name:8}{what}" for name, what in COMMANDS.items()]
    return "\n".join(
        [
            *lines,
            f"{BLOCK:8}begins a question of several lines, and ends it",
            "Ctrl-C  stops an answer; what was said stays",
        ]
    )


def read_lines(terminal: bool) -> Iterator[str]:
    """Questions and commands, without the spaces around them. Ends with the input, or where Ctrl-C is pressed twice at
    the prompt.
    """
    source = TypedLines() if terminal else iter(sys.stdin)
    for line in source:
        text = line.strip()
        if text.startswith(BLOCK):
            text = rest_of_block(text, source).strip()
            if text:
                yield text
        elif text.startswith("/") and terminal and text not in COMMANDS and text not in HIDDEN:
            # A piped question may begin with a path; a person who mistypes a command wants to hear it.
            name = text.split()[0]
            click.echo(f"{one_line(name)} is no command.{did_you_mean(name, COMMANDS)} /help lists them.", err=True)
        elif text:
            yield text


def rest_of_block(first: str, source: Iterator[str]) -> str:
    """The lines of a question up to the closing mark, or to the end of the input; empty where Ctrl-C gives it up."""
    lines = [first.removeprefix(BLOCK)]
    if isinstance(source, TypedLines):
        source.prompt = MORE
    while not lines[-1].rstrip().endswith(BLOCK):
        line = next(source, None)
        if line is None:
            break
        if line is CANCELLED:
            return ""
        lines.append(line.rstrip("\r\n"))
    if isinstance(source, TypedLines):
        source.prompt = PROMPT
    return "\n".join(lines).rstrip().removesuffix(BLOCK)


class TypedLines:
    """Lines typed at a prompt, with editing and a history where readline is there. Ctrl-C drops a line; pressed twice,
    it leaves.
    """

    def __init__(self) -> None:
        with contextlib.suppress(ImportError):
            import readline  # noqa: F401 (input() then edits lines)
        self.prompt = PROMPT

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        warned = False
        while True:
            try:
                line = ask(self.prompt)
            except EOFError:
                click.echo(err=True)
                raise StopIteration from None
            except KeyboardInterrupt:
                click.echo(err=True)
                if self.prompt == MORE:
                    self.prompt = PROMPT
                    return CANCELLED
                if warned:
                    raise StopIteration from None
                warned = True
                click.echo("Ctrl-C again, Ctrl-D or /quit leaves.", err=True)
                continue
            return line


def ask(prompt: str) -> str:
    """One line from the keyboard. The prompt goes to the screen, not into a file that answers are written to.

    Raises:
        EOFError, KeyboardInterrupt: Ctrl-D, Ctrl-C.
    """
    if sys.stdout.isatty():
        return input(prompt)
    click.echo(prompt, nl=False, err=True)
    line = sys.stdin.readline()
    if not line:
        raise EOFError
    return line

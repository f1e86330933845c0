"""Where results go is checked before anything is fetched, listed or read; an empty path or list is no answer."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from edgedistill.cli.build import plan_first
from edgedistill.cli.main import cli
from edgedistill.config import load_recipe, load_target
from edgedistill.errors import InputError
from edgedistill.pipeline.prepare import Job
from edgedistill.store import RunFolder

ROOT = Path(__file__).parents[2]
RECIPES = {"compile": "tiny", "recover": ROOT / "tests/e2e/recover.yaml", "compare": ROOT / "tests/e2e/compare.yaml"}
REFUSED = {
    "file": "file is a file; the run needs a folder. Choose another.",
    "file/run": "run is a file; the run needs a folder. Choose another.",
    "full": "full holds files of something else, such as 'mine.txt'. Choose another folder, or an empty one.",
    "other": "other holds a run of the model 'org/other', not of ",
}


def run(*arguments: object) -> tuple[int, str, str]:
    done = CliRunner().invoke(cli, [str(argument) for argument in arguments])
    return done.exit_code, done.stdout, done.stderr


@pytest.fixture
def taken(tmp_path: Path) -> Path:
    """A folder with a file, a folder that holds one, and a run of another model."""
    (tmp_path / "file").write_text("mine")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    RunFolder.open(tmp_path / "other", {"teacher": "org/other"})
    return tmp_path


@pytest.mark.parametrize("dry_run", [True, False])
@pytest.mark.parametrize("name", REFUSED)
def test_an_output_folder_that_is_taken_is_refused_with_the_plan(
    name: str, dry_run: bool, taken: Path, tiny_llama: Path, capsys: pytest.CaptureFixture[str]
):
    before = sorted(taken.rglob("*"))
    job = Job(load_recipe("tiny").with_teacher(str(tiny_llama)), load_target("laptop-cpu"), taken / name)
    with pytest.raises(InputError) as caught:
        plan_first(job, dry_run)
    assert REFUSED[name] in str(caught.value)
    assert capsys.readouterr().out == ""
    assert sorted(taken.rglob("*")) == before


@pytest.mark.parametrize("command", RECIPES)
def test_a_dry_run_into_a_file_is_2(command: str, taken: Path, tiny_llama: Path):
    words = [command, tiny_llama, "-t", "laptop-cpu", "-r", RECIPES[command], "--dry-run"]
    code, out, error = run(*words, "-o", taken / "file")
    assert (code, out) == (2, "")
    assert REFUSED["file"] in error
    code, out, error = run(*words, "-o", taken / "new")
    assert code == 0, error
    assert "0 of them complete in" in out
    assert not (taken / "new").exists()


@pytest.mark.parametrize(
    ("words", "name"),
    [
        (["compile", "m", "-t", "phone", "-o", ""], "--out"),
        (["recover", "m", "--output", ""], "--out"),
        (["compare", "m", "-o", ""], "--out"),
        (["export", "m", "-m", "q4_0", "-o", ""], "--out"),
        (["bench", ""], "FILE|FOLDER..."),
        (["bench", "f.gguf", "--text", ""], "--text"),
        (["chat", ""], "ARTIFACT|RUN_DIR"),
        (["serve", ""], "ARTIFACT|RUN_DIR"),
        (["verify", ""], "RUN|CHECKPOINT|FILE"),
        (["runs", "list", ""], "FOLDER"),
        (["runs", "show", ""], "RUN"),
        (["runs", "clean", ""], "RUN"),
    ],
)
def test_an_empty_path_is_not_the_current_folder(
    words: list[str], name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    assert run(*words) == (2, "", f"Error: {name} is empty; give a path, or . for the current folder\n")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("text", ["", ",", " , "])
@pytest.mark.parametrize(
    ("command", "option"),
    [
        *((name, "--mix") for name in ("compile", "plan", "recover", "compare", "export")),
        *((name, "--format") for name in ("compile", "plan", "recover", "export")),
    ],
)
def test_a_list_that_names_nothing_is_refused(command: str, option: str, text: str, tmp_path: Path):
    example = {"--mix": "q4_0,q8_0", "--format": "gguf,onnx"}[option]
    out = [] if command == "plan" else ["-o", tmp_path / "out"]
    target = [] if command == "export" else ["-t", "phone"]
    code, _, error = run(command, "m", *target, *out, option, text)
    assert code == 2
    assert error == f"Error: {option} is empty; name at least one, such as {option} {example}\n"


@pytest.mark.parametrize("more", [[], ["--force"]])
@pytest.mark.parametrize("out", ["file", "file/deeper"])
def test_an_export_into_a_file_is_refused_before_the_model_is_read(
    out: str, more: list[str], taken: Path, tiny_llama: Path
):
    code, _, error = run("export", tiny_llama, "-m", "q4_0", "-o", taken / out, *more)
    assert code == 2
    assert error.endswith("file is a file, and --out names the folder that the files go to; choose another\n")
    assert "read the model" not in error
    assert (taken / "file").read_text() == "mine"

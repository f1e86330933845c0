"""`edgedistill recover` refuses wrong input in one sentence, with exit code 2, and writes nothing."""

import json
import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from edgedistill.cli.main import cli
from edgedistill.store import RunFolder

ROOT = Path(__file__).parents[2]
RECIPE = ROOT / "tests" / "e2e" / "recover.yaml"


def run(*arguments: object) -> tuple[int, str, str]:
    done = CliRunner().invoke(cli, ["recover", *map(str, arguments)])
    return done.exit_code, done.stdout, done.stderr


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--mix", "q4_km"], r"--mix names 'q4_km'; it must be one of q4_0, .* Did you mean 'q4_k_m'\?"),
        (["--mix", "q4_0,mine"], "--mix names 'mine'; .* or defined under define_mixes in a --recipe"),
        (["--tokens", "many"], "--tokens is 'many'; it must be a whole number from 0 on, such as 400k"),
        (["--tokens", "lots"], "--tokens is 'lots'"),
        (["--text", "/none/t.txt"], r"/none/t\.txt: teach\.text cannot be read \(No such file"),
        (["--prompts", "/none/p.jsonl"], r"/none/p\.jsonl: there is no such prompts file"),
        (["--text-only"], "--text-only trains on the text that you give"),
        (["--format", "tflite"], "--format is 'tflite'; it must be gguf or onnx, or both with a comma between them"),
        (["--target", "toaster"], "target 'toaster' is unknown"),
        (["--recipe", "recove"], "recipe 'recove' is unknown; .* Did you mean 'recover'"),
    ],
)
def test_a_wrong_option_ends_before_anything_runs(options: list[str], words: str, tiny_llama: Path, tmp_path: Path):
    code, out, error = run(tiny_llama, "-o", tmp_path / "run", "-r", RECIPE, *options)
    assert code == 2
    assert out == ""
    assert error.startswith("Error: ")
    assert error.count("\n") == 1
    assert re.search(words, error)
    assert not (tmp_path / "run").exists()


def test_a_missing_model_and_an_encoder_are_refused(tmp_path: Path, tiny_llama: Path):
    code, _, error = run(tmp_path / "none", "-o", tmp_path / "run")
    assert code == 2
    assert "no such file or folder" in error
    encoder = tmp_path / "encoder"
    encoder.mkdir()
    for file in ("tokenizer.json", "tokenizer_config.json"):
        (encoder / file).write_bytes((tiny_llama / file).read_bytes())
    (encoder / "config.json").write_text(
        json.dumps({"model_type": "bert", "architectures": ["BertModel"], "hidden_size": 64})
    )
    code, _, error = run(encoder, "-o", tmp_path / "run")
    assert code == 2
    assert "bert" in error
    assert not (tmp_path / "run").exists()


def test_a_folder_of_something_else_or_of_another_run_is_left_alone(tiny_llama: Path, tmp_path: Path):
    full = tmp_path / "full"
    full.mkdir()
    (full / "mine.txt").write_text("mine")
    code, _, error = run(tiny_llama, "-o", full, "-r", RECIPE)
    assert code == 2
    assert "holds files of something else, such as 'mine.txt'. Choose another folder" in error
    assert [path.name for path in full.iterdir()] == ["mine.txt"]
    RunFolder.open(tmp_path / "other", {"teacher": "org/other"})
    code, _, error = run(tiny_llama, "-o", tmp_path / "other", "-r", RECIPE)
    assert code == 2
    assert "holds a run of the model 'org/other'" in error


def test_a_device_that_is_too_small_is_3(tiny_llama: Path, tmp_path: Path):
    text = (ROOT / "targets" / "phone.yaml").read_text(encoding="utf-8").replace("usable: 3 GiB", "usable: 1 MiB")
    (tmp_path / "watch.yaml").write_text(text.replace("name: phone", "name: watch"), encoding="utf-8")
    code, _, error = run(tiny_llama, "-o", tmp_path / "run", "-r", RECIPE, "-t", tmp_path / "watch.yaml")
    assert code == 3
    assert "1.05 MB are usable" in error
    assert not (tmp_path / "run").exists()

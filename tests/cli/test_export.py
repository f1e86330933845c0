"""`edgedistill export`: several mixes at once, each proven; refused in one sentence before any work."""

import json
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import gguf
import pytest
from click.testing import CliRunner
from safetensors.torch import load_file, save_file

from edgedistill.cli.main import cli
from tests import ggml


def run(*arguments: object) -> tuple[int, str]:
    done = CliRunner().invoke(cli, ["export", *map(str, arguments)])
    return done.exit_code, done.stdout + done.stderr


def test_several_mixes_of_a_model_in_both_kinds(tiny_llama: Path, tmp_path: Path):
    options = ["--mix", "q4_0,q8_0", "-f", "gguf,onnx", "-o", str(tmp_path), "--name", "tiny", "--json"]
    done = CliRunner().invoke(cli, ["export", str(tiny_llama), *options])
    assert done.exit_code == 0, done.output
    files = {Path(file["path"]).name: file for file in json.loads(done.stdout)["files"]}
    assert set(files) == {"tiny-q4_0.gguf", "tiny-q8_0.gguf", "tiny-q4_0-onnx", "tiny-q8_0-onnx"}
    assert files["tiny-q4_0.gguf"]["weights_sha256"] == files["tiny-q4_0-onnx"]["weights_sha256"]
    assert files["tiny-q4_0.gguf"]["bytes"] == (tmp_path / "tiny-q4_0.gguf").stat().st_size
    # llama.cpp's own quantizer makes the same bytes.
    tensors = {tensor.name: tensor for tensor in gguf.GGUFReader(tmp_path / "tiny-q4_0.gguf").tensors}
    weight = load_file(tiny_llama / "model.safetensors")["model.layers.2.mlp.up_proj.weight"].numpy()
    assert tensors["blk.2.ffn_up.weight"].data.tobytes() == ggml.quantize(weight, "q4_0").tobytes()


def test_paths_that_hold_a_newline_take_one_line(tiny_llama: Path, tmp_path: Path):
    code, text = run(tiny_llama, "-m", "q8_0", "-o", tmp_path / "new\nline", "--name", "tiny")
    assert code == 0
    assert f"{tmp_path}/new line/tiny-q8_0.gguf  " in text
    file = tmp_path / "new\nline" / "tiny-q8_0.gguf"
    for words in (["verify", str(file)], ["verify", str(file), str(file)], ["bench", str(file), "--decode", "2"]):
        done = CliRunner().invoke(cli, words)
        assert done.exit_code == 0, done.output
        assert f"{tmp_path}/new line/tiny-q8_0.gguf" in done.stdout
        assert "new\nline" not in done.output


def test_a_gguf_file_and_its_floats(tiny_llama: Path, tmp_path: Path):
    assert run(tiny_llama, "-m", "f16", "-o", tmp_path, "--name", "tiny")[0] == 0
    code, text = run(tmp_path / "tiny-f16.gguf", "-m", "BF16,q8_0", "-o", tmp_path)  # as llama.cpp spells it
    assert code == 0, text
    assert names(tmp_path) == {"tiny-f16.gguf", "tiny-bf16.gguf", "tiny-q8_0.gguf"}


def test_an_empty_chat_template_is_none(tiny_llama: Path, tmp_path: Path):
    model = Path(shutil.copytree(tiny_llama, tmp_path / "model"))
    (model / "chat_template.jinja").write_text("")
    result = CliRunner().invoke(cli, ["export", str(model), "-m", "q4_0", "-o", str(tmp_path / "out")])
    assert result.exit_code == 0, result.stderr
    reader = gguf.GGUFReader(tmp_path / "out" / "model-q4_0.gguf")
    assert "tokenizer.chat_template" not in reader.fields


def test_what_is_there_is_not_replaced_unasked(tiny_llama: Path, tmp_path: Path):
    (tmp_path / "tiny-q8_0.gguf").write_text("mine")
    code, text = run(tiny_llama, "-m", "q4_0,q8_0", "-o", tmp_path, "--name", "tiny")
    assert code == 2
    assert "tiny-q8_0.gguf is there already; choose another folder with -o, or replace it with --force" in text
    assert [path.name for path in tmp_path.iterdir()] == ["tiny-q8_0.gguf"]
    assert run(tiny_llama, "-m", "q8_0", "-o", tmp_path, "--name", "tiny", "--force")[0] == 0
    assert (tmp_path / "tiny-q8_0.gguf").read_bytes()[:4] == b"GGUF"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-m", "q4_0", "-f", "tflite"], "--format is 'tflite'; it must be gguf or onnx, or both"),
        ([], "--mix is missing; name what to round to"),
        (
            ["-m", "auto_q4_0"],
            "mix 'auto_q4_0' is fitted by measurement, which `compile` and `recover` do; export takes mixes whose",
        ),
        (["-m", "q4_9"], "mix 'q4_9' is unknown; it must be one of"),
    ],
)
def test_bad_input_is_one_sentence_and_nothing_is_written(tiny_llama: Path, tmp_path: Path, arguments, message):
    code, text = run(tiny_llama, "-o", tmp_path / "out", *arguments)
    assert code == 2
    assert text.startswith(f"Error: {message}")
    assert text.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_tensor_that_is_not_finite_is_named(tiny_llama: Path, tmp_path: Path, value: float):
    model = tmp_path / "model"
    shutil.copytree(tiny_llama, model)
    tensors = load_file(model / "model.safetensors")
    tensors["model.layers.1.mlp.up_proj.weight"][3, 5] = value
    save_file(tensors, model / "model.safetensors", metadata={"format": "pt"})
    code, text = run(model, "-m", "q4_0", "-o", tmp_path / "out")
    assert code == 2
    assert "model.layers.1.mlp.up_proj.weight holds values that aren't finite numbers" in text
    assert not (tmp_path / "out").exists()


def test_a_weight_beyond_float16_is_named(tiny_llama: Path, tmp_path: Path):
    model = tmp_path / "model"
    shutil.copytree(tiny_llama, model)
    tensors = load_file(model / "model.safetensors")
    tensors["model.layers.1.mlp.up_proj.weight"][3, 5] = 1e5
    save_file(tensors, model / "model.safetensors", metadata={"format": "pt"})
    code, text = run(model, "-m", "f16", "-o", tmp_path / "out")
    assert code == 2
    assert (
        "model.layers.1.mlp.up_proj.weight: f16 can't hold the value 100000.0 at [3, 5]; float16 ends at 65504." in text
    )
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("kind", ["gguf", "onnx"])
def test_where_the_disk_takes_no_more_nothing_partial_stays(tiny_llama: Path, tmp_path: Path, kind: str):
    """A real limit, in a process of its own: no file may grow beyond 100 kB."""
    out = tmp_path / "out"
    command = [sys.executable, "-m", "edgedistill", "export", tiny_llama, "-m", "q8_0", "-f", kind, "-o", out]
    limit = (100_000, resource.RLIM_INFINITY)
    done = subprocess.run(
        command, capture_output=True, text=True, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    )
    assert done.returncode == 1, done.stderr
    assert re.search(r"can't be written \(.+\)\. Free some disk, or choose another folder\.\n$", done.stderr)
    assert "Traceback" not in done.stderr
    assert list(out.iterdir()) == []


def test_an_empty_name_is_not_the_current_folder(tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tiny_llama)
    code, text = run("", "-m", "q8_0", "-o", tmp_path / "out")
    assert code == 2
    assert text.startswith("Error: MODEL is empty; name a folder, a hub id, a .gguf file or pypi:NAME, such as")
    assert not (tmp_path / "out").exists()


def names(folder: Path) -> set[str]:
    """What a user sees in a folder: notes of proofs are hidden."""
    return {path.name for path in folder.iterdir() if path.name[0] != "."} if folder.exists() else set()


def test_a_killed_export_goes_on_with_the_same_command(tiny_llama: Path, tmp_path: Path):
    words = ["export", tiny_llama, "-m", "q4_0,q8_0,q5_0", "-f", "gguf,onnx", "-o", tmp_path / "out", "--name", "tiny"]
    command = [sys.executable, "-m", "edgedistill", *map(str, words)]
    first = tmp_path / "out" / "tiny-q4_0.gguf"
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        while process.poll() is None and not first.exists():
            time.sleep(0.002)
        process.kill()
    made = first.stat().st_ino
    code, text = run(*words[1:])
    assert code == 0, text
    assert first.stat().st_ino == made
    assert names(tmp_path / "out") == {
        *(f"tiny-{mix}.gguf" for mix in ("q4_0", "q8_0", "q5_0")),
        *(f"tiny-{mix}-onnx" for mix in ("q4_0", "q8_0", "q5_0")),
    }


def test_a_finished_export_is_complete_already(tiny_llama: Path, tmp_path: Path):
    words = [tiny_llama, "-m", "q4_0,q8_0", "-f", "gguf,onnx", "-o", tmp_path, "--name", "tiny"]
    code, first = run(*words)
    assert code == 0, first
    made = {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    code, again = run(*words)
    assert code == 0, again
    assert "q4_0: complete already" in again
    assert [line for line in again.splitlines() if "weights" in line] == [
        line for line in first.splitlines() if "weights" in line
    ]
    assert {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == made


def test_a_file_that_changed_afterwards_is_not_taken_for_proven(tiny_llama: Path, tmp_path: Path):
    words = [tiny_llama, "-m", "q4_0,q8_0", "-o", tmp_path, "--name", "tiny"]
    assert run(*words)[0] == 0
    file = tmp_path / "tiny-q4_0.gguf"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    code, text = run(*words)
    assert code == 2
    assert "tiny-q4_0.gguf is there already" in text
    file.unlink()
    assert run(*words)[0] == 0
    assert names(tmp_path) == {"tiny-q4_0.gguf", "tiny-q8_0.gguf"}


def test_what_could_not_be_proven_is_not_left_behind(tiny_llama: Path, tmp_path: Path):
    model = Path(shutil.copytree(tiny_llama, tmp_path / "model"))
    tokenizer = json.loads((model / "tokenizer.json").read_text())
    tokenizer["decoder"] = {"type": "zz"}
    (model / "tokenizer.json").write_text(json.dumps(tokenizer))
    code, text = run(model, "-m", "q4_0", "-o", tmp_path / "out")
    assert code == 2
    assert str(model) in text
    assert tempfile.gettempdir() + "/tmp" not in text
    assert not names(tmp_path / "out")

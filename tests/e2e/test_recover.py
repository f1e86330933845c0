"""`edgedistill recover` on tiny models, as a user types it: from a folder and a GGUF file, killed, run again, on text
alone.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from edgedistill.models.gguf_file import read_header
from tests.e2e.conftest import ENVIRONMENT, edgedistill
from tests.tiny import make_tiny, teach_to_talk

RECIPE = Path(__file__).with_name("recover.yaml")
STAGES = ("teach", "recover-q4_0", "measure")  # the long ones: in each of these one kill
OTHERS = ("mistral", "qwen2", "qwen3", "gemma3_text", "phi3", "smollm3", "granite", "olmo2")


def words(model: Path, out: Path, *more: object) -> list[str]:
    return ["recover", *map(str, (model, "--recipe", RECIPE, "-o", out, *more))]


def content(run: Path) -> dict[str, bytes]:
    files = list((run / "bundle").glob("*.gguf"))
    assert files
    return {file.name: file.read_bytes() for file in files}


@pytest.fixture(scope="module")
def recovered(talking_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of a recovery from a folder, uninterrupted."""
    out = tmp_path_factory.mktemp("recover") / "whole"
    done = edgedistill(*words(talking_llama, out, "--mix", "q4_0"))
    assert done.returncode == 0, done.stderr
    for text in ("held-out chats", "held-out free text", "held-out prose", "q4_0 recovered, llama.cpp", "won back"):
        assert text in done.stdout
    assert f"gguf-q4_0  {out}/bundle/talking-llama-q4_0.gguf" in done.stdout
    return out


def test_it_leaves_a_file_of_the_whole_model_and_its_figures(recovered: Path, talking_llama: Path):
    report = json.loads((recovered / "report.json").read_text())
    assert [row["label"] for row in report["rows"]] == ["float model", "q4_0 rounded", "q4_0 recovered, llama.cpp"]
    assert [judge["name"] for judge in report["judges"]] == ["held-out chats", "held-out free text", "held-out prose"]
    assert report["left_out"] == []
    float_row, rounded, shipped = report["rows"]
    for judge in report["judges"]:
        # F16 in llama.cpp against float32 in torch: the same model.
        assert float_row["quality"][judge["name"]]["kl_student_mean"] < 1e-3
        assert "kl_teacher_mean" not in float_row["quality"][judge["name"]]
    assert shipped["file_bytes"] == pytest.approx(rounded["file_bytes"], rel=0.01)
    assert report["provenance"]["verify"][0]["differences"] == 0
    layers = json.loads((talking_llama / "config.json").read_text())["num_hidden_layers"]
    (file,) = (recovered / "bundle").glob("*.gguf")
    assert {f"blk.{layer}.ffn_up.weight" for layer in range(layers)} <= set(read_header(file).tensors)
    assert not list((recovered / "stages").glob("distill-*"))
    card = (recovered / "bundle" / "README.md").read_text()
    assert "trained on the number grid of its file" in card
    assert "distilled" not in card


def test_a_second_run_computes_nothing_and_more_tokens_keep_what_serves(recovered: Path, talking_llama: Path):
    before = content(recovered)
    done = edgedistill(*words(talking_llama, recovered, "--mix", "Q4_0", "--json"))
    assert done.returncode == 0, done.stderr
    assert "done in" not in done.stderr
    assert content(recovered) == before
    found = json.loads(done.stdout)
    assert found["schema"] == "edgedistill.recover/1"
    assert Path(found["files"]["gguf-q4_0"]).read_bytes() == next(iter(before.values()))
    shipped = [row for row in found["rows"] if row["kind"] == "recovered"]
    assert {row["judge"] for row in shipped} == {"held-out chats", "held-out free text", "held-out prose"}
    for row in shipped:
        (rounded,) = (r for r in found["rows"] if r["kind"] == "rounded" and r["judge"] == row["judge"])
        assert row["recovered_kl"] == pytest.approx(1 - row["kl"] / rounded["kl"])

    more = edgedistill(*words(talking_llama, recovered, "--tokens", "1.5k"))
    assert more.returncode == 0, more.stderr
    for stage in ("student", "float-gguf", "teach", "rounded-q4_0"):
        assert f"{stage}: complete already" in more.stderr
    assert "recover-q4_0: done in" in more.stderr


def test_a_mix_fitted_to_a_built_in_ones_bytes_needs_no_recipe(recovered: Path, talking_llama: Path, tmp_path: Path):
    run = Path(shutil.copytree(recovered, tmp_path / "run"))
    done = edgedistill(*words(talking_llama, run, "--mix", "q4_0,auto_q4_0", "--tokens", "0"))
    assert done.returncode == 0, done.stderr
    assert "auto_q4_0 recovered, llama.cpp" in done.stdout
    (chosen,) = run.glob("stages/fit-auto_q4_0-*/mix.json")
    found = json.loads(chosen.read_text())
    files = {mix: read_header(run / "bundle" / f"talking-llama-{mix}.gguf").tensors for mix in ("q4_0", "auto_q4_0")}
    weights = {mix: sum(tensor.size for tensor in tensors.values()) for mix, tensors in files.items()}
    assert found["bytes"] == weights["auto_q4_0"] <= found["allowed_bytes"] == weights["q4_0"]
    assert found["kl"] <= found["compared"]["q4_0"]["kl"]


def test_killed_in_every_long_stage_it_ends_with_the_same_bytes(talking_llama: Path, recovered: Path, tmp_path: Path):
    out = tmp_path / "killed"
    command = [sys.executable, "-m", "edgedistill", *words(talking_llama, out)]
    for stage in STAGES:
        process = subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 120
        while not any((out / "stages").glob(f".{stage}-*.partial")):
            assert process.poll() is None, f"it ended before stage {stage} began"
            assert time.monotonic() < deadline
            time.sleep(0.002)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    done = edgedistill(*words(talking_llama, out))
    assert done.returncode == 0, done.stderr
    assert content(out) == shipped_first(recovered)
    assert not list((out / "stages").glob(".*.partial"))


def shipped_first(run: Path) -> dict[str, bytes]:
    """The file of the run's first recovery, whatever has been trained in its folder since."""
    files = {path.parent.name: path for path in (run / "stages").glob("gguf-q4_0-*/model.gguf")}
    first = min(files.values(), key=lambda path: path.stat().st_mtime)
    return {"talking-llama-q4_0.gguf": first.read_bytes()}


@pytest.fixture(scope="module")
def base_gguf(talking_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model without a chat template in an 8-bit GGUF file, made by our own export."""
    folder = tmp_path_factory.mktemp("base")
    model = Path(shutil.copytree(talking_llama, folder / "base"))
    (model / "chat_template.jinja").unlink()
    done = edgedistill("export", model, "--mixes", "q8_0", "-o", folder)
    assert done.returncode == 0, done.stderr
    return folder / "base-q8_0.gguf"


def test_a_base_model_in_a_quantized_file(base_gguf: Path, tmp_path: Path):
    done = edgedistill(
        *words(base_gguf, tmp_path / "run", "--tokens", 512, "-f", "gguf,onnx", "--target", "laptop-cpu")
    )
    assert done.returncode == 0, done.stderr
    assert "its weights are already rounded, most of them to q8_0; everything is compared with" in done.stderr
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert [row["label"] for row in report["rows"]] == [
        "model as given",
        "float model",
        "q4_0 rounded",
        "q4_0 recovered, llama.cpp",
        "q4_0 recovered, onnxruntime",
    ]
    assert report["rows"][0]["file_bytes"] == base_gguf.stat().st_size
    assert [judge["name"] for judge in report["judges"]] == ["held-out text", "held-out prose"]
    assert report["target"]["name"] == "laptop-cpu"
    assert edgedistill("verify", tmp_path / "run").returncode == 0


def test_own_text_alone(base_gguf: Path, tmp_path: Path):
    for name in ("one", "two"):
        (tmp_path / f"{name}.txt").write_text(f"In file {name} the fox runs. " * 150, encoding="utf-8")
    texts = [word for name in ("one", "two") for word in ("--text", tmp_path / f"{name}.txt")]
    done = edgedistill(*words(base_gguf, tmp_path / "run", *texts, "--text-only", "--tokens", 512))
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert [judge["name"] for judge in report["judges"]] == ["held-out own text"]
    assert report["teach"]["asked"] == 0
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    for name in ("one", "two"):
        (tmp_path / f"{name}.txt").rename(moved / f"{name}.txt")
    texts = [word for name in ("one", "two") for word in ("--text", moved / f"{name}.txt")]
    again = edgedistill(*words(base_gguf, tmp_path / "run", *texts, "--text-only", "--tokens", 512))
    assert again.returncode == 0, again.stderr
    assert "done in" not in again.stderr, "the same texts in another place"


@pytest.mark.slow
@pytest.mark.parametrize("family", OTHERS)
def test_every_family(family: str, tmp_path: Path):
    model = teach_to_talk(make_tiny(family, tmp_path / "model", initializer_range=0.02), 120, rate=4e-3)
    done = edgedistill(*words(model, tmp_path / "run", "--tokens", 512))
    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / "run" / "report.json").read_text())["rows"]
    assert [row["kind"] for row in rows] == ["float", "rounded", "recovered"]

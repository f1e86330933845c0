"""The whole compile on a tiny model: what it leaves, that it verifies, that a second run computes nothing."""

import json
import shutil
import subprocess
import time
from pathlib import Path

import gguf
import numpy as np
import pytest

from edgedistill.export.verify import checkpoints_of, verify_file
from edgedistill.store.run import RunFolder
from tests.e2e.conftest import ENVIRONMENT, artifact_hashes, compile_command, edgedistill


@pytest.fixture
def copy(compiled: Path, tmp_path: Path) -> Path:
    """A run folder to spoil."""
    return Path(shutil.copytree(compiled, tmp_path / "copy"))


def test_it_leaves_report_and_bundle(compiled: Path):
    report = json.loads((compiled / "report.json").read_text())
    assert report["schema"] == "edgedistill.report/1"
    assert report["left_out"] == [], "every figure has its record"
    labels = [row["label"] for row in report["rows"]]
    assert labels[:3] == ["teacher", "teacher in its smallest grids", "float student"]
    for mix in ("q4_0", "q8_0"):
        assert {f"{mix} rounded", f"{mix} recovered, llama.cpp", f"{mix} recovered, onnxruntime"} <= set(labels)
    for row in report["rows"]:
        for judge in ("held-out chats", "held-out prose"):
            assert row["quality"][judge]["ppl"] > 1
    assert all(proof["differences"] == 0 for proof in report["provenance"]["verify"])
    assert len(report["provenance"]["verify"]) == 4
    assert all(set(sample["answers"]) == set(labels) for sample in report["samples"])
    for row in report["rows"]:
        assert row["tasks"]["openbookqa"]["items"] > 4
        assert ("refusals" in row) is (row["runtime"] == "llama.cpp")
        assert ("worst" in row) is (row["runtime"] == "llama.cpp" and row["kind"] in ("rounded", "recovered"))
        assert ("differences" in row) is (row["kind"] != "float")
    assert report["layers_by"] == "inputs"
    for mix, grid in (("q4_0", {"q4_0", "q8_0"}), ("q8_0", {"q8_0"})):
        assert {entry["grid"] for entry in report["layers"][mix]} == grid
        assert all(entry["rounded"] > 0 and entry["recovered"] > 0 for entry in report["layers"][mix])
    assert "<html" in (compiled / "report.html").read_text()
    assert len(list((compiled / "bundle").glob("*.gguf"))) == 2
    assert len(list((compiled / "bundle").glob("onnx-*/onnx/*.onnx"))) == 2
    beside = {"Modelfile", "tokenizer.json", "chat_template.jinja", "generation_config.json", "examples"}
    assert beside <= {path.name for path in (compiled / "bundle").iterdir()}


def test_the_teacher_in_the_students_bytes_is_a_row_and_the_verdict_leads_with_it(compiled: Path):
    report = json.loads((compiled / "report.json").read_text())
    rows = {row["label"]: row for row in report["rows"]}
    rival, student = rows["teacher in its smallest grids"], rows["q4_0 recovered, llama.cpp"]
    # Rows of 64 have no grid below q4_0, so all of the teacher in it is larger than three of its layers.
    excess = rival["file_bytes"] - student["file_bytes"]
    assert 0 < excess < report["rival"]["excess_bytes"] < excess + 4096
    file = gguf.GGUFReader(compiled / rival["file"])
    whole = gguf.GGUFReader(compiled / rows["teacher"]["file"])
    assert [tensor.name for tensor in file.tensors] == [tensor.name for tensor in whole.tensors]
    assert {tensor.tensor_type.name for tensor in file.tensors} <= {"F32", "Q4_0", "IQ4_NL"}
    assert {"openbookqa", "refusals unsafe", "refusals safe"} == set(student["over_rival"])
    shares = [row["tasks"]["openbookqa"]["share"] for row in (student, rival)]
    assert student["over_rival"]["openbookqa"]["difference"] == pytest.approx(shares[0] - shares[1])
    contest = report["verdict"]["contest"]
    assert contest["sentence"].startswith("Ship the student" if contest["ship"] == "student" else "The student loses.")
    assert f"{excess / 1000:.2f} kB larger than the student" in contest["sentence"]
    page = (compiled / "report.html").read_text()
    assert page.index(contest["sentence"][:30]) < page.index('class="tiles"')
    assert (compiled / "bundle" / "README.md").read_text().count(contest["sentence"][:30]) == 1


def test_the_float_rows_are_what_they_are_compared_with(compiled: Path):
    """F16 weights in llama.cpp against float32 in torch: the same model, so next to no KL and the same likeliest
    token.
    """
    rows = {row["label"]: row for row in json.loads((compiled / "report.json").read_text())["rows"]}
    for label, reference in (("float student", "student"), ("teacher", "teacher")):
        for found in rows[label]["quality"].values():
            assert found[f"kl_{reference}_mean"] < 1e-3
            assert found[f"top1_{reference}"] > 0.97


def test_gguf_and_onnx_of_a_mix_hold_one_set_of_weights(compiled: Path):
    done = edgedistill("verify", compiled, "--json")
    assert done.returncode == 0, done.stderr
    files = json.loads(done.stdout)["files"]
    hashes = {mix: {f["weights_sha256"] for f in files if f["mix"] == mix} for mix in ("q4_0", "q8_0")}
    assert [len(found) for found in hashes.values()] == [1, 1]
    assert all(f["equal"] and f["blocks"] > 0 for f in files)


def test_one_flipped_byte_is_found_and_named(copy: Path):
    path = next((copy / "bundle").glob("*q4_0.gguf"))
    tensor = next(t for t in gguf.GGUFReader(path).tensors if t.name == "blk.1.ffn_up.weight")
    # Row 3, block 1 of 18 bytes, a byte of its codes.
    offset = int(tensor.data_offset) + 3 * tensor.data.shape[1] + 18 + 5
    del tensor
    spoil(path, offset)
    done = edgedistill("verify", copy)
    assert done.returncode == 1
    assert "model.layers.1.mlp.up_proj.weight, row 3, block 1" in done.stderr


def test_a_flipped_byte_in_onnx_is_found_too(copy: Path):
    path = next((copy / "bundle" / "onnx-q8_0" / "onnx").glob("*.onnx*"))
    data = np.frombuffer(path.read_bytes(), dtype=np.uint8)
    spoil(path, len(data) // 2)  # the middle of a file that is nearly all weights
    done = edgedistill("verify", copy)
    assert done.returncode in (1, 2)
    assert "onnx-q8_0" in done.stderr


def spoil(path: Path, offset: int) -> None:
    content = bytearray(path.read_bytes())
    content[offset] ^= 0x40
    path.write_bytes(content)


def empty(path: Path) -> None:
    """A new, empty file: an emptied one would be a hard link's content too."""
    path.unlink()
    path.touch()


def test_a_second_run_computes_nothing(copy: Path, talking_llama: Path):
    before = artifact_hashes(copy)
    marks = {path: path.read_bytes() for path in (copy / "stages").glob("*/stage.json")}
    report = (copy / "report.json").read_bytes()
    original = json.loads(report)["provenance"]["command"].split(" -o ")[1]
    started = time.monotonic()
    done = subprocess.run(
        compile_command(talking_llama, Path(original)), env=ENVIRONMENT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("complete already") == len(marks)
    assert "done in" not in done.stderr
    assert time.monotonic() - started < 60
    assert artifact_hashes(Path(original)) == before


def test_a_dry_run_lists_the_stages_that_a_run_records(compiled: Path, talking_llama: Path, tmp_path: Path):
    recorded = json.loads((compiled / "run.json").read_text())["current"]
    for out, complete in ((compiled, len(recorded)), (tmp_path / "new", 0)):
        done = edgedistill(*compile_command(talking_llama, out)[3:], "--dry-run")
        assert done.returncode == 0, done.stderr
        rows = [line.split() for line in done.stdout.splitlines()[1 : len(recorded) + 1]]
        assert [row[1] for row in rows] == list(recorded)
        assert sum(row[-1] == "complete" for row in rows) == complete
        assert f"{len(recorded)} stages, {complete} of them complete" in done.stdout
    assert not (tmp_path / "new").exists()


def test_a_damaged_stage_is_named_and_built_again(compiled: Path, talking_llama: Path, tmp_path: Path):
    """In a copy of the run, which is the same run in another place: nothing but the damage is made anew."""
    copy = Path(shutil.copytree(compiled, tmp_path / "damaged"))
    victim = next((copy / "stages").glob("recover-q8_0-*")) / "grid.safetensors"
    spoil(victim, victim.stat().st_size // 2)
    before = artifact_hashes(copy)
    done = subprocess.run(compile_command(talking_llama, copy), env=ENVIRONMENT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert f"{victim.parent.name}" in done.stderr
    assert "grid.safetensors" in done.stderr
    assert "recover-q4_0: complete already" in done.stderr
    assert done.stderr.count("done in") == 1
    assert "recover-q8_0: done in" in done.stderr
    assert artifact_hashes(copy) == before


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda run: (run / ".bundle.json").write_bytes(b"\xff\xfe"), ""),
        (lambda run: empty(run / "bundle" / "SHA256SUMS"), "bundle: SHA256SUMS was changed; making it again"),
        (lambda run: (run / "bundle" / "SHA256SUMS").unlink(), "bundle: SHA256SUMS is missing; making it again"),
    ],
)
def test_a_damaged_bundle_is_made_again(compiled: Path, talking_llama: Path, tmp_path: Path, damage, said: str):
    copy = Path(shutil.copytree(compiled, tmp_path / "spoilt"))
    sums, mark = ((copy / name).read_bytes() for name in ("bundle/SHA256SUMS", ".bundle.json"))
    damage(copy)
    done = subprocess.run(compile_command(talking_llama, copy), env=ENVIRONMENT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert said in done.stderr
    assert "done in" not in done.stderr
    assert (copy / "bundle" / "SHA256SUMS").read_bytes() == sums
    assert (copy / ".bundle.json").read_bytes() == mark


def test_the_bundle_names_no_path_of_this_machine(compiled: Path, talking_llama: Path):
    for place in (compiled.parent, talking_llama.parent):
        named = [path for path in (compiled / "bundle").rglob("*") if path.is_file()]
        assert not [path.name for path in named if str(place).encode() in path.read_bytes()]


def test_figures_that_were_measured_anew_are_in_the_bundle_too(compiled: Path, talking_llama: Path, tmp_path: Path):
    copy = Path(shutil.copytree(compiled, tmp_path / "again"))
    shutil.rmtree(next((copy / "stages").glob("speeds-*")))
    made = (copy / ".bundle.json").read_text()
    done = subprocess.run(compile_command(talking_llama, copy), env=ENVIRONMENT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert {line.split(":")[0] for line in done.stderr.splitlines() if "done in" in line} == {
        "speeds",
        "measure",
        "report",
    }
    assert (copy / ".bundle.json").read_text() != made
    papers = ("README.md", "MODEL_CARD.md")
    assert any((copy / "bundle" / name).read_bytes() != (compiled / "bundle" / name).read_bytes() for name in papers)


@pytest.mark.parametrize(("mix", "before"), [("q4_0", "q8_0"), ("q8_0", "q4_0")])
def test_a_file_is_compared_with_the_mix_that_its_name_ends_with(compiled: Path, tmp_path: Path, mix: str, before: str):
    path = tmp_path / f"{before}-model-{mix}.gguf"
    path.symlink_to(next((compiled / "bundle").glob(f"*{mix}.gguf")).resolve())
    proof = verify_file(path, checkpoints_of(RunFolder.find(compiled)))
    assert (proof.mix, proof.comparison.equal) == (mix, True)


def test_a_folder_in_use_is_refused(compiled: Path, talking_llama: Path):
    import fcntl

    with (compiled / ".lock").open("r+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = subprocess.run(compile_command(talking_llama, compiled), env=ENVIRONMENT, capture_output=True, text=True)
    assert done.returncode == 2
    assert "is in use" in done.stderr


def test_chat_talks_to_the_bundle(compiled: Path):
    done = subprocess.run(
        [*compile_command(compiled, compiled)[:3], "chat", str(compiled), "--max-tokens", "12"],
        input="The old cat sees the red fox.\n",
        env={**ENVIRONMENT, "COLUMNS": "80"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


def test_bench_measures_a_file_of_the_bundle(compiled: Path, tmp_path: Path):
    text = tmp_path / "text.txt"
    text.write_text("The old cat sees the red fox. " * 20)
    path = next((compiled / "bundle").glob("*q4_0.gguf"))
    student = next((compiled / "stages").glob("distill-*"))
    done = edgedistill(
        "bench",
        path,
        "--text",
        text,
        "--reference",
        student,
        "--prefill",
        16,
        "--decode",
        8,
        "--repetitions",
        2,
        "--threads",
        1,
        "--json",
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["speed"]["decode_tokens_per_s"]["mean"] > 0
    assert result["quality"]["text.txt"]["kl_reference_mean"] < 2
    assert path.stat().st_size == result["file_bytes"]

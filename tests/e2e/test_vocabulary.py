"""A compile whose student loses most of its tokens: every file holds those that are left, and all rows are judged."""

import json
from pathlib import Path

import gguf
import pytest
import yaml
from tokenizers import Tokenizer

from edgedistill.models.hf_folder import read_shape
from edgedistill.models.students.vocabulary import kept_tokens
from tests.e2e.conftest import RECIPE, edgedistill

SIZE = 416


@pytest.fixture(scope="module")
def run(talking_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("vocabulary")
    settings = yaml.safe_load(RECIPE.read_text()) | {"vocabulary": SIZE, "mixes": ["q8_0"]}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(settings))
    out = folder / "run"
    words = ["compile", "--teacher", talking_llama, "--target", "laptop-cpu", "-r", folder / "recipe.yaml", "-o", out]
    done = edgedistill(*words)
    assert done.returncode == 0, done.stderr
    return out


def stage(run: Path, name: str) -> Path:
    (folder,) = run.glob(f"stages/{name}-????????????")
    return folder


def test_the_files_hold_the_tokens_that_are_left(run: Path):
    (file,) = (run / "bundle").glob("*.gguf")
    reader = gguf.GGUFReader(file)
    assert len(reader.fields["tokenizer.ggml.tokens"].data) == SIZE
    (tensor,) = [tensor for tensor in reader.tensors if tensor.name == "token_embd.weight"]
    assert tensor.shape[1] == SIZE
    (tokenizer,) = (run / "bundle").rglob("*/tokenizer.json")
    assert Tokenizer.from_file(str(tokenizer)).get_vocab_size() == SIZE
    assert read_shape(stage(run, "vocabulary")).vocab == SIZE
    assert f"{SIZE}-tokens" in file.name


def test_training_text_keeps_its_words(run: Path, talking_llama: Path):
    from edgedistill.signals.shards import load_split

    kept = kept_tokens(stage(run, "vocabulary"))
    assert kept is not None
    texts = {trained.trace_id: trained for trained in load_split(stage(run, "teach"), "train")}
    renumbered = load_split(stage(run, "vocabulary-text"), "train")
    written = [example for example in renumbered if example.trace_id]
    assert written
    for example in written:
        assert kept[example.tokens.long()].tolist() == texts[example.trace_id].tokens.tolist()


def test_all_rows_are_judged_and_the_student_beside_its_teacher(run: Path):
    report = json.loads((run / "report.json").read_text())
    rows = {row["kind"]: row for row in report["rows"]}
    assert {"teacher", "float", "rounded", "recovered"} <= set(rows)
    chats = "held-out chats"
    assert all(row["quality"][chats]["ppl"] > 1 for row in rows.values())
    assert rows["float"]["quality"][chats]["kl_teacher_mean"] > 0
    assert rows["teacher"]["quality"][chats]["tokens"] == rows["float"]["quality"][chats]["tokens"]


def test_the_plan_says_it_and_refuses_what_cannot_be(talking_llama: Path, tmp_path: Path):
    settings = yaml.safe_load(RECIPE.read_text())
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(settings | {"vocabulary": SIZE}))
    words = ["plan", talking_llama, "--target", "laptop-cpu", "-r", path]
    assert f"vocabulary {SIZE} of " in edgedistill(*words).stdout
    for size, why in ((256, "of which always stay. Choose a multiple of 32 from"), (100_000, " from 288 to 480.")):
        path.write_text(yaml.safe_dump(settings | {"vocabulary": size}))
        done = edgedistill(*words)
        assert done.returncode == 2
        assert why in done.stderr
    path.write_text(yaml.safe_dump(settings | {"vocabulary": 300}))
    assert "vocabulary is 300; it must be a multiple of 32." in edgedistill(*words).stderr
    path.write_text(yaml.safe_dump(settings | {"vocabulary": SIZE, "student": {"kind": "same"}}))
    assert "vocabulary is cut after a student was trained, and student.kind is same" in edgedistill(*words).stderr

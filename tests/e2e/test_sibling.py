"""A whole compile of a student with another tokenizer: it learns its teacher's text in its own words, and ships so."""

import json
import subprocess
import sys
from pathlib import Path

import gguf
import pytest
from transformers import AutoTokenizer

from edgedistill.models.run import student_of
from tests.e2e.conftest import ENVIRONMENT, RECIPE, edgedistill
from tests.pairs import OWN_CHATS, make_sibling

QUICK = """
mixes: [q4_0]
measure:
  {tokens: 64, prompts: ["The old cat"], prefill: 32, decode: 16, repetitions: 1, threads: 1, tasks: []}
"""


@pytest.fixture(scope="module")
def sibling(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Other words, other chats, an output matrix of its own, and a context shorter than the teacher's."""
    folder = tmp_path_factory.mktemp("models") / "little"
    return make_sibling(folder, vocab=400, template=OWN_CHATS, tied=False, context=192)


@pytest.fixture(scope="module")
def compiled(talking_llama: Path, sibling: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sibling")
    lines = RECIPE.read_text().splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith("measure:"))
    lines = [f"student: {{kind: sibling, model: {sibling}}}" if line.startswith("student:") else line for line in lines]
    (folder / "recipe.yaml").write_text("\n".join(lines[:start]) + QUICK)
    words = ["compile", talking_llama, "-t", "laptop-cpu", "-r", folder / "recipe.yaml", "-o", folder / "run"]
    command = [sys.executable, "-m", "edgedistill", *map(str, words)]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "it learns from the teacher's text alone" in done.stderr
    return folder / "run"


def report(run: Path) -> dict:
    return json.loads((run / "report.json").read_text())


def test_the_files_verify_and_have_the_students_words_and_template(compiled: Path, sibling: Path):
    done = edgedistill("verify", compiled, "--json")
    assert done.returncode == 0, done.stderr
    assert all(file["equal"] for file in json.loads(done.stdout)["files"])
    (file,) = (compiled / "bundle").glob("*.gguf")
    reader = gguf.GGUFReader(file)
    assert reader.fields["tokenizer.chat_template"].contents() == OWN_CHATS
    assert len(reader.fields["tokenizer.ggml.tokens"].contents()) == 400
    assert "output.weight" in {tensor.name for tensor in reader.tensors}
    shipped = AutoTokenizer.from_pretrained(compiled / "bundle")
    assert shipped.get_vocab() == AutoTokenizer.from_pretrained(sibling).get_vocab()
    assert shipped.chat_template == OWN_CHATS


def test_it_is_judged_on_the_text_and_against_itself(compiled: Path):
    rows = {row["label"]: row for row in report(compiled)["rows"]}
    for judge, found in rows["teacher"]["quality"].items():
        assert not any(key.startswith("kl_") for key in found), judge
        assert found["ppl"] > 1
    for label in ("float student", "q4_0 recovered, llama.cpp", "q4_0 recovered, onnxruntime"):
        for found in rows[label]["quality"].values():
            assert found["kl_student_mean"] >= 0
            assert "kl_teacher_mean" not in found
    assert rows["float student"]["quality"]["held-out chats"]["kl_student_mean"] < 1e-3
    taught, learned = (rows[label]["quality"]["held-out chats"]["ppl"] for label in ("teacher", "float student"))
    assert taught < learned


def test_its_licence_goes_with_it_and_the_teachers_terms_are_named(compiled: Path):
    found = report(compiled)
    assert (found["provenance"]["license"], found["provenance"]["teacher_license"]) == ("mit", "unknown")
    licence = (compiled / "bundle" / "LICENSE").read_text()
    assert "The weights in this folder derive from little" in licence
    assert "The licence of little is mit" in licence
    assert "They were trained on what talking-llama writes, whose licence is not known" in licence
    card = (compiled / "bundle" / "README.md").read_text()
    assert "# little-distilled" in card
    assert "little, taught by talking-llama and packed for" in card.replace("(little)", "").replace("  ", " ")


def test_its_run_is_a_model_with_a_lineage(compiled: Path):
    found = student_of(compiled)
    assert found is not None
    assert (found.name, found.license) == ("little distilled", "mit")
    assert found.lineage[-1] == "little distilled"
    assert found.lineage[0].endswith("talking-llama")


def test_its_run_starts_the_next_student(compiled: Path, talking_llama: Path, tmp_path: Path):
    """Staged students: what the next recipe's student starts from is the run's float student."""
    recipe = tmp_path / "next.yaml"
    base = "\n".join(line for line in RECIPE.read_text().splitlines() if not line.startswith("student:"))
    recipe.write_text(f"{base}\nstudent: {{kind: run, path: {compiled}}}\n")
    done = edgedistill("plan", talking_llama, "-t", "laptop-cpu", "-r", recipe)
    assert done.returncode == 0, done.stderr
    text = " ".join(done.stdout.split())
    assert "Start little distilled: words of its own, mit" in text
    assert "made from" in text

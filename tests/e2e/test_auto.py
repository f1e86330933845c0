"""Whole compiles of what the planner chooses: the teacher itself, a cut of it, a sibling."""

import json
from pathlib import Path

import pytest

from tests.e2e.conftest import RECIPE, edgedistill
from tests.pairs import make_sibling

QUICK = """
measure:
  {tokens: 64, prompts: [The old cat], prefill: 32, decode: 16, repetitions: 1, threads: 1, tasks: [], refusal_items: 0}
rival: false
export: [gguf]
"""


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    lines = RECIPE.read_text().splitlines()
    lines = ["student: auto" if line.startswith("student:") else line for line in lines]
    start = next(number for number, line in enumerate(lines) if line.startswith("measure:"))
    path = tmp_path_factory.mktemp("auto") / "auto.yaml"
    path.write_text("\n".join(lines[:start]) + QUICK)
    return path


def compiled(teacher: Path, recipe: Path, run: Path, *options: object) -> dict:
    done = edgedistill("compile", teacher, "-t", "laptop-cpu", "-r", recipe, "-o", run, *options)
    assert done.returncode == 0, done.stderr
    proof = edgedistill("verify", run, "--json")
    assert all(file["equal"] for file in json.loads(proof.stdout)["files"])
    return json.loads((run / "report.json").read_text())


def test_a_teacher_that_fits_is_recovered(talking_llama: Path, recipe: Path, tmp_path: Path):
    report = compiled(talking_llama, recipe, tmp_path / "run")
    assert report["student"]["as_is"]
    assert not list((tmp_path / "run" / "stages").glob("distill-*"))
    assert list((tmp_path / "run" / "stages").glob("recover-*"))


def test_a_limit_makes_it_a_cut(talking_llama: Path, recipe: Path, tmp_path: Path):
    report = compiled(talking_llama, recipe, tmp_path / "run", "--student", "depth", "--max-size", "330kB")
    assert report["student"]["layers"] < 4
    assert max(row["file_bytes"] for row in report["rows"] if row["kind"] == "recovered") <= 330_000
    assert list((tmp_path / "run" / "stages").glob("distill-*"))


def test_a_sibling_that_is_named_is_trained_where_the_teacher_is_too_large(
    talking_llama: Path, recipe: Path, tmp_path: Path
):
    little = make_sibling(tmp_path / "little")
    own = tmp_path / "named.yaml"
    own.write_text(recipe.read_text().replace("student: auto", "student: {kind: auto, kinds: [same], mixes: [q8_0]}"))
    report = compiled(talking_llama, own, tmp_path / "run", "--sibling", little, "--max-size", "170kB")
    assert report["student"]["layers"] == 2
    assert list((tmp_path / "run" / "stages").glob("distill-*"))

"""Students, tasks and adapters that cannot be, as a user types them: one sentence, exit code 2, and nothing is left."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from edgedistill.cli.main import cli
from tests.e2e.conftest import RECIPE
from tests.pairs import make_sibling
from tests.tiny import make_tiny_llama

ROWS = [{"prompt": f"say {number} please", "answer": ("one", "two", "three")[number % 3]} for number in range(60)]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A teacher, a sibling with other words, and task files."""
    folder = tmp_path_factory.mktemp("models")
    make_tiny_llama(folder / "teacher")
    make_sibling(folder / "other", vocab=400)
    write(folder / "rows.jsonl", ROWS)
    write(folder / "shared.jsonl", [*ROWS[:2], {"prompt": "a new one", "answer": "two"}])
    write(folder / "one.jsonl", [row | {"answer": "one"} for row in ROWS])
    write(folder / "long.jsonl", [row | {"answer": "The old cat sees the red fox. " * 9} for row in ROWS])
    write(folder / "unknown.jsonl", [row | {"lable": "one"} for row in ROWS])
    return folder


def write(path: Path, rows: list[dict[str, str]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"student": {"kind": "sibling", "model": "other"}, "loss": [{"kl": "forward"}]},
            "other has other words than the teacher",
        ),
        ({"student": {"kind": "width", "width": 40}}, "don't divide into blocks of 32; take 32 or 64."),
        ({"student": {"kind": "width", "heads": 8}}, "must be from 1 to 4."),
        ({"vocabulary": 256}, "of which always stay. Choose a multiple of 32 from 288 to 480."),
        ({"task": {"file": "unknown.jsonl"}}, "the row has the unknown field 'lable'"),
        ({"task": {"file": "one.jsonl"}}, "all rows to learn from have the one label 'one'"),
        ({"task": {"file": "long.jsonl", "max_answer_tokens": 4}}, "raise task.max_answer_tokens"),
        ({"task": {"file": "rows.jsonl", "test": "shared.jsonl"}}, "2 of 3 test prompts are among those to learn from"),
        ({"student": {"kind": "run", "path": "teacher"}}, "which is no run folder"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_it_is_one_sentence_and_nothing_runs(models: Path, tmp_path: Path, changes: dict[str, Any], said: str):
    recipe = yaml.safe_load(RECIPE.read_text()) | changes
    if loss := recipe.pop("loss", None):
        recipe["distill"]["loss"] = loss
    path = models / "recipe.yaml"  # the files that it names lie beside it
    path.write_text(yaml.safe_dump(recipe))
    words = ["compile", str(models / "teacher"), "-t", "laptop-cpu", "-r", str(path), "-o", str(tmp_path / "run")]
    result = CliRunner().invoke(cli, words)
    assert result.exit_code == 2, result.output
    assert said in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert result.stderr.startswith("Error: ")
    assert not (tmp_path / "run").exists()

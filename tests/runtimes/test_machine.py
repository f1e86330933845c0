"""The machine's facts, against what the standard library and psutil say."""

import os
import subprocess
import sys

import psutil
import pytest

from edgedistill import machine


def test_facts_are_the_systems():
    facts = machine.machine_facts()
    assert facts["memory_bytes"] == psutil.virtual_memory().total
    assert facts["cores"] == len(psutil.Process().cpu_affinity())
    assert facts["python"] == ".".join(map(str, sys.version_info[:3]))
    assert facts["arch"] == os.uname().machine
    assert facts["cpu"]
    assert facts == machine.machine_facts()


def test_fingerprint_is_the_same_in_another_process(monkeypatch):
    code = "from edgedistill.machine import fingerprint; import sys; sys.stdout.write(fingerprint())"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert found == machine.fingerprint()
    assert len(found) == 12
    monkeypatch.setattr(machine, "_cpu_model", lambda: "another")
    assert machine.fingerprint() != found


def test_load_and_memory():
    assert abs(machine.load_average() - os.getloadavg()[0]) < 1
    assert 0 < machine.free_memory_bytes() <= psutil.virtual_memory().total


@pytest.mark.skipif(sys.platform != "linux", reason="malloc_trim is glibc's")
def test_freed_memory_goes_back_to_the_system():
    """Small blocks of which a few stay: what lies between them is free and still counted as the process's."""
    code = (
        "import psutil; from edgedistill.machine import release_memory\n"
        "blocks = [b'x' * 100_000 for _ in range(3000)]\n"
        "kept = blocks[::50]; del blocks\n"
        "before = psutil.Process().memory_info().rss; release_memory()\n"
        "print(before - psutil.Process().memory_info().rss)"
    )
    environment = os.environ | {"MALLOC_TRIM_THRESHOLD_": str(2**30), "MALLOC_MMAP_THRESHOLD_": str(2**25)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert int(done.stdout) > 200e6

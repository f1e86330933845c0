"""The machine's facts, against what the standard library and psutil say."""

import os
import subprocess
import sys

import psutil

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

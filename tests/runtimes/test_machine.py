"""The machine's facts, against what the standard library and psutil say."""

import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from edgedistill import cgroup, machine


def test_facts_are_the_systems():
    facts = machine.machine_facts()
    assert facts["memory_bytes"] <= psutil.virtual_memory().total
    assert 1 <= facts["cores"] <= len(psutil.Process().cpu_affinity())
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


@pytest.fixture
def group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Files of control groups as Linux writes them: a function that makes some, given what /proc/self/cgroup says."""

    def make(own: str, files: dict[str, str]) -> None:
        (tmp_path / "own").write_text(own)
        for name, content in files.items():
            path = tmp_path / "fs" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content)

    monkeypatch.setattr(cgroup, "OWN", tmp_path / "own")
    monkeypatch.setattr(cgroup, "ROOT", tmp_path / "fs")
    monkeypatch.setattr(cgroup.sys, "platform", "linux")
    return make


def test_a_container_of_the_second_version_is_seen(group):
    group(
        "0::/pod/box\n",
        {
            "pod/cpu.max": "150000 100000",
            "pod/box/cpu.max": "max 100000",
            "pod/box/memory.max": "1000000",
            "pod/box/memory.current": "900000",
            "pod/box/memory.stat": "anon 500000\ninactive_file 300000\n",
            "pod/memory.max": "max",
        },
    )
    assert cgroup.cpu_quota() == 1.5
    assert machine.usable_cores() == min(2, len(psutil.Process().cpu_affinity()))
    assert cgroup.memory_limit_bytes() == machine.machine_facts()["memory_bytes"] == 1000000
    assert machine.free_memory_bytes() == 400000


def test_a_container_of_the_first_version_is_seen_from_inside(group):
    """Its path is the host's, and the mount shows the group itself."""
    group(
        "4:memory:/docker/abc\n2:cpu,cpuacct:/docker/abc\n",
        {
            "cpu/cpu.cfs_quota_us": "50000",
            "cpu/cpu.cfs_period_us": "100000",
            "memory/memory.limit_in_bytes": "2000000",
            "memory/memory.usage_in_bytes": "500000",
            "memory/memory.stat": "total_inactive_file 100000",
        },
    )
    assert cgroup.cpu_quota() == 0.5
    assert machine.usable_cores() == 1
    assert machine.free_memory_bytes() == 1600000


def test_a_machine_without_limits_has_none(group):
    group(
        "2:cpu:/\n4:memory:/\n0::/\n",
        {
            "cpu/cpu.cfs_quota_us": "-1",
            "cpu/cpu.cfs_period_us": "100000",
            "memory/memory.limit_in_bytes": str(2**63 - 4096),
        },
    )
    assert (cgroup.cpu_quota(), cgroup.memory_limit_bytes(), cgroup.memory_left_bytes()) == (None, None, None)
    assert machine.machine_facts()["memory_bytes"] == psutil.virtual_memory().total


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

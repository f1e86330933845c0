"""Killed at ten random moments and started again each time, a compile ends with the bits of one that wasn't."""

import os
import random
import signal
import subprocess
import time
from pathlib import Path

from tests.e2e.conftest import ENVIRONMENT, artifact_hashes, compile_command

KILLS = 10
LONGEST_S = 0.6  # how far into a stage a kill may come; the tiny model's stages take about as long
START_S = 120


def test_killed_runs_end_with_the_same_bits(compiled: Path, talking_llama: Path, tmp_path: Path):
    stages = [
        path.name.rsplit("-", 1)[0] for path in sorted((compiled / "stages").iterdir(), key=lambda p: p.stat().st_mtime)
    ]
    rng = random.Random(20)
    # One moment in each of ten stages, in the order in which they run, so that every restart gets there.
    moments = sorted(rng.sample(range(len(stages)), KILLS))
    out = tmp_path / "killed"
    killed = 0
    for moment in moments:
        process = subprocess.Popen(
            compile_command(talking_llama, out),
            env=ENVIRONMENT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        ended = wait_for_stage(process, out, stages[moment])
        if not ended:
            time.sleep(rng.uniform(0, LONGEST_S))
        if process.poll() is None:
            os.kill(process.pid, signal.SIGKILL)
            killed += 1
        process.wait()
    assert killed == KILLS, f"only {killed} of {KILLS} kills met a running process"
    done = subprocess.run(compile_command(talking_llama, out), env=ENVIRONMENT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert artifact_hashes(out) == artifact_hashes(compiled)
    assert not list((out / "stages").glob(".*.partial")), "a finished run leaves nothing half done"


def wait_for_stage(process: subprocess.Popen[bytes], out: Path, stage: str) -> bool:
    """Wait until a stage is at work or done; whether the process ended first."""
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        if any((out / "stages").glob(f".{stage}-*.partial")) or any((out / "stages").glob(f"{stage}-*")):
            return False
        if process.poll() is not None:
            return True
        time.sleep(0.002)
    raise AssertionError(f"stage {stage} didn't begin within {START_S} s")

"""A training process that takes a step when told: commands come by standard input, answers go to standard output, a
line of JSON each.

Both sides of bench/trl_step.py's comparison run under this, each in the environment of its own tool; only the standard
library. "ready" is said once, when steps can be taken. Commands: "step" -> {"seconds", "cpu_seconds"}; "peak" ->
{"peak_bytes"}, the highest resident memory during one step (VmHWM counted anew, Linux); "quit", or the end of input,
ends the process.
"""

import json
import os
import re
import sys
import time
from pathlib import Path


class Stepper:
    """The child's side: `wait` before a step, `done` after it."""

    def __init__(self) -> None:
        """Keep standard output for the answers: whatever else prints goes to standard error."""
        self.answers = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)
        self.command = ""

    def ready(self) -> None:
        """Say that commands are waited for."""
        self._tell({"ready": True})

    def wait(self) -> None:
        """Wait for the next command and start the clock."""
        self.command = sys.stdin.readline().strip() or "quit"
        if self.command == "quit":
            raise SystemExit(0)  # also out of the middle of a trainer's loop
        if self.command == "peak":
            Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
        self.started, self.used = time.perf_counter(), time.process_time()

    def done(self) -> None:
        """Answer for the step that was taken."""
        seconds, cpu = time.perf_counter() - self.started, time.process_time() - self.used
        if self.command == "peak":
            found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text(encoding="ascii"))
            assert found
            self._tell({"peak_bytes": int(found[1]) * 1024})
        else:
            self._tell({"seconds": seconds, "cpu_seconds": cpu})

    def _tell(self, answer: dict[str, float | int | bool]) -> None:
        self.answers.write(json.dumps(answer) + "\n")
        self.answers.flush()

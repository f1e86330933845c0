"""A program of the user's that says whether an answer is right: it reads a JSON object and exits with 0 or 1.

It is started without a shell, with the little of our environment that any child gets, in an empty folder, for a
limited time and with limited memory. It is only ever what the user's own recipe names.
"""

import contextlib
import json
import math
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from edgedistill.config.task_data import Labelled
from edgedistill.environment import child_environment
from edgedistill.errors import InputError, RunError
from edgedistill.show import one_line

ADDRESS_SPACE_BYTES = 2**33
LAST_LINE = 200  # characters of what a program that failed said last
# Sets the limits and becomes the user's program: a hook between fork and exec isn't safe in a process with threads.
LIMITED = (
    "import os, resource, sys\n"
    "cpu = int(sys.argv[1])\n"
    f"resource.setrlimit(resource.RLIMIT_AS, ({ADDRESS_SPACE_BYTES}, {ADDRESS_SPACE_BYTES}))\n"
    "resource.setrlimit(resource.RLIMIT_CPU, (cpu, cpu))\n"
    "resource.setrlimit(resource.RLIMIT_CORE, (0, 0))\n"
    "try:\n"
    "    os.execvp(sys.argv[2], sys.argv[2:])\n"
    "except OSError as error:\n"
    "    sys.exit(os.write(2, str(error).encode()) and 127)\n"
)


@dataclass(frozen=True)
class Verifier:
    """The program: its words, and the seconds that it has for an answer."""

    command: Sequence[str]
    seconds: float

    def says_right(self, row: Labelled, answer: str) -> bool:
        """Whether an answer is right; one that takes too long to check is wrong.

        Raises:
            RunError: the program ended otherwise than with 0 or 1, or can't be started.
        """
        code, last = self._run(row, answer)
        if code is not None and code not in (0, 1):
            how = f"by signal {-code}" if code < 0 else f"with exit code {code}"
            raise RunError(
                f"task.verify: {one_line(' '.join(self.command))} ended {how}; 0 means right and 1 wrong{last}"
            )
        return code == 0

    def all(self, rows: Sequence[Labelled], answers: Sequence[str], on_answer: Callable[[], None]) -> list[bool]:
        """Which answers are right, as many checked at once as there are cores; `on_answer` is called after each.

        Raises:
            RunError: as `says_right`.
        """
        right = []
        with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
            for verdict in pool.map(self.says_right, rows, answers):
                right.append(verdict)
                on_answer()
        return right

    def accept(self, row: Labelled) -> None:
        """Check that the program takes a row's own answer for right, before hours are spent.

        Raises:
            InputError: it doesn't.
        """
        code, last = self._run(row, row.answer)
        if code != 0:
            how = "took too long" if code is None else f"ended with {code}"
            raise InputError(
                f"task.verify: {one_line(' '.join(self.command))} {how} on the right answer of {row.where}; it must "
                f"exit with 0 there{last}"
            )

    def _run(self, row: Labelled, answer: str) -> tuple[int | None, str]:
        """The exit code, None after too long; and what it said last, as the end of a sentence."""
        question = {
            "prompt": row.messages[-1].text,
            "answer": answer,
            "expected": row.answer,
            "messages": [{"role": message.role, "content": message.text} for message in row.messages],
        }
        cpu_s = math.ceil(self.seconds) + 1
        with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryFile() as said:
            process = subprocess.Popen(
                [sys.executable, "-I", "-S", "-c", LIMITED, str(cpu_s), *self.command],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=said,
                env=child_environment(),
                cwd=folder,
                start_new_session=True,
            )
            code: int | None = None
            try:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.communicate(json.dumps(question).encode(), timeout=self.seconds)
                    code = process.returncode
            finally:  # what it started goes with it
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
            said.seek(0)
            lines = [line.strip() for line in said.read().decode(errors="replace").splitlines() if line.strip()]
        return code, f"; it said: {one_line(lines[-1])[:LAST_LINE]}" if lines else ""

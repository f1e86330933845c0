"""The prompt text of a conversation, rendered by a process of its own (worker.py).

A template comes from a model's file, and may loop without end or fill memory.
"""

import atexit
import contextlib
import json
import os
import select
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgedistill.environment import child_environment
from edgedistill.errors import InputError
from edgedistill.templates import REMEDY

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

WORKER = "edgedistill.templates.worker"
PACKAGE_PARENT = Path(__file__).resolve().parents[2]
DEADLINE_S = 10.0  # a template takes milliseconds
START_S = 60.0  # for the process to be there, on a machine with much to do
MAX_ANSWER_BYTES = 2**26
# A machine with much to do is slow at any conversation.
TOO_SLOW = f"ask again when the machine has less to do, {REMEDY}"


class LimitError(InputError):
    """A template takes more time or memory than it may, or its process was ended from outside."""


def render(
    template: str,
    messages: list[dict[str, Any]],
    *,
    bos: str,
    eos: str,
    add_generation_prompt: bool = True,
    tools: list[dict[str, Any]] | None = None,
) -> str:
    """The prompt text of a conversation; `bos` and `eos` are the texts of these tokens, `tools` JSON schemas of
    functions.

    Raises:
        InputError: the template is no Jinja, refuses these messages, or takes more time or memory than it may.
    """
    names = {"bos_token": bos, "eos_token": eos, "add_generation_prompt": add_generation_prompt, "tools": tools}
    answer = _RENDERER.ask({"template": template, "arguments": {"messages": messages, **names}})
    if "limit" in answer:
        raise LimitError(answer["limit"])
    if "text" not in answer:
        raise InputError(answer["error"])
    return answer["text"]


def begin() -> None:
    """Start the process before it is needed: it is there once a model is read, whose template is then tried."""
    _RENDERER.begin()


def render_for(tokenizer: "PreTrainedTokenizerBase", messages: list[dict[str, Any]]) -> str:
    """The prompt text of a conversation by a tokenizer's default template, as a runtime gives it to the exported files.

    Raises:
        InputError: as `render` has it.
    """
    template = str(tokenizer.get_chat_template())
    return render(template, messages, bos=str(tokenizer.bos_token or ""), eos=str(tokenizer.eos_token or ""))


class _NoAnswerError(Exception):
    """The process gave no answer; the text says why."""


def _ending(process: "subprocess.Popen[bytes]") -> str:
    """How a process ended: "was killed (signal 9)"."""
    code = process.wait()
    return f"was killed (signal {-code})" if code < 0 else f"ended (exit code {code})"


class _Renderer:
    """The process, started when it is first needed, and anew after one that was ended."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._owner = 0
        self._answers = False  # whether the process has said a word

    def begin(self) -> None:
        """Start it where there is none."""
        with self._lock:
            if not self._alive():
                self._start()

    def ask(self, request: dict[str, Any]) -> dict[str, str]:
        """One request's answer: {"text"}, {"error": why there is none}, or {"limit": which one it went beyond}."""
        with self._lock:
            if not self._alive():
                self._start()
            if not self._answers:
                self._answers = "text" in self._asked({"template": "", "arguments": {}}, START_S)
            if not self._answers:
                return {"error": "its chat template can't be rendered: the process for it doesn't start"}
            return self._asked(request, DEADLINE_S)

    def close(self) -> None:
        """End the process, if there is one of ours."""
        if self._process is not None and self._owner == os.getpid():
            self._end(self._process)

    def _alive(self) -> bool:
        return self._process is not None and self._owner == os.getpid() and self._process.poll() is None

    def _start(self) -> None:
        self.close()
        self._answers = False
        self._owner = os.getpid()  # after a fork the process is the parent's
        self._process = subprocess.Popen(
            [sys.executable, "-m", WORKER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=child_environment(),
            cwd=PACKAGE_PARENT,
        )

    def _asked(self, request: dict[str, Any], seconds: float) -> dict[str, str]:
        """The answer; where there is none in time, the process is ended."""
        process = self._process
        assert process is not None
        assert process.stdin is not None
        answer: dict[str, str] | None = None
        try:
            with contextlib.suppress(BrokenPipeError):  # how it ended is seen below
                process.stdin.write(json.dumps(request).encode() + b"\n")
                process.stdin.flush()
            answer = json.loads(self._line(process, seconds))
        except _NoAnswerError as error:
            return {"limit": str(error)}
        finally:  # after Ctrl-C too: the answer that is still to come isn't the next one's
            if answer is None:
                self._end(process)
        return answer

    @staticmethod
    def _line(process: "subprocess.Popen[bytes]", seconds: float) -> bytes:
        """The line that the process answers with.

        Raises:
            _NoAnswerError: it writes none in time, or one that is too long, or has ended.
        """
        assert process.stdout is not None
        deadline = time.monotonic() + seconds
        received = bytearray()
        while not received.endswith(b"\n"):
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([process.stdout], [], [], left)[0]:
                raise _NoAnswerError(
                    f"its chat template takes more than {seconds:.0f} s for this conversation; {TOO_SLOW}"
                )
            part = os.read(process.stdout.fileno(), 1 << 16)
            received += part
            if not part:
                raise _NoAnswerError(
                    f"the process that renders its chat template {_ending(process)}, as where a machine has too little "
                    f"memory; {TOO_SLOW}"
                )
            if len(received) > MAX_ANSWER_BYTES:
                raise _NoAnswerError(
                    f"its chat template writes more than {MAX_ANSWER_BYTES >> 20} MiB for this conversation; {REMEDY}"
                )
        return bytes(received)

    def _end(self, process: "subprocess.Popen[bytes]") -> None:
        process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()
        self._process = None


_RENDERER = _Renderer()
atexit.register(_RENDERER.close)

"""The child's side of a runtime: it reads a request, runs its operation and answers, until the parent closes the pipe.

C libraries print to file descriptor 1, so that is redirected to stderr, and frames go to a copy of the original. A
thread watches stdin: when the parent dies, even by SIGKILL, the pipe ends, and this process exits at once, even in the
middle of a computation.
"""

import contextlib
import os
import queue
import resource
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

from edgedistill.errors import InputError
from edgedistill.runtimes.protocol import Request, Response, read_request, write_response

Answer = Any  # what JSON holds, or (result, Arrays), or an iterator of either for a stream
Operation = Callable[..., Answer]
END = object()


def serve(operations: dict[str, Operation]) -> None:
    """Answer requests by name until stdin ends. Never returns before that."""
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # an abort of llama.cpp needs no core file of the whole model
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle; it stops a stream or kills us
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    requests: queue.SimpleQueue[Request] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(sys.stdin.buffer, requests), daemon=True).start()
    while True:
        request = requests.get()
        try:
            _answer(answers, requests, operations[request.op](**request.args))
        except BrokenPipeError:
            os._exit(0)
        except Exception as error:
            if not isinstance(error, (InputError, ValueError)):
                traceback.print_exc()
            kind = "input" if isinstance(error, InputError) else "run"
            write_response(answers, Response(error=_sentence(error), kind=kind))


def _listen(stdin: BinaryIO, requests: "queue.SimpleQueue[Request]") -> None:
    with contextlib.suppress(EOFError, ValueError, OSError):
        while True:
            requests.put(read_request(stdin))
    os._exit(0)


def _answer(answers: BinaryIO, requests: "queue.SimpleQueue[Request]", answer: Answer) -> None:
    if not isinstance(answer, Iterator):
        _send(answers, answer, more=False)
        return
    sent = False
    while True:
        item, failure = _advance(answer)
        # The parent sends "next" or "stop" after every frame but the last; read it before sending anything else.
        if sent and requests.get().op == "stop":
            break
        if failure is not None:
            raise failure
        if item is END:
            break
        _send(answers, item, more=True)
        sent = True
    write_response(answers, Response())


def _advance(answer: Iterator[Answer]) -> tuple[Answer, Exception | None]:
    try:
        return next(answer, END), None
    except Exception as error:
        return None, error


def _send(answers: BinaryIO, item: Answer, more: bool) -> None:
    result, arrays = item if _has_arrays(item) else (item, None)
    write_response(answers, Response(result, more), arrays)


def _has_arrays(item: Answer) -> bool:
    return isinstance(item, tuple) and len(item) == 2 and isinstance(item[1], dict)


def _sentence(error: Exception) -> str:
    if isinstance(error, (InputError, ValueError)):
        return str(error)
    return f"{type(error).__name__}: {error}"

"""Grammars and JSON schemas of requests, each in a process of its own.

`python -m edgedistill.serve.constraint_worker FD FILE` is started by the server, see constraint.py.

They come from whoever asks, and a short one can take minutes, all memory or the process itself (llama.cpp overflows the
stack on some). So this process loads the vocabulary of the file, and for each request forks one that may use a bounded
amount of memory and processor time. That one is told the tokens of the answer, and sends back which may follow.

Two sockets come for each request; the process dies when the other end of the second is closed. Through the first go
messages of a length (4 bytes, little-endian) and as many bytes. The first is JSON, what the answer must follow; each
later one is a token's number. A reply is MASK with a bit for each token, or PROBLEM with a sentence.
"""

import contextlib
import ctypes
import fcntl
import json
import os
import resource
import select
import signal
import socket
import struct
import sys
from typing import Any, Protocol

import llama_cpp.llama_cpp as lib
import numpy as np
from llguidance import LLMatcher, LLTokenizer

from edgedistill.runtimes.llama_engine import keep_errors, token_piece
from edgedistill.serve.tools import LAYOUT

MASK, PROBLEM = b"m", b"p"
MORE_BYTES = 768 << 20  # beyond what the vocabulary takes
CPU_S = 60
PR_SET_PDEATHSIG = 1
SPECIAL = b"\xff"  # what llguidance marks control tokens with
# Bounds of a schema that say how much there must be.
LEAST = ("minLength", "minItems", "minProperties", "minContains")


class Matcher(Protocol):
    """What tells which tokens may follow."""

    def mask(self) -> bytes:
        """A bit for each token of the vocabulary."""

    def accept(self, token: int) -> None:
        """Go on with a token."""


class Vocabulary:
    """The vocabulary of a GGUF file, without its weights."""

    def __init__(self, path: str) -> None:
        """Load it."""
        keep_errors()
        params = lib.llama_model_default_params()
        params.vocab_only, params.use_mmap = True, False
        model = lib.llama_model_load_from_file(path.encode(), params)
        self.handle = lib.llama_model_get_vocab(model)
        self.size = lib.llama_vocab_n_tokens(self.handle)
        self.pieces = [token_piece(self.handle, token) for token in range(self.size)]
        self.longest = max(map(len, self.pieces))
        self.control = [
            bool(lib.llama_vocab_get_attr(self.handle, token) & lib.LLAMA_TOKEN_ATTR_CONTROL)
            for token in range(self.size)
        ]
        self.ends = [token for token in range(self.size) if lib.llama_vocab_is_eog(self.handle, token)]
        tokens = [
            SPECIAL + piece if special else piece for piece, special in zip(self.pieces, self.control, strict=True)
        ]
        tokenize = ctypes.cast(lib.llama_tokenize, ctypes.c_void_p).value
        self.tokenizer: Any = LLTokenizer.from_llamacpp(  # type: ignore[attr-defined]
            tokens=tokens, vocab_ptr=self.handle, tokenize_fptr=tokenize, eos_token=self.ends or [0], slices=None
        )


class Gbnf:
    """A grammar in llama.cpp's own notation."""

    def __init__(self, vocabulary: Vocabulary, text: str) -> None:
        """Raises ValueError where llama.cpp can't read it."""
        self._sampler = lib.llama_sampler_init_grammar(vocabulary.handle, text.encode(), b"root")
        if not self._sampler:
            raise ValueError("the grammar has an error, or no rule 'root'")
        kind = np.dtype([("id", np.int32), ("logit", np.float32), ("p", np.float32)])
        self._candidates = np.zeros(vocabulary.size, kind)

    def mask(self) -> bytes:
        """See Matcher."""
        candidates = self._candidates
        candidates["id"] = np.arange(len(candidates))
        candidates["logit"] = 0
        data = candidates.ctypes.data_as(ctypes.POINTER(lib.llama_token_data))
        array = lib.llama_token_data_array(data, len(candidates), -1, False)
        lib.llama_sampler_apply(self._sampler, ctypes.byref(array))
        return np.packbits(candidates["logit"] == 0, bitorder="little").tobytes()

    def accept(self, token: int) -> None:
        """See Matcher."""
        lib.llama_sampler_accept(self._sampler, token)


class Guidance:
    """A JSON schema, or a grammar in the notation of llguidance that holds some."""

    def __init__(self, vocabulary: Vocabulary, grammar: str) -> None:
        """Raises ValueError where it can't be followed to the letter."""
        self._matcher = LLMatcher(vocabulary.tokenizer, grammar, log_level=0)
        self._check()

    def mask(self) -> bytes:
        """See Matcher."""
        mask = self._matcher.compute_bitmask()
        self._check()
        return mask

    def accept(self, token: int) -> None:
        """See Matcher."""
        self._matcher.consume_token(token)
        self._check()

    def _check(self) -> None:
        if self._matcher.is_error():
            reason = self._matcher.get_error().partition("\n")[0].strip()
            raise ValueError(f"the JSON schema can't be followed: {reason[:300]}")


def read_matcher(vocabulary: Vocabulary, given: dict[str, Any]) -> Matcher:
    """The matcher of a request's constraint.

    Raises:
        ValueError: it can't be followed.
    """
    if "gbnf" in given:
        return Gbnf(vocabulary, given["gbnf"])
    most = given["context"] * vocabulary.longest
    for schema in [given["schema"]] if "schema" in given else given["schemas"]:
        check_least(schema, most)
    if "lark" in given:
        return Guidance(vocabulary, LLMatcher.grammar_from_lark(given["lark"]))
    return Guidance(vocabulary, LLMatcher.grammar_from_json_schema(given["schema"], overrides=LAYOUT))  # type: ignore[arg-type]


def check_least(node: Any, most: int) -> None:
    """Refuse a schema that asks for more than an answer can hold.

    Raises:
        ValueError: it does.
    """
    if isinstance(node, dict):
        for name in LEAST:
            value = node.get(name)
            if isinstance(value, (int, float)) and value > most:
                raise ValueError(
                    f"the JSON schema can't be followed: {name} is {value:g}, and the context holds fewer than "
                    f"{most} characters"
                )
    for child in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
        check_least(child, most)


def answer(vocabulary: Vocabulary, channel: socket.socket) -> None:
    """Follow one answer until its asker closes the socket."""
    stream = channel.makefile("rwb")

    def reply(kind: bytes, data: bytes) -> None:
        stream.write(struct.pack("<I", len(data) + 1) + kind + data)
        stream.flush()

    try:
        matcher = read_matcher(vocabulary, json.loads(read_message(stream)))
        while True:
            mask = matcher.mask()
            if not any(mask):
                raise ValueError("the grammar allows no token here; it can't be followed further")
            reply(MASK, mask)
            matcher.accept(int(read_message(stream)))
    except EOFError:
        return
    except (ValueError, RecursionError, MemoryError) as error:
        reply(PROBLEM, (str(error) or type(error).__name__).encode())


def read_message(stream: Any) -> bytes:
    """The next message.

    Raises:
        EOFError: there is none.
    """
    head = stream.read(4)
    if len(head) < 4:
        raise EOFError
    (size,) = struct.unpack("<I", head)
    data: bytes = stream.read(size)
    return data


def limit() -> None:
    """Bound what this process may use; it ends with its parent."""
    held = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()  # noqa: SIM115, PTH123
    resource.setrlimit(resource.RLIMIT_AS, (held + MORE_BYTES, held + MORE_BYTES))
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_S, CPU_S))
    end_with_parent()


def end_with_parent() -> None:
    """Die when the parent does, also in the middle of a computation."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def end_with(life: int) -> None:
    """Die when the other end of a socket is closed, also in the middle of a computation: the system sends SIGIO."""
    fcntl.fcntl(life, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(life, fcntl.F_SETFL, fcntl.fcntl(life, fcntl.F_GETFL) | os.O_ASYNC)
    if select.select([life], [], [], 0)[0]:
        os._exit(0)


def main(fd: int, path: str) -> None:
    """Fork a process for each pair of sockets that comes through `fd`, until that is closed."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the system reaps them
    end_with_parent()
    control = socket.socket(fileno=fd)
    vocabulary = Vocabulary(path)
    control.sendall(b".")
    while True:
        data, fds, _, _ = socket.recv_fds(control, 1, 2)
        if not data:
            return
        if os.fork() == 0:
            control.close()
            with contextlib.suppress(BaseException):
                limit()
                end_with(fds[1])
                answer(vocabulary, socket.socket(fileno=fds[0]))
            os._exit(0)
        for received in fds:
            os.close(received)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])

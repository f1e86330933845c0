"""llama.cpp inside the child process: one GGUF file, loaded through llama-cpp-python's ctypes, on the CPU alone.

Only the worker imports this: a bad file can abort the process it is loaded in. Contexts are made for their purpose
(how many sequences, how long, how many rows of logits at once), since the buffers for logits grow with the vocabulary:
512 rows of 49,152 are 96 MiB.
"""

import ctypes
import sys
import time
from dataclasses import dataclass
from typing import Any

import llama_cpp.llama_cpp as lib
import numpy as np

from edgedistill.runtimes.long_runs import check_runs

MICRO_BATCH = 512  # llama-bench's default: tokens that one pass through the graph takes
ERROR_LEVEL = 4  # ggml.h, GGML_LOG_LEVEL_ERROR

_errors: list[str] = []


@lib.llama_log_callback  # type: ignore[untyped-decorator]
def _keep_errors(level: int, text: bytes, _: Any) -> None:
    """Keep the errors that llama.cpp logs: the log alone says why a file is bad, among hundreds of other lines."""
    if level == ERROR_LEVEL:
        line = text.decode("utf-8", errors="replace").strip()
        if line:
            _errors.append(line)
            sys.stderr.write(line + "\n")


def keep_errors() -> None:
    """Keep llama.cpp's errors from now on."""
    lib.llama_log_set(_keep_errors, ctypes.c_void_p(0))


def why(otherwise: str = "llama.cpp gave no reason") -> str:
    """What llama.cpp logged as its first error since the last call."""
    reason = _errors[0] if _errors else otherwise
    _errors.clear()
    return reason


def requantize(source: str, destination: str, file_type: int, threads: int) -> None:
    """Write a GGUF file's weights in another type (llama.h, enum llama_ftype), with llama.cpp's own quantizer.

    Raises:
        ValueError: llama.cpp can't.
    """
    keep_errors()
    params = lib.llama_model_quantize_default_params()
    params.ftype, params.allow_requantize, params.nthread = file_type, True, threads
    _errors.clear()
    code = lib.llama_model_quantize(source.encode(), destination.encode(), ctypes.byref(params))
    if code != 0:
        raise ValueError(f"llama.cpp can't rewrite it: {why()}")


def token_piece(vocab: Any, token: int, special: bool = True) -> bytes:
    """The bytes of one token; a control token has none unless `special`."""
    room = 256
    while True:
        buffer = ctypes.create_string_buffer(room)
        count = lib.llama_token_to_piece(vocab, token, buffer, room, 0, special)
        if count >= 0:
            return buffer.raw[:count]
        room = -count


def model_text(model: Any, key: str) -> str | None:
    """One metadata value of a loaded file as text."""
    room = 1 << 12
    while True:
        buffer = ctypes.create_string_buffer(room)
        count = lib.llama_model_meta_val_str(model, key.encode(), buffer, room)
        if count < 0:
            return None
        if count < room:
            return buffer.raw[:count].decode("utf-8", errors="replace")
        room = count + 1


@dataclass(frozen=True)
class Purpose:
    """A context: `sequences` in parallel, each of `length` tokens, `batch` tokens a call and `outputs` rows of logits
    at most.

    With `shared`, one cache of `length` tokens is for all sequences together, and a token may belong to several of
    them.
    """

    sequences: int
    length: int
    batch: int
    outputs: int
    shared: bool = False


class LlamaEngine:
    """One loaded GGUF file and, at any time, one context on it."""

    def __init__(self, path: str, threads: int) -> None:
        """Load the file; `load_s` is the seconds that took.

        Raises:
            ValueError: llama.cpp refuses the file; with its reason.
        """
        keep_errors()
        lib.llama_backend_init()
        params = lib.llama_model_default_params()
        params.n_gpu_layers = 0
        started = time.perf_counter()
        _errors.clear()
        self.model = lib.llama_model_load_from_file(path.encode(), params)
        self.load_s = time.perf_counter() - started
        if not self.model:
            raise ValueError(f"llama.cpp can't load it: {why()}")
        self.threads = threads
        self._split = self.metadata("tokenizer.ggml.model"), self.metadata("tokenizer.ggml.pre")
        self.lib_vocab = lib.llama_model_get_vocab(self.model)
        self.vocab = lib.llama_vocab_n_tokens(self.lib_vocab)
        self.context: Any = None
        self.held: list[int] = []  # tokens of the one sequence that is open, where its user keeps count
        self._purpose: Purpose | None = None
        self._batch: Any = None

    def prepare(self, purpose: Purpose) -> None:
        """Make the context for a purpose, unless it is there, and forget everything in it."""
        if purpose != self._purpose:
            self._release()
            params = lib.llama_context_default_params()
            params.n_ctx = purpose.length * (1 if purpose.shared else purpose.sequences)
            params.n_seq_max = purpose.sequences
            params.n_batch = purpose.batch
            params.n_ubatch = min(purpose.batch, MICRO_BATCH)
            params.n_outputs_max = purpose.outputs
            params.n_threads = params.n_threads_batch = self.threads
            params.kv_unified = purpose.shared
            params.offload_kqv = False
            params.op_offload = False
            self.context = lib.llama_init_from_model(self.model, params)
            if not self.context:
                raise ValueError(
                    f"llama.cpp can't make a context of {purpose.sequences} x {purpose.length} tokens: {why()}"
                )
            self._purpose = purpose
            self._batch = lib.llama_batch_init(purpose.batch, 0, purpose.sequences if purpose.shared else 1)
            np.ctypeslib.as_array(self._batch.n_seq_id, (purpose.batch,))[:] = 1
        lib.llama_memory_clear(lib.llama_get_memory(self.context), True)
        self.held = []

    def cut(self, length: int) -> bool:
        """Drop what sequence 0 holds after its first `length` tokens; whether that could be done: see `keep_prefix`."""
        if not self.keep_prefix(0, length):
            return False
        del self.held[length:]
        return True

    def keep_prefix(self, sequence: int, length: int) -> bool:
        """Drop what a sequence holds after its first `length` tokens; whether that could be done.

        A recurrent model can't go back. A sliding window may have lost tokens that the last of the kept ones attend to.
        """
        memory = lib.llama_get_memory(self.context)
        first = lib.llama_memory_seq_pos_min(memory, sequence)
        if first > 0 and first > length - lib.llama_model_n_swa(self.model):
            return False
        return bool(lib.llama_memory_seq_rm(memory, sequence, length, -1))

    def decode(self, tokens: list[int], positions: list[int], sequences: list[int], returned: list[bool]) -> np.ndarray:
        """Run one batch and return the logits of the tokens in `returned` [rows, V] float32, in batch order; a view
        that holds until the next call.
        """
        for index, sequence in enumerate(sequences):
            self._batch.seq_id[index][0] = sequence
        return self._decode(tokens, positions, returned)

    def decode_shared(
        self, tokens: list[int], positions: list[int], sequences: list[range], returned: list[bool]
    ) -> np.ndarray:
        """As `decode`, in a `shared` context: token i belongs to all of sequences[i]."""
        batch = self._batch
        np.ctypeslib.as_array(batch.n_seq_id, (len(tokens),))[:] = [len(owners) for owners in sequences]
        for index, owners in enumerate(sequences):
            for place, sequence in enumerate(owners):
                batch.seq_id[index][place] = sequence
        return self._decode(tokens, positions, returned)

    def _decode(self, tokens: list[int], positions: list[int], returned: list[bool]) -> np.ndarray:
        batch = self._batch
        count = batch.n_tokens = len(tokens)
        np.ctypeslib.as_array(batch.token, (count,))[:] = tokens
        np.ctypeslib.as_array(batch.pos, (count,))[:] = positions
        np.ctypeslib.as_array(batch.logits, (count,))[:] = returned
        code = lib.llama_decode(self.context, batch)
        if code != 0:
            raise RuntimeError(f"llama_decode returned {code}: {why()}")
        rows = sum(returned)
        if not rows:
            return np.empty((0, self.vocab), np.float32)
        return np.ctypeslib.as_array(lib.llama_get_logits(self.context), shape=(rows, self.vocab))

    def forget(self, sequence: int) -> None:
        """Empty one sequence's cache."""
        lib.llama_memory_seq_rm(lib.llama_get_memory(self.context), sequence, -1, -1)

    def synchronize(self) -> None:
        """Wait until the last batch is done, as its timing must."""
        lib.llama_synchronize(self.context)

    def tokenize(self, text: str, add_special: bool, parse_special: bool) -> list[int]:
        """Token ids of a text; `parse_special` reads "<|im_end|>" as one token, `add_special` adds the BOS that the
        file asks for.

        Raises:
            InputError: llama.cpp would die of it.
        """
        check_runs(text, *self._split)
        data = text.encode()
        room = len(data) + 8
        buffer = (lib.llama_token * room)()
        count = lib.llama_tokenize(self.lib_vocab, data, len(data), buffer, room, add_special, parse_special)
        if count < 0:
            raise RuntimeError(f"llama_tokenize needs {-count} tokens for {len(data)} bytes")
        return list(buffer[:count])

    def piece(self, token: int, special: bool) -> bytes:
        """The bytes of one token; a control token has none unless `special`."""
        return token_piece(self.lib_vocab, token, special)

    def stop_ids(self) -> list[int]:
        """The tokens that end a text: what the file names as EOS and EOT, and their like by name."""
        return [token for token in range(self.vocab) if lib.llama_vocab_is_eog(self.lib_vocab, token)]

    def metadata(self, key: str) -> str | None:
        """One metadata value of the file as text."""
        return model_text(self.model, key)

    def chat_template(self) -> str | None:
        """The Jinja text of the file's chat template."""
        text = lib.llama_model_chat_template(self.model, None)
        return text.decode("utf-8", errors="replace") if text else None

    def description(self) -> str:
        """llama.cpp's name for architecture, size and type: "llama 135M Q4_0"."""
        buffer = ctypes.create_string_buffer(256)
        lib.llama_model_desc(self.model, buffer, 256)
        return buffer.value.decode("utf-8", errors="replace")

    def features(self) -> list[str]:
        """The processor's instructions that this build of llama.cpp uses: ["AVX512", "AVX512_BF16", ...]."""
        names = []
        for part in lib.llama_print_system_info().decode("utf-8", errors="replace").replace(":", "|").split("|"):
            name, _, value = part.strip().partition(" = ")
            if value == "1":
                names.append(name)
        return names

    def _release(self) -> None:
        if self.context is not None:
            lib.llama_batch_free(self._batch)
            lib.llama_free(self.context)
            self.context = self._purpose = None

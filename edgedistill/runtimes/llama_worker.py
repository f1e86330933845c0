"""The child process of the llama.cpp runtime: `python -m edgedistill.runtimes.llama_worker`, which reads frames from
stdin.

Each operation is a method; protocol.py has the frames. The parent's class is `LlamaCpp` in llama.py.
"""

from collections.abc import Iterator
from dataclasses import replace
from importlib.metadata import version
from typing import Any

import llama_cpp.llama_cpp as lib
import numpy as np

from edgedistill.errors import InputError
from edgedistill.runtimes.choices import SEQUENCES, TokenChoice, choice_log_probs
from edgedistill.runtimes.llama_engine import MICRO_BATCH, LlamaEngine, Purpose, requantize
from edgedistill.runtimes.memory import rss_bytes
from edgedistill.runtimes.one_sequence import LOGIT_ROWS, OneSequence
from edgedistill.runtimes.parallel import SequenceJob, run_jobs
from edgedistill.runtimes.prompt import adds_missing_bos
from edgedistill.runtimes.protocol import Arrays
from edgedistill.runtimes.sampling import BatchSettings
from edgedistill.runtimes.worker import Answer, Operation, serve

OURS = "edgedistill.version"  # a key that every file of ours has
MAX_LOGITS = 1 << 25  # computed at once: 128 MiB of float32


class LlamaWorker(OneSequence):
    """The operations on one GGUF file."""

    engine: LlamaEngine

    def operations(self) -> dict[str, Operation]:
        """One sequence's, many sequences', and rewriting a file."""
        return super().operations() | {
            "generate_batch": self.generate_batch,
            "choice_log_probs": self.choice_log_probs,
            "requantize": requantize,
        }

    def load(self, path: str, threads: int, context: int) -> Answer:
        """Load the file; its facts."""
        engine = self.engine = LlamaEngine(path, threads)
        self.vocab, self.context, self.threads, self.load_s = engine.vocab, context, threads, engine.load_s
        self.trained = lib.llama_model_n_ctx_train(engine.model)
        self.template, stops = engine.chat_template(), engine.stop_ids()
        self.stops = frozenset(stops)
        vocab = engine.lib_vocab
        self.bos_id, self.eos_id = lib.llama_vocab_bos(vocab), lib.llama_vocab_eos(vocab)
        add_bos = bool(lib.llama_vocab_get_add_bos(vocab))
        self.bos_missing = adds_missing_bos(add_bos, ours=engine.metadata(OURS) is not None)
        return {
            "runtime": "llama.cpp",
            "version": f"llama-cpp-python {version('llama-cpp-python')}",
            "description": engine.description(),
            "vocab": engine.vocab,
            "n_ctx_train": self.trained,
            "chat_template": self.template,
            "bos_id": self.bos_id,
            "eos_id": self.eos_id,
            "eot_id": lib.llama_vocab_eot(vocab),
            "stop_ids": stops,
            "add_bos": add_bos,
            "architecture": engine.metadata("general.architecture"),
            "name": engine.metadata("general.name"),
            "parameters": lib.llama_model_n_params(engine.model),
            "weight_bytes": lib.llama_model_size(engine.model),
            "load_s": engine.load_s,
            "rss_bytes": rss_bytes(),
            "features": engine.features(),
        }

    def logits(self, tokens: list[int], first: int) -> Iterator[tuple[Any, Arrays]]:
        """Stream the logits at positions `first` and later, a few rows a frame."""
        self.check(tokens, "logits")
        batch = min(MICRO_BATCH, max(LOGIT_ROWS, MAX_LOGITS // self.vocab))
        self.engine.prepare(Purpose(1, max(self.context, len(tokens)), batch, batch))
        for start in range(0, len(tokens), batch):
            part = tokens[start : start + batch]
            positions = list(range(start, start + len(part)))
            returned = [position >= first for position in positions]
            rows = self.engine.decode(part, positions, [0] * len(part), returned)
            # A frame is in the pipe whole before this goes on, so llama.cpp's buffer may be sent as it is.
            for row in range(0, len(rows), LOGIT_ROWS):
                yield max(start, first) + row, {"logits": rows[row : row + LOGIT_ROWS]}

    def generate_batch(
        self,
        prompts: list[list[int]],
        max_new: list[int],
        seeds: list[int],
        parallel: int,
        settings: dict[str, Any],
    ) -> Iterator[tuple[Any, Arrays]]:
        """Stream the finished sequences in the order in which they end."""
        for index, (prompt, count) in enumerate(zip(prompts, max_new, strict=True)):
            self.check(prompt, f"prompt {index}")
            if len(prompt) + count > self.context:
                raise InputError(
                    f"prompt {index} has {len(prompt)} tokens and may grow by {count}; "
                    f"the context holds {self.context}. Open the file with a larger context or ask for fewer tokens"
                )
        jobs = [SequenceJob(prompt, count, seed) for prompt, count, seed in zip(prompts, max_new, seeds, strict=True)]
        batch = BatchSettings(**settings)
        if batch.stop_ids is None:
            batch = replace(batch, stop_ids=self.stops)
        for done in run_jobs(self.engine, jobs, min(parallel, len(jobs)), self.context, batch):
            arrays: Arrays = {}
            if done.top is not None:
                arrays |= {"top_ids": done.top[0], "top_logp": done.top[1]}
            if done.prompt_top is not None and batch.prompt_logprobs:
                arrays |= {"prompt_top_ids": done.prompt_top[0], "prompt_top_logp": done.prompt_top[1]}
            yield {"index": done.index, "tokens": done.tokens, "finish": done.finish}, arrays

    def choice_log_probs(self, choices: list[tuple[list[int], list[list[int]]]]) -> Iterator[Answer]:
        """Stream the log-likelihoods of each choice's options, in the order of the choices."""
        for index, (prompt, options) in enumerate(choices):
            if not 1 <= len(options) <= SEQUENCES:
                raise InputError(f"choice {index} has {len(options)} options; it must have 1 to {SEQUENCES}")
            self.check(prompt, f"choice {index}, the prompt")
            for number, option in enumerate(options):
                self.check(option, f"choice {index}, option {number}")
            longest = len(prompt) + max(map(len, options))
            if longest > self.context:
                raise InputError(
                    f"choice {index} has {longest} tokens with its longest option; the context holds {self.context}. "
                    "Open the file with a larger context"
                )
        yield from choice_log_probs(self.engine, [TokenChoice(prompt, options) for prompt, options in choices])

    def open(self, length: int) -> None:
        """See OneSequence. Only the last row of logits is ever read, so the buffer holds one."""
        self.engine.prepare(Purpose(1, length, MICRO_BATCH, 1))

    def reopen(self, prompt: list[int]) -> int:
        """See OneSequence."""
        held = self.engine.held
        most = min(len(held), len(prompt))
        shared = next((index for index in range(most) if held[index] != prompt[index]), most)
        shared = min(shared, len(prompt) - 1)
        return shared if shared and self.engine.cut(shared) else 0

    def evaluate(self, tokens: list[int]) -> np.ndarray:
        """See OneSequence."""
        for start in range(0, len(tokens), MICRO_BATCH):
            part = tokens[start : start + MICRO_BATCH]
            positions = list(range(len(self.engine.held), len(self.engine.held) + len(part)))
            returned = [False] * (len(part) - 1) + [start + len(part) == len(tokens)]
            rows = self.engine.decode(part, positions, [0] * len(part), returned)
            self.engine.held += part
        self.engine.synchronize()
        return rows[0]

    def encode(self, text: str, add_special: bool, parse_special: bool) -> list[int]:
        """See OneSequence."""
        return self.engine.tokenize(text, add_special, parse_special)

    def decode_bytes(self, ids: list[int], special: bool) -> bytes:
        """See OneSequence."""
        return b"".join(self.engine.piece(token, special) for token in ids)

    def next_piece(self, ids: list[int]) -> bytes:
        """See OneSequence."""
        return self.engine.piece(ids[-1], False)


if __name__ == "__main__":
    serve(LlamaWorker().operations())

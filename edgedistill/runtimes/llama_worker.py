"""The child process of the llama.cpp runtime: `python -m edgedistill.runtimes.llama_worker`, spoken to in frames on stdin.

One operation a method; protocol.py says how they travel. The parent's class is `LlamaCpp` in llama.py.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np

from edgedistill.errors import InputError
from edgedistill.runtimes.llama_engine import MICRO_BATCH, LlamaEngine, Purpose, lib
from edgedistill.runtimes.memory import peak_rss_bytes, rss_bytes
from edgedistill.runtimes.parallel import Job, run_jobs
from edgedistill.runtimes.protocol import Arrays
from edgedistill.runtimes.sampling import Sampler
from edgedistill.runtimes.speed import measure_speed
from edgedistill.runtimes.template import render
from edgedistill.runtimes.worker import Answer, Operation, serve

LOGIT_ROWS = 128  # positions a frame: 24 MiB at a vocabulary of 49,152


class LlamaWorker:
    """The operations on one file."""

    engine: LlamaEngine

    def operations(self) -> dict[str, Operation]:
        """By the name that the parent asks for."""
        return {
            name: getattr(self, name)
            for name in ("load", "tokenize", "detokenize", "logits", "generate_batch", "apply_template", "chat", "speed", "memory")
        }

    def load(self, path: str, threads: int, context: int) -> Answer:
        """Load the file; its facts."""
        engine = self.engine = LlamaEngine(path, threads)
        self.context = context
        vocab = engine.lib_vocab
        self.stops = engine.stop_ids()
        return {
            "runtime": "llama.cpp", "version": _version(), "description": engine.description(), "vocab": engine.vocab,
            "n_ctx_train": lib.llama_model_n_ctx_train(engine.model), "chat_template": engine.chat_template(),
            "bos_id": lib.llama_vocab_bos(vocab), "eos_id": lib.llama_vocab_eos(vocab), "eot_id": lib.llama_vocab_eot(vocab),
            "stop_ids": self.stops, "add_bos": bool(lib.llama_vocab_get_add_bos(vocab)),
            "architecture": engine.metadata("general.architecture"), "name": engine.metadata("general.name"),
            "parameters": lib.llama_model_n_params(engine.model), "weight_bytes": lib.llama_model_size(engine.model),
            "load_s": engine.load_s, "rss_bytes": rss_bytes(),
        }

    def tokenize(self, text: str, add_special: bool, parse_special: bool) -> Answer:
        """Token ids of a text."""
        return self.engine.tokenize(text, add_special, parse_special)

    def detokenize(self, ids: list[int], special: bool) -> Answer:
        """The text of token ids."""
        self._check(ids, "detokenize")
        return b"".join(self.engine.piece(token, special) for token in ids).decode("utf-8", errors="replace")

    def logits(self, tokens: list[int], first: int) -> Iterator[tuple[Any, Arrays]]:
        """Stream the logits at positions `first` and later, a few rows a frame."""
        self._check(tokens, "logits")
        rows = LOGIT_ROWS
        length = max(self.context, len(tokens))
        self.engine.prepare(Purpose(1, length, rows, rows))
        for start in range(0, len(tokens), rows):
            part = tokens[start : start + rows]
            positions = list(range(start, start + len(part)))
            found = self.engine.decode(part, positions, [0] * len(part), [p >= first for p in positions])
            if len(found):
                yield max(start, first), {"logits": found}

    def generate_batch(
        self, prompts: list[list[int]], max_new: list[int], seeds: list[int], parallel: int, temperature: float, top_p: float,
        stop_ids: list[int] | None, top_k: int, prompt_logprobs: bool,
    ) -> Iterator[tuple[Any, Arrays]]:
        """Stream the finished sequences in the order in which they end."""
        for index, (prompt, count) in enumerate(zip(prompts, max_new, strict=True)):
            self._check(prompt, f"prompt {index}")
            if len(prompt) + count > self.context:
                raise InputError(
                    f"prompt {index} has {len(prompt)} tokens and may grow by {count}; "
                    f"the context holds {self.context}. Open the file with a larger context or ask for fewer tokens"
                )
        jobs = [Job(prompt, count, seed) for prompt, count, seed in zip(prompts, max_new, seeds, strict=True)]
        stops = frozenset(self.stops if stop_ids is None else stop_ids)
        for done in run_jobs(
            self.engine, jobs, parallel=min(parallel, len(jobs)), length=self.context, temperature=temperature, top_p=top_p,
            stop_ids=stops, top_k=top_k, prompt_top=prompt_logprobs,
        ):
            arrays = {}
            if done.top is not None:
                arrays |= {"top_ids": done.top[0], "top_logp": done.top[1]}
            if done.prompt_top is not None and prompt_logprobs:
                arrays |= {"prompt_top_ids": done.prompt_top[0], "prompt_top_logp": done.prompt_top[1]}
            yield {"index": done.index, "tokens": done.tokens, "finish": done.finish}, arrays

    def apply_template(self, messages: list[dict[str, Any]], add_generation_prompt: bool) -> Answer:
        """The prompt of a conversation, as text and as ids."""
        text = self._prompt(messages, add_generation_prompt)
        return {"text": text, "ids": self._prompt_ids(text)}

    def chat(self, messages: list[dict[str, Any]], max_tokens: int, temperature: float, top_p: float, seed: int) -> Iterator[Any]:
        """Stream an answer's tokens as bytes in latin-1; the last frame counts tokens and seconds."""
        prompt = self._prompt_ids(self._prompt(messages, True))
        room = self.context - len(prompt)
        if room < 1:
            raise InputError(
                f"the conversation has {len(prompt)} tokens; the context holds {self.context}. Start a new one, or open the file with more"
            )
        engine, sampler, stops = self.engine, Sampler(temperature, top_p, seed), frozenset(self.stops)
        self._open(self.context)
        self._evaluate(prompt)
        made, finish = 0, "length"
        while made < min(room, max_tokens):
            token = sampler.draw(self._row)
            made += 1
            if token in stops:
                finish = "stop"
                break
            yield {"piece": engine.piece(token, False).decode("latin-1")}
            self._evaluate([token])
        yield {"finish": finish, "prompt_tokens": len(prompt), "tokens": made}

    def speed(self, prefill: int, decode: int, repetitions: int, warmup: int) -> Answer:
        """Trials as in speed.py."""
        self._open(max(self.context, prefill, decode))
        found = measure_speed(
            self.engine.vocab, self._evaluate, self._reset, prefill=prefill, decode=decode, repetitions=repetitions, warmup=warmup
        )
        return found | {"load_s": self.engine.load_s, "threads": self.engine.threads}

    def memory(self) -> Answer:
        """Bytes resident now and at most."""
        return {"rss_bytes": rss_bytes(), "peak_rss_bytes": peak_rss_bytes()}

    def _open(self, length: int) -> None:
        """An empty context for one sequence, of which only the last row of logits is read."""
        self.engine.prepare(Purpose(1, length, MICRO_BATCH, 1))
        self._position = 0

    def _evaluate(self, tokens: list[int]) -> None:
        """Append tokens to the one sequence at hand and keep the logits after the last."""
        for start in range(0, len(tokens), MICRO_BATCH):
            part = tokens[start : start + MICRO_BATCH]
            positions = list(range(self._position, self._position + len(part)))
            wanted = [False] * (len(part) - 1) + [start + len(part) == len(tokens)]
            rows = self.engine.decode(part, positions, [0] * len(part), wanted)
            self._position += len(part)
            if len(rows):
                self._row: np.ndarray = rows[0]
        self.engine.synchronize()

    def _reset(self) -> None:
        self.engine.forget(0)
        self._position = 0

    def _prompt(self, messages: list[dict[str, Any]], add_generation_prompt: bool) -> str:
        template = self.engine.chat_template()
        if not template:
            raise InputError("it has no chat template, so there is no way to tell it who says what; use a model that was made to chat")
        vocab = self.engine.lib_vocab
        bos, eos = (
            self.engine.piece(token, True).decode("utf-8", errors="replace") if token >= 0 else ""
            for token in (lib.llama_vocab_bos(vocab), lib.llama_vocab_eos(vocab))
        )
        return render(template, messages, bos=bos, eos=eos, add_generation_prompt=add_generation_prompt)

    def _prompt_ids(self, text: str) -> list[int]:
        """Ids of a rendered prompt; a BOS that the template wrote isn't added a second time."""
        ids = self.engine.tokenize(text, True, True)
        bos = lib.llama_vocab_bos(self.engine.lib_vocab)
        return ids[1:] if ids[:2] == [bos, bos] and lib.llama_vocab_get_add_bos(self.engine.lib_vocab) else ids

    def _check(self, ids: list[int], what: str) -> None:
        """llama.cpp would abort, or read outside its table, on such ids."""
        if not ids:
            raise InputError(f"{what}: there is no token; give at least one")
        bad = next((token for token in ids if not 0 <= token < self.engine.vocab), None)
        if bad is not None:
            raise InputError(f"{what}: token {bad} is not in the vocabulary of {self.engine.vocab}")


def _version() -> str:
    from importlib.metadata import version

    return f"llama-cpp-python {version('llama-cpp-python')}"


if __name__ == "__main__":
    serve(LlamaWorker().operations())

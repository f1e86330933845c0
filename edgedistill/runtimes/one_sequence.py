"""Operations that go through one sequence token by token (chat, speed, template): the same for every runtime's child
process.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np

from edgedistill.errors import InputError
from edgedistill.runtimes.memory import peak_rss_bytes, rss_bytes
from edgedistill.runtimes.prompt import PromptFormat, check_text, special_text, write_prompt
from edgedistill.runtimes.sampling import Sampler
from edgedistill.runtimes.speed import SpeedSettings, measure_speed
from edgedistill.runtimes.worker import Answer, Operation

LOGIT_ROWS = 128  # positions a frame: 24 MiB at a vocabulary of 49,152
READ_TOKENS = 128  # of a chat's prompt, between two chances to stop: seconds on a slow device


class OneSequence:
    """The base of a worker. `load` sets the fields; methods that raise NotImplementedError are the runtime's own."""

    vocab: int
    context: int  # room of a sequence in tokens
    trained: int  # the longest that the model was trained for
    threads: int
    load_s: float
    stops: frozenset[int]
    template: str | None
    bos_missing: bool = False  # see PromptFormat
    bos_id: int
    eos_id: int

    def open(self, length: int) -> None:
        """Begin an empty sequence with room for `length` tokens."""
        raise NotImplementedError

    def reopen(self, prompt: list[int]) -> int:
        """Cut the current sequence to the tokens that it shares with the beginning of a prompt; returns their number.

        At least the prompt's last token remains to be evaluated. A runtime that can't cut its cache returns 0.
        """
        return 0

    def evaluate(self, tokens: list[int]) -> np.ndarray:
        """Append tokens; the logits [V] after the last, valid until the next call."""
        raise NotImplementedError

    def encode(self, text: str, add_special: bool, parse_special: bool) -> list[int]:
        """Token ids of a text."""
        raise NotImplementedError

    def decode_bytes(self, ids: list[int], special: bool) -> bytes:
        """The bytes of token ids."""
        raise NotImplementedError

    def next_piece(self, ids: list[int]) -> bytes:
        """The bytes that the last of an answer's ids adds to it."""
        raise NotImplementedError

    def operations(self) -> dict[str, Operation]:
        """The operations by the names that the parent sends."""
        names = ("load", "tokenize", "detokenize", "logits", "apply_template", "chat", "speed", "memory")
        return {name: getattr(self, name) for name in names}

    def tokenize(self, text: str, add_special: bool, parse_special: bool) -> Answer:
        """Token ids of a text."""
        check_text(text)
        return self.encode(text, add_special, parse_special)

    def detokenize(self, ids: list[int], special: bool) -> Answer:
        """The text of token ids."""
        self.check(ids, "detokenize")
        return self.decode_bytes(ids, special).decode("utf-8", errors="replace")

    def apply_template(self, messages: list[dict[str, Any]], add_generation_prompt: bool) -> Answer:
        """The prompt of a conversation, as text and as ids."""
        bos, eos = (
            special_text(token, lambda one: self.decode_bytes([one], True)) for token in (self.bos_id, self.eos_id)
        )
        text = write_prompt(PromptFormat(self.template, bos, eos, self.bos_missing), messages, add_generation_prompt)
        return {"text": text, "ids": self.encode(text, False, True)}

    def chat(
        self, messages: list[dict[str, Any]], max_tokens: int, temperature: float, top_p: float, seed: int, keep: bool
    ) -> Iterator[Any]:
        """Stream an answer's bytes as latin-1 text, token by token; the last item counts the tokens.

        While a long prompt is read, items say how many tokens have been read, so that the parent may stop there.
        """
        prompt = self.apply_template(messages, True)["ids"]
        limit = min(self.context, self.trained)
        if len(prompt) >= limit:
            longer = ", or open the file with a longer context" if self.context < self.trained else ""
            raise InputError(
                f"the conversation has {len(prompt)} tokens and the context holds {limit}; say it in fewer "
                f"words{longer}"
            )
        read = self.reopen(prompt) if keep else 0
        if not read:
            self.open(self.context)
        while len(prompt) - read > READ_TOKENS:
            self.evaluate(prompt[read : read + READ_TOKENS])
            read += READ_TOKENS
            yield {"read": read, "of": len(prompt)}
        finish, tokens = "length", []
        for token in self.draw_after(
            prompt[read:], min(max_tokens, limit - len(prompt)), Sampler(temperature, top_p, seed)
        ):
            tokens.append(token)
            if token in self.stops:
                finish = "stop"
                break
            yield {"piece": self.next_piece(tokens).decode("latin-1")}
        yield {"finish": finish, "prompt_tokens": len(prompt), "tokens": len(tokens)}

    def draw(self, prompt: list[int], count: int, temperature: float, top_p: float, seed: int) -> Iterator[int]:
        """Yield up to `count` tokens that follow a prompt, in a sequence of its own."""
        self.open(self.context)
        return self.draw_after(prompt, count, Sampler(temperature, top_p, seed))

    def draw_after(self, tokens: list[int], count: int, sampler: Sampler) -> Iterator[int]:
        """Yield up to `count` tokens that follow the open sequence and these."""
        row = self.evaluate(tokens)
        for drawn in range(count):
            token = sampler.draw(row)
            yield token
            if drawn + 1 < count:
                row = self.evaluate([token])

    def speed(self, prefill: int, decode: int, repetitions: int, warmup: int) -> Answer:
        """Trials as in speed.py."""
        length = max(self.context, prefill, decode)
        self.open(length)
        settings = SpeedSettings(prefill, decode, repetitions, warmup)
        return measure_speed(self.vocab, self.evaluate, lambda: self.open(length), settings).to_json()

    def memory(self) -> Answer:
        """Bytes resident now and at most."""
        return {"rss_bytes": rss_bytes(), "peak_rss_bytes": peak_rss_bytes()}

    def check(self, ids: list[int], what: str) -> None:
        """Refuse ids that a runtime would abort on, or look up outside its table.

        Raises:
            InputError: there is none, or one isn't in the vocabulary.
        """
        if not ids:
            raise InputError(f"{what}: there is no token; give at least one")
        bad = next((token for token in ids if not 0 <= token < self.vocab), None)
        if bad is not None:
            raise InputError(f"{what}: token {bad} is not in the vocabulary of {self.vocab}")

"""Speculative decoding: a small draft model proposes tokens, the target reads them all in one pass and keeps those that
it would have written itself.

Greedy on both sides, so the text is the target's own; only what shares a batch may change its last bits (Leviathan et
al. 2023, "Fast Inference from Transformers via Speculative Decoding", with temperature 0).
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from edgedistill.runtimes.llama_engine import LlamaEngine

BATCH_TOKENS = 512  # of a prompt, in one call


@dataclass(frozen=True)
class Drafting:
    """How much is drafted.

    Attributes:
        most: tokens that are proposed at once.
        least_probability: below which the draft model stops proposing.
    """

    most: int = 8
    least_probability: float = 0.75

    def within(self, room: int) -> "Drafting":
        """The same with at most `room` tokens at once."""
        return replace(self, most=min(self.most, room))


@dataclass
class Spoken:
    """One answer.

    Attributes:
        tokens: the target's.
        drafted, accepted: tokens that were proposed, and that the target kept.
        passes: of the target, after the prompt.
        seconds: from the end of the prompt to the end of the answer.
    """

    tokens: list[int] = field(default_factory=list)
    drafted: int = 0
    accepted: int = 0
    passes: int = 0
    seconds: float = 0.0


class Reader:
    """One model's cache: what it has read of a text."""

    def __init__(self, engine: "LlamaEngine", length: int, rows: int) -> None:
        """Begin with nothing. `length`: tokens that it must hold; `rows`: of logits that are asked for at once."""
        from edgedistill.runtimes.llama_engine import Purpose  # loads llama.cpp, which the parent's process never does

        self.engine, self.held = engine, 0
        engine.prepare(Purpose(1, length, BATCH_TOKENS, rows))

    def read(self, tokens: Sequence[int], rows: int = 1) -> np.ndarray:
        """Append tokens; the logits [rows, V] after the last `rows` of them, valid until the next call."""
        logits = np.empty((0, self.engine.vocab), np.float32)
        for start in range(0, len(tokens), BATCH_TOKENS):
            part = list(tokens[start : start + BATCH_TOKENS])
            places = range(self.held, self.held + len(part))
            returned = [start + index >= len(tokens) - rows for index in range(len(part))]
            logits = self.engine.decode(part, list(places), [0] * len(part), returned)
            self.held += len(part)
        return logits

    def keep(self, length: int) -> None:
        """Forget all after the first `length` tokens.

        Raises:
            ValueError: the model can't go back.
        """
        if length >= self.held:
            return
        if not self.engine.keep_prefix(0, length):
            raise ValueError("its cache can't go back, which drafting needs: it is recurrent or has a sliding window")
        self.held = length


def speak(
    target: Reader,
    draft: Reader | None,
    prompt: Sequence[int],
    limit: tuple[int, frozenset[int]],
    drafting: Drafting,
) -> Spoken:
    """Answer a prompt greedily.

    Args:
        target, draft: with empty caches; without a draft the target writes alone.
        limit: tokens at most, and those that end an answer.
        drafting: how much is proposed.
    Raises:
        ValueError: a model can't go back in its cache.
    """
    most_new, stops = limit
    text, spoken = list(prompt), Spoken()
    text.append(int(target.read(text)[-1].argmax()))
    if draft is not None:
        draft.read(prompt)
    spoken.tokens.append(text[-1])
    started = time.perf_counter()
    while len(spoken.tokens) < most_new and spoken.tokens[-1] not in stops:
        room = most_new - len(spoken.tokens) - 1
        proposed = [] if draft is None else _propose(draft, text, stops, drafting.within(room))
        choices = target.read([text[-1], *proposed], 1 + len(proposed)).argmax(-1).tolist()
        kept = 0
        while kept < len(proposed) and proposed[kept] == choices[kept]:
            kept += 1
        new = [*proposed[:kept], choices[kept]]
        target.keep(len(text) + kept)
        if draft is not None:
            draft.keep(len(text) + kept)
        spoken.passes += 1
        spoken.drafted += len(proposed)
        spoken.accepted += kept
        ends = next((place for place, token in enumerate(new) if token in stops), len(new) - 1)
        text += new[: ends + 1]
        spoken.tokens += new[: ends + 1]
    spoken.seconds = time.perf_counter() - started
    return spoken


def _propose(draft: Reader, text: Sequence[int], stops: frozenset[int], drafting: Drafting) -> list[int]:
    """The draft model's next tokens of a text, as long as it is sure of them."""
    proposed: list[int] = []
    if drafting.most < 1:
        return proposed
    logits = draft.read(text[draft.held :])[-1]
    while True:
        token = int(logits.argmax())
        # The largest probability of a softmax is 1 / Σ exp(z - max z).
        if 1 / np.exp(logits - logits[token]).sum() < drafting.least_probability:
            return proposed
        proposed.append(token)
        if len(proposed) == drafting.most or token in stops:
            return proposed
        logits = draft.read([token])[-1]

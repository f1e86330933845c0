"""Log-likelihoods of the options of multiple-choice questions, many questions through one llama.cpp batch.

A question's prompt is evaluated once and belongs to the sequences of all its options; each option's tokens belong to a
sequence of its own. Logits are computed only where they predict an option's token: at the prompt's last token, and at
all tokens of an option but its last. They are summed to one number an option here, in the process of the model, so no
logits travel between processes.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from edgedistill.runtimes.llama_engine import MICRO_BATCH, LlamaEngine, Purpose

LOGIT_BYTES = 96 << 20  # logits of one batch: 512 rows at a vocabulary of 49,152
SEQUENCES = 128  # at once, and so the most options of one question; llama.cpp takes 256 (LLAMA_MAX_SEQ)
ROWS = 16  # rows of logits summed at a time: they stay in the processor's cache


@dataclass(frozen=True)
class TokenChoice:
    """Token ids of a prompt and of each option; none of them empty."""

    prompt: list[int]
    options: list[list[int]]

    @property
    def tokens(self) -> int:
        """Tokens to evaluate: an option's last one predicts nothing that counts."""
        return len(self.prompt) + sum(len(option) - 1 for option in self.options)

    @property
    def rows(self) -> int:
        """Rows of logits needed."""
        return 1 + sum(len(option) - 1 for option in self.options)


def choice_log_probs(engine: LlamaEngine, choices: list[TokenChoice]) -> Iterator[list[float]]:
    """Yield for each choice, in order, the sum of the log-probabilities of each option's tokens, in nats."""
    packs = list(_packs(choices, max(1, LOGIT_BYTES // (4 * engine.vocab))))
    if not packs:
        return
    length = max(sum(choice.tokens for choice in pack) for pack in packs)
    rows = max(sum(choice.rows for choice in pack) for pack in packs)
    sequences = max(sum(len(choice.options) for choice in pack) for pack in packs)
    for pack in packs:
        # llama.cpp aborts where there are fewer rows than sequences, although options of one token share the prompt's
        # row.
        engine.prepare(Purpose(sequences, length, length, max(rows, sequences), shared=True))
        yield from _score(engine, pack)


def _packs(choices: list[TokenChoice], most_rows: int) -> Iterator[list[TokenChoice]]:
    """Choices in groups that fit into one batch; a choice that exceeds a limit by itself is a group of its own."""
    pack: list[TokenChoice] = []
    tokens = rows = sequences = 0
    for choice in choices:
        tokens, rows, sequences = tokens + choice.tokens, rows + choice.rows, sequences + len(choice.options)
        if pack and (tokens > MICRO_BATCH or rows > most_rows or sequences > SEQUENCES):
            yield pack
            pack = []
            tokens, rows, sequences = choice.tokens, choice.rows, len(choice.options)
        pack.append(choice)
    if pack:
        yield pack


def _score(engine: LlamaEngine, pack: list[TokenChoice]) -> list[list[float]]:
    tokens: list[int] = []
    positions: list[int] = []
    sequences: list[range] = []
    returned: list[bool] = []
    row_of: list[int] = []  # of each scored token: the row of logits that predicts it
    label_of: list[int] = []  # its id
    option_of: list[int] = []  # the option that it belongs to, which is its sequence
    rows = options = 0
    for choice in pack:
        count = len(choice.options)
        tokens += choice.prompt
        positions += range(len(choice.prompt))
        sequences += [range(options, options + count)] * len(choice.prompt)
        returned += [False] * (len(choice.prompt) - 1) + [True]
        prompt_row, rows = rows, rows + 1
        for option in choice.options:
            fed = len(option) - 1
            tokens += option[:fed]
            positions += range(len(choice.prompt), len(choice.prompt) + fed)
            sequences += [range(options, options + 1)] * fed
            returned += [True] * fed
            row_of += [prompt_row, *range(rows, rows + fed)]
            label_of += option
            option_of += [options] * len(option)
            rows, options = rows + fed, options + 1
    logits = engine.decode_shared(tokens, positions, sequences, returned)
    log_probs = logits[row_of, label_of] - _log_norms(logits)[row_of]
    sums = np.bincount(option_of, weights=log_probs, minlength=options).tolist()
    ends = np.cumsum([len(choice.options) for choice in pack]).tolist()
    return [sums[end - len(choice.options) : end] for choice, end in zip(pack, ends, strict=True)]


def _log_norms(logits: np.ndarray) -> np.ndarray:
    """[N] float64: log of the sum of exp over each row of [N, V] float32. Only the sum is float64; for its terms
    float32 is precise enough.
    """
    norms = np.empty(len(logits))
    for start in range(0, len(logits), ROWS):
        part = logits[start : start + ROWS]
        top = part.max(axis=1)
        norms[start : start + ROWS] = top + np.log(np.exp(part - top[:, None]).sum(axis=1, dtype=np.float64))
    return norms

"""Many prompts through one llama.cpp context at once: each sequence has a slot, and a slot that ends takes the next
prompt.

Which prompts share a batch follows from the prompts and what they generate, never from the clock, so the same call
gives the same texts. Weights are read once a step for all slots: on a CPU 16 sequences give several times one's
tokens/s.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from edgedistill.runtimes.llama_engine import LlamaEngine, Purpose
from edgedistill.runtimes.sampling import BatchSettings, Sampler, top_log_probs

BATCH_TOKENS = 512
PROMPT_ROWS = 256  # rows of logits kept at once where the prompt's own distributions are returned too


@dataclass(frozen=True)
class SequenceJob:
    """One prompt and how to go on from it."""

    prompt: list[int]
    max_new: int
    seed: int


@dataclass
class Slot:
    """One running sequence."""

    index: int
    job: SequenceJob
    sampler: Sampler
    pending: list[int]
    position: int = 0
    tokens: list[int] = field(default_factory=list)
    top: list[tuple[np.ndarray, np.ndarray]] = field(default_factory=list)
    prompt_top: list[tuple[np.ndarray, np.ndarray]] = field(default_factory=list)


@dataclass(frozen=True)
class JobResult:
    """The result of job `index`: its tokens (a stop token included) and why it ended, "stop" or "length".

    `top` are ids [n, K] and log-probabilities [n, K] of the distributions that the tokens were drawn from, `prompt_top`
    those after each prompt token but the last, [P-1, K]: stacked, row i tells what could follow token i.
    """

    index: int
    tokens: list[int]
    finish: str
    top: tuple[np.ndarray, np.ndarray] | None
    prompt_top: tuple[np.ndarray, np.ndarray] | None


@dataclass(frozen=True)
class LogitRow:
    """One row of a batch's logits: the number and the state of its sequence, and whether the next token is drawn from
    it.
    """

    number: int
    slot: Slot
    draws: bool


@dataclass
class TokenBatch:
    """Tokens that are decoded in one call, and the rows of logits that it returns."""

    tokens: list[int] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    sequences: list[int] = field(default_factory=list)
    returned: list[bool] = field(default_factory=list)  # whether a token's logits are among the rows
    rows: list[LogitRow] = field(default_factory=list)

    def add(self, number: int, slot: Slot, count: int, every_row: bool) -> None:
        """Add the next `count` tokens of a sequence; rows are returned of its last pending token, or of all."""
        taken, slot.pending = slot.pending[:count], slot.pending[count:]
        for offset, token in enumerate(taken):
            draws = not slot.pending and offset == len(taken) - 1
            self.tokens.append(token)
            self.positions.append(slot.position + offset)
            self.sequences.append(number)
            self.returned.append(draws or every_row)
            if draws or every_row:
                self.rows.append(LogitRow(number, slot, draws))
        slot.position += len(taken)


def run_jobs(
    engine: LlamaEngine, jobs: list[SequenceJob], parallel: int, length: int, settings: BatchSettings
) -> Iterator[JobResult]:
    """Yield each job as it ends.

    Args:
        engine: the loaded file.
        jobs: prompts, each of which must fit into `length` tokens with what it may grow by.
        parallel: sequences at once.
        length: the room of one sequence in tokens.
        settings: with `stop_ids` as a list.
    """
    stop_ids = frozenset(settings.stop_ids or ())
    outputs = max(parallel, PROMPT_ROWS) if settings.prompt_logprobs else parallel
    engine.prepare(Purpose(parallel, length, BATCH_TOKENS, outputs))
    waiting = iter(enumerate(jobs))
    slots: list[Slot | None] = [None] * parallel
    while True:
        for number in range(parallel):
            if slots[number] is None and (entry := next(waiting, None)) is not None:
                index, job = entry
                sampler = Sampler(settings.temperature, settings.top_p, job.seed)
                slots[number] = Slot(index, job, sampler, list(job.prompt))
        if not any(slots):
            return
        for row in _step(engine, slots, settings):
            slot, top_k = row.slot, settings.top_k
            finish = _finish_of(slot, stop_ids)
            if finish:
                engine.forget(row.number)
                slots[row.number] = None
                yield JobResult(
                    slot.index, slot.tokens, finish, _stack(slot.top, top_k), _stack(slot.prompt_top, top_k)
                )


def _step(engine: LlamaEngine, slots: list[Slot | None], settings: BatchSettings) -> list[LogitRow]:
    """One batch: a token of each running sequence, then as much of the waiting prompts as fits. Returns the rows that a
    token was drawn from.
    """
    batch, every_row = TokenBatch(), settings.prompt_logprobs
    most_rows = max(len(slots), PROMPT_ROWS) if every_row else len(slots)
    running = [(number, slot) for number, slot in enumerate(slots) if slot is not None]
    running.sort(key=lambda pair: len(pair[1].pending) != 1)
    for number, slot in running:
        room = BATCH_TOKENS - len(batch.tokens)
        if every_row:
            room = min(room, most_rows - len(batch.rows))
        batch.add(number, slot, room, every_row)
    logits = engine.decode(batch.tokens, batch.positions, batch.sequences, batch.returned)
    best = top_log_probs(logits, settings.top_k) if settings.top_k and len(batch.rows) else None
    drew = []
    for index, row in enumerate(batch.rows):
        slot = row.slot
        if best is not None:
            top = slot.top if row.draws else slot.prompt_top
            top.append((best[0][index], best[1][index]))
        if row.draws:
            token = slot.sampler.draw(logits[index])
            slot.tokens.append(token)
            slot.pending = [token]
            drew.append(row)
    return drew


def _finish_of(slot: Slot, stop_ids: frozenset[int]) -> str | None:
    if slot.tokens[-1] in stop_ids:
        return "stop"
    return "length" if len(slot.tokens) >= slot.job.max_new else None


def _stack(rows: list[tuple[np.ndarray, np.ndarray]], top_k: int) -> tuple[np.ndarray, np.ndarray] | None:
    if not top_k:
        return None
    if not rows:
        return np.empty((0, top_k), np.int32), np.empty((0, top_k), np.float16)
    return np.stack([ids for ids, _ in rows]), np.stack([values for _, values in rows])

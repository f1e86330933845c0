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
from edgedistill.runtimes.sampling import Sampler, top_log_probs

BATCH_TOKENS = 512
PROMPT_ROWS = 256  # rows of logits kept at once when the prompt's own distributions are wanted too


@dataclass(frozen=True)
class Job:
    """One prompt and how to go on from it."""

    prompt: list[int]
    max_new: int
    seed: int


@dataclass
class Slot:
    """One running sequence."""

    index: int
    job: Job
    sampler: Sampler
    pending: list[int]
    position: int = 0
    tokens: list[int] = field(default_factory=list)
    top: list[tuple[np.ndarray, np.ndarray]] = field(default_factory=list)
    prompt_top: list[tuple[np.ndarray, np.ndarray]] = field(default_factory=list)


@dataclass(frozen=True)
class Finished:
    """What became of job `index`: its tokens (a stop token included) and why it ended, "stop" or "length".

    `top` are ids [n, K] and log-probabilities [n, K] of the distributions that the tokens were drawn from, `prompt_top`
    those after each prompt token but the last, [P-1, K]: stacked, row i tells what could follow token i.
    """

    index: int
    tokens: list[int]
    finish: str
    top: tuple[np.ndarray, np.ndarray] | None
    prompt_top: tuple[np.ndarray, np.ndarray] | None


def run_jobs(
    engine: LlamaEngine,
    jobs: list[Job],
    *,
    parallel: int,
    length: int,
    temperature: float,
    top_p: float,
    stop_ids: frozenset[int],
    top_k: int,
    prompt_top: bool,
) -> Iterator[Finished]:
    """Yield each job as it ends. `length` is the room of one sequence in tokens; every job must fit into it."""
    engine.prepare(Purpose(parallel, length, BATCH_TOKENS, max(parallel, PROMPT_ROWS) if prompt_top else parallel))
    waiting = iter(enumerate(jobs))
    slots: list[Slot | None] = [None] * parallel
    while True:
        for number in range(parallel):
            if slots[number] is None and (entry := next(waiting, None)) is not None:
                index, job = entry
                slots[number] = Slot(index, job, Sampler(temperature, top_p, job.seed), list(job.prompt))
        if not any(slots):
            return
        for number, slot in _step(engine, slots, top_k, prompt_top):
            finish = _finish_of(slot, stop_ids)
            if finish:
                engine.forget(number)
                slots[number] = None
                yield Finished(slot.index, slot.tokens, finish, _stack(slot.top, top_k), _stack(slot.prompt_top, top_k))


def _step(engine: LlamaEngine, slots: list[Slot | None], top_k: int, prompt_top: bool) -> list[tuple[int, Slot]]:
    """One batch: a token of each running sequence, then as much of the waiting prompts as fits. The slots that drew a
    token.
    """
    tokens: list[int] = []
    positions: list[int] = []
    sequences: list[int] = []
    wanted: list[bool] = []
    owners: list[
        tuple[int, Slot, bool]
    ] = []  # of each wanted row: slot number, slot, whether the next token is drawn from it
    rows = max(len(slots), PROMPT_ROWS) if prompt_top else len(slots)
    running = sorted(((n, s) for n, s in enumerate(slots) if s is not None), key=lambda pair: len(pair[1].pending) != 1)
    for number, slot in running:
        room = BATCH_TOKENS - len(tokens)
        if prompt_top:
            room = min(room, rows - len(owners))
        taken, slot.pending = slot.pending[:room], slot.pending[room:]
        for offset, token in enumerate(taken):
            last = not slot.pending and offset == len(taken) - 1
            want = last or prompt_top
            tokens.append(token)
            positions.append(slot.position + offset)
            sequences.append(number)
            wanted.append(want)
            if want:
                owners.append((number, slot, last))
        slot.position += len(taken)
    logits = engine.decode(tokens, positions, sequences, wanted)
    best = top_log_probs(logits, top_k) if top_k and len(owners) else None
    drew = []
    for row, (number, slot, last) in enumerate(owners):
        if best is not None:
            (slot.top if last else slot.prompt_top).append((best[0][row], best[1][row]))
        if last:
            token = slot.sampler.draw(logits[row])
            slot.tokens.append(token)
            slot.pending = [token]
            drew.append((number, slot))
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

"""Answers to several clients at once: each running one has a slot of the context, and all slots share a batch.

One thread runs the model. Before each batch it drops the answers that nobody waits for any longer and gives free slots
to those that wait. A slot keeps what it read last, so that the next turn of a conversation reads only what is new.
"""

import queue
import select
import sys
import threading
import traceback

import numpy as np

from edgedistill.runtimes.llama_engine import LlamaEngine, Purpose
from edgedistill.runtimes.parallel import BATCH_TOKENS
from edgedistill.serve.answer_job import Failure, Job, Writing
from edgedistill.serve.constraint import ConstraintError

LOGIT_BYTES = 32 << 20  # of a prompt's own rows, in one batch
MASK_WAIT_S = 0.02


class Slot:
    """One sequence of the context: the tokens that its cache holds, and the answer that runs in it."""

    def __init__(self, number: int) -> None:
        """Empty."""
        self.number = number
        self.held: list[int] = []
        self.writing: Writing | None = None


class Batcher:
    """The thread that runs the model, and the answers that wait for it."""

    def __init__(self, engine: LlamaEngine, sequences: int, length: int, stops: frozenset[int]) -> None:
        """Make the context: `sequences` of `length` tokens each; `stops` are the tokens that end an answer.

        Raises:
            ValueError: llama.cpp can't, for want of memory.
        """
        self._engine, self._length, self._stops = engine, length, stops
        self._rows = max(sequences, min(BATCH_TOKENS, LOGIT_BYTES // (4 * engine.vocab)))
        self._slots = [Slot(number) for number in range(sequences)]
        self._coming: queue.SimpleQueue[Job] = queue.SimpleQueue()
        self._waiting: list[Job] = []
        engine.prepare(Purpose(sequences, length, BATCH_TOKENS, self._rows))

    def start(self) -> None:
        """Begin to answer."""
        threading.Thread(target=self._run, daemon=True).start()

    def submit(self, job: Job) -> None:
        """Answer a job; events come through its `emit`."""
        self._coming.put(job)

    def _run(self) -> None:
        while True:
            self._admit()
            try:
                self._step()
            except Exception:
                traceback.print_exc(file=sys.stderr)
                self._fail_all()

    def _admit(self) -> None:
        """Take what has come, drop what nobody waits for, fill free slots; waits where there is nothing to do."""
        busy = any(slot.writing for slot in self._slots)
        while True:
            try:
                self._waiting.append(self._coming.get(block=not busy and not self._waiting))
            except queue.Empty:
                break
        self._waiting = [job for job in self._waiting if not self._dropped(job)]
        for slot in self._slots:
            if slot.writing and self._dropped(slot.writing.job):
                slot.writing = None
        while self._waiting and (free := [slot for slot in self._slots if slot.writing is None]):
            job = self._waiting.pop(min(range(len(self._waiting)), key=lambda at: self._waiting[at].turn.begun))
            job.turn.begun += 1
            self._begin(max(free, key=lambda slot: _common(slot.held, job.prompt)), job)

    def _dropped(self, job: Job) -> bool:
        if job.cancelled and job.constraint:
            job.constraint.close()
        return job.cancelled

    def _begin(self, slot: Slot, job: Job) -> None:
        scored = job.echo and job.log_probs is not None
        # The last token is read anew: the first of the answer is drawn from its logits.
        shared = 0 if scored or job.fresh else min(_common(slot.held, job.prompt), len(job.prompt) - 1)
        if not shared or not self._engine.keep_prefix(slot.number, shared):
            self._engine.forget(slot.number)
            shared = 0
        slot.held = job.prompt[:shared]
        slot.writing = Writing(job, job.prompt[shared:])
        if scored:
            slot.writing.begin_prompt()

    def _step(self) -> None:
        """Draw what can be drawn, then run one batch."""
        running = [slot for slot in self._slots if slot.writing]
        for slot in running:
            self._draw(slot)
        running = [slot for slot in running if slot.writing]
        if any(slot.writing.pending for slot in running):  # type: ignore[union-attr]
            self._decode(running)
        elif running:
            masks = [slot.writing.job.constraint for slot in running if slot.writing]
            select.select([mask for mask in masks if mask], [], [], MASK_WAIT_S)

    def _decode(self, running: list[Slot]) -> None:
        """One batch: a token of each answer that is being written, then as much of the prompts as fits."""
        tokens: list[int] = []
        positions: list[int] = []
        sequences: list[int] = []
        returned: list[bool] = []
        rows: list[tuple[Slot, int]] = []  # of each row of logits: its slot, and the place of its token there
        running.sort(key=lambda slot: len(slot.writing.pending))  # type: ignore[union-attr]
        # Each slot may return its last row, whatever the prompts before it took.
        spare = self._rows - len(running)
        for slot in running:
            writing = slot.writing
            assert writing is not None
            scored = writing.job.echo and writing.job.log_probs is not None and not writing.tokens
            count = min(len(writing.pending), BATCH_TOKENS - len(tokens))
            if scored:
                count = min(count, spare + 1)
                spare -= max(0, count - 1)
            for place in range(len(slot.held), len(slot.held) + count):
                token = writing.pending[place - len(slot.held)]
                last = place - len(slot.held) == len(writing.pending) - 1
                tokens.append(token)
                positions.append(place)
                sequences.append(slot.number)
                returned.append(last or scored)
                if last or scored:
                    rows.append((slot, place))
            slot.held += writing.pending[:count]
            del writing.pending[:count]
        logits = self._engine.decode(tokens, positions, sequences, returned)
        for row, (slot, place) in zip(logits, rows, strict=True):
            self._take_row(slot, place, row)

    def _take_row(self, slot: Slot, place: int, row: np.ndarray) -> None:
        writing = slot.writing
        assert writing is not None
        if place + 1 < len(writing.job.prompt):
            writing.score_prompt(place + 1, row)
        else:
            writing.row = row.copy()

    def _draw(self, slot: Slot) -> None:
        """Draw the next token of a slot, where its logits and its mask are there."""
        writing = slot.writing
        if writing is None or writing.row is None:
            return
        job = writing.job
        if not job.max_new:
            self._end(slot, "length")
            return
        try:
            mask = job.constraint.poll() if job.constraint else None
            if job.constraint and mask is None:
                return
            token = writing.draw(mask)
            writing.row = None
            if token in self._stops:
                if not job.echo:
                    writing.hide_end()
                self._end(slot, "stop")
                return
            writing.add(self._engine.piece(token, False))
            if writing.text.stopped:
                self._end(slot, "stop")
            elif len(writing.tokens) >= job.max_new or len(slot.held) >= self._length:
                self._end(slot, "length")
            else:
                writing.pending = [token]
                if job.constraint:
                    job.constraint.accept(token)
        except ConstraintError as error:
            self._fail(slot, Failure(str(error), error.status))

    def _end(self, slot: Slot, finish: str) -> None:
        writing, slot.writing = slot.writing, None
        assert writing is not None
        if writing.job.constraint:
            writing.job.constraint.close()
        writing.end(finish)

    def _fail(self, slot: Slot, failure: Failure) -> None:
        writing, slot.writing = slot.writing, None
        assert writing is not None
        if writing.job.constraint:
            writing.job.constraint.close()
        writing.job.emit(failure)

    def _fail_all(self) -> None:
        """After an error of llama.cpp: no slot's cache can be trusted."""
        for slot in self._slots:
            self._engine.forget(slot.number)
            slot.held = []
            if slot.writing:
                self._fail(slot, Failure("the model failed while it answered; the server's log says why"))


def _common(held: list[int], prompt: list[int]) -> int:
    """How many tokens two begin with alike."""
    most = min(len(held), len(prompt))
    if held[:most] == prompt[:most]:
        return most
    return next(index for index in range(most) if held[index] != prompt[index])

"""The jobs of one request, and what they tell until all have ended or the client has left."""

import asyncio
import contextlib
import random
import secrets
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from typing import Any, Protocol

from edgedistill.serve.answer_job import End, Event, Failure, Job, Piece, Turn
from edgedistill.serve.asgi import ClientLeftError
from edgedistill.serve.constraint import Constraint
from edgedistill.serve.openai_answer import WrittenAnswer
from edgedistill.serve.openai_request import Question
from edgedistill.serve.refused import Refused


class Model(Protocol):
    """What the API asks of the loaded file."""

    name: str
    context: int
    vocab: int
    parallel: int
    longest_token: int  # bytes

    def write(self, messages: list[dict[str, Any]], tools: list[dict[str, Any]] | None) -> str:
        """The prompt's text. Raises InputError where the template refuses."""

    def encode(self, text: str, add_bos: bool) -> list[int]:
        """Token ids of a text. Raises InputError where it can't be read."""

    def piece(self, token: int) -> bytes:
        """The bytes of a token, a control token's too."""

    def constrain(self, given: dict[str, Any]) -> Constraint:
        """What an answer must follow; its first mask is still to come. Raises ConstraintError."""

    def submit(self, job: Job) -> None:
        """Answer a job."""


@dataclass(frozen=True)
class Prepared:
    """A question that can be answered: the ids of its prompts, what holds its answer, and how many log-probabilities
    that may bring.
    """

    question: Question
    chat: bool
    prompts: list[list[int]]
    constraint: dict[str, Any] | None
    log_probs: int = 0

    @property
    def calls(self) -> bool:
        """Whether the answer may hold calls of tools."""
        return bool(self.question.tools) and self.question.tool_choice.kind != "none"


class Events:
    """What the jobs of one request tell, until all have ended or the client has left."""

    def __init__(
        self, model: Model, prepared: Prepared, constraint: Constraint | None, gone: "asyncio.Task[float]"
    ) -> None:
        """Submit the jobs; `gone` ends when the client has left."""
        question = prepared.question
        self.count = len(prepared.prompts) * question.answers
        self._echo = [question.echo for _ in range(self.count)]
        self._log_probs = question.log_probs is not None
        self._queue: asyncio.Queue[tuple[int, Event | None]] = asyncio.Queue()
        self._loop = asyncio.get_running_loop()
        gone.add_done_callback(lambda _: self._queue.put_nowait((0, None)))
        settings = question.sampling
        if settings.temperature < 1e-3:
            settings = replace(settings, temperature=0.0)
        seed = secrets.randbits(32) if question.seed is None else question.seed % (1 << 64)
        self._jobs = []
        turn = Turn()
        for index in range(self.count):
            prompt = prepared.prompts[index // question.answers]
            room = model.context - len(prompt)
            if question.echo:
                self._queue.put_nowait((index, Piece(_echoed(model, prepared, index))))
            job = Job(
                prompt=prompt,
                max_new=room if question.max_tokens is None else min(question.max_tokens, room),
                settings=settings,
                seed=random.Random(seed + index).getrandbits(64) if index else seed,
                emit=self._emitter(index),
                stops=question.stops,
                log_probs=question.log_probs,
                echo=question.echo,
                constraint=constraint,
                turn=turn,
                fresh=question.seed is not None,  # who names a seed wants the same answer again
            )
            self._jobs.append(job)
            model.submit(job)

    def answers(self) -> list[WrittenAnswer]:
        """An empty answer for each job."""
        return [WrittenAnswer(tokens=[] if self._log_probs else None) for _ in range(self.count)]

    async def __aiter__(self) -> AsyncIterator[tuple[int, Event]]:
        """Events with the number of their job.

        Raises:
            ClientLeftError: the client has left.
            Refused: a job failed.
        """
        left = self.count
        while left:
            index, event = await self._queue.get()
            if event is None:
                raise ClientLeftError
            if isinstance(event, Failure):
                raise Refused(event.message, event.status)
            left -= isinstance(event, End)
            yield index, event

    async def close(self) -> None:
        """Free the model of what hasn't ended."""
        for job in self._jobs:
            job.cancelled = True

    def _emitter(self, index: int) -> Any:
        def emit(event: Event) -> None:
            with contextlib.suppress(RuntimeError):  # the server has ended
                self._loop.call_soon_threadsafe(self._queue.put_nowait, (index, event))

        return emit


def _echoed(model: Model, prepared: Prepared, index: int) -> str:
    """The prompt as an answer repeats it."""
    number = index // prepared.question.answers
    given = prepared.question.prompts[number]
    if isinstance(given, str):
        return given
    return b"".join(map(model.piece, prepared.prompts[number])).decode("utf-8", errors="replace")

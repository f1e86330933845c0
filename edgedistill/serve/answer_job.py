"""One answer that is being written: what it continues, how, and what is told of it as it grows."""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from edgedistill.runtimes.sampling import Sampler
from edgedistill.serve.answer_text import AnswerText
from edgedistill.serve.constraint import Constraint
from edgedistill.serve.openai_request import SamplingSettings

REPEAT_WINDOW = 64  # tokens that the repeat penalty looks back at, as llama.cpp's does


@dataclass(frozen=True)
class TokenLogProb:
    """A token with its log-probability in nats (None for the first of a prompt) and the likeliest at its place."""

    token: int
    log_prob: float | None
    top: list[tuple[int, float]]


@dataclass(frozen=True)
class Piece:
    """Text that was added, and the tokens behind it where log-probabilities are wanted."""

    text: str
    tokens: list[TokenLogProb] = field(default_factory=list)


@dataclass(frozen=True)
class End:
    """The answer is whole: "stop" or "length", and how many tokens it took."""

    finish: str
    tokens: int


@dataclass(frozen=True)
class Failure:
    """The answer can't be ended."""

    message: str
    status: int = 500


Event = Piece | End | Failure


@dataclass
class Turn:
    """How many answers of one request have begun: of those that wait, the request with the fewest has the next."""

    begun: int = 0


@dataclass
class Job:
    """What is asked of the model.

    Attributes:
        prompt: token ids, at least one.
        max_new: tokens at most; 0 scores the prompt alone.
        log_probs: alternatives to each token; None for no log-probabilities.
        echo: whether the prompt's tokens get log-probabilities too.
        emit: called in the engine's thread with each event; the last is End or Failure.
        turn: shared by the jobs of one request.
        fresh: read the whole prompt, also where a cache holds its beginning: batches of other sizes round otherwise.
        cancelled: set when nobody waits for the answer any longer.
    """

    prompt: list[int]
    max_new: int
    settings: SamplingSettings
    seed: int
    emit: Callable[[Event], None]
    stops: tuple[str, ...] = ()
    log_probs: int | None = None
    echo: bool = False
    constraint: Constraint | None = None
    turn: Turn = field(default_factory=Turn)
    fresh: bool = False
    cancelled: bool = False


class Writing:
    """A job in its slot."""

    def __init__(self, job: Job, pending: list[int]) -> None:
        """`pending` are the tokens of the prompt that the cache doesn't hold."""
        self.job = job
        self.pending = pending
        self.tokens: list[int] = []
        self.row: np.ndarray | None = None  # logits that a token is drawn from once the constraint's mask is there
        self.text = AnswerText(job.stops)
        self._unsent: list[TokenLogProb] = []
        self._sampler = Sampler(job.settings.temperature, max(job.settings.top_p, 1e-6), job.seed)

    def draw(self, mask: np.ndarray | None) -> int:
        """The next token from `row`, among those of a mask."""
        assert self.row is not None
        logits = self._penalized(self.row)
        if mask is not None:
            logits = np.where(mask, logits, np.float32(-np.inf))
        token = self._sampler.draw(_cut(logits, self.job.settings))
        self.tokens.append(token)
        if self.job.log_probs is not None:
            self._unsent.append(score(self.row, token, self.job.log_probs))
        return token

    def add(self, data: bytes) -> None:
        """Tell of the bytes that the last token adds."""
        text = self.text.add(data)
        if self.text.stopped or not self.text.holds:
            self._send(text)
        elif text:
            self.job.emit(Piece(text))

    def hide_end(self) -> None:
        """Don't tell the log-probability of the token that ended the answer: it is no part of the text. With an echoed
        prompt it is told, since its readers count on one token for each that was asked for.
        """
        del self._unsent[-1:]

    def end(self, finish: str) -> None:
        """Tell of the rest."""
        self._send(self.text.end())
        self.job.emit(End(finish, len(self.tokens)))

    def score_prompt(self, index: int, row: np.ndarray) -> None:
        """The log-probability of the prompt's token `index` from the logits before it."""
        assert self.job.log_probs is not None
        self._unsent.append(score(row, self.job.prompt[index], self.job.log_probs))

    def begin_prompt(self) -> None:
        """The prompt's first token, which nothing predicts."""
        self._unsent.append(TokenLogProb(self.job.prompt[0], None, []))

    def _send(self, text: str) -> None:
        if text or self._unsent:
            self.job.emit(Piece(text, self._unsent))
            self._unsent = []

    def _penalized(self, row: np.ndarray) -> np.ndarray:
        """The logits with biases and penalties; the row itself where there are none."""
        settings = self.job.settings
        if settings.biases:
            row = row.copy()
            row[list(settings.biases)] += np.array(list(settings.biases.values()), np.float32)
        if settings.repeat_penalty != 1:
            recent = np.unique((self.job.prompt + self.tokens)[-REPEAT_WINDOW:])
            row = row.copy()
            factor = np.where(row[recent] > 0, 1 / settings.repeat_penalty, settings.repeat_penalty)
            row[recent] *= factor.astype(np.float32)
        if (settings.frequency_penalty or settings.presence_penalty) and self.tokens:
            ids, counts = np.unique(self.tokens, return_counts=True)
            row = row.copy()
            penalty = counts * settings.frequency_penalty + settings.presence_penalty
            row[ids] -= penalty.astype(np.float32)
        return row


def score(row: np.ndarray, token: int, alternatives: int) -> TokenLogProb:
    """A token's log-probability in nats from a row [V] of logits, and the likeliest tokens with theirs."""
    top = float(row.max())
    norm = top + float(np.log(np.exp(row - row.max()).sum(dtype=np.float64)))
    count = min(alternatives, len(row))
    best = np.argpartition(-row, count - 1)[:count] if count else np.empty(0, np.int64)
    best = best[np.argsort(-row[best], kind="stable")]
    return TokenLogProb(token, float(row[token]) - norm, [(int(each), float(row[each]) - norm) for each in best])


def _cut(logits: np.ndarray, settings: SamplingSettings) -> np.ndarray:
    """Without the tail that top_k and min_p cut off."""
    if 0 < settings.top_k < len(logits):
        least = np.partition(logits, -settings.top_k)[-settings.top_k]
        logits = np.where(logits >= least, logits, np.float32(-np.inf))
    if settings.min_p > 0:
        least = logits.max() + np.float32(np.log(settings.min_p))
        logits = np.where(logits >= least, logits, np.float32(-np.inf))
    return logits

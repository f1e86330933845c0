"""Speed as llama-bench measures it: tokens/s of a prompt of random tokens, and of decoding one token after another.

Nothing is sampled and no text is made: the ids are random (fixed by a seed), each trial starts with an empty cache, and
a warm-up comes first. Each trial has its wall seconds and the processor seconds of all threads: where those fall far
below wall x threads, another program had the cores, and the trial says little.
"""

import resource
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from edgedistill.results.codec import JsonData, absent

SEED = 1234


@dataclass(frozen=True)
class TimedRun(JsonData):
    """One trial of one test: its speed, its wall seconds, and the processor seconds of all threads."""

    tokens_per_s: float
    wall_s: float
    cpu_s: float


@dataclass(frozen=True)
class SpeedTest(JsonData):
    """The trials of one test, each of so many tokens."""

    tokens: int
    trials: tuple[TimedRun, ...]


@dataclass(frozen=True)
class SpeedTests(JsonData):
    """Prefill (one call with all tokens) and decode (one call a token); None for a test of 0 tokens."""

    prefill: SpeedTest | None = absent()
    decode: SpeedTest | None = absent()


@dataclass(frozen=True)
class SpeedSettings:
    """Tokens of prefill and decode, trials of each, and warm-ups before them; 0 tokens leave a test out."""

    prefill: int = 512
    decode: int = 128
    repetitions: int = 5
    warmup: int = 1


def measure_speed(
    vocab: int, evaluate: Callable[[list[int]], object], reset: Callable[[], None], settings: SpeedSettings
) -> SpeedTests:
    """Time both tests.

    Args:
        vocab: ids are below this.
        evaluate: reads token ids, and returns when the logits are there.
        reset: empties the cache.
        settings: how much of each.
    """
    most = max(settings.prefill, settings.decode, 1)
    ids = np.random.Generator(np.random.PCG64(SEED)).integers(0, vocab, most).tolist()

    def prompt() -> None:
        evaluate(ids[: settings.prefill])

    def steps() -> None:
        for token in ids[: settings.decode]:
            evaluate([token])

    def test(tokens: int, work: Callable[[], None]) -> SpeedTest | None:
        if not tokens:
            return None
        for _ in range(settings.warmup):
            reset()
            work()
        return SpeedTest(tokens, tuple(_trial(tokens, work, reset) for _ in range(settings.repetitions)))

    return SpeedTests(prefill=test(settings.prefill, prompt), decode=test(settings.decode, steps))


def _trial(tokens: int, work: Callable[[], None], reset: Callable[[], None]) -> TimedRun:
    reset()
    cpu, wall = cpu_seconds(), time.perf_counter()
    work()
    wall_s, cpu_s = time.perf_counter() - wall, cpu_seconds() - cpu
    return TimedRun(tokens / wall_s, wall_s, cpu_s)


def cpu_seconds() -> float:
    """Processor seconds of this process, all threads, user and system."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime

"""Speed as llama-bench measures it: tokens/s of a prompt of random tokens, and of decoding one token after another.

Nothing is sampled and no text is made: the ids are random (fixed by a seed), each trial starts with an empty cache, and
a warm-up comes first. Each trial has its wall seconds and the processor seconds of all threads: where those fall far
below wall x threads, another program had the cores, and the trial says little.
"""

import resource
import time
from collections.abc import Callable
from typing import Any

import numpy as np

SEED = 1234


def measure_speed(
    vocab: int,
    evaluate: Callable[[list[int]], object],
    reset: Callable[[], None],
    *,
    prefill: int,
    decode: int,
    repetitions: int,
    warmup: int,
) -> dict[str, Any]:
    """Trials of prefill (one call with all tokens) and decode (one call a token); `evaluate` returns when the logits
    are there.

    Returns:
        {"prefill": {"tokens": n, "trials": [{"tokens_per_s", "wall_s", "cpu_s"}]}, "decode": the same}; 0 tokens leave
        a test out.
    """
    ids = np.random.Generator(np.random.PCG64(SEED)).integers(0, vocab, max(prefill, decode, 1)).tolist()

    def prompt() -> None:
        evaluate(ids[:prefill])

    def steps() -> None:
        for token in ids[:decode]:
            evaluate([token])

    found = {}
    for name, tokens, work in (("prefill", prefill, prompt), ("decode", decode, steps)):
        if not tokens:
            continue
        for _ in range(warmup):
            reset()
            work()
        found[name] = {"tokens": tokens, "trials": [_trial(tokens, work, reset) for _ in range(repetitions)]}
    return found


def _trial(tokens: int, work: Callable[[], None], reset: Callable[[], None]) -> dict[str, float]:
    reset()
    cpu, wall = cpu_seconds(), time.perf_counter()
    work()
    wall_s, cpu_s = time.perf_counter() - wall, cpu_seconds() - cpu
    return {"tokens_per_s": tokens / wall_s, "wall_s": wall_s, "cpu_s": cpu_s}


def cpu_seconds() -> float:
    """Processor seconds of this process, all threads, user and system."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime

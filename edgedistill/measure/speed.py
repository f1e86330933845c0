"""Speed and memory of a packed file in its runtime: a summary of the runtime's own trials.

Files that are compared are timed in turn, one short trial of each, and that several times over: minutes apart, another
program, a hot processor or a neighbour on the same machine changes speeds more than a number format does. In turn, what
disturbs one disturbs all, and the ratio of two files in one round means something. `bench`, which looks at one file
alone, takes its trials at one go.
"""

import statistics
from collections.abc import Sequence
from typing import Any

from edgedistill.machine import load_average
from edgedistill.runtimes.base import Runtime

# Of the processor time that the threads could have had: below it, something else held the cores during a trial.
BUSY_BELOW = 0.7
# Enough to touch every weight and to allocate what a trial needs.
WARM_PREFILL, WARM_DECODE = 64, 8
TESTS = ("prefill", "decode")

# What `time_once` gives: prefill and decode, each {tokens_per_s, wall_s, cpu_s}; load_s, peak_rss_bytes, threads,
# load_average.
Trial = dict[str, Any]


def measure_speed(model: Runtime, prefill: int, decode: int, repetitions: int) -> dict[str, Any]:
    """Tokens/s of prefill and decode (mean, median, std and trials), seconds to load, peak bytes of the runtime's
    process.
    """
    before = load_average()
    found = model.speed(prefill=prefill, decode=decode, repetitions=repetitions)
    pairs = zip(found["prefill"]["trials"], found["decode"]["trials"], strict=True)
    return summary([{"prefill": one, "decode": other} | _conditions(model, before) for one, other in pairs])


def time_once(model: Runtime, prefill: int, decode: int) -> Trial:
    """One trial of each after a short warm-up; a round calls this with every file, freshly loaded."""
    before = load_average()
    model.speed(prefill=min(prefill, WARM_PREFILL), decode=min(decode, WARM_DECODE), repetitions=1, warmup=0)
    found = model.speed(prefill=prefill, decode=decode, repetitions=1, warmup=0)
    return {name: found[name]["trials"][0] for name in TESTS} | _conditions(model, before)


def summary(trials: Sequence[Trial]) -> dict[str, Any]:
    """Trials of one file as a report has them: spread of the speeds in the order of the trials, and the conditions."""
    both = [trial[name] for trial in trials for name in TESTS]
    shares = [one["cpu_s"] / (one["wall_s"] * trials[0]["threads"]) for one in both]
    loads = [trial["load_average"] for trial in trials if trial["load_average"] is not None]
    return {
        **{f"{name}_tokens_per_s": _spread([trial[name]["tokens_per_s"] for trial in trials]) for name in TESTS},
        "load_s": statistics.median(trial["load_s"] for trial in trials),
        "peak_rss_bytes": max(trial["peak_rss_bytes"] for trial in trials),
        "threads": trials[0]["threads"],
        "load_average": statistics.fmean(loads) if loads else None,
        "busy": statistics.median(shares) < BUSY_BELOW,
    }


def _conditions(model: Runtime, load: float | None) -> dict[str, Any]:
    return {
        "load_s": model.info().load_s,
        "peak_rss_bytes": model.peak_rss_bytes(),
        "threads": model.threads,
        "load_average": load,
    }


def _spread(trials: list[float]) -> dict[str, Any]:
    std = statistics.stdev(trials) if len(trials) > 1 else None
    return {"mean": statistics.fmean(trials), "median": statistics.median(trials), "std": std, "trials": trials}

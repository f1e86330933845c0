"""Speed and memory of a packed file in its runtime: a summary of the runtime's own trials."""

import statistics
from typing import Any

from edgedistill.machine import load_average
from edgedistill.runtimes.base import Runtime

# Of the processor time that the threads could have had: below it, something else held the cores during a trial.
BUSY_BELOW = 0.7


def measure_speed(model: Runtime, prefill: int, decode: int, repetitions: int) -> dict[str, Any]:
    """Tokens/s of prefill and decode (mean, std and trials), seconds to load, peak bytes of the runtime's process."""
    before = load_average()
    found = model.speed(prefill=prefill, decode=decode, repetitions=repetitions)
    speed: dict[str, Any] = {
        f"{name}_tokens_per_s": _spread([trial["tokens_per_s"] for trial in found[name]["trials"]]) for name in ("prefill", "decode")
    }
    trials = found["prefill"]["trials"] + found["decode"]["trials"]
    shares = [trial["cpu_s"] / (trial["wall_s"] * model.threads) for trial in trials]
    return speed | {
        "load_s": model.info().load_s,
        "peak_rss_bytes": model.peak_rss_bytes(),
        "threads": model.threads,
        "load_average": before,
        "busy": statistics.median(shares) < BUSY_BELOW,
    }


def _spread(trials: list[float]) -> dict[str, Any]:
    return {"mean": statistics.fmean(trials), "std": statistics.stdev(trials) if len(trials) > 1 else None, "trials": trials}

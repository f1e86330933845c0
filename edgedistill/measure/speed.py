"""Speed and memory of a packed file in its runtime: a summary of the runtime's own trials.

Files that are compared are timed in turn, one short trial of each, and that several times over: minutes apart, another
program, a hot processor or a neighbour on the same machine changes speeds more than a number format does. In turn, what
disturbs one disturbs all, and the ratio of two files in one round means something. What a file leaves behind (a hot
processor, memory in pieces) meets the next one, so each round has another order. `bench`, which looks at one file
alone, takes its trials at one go.
"""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from edgedistill.cgroup import cpu_quota
from edgedistill.config.recipe import Recipe
from edgedistill.machine import load_average
from edgedistill.measure.kept import keep_typed, read_json, write_whole
from edgedistill.measure.load import context_of, open_runtime, threads_of
from edgedistill.progress import Progress
from edgedistill.results.codec import JsonData
from edgedistill.results.row import Artifact, Speed, Timing
from edgedistill.runtimes.base import Runtime
from edgedistill.runtimes.speed import SpeedSettings, SpeedTests, TimedRun

SPEEDS = "speeds.json"
# Share of the processor time that the threads could have had: below it, another program held the cores.
BUSY_BELOW = 0.7
# Enough to touch every weight and to allocate what a trial needs.
WARM_PREFILL, WARM_DECODE = 64, 8


@dataclass(frozen=True)
class Trial(JsonData):
    """One timed run of prefill and of decode, and the conditions: seconds to load the file, the peak memory of the
    runtime's process, its threads, and the machine's load average before the run.
    """

    prefill: TimedRun
    decode: TimedRun
    load_s: float
    peak_rss_bytes: int
    threads: int
    load_average: float | None


def measure_speed(model: Runtime, settings: SpeedSettings) -> Speed:
    """All trials of one file at one go."""
    load = load_average()
    return summary(_trials(model, model.speed(settings), load))


def time_once(model: Runtime, prefill: int, decode: int) -> Trial:
    """One trial of each after a short warm-up; a round calls this with every file, freshly loaded."""
    load = load_average()
    warm = SpeedSettings(min(prefill, WARM_PREFILL), min(decode, WARM_DECODE), repetitions=1, warmup=0)
    model.speed(warm)
    tests = model.speed(replace(warm, prefill=prefill, decode=decode))
    return _trials(model, tests, load)[0]


def time_in_turn(files: Sequence[Callable[[int], Trial]], rounds: int, progress: Progress) -> list[Speed]:
    """Each file's speed from `rounds` rounds of one trial of each file.

    Args:
        files: for each file a function that loads it anew and times it once; it is given the round's number.
        rounds: trials of each file.
        progress: where it is shown.
    """
    trials: list[list[Trial]] = [[] for _ in files]
    progress.start("time the files in turn", rounds * len(files), "trials")
    for number in range(rounds):
        for index in round_order(len(files), number):
            trials[index].append(files[index](number))
            progress.advance(1)
    progress.finish()
    return [summary(of_file) for of_file in trials]


def round_order(files: int, number: int) -> list[int]:
    """The order of the files in a round: a row of Williams' Latin square, so that from round to round most files come
    behind other ones. Squares of an odd size come in pairs, the second backwards.

    Source: E. J. Williams, 1949, Experimental designs balanced for the estimation of residual effects of treatments.
    """
    zigzag = [(step + 1) // 2 if step % 2 else -step // 2 for step in range(files)]
    row = [(index + number) % files for index in zigzag]
    return row[::-1] if files % 2 and number % 2 else row


def time_files(artifacts: Sequence[Artifact], recipe: Recipe, work: Path, progress: Progress) -> None:
    """Time packed files in turn, `measure.repetitions` rounds of all, and write `speeds.json` ({label: speed}) to
    `work`.

    What a killed start has timed isn't timed again.
    """
    settings = recipe.measure

    def time_file(artifact: Artifact) -> Trial:
        with open_runtime(artifact.runtime, artifact.path, threads_of(recipe), context_of(recipe)) as model:
            return time_once(model, settings.prefill, settings.decode)

    def trial(artifact: Artifact, number: int) -> Trial:
        path = work / f"round-{number:02d}-{artifact.sha256[:16]}.json"
        return keep_typed(Trial, path, partial(time_file, artifact))

    speeds = time_in_turn([partial(trial, artifact) for artifact in artifacts], settings.repetitions, progress)
    by_label = {artifact.label: speed.to_json() for artifact, speed in zip(artifacts, speeds, strict=True)}
    write_whole(work / SPEEDS, by_label)


def load_speeds(folder: Path) -> dict[str, Speed]:
    """What `time_files` wrote, by label."""
    return {label: Speed.from_json(speed) for label, speed in read_json(folder / SPEEDS).items()}


def summary(trials: Sequence[Trial]) -> Speed:
    """Trials of one file as a report has them: the speeds in the order of the trials, and the conditions."""
    threads = trials[0].threads
    runs = [run for trial in trials for run in (trial.prefill, trial.decode)]
    cores = min(threads, cpu_quota() or threads)  # what a container withholds, no other program has
    shares = [run.cpu_s / (run.wall_s * cores) for run in runs]
    loads = [trial.load_average for trial in trials if trial.load_average is not None]
    return Speed(
        prefill_tokens_per_s=_timing([trial.prefill.tokens_per_s for trial in trials]),
        decode_tokens_per_s=_timing([trial.decode.tokens_per_s for trial in trials]),
        load_s=statistics.median(trial.load_s for trial in trials),
        peak_rss_bytes=max(trial.peak_rss_bytes for trial in trials),
        threads=threads,
        load_average=statistics.fmean(loads) if loads else None,
        busy=statistics.median(shares) < BUSY_BELOW,
    )


def _trials(model: Runtime, tests: SpeedTests, load: float | None) -> list[Trial]:
    """A runtime's trials, each with the conditions; both tests were run."""
    assert tests.prefill is not None
    assert tests.decode is not None
    load_s, peak = model.info().load_s, model.peak_rss_bytes()
    pairs = zip(tests.prefill.trials, tests.decode.trials, strict=True)
    return [Trial(prefill, decode, load_s, peak, model.threads, load) for prefill, decode in pairs]


def _timing(speeds: list[float]) -> Timing:
    std = statistics.stdev(speeds) if len(speeds) > 1 else None
    return Timing(statistics.fmean(speeds), statistics.median(speeds), std, tuple(speeds))

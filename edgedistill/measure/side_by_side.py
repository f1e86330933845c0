"""Files that people have, measured side by side: each one's quality against one reference, the speeds of all in turn,
and which of them no other beats. Nothing is trained or written.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from edgedistill.errors import InputError
from edgedistill.machine import usable_cores
from edgedistill.measure.bench import WINDOW, BenchSettings, bench, runtime_of
from edgedistill.measure.row import open_runtime
from edgedistill.measure.speed import Trial, summary, time_once
from edgedistill.models.facts import read_facts
from edgedistill.progress import Progress
from edgedistill.results.front import LEAST_KL, in_steps, unbeaten

RULE = "the largest file whose weights are floats (f32, f16 or bf16), else the largest"


def choose_reference(files: Sequence[Path]) -> Path:
    """The file that the others are compared with where none is named: see RULE.

    Raises:
        InputError: a file isn't a .gguf file, or is of a family that can't be read as a reference.
    """
    sizes: dict[Path, tuple[bool, int]] = {}
    for path in files:
        if path.suffix != ".gguf":
            raise InputError(f"{path}: only a .gguf file can be the reference of its own accord; give --reference")
        floats = read_facts(path, str(path)).quantized is None
        sizes[path] = (floats, path.stat().st_size)
    return max(sizes, key=lambda path: sizes[path])


def bench_files(
    files: Sequence[Path],
    text: Path | None,
    reference: Path | None,
    settings: BenchSettings,
    scratch: Path,
    progress: Progress,
) -> list[dict[str, Any]]:
    """What `bench` gives of each file, in their order, with the speeds of all taken in turn, and `front`: whether no
    other file is at least as small, fast and near to the reference.

    Args:
        files: .gguf files and ONNX folders, two or more.
        text, reference, settings, scratch, progress: as `bench` takes them, for all files.
    Raises:
        InputError: as `bench`; a file is named twice.
    """
    for path in files:
        runtime_of(path)
    if len({path.resolve() for path in files}) < len(files):
        raise InputError("a file is named twice; name each once")
    untimed = replace(settings, timed=False)
    results = [bench(path, text, reference, untimed, scratch, progress) for path in files]
    for result, speed in zip(results, _speeds(files, settings, progress), strict=True):
        result["speed"] = speed
    front = unbeaten([_key(result) for result in results])
    for index, result in enumerate(results):
        result["front"] = index in front
    return results


def _speeds(files: Sequence[Path], settings: BenchSettings, progress: Progress) -> list[dict[str, Any]]:
    """Rounds of one trial of each file, freshly loaded."""
    threads = settings.threads or usable_cores()
    context = max(settings.prefill, settings.decode, WINDOW) + 1
    trials: list[list[Trial]] = [[] for _ in files]
    progress.start("time the files in turn", settings.repetitions * len(files), "trials")
    for _ in range(settings.repetitions):
        for path, of_file in zip(files, trials, strict=True):
            with open_runtime(runtime_of(path), path, threads, context) as model:
                of_file.append(time_once(model, settings.prefill, settings.decode))
            progress.advance(1)
    progress.finish()
    return [summary(of_file) for of_file in trials]


def kl_of(result: dict[str, Any]) -> float | None:
    """Mean KL to the reference over the texts, in nats per token; None without a reference."""
    kls = [quality["kl_reference_mean"] for quality in (result["quality"] or {}).values() if len(quality) > 2]
    return sum(kls) / len(kls) if kls else None


def _key(result: dict[str, Any]) -> tuple[float | None, ...]:
    """Size, decoding speed and KL in steps that a difference must reach, higher always better."""
    decode, kl = result["speed"]["decode_tokens_per_s"]["mean"], kl_of(result)
    nearness = None if kl is None else -in_steps(max(kl, LEAST_KL), "kl")
    return (-in_steps(result["file_bytes"], "file_bytes"), in_steps(decode, "decode_tokens_per_s"), nearness)

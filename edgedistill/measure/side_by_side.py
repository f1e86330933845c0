"""Files that people have, measured side by side: each one's quality against one reference, the speeds of all in turn,
and which of them no other beats. Nothing is trained or written.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from edgedistill.errors import InputError
from edgedistill.machine import usable_cores
from edgedistill.measure.bench import BenchSettings, bench, check_lengths, check_memory, runtime_of
from edgedistill.measure.load import open_runtime
from edgedistill.measure.speed import Trial, time_in_turn, time_once
from edgedistill.models.facts import read_facts
from edgedistill.progress import Progress
from edgedistill.results.bench import FileFigures
from edgedistill.results.front import LEAST_KL, Key, in_steps, unbeaten
from edgedistill.results.row import LLAMA_CPP

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
) -> list[FileFigures]:
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
    for path in files:
        if runtime_of(path) == LLAMA_CPP:
            check_memory(path, settings)
    untimed = replace(settings, timed=False)
    results = [bench(path, text, reference, untimed, scratch, progress) for path in files]
    trials = [partial(_trial, path, settings) for path in files]
    speeds = time_in_turn(trials, settings.repetitions, progress)
    timed = [replace(result, speed=speed) for result, speed in zip(results, speeds, strict=True)]
    front = unbeaten([_key(result) for result in timed])
    return [replace(result, front=index in front) for index, result in enumerate(timed)]


def _trial(path: Path, settings: BenchSettings, _round: int) -> Trial:
    """One trial of a file, freshly loaded."""
    threads = settings.threads or usable_cores()
    with open_runtime(runtime_of(path), path, threads, settings.context) as model:
        trained = model.info().n_ctx_train
        check_lengths(path, settings, trained)
        return time_once(model, *settings.lengths(trained))


def _key(result: FileFigures) -> Key:
    """Size, decoding speed and KL in steps that a difference must reach, higher always better."""
    assert result.speed is not None
    decode = result.speed.decode.mean
    assert decode is not None
    nearness = None if result.kl is None else -in_steps(max(result.kl, LEAST_KL), "kl")
    return (-in_steps(result.file_bytes, "file_bytes"), in_steps(decode, "decode_tokens_per_s"), nearness)

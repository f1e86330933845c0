"""Measure one packed file on its own: speed and memory, perplexity on a text, KL to a reference model."""

import codecs
import hashlib
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from edgedistill.config.text_file import refuse_rows
from edgedistill.data.example import Example, counted_from
from edgedistill.data.prose import cut_ids
from edgedistill.errors import DoesNotFitError, InputError
from edgedistill.machine import free_memory_bytes, machine_facts, usable_cores
from edgedistill.measure.artifacts import packed_bytes, packed_sha256
from edgedistill.measure.judge import Judge, Reference, limit_documents, make_reference
from edgedistill.measure.load import open_runtime
from edgedistill.measure.quality import measure_quality
from edgedistill.measure.speed import measure_speed
from edgedistill.models.facts import read_facts
from edgedistill.models.gguf_file import read_header
from edgedistill.models.gguf_model import gguf_shape
from edgedistill.models.tokenizer import load_tokenizer
from edgedistill.progress import Progress
from edgedistill.reading import require_regular
from edgedistill.results.bench import BENCH_SCHEMA, REFERENCE, FileFigures
from edgedistill.results.row import LLAMA_CPP, ONNXRUNTIME, Quality, Speed
from edgedistill.runtimes.base import Runtime
from edgedistill.runtimes.speed import SpeedSettings
from edgedistill.show import show_bytes

SENTENCE = "What two tokenizers make of these 26 words and 1,024 signs (plain ones) tells them apart, but for twins."
READ_BYTES = 2**20  # of a text, at first
PREFILL, DECODE = 512, 128  # tokens that are timed
WINDOW = 512  # tokens of one piece of the text; llama-perplexity's default context


@dataclass(frozen=True)
class BenchSettings:
    """What to measure. Tokens of prefill and decode (None: PREFILL and DECODE, or what the model was trained for where
    that is less), trials, threads (None: all), tokens of the text to judge, and whether the file is timed.
    """

    prefill: int | None = None
    decode: int | None = None
    repetitions: int = 5
    threads: int | None = None
    tokens: int = 4096
    timed: bool = True

    @property
    def context(self) -> int:
        """Tokens that the runtime must hold."""
        return max(self.prefill or PREFILL, self.decode or DECODE, WINDOW) + 1

    def lengths(self, trained: int) -> tuple[int, int]:
        """Tokens of prefill and of decode for a model that was trained for so many; 0 where it doesn't say."""
        most = trained or PREFILL
        return self.prefill or min(PREFILL, most), self.decode or min(DECODE, most)


def bench(
    path: Path, text: Path | None, reference: Path | None, settings: BenchSettings, scratch: Path, progress: Progress
) -> FileFigures:
    """Speed, memory and quality of a .gguf file or an ONNX folder.

    Args:
        path: the file or folder.
        text: a UTF-8 text to judge on; None measures speed alone.
        reference: a model folder or .gguf file whose float weights the logits are compared with; needs `text`.
        settings: see `BenchSettings`.
        scratch: a folder for the reference's hidden states.
        progress: where it is shown.
    Raises:
        InputError: it is no packed file, the text is missing or too short, a reference came without a text, or it has
            other words.
    """
    runtime = runtime_of(path)
    if text is not None:
        read_text(text)  # before the model is loaded and timed
    if reference is not None and text is None:
        raise InputError("--reference compares logits on a text; give --text too")
    threads = settings.threads or usable_cores()
    speed: Speed | None = None
    quality: dict[str, Quality] | None = None
    if runtime == LLAMA_CPP and settings.timed:
        check_memory(path, settings)
    progress.start(f"bench {path.name}", 0, "tokens")
    with open_runtime(runtime, path, threads, settings.context) as model:
        version = model.info().version
        if settings.timed:
            trained = model.info().n_ctx_train
            check_lengths(path, settings, trained)
            speed = measure_speed(model, SpeedSettings(*settings.lengths(trained), settings.repetitions))
        if text is not None:
            judge = Judge(text.name, str(text), _windows(model, text, settings.tokens))
            references = {}
            if reference is not None:
                references[REFERENCE] = _reference(model, path, reference, judge, scratch, progress)
            progress.start(f"judge {path.name} on {text.name}", judge.tokens, "tokens")
            quality = measure_quality(model, [judge], references, progress)
            if speed is not None:
                speed = replace(speed, peak_rss_bytes=model.peak_rss_bytes())
    progress.finish()
    return FileFigures(
        schema=BENCH_SCHEMA,
        file=str(path),
        sha256=packed_sha256(path),
        file_bytes=packed_bytes(path),
        runtime=runtime,
        runtime_version=version,
        machine=machine_facts(),
        speed=speed,
        quality=quality,
    )


def check_lengths(path: Path, settings: BenchSettings, trained: int) -> None:
    """Refuse to time what the model wasn't trained for: such a speed says nothing, and ONNX files have no angles for
    it.

    Args:
        trained: tokens; 0 where the file doesn't say.
    Raises:
        InputError: the prompt or the answer is longer.
    """
    for option, tokens in (("--prefill", settings.prefill), ("--decode", settings.decode)):
        if tokens is not None and 0 < trained < tokens:
            raise InputError(f"{option} is {tokens}; {path} was trained for {trained} tokens, choose at most that")


def check_memory(path: Path, settings: BenchSettings) -> None:
    """Refuse a context that a .gguf file says it can't have, or that this machine has no memory for, before it is
    allocated.

    Raises:
        InputError: as `check_lengths`.
        DoesNotFitError: weights and cache are larger than what is free.
    """
    try:
        header = read_header(path)
    except InputError:
        return  # one of several parts, or a damaged file: llama.cpp says what it makes of it
    architecture = header.get("general.architecture", str, "")
    check_lengths(path, settings, header.get(f"{architecture}.context_length", int, 0))
    try:
        cache = gguf_shape(header).kv_bytes(settings.context)
    except InputError:
        return  # a family that isn't ours, which llama.cpp may know
    free = free_memory_bytes()
    if (needed := packed_bytes(path) + cache) > free:
        raise DoesNotFitError(
            f"{path}: {show_bytes(needed)} for its weights and the cache of {settings.context} tokens; "
            f"{show_bytes(free)} of memory are free. Choose a smaller --prefill."
        )


def _reference(
    model: Runtime, path: Path, reference: Path, judge: Judge, scratch: Path, progress: Progress
) -> Reference:
    """The reference's view of a judge, from `scratch` where another file's bench computed it."""
    _check_same_words(model, path, reference)
    cache = scratch / f"reference-{_words_hash(judge)}.safetensors"
    return make_reference(reference, [judge], cache, reference.name, progress)


def runtime_of(path: Path) -> str:
    """The runtime that a packed file belongs to.

    Raises:
        InputError: it is neither a .gguf file nor an ONNX folder.
    """
    if path.is_file() and path.suffix == ".gguf":
        return LLAMA_CPP
    if path.is_dir() and (path / "onnx").is_dir():
        return ONNXRUNTIME
    if not path.exists():
        raise InputError(f"{path}: there is no such file or folder; name a .gguf file or an ONNX folder")
    raise InputError(f"{path}: neither a .gguf file nor an ONNX folder (one with onnx/ in it); name one of these")


def read_text(path: Path, most_bytes: int = READ_BYTES) -> str:
    """A text to judge on, or its beginning of about `most_bytes`.

    Raises:
        InputError: it can't be read, isn't UTF-8, or holds rows.
    """
    refuse_rows("--text", path)
    try:
        require_regular(path)
        with path.open("rb") as file:
            content = file.read(most_bytes)
            whole = not file.read(1)
        # The last character of a beginning may be cut off.
        return codecs.getincrementaldecoder("utf-8-sig")().decode(content, final=whole)
    except OSError as error:
        raise InputError(f"--text {path}: it can't be read ({error.strerror}); name a text file") from None
    except UnicodeDecodeError:
        raise InputError(f"--text {path}: it isn't text in UTF-8; name a text file") from None


def _windows(model: Runtime, text: Path, tokens: int) -> tuple[Example, ...]:
    """A text as pieces of WINDOW tokens, judged from their second token on, each behind a bos token where the file asks
    for one.
    """
    ids, info = _ids(model, text, tokens), model.info()
    if len(ids) < 2:
        raise InputError(f"{text}: {len(ids)} tokens are too few to judge on; it needs at least 2")
    start = [info.bos_id] if info.add_bos and info.bos_id >= 0 else []
    return limit_documents(
        [counted_from(torch.tensor(piece, dtype=torch.int32)) for piece in cut_ids(ids, start, WINDOW)], tokens
    )


def _ids(model: Runtime, text: Path, tokens: int) -> list[int]:
    """The ids of a text, or of so much of a long one that they are `tokens` and a window more."""
    most = tokens + WINDOW
    count, size = max(READ_BYTES, 8 * most), text.stat().st_size
    while True:
        ids = model.tokenize(read_text(text, count), special=False)
        if count >= size or len(ids) > most:
            return ids
        count *= 4


def _words_hash(judge: Judge) -> str:
    """A hash of the tokens that a text is cut into: files that cut it alike share the reference's view of it."""
    ids = torch.cat([document.tokens for document in judge.documents])
    lengths = [len(document.tokens) for document in judge.documents]
    return hashlib.sha256(repr(lengths).encode() + ids.numpy().tobytes()).hexdigest()[:16]


def _check_same_words(model: Runtime, path: Path, reference: Path) -> None:
    """Distributions can be compared where ids mean the same.

    Raises:
        InputError: the reference has another vocabulary or another tokenizer.
    """
    facts = read_facts(reference, str(reference))
    rows, words = (facts.shape.vocab, model.info().vocab), facts.tokenizer.tokens
    # Rows behind the last word are padding, of which two models with one tokenizer may have more or fewer.
    if rows[0] != rows[1] and min(rows) < words:
        raise InputError(
            f"--reference {reference}: its vocabulary has {words} words, {path}'s {rows[1]}; name "
            "the model it was made from"
        )
    theirs = load_tokenizer(reference)(SENTENCE, add_special_tokens=False)["input_ids"]
    if theirs != model.tokenize(SENTENCE, special=False):
        raise InputError(
            f"--reference {reference}: its tokenizer isn't that of {path}; name the model it was made from"
        )

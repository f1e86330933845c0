"""Teachers that write: one in llama.cpp continues many prompts at once and returns its distribution at each token.

It returns the K likeliest tokens at every position of prompt and continuation, at temperature 1 over the full
vocabulary, whatever the text was sampled at. A teacher of any other format is written out as a GGUF file first.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from edgedistill.data.example import Example
from edgedistill.runtimes.llama import LlamaCpp, widen
from edgedistill.runtimes.sampling import BatchSettings


@dataclass(frozen=True)
class Continuation:
    """One continuation.

    Attributes:
        tokens: its ids, the stop token included.
        finish: "stop" or "length".
        ids, log_probs: [P − 1 + n, K] int32 and float16: row t is what could follow token t of prompt + continuation.
            None unless asked for.
    """

    tokens: list[int]
    finish: str
    ids: Tensor | None
    log_probs: Tensor | None


class Writer(AbstractContextManager["Writer"], Protocol):
    """A teacher that writes."""

    def write(
        self, prompts: Sequence[Sequence[int]], max_new: int, settings: BatchSettings, seed: int
    ) -> list[Continuation]:
        """Continue each prompt. The same arguments give the same texts, whatever was asked before.

        Args:
            prompts: token ids, each at least one.
            max_new: tokens at most.
            settings: its `top_k` log-probabilities are returned at the prompt's positions too.
            seed: of the first prompt; each next one has the next number.
        """
        ...


class LlamaWriter:
    """A GGUF teacher in llama.cpp."""

    def __init__(self, path: Path, threads: int, context: int, parallel: int, temporary: Path | None = None) -> None:
        """Load the file. `temporary` is removed when the writer ends."""
        self._temporary = temporary
        self._model = LlamaCpp(path, threads=threads, context=context, parallel=parallel)

    def write(
        self, prompts: Sequence[Sequence[int]], max_new: int, settings: BatchSettings, seed: int
    ) -> list[Continuation]:
        """See `Writer.write`."""
        settings = replace(settings, prompt_logprobs=settings.top_k > 0)
        seeds = [seed + number for number in range(len(prompts))]
        results = self._model.generate_batch(prompts, max_new, settings, seeds)
        written = []
        for result in results:
            ids = log_probs = None
            if result.top_ids is not None and result.prompt_top_ids is not None:
                ids = torch.cat([torch.from_numpy(result.prompt_top_ids), torch.from_numpy(result.top_ids)])
                log_probs = torch.cat([torch.from_numpy(result.prompt_top_logp), torch.from_numpy(result.top_logp)])
            written.append(Continuation(result.tokens, result.finish, ids, log_probs))
        return written

    def __enter__(self) -> "LlamaWriter":
        return self

    def __exit__(self, *_: object) -> None:
        self._model.close()
        if self._temporary is not None:
            self._temporary.unlink(missing_ok=True)


def read_signal(writer: Writer, example: Example, top_k: int) -> Example:
    """An example with the teacher's log-probabilities at each token that counts, instead of its own signal."""
    (read,) = read_signals(writer, [example], top_k)
    return read


def read_signals(writer: Writer, examples: Sequence[Example], top_k: int) -> list[Example]:
    """The same of several examples, which the teacher reads at once."""
    # One token more than each text is generated and dropped: only the signal of the text's own positions counts.
    texts = [example.tokens.tolist() for example in examples]
    read = writer.write(texts, 1, BatchSettings(stop_ids=(), top_k=top_k), seed=0)
    with_signals = []
    for example, continuation in zip(examples, read, strict=True):
        if continuation.ids is None or continuation.log_probs is None:
            raise ValueError(f"a writer that was asked for {top_k} log-probabilities gave none")
        rows = example.positions
        with_signals.append(example.with_signal(ids=continuation.ids[rows], log_probs=continuation.log_probs[rows]))
    return with_signals


def open_writer(teacher: Path, threads: int, context: int, parallel: int, work: Path) -> LlamaWriter:
    """The writer of a GGUF file, with `context` tokens of room for each of `parallel` texts.

    Where this processor multiplies bf16 itself, a bf16 copy writes: twice as fast, and for a quantized teacher nearer
    to its own weights than llama.cpp's products with 8-bit activations. The copy lies in `work` while the writer lives.
    """
    with LlamaCpp(teacher, threads=threads, context=32, parallel=1) as probe:
        fast = "AVX512_BF16" in probe.info().features
    if not fast:
        return LlamaWriter(teacher, threads, context, parallel)
    wide = work / "teacher-bf16.gguf"
    widen(teacher, wide, "bf16", threads)
    return LlamaWriter(wide, threads, context, parallel, temporary=wide)

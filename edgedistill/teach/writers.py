"""Who writes: a teacher that continues many prompts at once and says what it thought of each token.

A GGUF teacher runs in llama.cpp, any other in transformers. Both return the K likeliest tokens at every position of
prompt and continuation, at temperature 1 over the full vocabulary, whatever the text was sampled at.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from edgedistill.models.load import load_model
from edgedistill.models.tokenizer import load_tokenizer
from edgedistill.runtimes.llama import LlamaCpp, widen


@dataclass(frozen=True)
class Written:
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
        self,
        prompts: Sequence[Sequence[int]],
        max_new: int,
        *,
        temperature: float,
        top_p: float,
        seed: int,
        stop_ids: Sequence[int],
        top_k: int,
    ) -> list[Written]:
        """Continue each prompt. The same arguments give the same texts, whatever was asked before.

        Args:
            prompts: token ids, each at least one.
            max_new: tokens at most.
            temperature: 0 takes the likeliest.
            seed: of the first prompt; each next one has the next number.
            stop_ids: tokens that end a text.
            top_k: log-probabilities to return at each position; 0 for none.
        """
        ...


class LlamaWriter:
    """A GGUF teacher in llama.cpp."""

    def __init__(self, path: Path, threads: int, context: int, parallel: int, temporary: Path | None = None) -> None:
        """Load the file. `temporary` is removed when the writer ends."""
        self._temporary = temporary
        self._model = LlamaCpp(path, threads=threads, context=context, parallel=parallel)

    def write(
        self,
        prompts: Sequence[Sequence[int]],
        max_new: int,
        *,
        temperature: float,
        top_p: float,
        seed: int,
        stop_ids: Sequence[int],
        top_k: int,
    ) -> list[Written]:
        """See `Writer.write`."""
        results = self._model.generate_batch(
            prompts,
            max_new,
            temperature=temperature,
            top_p=top_p,
            seeds=[seed + i for i in range(len(prompts))],
            stop_ids=stop_ids,
            top_k=top_k,
            prompt_logprobs=top_k > 0,
        )
        written = []
        for result in results:
            ids = log_probs = None
            if result.top_ids is not None and result.prompt_top_ids is not None:
                ids = torch.cat([torch.from_numpy(result.prompt_top_ids), torch.from_numpy(result.top_ids)])
                log_probs = torch.cat([torch.from_numpy(result.prompt_top_logp), torch.from_numpy(result.top_logp)])
            written.append(Written(result.tokens, result.finish, ids, log_probs))
        return written

    def __enter__(self) -> "LlamaWriter":
        return self

    def __exit__(self, *_: object) -> None:
        self._model.close()
        if self._temporary is not None:
            self._temporary.unlink(missing_ok=True)


class TransformersWriter:
    """A teacher of any other format, in transformers: `parallel` texts at a time, padded on the left."""

    def __init__(self, path: Path, parallel: int) -> None:
        self._model = load_model(path)
        self._parallel = parallel
        tokenizer = load_tokenizer(path)
        self._pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id

    def write(
        self,
        prompts: Sequence[Sequence[int]],
        max_new: int,
        *,
        temperature: float,
        top_p: float,
        seed: int,
        stop_ids: Sequence[int],
        top_k: int,
    ) -> list[Written]:
        """See `Writer.write`."""
        sampling = {"do_sample": True, "temperature": temperature, "top_p": top_p, "top_k": 0} if temperature > 0 else {"do_sample": False}
        limits = {"max_new_tokens": max_new, "pad_token_id": self._pad, "eos_token_id": list(stop_ids)}
        written: list[Written] = []
        for start in range(0, len(prompts), self._parallel):
            torch.manual_seed(seed + start)
            written += self._write_together(prompts[start : start + self._parallel], stop_ids, top_k, {**sampling, **limits})
        return written

    @torch.no_grad()
    def _write_together(
        self, prompts: Sequence[Sequence[int]], stop_ids: Sequence[int], top_k: int, settings: dict[str, Any]
    ) -> list[Written]:
        width = max(len(prompt) for prompt in prompts)
        ids = torch.full((len(prompts), width), self._pad)
        mask = torch.zeros_like(ids)
        for row, prompt in enumerate(prompts):
            ids[row, width - len(prompt) :] = torch.tensor(list(prompt))
            mask[row, width - len(prompt) :] = 1
        model: Any = self._model  # whose mixin annotates generate for another class
        rows = model.generate(input_ids=ids, attention_mask=mask, **settings)
        return [self._finish(list(prompt), rows[row, width:].tolist(), stop_ids, top_k) for row, prompt in enumerate(prompts)]

    def _finish(self, prompt: list[int], tokens: list[int], stop_ids: Sequence[int], top_k: int) -> Written:
        end = next((i for i, token in enumerate(tokens) if token in stop_ids), None)
        finish = "length" if end is None else "stop"
        tokens = tokens if end is None else tokens[: end + 1]
        if not top_k:
            return Written(tokens, finish, None, None)
        logits = self._model(input_ids=torch.tensor([prompt + tokens[:-1]]), use_cache=False).logits[0].float()
        best = torch.log_softmax(logits, -1).topk(top_k, sorted=True)
        return Written(tokens, finish, best.indices.to(torch.int32), best.values.half())

    def __enter__(self) -> "TransformersWriter":
        return self

    def __exit__(self, *_: object) -> None:
        del self._model


def open_writer(teacher: Path, threads: int, context: int, parallel: int, work: Path) -> "LlamaWriter | TransformersWriter":
    """The writer that a teacher needs.

    A quantized GGUF teacher is asked through a bf16 copy where this processor multiplies bf16 itself: twice as fast, and
    nearer to the teacher's own weights than llama.cpp's products with 8-bit activations. The copy lies in `work` while
    the writer lives.
    """
    if teacher.is_dir():
        return TransformersWriter(teacher, parallel)
    with LlamaCpp(teacher, threads=threads, context=32, parallel=1) as probe:
        fast = "AVX512_BF16" in probe.info().features
    if not fast:
        return LlamaWriter(teacher, threads, context, parallel)
    wide = work / "teacher-bf16.gguf"
    widen(teacher, wide, "bf16", threads)
    return LlamaWriter(wide, threads, context, parallel, temporary=wide)

"""A GGUF file in llama.cpp, on the CPU, in a child process of its own."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from edgedistill.errors import InputError, did_you_mean
from edgedistill.runtimes.base import Generation, Runtime
from edgedistill.runtimes.child import Child

LLAMA_WORKER = "edgedistill.runtimes.llama_worker"
DEFAULT_PARALLEL = 16  # more sequences gain little on a CPU and cost a cache each


class LlamaCpp(Runtime):
    """`with LlamaCpp(Path("model.gguf"), threads=2) as model: model.generate_batch(...)`."""

    def __init__(self, path: Path, threads: int = 2, context: int = 2048, parallel: int = DEFAULT_PARALLEL) -> None:
        """Load the file. `context` is the room of one sequence in tokens, `parallel` how many run at once in a batch.

        Raises:
            InputError: no such file, it is no GGUF, or a number is out of range.
            RunError, RuntimeDiedError: llama.cpp refuses the file or dies of it.
        """
        path = Path(path)
        check_gguf(path)
        if context < 1 or parallel < 1:
            raise InputError(f"context is {context} and parallel is {parallel}; both must be at least 1")
        self.context = context
        self.parallel = parallel
        super().__init__(LLAMA_WORKER, path, threads, {"context": context})

    def generate(
        self,
        prompt_ids: Sequence[int],
        max_new: int,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int = 0,
        stop_ids: Sequence[int] | None = (),
    ) -> list[int]:
        """See `Runtime.generate`."""
        batch = self.generate_batch(
            [prompt_ids], max_new, temperature=temperature, top_p=top_p, seeds=[seed], stop_ids=stop_ids
        )
        return batch[0].tokens

    def generate_batch(
        self, prompts: Sequence[Sequence[int]], max_new: int | Sequence[int], **settings: Any
    ) -> list[Generation]:
        """Go on from many prompts at once; the results in the order of the prompts. Settings as in
        `generate_stream`.
        """
        found = dict(self.generate_stream(prompts, max_new, **settings))
        return [found[index] for index in range(len(prompts))]

    def generate_stream(
        self,
        prompts: Sequence[Sequence[int]],
        max_new: int | Sequence[int],
        *,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seeds: Sequence[int] | None = None,
        stop_ids: Sequence[int] | None = None,
        top_k: int = 0,
        prompt_logprobs: bool = False,
    ) -> Iterator[tuple[int, Generation]]:
        """Yield (index of the prompt, its result) as sequences end. The same call gives the same results in the same
        order.

        Args:
            max_new: tokens at most, for all or for each.
            temperature: 0 takes the likeliest token; top_p cuts the tail after the temperature.
            seeds: one for each prompt; its index by default.
            stop_ids: None takes the file's own, () never stops.
            top_k: how many log-probabilities to return for each new token; 0 for none.
            prompt_logprobs: return them at the prompt's positions too (needs top_k).
        Raises:
            InputError: a prompt is empty, holds an unknown token, or doesn't fit the context with max_new.
        """
        count = len(prompts)
        limits = [max_new] * count if isinstance(max_new, int) else list(max_new)
        chosen = list(range(count)) if seeds is None else list(seeds)
        if len(limits) != count or len(chosen) != count:
            raise InputError(f"{count} prompts came with {len(limits)} limits and {len(chosen)} seeds; give one each")
        if any(limit < 1 for limit in limits):
            raise InputError(f"max_new is {min(limits)}; it must be at least 1")
        if temperature < 0 or not 0 < top_p <= 1:
            raise InputError(f"temperature is {temperature} and top_p is {top_p}; they must be >= 0 and in (0, 1]")
        if not 0 <= top_k <= self.info().vocab or (prompt_logprobs and not top_k):
            raise InputError(
                f"top_k is {top_k}; it must be between {int(prompt_logprobs)} and the vocabulary of {self.info().vocab}"
            )
        if not count:
            return
        for result, arrays in self._child.stream(
            "generate_batch",
            prompts=[list(map(int, prompt)) for prompt in prompts],
            max_new=limits,
            seeds=chosen,
            parallel=self.parallel,
            temperature=temperature,
            top_p=top_p,
            stop_ids=None if stop_ids is None else list(stop_ids),
            top_k=top_k,
            prompt_logprobs=prompt_logprobs,
        ):
            yield result["index"], Generation(result["tokens"], result["finish"], **arrays)

    def choice_log_probs(
        self, choices: Sequence[tuple[Sequence[int], Sequence[Sequence[int]]]]
    ) -> Iterator[list[float]]:
        """See `Runtime.choice_log_probs`. A prompt is read once for all its options, several choices a batch, within
        the child.
        """
        plain = [
            (list(map(int, prompt)), [list(map(int, option)) for option in options]) for prompt, options in choices
        ]
        for log_probs, _ in self._child.stream("choice_log_probs", choices=plain):
            yield log_probs


FILE_TYPES = {"f32": 0, "f16": 1, "bf16": 32}  # llama.h, enum llama_ftype


def widen(source: Path, destination: Path, file_type: str = "bf16", threads: int = 2) -> None:
    """Write a quantized GGUF file's weights out as floats, for a teacher that is asked for much.

    llama.cpp multiplies quantized weights with activations rounded to 8 bits. For SmolLM2-135M in Q4_1 that alone is a
    KL of .0035 to the float model and changes answers; its bf16 copy has .0002, and where the processor has AVX512_BF16
    (`info().features`) it generates in batches about twice as fast.

    Raises:
        InputError: the source is no GGUF file, or the type is unknown.
        RunError, RuntimeDiedError: llama.cpp can't read or write it.
    """
    source, destination = Path(source), Path(destination)
    check_gguf(source)
    if file_type not in FILE_TYPES:
        allowed = ", ".join(FILE_TYPES)
        raise InputError(
            f"file type '{file_type}' is unknown; it must be one of {allowed}.{did_you_mean(file_type, FILE_TYPES)}"
        )
    part = destination.resolve().with_name(destination.name + ".part")
    with Child(LLAMA_WORKER, source, threads) as child:
        child.call(
            "requantize",
            source=str(source.resolve()),
            destination=str(part),
            file_type=FILE_TYPES[file_type],
            threads=threads,
        )
    part.replace(destination)


def check_gguf(path: Path) -> None:
    """Refuse what can't be a GGUF before a process is started for it.

    Raises:
        InputError: no such file, or it doesn't begin with "GGUF".
    """
    if not path.is_file():
        raise InputError(f"{path}: there is no such file; name a .gguf file")
    with path.open("rb") as file:
        magic = file.read(4)
    if magic != b"GGUF":
        raise InputError(f"{path}: it begins with {magic!r}, not with 'GGUF'; name a .gguf file")

"""A GGUF file in llama.cpp, on the CPU, in a child process of its own."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

from edgedistill.errors import InputError, did_you_mean
from edgedistill.models.gguf_file import check_header
from edgedistill.runtimes.base import Generation, Runtime, plain_choices
from edgedistill.runtimes.child import Child
from edgedistill.runtimes.sampling import BatchSettings

LLAMA_WORKER = "edgedistill.runtimes.llama_worker"
GREEDY = BatchSettings()
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
        settings = BatchSettings(temperature, top_p, stop_ids)
        return self.generate_batch([prompt_ids], max_new, settings, [seed])[0].tokens

    def generate_batch(
        self,
        prompts: Sequence[Sequence[int]],
        max_new: int | Sequence[int],
        settings: BatchSettings = GREEDY,
        seeds: Sequence[int] | None = None,
    ) -> list[Generation]:
        """Continue many prompts at once; the results in the order of the prompts. Arguments as in `generate_stream`."""
        by_index = dict(self.generate_stream(prompts, max_new, settings, seeds))
        return [by_index[index] for index in range(len(prompts))]

    def generate_stream(
        self,
        prompts: Sequence[Sequence[int]],
        max_new: int | Sequence[int],
        settings: BatchSettings = GREEDY,
        seeds: Sequence[int] | None = None,
    ) -> Iterator[tuple[int, Generation]]:
        """Yield (index of the prompt, its result) as sequences end. The same call gives the same results in the same
        order.

        Args:
            prompts: token ids.
            max_new: tokens at most, for all or for each.
            settings: how tokens are drawn, and what is returned of them.
            seeds: one for each prompt; its index by default.
        Raises:
            InputError: a prompt is empty, holds an unknown token, or doesn't fit the context with max_new; or a setting
                is out of range.
        """
        count = len(prompts)
        limits = [max_new] * count if isinstance(max_new, int) else list(max_new)
        chosen = list(range(count)) if seeds is None else list(seeds)
        if len(limits) != count or len(chosen) != count:
            raise InputError(f"{count} prompts came with {len(limits)} limits and {len(chosen)} seeds; give one each")
        if any(limit < 1 for limit in limits):
            raise InputError(f"max_new is {min(limits)}; it must be at least 1")
        self._check(settings)
        if not count:
            return
        stop_ids = None if settings.stop_ids is None else list(settings.stop_ids)
        for result, arrays in self._child.stream(
            "generate_batch",
            prompts=[list(map(int, prompt)) for prompt in prompts],
            max_new=limits,
            seeds=chosen,
            parallel=self.parallel,
            settings={**asdict(settings), "stop_ids": stop_ids},
        ):
            yield result["index"], Generation(result["tokens"], result["finish"], **arrays)

    def _check(self, settings: BatchSettings) -> None:
        """Raise InputError where a setting is out of range."""
        temperature, top_p, top_k = settings.temperature, settings.top_p, settings.top_k
        if temperature < 0 or not 0 < top_p <= 1:
            raise InputError(f"temperature is {temperature} and top_p is {top_p}; they must be >= 0 and in (0, 1]")
        least, vocab = int(settings.prompt_logprobs), self.info().vocab
        if not least <= top_k <= vocab:
            raise InputError(f"top_k is {top_k}; it must be between {least} and the vocabulary of {vocab}")

    def choice_log_probs(
        self, choices: Sequence[tuple[Sequence[int], Sequence[Sequence[int]]]]
    ) -> Iterator[list[float]]:
        """See `Runtime.choice_log_probs`. A prompt is read once for all its options, several choices a batch, within
        the child.
        """
        for log_probs, _ in self._child.stream("choice_log_probs", choices=plain_choices(choices)):
            yield log_probs


FILE_TYPES = {"f32": 0, "f16": 1, "bf16": 32}  # llama.h, enum llama_ftype


def widen(source: Path, destination: Path, file_type: str = "bf16", threads: int = 2) -> None:
    """Write a quantized GGUF file's weights out as floats, for a teacher that writes much.

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
        InputError: no such file, it doesn't begin with "GGUF", or its header doesn't fit the file.
    """
    if not path.is_file():
        raise InputError(f"{path}: there is no such file; name a .gguf file")
    with path.open("rb") as file:
        magic = file.read(4)
    if magic != b"GGUF":
        raise InputError(f"{path}: it isn't a GGUF file, which begins with the letters GGUF; name a .gguf file")
    check_header(path)

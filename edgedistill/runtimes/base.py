"""The interface of every runtime of packed files, and what its methods return."""

import codecs
from collections.abc import Generator, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgedistill.errors import InputError, LoadError, RunError
from edgedistill.runtimes.child import Child
from edgedistill.runtimes.speed import SpeedSettings, SpeedTests

Message = dict[str, Any]  # {"role": "user", "content": "..."}


@dataclass(frozen=True)
class ModelInfo:
    """What the runtime itself read from the file."""

    runtime: str  # "llama.cpp" or "onnxruntime"
    version: str
    description: str
    vocab: int
    n_ctx_train: int
    chat_template: str | None
    bos_id: int  # -1 where the file names none; so for eos_id and eot_id
    eos_id: int
    eot_id: int
    stop_ids: tuple[int, ...]  # what ends an answer
    add_bos: bool
    architecture: str | None
    name: str | None
    parameters: int | None  # None where the runtime doesn't tell
    weight_bytes: int
    load_s: float
    rss_bytes: int  # of the child, right after loading
    features: tuple[str, ...]  # instructions that the runtime uses: "AVX512_BF16"


@dataclass(frozen=True)
class Generation:
    """What a model wrote after one prompt.

    `tokens` includes the stop token where there was one; `finish` is "stop" or "length". With top_k, row i of `top_ids`
    [n, K] int32 and `top_logp` [n, K] float16 (nats, temperature 1, likeliest first) is the distribution that tokens[i]
    was drawn from. With prompt_logprobs, row i of `prompt_top_ids` [P-1, K] is what could follow prompt token i; so the
    two stacked say, for every token of prompt + answer but the last, what could follow it.
    """

    tokens: list[int]
    finish: str
    top_ids: np.ndarray | None = None
    top_logp: np.ndarray | None = None
    prompt_top_ids: np.ndarray | None = None
    prompt_top_logp: np.ndarray | None = None


@dataclass(frozen=True)
class ChatStats:
    """Counts of one answer: why it ended ("stop" or "length"), tokens read and written."""

    finish: str
    prompt_tokens: int
    tokens: int


def sum_log_probs(logits: np.ndarray, labels: Sequence[int]) -> float:
    """Σ log softmax(row)[label] in nats over the rows of logits [N, V], in float64; a label a row."""
    wide = logits.astype(np.float64)
    top = wide.max(axis=1)
    log_norm = top + np.log(np.exp(wide - top[:, None]).sum(axis=1))
    return float((wide[np.arange(len(labels)), labels] - log_norm).sum())


def plain_choices(
    choices: Sequence[tuple[Sequence[int], Sequence[Sequence[int]]]],
) -> list[tuple[list[int], list[list[int]]]]:
    """(prompt, options) of each choice as lists of ints, which JSON holds."""
    plain = []
    for prompt, options in choices:
        plain.append((_plain_ids(prompt), [_plain_ids(option) for option in options]))
    return plain


def _plain_ids(ids: Sequence[int]) -> list[int]:
    return [int(token) for token in ids]


class Runtime:
    """A packed file, loaded in a child process. Use it in a `with`; leaving that ends the child.

    Every method raises RuntimeDiedError when the child dies, InputError for input that the model can't take, RunError
    for the rest. No result depends on earlier calls: caches are emptied first.
    """

    def __init__(self, module: str, path: Path, threads: int, load: dict[str, Any]) -> None:
        if threads < 1:
            raise InputError(f"threads is {threads}; it must be at least 1")
        self.path = path
        self.threads = threads
        self._child = Child(module, path, threads)
        self.last_chat: ChatStats | None = None
        self.reading = (0, 0)  # tokens of a conversation that are read, and all that are to be read
        try:
            facts = self._child.call("load", path=str(path.resolve()), threads=threads, **load)[0]
        except RunError as error:
            self._child.close()
            raise LoadError(str(error)) from error
        except BaseException:
            self._child.close()
            raise
        self._info = ModelInfo(**(facts | {name: tuple(facts[name]) for name in ("stop_ids", "features")}))

    @property
    def pid(self) -> int:
        """Process id of the child."""
        return self._child.pid

    def info(self) -> ModelInfo:
        """What the runtime read from the file."""
        return self._info

    def tokenize(self, text: str, special: bool = True, add_bos: bool = False) -> list[int]:
        """Token ids. `special` reads control tokens written in the text; `add_bos` adds the BOS if the file asks for
        one.
        """
        return self._child.call("tokenize", text=text, add_special=add_bos, parse_special=special)[0]

    def detokenize(self, ids: Sequence[int], special: bool = False) -> str:
        """The text of token ids; `special` writes control tokens out."""
        return self._child.call("detokenize", ids=list(ids), special=special)[0] if len(ids) else ""

    def logit_chunks(self, tokens: Sequence[int], first: int = 0) -> Iterator[tuple[int, np.ndarray]]:
        """Logits of one sequence from position `first` on, in pieces of at most 128 rows: (position of the first row,
        [n, V] float32).
        """
        for start, arrays in self._child.stream("logits", tokens=list(tokens), first=first):
            yield start, arrays["logits"]

    def logits(self, tokens: Sequence[int]) -> np.ndarray:
        """Logits [T, V] float32 after each token of one sequence."""
        return np.concatenate([rows for _, rows in self.logit_chunks(tokens)])

    def choice_log_probs(
        self, choices: Sequence[tuple[Sequence[int], Sequence[Sequence[int]]]]
    ) -> Iterator[list[float]]:
        """Of each (prompt, options) in turn, for each option Σ log p(its token | prompt and its tokens before), in
        nats.

        Any runtime can do it this way: each option with its prompt is a sequence of its own.

        Raises:
            InputError: a prompt or an option is empty or holds an unknown token.
        """
        for prompt, options in choices:
            yield [self._continuation_log_prob(list(prompt), list(option)) for option in options]

    def _continuation_log_prob(self, prompt: list[int], option: list[int]) -> float:
        if not prompt or not option:
            raise InputError("a choice has an empty prompt or an empty option; each needs at least one token")
        total = 0.0
        for start, rows in self.logit_chunks(prompt + option, first=len(prompt) - 1):
            labels = option[start - len(prompt) + 1 :][: len(rows)]
            total += sum_log_probs(rows[: len(labels)], labels)
        return total

    def apply_template(self, messages: Sequence[Message], add_generation_prompt: bool = True) -> tuple[str, list[int]]:
        """A conversation as the file's chat template writes it: text and token ids.

        Raises:
            InputError: there is no template, or it refuses the messages.
        """
        prompt = self._child.call(
            "apply_template", messages=list(messages), add_generation_prompt=add_generation_prompt
        )[0]
        return prompt["text"], prompt["ids"]

    def generate(
        self,
        prompt_ids: Sequence[int],
        max_new: int,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int = 0,
        stop_ids: Sequence[int] | None = (),
    ) -> list[int]:
        """Token ids that follow a prompt, a stop token included. stop_ids None takes the file's own, () never stops."""
        raise NotImplementedError

    def chat(
        self,
        messages: Sequence[Message],
        max_tokens: int = 512,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int = 0,
        keep: bool = False,
    ) -> Generator[str, None, None]:
        """Yield the answer in pieces of text, as the model wrote it: neutralise it before printing. `last_chat` then
        holds its counts.

        While a long conversation is still being read, pieces are empty, and `reading` says how much has been read.

        Args:
            keep: don't read again the beginning that this conversation shares with the one before, where the runtime
                can do that. Batches then differ, and with them perhaps the last bits of a logit.
        """
        decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self.last_chat = None
        for result, _ in self._child.stream(
            "chat",
            messages=list(messages),
            max_tokens=max_tokens,
            temperature=temperature,
            top_p=top_p,
            seed=seed,
            keep=keep,
        ):
            if "read" in result:
                self.reading = (result["read"], result["of"])
                yield ""
                continue
            if "piece" in result:
                text = decoder.decode(result["piece"].encode("latin-1"))
            else:
                text = decoder.decode(b"", final=True)
                self.last_chat = ChatStats(**result)
            if text:
                yield text

    def speed(self, settings: SpeedSettings) -> SpeedTests:
        """Tokens/s as llama-bench measures them; see speed.measure_speed."""
        return SpeedTests.from_json(self._child.call("speed", **asdict(settings))[0])

    def peak_rss_bytes(self) -> int:
        """The most memory that the child ever had resident."""
        return self._child.call("memory")[0]["peak_rss_bytes"]

    def rss_bytes(self) -> int:
        """The memory that the child has resident now."""
        return self._child.call("memory")[0]["rss_bytes"]

    def close(self) -> None:
        """End the child."""
        self._child.close()

    def __enter__(self) -> "Runtime":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

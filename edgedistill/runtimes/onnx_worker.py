"""The child process of the onnxruntime runtime: a decoder graph with its key/value cache as inputs and outputs, on the
CPU.

The graph takes `input_ids` [1, T], `attention_mask` [1, P+T] and `past_key_values.N.key/value` [1, heads, P, head_dim],
and gives `logits` [1, T, V] and `present.N.key/value`: optimum's names, which transformers.js expects too.
`position_ids` goes to the graphs that take it. Caches stay inside onnxruntime: nothing is copied to numpy but the
logits.
"""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort  # type: ignore[import-untyped]
from tokenizers import Tokenizer

from edgedistill.errors import InputError
from edgedistill.runtimes.base import sum_log_probs
from edgedistill.runtimes.memory import rss_bytes
from edgedistill.runtimes.one_sequence import LOGIT_ROWS, OneSequence
from edgedistill.runtimes.protocol import Arrays
from edgedistill.runtimes.worker import Answer, Operation, serve

PROMPT_ROWS = 512  # tokens a call: the graph makes logits for every one of them
DTYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16}
KNOWN_INPUTS = ("input_ids", "attention_mask", "position_ids")


class OnnxWorker(OneSequence):
    """The operations on one ONNX folder."""

    _length: int  # tokens in the cache
    _cache: dict[str, Any]  # never changed in place: a run returns new values, so an older cache stays valid

    def operations(self) -> dict[str, Operation]:
        """One sequence's, generate, and the likelihoods of options."""
        return super().operations() | {"generate": self.generate, "choice_log_probs": self.choice_log_probs}

    def load(self, path: str, graph: str, threads: int, context: int | None) -> Answer:
        """Load graph and tokenizer; their facts. `context` None takes the config's own."""
        folder = Path(path)
        config = _read_json(folder / "config.json")
        generation = _read_json(folder / "generation_config.json")
        tokens = _read_json(folder / "tokenizer_config.json")
        self.tokenizer = _load_tokenizer(folder / "tokenizer.json")
        started = time.perf_counter()
        self.session = _session(folder / graph, threads)
        self.load_s = time.perf_counter() - started
        self._read_inputs(graph)
        self.threads = threads
        self.vocab = int(config["vocab_size"])
        self.trained = int(config.get("max_position_embeddings", 2048))
        self.context = min(context or self.trained, self.trained)  # the graph's rotary table ends there
        stops = generation.get("eos_token_id", config.get("eos_token_id"))
        self.stops = _stop_ids(stops)
        self.template = _template(folder, tokens)
        self.bos_id, self.eos_id = (_token_id(self.tokenizer, tokens.get(name)) for name in ("bos_token", "eos_token"))
        files = [folder / graph, *(folder / graph).parent.glob(Path(graph).stem + ".onnx?data*")]
        return {
            "runtime": "onnxruntime",
            "version": f"onnxruntime {ort.__version__}",
            "description": graph,
            "vocab": self.vocab,
            "n_ctx_train": self.trained,
            "chat_template": self.template,
            "bos_id": self.bos_id,
            "eos_id": self.eos_id,
            "eot_id": -1,
            "stop_ids": sorted(self.stops),
            "add_bos": self.encode("", True, False)[:1] == [self.bos_id],
            "architecture": config.get("model_type"),
            "name": config.get("_name_or_path") or None,
            "parameters": None,
            "weight_bytes": sum(file.stat().st_size for file in files),
            "load_s": self.load_s,
            "rss_bytes": rss_bytes(),
            "features": [],
        }

    def logits(self, tokens: list[int], first: int) -> Iterator[tuple[Any, Arrays]]:
        """Stream the logits at positions `first` and later, a few rows a frame."""
        self.check(tokens, "logits")
        self.open(len(tokens))
        for start in range(0, len(tokens), LOGIT_ROWS):
            rows = self._run(tokens[start : start + LOGIT_ROWS])[max(0, first - start) :]
            if len(rows):
                yield max(start, first), {"logits": rows}

    def generate(
        self, prompt: list[int], max_new: int, temperature: float, top_p: float, seed: int, stop_ids: list[int] | None
    ) -> Answer:
        """Token ids that follow a prompt, a stop token included."""
        self.check(prompt, "prompt")
        if len(prompt) + max_new > self.context:
            raise InputError(
                f"the prompt has {len(prompt)} tokens and may grow by {max_new}; the context holds {self.context}"
            )
        stops = self.stops if stop_ids is None else frozenset(stop_ids)
        generated = []
        for token in self.draw(prompt, max_new, temperature, top_p, seed):
            generated.append(token)
            if token in stops:
                break
        return generated

    def choice_log_probs(self, choices: list[tuple[list[int], list[list[int]]]]) -> Iterator[Answer]:
        """Stream the log-likelihoods of each choice's options, in the order of the choices."""
        for index, (prompt, options) in enumerate(choices):
            self.check(prompt, f"choice {index}, the prompt")
            for number, option in enumerate(options):
                self.check(option, f"choice {index}, option {number}")
            longest = len(prompt) + max(map(len, options), default=0)
            if longest > self.context:
                raise InputError(
                    f"choice {index} has {longest} tokens with its longest option; the context holds {self.context}"
                )
        for prompt, options in choices:
            self.open(len(prompt))
            first = self.evaluate(prompt)[None]
            read, length = self._cache, self._length
            log_probs = []
            for option in options:
                self._cache, self._length = read, length
                # The last token of an option predicts nothing that counts.
                rows = np.concatenate([first, self._run(option[:-1])]) if len(option) > 1 else first
                log_probs.append(sum_log_probs(rows, option))
            yield log_probs

    def open(self, length: int) -> None:
        """See OneSequence. The cache grows as it is used, so `length` reserves nothing."""
        self._length = 0
        self._cache = {
            name: ort.OrtValue.ortvalue_from_numpy(np.empty(shape, dtype)) for name, shape, dtype in self._past
        }
        self._written: list[int] = []

    def evaluate(self, tokens: list[int]) -> np.ndarray:
        """See OneSequence."""
        for start in range(0, len(tokens), PROMPT_ROWS):
            rows = self._run(tokens[start : start + PROMPT_ROWS])
        return rows[-1]

    def encode(self, text: str, add_special: bool, parse_special: bool) -> list[int]:
        """See OneSequence."""
        self.tokenizer.encode_special_tokens = not parse_special
        return list(self.tokenizer.encode(text, add_special_tokens=add_special).ids)

    def decode_bytes(self, ids: list[int], special: bool) -> bytes:
        """See OneSequence."""
        return self.tokenizer.decode(ids, skip_special_tokens=not special).encode()

    def next_piece(self, ids: list[int]) -> bytes:
        """See OneSequence. A character that takes several tokens comes with the last of them."""
        if len(ids) == 1:
            self._said = ""
        text = self.tokenizer.decode(ids, skip_special_tokens=True)
        if text.endswith("\ufffd") or not text.startswith(self._said):
            return b""
        piece, self._said = text[len(self._said) :], text
        return piece.encode()

    def _run(self, tokens: list[int]) -> np.ndarray:
        """Append tokens to the cache; logits [T, V] float32."""
        end = self._length + len(tokens)
        feeds = {
            "input_ids": np.array([tokens], np.int64),
            "attention_mask": np.ones((1, end), np.int64),
            "position_ids": np.arange(self._length, end, dtype=np.int64)[None],
        }
        values = {name: ort.OrtValue.ortvalue_from_numpy(array) for name, array in feeds.items() if name in self._asked}
        outputs = self.session.run_with_ort_values(["logits", *self._present], values | self._cache)
        self._cache = dict(zip(self._cache, outputs[1:], strict=True))
        self._length = end
        return np.asarray(outputs[0].numpy()[0], np.float32)

    def _read_inputs(self, graph: str) -> None:
        """Find the cache's inputs and outputs.

        Raises:
            InputError: the graph isn't a decoder with a cache as the module says.
        """
        inputs = {entry.name: entry for entry in self.session.get_inputs()}
        outputs = {entry.name for entry in self.session.get_outputs()}
        past = [name for name in inputs if name.startswith("past_key_values.")]
        strange = [name for name in inputs if name not in past and name not in KNOWN_INPUTS]
        self._present = [name.replace("past_key_values.", "present.") for name in past]
        missing = [name for name in ("logits", *self._present) if name not in outputs]
        if strange or missing or not past or "input_ids" not in inputs:
            wrong = "no input_ids or no cache"
            if strange:
                wrong = f"input '{strange[0]}'"
            elif missing:
                wrong = f"no output '{missing[0]}'"
            raise InputError(
                f"{graph} has {wrong}; it must take input_ids, attention_mask, past_key_values.* and give "
                "logits, present.*"
            )
        self._asked = [name for name in inputs if name in KNOWN_INPUTS]
        self._past = []
        for name in past:
            shape, dtype = inputs[name].shape, inputs[name].type
            if len(shape) != 4 or not isinstance(shape[1], int) or not isinstance(shape[3], int) or dtype not in DTYPES:
                raise InputError(
                    f"{graph}: input '{name}' is {dtype} {shape}; it must be [batch, HEADS, past, HEAD_SIZE] floats"
                )
            self._past.append((name, (1, shape[1], 0, shape[3]), DTYPES[dtype]))


def _session(path: Path, threads: int) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # A thread that waits by spinning takes the core that another program, or our own next step, needs.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's own exceptions have no common base
        raise ValueError(f"onnxruntime can't load {path.name}: {str(error).splitlines()[0][:300]}") from None


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(
            f"there is no {path.name}; the folder must hold config, generation config, tokenizer and onnx/"
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path.name} isn't readable as JSON: {error}") from None
    if not isinstance(content, dict):
        raise InputError(f"{path.name} holds a JSON {type(content).__name__}; it must be an object")
    return content


def _load_tokenizer(path: Path) -> Tokenizer:
    if not path.is_file():
        raise InputError(f"there is no {path.name}; the folder must hold the model's tokenizer")
    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:  # tokenizers raises bare Exception
        raise InputError(f"{path.name} is no tokenizer: {error}") from None


def _template(folder: Path, tokens: dict[str, Any]) -> str | None:
    path = folder / "chat_template.jinja"
    if path.is_file():
        return path.read_text(encoding="utf-8")
    template = tokens.get("chat_template")
    return template if isinstance(template, str) else None


def _stop_ids(stated: Any) -> frozenset[int]:
    """The tokens that end a text, as a config has them: one id, a list of ids, or none."""
    if stated is None:
        return frozenset()
    return frozenset(stated if isinstance(stated, list) else [stated])


def _token_id(tokenizer: Tokenizer, token: Any) -> int:
    """The id of a special token as tokenizer_config.json writes it: a text, or an object with "content"; -1 for
    none.
    """
    text = token.get("content") if isinstance(token, dict) else token
    number = tokenizer.token_to_id(text) if isinstance(text, str) else None
    return -1 if number is None else int(number)


if __name__ == "__main__":
    serve(OnnxWorker().operations())

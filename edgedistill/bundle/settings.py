"""What a bundle's Modelfile and programs must know of its model: the chat template, what ends an answer, context,
sampling.

Read from the files that ship: a GGUF's own metadata, else the ONNX folder; sampling from generation_config.json. All of
it is text of the model's makers, and hostile.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgedistill.bundle.names import split_key
from edgedistill.models.gguf_file import read_header
from edgedistill.models.gguf_tokenizer import from_gguf
from edgedistill.models.tokens import Vocabulary, read_json
from edgedistill.models.vocabulary import from_folder

MOST_CONTEXT = 4096  # tokens that the programs make room for: a cache for 128k would take more memory than the weights
CONFIG, GENERATION = "config.json", "generation_config.json"
# generation_config.json's key -> Ollama's, and the values that mean something.
SAMPLING = {
    "temperature": ("temperature", 0.0, 5.0),
    "top_p": ("top_p", 0.0, 1.0),
    "top_k": ("top_k", 1.0, 1e6),
    "min_p": ("min_p", 0.0, 1.0),
    "repetition_penalty": ("repeat_penalty", 0.5, 2.0),
}


@dataclass(frozen=True)
class ModelSettings:
    """`template` is None for a model without one; `context` in tokens; `sampling` by Ollama's names, empty where
    greedy.
    """

    template: str | None
    bos: str
    eos: str
    add_bos: bool
    ends: tuple[str, ...]  # texts of the tokens that end an answer, the eos token first
    context: int
    sampling: Mapping[str, float]


def read_settings(placed: Mapping[str, Path], model: Path | None) -> ModelSettings:
    """The settings of a bundle's model.

    Args:
        placed: where each artifact lies, by gguf-MIX or onnx-MIX; all are of one model.
        model: the Hugging Face folder that the files were made from, whose generation_config.json says how to sample.
    Raises:
        InputError: a file is damaged.
    """
    files = {split_key(key)[0]: path for key, path in reversed(list(placed.items()))}  # the first of each
    generation: dict[str, Any] = {}
    for folder in (model, files.get("onnx")):
        if folder and (folder / GENERATION).is_file() and not generation:
            generation = read_json(folder / GENERATION)
    if "gguf" in files:
        header = read_header(files["gguf"])
        vocabulary = from_gguf(header)
        trained = header.get(f"{header.get('general.architecture', str, '')}.context_length", int, MOST_CONTEXT)
    else:
        vocabulary = from_folder(files["onnx"])
        trained = read_json(files["onnx"] / CONFIG).get("max_position_embeddings")
    context = trained if isinstance(trained, int) and trained > 0 else MOST_CONTEXT
    ends = _texts(vocabulary)
    return ModelSettings(
        vocabulary.chat_template,
        vocabulary.token("bos") or "",
        vocabulary.token("eos") or "",
        vocabulary.add_bos,
        ends,
        min(context, MOST_CONTEXT),
        _sampling(generation),
    )


def _texts(vocabulary: Vocabulary) -> tuple[str, ...]:
    return tuple(vocabulary.tokens[index] for index in vocabulary.ends)


def _sampling(generation: Mapping[str, Any]) -> dict[str, float]:
    """How the model's makers sample, by Ollama's names: only numbers, each within its range, and only if they do
    sample.
    """
    if not generation.get("do_sample"):
        return {}
    found = {}
    for key, (name, least, most) in SAMPLING.items():
        value = generation.get(key)
        if (
            isinstance(value, (int, float))
            and not isinstance(value, bool)
            and math.isfinite(value)
            and least <= value <= most
        ):
            found[name] = value
    return found

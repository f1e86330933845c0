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
from edgedistill.runtimes.chat_defaults import MAX_TOKENS, ChatDefaults

MOST_CONTEXT = 4096  # tokens that the programs make room for: a cache for 128k would take more memory than the weights
CONFIG, GENERATION = "config.json", "generation_config.json"
# What generation_config.json may say of sampling: the values that mean something, and what transformers takes where it
# samples and isn't told.
SAMPLING = {"temperature": (0.01, 5.0), "top_p": (0.01, 1.0)}
UNTOLD = {"temperature": 1.0, "top_p": 1.0}


@dataclass(frozen=True)
class ModelSettings:
    """`template` is None for a model without one; `context` in tokens; `chat`: how it is asked unless someone says
    otherwise, where `own_sampling` tells that the makers advise it.
    """

    template: str | None
    bos: str
    eos: str
    add_bos: bool
    ends: tuple[str, ...]  # texts of the tokens that end an answer, the eos token first
    context: int
    chat: ChatDefaults = ChatDefaults()
    own_sampling: bool = False

    @property
    def longest_answer(self) -> int:
        """Tokens; half of the context is left to the conversation."""
        return max(1, min(MAX_TOKENS, self.context // 2))


def read_settings(placed: Mapping[str, Path], model: Path | None, system: str | None = None) -> ModelSettings:
    """The settings of a bundle's model.

    Args:
        placed: where each artifact lies, by gguf-MIX or onnx-MIX; all are of one model.
        model: the Hugging Face folder that the files were made from, whose generation_config.json says how to sample.
        system: the message that all training chats began with; None where there was none.
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
    sampling = _sampling(generation)
    return ModelSettings(
        vocabulary.chat_template,
        vocabulary.token("bos") or "",
        vocabulary.token("eos") or "",
        vocabulary.add_bos,
        ends,
        min(context, MOST_CONTEXT),
        ChatDefaults(**(sampling or {}), system=system if vocabulary.chat_template else None),
        sampling is not None,
    )


def _texts(vocabulary: Vocabulary) -> tuple[str, ...]:
    return tuple(vocabulary.tokens[index] for index in vocabulary.ends)


def _sampling(generation: Mapping[str, Any]) -> dict[str, float] | None:
    """How the model's makers sample; only numbers, each within its range. None where they don't, or say nothing
    sound.
    """
    if not generation.get("do_sample"):
        return None
    sound = {name: value for name in SAMPLING if (value := sound_number(generation.get(name), name)) is not None}
    return UNTOLD | sound if sound else None


def sound_number(value: object, name: str) -> float | None:
    """The value where it is a number within the range of temperature or top_p, else None."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        return None
    least, most = SAMPLING[name]
    return float(value) if least <= value <= most else None

"""The files beside the model in an export folder: its config, its tokenizer, and the settings of the runtimes.

transformers.js doesn't read chat_template.jinja, so the template goes into tokenizer_config.json too; and it must be
told of a data file beside the model. onnxruntime-genai reads genai_config.json.
"""

import json
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from edgedistill.errors import InputError
from edgedistill.facts import ModelShape
from edgedistill.models import rope
from edgedistill.models.hf_folder import read_shape
from edgedistill.models.templates import whole_tokenizer_config
from edgedistill.models.tokenizer import plain_tokenizer
from edgedistill.models.vocabulary import read_json

OPTIONAL = ("chat_template.jinja",)  # written where the model has one
SPECIAL = ("bos_token_id", "eos_token_id", "pad_token_id")


def require_shape(folder: Path, shape: ModelShape) -> None:
    """Raise InputError where the folder's config.json is another model's, whatever its context."""
    actual = replace(read_shape(folder), context=shape.context)
    for field in fields(shape):
        ours, theirs = getattr(shape, field.name), getattr(actual, field.name)
        if ours != theirs:
            raise InputError(
                f"{folder}/config.json: its {field.name} is {theirs!r}, the checkpoint's {ours!r}; they must "
                "be one model's"
            )


def companion_files(
    folder: Path, shape: ModelShape, positions: int, model_name: str, outside: bool
) -> dict[str, bytes]:
    """Name and content of each file beside the model.

    Args:
        folder: config.json and tokenizer as transformers saved them.
        positions: tokens of context that the graph has angles for.
        model_name: the model file's name under onnx/.
        outside: whether its weights lie in a data file beside it.
    Raises:
        InputError: a file is missing or malformed.
    """
    config = read_json(folder / "config.json")
    config["max_position_embeddings"] = positions
    if shape.rope_scaling:  # spelled out: what it leaves out, readers take from the context, which may be another now
        config["rope_parameters"] = rope.rope_parameters(shape)
    if outside:
        config["transformers.js_config"] = {"use_external_data_format": {model_name: 1}}
    tokenizer_config = whole_tokenizer_config(folder)
    generation = folder / "generation_config.json"
    special = {key: config[key] for key in SPECIAL if config.get(key) is not None}
    generation_config = read_json(generation) if generation.is_file() else special
    files = {
        "config.json": to_json(config),
        "generation_config.json": to_json(generation_config),
        "genai_config.json": to_json(genai_config(shape, positions, special | generation_config, f"onnx/{model_name}")),
        "tokenizer.json": plain_tokenizer(folder),
        "tokenizer_config.json": to_json(tokenizer_config),
    }
    if isinstance(tokenizer_config.get("chat_template"), str):
        files["chat_template.jinja"] = tokenizer_config["chat_template"].encode()
    return files


def to_json(value: Mapping[str, Any]) -> bytes:
    """Indented UTF-8, keys in the order given."""
    return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode()


def genai_config(shape: ModelShape, positions: int, special: Mapping[str, Any], model_path: str) -> dict[str, Any]:
    """What onnxruntime-genai reads: where the model is, what its inputs are called, and how to sample.

    The type is llama whatever the family: genai 0.18 runs all nine under that name (bench/onnx_loaders.py).
    `past_present_share_buffer` lets the attention write into one cache, as long as the search's max_length, instead of
    copying the cache at each token.
    """
    eos = special.get("eos_token_id", 0)
    first_eos = eos[0] if isinstance(eos, list) else eos
    sampled = bool(special.get("do_sample", False))
    return {
        "model": {
            "type": "llama",
            "bos_token_id": special.get("bos_token_id", first_eos),
            "eos_token_id": eos,
            "pad_token_id": special.get("pad_token_id", first_eos),
            "vocab_size": shape.vocab,
            "context_length": positions,
            "decoder": {
                "filename": model_path,
                "session_options": {"log_id": "onnxruntime-genai", "provider_options": []},
                "num_hidden_layers": shape.layers,
                "num_attention_heads": shape.heads,
                "num_key_value_heads": shape.kv_heads,
                "head_size": shape.head_dim,
                "hidden_size": shape.width,
                "inputs": {
                    "input_ids": "input_ids",
                    "attention_mask": "attention_mask",
                    "past_key_names": "past_key_values.%d.key",
                    "past_value_names": "past_key_values.%d.value",
                },
                "outputs": {
                    "logits": "logits",
                    "present_key_names": "present.%d.key",
                    "present_value_names": "present.%d.value",
                },
            },
        },
        "search": {
            "do_sample": sampled,
            "early_stopping": True,
            "max_length": positions,
            "num_beams": 1,
            "num_return_sequences": 1,
            "past_present_share_buffer": True,
            "repetition_penalty": special.get("repetition_penalty", 1.0),
            "temperature": special.get("temperature", 1.0),
            "top_k": special.get("top_k", 50) if sampled else 1,
            "top_p": special.get("top_p", 1.0),
        },
    }

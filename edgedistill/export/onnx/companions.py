"""What stands beside the model in an export folder: its config, its tokenizer, and the settings of the runtimes.

transformers.js doesn't read chat_template.jinja, so the template goes into tokenizer_config.json too; it needs to be
told of a data file beside the model. onnxruntime-genai reads genai_config.json.
"""

import json
from pathlib import Path
from typing import Any

from edgedistill.errors import InputError
from edgedistill.facts import ModelShape

# config.json's name of each field of ModelShape that the graph is built from.
CONFIG_FIELDS = {
    "num_hidden_layers": "layers",
    "hidden_size": "width",
    "num_attention_heads": "heads",
    "num_key_value_heads": "kv_heads",
    "head_dim": "head_dim",
    "intermediate_size": "ffn",
    "vocab_size": "vocab",
    "tie_word_embeddings": "tied",
    "rms_norm_eps": "norm_eps",
}


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file.

    Raises:
        InputError: there is no such file, or it holds something else.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file; an ONNX export needs the model's config.json, tokenizer.json and tokenizer_config.json") from error
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: not readable as JSON ({error}); save the model with transformers again") from error
    if not isinstance(value, dict):
        raise InputError(f"{path}: holds a JSON {type(value).__name__}; it must be an object")
    return value


def load_config(folder: Path, shape: ModelShape) -> Any:
    """The transformers config in `folder`, checked against the shape.

    Raises:
        InputError: it is another model than `shape`, or has parts that the graph hasn't.
    """
    from transformers import LlamaConfig

    raw = read_json(folder / "config.json")
    path = folder / "config.json"
    if raw.get("model_type") not in ("llama", None):
        raise InputError(f"{path}: model_type is '{raw['model_type']}'; the ONNX export knows llama")
    config = LlamaConfig.from_dict(raw)
    for field, name in CONFIG_FIELDS.items():
        found, wanted = getattr(config, field), getattr(shape, name)
        if found != wanted:
            raise InputError(f"{path}: {field} is {found}, but the checkpoint's shape says {wanted}; they must come from one model")
    if config.hidden_act != "silu":
        raise InputError(f"{path}: hidden_act is '{config.hidden_act}'; the ONNX export knows silu")
    for field in ("attention_bias", "mlp_bias"):
        if getattr(config, field, False):
            raise InputError(f"{path}: {field} is true; the ONNX export knows linear layers without bias")
    return config


def companion_files(folder: Path, shape: ModelShape, positions: int, model_name: str, outside: bool) -> dict[str, bytes]:
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
    if outside:
        config["transformers.js_config"] = {"use_external_data_format": {model_name: 1}}
    tokenizer = folder / "tokenizer.json"
    read_json(tokenizer)
    tokenizer_config = read_json(folder / "tokenizer_config.json")
    template = folder / "chat_template.jinja"
    if template.is_file():
        tokenizer_config["chat_template"] = template.read_text(encoding="utf-8")
    generation = folder / "generation_config.json"
    special = {key: config[key] for key in ("bos_token_id", "eos_token_id", "pad_token_id") if config.get(key) is not None}
    generation_config = read_json(generation) if generation.is_file() else special
    made = {
        "config.json": to_json(config),
        "generation_config.json": to_json(generation_config),
        "genai_config.json": to_json(genai_config(shape, positions, {**special, **generation_config}, f"onnx/{model_name}")),
        "tokenizer.json": tokenizer.read_bytes(),
        "tokenizer_config.json": to_json(tokenizer_config),
    }
    if isinstance(tokenizer_config.get("chat_template"), str):
        made["chat_template.jinja"] = tokenizer_config["chat_template"].encode()
    return made


def to_json(value: dict[str, Any]) -> bytes:
    """Indented UTF-8, in the order the file had."""
    return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode()


def genai_config(shape: ModelShape, positions: int, special: dict[str, Any], model_path: str) -> dict[str, Any]:
    """What onnxruntime-genai reads: where the model is, what its inputs are called, and how to sample.

    Its `past_present_share_buffer` lets the attention operator write into one cache as long as the search's max_length.
    """
    eos = special.get("eos_token_id", 0)
    pad = special.get("pad_token_id")
    if pad is None:
        pad = eos[0] if isinstance(eos, list) else eos
    sampled = bool(special.get("do_sample", False))
    return {
        "model": {
            "type": "llama",
            "bos_token_id": special.get("bos_token_id", 0),
            "eos_token_id": eos,
            "pad_token_id": pad,
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

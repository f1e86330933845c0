"""What a model's own files tell of it before its weights are loaded: a Hugging Face folder or a GGUF file. No torch."""

import re
from collections import Counter
from pathlib import Path

from edgedistill.errors import InputError
from edgedistill.facts import ModelFacts, TokenizerFacts
from edgedistill.models.gguf_file import read_header
from edgedistill.models.gguf_header import GGUFHeader
from edgedistill.models.gguf_model import gguf_shape
from edgedistill.models.hf_folder import license_of, read_shape
from edgedistill.models.hf_weights import check_weights
from edgedistill.models.hub import is_hub_id
from edgedistill.models.vocabulary import Vocabulary, from_folder, gguf_pre, read_json
from edgedistill.models.wheel import license_beside

# The number format at the end of a GGUF file's name: "SmolLM2-135M-Instruct.Q4_1".
_FORMAT_SUFFIX = re.compile(r"[.\-_](i?q\d\w*|t?q\d\w*|b?f16|f32|mxfp4)$", re.IGNORECASE)
FLOATS = ("f32", "f16", "bf16")
# Bytes a weight where only the config is here: what the hub stores nearly always.
CONFIG_ONLY_WEIGHT_BYTES = 2


def read_facts(path: Path, source: str, config_only: bool = False) -> ModelFacts:
    """The facts of a local model.

    Args:
        path: a Hugging Face folder or a .gguf file, as `source.resolve` gives it.
        source: what the user typed.
        config_only: the folder may be without weights (`source.resolve_config_only`); their bytes are then counted as
            16-bit.
    Raises:
        InputError: anything missing, damaged or unsupported; one sentence that names it.
    """
    if path.is_dir():
        return _folder_facts(path, source, config_only)
    if path.is_file():
        return _gguf_facts(path, source)
    raise InputError(f"{path}: no such model; it must be a Hugging Face folder or a .gguf file")


def _folder_facts(path: Path, source: str, config_only: bool) -> ModelFacts:
    shape = read_shape(path)
    vocabulary = from_folder(path)
    _check_vocabulary(path, vocabulary, shape.vocab)
    _check_end(path, vocabulary.eos)
    has_weights = any(path.glob("*.safetensors")) or any(path.glob("*.safetensors.index.json"))
    weight_bytes = (
        check_weights(path, shape) if has_weights or not config_only else shape.parameters * CONFIG_ONLY_WEIGHT_BYTES
    )
    name = source.rstrip("/").rsplit("/", 1)[-1] if is_hub_id(source) and not Path(source).exists() else _name_of(path)
    tokenizer = TokenizerFacts(
        vocabulary.model, vocabulary.pre, len(vocabulary.tokens), vocabulary.chat_template is not None
    )
    stated = read_json(path / "config.json").get("max_position_embeddings")
    return ModelFacts(
        name,
        source,
        str(path),
        "hf",
        shape,
        tokenizer,
        weight_bytes,
        license_of(path),
        _more_than(shape.context, stated),
    )


def _name_of(path: Path) -> str:
    """What a folder's model is called: of a snapshot in the hub's cache by the hub, not by its commit."""
    folder = path.resolve()
    hub = folder.parent.parent.name
    if folder.parent.name == "snapshots" and hub.startswith("models--"):
        return hub.rsplit("--", 1)[-1]
    return folder.name


def _gguf_facts(path: Path, source: str) -> ModelFacts:
    header = read_header(path)
    shape = gguf_shape(header)
    model, pre = gguf_pre(header)
    tokens = header.count("tokenizer.ggml.tokens")
    if tokens > shape.vocab or not tokens:
        raise InputError(f"{path}: {tokens} tokens but {shape.vocab} rows in the embedding; the file is damaged")
    _check_end(path, header.get("tokenizer.ggml.eos_token_id", int))
    template = header.get("tokenizer.chat_template", str)
    name = _FORMAT_SUFFIX.sub("", path.stem)
    stated = header.get("general.license", str) or license_beside(path)
    tokenizer = TokenizerFacts(model, pre, tokens, bool(template))
    weight_bytes = sum(tensor.size for tensor in header.tensors.values())
    context = header.get(f"{header.get('general.architecture', str)}.context_length", int)
    limit = _more_than(shape.context, context)
    return ModelFacts(
        name, source, str(path), "gguf", shape, tokenizer, weight_bytes, stated, limit, _quantized(header)
    )


def _quantized(header: GGUFHeader) -> str | None:
    """The number format that holds most bytes of a file, None if that is a float."""
    held: Counter[str] = Counter()
    for tensor in header.tensors.values():
        held[tensor.type_name] += tensor.size
    most = max(held, key=lambda name: held[name])
    return None if most in FLOATS else most


def _more_than(context: int, stated: object) -> int | None:
    return stated if isinstance(stated, int) and stated > context else None


def _check_end(path: Path, eos: int | None) -> None:
    if eos is None:
        raise InputError(
            f"{path}: its tokenizer names no eos token, so generation would never end; name one in "
            "tokenizer_config.json"
        )


def _check_vocabulary(path: Path, vocabulary: Vocabulary, rows: int) -> None:
    if len(vocabulary.tokens) > rows:
        raise InputError(
            f"{path}: tokenizer.json has ids up to {len(vocabulary.tokens) - 1}, the embedding {rows} rows; "
            "the tokenizer isn't this model's, or the embedding was not resized"
        )

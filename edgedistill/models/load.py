"""A causal language model in torch, from a Hugging Face folder, a GGUF file or weights in memory; and back to disk.

Read by hand instead of by from_pretrained: nothing is printed, nothing is downloaded, no pickle and no code of the
model's is ever loaded, and a GGUF file's weights are exactly gguf's dequantization.
"""

import json
import shutil
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from edgedistill.errors import InputError
from edgedistill.facts import HEAD, ModelShape
from edgedistill.families import FAMILIES
from edgedistill.models import rope
from edgedistill.models.gguf_file import read_header
from edgedistill.models.gguf_model import gguf_shape
from edgedistill.models.gguf_weights import dequantized_tensors
from edgedistill.models.hf_folder import read_shape, shape_of
from edgedistill.models.hf_weights import GRID_FILE, check_weights, weight_files
from edgedistill.models.tensors import ModelTensors
from edgedistill.models.tokenizer import save_tokenizer
from edgedistill.models.vocabulary import Vocabulary, read_json, read_vocabulary
from edgedistill.models.write_tensors import write_tensors

if TYPE_CHECKING:
    from transformers import GenerationConfig, PreTrainedConfig, PreTrainedModel

WEIGHTS = "model.safetensors"


def load_model(
    path: Path,
    dtype: torch.dtype = torch.float32,
    weights: Mapping[str, Tensor] | None = None,
    device: str = "cpu",
) -> "PreTrainedModel":
    """The model of a Hugging Face folder or a .gguf file, in evaluation mode, with sdpa attention.

    Args:
        path: a folder or a .gguf file.
        dtype: of all weights; float32 keeps a GGUF file's dequantized values exactly.
        weights: tensors by Hugging Face name, [O, I] or [I], used instead of the folder's own: a checkpoint on its grid
            is loaded with its decoded tensors. They are copied.
        device: where the model lies, in torch's words.
    Raises:
        InputError: missing, damaged or unsupported files, or a weight that isn't a finite number.
    """
    if weights is not None:
        shape, tensors = read_shape(path), ((name, tensor.detach().clone()) for name, tensor in weights.items())
        return build_model(shape, tensors, dtype, read_vocabulary(path), path, device)
    if path.is_dir():
        shape = read_shape(path)
        if (path / GRID_FILE).is_file() and not (path / WEIGHTS).is_file():
            raise InputError(f"{path}: holds a checkpoint on its grid; load it with its decoded tensors as `weights`")
        check_weights(path, shape)
        return build_model(shape, _safetensors(path), dtype, read_vocabulary(path), path, device)
    header = read_header(path)
    shape = gguf_shape(header)
    tensors = ((name, torch.from_numpy(values)) for name, values in dequantized_tensors(header, shape))
    return build_model(shape, tensors, dtype, read_vocabulary(path), path, device)


def load_tensors(path: Path, names: Iterable[str]) -> dict[str, Tensor]:
    """Some tensors of a folder or a .gguf file, by their Hugging Face names, in float32; no other stays in memory.

    Raises:
        InputError: as `load_model`.
    """
    chosen = set(names)
    if path.is_dir():
        check_weights(path, read_shape(path))
        stored = _safetensors(path, chosen)
    else:
        header = read_header(path)
        every = dequantized_tensors(header, gguf_shape(header))
        stored = ((name, torch.from_numpy(values)) for name, values in every if name in chosen)
    return {name: tensor.float() for name, tensor in stored}


def copy_model(source: Path, folder: Path) -> None:
    """Write the model of a folder or a .gguf file as a float checkpoint, as `save_model` does: its tensors in the types
    that they have, a GGUF file's in float32, one in memory at a time.

    Raises:
        InputError: as `load_model`.
    """
    tensors = ModelTensors(source)
    dtypes = {tensor.name: tensors.dtype(tensor.name) for tensor in tensors.shape.tensors()}
    counts = Counter(dtypes.values())
    model = empty_model(source, max(counts, key=lambda dtype: counts[dtype]))
    folder.mkdir(parents=True, exist_ok=True)
    _save_configs(
        model.config, model.generation_config, shape_of(folder / "config.json", model.config.to_dict()), folder
    )
    write_tensors(folder / WEIGHTS, dtypes, tensors.dimensions, tensors.__getitem__)
    save_tokenizer(source, folder)


def save_model(model: "PreTrainedModel", tokenizer_source: Path, folder: Path) -> None:
    """Write a float checkpoint: both configs, model.safetensors in the model's dtype, and a tokenizer.

    Args:
        tokenizer_source: the folder or .gguf file whose tokenizer the model has.
    """
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    _save_configs(
        model.config, model.generation_config, shape_of(folder / "config.json", model.config.to_dict()), folder
    )
    tied = model.config.tie_word_embeddings
    state = {name: value for name, value in model.state_dict().items() if not (tied and name == HEAD)}
    tensors = {name: value.detach().cpu().contiguous() for name, value in state.items()}
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    save_tokenizer(tokenizer_source, folder)


def save_side_files(source: Path, folder: Path) -> None:
    """Write what lies beside the weights of the model at `source`: config.json, generation_config.json, the tokenizer.

    A folder's are copied byte for byte.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        read_shape(source)
        for name in ("config.json", "generation_config.json"):
            if (source / name).is_file():
                shutil.copyfile(source / name, folder / name)
        save_tokenizer(source, folder)
        return
    from transformers import GenerationConfig

    shape = gguf_shape(read_header(source))
    config = model_config(shape, read_vocabulary(source))
    _save_configs(config, GenerationConfig.from_model_config(config), shape, folder)
    save_tokenizer(source, folder)


def _save_configs(config: "PreTrainedConfig", generation: "GenerationConfig", shape: ModelShape, folder: Path) -> None:
    # transformers 4 and most other readers know the rotary settings by older names; 5 reads rope_parameters.
    values = config.to_diff_dict() | rope.old_config(shape)
    (folder / "config.json").write_text(json.dumps(values, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    (folder / "generation_config.json").write_text(generation.to_json_string(), encoding="utf-8")


def model_config(shape: ModelShape, vocabulary: Vocabulary) -> "PreTrainedConfig":
    """transformers' config of a shape."""
    from transformers import AutoConfig

    family = FAMILIES[shape.family]
    values: dict[str, Any] = {
        "vocab_size": shape.vocab,
        "hidden_size": shape.width,
        "intermediate_size": shape.ffn,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "max_position_embeddings": shape.context,
        "rms_norm_eps": shape.norm_eps,
        "rope_parameters": rope.rope_parameters(shape),
        "tie_word_embeddings": shape.tied,
        "bos_token_id": vocabulary.bos,
        "eos_token_id": vocabulary.eos,
        "pad_token_id": vocabulary.pad,
    }
    if not family.square:
        values["head_dim"] = shape.head_dim
    if family.bias_options:
        values |= {"attention_bias": shape.output_bias, "mlp_bias": shape.mlp_bias}
    # Where a Gemma has no windowed layer, transformers asks for a window all the same, and takes its default.
    if family.window_layers is not None and (shape.window is not None or not family.windows):
        values["sliding_window"] = shape.window
    if family.windows:
        kinds = [rope.SLIDING if shape.layer_kind(index)[0] else rope.FULL for index in range(shape.layers)]
        values |= {
            "layer_types": kinds,
            "query_pre_attn_scalar": round((shape.attention_scale or shape.head_dim**-0.5) ** -2),
        }
    if shape.no_rope is not None:
        values["no_rope_layers"] = [int(not without) for without in shape.no_rope]
    if shape.family == "granite":
        values |= {
            "embedding_multiplier": shape.embedding_scale,
            "residual_multiplier": shape.residual_scale,
            "attention_multiplier": shape.attention_scale,
            "logits_scaling": 1 / shape.logit_scale,
        }
    if shape.rope_scaling and family.fused:
        values[rope.ORIGINAL] = shape.rope_scaling[rope.ORIGINAL]
    config: PreTrainedConfig = AutoConfig.for_model(shape.family, **values)
    config.architectures = [family.model_class]
    return config


def build_model(
    shape: ModelShape,
    tensors: Iterable[tuple[str, Tensor]],
    dtype: torch.dtype,
    vocabulary: Vocabulary,
    where: Path,
    device: str = "cpu",
) -> "PreTrainedModel":
    """A model of `shape` that owns the given tensors, on a device.

    Raises:
        InputError: a tensor is missing, of another shape, or holds a value that isn't finite; `where` names the model.
    """
    expected = {tensor.name: tensor for tensor in shape.tensors()}
    state: dict[str, Tensor] = {}
    for name, value in tensors:
        if name not in expected:
            continue
        size = expected[name].dimensions
        if tuple(value.shape) != size:
            raise InputError(f"{where}: {name} has shape {list(value.shape)}, it must be {list(size)}")
        if not torch.isfinite(value).all():
            raise InputError(
                f"{where}: {name} holds values that aren't finite numbers; the file is damaged or its training diverged"
            )
        state[name] = value.to(device=device, dtype=dtype)
    if missing := expected.keys() - state.keys():
        raise InputError(f"{where}: {len(missing)} of {len(expected)} tensors are missing, among them {min(missing)}")
    config = model_config(shape, vocabulary)
    config.dtype = dtype
    model = assemble(config, state, device)
    _set_generation(model, vocabulary, where)
    return model


def empty_model(path: Path, dtype: torch.dtype = torch.float32) -> "PreTrainedModel":
    """The model of a folder or a .gguf file without its weights: these are on the meta device, all else is as
    `load_model` gives it.

    Args:
        dtype: what the config says of the weights.
    Raises:
        InputError: missing, damaged or unsupported files.
    """
    shape = read_shape(path) if path.is_dir() else gguf_shape(read_header(path))
    vocabulary = read_vocabulary(path)
    config = model_config(shape, vocabulary)
    config.dtype = dtype
    model = _skeleton(config)
    _set_generation(model, vocabulary, path)
    return model.eval()


def _set_generation(model: "PreTrainedModel", vocabulary: Vocabulary, where: Path) -> None:
    """Give a model the generation config of its folder, or the vocabulary's ends of a text."""
    from transformers import GenerationConfig

    generation = where / "generation_config.json" if where.is_dir() else None
    if generation is not None and generation.is_file():
        try:
            model.generation_config = GenerationConfig.from_dict(read_json(generation))
        except (ValueError, TypeError, AttributeError, KeyError) as error:  # transformers checks some words and numbers
            reason = " ".join(str(error).split())[:200]
            raise InputError(f"{generation}: transformers doesn't take it: {reason}") from error
    elif further := [index for index in (vocabulary.eot, vocabulary.eom) if index is not None]:
        model.generation_config.eos_token_id = [vocabulary.eos, *further]


def assemble(config: "PreTrainedConfig", state: Mapping[str, Tensor], device: str = "cpu") -> "PreTrainedModel":
    """A model that takes the tensors of `state`, which lie on a device, as its own, without initializing any first. In
    evaluation mode.

    Raises:
        ValueError: `state` lacks a weight.
    """
    model = _skeleton(config)
    model.load_state_dict(state, strict=False, assign=True)
    model.tie_weights()
    if empty := [name for name, value in (*model.named_parameters(), *model.named_buffers()) if value.is_meta]:
        raise ValueError(f"{len(empty)} tensors of the model have no values, first {empty[0]}")
    torch.nn.Module.to(model, device)  # transformers' own `to` has no types
    return model.eval()


def _skeleton(config: "PreTrainedConfig") -> "PreTrainedModel":
    """A model whose weights are on the meta device."""
    import transformers

    config._attn_implementation = "sdpa"
    with torch.device("meta"):
        model: PreTrainedModel = getattr(transformers, FAMILIES[config.model_type].model_class)(config)
    # On the meta device what isn't a weight has no values either: rotary tables, and gemma's scale of the embedding.
    model.model.rotary_emb = type(model.model.rotary_emb)(config=config)
    embedding = model.get_input_embeddings()
    if hasattr(embedding, "embed_scale"):
        embedding.embed_scale = torch.tensor(embedding.scalar_embed_scale)
    return model


def _safetensors(folder: Path, chosen: Collection[str] | None = None) -> Iterable[tuple[str, Tensor]]:
    from safetensors import safe_open

    for path in weight_files(folder):
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118
                if chosen is None or name in chosen:
                    yield name, file.get_tensor(name)

"""Write a llama on its grid as an ONNX folder that onnxruntime, onnxruntime-genai and transformers.js load.

    config.json, generation_config.json, tokenizer.json, tokenizer_config.json, chat_template.jinja, genai_config.json
    onnx/model_q4.onnx or onnx/model_quantized.onnx (transformers.js' names for its dtypes q4 and q8)

Weights lie inside the .onnx file up to 1.5 GB, beyond that in `*.onnx_data` beside it: protobuf ends at 2 GiB, and one
file is one hash, one download and one thing less to lose. The codes and scales are the checkpoint's own; nothing is rounded here.
"""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, helper

from edgedistill import __version__
from edgedistill.errors import InputError, RunError, did_you_mean
from edgedistill.export.onnx import companions
from edgedistill.export.onnx.blocks import onnx_bits
from edgedistill.export.onnx.graph import MS, LlamaGraph
from edgedistill.facts import ModelShape
from edgedistill.quant.checkpoint import GridCheckpoint
from edgedistill.quant.grids import GridTensor

SCHEMA_KEY, SCHEMA = "edgedistill.schema", "edgedistill.onnx/1"
MIX_KEY = "edgedistill.mix"
OPSET, IR_VERSION = 21, 10  # which belong together; onnxruntime 1.23 reads them
MODEL_FILES = {"q4_0": "model_q4.onnx", "q8_0": "model_quantized.onnx"}
FAMILIES = ("llama",)
ROPE_TYPES = ("default", "linear", "llama3", "yarn")  # angles that don't depend on the length of the text
ACCURACY_LEVELS = (0, 1, 4)  # 2 and 3 are float16 and bfloat16, for devices whose kernels have them
INSIDE_LIMIT_BYTES = 1_500_000_000
ALIGNMENT = 4096  # of tensors in the data file: onnxruntime maps them page by page
# Rotary angles are stored for each position. Past this the float32 cache of keys and values takes far more memory than
# the weights (1.5 GB for SmolLM2-135M), and the angles of Llama 3.2's 131072 positions would be 33 MB of a file.
MAX_POSITIONS = 32768


def write_onnx(
    checkpoint: GridCheckpoint,
    folder: Path,
    shape: ModelShape,
    out: Path,
    metadata: Mapping[str, str],
    accuracy_level: int = 4,
) -> Path:
    """Write the export folder `out` and return it.

    The same input gives the same bytes. `out` appears whole or not at all; an earlier export there is replaced.

    Args:
        checkpoint: every tensor of `shape`, all but the norms on a grid that ONNX has.
        folder: config.json and the tokenizer of the model, as transformers saves them.
        metadata: becomes the model's metadata_props (name, license, teacher, recipe, run hash, ...).
        accuracy_level: 4 rounds activations to int8 (fast, as llama.cpp does), 0 keeps them float32 (for comparisons).
    Raises:
        InputError: the model, the mix, the folder or `out` isn't what can be exported.
        RunError: the disk refused.
    """
    check_exportable(checkpoint, shape, accuracy_level)
    config = companions.load_config(folder, shape)
    positions = min(shape.context, MAX_POSITIONS)
    cos, sin = rotary_caches(config, positions)
    outside = stored_bytes(checkpoint) > INSIDE_LIMIT_BYTES
    model_name = MODEL_FILES[checkpoint.mix]
    beside = companions.companion_files(folder, shape, positions, model_name, outside)
    check_replaceable(out, set(beside) | {"onnx"})
    partial = out.with_name(f"{out.name}.partial")
    try:
        shutil.rmtree(partial, ignore_errors=True)  # of a run that was killed
        (partial / "onnx").mkdir(parents=True)
        model_file = partial / "onnx" / model_name
        store = OutsideStore(model_file.with_name(f"{model_name}_data")) if outside else store_inside
        graph = LlamaGraph(checkpoint, shape, store, accuracy_level).build(cos, sin)
        opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(MS, 1)]
        model = helper.make_model(
            graph, opset_imports=opsets, ir_version=IR_VERSION, producer_name="edgedistill", producer_version=__version__
        )
        helper.set_model_props(model, properties({**metadata, MIX_KEY: checkpoint.mix, SCHEMA_KEY: SCHEMA}))
        # `deterministic` fixes the order of protobuf's maps.
        model_file.write_bytes(model.SerializeToString(deterministic=True))
        for name, content in beside.items():
            (partial / name).write_bytes(content)
        if out.exists():
            shutil.rmtree(out)
        partial.rename(out)
    except OSError as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise RunError(
            f"{out}: the ONNX folder could not be written: {error.strerror or error}. Nothing partial was left; "
            "free some space or choose another folder."
        ) from error
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return out


def check_exportable(checkpoint: GridCheckpoint, shape: ModelShape, accuracy_level: int) -> None:
    """Raise InputError unless this builder knows the model and the checkpoint holds exactly its tensors."""
    if checkpoint.mix not in MODEL_FILES:
        raise InputError(
            f"mix '{checkpoint.mix}' has no ONNX export; it must be one of {', '.join(MODEL_FILES)}. Export it as GGUF, "
            f"or choose another mix.{did_you_mean(checkpoint.mix, MODEL_FILES)}"
        )
    if shape.family not in FAMILIES:
        raise InputError(f"model family '{shape.family}' has no ONNX export; it must be one of {', '.join(FAMILIES)}.")
    if accuracy_level not in ACCURACY_LEVELS:
        raise InputError(f"accuracy_level is {accuracy_level}; it must be one of {', '.join(map(str, ACCURACY_LEVELS))}.")
    if shape.head_dim % 16:
        raise InputError(f"heads of {shape.head_dim} channels have no ONNX export; onnxruntime's attention wants a multiple of 16.")
    expected = {t.name: t for t in shape.tensors()}
    missing, extra = sorted(set(expected) - set(checkpoint.tensors)), sorted(set(checkpoint.tensors) - set(expected))
    if missing or extra:
        named = f"lacks {missing[0]}" if missing else f"also holds {extra[0]}"
        raise InputError(f"the checkpoint {named}; a llama of {shape.layers} layers has {len(expected)} tensors, this has {len(checkpoint.tensors)}.")
    for name, tensor in checkpoint.tensors.items():
        want = expected[name]
        sizes = (want.cols,) if want.kind == "norm" else (want.rows, want.cols)
        if tuple(tensor.shape) != sizes:
            raise InputError(f"the checkpoint's {name} has shape {list(tensor.shape)}; the model's config says {list(sizes)}.")
        if isinstance(tensor, GridTensor) == (want.kind == "norm"):
            raise InputError(f"the checkpoint's {name} is {'on a grid' if want.kind == 'norm' else 'not on a grid'}; mix '{checkpoint.mix}' has it otherwise.")


def check_replaceable(out: Path, names: set[str]) -> None:
    """Raise InputError where `out` holds anything that an export doesn't write, since it will be replaced."""
    if out.is_dir():
        strange = sorted(p.name for p in out.iterdir() if p.name not in names)
        if strange:
            raise InputError(f"{out} holds '{strange[0]}', which no ONNX export writes; choose an empty or a new folder.")
    elif out.exists():
        raise InputError(f"{out} is a file; an ONNX export is a folder. Choose another name.")


def stored_bytes(checkpoint: GridCheckpoint) -> int:
    """Bytes of all codes and scales as the model file holds them."""
    total = 0
    for tensor in checkpoint.tensors.values():
        if isinstance(tensor, GridTensor):
            total += tensor.codes.numel() * onnx_bits(tensor.grid) // 8 + tensor.scale.numel() * 2
        else:
            total += tensor.numel() * 4
    return total


def rotary_caches(config: Any, positions: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Cosines and sines [positions, head dim / 2] as transformers computes them, rope scaling included.

    Raises:
        InputError: the scaling depends on the length of the text, so no table can hold it.
    """
    import torch
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

    rope_type = (config.rope_parameters or {}).get("rope_type", "default")
    if rope_type not in ROPE_TYPES:
        raise InputError(f"rope type '{rope_type}' has no ONNX export; it must be one of {', '.join(ROPE_TYPES)}.")
    with torch.no_grad():
        cos, sin = LlamaRotaryEmbedding(config)(torch.zeros(1), torch.arange(positions).unsqueeze(0))
    half = cos.shape[-1] // 2  # transformers repeats the angles for the second half of a head
    return cos[0, :, :half].float().contiguous().numpy(), sin[0, :, :half].float().contiguous().numpy()


def properties(values: Mapping[str, str]) -> dict[str, str]:
    """Metadata in a fixed order, whatever order it came in."""
    return {key: str(values[key]) for key in sorted(values)}


def store_inside(name: str, values: NDArray[np.generic]) -> TensorProto:
    """An initializer whose bytes are part of the model file."""
    tensor = TensorProto(name=name, dims=values.shape, data_type=helper.np_dtype_to_tensor_dtype(values.dtype))
    tensor.raw_data = np.ascontiguousarray(values).tobytes()
    return tensor


class OutsideStore:
    """Initializers whose bytes go to a data file beside the model, one after another on page borders."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.end = 0
        path.touch()

    def __call__(self, name: str, values: NDArray[np.generic]) -> TensorProto:
        if values.nbytes < ALIGNMENT:  # onnxruntime reads axes and shapes before it opens the data file
            return store_inside(name, values)
        tensor = TensorProto(name=name, dims=values.shape, data_type=helper.np_dtype_to_tensor_dtype(values.dtype))
        tensor.data_location = TensorProto.EXTERNAL
        offset = -(-self.end // ALIGNMENT) * ALIGNMENT
        with self.path.open("r+b") as file:
            file.seek(offset)
            file.write(np.ascontiguousarray(values).data)
        self.end = offset + values.nbytes
        for key, value in (("location", self.path.name), ("offset", offset), ("length", values.nbytes)):
            tensor.external_data.add(key=key, value=str(value))
        return tensor


"""The export stages: write a GGUF file or an ONNX folder, read it back and compare it before it counts.

Beside them the two files that a shipped one is compared with: the float model in F16, and plain rounding.
"""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from edgedistill.export import GGUF_NAME, ONNX_NAME, PROOF
from edgedistill.export.gguf.write import write_gguf
from edgedistill.export.proven import FileSpec, write_proven
from edgedistill.facts import ModelShape
from edgedistill.formats import F16, F32, NumberFormat
from edgedistill.models.tensors import ModelTensors
from edgedistill.quant.checkpoint import GridCheckpoint, load_grid
from edgedistill.quant.rounded import RoundedTensors
from edgedistill.store.whole import write_json


def export_float(model: Path, shape: ModelShape, out: Path, metadata: Mapping[str, str]) -> None:
    """The model of a folder as an F16 GGUF file."""
    formats = {tensor.name: F32 if tensor.flat else F16 for tensor in shape.tensors()}
    checkpoint = GridCheckpoint(F16.name, RoundedTensors(ModelTensors(model), formats))
    write_gguf(checkpoint, model, shape, out, dict(metadata))


def export_rounded(
    model: Path,
    shape: ModelShape,
    mix: str,
    formats: Mapping[str, NumberFormat],
    out: Path,
    metadata: Mapping[str, str],
) -> None:
    """The model of a folder as llama.cpp's own quantizer rounds it to the mix with these formats by tensor."""
    checkpoint = GridCheckpoint(mix, RoundedTensors(ModelTensors(model), formats))
    write_gguf(checkpoint, model, shape, out, dict(metadata))


def export_recovered(
    kind: str, folder: Path, shape: ModelShape, work: Path, metadata: Mapping[str, str], accuracy_level: int
) -> None:
    """Write `work/model.gguf` or `work/onnx/`, and `work/verify.json` that says what was compared.

    Args:
        kind: "gguf" or "onnx".
        folder: the checkpoint on its grid, with config and tokenizer.
        shape: the student's.
        work: the stage's folder.
        metadata: name, licence, teacher, recipe, mix and the key of the run.
        accuracy_level: MatMulNBits' in an ONNX file.
    Raises:
        VerifyError: the file doesn't hold the checkpoint's weights, shape or tokenizer, or llama.cpp splits text
            otherwise.
    """
    checkpoint = load_grid(folder)
    path = work / (GGUF_NAME if kind == "gguf" else ONNX_NAME)
    spec = FileSpec(kind, metadata, accuracy_level)
    comparison, token_ids = write_proven(checkpoint, folder, shape, path, spec)
    proof = {
        **asdict(comparison),
        "differences": len(comparison.differences),
        "token_ids_equal_to_llama_cpp": token_ids,
    }
    write_json(work / PROOF, {"kind": kind, "mix": checkpoint.mix, **proof})

"""Write a packed file and prove it: read it back, compare every weight, and compare token ids with llama.cpp's."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from edgedistill.export.compare import Comparison
from edgedistill.export.gguf.check import check_token_ids, verify_gguf
from edgedistill.export.gguf.write import write_gguf
from edgedistill.facts import ModelShape
from edgedistill.quant.checkpoint import GridCheckpoint


@dataclass(frozen=True)
class FileSpec:
    """How a file is written.

    Attributes:
        kind: "gguf" or "onnx".
        metadata: name, licence and the like, which the file carries.
        accuracy_level: MatMulNBits' in an ONNX file.
    """

    kind: str
    metadata: Mapping[str, str]
    accuracy_level: int


def write_proven(
    checkpoint: GridCheckpoint, folder: Path, shape: ModelShape, path: Path, spec: FileSpec
) -> tuple[Comparison, int | None]:
    """Write a GGUF file or an ONNX folder at `path`; `folder` holds the checkpoint's config and tokenizer.

    Returns:
        The comparison, and how many token ids llama.cpp gave alike; None for ONNX, whose folder holds the tokenizer's
        own files.
    Raises:
        VerifyError: the file doesn't hold the checkpoint's weights, shape or tokenizer, or llama.cpp splits text
            otherwise.
        RunError: the disk is full.
    """
    if spec.kind == "gguf":
        write_gguf(checkpoint, folder, shape, path, dict(spec.metadata))
        return verify_gguf(checkpoint, folder, shape, path), check_token_ids(folder, path)
    # onnx is an optional package, which GGUF doesn't need.
    from edgedistill.export.onnx.build import write_onnx
    from edgedistill.export.onnx.check import verify_onnx

    write_onnx(checkpoint, folder, shape, path, dict(spec.metadata), spec.accuracy_level)
    return verify_onnx(checkpoint, folder, shape, path), None

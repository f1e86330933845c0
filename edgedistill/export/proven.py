"""Write a packed file and prove it: read back, compared weight by weight, its token ids held against llama.cpp's."""

from collections.abc import Mapping
from pathlib import Path

from edgedistill.export.compare import Comparison
from edgedistill.export.gguf.check import check_token_ids, verify_gguf
from edgedistill.export.gguf.write import write_gguf
from edgedistill.facts import ModelShape
from edgedistill.quant.checkpoint import GridCheckpoint


def write_proven(
    kind: str,
    checkpoint: GridCheckpoint,
    folder: Path,
    shape: ModelShape,
    path: Path,
    metadata: Mapping[str, str],
    accuracy_level: int,
) -> tuple[Comparison, int | None]:
    """Write a GGUF file or an ONNX folder at `path`.

    Args:
        kind: "gguf" or "onnx".
        folder: the checkpoint's config and tokenizer.
        metadata: what the file says of itself.
        accuracy_level: MatMulNBits' in an ONNX file.
    Returns:
        The comparison, and how many token ids llama.cpp gave alike; None for ONNX, whose folder holds the tokenizer's
        own files.
    Raises:
        VerifyError: the file doesn't hold the checkpoint's weights, shape or tokenizer, or llama.cpp splits text
            otherwise.
        RunError: the disk is full.
    """
    if kind == "gguf":
        write_gguf(checkpoint, folder, shape, path, dict(metadata))
        return verify_gguf(checkpoint, folder, shape, path), check_token_ids(folder, path)
    # onnx is an extra: who exports only GGUF does without.
    from edgedistill.export.onnx.build import write_onnx
    from edgedistill.export.onnx.check import verify_onnx

    write_onnx(checkpoint, folder, shape, path, dict(metadata), accuracy_level)
    return verify_onnx(checkpoint, folder, shape, path), None

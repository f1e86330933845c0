"""Prove that a GGUF file holds a checkpoint: its weights bit for bit, its shape, its tokenizer."""

from collections.abc import Iterator, Sequence
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgedistill.errors import VerifyError
from edgedistill.export.compare import Comparison, WeightDifference, compare_tensors, tensor_order
from edgedistill.export.gguf.read import read_gguf
from edgedistill.export.gguf.tokenizer import pad_vocabulary
from edgedistill.export.gguf.write import tensor_format
from edgedistill.facts import ModelShape
from edgedistill.models.differences import known_difference
from edgedistill.models.gguf_file import read_header
from edgedistill.models.gguf_model import gguf_shape, stored_shape
from edgedistill.models.tokenizer import TEST_TEXTS, load_tokenizer
from edgedistill.models.vocabulary import Vocabulary, from_folder, from_gguf
from edgedistill.quant.checkpoint import GridCheckpoint
from edgedistill.quant.grids import GridTensor
from edgedistill.runtimes.llama import LlamaCpp


def compare_gguf(checkpoint: GridCheckpoint, path: Path) -> Comparison:
    """Compare every tensor of the file with the checkpoint, by value and, on a grid, byte by byte.

    Two blocks of scale zero have equal values whatever their codes; their bytes must be equal all the same.

    Raises:
        VerifyError: a tensor is stored in another format, missing or extra.
        InputError: the file is damaged, or of a family that we don't know.
    """
    by_bytes: dict[str, WeightDifference] = {}

    def values() -> Iterator[tuple[str, NDArray[np.float32]]]:
        for name, raw, format_name, values_read in read_gguf(path):
            if name in checkpoint.tensors:
                number_format = tensor_format(checkpoint, name)
                if format_name != number_format.name:
                    raise VerifyError(
                        f"{path}: {name} is stored as {format_name}, the checkpoint has it as {number_format.name}; "
                        "export it again"
                    )
                tensor = checkpoint.tensors[name]
                if isinstance(tensor, GridTensor) and tuple(values_read.shape) == tensor.shape:
                    unequal = tensor.packed.numpy() != raw
                    if unequal.any():
                        row, byte = np.unravel_index(int(unequal.argmax()), unequal.shape)
                        block = int(byte) // number_format.block_bytes
                        expected = float(tensor.decode()[int(row), block * number_format.block])
                        by_bytes[name] = WeightDifference(
                            name, int(row), block, expected, float(values_read[row, block * number_format.block])
                        )
            yield name, values_read

    compared = compare_tensors(checkpoint, values(), gguf_shape(read_header(path)).norm_offset)
    by_value = {difference.tensor: difference for difference in compared.differences}
    every = {**by_bytes, **by_value}
    return replace(compared, differences=tuple(every[name] for name in tensor_order(every)))


def verify_gguf(checkpoint: GridCheckpoint, folder: Path, shape: ModelShape, path: Path) -> Comparison:
    """`compare_gguf`, and the rest of the file: its shape and its tokenizer are those of the folder.

    Raises:
        VerifyError: a weight, a figure of the shape or a part of the tokenizer differs; the message names it.
    """
    compared = compare_gguf(checkpoint, path)
    compared.require_equal(str(path))
    header = read_header(path)
    _require_same(path, "shape", stored_shape(shape), gguf_shape(header))
    _require_same(path, "tokenizer", pad_vocabulary(from_folder(folder), shape.vocab, folder), from_gguf(header))
    return compared


def check_token_ids(folder: Path, path: Path, texts: Sequence[str] = TEST_TEXTS, threads: int = 1) -> int:
    """Compare llama.cpp's token ids for `texts` with those of the folder's tokenizer; return their number.

    Texts on which the two are known to differ (`models.differences`) aren't compared.

    Raises:
        VerifyError: they differ; the first text and position are named.
    """
    tokenizer = load_tokenizer(folder)
    vocabulary = from_folder(folder)
    # Where only a text's very beginning differs, each is compared as it stands in a chat: behind a special token.
    lead = vocabulary.token("eos") or "" if vocabulary.prefix == "first" else ""
    total = 0
    with LlamaCpp(path, threads=threads, context=64, parallel=1) as runtime:
        for text in (lead + text for text in texts):
            if known_difference(vocabulary, text):
                continue
            expected = tokenizer(text)["input_ids"]
            actual = runtime.tokenize(text, special=True, add_bos=True)
            if actual != expected:
                at = next(
                    (i for i, (a, b) in enumerate(zip(expected, actual, strict=False)) if a != b),
                    min(len(expected), len(actual)),
                )
                raise VerifyError(
                    f"{path}: llama.cpp splits {text[:40]!r} otherwise than the folder's tokenizer: "
                    f"from token {at} on {actual[at : at + 4]} instead of {expected[at : at + 4]}"
                )
            total += len(expected)
    return total


def _require_same(path: Path, what: str, expected: ModelShape | Vocabulary, actual: ModelShape | Vocabulary) -> None:
    for field in fields(expected):
        ours, theirs = getattr(expected, field.name), getattr(actual, field.name)
        if ours != theirs:
            raise VerifyError(
                f"{path}: its {what} differs from the checkpoint's in {field.name}: expected {_short(ours)}, found "
                f"{_short(theirs)}. Export it again."
            )


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) < 80 else text[:77] + "..."

"""The comparison that decides whether an exported file holds the checkpoint: what it finds, names and hashes."""

import hashlib

import numpy as np
import pytest
import torch

from edgedistill.errors import VerifyError
from edgedistill.export.compare import checkpoint_hash, compare_tensors, tensor_order, weights_hash
from edgedistill.quant.checkpoint import GridCheckpoint
from edgedistill.quant.fit import fit_ggml


@pytest.fixture
def checkpoint() -> GridCheckpoint:
    torch.manual_seed(0)
    return GridCheckpoint(
        "q4_0",
        {
            "model.embed_tokens.weight": fit_ggml(torch.randn(4, 64), "q8_0"),
            "model.layers.0.mlp.up_proj.weight": fit_ggml(torch.randn(8, 64), "q4_0"),
            "model.norm.weight": torch.rand(64),
        },
    )


def read(checkpoint: GridCheckpoint) -> dict[str, np.ndarray]:
    return {name: checkpoint.decode(name).numpy().copy() for name in checkpoint.tensors}


def test_the_same_weights_are_equal_in_any_order(checkpoint):
    comparison = compare_tensors(checkpoint, reversed(list(read(checkpoint).items())))
    assert comparison.equal
    assert (comparison.tensors, comparison.blocks) == (3, 4 * 2 + 8 * 2 + 64)
    assert comparison.sha256 == checkpoint_hash(checkpoint) == weights_hash(read(checkpoint).items())


def test_the_hash_is_what_its_description_says(checkpoint):
    values = read(checkpoint)
    names = ["model.embed_tokens.weight", "model.layers.0.mlp.up_proj.weight", "model.norm.weight"]
    digests = [hashlib.sha256(n.encode() + b"\0" + values[n].astype("<f4").tobytes()).digest() for n in names]
    assert checkpoint_hash(checkpoint) == hashlib.sha256(b"".join(digests)).hexdigest()


def test_one_weight_names_its_tensor_row_and_block(checkpoint):
    values = read(checkpoint)
    values["model.layers.0.mlp.up_proj.weight"][5, 40] += 1.0
    comparison = compare_tensors(checkpoint, values.items())
    (difference,) = comparison.differences
    assert (difference.tensor, difference.row, difference.block) == ("model.layers.0.mlp.up_proj.weight", 5, 1)
    assert difference.found == pytest.approx(difference.expected + 1.0)
    assert comparison.sha256 != checkpoint_hash(checkpoint)
    with pytest.raises(
        VerifyError,
        match=r"x.gguf: 1 of 3 tensors differ .* model.layers.0.mlp.up_proj.weight, row 5, block 1: expected",
    ):
        comparison.require_equal("x.gguf")


def test_a_negative_zero_is_a_difference(checkpoint):
    values = read(checkpoint)
    norm = torch.zeros(64)
    checkpoint.tensors["model.norm.weight"] = norm
    values["model.norm.weight"] = -norm.numpy()
    assert [d.tensor for d in compare_tensors(checkpoint, values.items()).differences] == ["model.norm.weight"]


def test_missing_extra_double_and_misshapen_tensors_are_named(checkpoint):
    values = list(read(checkpoint).items())
    with pytest.raises(VerifyError, match="lacks 1 of the checkpoint's 3 tensors, first model.norm.weight"):
        compare_tensors(checkpoint, values[:2])
    with pytest.raises(VerifyError, match="holds lm_head.weight, which the checkpoint doesn't have"):
        compare_tensors(checkpoint, [*values, ("lm_head.weight", np.zeros(1, np.float32))])
    with pytest.raises(VerifyError, match="twice"):
        compare_tensors(checkpoint, [*values, values[0]])
    with pytest.raises(VerifyError, match=r"model.norm.weight has shape \[32\], the checkpoint's \[64\]"):
        compare_tensors(checkpoint, [("model.norm.weight", np.zeros(32, np.float32))])


def test_layers_are_ordered_by_number():
    ordered = [
        "model.embed_tokens.weight",
        "model.layers.2.a",
        "model.layers.10.a",
        "model.norm.weight",
        "lm_head.weight",
    ]
    assert tensor_order(reversed(ordered)) == ordered

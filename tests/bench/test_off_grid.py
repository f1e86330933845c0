"""The model off its grid: every weight moved within its own cell, which is read from the file's bytes here."""

import gguf
import numpy as np
import pytest
import torch
from off_grid import write_off_grid
from safetensors.torch import load_file

from edgedistill.export.gguf.write import write_gguf
from edgedistill.formats import F32, Q4_1, Q8_0
from edgedistill.models.gguf_file import read_header
from edgedistill.models.gguf_weights import packed_tensors
from edgedistill.models.hf_folder import read_shape
from edgedistill.models.load import load_model
from edgedistill.quant.rounded import round_weights


@pytest.fixture(scope="module")
def moved(tiny_llama, tmp_path_factory):
    """A tiny model's Q4_1 file with a Q8_0 table, its shape, and the folder of the moved weights."""
    folder = tmp_path_factory.mktemp("off-grid")
    shape = read_shape(tiny_llama)
    formats = {
        tensor.name: F32 if len(tensor.dimensions) == 1 else Q8_0 if "embed" in tensor.name else Q4_1
        for tensor in shape.tensors()
    }
    write_gguf(
        round_weights(load_model(tiny_llama).state_dict(), formats, "q4_1"),
        tiny_llama,
        shape,
        folder / "q4_1.gguf",
        {"name": "tiny"},
    )
    write_off_grid(folder / "q4_1.gguf", folder / "off")
    return folder, shape


def steps_of(type_name, raw):
    """d of each weight's block from the bytes of [O, blocks], by ggml's layouts of q4_1 and q8_0."""
    size = {"q4_1": 20, "q8_0": 34}[type_name]
    d = np.ascontiguousarray(raw.reshape(len(raw), -1, size)[..., :2]).view(np.float16)[..., 0]
    return np.repeat(np.abs(d.astype(np.float32)), 32, axis=1)


def test_each_weight_moves_within_its_own_cell(moved):
    folder, shape = moved
    found = load_file(folder / "off" / "model.safetensors")
    seen = set()
    for name, tensor, raw in packed_tensors(read_header(folder / "q4_1.gguf"), shape):
        kind = gguf.GGMLQuantizationType(tensor.type_id)
        before = gguf.quants.dequantize(np.ascontiguousarray(raw), kind)
        seen.add(tensor.type_name)
        if tensor.type_name == "f32":
            assert np.array_equal(found[name].numpy(), before.reshape(tensor.shape))
            continue
        step = steps_of(tensor.type_name, raw)
        move = (found[name].numpy() - before) / np.where(step > 0, step, 1)
        assert np.abs(move).max() <= 0.5 + 1e-3
        # A uniform move of half a step to each side: its mean is 0, its mean square 1/12.
        assert abs(move.mean()) < 0.03
        assert move.var() == pytest.approx(1 / 12, rel=0.05)
    assert seen == {"f32", "q4_1", "q8_0"}


def test_the_folder_loads_and_follows_from_the_seed(moved, tmp_path):
    folder, _ = moved
    assert load_model(folder / "off")(torch.tensor([[5, 6, 7]])).logits.isfinite().all()
    first = load_file(folder / "off" / "model.safetensors")
    for seed, same in ((1, True), (2, False)):
        write_off_grid(folder / "q4_1.gguf", tmp_path / str(seed), seed)
        again = load_file(tmp_path / str(seed) / "model.safetensors")
        assert all(torch.equal(first[name], again[name]) for name in first) == same

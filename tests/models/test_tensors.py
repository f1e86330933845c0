"""Tensors read one at a time, and written so, against transformers and the safetensors library."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from edgedistill.errors import InputError
from edgedistill.export.gguf.write import float_checkpoint, write_gguf
from edgedistill.facts import EMBEDDING, HEAD
from edgedistill.models.hf_folder import read_shape
from edgedistill.models.load import copy_model, load_model, save_model
from edgedistill.models.tensors import ModelTensors
from edgedistill.models.write_tensors import write_tensors
from tests.tiny import VARIANTS, make_tiny


@pytest.mark.parametrize("family", ["llama", "gemma3_text", "phi3"])
def test_each_tensor_is_the_loaded_models(family, tmp_path):
    folder = make_tiny(family, tmp_path / family)
    state, tensors = load_model(folder).state_dict(), ModelTensors(folder)
    assert set(tensors) == set(state)
    for name in tensors:
        assert torch.equal(tensors[name], state[name]), name


def test_a_gguf_files_tensors_are_the_loaded_models(tmp_path):
    folder = make_tiny("gemma3_text", tmp_path / "gemma")
    shape, tensors = read_shape(folder), ModelTensors(folder)
    own = {tensor.name: tensors[tensor.name] for tensor in shape.tensors()}
    path = write_gguf(float_checkpoint(own, "f32"), folder, shape, tmp_path / "gemma.gguf", {"name": "gemma"})
    state = load_model(path).state_dict()
    for name, tensor in ModelTensors(path).items():
        assert torch.equal(tensor, state[name]), name


def test_a_tied_models_output_matrix_is_its_embedding(tiny_llama):
    tensors = ModelTensors(tiny_llama)
    assert torch.equal(tensors[HEAD], tensors[EMBEDDING])


def test_a_tensor_has_the_type_that_it_is_stored_in(tiny_llama, tmp_path):
    folder = _stored_as(tiny_llama, tmp_path / "bf16", torch.bfloat16)
    tensor = ModelTensors(folder)["model.layers.0.mlp.up_proj.weight"]
    assert tensor.dtype == torch.bfloat16
    assert torch.equal(tensor.float(), load_model(folder).state_dict()["model.layers.0.mlp.up_proj.weight"])


def test_a_value_that_is_no_number_is_named(tiny_llama, tmp_path):
    folder = _stored_as(tiny_llama, tmp_path / "nan", torch.float32)
    state = load_file(folder / "model.safetensors")
    state["model.norm.weight"][3] = float("nan")
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match=r"nan: model.norm.weight holds values that aren't finite numbers"):
        ModelTensors(folder)["model.norm.weight"]


def test_a_name_that_no_tensor_has(tiny_llama):
    with pytest.raises(KeyError):
        ModelTensors(tiny_llama)["model.layers.99.mlp.up_proj.weight"]


def test_written_bytes_are_the_librarys(tmp_path):
    torch.manual_seed(0)
    tensors = {
        "b": torch.randn(3, 5),
        "a": torch.randn(7).half(),
        "c": torch.randn(2, 2).bfloat16(),
        "ä": torch.randn(4),
        "aa": torch.randn(2, 9).bfloat16(),
    }
    save_file(tensors, tmp_path / "theirs", metadata={"format": "pt"})
    dtypes = {name: tensor.dtype for name, tensor in tensors.items()}
    sizes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    write_tensors(tmp_path / "ours", dtypes, sizes, tensors.__getitem__)
    assert (tmp_path / "ours").read_bytes() == (tmp_path / "theirs").read_bytes()


def test_a_tensor_that_isnt_as_announced(tmp_path):
    with pytest.raises(ValueError, match=r"a is torch.float32 \[2\], not as the header says"):
        write_tensors(tmp_path / "x", {"a": torch.float32}, {"a": (3,)}, lambda _name: torch.zeros(2))


@pytest.mark.parametrize("family", sorted(VARIANTS))
def test_a_copy_is_what_saving_the_loaded_model_writes(family, tmp_path):
    folder = make_tiny(family, tmp_path / family)
    copy_model(folder, tmp_path / "copied")
    save_model(load_model(folder), folder, tmp_path / "saved")
    for path in (tmp_path / "saved").iterdir():
        assert (tmp_path / "copied" / path.name).read_bytes() == path.read_bytes(), path.name


def test_a_copy_keeps_the_types(tiny_llama, tmp_path):
    folder = _stored_as(tiny_llama, tmp_path / "bf16", torch.bfloat16)
    copy_model(folder, tmp_path / "copied")
    theirs, ours = load_file(folder / "model.safetensors"), load_file(tmp_path / "copied" / "model.safetensors")
    assert all(torch.equal(ours[name], theirs[name]) and ours[name].dtype == torch.bfloat16 for name in theirs)
    assert '"dtype": "bfloat16"' in (tmp_path / "copied" / "config.json").read_text(encoding="utf-8")


def _stored_as(source: Path, folder: Path, dtype: torch.dtype) -> Path:
    save_model(load_model(source, dtype), source, folder)
    return folder

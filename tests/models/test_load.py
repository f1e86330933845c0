"""Loaded weights against gguf's dequantization and transformers' own loading."""

import ctypes
import json
import shutil
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from edgedistill.errors import InputError
from edgedistill.export.gguf.write import float_checkpoint, write_gguf
from edgedistill.models.facts import read_facts
from edgedistill.models.gguf_header import TENSOR_TYPES
from edgedistill.models.gguf_names import gguf_names, permuted_heads, to_gguf_rows
from edgedistill.models.hf_folder import read_shape
from edgedistill.models.load import load_model, save_model, save_side_files
from tests import ggml
from tests.tiny import make_tiny, make_tiny_llama

IDS = torch.arange(3, 63).view(2, 30)


@pytest.fixture(scope="module")
def untied(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("untied") / "model"
    return make_tiny_llama(folder, layers=2, width=256, ffn=256, heads=4, kv_heads=1, tied=False, seed=3)


def logits(model) -> torch.Tensor:
    with torch.no_grad():
        return model(IDS).logits


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_folder_is_loaded_as_transformers_does(dtype, tiny_llama, untied, capfd):
    for folder in (tiny_llama, untied):
        ours = load_model(folder, dtype)
        assert capfd.readouterr() == ("", "")
        theirs = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval()
        capfd.readouterr()
        assert torch.equal(logits(ours), logits(theirs))
        assert not ours.training
        assert ours.config._attn_implementation == "sdpa"
        assert ours.generation_config.eos_token_id == theirs.generation_config.eos_token_id
        assert (ours.lm_head.weight is ours.model.embed_tokens.weight) == (folder is tiny_llama)
        assert all(parameter.requires_grad for parameter in ours.parameters())


def test_sharded_and_half_precision_folders(untied, tmp_path):
    folder = Path(shutil.copytree(untied, tmp_path / "model"))
    tensors = {name: value.half() for name, value in load_file(folder / "model.safetensors").items()}
    (folder / "model.safetensors").unlink()
    names = sorted(tensors)
    files = {"model-1.safetensors": names[:7], "model-2.safetensors": names[7:]}
    for file, part in files.items():
        save_file({name: tensors[name] for name in part}, folder / file)
    save_file({"stray": torch.zeros(1)}, folder / "stray.safetensors")
    index = {"weight_map": {name: file for file, part in files.items() for name in part}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    state = load_model(folder).state_dict()
    assert all(torch.equal(state[name], tensors[name].float()) for name in names)
    assert read_facts(folder, "x").weight_bytes == read_shape(folder).parameters * 2


def make_gguf(folder: Path, out: Path, kinds: list[gguf.GGMLQuantizationType]) -> tuple[Path, dict[str, np.ndarray]]:
    """A GGUF file whose linear weights are quantized by gguf itself, and gguf's dequantization in Hugging Face's
    order.
    """
    shape = read_shape(folder)
    state = load_model(folder).state_dict()
    checkpoint = float_checkpoint({t.name: state[t.name] for t in shape.tensors()}, "f32")
    template = write_gguf(checkpoint, folder, shape, out.with_suffix(".f32"), {})
    reader = gguf.GGUFReader(template)
    writer = gguf.GGUFWriter(out, "llama")
    for key, field in reader.fields.items():
        if not key.startswith("GGUF.") and key != "general.architecture":
            sub = field.types[-1] if field.types[0] == gguf.GGUFValueType.ARRAY else None
            writer.add_key_value(key, field.contents(), field.types[0], sub)
    stored = gguf_names(shape)
    names = {stored[t.name]: t for t in shape.tensors()}
    expected = {}
    for index, tensor in enumerate(reader.tensors):
        ours = names[tensor.name]
        kind = kinds[index % len(kinds)] if ours.kind == "linear" else gguf.GGMLQuantizationType.F32
        data = gguf.quants.quantize(np.array(tensor.data), kind)
        writer.add_tensor(tensor.name, data, raw_dtype=kind)
        values = gguf.quants.dequantize(data, kind)
        heads = {"q_proj": shape.heads, "k_proj": shape.kv_heads}.get(ours.name.split(".")[-2])
        if heads:  # transformers' reverse_permute_weights
            values = values.reshape(heads, values.shape[0] // heads // 2, 2, -1).swapaxes(1, 2).reshape(values.shape)
        expected[ours.name] = values
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return out, expected


def test_a_gguf_file_is_exactly_ggufs_dequantization(untied, tmp_path):
    q = gguf.GGMLQuantizationType
    path, expected = make_gguf(untied, tmp_path / "model.gguf", [q.Q4_1, q.Q5_0, q.F16, q.BF16, q.Q8_0, q.Q5_1, q.Q4_0])
    model = load_model(path)
    state = model.state_dict()
    for name, values in expected.items():
        assert np.array_equal(state[name].numpy(), values), name
    assert (model.generation_config.eos_token_id, model.config.pad_token_id) == (2, 2)
    half = load_model(path, torch.bfloat16).state_dict()
    assert all(torch.equal(half[name], torch.tensor(values).bfloat16()) for name, values in expected.items())


class TypeTraits(ctypes.Structure):
    """ggml.h, struct ggml_type_traits, as far as its decoder."""

    _fields_ = (
        ("name", ctypes.c_char_p),
        ("block", ctypes.c_int64),
        ("interleave", ctypes.c_int64),
        ("size", ctypes.c_size_t),
        ("quantized", ctypes.c_bool),
        ("decode", ctypes.c_void_p),
    )


DECODER = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64)


@pytest.mark.parametrize("family", ["llama", "phi3"])
def test_every_type_that_gguf_decodes_is_loaded(family, tmp_path):
    """A tensor of each type, made and decoded by ggml itself."""
    library = ggml.library()
    library.ggml_get_type_traits.restype = ctypes.POINTER(TypeTraits)
    sizes = {
        "hidden_size": 256,
        "intermediate_size": 256,
        "num_attention_heads": 4,
        "num_hidden_layers": 6 if family == "phi3" else 4,
    }
    folder = make_tiny(family, tmp_path / "model", head_dim=64, rope_parameters=None, **sizes)
    shape, stored = read_shape(folder), gguf_names(read_shape(folder))
    weights = load_model(folder).state_dict()
    template = write_gguf(
        float_checkpoint({n: weights[n] for n in stored}, "f32"), folder, shape, tmp_path / "float.gguf", {}
    )
    reader, writer = gguf.GGUFReader(template), gguf.GGUFWriter(tmp_path / "model.gguf", family)
    for key, field in reader.fields.items():
        if not key.startswith("GGUF.") and key != "general.architecture":
            sub = field.types[-1] if field.types[0] == gguf.GGUFValueType.ARRAY else None
            writer.add_key_value(key, field.contents(), field.types[0], sub)
    kinds = [kind for kind in TENSOR_TYPES if kind not in (0, 1, 30)]
    linear = {stored[t.name] for t in shape.tensors() if t.kind == "linear"}
    expected: dict[str, np.ndarray] = {}
    pointer = ctypes.POINTER(ctypes.c_float)
    rng = np.random.default_rng(0)
    for tensor in reader.tensors:
        values = np.array(tensor.data)
        if tensor.name not in linear or not kinds:
            writer.add_tensor(tensor.name, values)
            continue
        kind = kinds.pop()
        rows, cols = values.shape
        name, block, block_bytes = TENSOR_TYPES[kind]
        blocks = rng.integers(0, 256, (rows, cols // block, block_bytes), np.uint8)
        if name[:3] in (
            "iq1",
            "iq2",
            "iq3",
        ):  # ggml's own fit makes tables for 15 seconds; any codes will do, with a scale of 1/64
            blocks[..., :2] = (0x00, 0x24)
            if name == "iq1_m":
                blocks[..., -1] = blocks[..., -1] & 0x0F | 0x20
        else:
            library.ggml_quantize_chunk(kind, values.ctypes.data_as(pointer), blocks.ctypes.data, 0, rows, cols, None)
        packed, decoded = blocks.reshape(rows, -1), np.zeros((rows, cols), np.float32)
        decode = DECODER(library.ggml_get_type_traits(kind).contents.decode)
        decode(packed.ctypes.data, decoded.ctypes.data, rows * cols)
        writer.add_tensor(tensor.name, packed, raw_dtype=gguf.GGMLQuantizationType(kind))
        assert 0.001 < np.abs(decoded).mean() < 10
        expected[tensor.name] = decoded
    assert not kinds
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    state = load_model(tmp_path / "model.gguf").state_dict()
    for name, in_file in stored.items():
        if in_file in expected:
            heads = permuted_heads(name, shape)
            found = state[name].numpy()
            found = to_gguf_rows(found, heads) if heads else found
            assert np.allclose(found, expected[in_file], rtol=1e-6, atol=1e-9), name


def test_a_saved_model_is_the_same_for_transformers_and_for_us(tiny_llama, untied, tmp_path, capfd):
    for folder, dtype in ((tiny_llama, torch.float32), (untied, torch.bfloat16)):
        model = load_model(folder, dtype)
        out = tmp_path / folder.parent.name
        save_model(model, folder, out)
        assert capfd.readouterr() == ("", "")
        theirs = AutoModelForCausalLM.from_pretrained(out, dtype="auto").eval()
        capfd.readouterr()
        assert theirs.dtype == dtype
        assert torch.equal(logits(load_model(out, dtype)), logits(model))
        assert torch.equal(logits(theirs), logits(model))
        assert read_facts(out, "x").shape == read_shape(folder)
        # transformers 4 and other readers take theta from here.
        assert json.loads((out / "config.json").read_text())["rope_theta"] == 10000.0


def test_given_weights_replace_the_folders(tiny_llama, tmp_path):
    save_side_files(tiny_llama, tmp_path)
    assert not list(tmp_path.glob("*.safetensors"))
    weights = {
        t.name: torch.full((t.cols,) if t.kind == "norm" else (t.rows, t.cols), 0.5)
        for t in read_shape(tiny_llama).tensors()
    }
    model = load_model(tmp_path, weights=weights)
    assert all(torch.equal(model.state_dict()[name], value) for name, value in weights.items())
    assert model.model.norm.weight.data_ptr() != weights["model.norm.weight"].data_ptr()
    assert model.generation_config.eos_token_id == 2


def test_side_files_of_a_gguf_file(untied, tmp_path):
    path, _ = make_gguf(untied, tmp_path / "model.gguf", [gguf.GGMLQuantizationType.Q8_0])
    save_side_files(path, tmp_path / "side")
    assert read_shape(tmp_path / "side") == read_shape(untied)
    assert json.loads((tmp_path / "side" / "generation_config.json").read_text())["eos_token_id"] == 2


def test_weights_that_cannot_be_used_are_named(tiny_llama, tmp_path):
    weights = {
        t.name: torch.zeros((t.cols,) if t.kind == "norm" else (t.rows, t.cols))
        for t in read_shape(tiny_llama).tensors()
    }
    with pytest.raises(InputError, match="1 of 38 tensors are missing, among them model.norm.weight"):
        load_model(tiny_llama, weights={n: w for n, w in weights.items() if n != "model.norm.weight"})
    with pytest.raises(InputError, match=r"model.norm.weight has shape \[3\], it must be \[64\]"):
        load_model(tiny_llama, weights={**weights, "model.norm.weight": torch.zeros(3)})
    with pytest.raises(InputError, match="model.norm.weight holds values that aren't finite numbers"):
        load_model(tiny_llama, weights={**weights, "model.norm.weight": torch.full((64,), torch.nan)})
    save_side_files(tiny_llama, tmp_path)
    (tmp_path / "grid.safetensors").write_bytes(b"")
    with pytest.raises(InputError, match="holds a checkpoint on its grid; load it with its decoded tensors"):
        load_model(tmp_path)

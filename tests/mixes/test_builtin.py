"""The built-in mixes against llama.cpp's own quantizer: the type of every tensor, for shapes that reach each of its
choices.
"""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import gguf
import numpy as np
import pytest

from edgedistill.errors import InputError
from edgedistill.facts import ModelShape
from edgedistill.formats import F16, FORMATS, Q4_0, Q5_0, Q6_K, Q8_0
from edgedistill.mixes import MIXES, assign_formats, fallbacks, mix_bytes

CHILD = Path(__file__).with_name("quantize_child.py")
FTYPES = {
    "q4_0": "MOSTLY_Q4_0",
    "q4_1": "MOSTLY_Q4_1",
    "q5_0": "MOSTLY_Q5_0",
    "q5_1": "MOSTLY_Q5_1",
    "q8_0": "MOSTLY_Q8_0",
    "q2_k": "MOSTLY_Q2_K",
    "q3_k_s": "MOSTLY_Q3_K_S",
    "q3_k_m": "MOSTLY_Q3_K_M",
    "q3_k_l": "MOSTLY_Q3_K_L",
    "q4_k_s": "MOSTLY_Q4_K_S",
    "q4_k_m": "MOSTLY_Q4_K_M",
    "q5_k_s": "MOSTLY_Q5_K_S",
    "q5_k_m": "MOSTLY_Q5_K_M",
    "q6_k": "MOSTLY_Q6_K",
    "iq4_nl": "MOSTLY_IQ4_NL",
    "tq2_0": "MOSTLY_TQ2_0",
    "f16": "MOSTLY_F16",
    "bf16": "MOSTLY_BF16",
    "mxfp4": "MOSTLY_MXFP4_MOE",
}
ARCHITECTURES = {"mistral": "llama", "gemma3_text": "gemma3"}
# llama.cpp's MXFP4_MOE has no experts to find here; with this it puts a dense model's linear layers where we do.
LINEAR = {r"blk\..*(attn|ffn)_[a-z]+\.weight": FORMATS["mxfp4"].ggml_type}

BASE = ModelShape(
    family="llama",
    layers=4,
    width=256,
    heads=4,
    kv_heads=2,
    head_dim=64,
    ffn=256,
    vocab=32,
    context=128,
    tied=True,
    rope_theta=1e4,
    norm_eps=1e-5,
)
NARROW = replace(BASE, width=64, head_dim=16, ffn=96)
SHAPES = {
    "tied": BASE,
    "untied": replace(BASE, tied=False, width=512, ffn=768, heads=4, head_dim=128),
    "narrow": NARROW,
    "narrow untied": replace(NARROW, tied=False, ffn=256),
    "576 wide, as SmolLM2": replace(BASE, width=576, heads=9, kv_heads=3, head_dim=64, ffn=1536, layers=5),
    "two layers, one head a key": replace(BASE, layers=2, kv_heads=4),
    "17 layers, four queries a key": replace(BASE, layers=17, kv_heads=1),
    "32 layers, eight queries a key": replace(BASE, layers=32, heads=8, kv_heads=1, head_dim=32, tied=False),
    "30 layers, three queries a key": replace(NARROW, layers=30, heads=6, kv_heads=2, ffn=256),
    "a 70B's layers": replace(NARROW, layers=80, kv_heads=1),
    "80 layers, one query a key": replace(NARROW, layers=80, kv_heads=4),
    "80 layers of qwen2": replace(NARROW, layers=80, kv_heads=4, family="qwen2", qkv_bias=True),
    "80 layers of granite": replace(NARROW, layers=80, kv_heads=1, family="granite"),
    "mistral": replace(BASE, family="mistral", tied=False),
    "qwen2": replace(BASE, family="qwen2", qkv_bias=True, heads=8, kv_heads=1, head_dim=32, layers=9),
    "qwen3": replace(BASE, family="qwen3", layers=8),
    "gemma3": replace(BASE, family="gemma3_text", layers=8, kv_heads=1, window=64),
    "phi3": replace(BASE, family="phi3", layers=8, tied=False),
    "phi3, narrow": replace(NARROW, family="phi3", layers=8, tied=False),
    "smollm3": replace(BASE, family="smollm3", layers=8, kv_heads=1),
    "granite": replace(BASE, family="granite", layers=8, kv_heads=1),
    "olmo2": replace(BASE, family="olmo2", layers=8, tied=False),
}


def write_zeros(shape: ModelShape, path: Path) -> dict[str, str]:
    """A GGUF of the shape with zeros for weights, by gguf's own tensor names; Hugging Face name -> GGUF name."""
    architecture = ARCHITECTURES.get(shape.family, shape.family)
    known = gguf.get_tensor_name_map(
        next(a for a, name in gguf.MODEL_ARCH_NAMES.items() if name == architecture), shape.layers
    )
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_vocab_size(shape.vocab)
    writer.add_context_length(shape.context)
    writer.add_embedding_length(shape.width)
    writer.add_block_count(shape.layers)
    writer.add_feed_forward_length(shape.ffn)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.kv_heads)
    writer.add_key_length(shape.head_dim)
    writer.add_value_length(shape.head_dim)
    writer.add_rope_dimension_count(shape.head_dim)
    writer.add_layer_norm_rms_eps(shape.norm_eps)
    writer.add_float32(f"{architecture}.logit_scale", 1.0)
    writer.add_token_list([f"<{index}>" for index in range(shape.vocab)])
    if shape.window:
        writer.add_sliding_window(shape.window)
    names = {}
    for tensor in shape.tensors():
        name = known.get_name(tensor.name, try_suffixes=(".weight", ".bias"))
        assert name, tensor.name
        names[tensor.name] = name
        writer.add_tensor(name, np.zeros(tensor.dimensions, np.float32 if tensor.flat else np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return names


@pytest.fixture(scope="module")
def llama_cpp_types(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, dict[str, int]]]:
    """Shape -> mix -> Hugging Face name -> ggml type, as llama.cpp's quantizer chooses it: one child process for
    all.
    """
    folder = tmp_path_factory.mktemp("quantized")
    paths = {name: folder / f"{number}.gguf" for number, name in enumerate(SHAPES)}
    names = {name: write_zeros(SHAPES[name], path) for name, path in paths.items()}
    jobs = {mix: (int(gguf.LlamaFileType[name]), LINEAR if mix == "mxfp4" else {}) for mix, name in FTYPES.items()}
    asked = json.dumps({"files": {name: str(path) for name, path in paths.items()}, "jobs": jobs})
    command = [sys.executable, str(CHILD), str(folder / "types.json")]
    environment = {**os.environ, "PYTHONPATH": str(CHILD.parents[2])}
    done = subprocess.run(command, input=asked, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads((folder / "types.json").read_text())
    for path in paths.values():
        path.unlink()
    return {
        shape: {mix: {name: types[stored] for name, stored in names[shape].items()} for mix, types in mixes.items()}
        for shape, mixes in found.items()
    }


def test_every_mix_is_checked():
    assert set(FTYPES) == set(MIXES)


@pytest.mark.parametrize("name", SHAPES)
def test_every_tensors_type_is_llama_cpps(name: str, llama_cpp_types: dict[str, dict[str, dict[str, int]]]):
    for mix, types in llama_cpp_types[name].items():
        ours = {tensor: stored.ggml_type for tensor, stored in assign_formats(SHAPES[name], mix).items()}
        assert ours == types, mix


def test_bytes_are_gguf_pys_sizes():
    shape = SHAPES["576 wide, as SmolLM2"]
    for mix in MIXES:
        total = 0
        for tensor in shape.tensors():
            block, size = gguf.GGML_QUANT_SIZES[
                gguf.GGMLQuantizationType(assign_formats(shape, mix)[tensor.name].ggml_type)
            ]
            total += tensor.size // block * size
        assert mix_bytes(shape, mix) == total


def test_what_fell_back_is_told_with_what_was_wanted():
    found = fallbacks(replace(SHAPES["576 wide, as SmolLM2"], layers=2), "q4_k_m")
    assert [(f.tensor, f.cols, f.intended.name, f.stored.name) for f in found][:3] == [
        ("model.embed_tokens.weight", 576, "q6_k", "q8_0"),
        ("model.layers.0.self_attn.q_proj.weight", 576, "q4_k", "q5_0"),
        ("model.layers.0.self_attn.k_proj.weight", 576, "q4_k", "q5_0"),
    ]
    # The way down has rows of 1,536, which divide.
    assert not [f for f in found if "down_proj" in f.tensor]
    assert fallbacks(BASE, "q4_k_m") == ()
    assert [(f.intended, f.stored) for f in fallbacks(NARROW, "q4_0")] == [(Q6_K, Q8_0)]


def test_a_tables_format_depends_on_whether_it_is_the_output_layer():
    tied, untied = assign_formats(BASE, "q4_0"), assign_formats(replace(BASE, tied=False), "q4_0")
    assert tied["model.embed_tokens.weight"] == untied["lm_head.weight"] == Q6_K
    assert untied["model.embed_tokens.weight"] == Q4_0
    assert assign_formats(replace(NARROW, tied=False), "q4_k_m")["model.embed_tokens.weight"] == Q5_0


def test_an_unknown_mix_gets_the_known_ones_and_the_nearest():
    with pytest.raises(
        InputError, match=r"mix 'q4_km' is unknown; it must be one of q4_0, q8_0, q4_k_m, .*Did you mean 'q4_k_m'\?"
    ):
        assign_formats(BASE, "q4_km")


@pytest.mark.parametrize("mix", ["q4_0", "q4_k_m", "iq4_nl"])
def test_rows_that_no_block_divides_are_refused(mix: str):
    with pytest.raises(
        InputError,
        match=rf"down_proj.weight has rows of 100 weights, which no grid of mix '{mix}' divides.* divide by 32",
    ):
        assign_formats(replace(BASE, ffn=100, layers=8), mix)
    assert assign_formats(replace(BASE, ffn=100), "f16")["model.layers.0.mlp.down_proj.weight"] == F16

"""What is read of a model before it is loaded, and one sentence for everything that is missing, damaged or not
supported.
"""

import json
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import gguf
import numpy as np
import pytest

from edgedistill.errors import InputError
from edgedistill.export.gguf.write import float_checkpoint, write_gguf
from edgedistill.facts import ModelShape, TokenizerFacts
from edgedistill.models.facts import read_facts
from edgedistill.models.hf_folder import read_shape
from edgedistill.models.load import load_model
from edgedistill.models.rope import KNOWN_LLAMA3, llama3_factors
from tests.tiny import make_tiny


@pytest.fixture
def folder(tiny_llama, tmp_path) -> Path:
    """A copy of the tiny model that a test may break."""
    return Path(shutil.copytree(tiny_llama, tmp_path / "model"))


@pytest.fixture(scope="module")
def tiny_gguf(tiny_llama, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("gguf") / "Tiny-Instruct.F16.gguf"
    state, shape = load_model(tiny_llama).state_dict(), read_shape(tiny_llama)
    return write_gguf(
        float_checkpoint({t.name: state[t.name] for t in shape.tensors()}, "f16"), tiny_llama, shape, path, {}
    )


def change(path: Path, **values: object) -> None:
    """Set keys of a JSON file; None removes one."""
    data = json.loads(path.read_text())
    data.update(values)
    path.write_text(json.dumps({key: value for key, value in data.items() if value is not None}))


def test_facts_of_a_folder(folder):
    (folder / "README.md").write_text("---\nlanguage: en\nlicense: apache-2.0\n---\n# Tiny\nlicense: mit\n")
    facts = read_facts(folder, "models/tiny")
    vocab = json.loads((folder / "config.json").read_text())["vocab_size"]
    assert facts.shape == ModelShape("llama", 4, 64, 4, 2, 16, 128, vocab, 256, True, 10000.0, 1e-5)
    assert (facts.kind, facts.name, facts.source, facts.location) == ("hf", "tiny", "models/tiny", str(folder))
    assert facts.tokenizer == TokenizerFacts("gpt2", "smollm", vocab, has_chat_template=True)
    assert facts.weight_bytes == facts.shape.parameters * 4
    assert facts.license == "apache-2.0"


def test_a_context_that_is_cut_is_stated(tmp_path):
    windowed = make_tiny("mistral", tmp_path / "mistral", sliding_window=64)
    facts = read_facts(windowed, "x")
    assert (facts.shape.context, facts.stated_context) == (64, 256)
    whole = make_tiny("mistral", tmp_path / "whole", sliding_window=None)
    assert read_facts(whole, "x").stated_context is None


def test_facts_of_a_gguf_file(tiny_gguf, tiny_llama):
    facts = read_facts(tiny_gguf, "x.gguf")
    assert facts.shape == read_shape(tiny_llama)
    assert (facts.kind, facts.name, facts.license) == ("gguf", "Tiny-Instruct", None)
    assert facts.tokenizer == read_facts(tiny_llama, "x").tokenizer
    norms = sum(t.size for t in facts.shape.tensors() if t.kind == "norm")
    assert facts.weight_bytes == (facts.shape.parameters - norms) * 2 + norms * 4


def test_no_torch_is_imported(tiny_gguf, tiny_llama):
    code = (
        "import sys; from pathlib import Path; from edgedistill.models.facts import read_facts; from "
        "edgedistill.models import source\n"
        f"read_facts(Path({str(tiny_gguf)!r}), 'x'); read_facts(source.resolve({str(tiny_llama)!r}), 'y')\n"
        "heavy = {'torch', 'transformers', 'tokenizers', 'huggingface_hub'} & sys.modules.keys()\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_old_and_new_configs_say_rope_alike(folder):
    config = folder / "config.json"
    llama3 = {"factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
    change(config, rope_parameters=None, rope_theta=500000.0, rope_scaling={"rope_type": "llama3", **llama3})
    old = read_shape(folder)
    assert (old.rope_theta, old.rope_scaling) == (500000.0, {"rope_type": "llama3", **llama3})
    change(
        config,
        rope_theta=None,
        rope_scaling=None,
        rope_parameters={"rope_type": "llama3", "rope_theta": 500000.0, **llama3},
    )
    assert read_shape(folder) == old
    change(config, rope_theta=250000.0, rope_parameters=None, rope_scaling={"type": "linear", "factor": 2})
    assert read_shape(folder).rope_scaling == {"rope_type": "linear", "factor": 2.0}
    change(config, rope_scaling=None, head_dim=None, num_key_value_heads=None, tie_word_embeddings=None)
    shape = read_shape(folder)
    assert (shape.rope_theta, shape.rope_scaling, shape.head_dim, shape.kv_heads, shape.tied) == (
        250000.0,
        None,
        16,
        4,
        False,
    )


def test_llama3_factors_are_transformers():
    from transformers import LlamaConfig
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    scaling = KNOWN_LLAMA3[0]
    config = LlamaConfig(
        hidden_size=256, num_attention_heads=2, head_dim=128, rope_parameters={"rope_theta": 500000.0, **scaling}
    )
    expected, _ = ROPE_INIT_FUNCTIONS["llama3"](config, "cpu")
    plain = 500000.0 ** -(np.arange(0, 128, 2) / 128)
    assert np.allclose(plain / np.array(llama3_factors(500000.0, 128, scaling)), expected.numpy(), rtol=1e-5)


CONFIG_ERRORS = [
    ({"model_type": "gpt2"}, "config.json: model_type is 'gpt2'; supported architectures are llama, mistral, qwen2"),
    ({"model_type": "gemma3"}, "model_type is 'gemma3' .gemma3 reads images too; take a model of text alone"),
    ({"model_type": ["llama"]}, "model_type is .'llama'.; supported architectures are"),
    ({"model_type": None}, "model_type is None; supported architectures are llama"),
    (
        {"attention_bias": True},
        "its safetensors lack model.layers.0.self_attn.q_proj.bias, which config.json calls for",
    ),
    ({"mlp_bias": True}, "its safetensors lack model.layers.0.mlp.gate_proj.bias"),
    ({"num_local_experts": 8}, "num_local_experts is 8; only llama models without it are supported"),
    ({"hidden_act": "gelu"}, "hidden_act is 'gelu'; it must be 'silu'"),
    (
        {"quantization_config": {"quant_method": "awq"}},
        "its weights are quantized by 'awq'; take the model's float version",
    ),
    ({"hidden_size": None}, "hidden_size is None; it must be a whole number above 0"),
    ({"num_hidden_layers": -1}, "num_hidden_layers is -1"),
    ({"num_hidden_layers": 10**12}, "num_hidden_layers is 1000000000000"),
    ({"vocab_size": "384"}, "vocab_size is '384'"),
    ({"rms_norm_eps": "tiny"}, "rms_norm_eps is 'tiny'"),
    ({"num_key_value_heads": 3}, "4 heads of 16 over 3 key heads; heads must be a multiple"),
    (
        {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0}},
        "rope scaling 'dynamic' isn't supported for llama; it must be one of default, linear, llama3, yarn",
    ),
    (
        {"rope_parameters": {"rope_type": "yarn", "factor": 2.0, "beta_fast": 16}},
        "yarn's beta_fast is 16; llama.cpp has only yarn's usual",
    ),
    (
        {"rope_parameters": {"rope_type": "yarn", "factor": 2.0, "attention_factor": 1.0}},
        "yarn's attention_factor is 1.0; llama.cpp has",
    ),
    ({"rope_parameters": {"rope_type": "yarn", "factor": 0.5}}, "yarn's factor is 0.5"),
    (
        {"rope_parameters": {"full_attention": {"rope_type": "default"}}},
        "rope_parameters differ by layer, which isn't supported for llama",
    ),
    ({"rope_parameters": {"rope_type": "linear"}}, "factor is None; it must be a number above 0"),
    (
        {"rope_parameters": {"rope_type": "default", "rope_theta": 10**400}},
        "rope_theta is 10{30,}….*above 0 and below 1e.15",
    ),
    ({"num_hidden_layers": 10**6}, "num_hidden_layers is 1000000; llama.cpp runs at most 512"),
    ({"rope_parameters": 7}, "rope_parameters is 7"),
    ({"partial_rotary_factor": 0.5}, "partial_rotary_factor is 0.5; it must be 1: llama rotates whole heads"),
    (
        {"num_hidden_layers": 5},
        "its safetensors lack model.layers.4.input_layernorm.weight, which config.json calls for",
    ),
    ({"num_hidden_layers": 2}, "its safetensors hold model.layers.2.*, which no plain llama has"),
    ({"intermediate_size": 64}, r"mlp.gate_proj.weight has shape \[128, 64\]; by config.json it must be \[64, 64\]"),
    ({"tie_word_embeddings": False}, "its safetensors lack lm_head.weight"),
    ({"vocab_size": 300}, r"ids up to \d+, the embedding 300 rows"),
]


@pytest.mark.parametrize(("values", "said"), CONFIG_ERRORS, ids=[said[:40] for _, said in CONFIG_ERRORS])
def test_a_config_that_we_cannot_run_is_named(values, said, folder):
    change(folder / "config.json", **values)
    with pytest.raises(InputError, match=said):
        read_facts(folder, "model")


def test_missing_and_damaged_files_are_named(folder):
    config, weights, tokenizer = folder / "config.json", folder / "model.safetensors", folder / "tokenizer.json"
    data = weights.read_bytes()
    for broken, said in (
        (data[:-10], "model.safetensors: damaged or cut off: its data should end at byte"),
        (data[:100], "its header of .* bytes doesn't fit into the file's 100"),
        (data[:4], "it has 4 bytes"),
        (struct.pack("<Q", 5) + b"[1,2]", "its header isn't that of a safetensors file"),
    ):
        weights.write_bytes(broken)
        with pytest.raises(InputError, match=said):
            read_facts(folder, "model")
    weights.rename(folder / "pytorch_model.bin")
    with pytest.raises(
        InputError,
        match="its weights are the pickle pytorch_model.bin, which isn't loaded because a pickle can run code",
    ):
        read_facts(folder, "model")
    assert read_facts(folder, "model", config_only=True).weight_bytes == read_shape(folder).parameters * 2
    (folder / "pytorch_model.bin").unlink()
    with pytest.raises(InputError, match=r"has no \*.safetensors"):
        read_facts(folder, "model")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "model-1.safetensors"}}))
    with pytest.raises(InputError, match="model-1.safetensors is missing, which its index names"):
        read_facts(folder, "model")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "../model.safetensors"}}))
    with pytest.raises(InputError, match="weight_map must map each tensor to a file name in the folder"):
        read_facts(folder, "model")
    change(folder / "tokenizer_config.json", eos_token=None)
    with pytest.raises(InputError, match="its tokenizer names no eos token"):
        read_facts(folder, "model", config_only=True)
    tokenizer.write_text("{")
    with pytest.raises(InputError, match="tokenizer.json: not valid JSON"):
        read_facts(folder, "model")
    tokenizer.unlink()
    with pytest.raises(InputError, match="has no tokenizer.json"):
        read_facts(folder, "model")
    config.write_text("[1]")
    with pytest.raises(InputError, match="config.json: holds a JSON list, it must be an object"):
        read_facts(folder, "model")
    config.write_text("{'a'}")
    with pytest.raises(InputError, match="config.json: not valid JSON"):
        read_facts(folder, "model")
    config.unlink()
    with pytest.raises(InputError, match="has no config.json"):
        read_facts(folder, "model")
    with pytest.raises(InputError, match="no such model; it must be a Hugging Face folder or a .gguf file"):
        read_facts(folder / "none", "none")


def edited(source: Path, out: Path, tensors: bool = True, **changes: object) -> Path:
    """A copy of a GGUF file with metadata changed (None removes; dots written as __)."""
    reader = gguf.GGUFReader(source)
    wanted = {key.replace("__", "."): value for key, value in changes.items()}
    architecture = wanted.pop("general.architecture", "llama")
    writer = gguf.GGUFWriter(out, "llama")
    writer.kv_data[0].clear()
    if architecture:
        writer.add_string("general.architecture", str(architecture))
    for key, field in reader.fields.items():
        if key.startswith("GGUF.") or key == "general.architecture":
            continue
        if key not in wanted:
            kind = field.types[-1] if field.types[0] == gguf.GGUFValueType.ARRAY else None
            writer.add_key_value(key, field.contents(), field.types[0], kind)
    for key, value in wanted.items():
        if isinstance(value, str):
            writer.add_string(key, value)
        elif isinstance(value, float):
            writer.add_float32(key, value)
        elif isinstance(value, int):
            writer.add_uint32(key, value)
        elif isinstance(value, list):
            writer.add_array(key, value)
    for tensor in reader.tensors if tensors else ():
        writer.add_tensor(tensor.name, np.array(tensor.data))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return out


GGUF_ERRORS = [
    ({"general__architecture": "clip"}, "architecture is 'clip'; supported architectures are llama"),
    (
        {"general__architecture": ""},
        "no general.architecture: it isn't a language model; supported architectures are llama",
    ),
    ({"llama__expert_count": 8}, "a mixture of experts isn't supported"),
    ({"llama__block_count": 5}, "tensor blk.4.attn_norm.weight is missing"),
    ({"llama__block_count": 3}, "holds blk.3.attn_norm.weight, which no plain llama has"),
    ({"llama__block_count": 2 * 10**9}, "llama.block_count is 2000000000; llama.cpp runs at most 512 layers"),
    ({"llama__block_count": None}, "llama.block_count is None; it must be a whole number above 0"),
    (
        {"llama__feed_forward_length": 64},
        r"blk.0.ffn_gate.weight has shape \[128, 64\]; by the file's figures it must be \[64, 64\]",
    ),
    ({"llama__attention__head_count": [4, 4]}, "llama.attention.head_count is an array; it must be of type int"),
    ({"llama__rope__dimension_count": 8}, "llama.rope.dimension_count is 8 where heads have 16"),
    ({"llama__rope__freq_base": 0.0}, "rope base 0.0 and norm epsilon .* must be above 0"),
    (
        {"llama__rope__scaling__type": "longrope"},
        "rope scaling 'longrope' isn't supported for llama; it must be one of default, linear",
    ),
    ({"llama__attention__sliding_window": 16}, "llama.attention.sliding_window is set, which no plain llama has"),
    (
        {"tokenizer__ggml__model": "bert"},
        "tokenizer model 'bert' isn't supported; it must be 'gpt2' .byte-level BPE. or 'llama'",
    ),
    (
        {"tokenizer__ggml__pre": "falcon"},
        "pre-tokenizer 'falcon' isn't supported; it must be one of smollm, gpt-2, llama-bpe, dbrx, qwen2",
    ),
    ({"tokenizer__ggml__pre": None}, "pre-tokenizer None isn't supported"),
    ({"tokenizer__ggml__eos_token_id": None}, "its tokenizer names no eos token"),
    ({"tokenizer__ggml__tokens": None}, r"0 tokens but \d+ rows in the embedding"),
]


@pytest.mark.parametrize(("changes", "said"), GGUF_ERRORS, ids=[said[:40] for _, said in GGUF_ERRORS])
def test_a_gguf_that_we_cannot_run_is_named(changes, said, tiny_gguf, tmp_path):
    path = edited(tiny_gguf, tmp_path / "edited.gguf", **changes)
    with pytest.raises(InputError, match=said):
        read_facts(path, "x")


def test_an_edit_of_nothing_is_read(tiny_gguf, tmp_path):
    path = edited(tiny_gguf, tmp_path / "Tiny-Instruct.gguf")
    assert read_facts(path, "x").shape == read_facts(tiny_gguf, "x").shape
    assert (
        read_facts(edited(tiny_gguf, tmp_path / "a.gguf", tokenizer__ggml__pre="llama-v3"), "x").tokenizer.pre
        == "llama-bpe"
    )


def test_a_gguf_without_its_embedding_is_no_model(tiny_gguf, tmp_path):
    with pytest.raises(InputError, match="has no token_embd.weight with rows and columns"):
        read_facts(edited(tiny_gguf, tmp_path / "vocab.gguf", tensors=False), "x")

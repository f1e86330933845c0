"""A tiny random llama as a Hugging Face folder, as a float GGUF written tensor by tensor, and as an ONNX folder."""

import json
from pathlib import Path

import gguf
import numpy as np
import pytest

from edgedistill.runtimes.llama import LlamaCpp
from tests.tiny import make_tiny_llama

NAMES = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def interleave(weight: np.ndarray, heads: int) -> np.ndarray:
    """Rows of q or k in the order that llama.cpp's rotary wants, as convert_hf_to_gguf.py permutes them."""
    return (
        weight.reshape(heads, 2, weight.shape[0] // heads // 2, *weight.shape[1:]).swapaxes(1, 2).reshape(weight.shape)
    )


def write_gguf(
    folder: Path,
    path: Path,
    *,
    template: bool = True,
    chat: str | None = None,
    model: str = "gpt2",
    eos: int | None = None,
    add_bos: bool = False,
    name: str = "tiny",
) -> Path:
    """The folder's model as an F32 GGUF, with its chat template or another."""
    from safetensors.numpy import load_file

    config = json.loads((folder / "config.json").read_text())
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name(name)
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_rope_dimension_count(config["hidden_size"] // config["num_attention_heads"])
    writer.add_rope_freq_base(10000.0)
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_vocab_size(config["vocab_size"])
    writer.add_tokenizer_model(model)
    writer.add_tokenizer_pre("smollm")
    vocab = sorted(tokenizer["model"]["vocab"], key=tokenizer["model"]["vocab"].get)
    special = {entry["content"] for entry in tokenizer["added_tokens"]}
    writer.add_token_list(vocab)
    writer.add_token_types([gguf.TokenType.CONTROL if token in special else gguf.TokenType.NORMAL for token in vocab])
    writer.add_token_merges([" ".join(pair) for pair in tokenizer["model"]["merges"]])
    writer.add_bos_token_id(config["bos_token_id"])
    writer.add_eos_token_id(config["eos_token_id"] if eos is None else eos)
    writer.add_add_bos_token(add_bos)
    if template:
        writer.add_chat_template(chat or (folder / "chat_template.jinja").read_text())
    for name, weight in load_file(folder / "model.safetensors").items():
        kind = name.removesuffix(".weight")
        if kind.endswith("q_proj"):
            weight = interleave(weight, config["num_attention_heads"])
        elif kind.endswith("k_proj"):
            weight = interleave(weight, config["num_key_value_heads"])
        if kind.startswith("model.layers."):
            _, _, layer, part = kind.split(".", 3)
            short = f"blk.{layer}.{NAMES[part]}"
        else:
            short = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}[kind]
        writer.add_tensor(f"{short}.weight", np.ascontiguousarray(weight, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture(scope="session")
def hf_folder(tmp_path_factory):
    """The float model that everything is compared with."""
    return make_tiny_llama(tmp_path_factory.mktemp("tiny") / "hf", layers=2)


@pytest.fixture(scope="session")
def gguf_file(hf_folder, tmp_path_factory):
    """The same weights as a GGUF file."""
    return write_gguf(hf_folder, tmp_path_factory.mktemp("gguf") / "tiny.gguf")


@pytest.fixture(scope="session")
def llama(gguf_file):
    """One child on it for the whole session: no answer may depend on what was asked before."""
    with LlamaCpp(gguf_file, threads=1, context=128, parallel=4) as model:
        yield model


@pytest.fixture(scope="session")
def float_logits(hf_folder):
    """A function: token ids -> transformers' logits [T, V] float32."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(hf_folder, dtype=torch.float32).eval()

    def logits(tokens):
        with torch.inference_mode():
            return model(torch.tensor([tokens])).logits[0].numpy()

    return logits


@pytest.fixture(scope="session")
def onnx_folder(hf_folder, tmp_path_factory):
    """The model rounded to q8_0 as an ONNX folder, with float activations; beside it the weights that it holds."""
    from safetensors.torch import load_file

    from edgedistill.export.onnx.build import write_onnx
    from edgedistill.facts import ModelShape
    from edgedistill.mixes import assign_formats
    from edgedistill.quant.checkpoint import GridCheckpoint
    from edgedistill.quant.fit import fit_ggml

    vocab = json.loads((hf_folder / "config.json").read_text())["vocab_size"]
    shape = ModelShape("llama", 2, 64, 4, 2, 16, 128, vocab, 256, True, 10000.0, 1e-5)
    weights = load_file(hf_folder / "model.safetensors")
    formats = assign_formats(shape, "q8_0")
    tensors = {
        name: fit_ggml(weights[name], "q8_0") if form.quantized else weights[name].float()
        for name, form in formats.items()
    }
    checkpoint = GridCheckpoint("q8_0", tensors)
    folder = write_onnx(
        checkpoint, hf_folder, shape, tmp_path_factory.mktemp("onnx") / "onnx", {"name": "tiny"}, accuracy_level=0
    )
    return folder, checkpoint

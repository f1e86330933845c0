"""THE table of model families: what sets each apart in transformers and in llama.cpp. Sizes count elements.

A family is transformers' `model_type`. Only what both sides compute alike is supported: the right-hand fields say what
llama.cpp reads of a GGUF file of that architecture and what it holds fixed.
Sources: transformers 5.23, models/*/configuration_*.py and modeling_*.py; llama.cpp as in llama-cpp-python 0.3.36,
src/models/*.cpp and its converter.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Family:
    """One family. `defaults` are those of its transformers config, for keys that a config.json may leave out."""

    name: str  # transformers' model_type
    model_class: str  # transformers' class
    architecture: str  # GGUF's general.architecture
    defaults: Mapping[str, Any] = field(default_factory=dict)

    # The state dict.
    fused: bool = False  # one tensor for q, k and v, one for gate and up
    norms: str = "pre"  # "pre": before attention and MLP; "post": after them; "sandwich": both
    head_norms: str | None = None  # norms of q and k: "each" head for itself, or "all" at once
    norm_offset: bool = False  # a norm multiplies by 1 + w
    qkv_bias: bool = False  # q, k and v always have biases
    activation: str = "silu"
    activation_key: str = "hidden_act"
    window_layers: str | None = None  # which have a sliding window: "all", as "switched" on, or by a "pattern"

    # What llama.cpp reads.
    interleaved: bool = False  # q's and k's rows are in pairs, as its rotary embedding takes them
    bias_options: tuple[str, ...] = ()  # options of the config for whose biases there are tensors
    square: bool = False  # heads times their size must be the width
    untied: bool = False  # the output matrix must be a tensor of its own
    windows: bool = False  # it knows of sliding windows; otherwise every key is seen
    rope: tuple[str, ...] = ("default", "linear", "yarn")
    no_rope_every: int | None = None  # every so manieth layer has no rotary embedding


_LLAMA_ROPE = ("default", "linear", "llama3", "yarn")
_BIASES = ("attention_bias", "mlp_bias")

FAMILIES: dict[str, Family] = {
    family.name: family
    for family in (
        Family(
            "llama",
            "LlamaForCausalLM",
            "llama",
            {"max_position_embeddings": 2048},
            interleaved=True,
            bias_options=_BIASES,
            rope=_LLAMA_ROPE,
        ),
        Family(
            "mistral",
            "MistralForCausalLM",
            "llama",
            {"max_position_embeddings": 131072, "num_key_value_heads": 8, "sliding_window": 4096},
            window_layers="all",
            interleaved=True,
            rope=_LLAMA_ROPE,
        ),
        Family(
            "qwen2",
            "Qwen2ForCausalLM",
            "qwen2",
            {
                "max_position_embeddings": 32768,
                "num_key_value_heads": 32,
                "sliding_window": 4096,
                "max_window_layers": 28,
            },
            qkv_bias=True,
            window_layers="switched",
            square=True,
        ),
        Family(
            "qwen3",
            "Qwen3ForCausalLM",
            "qwen3",
            {
                "max_position_embeddings": 32768,
                "num_key_value_heads": 32,
                "head_dim": 128,
                "sliding_window": 4096,
                "max_window_layers": 28,
            },
            head_norms="each",
            window_layers="switched",
        ),
        Family(
            "gemma3_text",
            "Gemma3ForCausalLM",
            "gemma3",
            {
                "max_position_embeddings": 131072,
                "num_key_value_heads": 4,
                "head_dim": 256,
                "sliding_window": 4096,
                "tie_word_embeddings": True,
                "rope_theta": 1_000_000.0,
                "rope_local_base_freq": 10_000.0,
                "query_pre_attn_scalar": 256,
            },
            norms="sandwich",
            head_norms="each",
            norm_offset=True,
            activation="gelu_tanh",
            activation_key="hidden_activation",
            window_layers="pattern",
            windows=True,
            rope=("default", "linear"),
        ),
        Family(
            "phi3",
            "Phi3ForCausalLM",
            "phi3",
            {"max_position_embeddings": 4096, "original_max_position_embeddings": 4096, "rms_norm_eps": 1e-5},
            fused=True,
            window_layers="all",
            square=True,
            rope=("default", "longrope"),
        ),
        Family(
            "smollm3",
            "SmolLM3ForCausalLM",
            "smollm3",
            {
                "max_position_embeddings": 32768,
                "num_key_value_heads": 4,
                "tie_word_embeddings": True,
                "rope_theta": 2_000_000.0,
            },
            window_layers="switched",
            interleaved=True,
            no_rope_every=4,
        ),
        Family(
            "granite",
            "GraniteForCausalLM",
            "granite",
            {"max_position_embeddings": 2048},
            interleaved=True,
            bias_options=_BIASES,
            rope=_LLAMA_ROPE,
        ),
        Family(
            "olmo2",
            "Olmo2ForCausalLM",
            "olmo2",
            {"max_position_embeddings": 2048, "rms_norm_eps": 1e-5},
            norms="post",
            head_norms="all",
            square=True,
            untied=True,
        ),
    )
}


def family_of(architecture: str) -> Family | None:
    """The family that a GGUF file of this architecture is read as, None without one; a mistral is read as a llama."""
    return next((family for family in FAMILIES.values() if family.architecture == architecture), None)

"""What is known of a model before its weights are loaded: shape, tensors, tokenizer, licence. No torch.

Tensors carry their Hugging Face names (`model.layers.0.mlp.up_proj.weight`) everywhere in edgedistill;
only the exporters translate them.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

EMBEDDING = "model.embed_tokens.weight"
HEAD = "lm_head.weight"
FINAL_NORM = "model.norm.weight"


@dataclass(frozen=True)
class TensorShape:
    """One weight: its Hugging Face name and its shape, [rows, cols] or [cols] for a norm (rows = 1)."""

    name: str
    rows: int
    cols: int
    kind: str  # "embedding", "head", "linear" or "norm"

    @property
    def size(self) -> int:
        """Number of weights."""
        return self.rows * self.cols


@dataclass(frozen=True)
class ModelShape:
    """The shape of a llama-family decoder. All sizes count elements; `context` counts tokens."""

    family: str
    layers: int
    width: int
    heads: int
    kv_heads: int
    head_dim: int
    ffn: int
    vocab: int
    context: int
    tied: bool
    rope_theta: float
    norm_eps: float
    rope_scaling: dict[str, Any] | None = None

    def with_layers(self, layers: int) -> "ModelShape":
        """The same model with another number of layers."""
        return replace(self, layers=layers)

    def tensors(self) -> Iterator[TensorShape]:
        """Every weight in file order: embedding, layers from the first, final norm, output head if untied."""
        yield TensorShape(EMBEDDING, self.vocab, self.width, "embedding")
        queries, keys = self.heads * self.head_dim, self.kv_heads * self.head_dim
        for index in range(self.layers):
            at = f"model.layers.{index}."
            yield TensorShape(at + "input_layernorm.weight", 1, self.width, "norm")
            yield TensorShape(at + "self_attn.q_proj.weight", queries, self.width, "linear")
            yield TensorShape(at + "self_attn.k_proj.weight", keys, self.width, "linear")
            yield TensorShape(at + "self_attn.v_proj.weight", keys, self.width, "linear")
            yield TensorShape(at + "self_attn.o_proj.weight", self.width, queries, "linear")
            yield TensorShape(at + "post_attention_layernorm.weight", 1, self.width, "norm")
            yield TensorShape(at + "mlp.gate_proj.weight", self.ffn, self.width, "linear")
            yield TensorShape(at + "mlp.up_proj.weight", self.ffn, self.width, "linear")
            yield TensorShape(at + "mlp.down_proj.weight", self.width, self.ffn, "linear")
        yield TensorShape(FINAL_NORM, 1, self.width, "norm")
        if not self.tied:
            yield TensorShape(HEAD, self.vocab, self.width, "head")

    @property
    def parameters(self) -> int:
        """Number of weights; a tied embedding counts once."""
        return sum(t.size for t in self.tensors())

    def kv_bytes(self, tokens: int, element_bytes: int = 2) -> int:
        """Bytes of the key/value cache at `tokens` of context (fp16 by default)."""
        return self.layers * self.kv_heads * self.head_dim * 2 * tokens * element_bytes


@dataclass(frozen=True)
class TokenizerFacts:
    """What the exporters and the planner must know of a tokenizer."""

    model: str  # "gpt2" (byte-level BPE), "llama" (sentencepiece), ...: GGUF's tokenizer.ggml.model
    pre: str  # GGUF's tokenizer.ggml.pre: how text is split before BPE
    tokens: int
    has_chat_template: bool


@dataclass(frozen=True)
class ModelFacts:
    """A model, as far as its config or GGUF header tells."""

    name: str
    source: str  # as the user named it
    location: str  # a folder or a .gguf file on this machine
    kind: str  # "hf" or "gguf"
    shape: ModelShape
    tokenizer: TokenizerFacts
    weight_bytes: int
    license: str | None

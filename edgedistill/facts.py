"""Facts of a model before its weights are loaded: shape, tensors, tokenizer, licence. No torch.

Tensors carry their Hugging Face names (`model.layers.0.mlp.up_proj.weight`) everywhere in edgedistill;
only the exporters translate them.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from edgedistill.errors import InputError
from edgedistill.families import FAMILIES

EMBEDDING = "model.embed_tokens.weight"
HEAD = "lm_head.weight"
FINAL_NORM = "model.norm.weight"
FLAT_KINDS = ("norm", "bias")


@dataclass(frozen=True)
class TensorShape:
    """One weight: its Hugging Face name and its shape, [rows, cols], or [cols] for a norm or a bias (rows = 1)."""

    name: str
    rows: int
    cols: int
    kind: str  # "embedding", "head", "linear", "norm" or "bias"

    @property
    def size(self) -> int:
        """Number of weights."""
        return self.rows * self.cols

    @property
    def flat(self) -> bool:
        """Whether it is a norm or a bias: a single row, which no grid ever holds."""
        return self.kind in FLAT_KINDS

    @property
    def dimensions(self) -> tuple[int, ...]:
        """Its shape as torch has it: (cols,) or (rows, cols)."""
        return (self.cols,) if self.flat else (self.rows, self.cols)


@dataclass(frozen=True)
class ModelShape:
    """The shape of a decoder of a supported family. All sizes count elements; `context` counts tokens.

    From `qkv_bias` on, the defaults are a plain llama's. In a layer that `windowed` names, a query sees a key if
    query - key < `window`.
    """

    family: str  # transformers' model_type: see families.py
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
    rope_scaling: dict[str, Any] | None = field(default=None, hash=False)
    qkv_bias: bool = False
    output_bias: bool = False
    mlp_bias: bool = False
    rotary_dim: int | None = None  # None: the whole head
    window: int | None = None
    windowed: tuple[bool, ...] | None = None  # a layer each; None: all of them, if there is a window
    local_rope_theta: float | None = None  # of the windowed layers, which then have no rope scaling
    no_rope: tuple[bool, ...] | None = None  # a layer each, True: no rotary embedding
    activation: str = "silu"  # or "gelu_tanh"
    embedding_scale: float = 1.0  # what the embedding is multiplied by after the lookup
    residual_scale: float = 1.0  # what a block adds to the residual stream is multiplied by it
    attention_scale: float | None = None  # of query times key; None: head_dim ** -0.5
    logit_scale: float = 1.0  # what the logits are multiplied by

    def with_layers(self, layers: int) -> "ModelShape":
        """The same model with its first `layers` layers, and what differs by layer for these."""
        windowed, no_rope = self.windowed and self.windowed[:layers], self.no_rope and self.no_rope[:layers]
        return replace(self, layers=layers, windowed=windowed, no_rope=no_rope)

    def with_sizes(self, width: int, heads: int, kv_heads: int, ffn: int) -> "ModelShape":
        """The same model with other sizes; a gemma's embedding scale is the root of its width, in every runtime."""
        scale = width**0.5 if self.family == "gemma3_text" else self.embedding_scale
        return replace(self, width=width, heads=heads, kv_heads=kv_heads, ffn=ffn, embedding_scale=scale)

    @property
    def table_parameters(self) -> int:
        """Weights of the embedding, and of the output layer where it is a table of its own."""
        return self.vocab * self.width * (1 if self.tied else 2)

    @property
    def norm_offset(self) -> bool:
        """Whether a norm multiplies by 1 + its stored w, as gemma's do. GGUF and ONNX files hold float32(1 + w)."""
        return FAMILIES[self.family].norm_offset

    def layer_kind(self, index: int) -> tuple[bool, bool]:
        """(windowed, without rotary embedding): what sets one layer apart from another beside its weights."""
        windowed = self.window is not None and (self.windowed is None or self.windowed[index])
        return windowed, self.no_rope is not None and self.no_rope[index]

    def tensors(self) -> Iterator[TensorShape]:
        """Every weight in file order: embedding, layers from the first, final norm, output head if untied."""
        return iter(self._tensors)

    @cached_property
    def _tensors(self) -> tuple[TensorShape, ...]:
        """The same, made once: a plan goes over them for every mix and every candidate."""
        return tuple(self._each_tensor())

    def _each_tensor(self) -> Iterator[TensorShape]:
        yield TensorShape(EMBEDDING, self.vocab, self.width, "embedding")
        for index in range(self.layers):
            yield from self._layer(f"model.layers.{index}.")
        yield TensorShape(FINAL_NORM, 1, self.width, "norm")
        if not self.tied:
            yield TensorShape(HEAD, self.vocab, self.width, "head")

    def _layer(self, at: str) -> Iterator[TensorShape]:
        queries, keys = self.heads * self.head_dim, self.kv_heads * self.head_dim
        family = FAMILIES[self.family]

        def norm(name: str, size: int = self.width) -> TensorShape:
            return TensorShape(f"{at}{name}.weight", 1, size, "norm")

        def linear(name: str, rows: int, cols: int, bias: bool) -> Iterator[TensorShape]:
            yield TensorShape(f"{at}{name}.weight", rows, cols, "linear")
            if bias:
                yield TensorShape(f"{at}{name}.bias", 1, rows, "bias")

        if family.norms != "post":
            yield norm("input_layernorm")
        if family.fused:
            yield from linear("self_attn.qkv_proj", queries + 2 * keys, self.width, self.qkv_bias)
        else:
            yield from linear("self_attn.q_proj", queries, self.width, self.qkv_bias)
            yield from linear("self_attn.k_proj", keys, self.width, self.qkv_bias)
            yield from linear("self_attn.v_proj", keys, self.width, self.qkv_bias)
        if family.head_norms == "each":
            yield norm("self_attn.q_norm", self.head_dim)
            yield norm("self_attn.k_norm", self.head_dim)
        elif family.head_norms == "all":
            yield norm("self_attn.q_norm", queries)
            yield norm("self_attn.k_norm", keys)
        yield from linear("self_attn.o_proj", self.width, queries, self.output_bias)
        yield norm("post_attention_layernorm")
        if family.norms == "sandwich":
            yield norm("pre_feedforward_layernorm")
        if family.fused:
            yield from linear("mlp.gate_up_proj", 2 * self.ffn, self.width, self.mlp_bias)
        else:
            yield from linear("mlp.gate_proj", self.ffn, self.width, self.mlp_bias)
            yield from linear("mlp.up_proj", self.ffn, self.width, self.mlp_bias)
        yield from linear("mlp.down_proj", self.width, self.ffn, self.mlp_bias)
        if family.norms != "pre":
            yield norm("post_feedforward_layernorm")

    @cached_property
    def parameters(self) -> int:
        """Number of weights; a tied embedding counts once."""
        return sum(t.size for t in self.tensors())

    def kv_bytes(self, tokens: int, element_bytes: int = 2) -> int:
        """Bytes of the key/value cache at `tokens` of context (fp16 by default); a windowed layer's counts in full."""
        return self.layers * self.kv_heads * self.head_dim * 2 * tokens * element_bytes


def allowed_layers(shape: ModelShape) -> list[int]:
    """The numbers of layers, rising, whose last is of the kind of the model's last; see `check_depth`."""
    last = shape.layer_kind(shape.layers - 1)
    return [count for count in range(min(2, shape.layers), shape.layers + 1) if shape.layer_kind(count - 1) == last]


def check_depth(where: str, teacher: str, shape: ModelShape, layers: int) -> None:
    """Raise InputError where runtimes would run a student of `layers` layers otherwise than it was trained.

    Runtimes decide by a layer's index: in gemma3 every sixth sees all keys, in SmolLM3 every fourth has no rotary
    embedding. A cut keeps the first and the last layer, so the last index must be of the same kind in student and
    teacher; then there are layers for all places between.
    """
    if not 2 <= layers <= shape.layers:
        raise InputError(
            f"{where}: the student would have {layers} layers; {teacher}, which is cut, has {shape.layers}, "
            f"so student.layers must be from 2 to {shape.layers}."
        )
    allowed = allowed_layers(shape)
    if layers not in allowed:
        raise InputError(
            f"{where}: {shape.family} layers differ by their place, and in a student of {layers} the last of the "
            f"teacher's {shape.layers} layers would stand in the place of another kind; student.layers must be one of "
            f"{', '.join(map(str, allowed))}."
        )
    if shape.family == "gemma3_text" and shape.attention_scale is not None and layers != shape.layers:
        raise InputError(
            f"{where}: llama.cpp knows this gemma3's attention scale by its {shape.layers} layers alone, so a student "
            f"of {layers} layers would run with another; keep all of them, or take a smaller gemma3 as the teacher."
        )


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
    stated_context: int | None = None  # tokens by the model's own files, where the shape's context is less
    quantized: str | None = None  # the number format of most of its weights, where that is a quantized one
    system: str | None = None  # the message that all chats of its training with edgedistill began with


@dataclass(frozen=True)
class Start:
    """The model that a student starts from, where that isn't the teacher.

    Attributes:
        facts: the model's. Of a run: of its float student.
        license_text: its licence in full; None if unknown.
        other_words: how its words differ from the teacher's; None where ids mean the same. Rows of padding behind the
            words don't count.
        same_chats: whether a conversation has the same ids as at the teacher: the same words, template and ends.
        lineage: what a run's float student was made from, the oldest first; () for other models.
    """

    facts: ModelFacts
    license_text: str | None = None
    other_words: str | None = None
    same_chats: bool = True
    lineage: tuple[str, ...] = ()


ONNX_HEAD_MULTIPLE = 8  # what onnxruntime's GroupQueryAttention takes


def check_onnx(where: str, shape: ModelShape) -> None:
    """Raise InputError where onnxruntime's attention doesn't take the model. It takes every number format."""
    if shape.head_dim % ONNX_HEAD_MULTIPLE:
        raise InputError(
            f"{where}: heads are {shape.head_dim} wide; onnxruntime's attention takes multiples of "
            f"{ONNX_HEAD_MULTIPLE}. Export it as GGUF, which takes any."
        )

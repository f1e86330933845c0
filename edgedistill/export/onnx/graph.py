"""The ONNX graph of a decoder of any of the known families: nodes over weights that stay in the checkpoint's codes.

Inputs `input_ids` and `attention_mask` [B, T] int64, `past_key_values.N.key` and `.value` [B, kv heads, past, head
dim]; outputs `logits` [B, T, V] and `present.N.key`, `.value`. These are the names of optimum's exports, so every
program that runs those runs this.

A llama's layer is seven nodes and its weights: q|k|v in one MatMulNBits (rows concatenated), GroupQueryAttention with
rotary caches, the output projection, gate|up in one MatMulNBits, SiLU as x · sigmoid(x), the down projection, and the
RMS norms fused with the residual sums. Other families add norms, biases, multipliers, windows. A node's name is the
Hugging Face module's, so that a reader can find the tensors again.

The embedding gathers from the very initializer that the output layer multiplies by where they are tied.
Sources: transformers 5.23, models/*/modeling_*.py; onnxruntime, contrib operators.
"""

from collections.abc import Sequence

import numpy as np
from onnx import GraphProto, TensorProto, ValueInfoProto, helper

from edgedistill.export.compare import multiplier
from edgedistill.export.onnx.matrices import Matrices
from edgedistill.export.onnx.nodes import MS, Store
from edgedistill.export.onnx.rotary import RotaryCaches
from edgedistill.facts import EMBEDDING, FINAL_NORM, HEAD, ModelShape
from edgedistill.families import FAMILIES
from edgedistill.quant.checkpoint import GridCheckpoint

# Added to the score of a masked key: e^-1e9 is 0, and a row with nothing to see stays finite.
MASKED = -1.0e9
ROTARY_MULTIPLE = 16  # of a head, and of the part of it that is rotated: what GroupQueryAttention rotates itself


class DecoderGraph(Matrices):
    """Collects the nodes and initializers of one model; `build` makes the graph."""

    def __init__(self, checkpoint: GridCheckpoint, shape: ModelShape, store: Store, accuracy_level: int) -> None:
        super().__init__(checkpoint, store, accuracy_level)
        self.shape = shape
        self.family = FAMILIES[shape.family]
        rotated = shape.rotary_dim or shape.head_dim
        self.attention_rotates = shape.head_dim % ROTARY_MULTIPLE == 0 and rotated % ROTARY_MULTIPLE == 0

    def build(self, caches: RotaryCaches) -> GraphProto:
        """The whole graph."""
        for name, values in caches.named().items():
            self.constant(name, values)
        self.attention_inputs()
        hidden = self.embed()
        before, after = self.family.norms != "post", self.family.norms != "pre"
        normed = self.norm("model.layers.0.input_layernorm", hidden) if before else hidden
        for index in range(self.shape.layers):
            at = f"model.layers.{index}"
            attended = self.attention(index, normed)
            if after:
                attended = self.norm(f"{at}.post_attention_layernorm", attended)
            normed, hidden = self.residual(f"{at}.self_attn", hidden, attended, self.norm_before_mlp(index))
            fed = self.feed_forward(f"{at}.mlp", normed)
            if after:
                fed = self.norm(f"{at}.post_feedforward_layernorm", fed)
            normed, hidden = self.residual(f"{at}.mlp", hidden, fed, self.norm_after_layer(index))
        self.head(normed)
        return helper.make_graph(
            self.nodes, self.shape.family, self.inputs(), self.outputs(), list(self.initializers.values())
        )

    def norm_before_mlp(self, index: int) -> str | None:
        """The norm between a layer's attention and its MLP, by name; None where the family has none there."""
        if self.family.norms == "post":
            return None
        name = "post_attention_layernorm" if self.family.norms == "pre" else "pre_feedforward_layernorm"
        return f"model.layers.{index}.{name}"

    def norm_after_layer(self, index: int) -> str | None:
        """The norm behind a layer: the next one's first, or the model's last; None where the family has none there."""
        if index == self.shape.layers - 1:
            return "model.norm"
        return None if self.family.norms == "post" else f"model.layers.{index + 1}.input_layernorm"

    def attention_inputs(self) -> None:
        """What every layer's attention needs of the mask: lengths, and the bias that hides padding.

        The operator itself knows only padding on the right. Here each row counts as full, and the bias hides what the
        mask hides: rotary positions are relative, so padding at a row's start changes no angle between its tokens.
        """
        one, zero = self.integers("one", 1), self.integers("zero", 0)
        mask_shape = self.node("Shape", ["attention_mask"], "mask.shape")
        batch = self.node("Gather", [mask_shape, zero], "mask.batch")
        total = self.node("Gather", [mask_shape, one], "mask.total")
        self.node("Cast", [total], "mask.total_length", outputs=["total_length"], to=TensorProto.INT32)
        last = self.node("Sub", [total, one], "mask.last")
        rows = self.node("Expand", [last, batch], "mask.last_rows")
        self.node("Cast", [rows], "mask.seqlens", outputs=["seqlens_k"], to=TensorProto.INT32)
        tokens = self.node("Gather", [self.node("Shape", ["input_ids"], "tokens.shape"), one], "tokens.count")
        seen = self.node("Cast", ["attention_mask"], "mask.seen", to=TensorProto.FLOAT)
        hidden = self.node("Sub", [self.number("seen", 1), seen], "mask.hidden")
        bias = self.node("Mul", [hidden, self.number("masked", MASKED)], "mask.bias")
        bias = self.node("Unsqueeze", [bias, self.integers("head_and_query", 1, 2)], "mask.bias_4d")
        size = self.node("Concat", [batch, one, tokens, total], "mask.bias_shape", axis=0)
        self.node("Expand", [bias, size], "mask.bias_rows", outputs=["attention_bias"])
        if not self.attention_rotates or self.shape.window is not None:
            self.node("Sub", [total, tokens], "tokens.first", outputs=["first_position"])
        if self.shape.window is not None:
            self.window_bias(total, self.shape.window)

    def window_bias(self, total: str, window: int) -> None:
        """The bias of windowed layers, which also hides what is `window` tokens back or more.

        The operator's own window hides the same, and saves the time of it; but before onnxruntime 1.24 it was a token
        longer.
        """
        begin, end = (
            self.node("Squeeze", [value], f"window.{what}")
            for what, value in (("begin", "first_position"), ("end", total))
        )
        step = self.constant("step", np.array(1, np.int64))
        queries = self.node("Range", [begin, end, step], "window.queries")
        keys = self.node("Range", [self.constant("start", np.array(0, np.int64)), end, step], "window.keys")
        column = self.node("Unsqueeze", [queries, self.integers("last", -1)], "window.column")
        distance = self.node("Sub", [column, keys], "window.distance")
        outside = self.node("GreaterOrEqual", [distance, self.integers("window", window)], "window.outside")
        hidden = self.node("Cast", [outside], "window.hidden", to=TensorProto.FLOAT)
        bias = self.node("Mul", [hidden, self.number("masked", MASKED)], "window.bias")
        self.node("Add", ["attention_bias", bias], "window.bias_rows", outputs=["window_bias"])

    def embed(self) -> str:
        """Rows of the embedding table for `input_ids`: [B, T, D]."""
        name = EMBEDDING.removesuffix(".weight")
        self.embedding = self.matrix(name, [name])
        return self.scaled(f"{name}.scaled", self.gather(name, "input_ids", self.embedding), self.shape.embedding_scale)

    def scaled(self, name: str, x: str, factor: float) -> str:
        """x times a number, x itself where that is 1."""
        return x if factor == 1 else self.node("Mul", [x, self.number(f"{name}.factor", factor)], name)

    def norm_weight(self, name: str) -> str:
        """What a norm multiplies by: float32 [D], 1 + w in the families that add 1."""
        values = multiplier(name, self.checkpoint.decode(name).numpy(), self.shape.norm_offset)
        return self.constant(name, values)

    def norm(self, name: str, x: str) -> str:
        """RMS norm over the last dimension."""
        inputs = [x, self.norm_weight(f"{name}.weight")]
        return self.node(
            "SimplifiedLayerNormalization", inputs, name, axis=-1, epsilon=self.shape.norm_eps, stash_type=1
        )

    def residual(self, name: str, x: str, add: str, norm: str | None) -> tuple[str, str]:
        """(RMS norm of the sum of x and what a block adds, that sum), both [B, T, D]; without a norm the sum twice."""
        add = self.scaled(f"{name}.scaled", add, self.shape.residual_scale)
        if norm is None:
            total = self.node("Add", [x, add], f"{name}.sum")
            return total, total
        last = f"{norm}.weight" == FINAL_NORM
        outputs = [f"{norm}.out"] if last else [f"{norm}.out", "", "", f"{norm}.sum"]
        inputs = [x, add, self.norm_weight(f"{norm}.weight")]
        self.node("SkipSimplifiedLayerNormalization", inputs, norm, MS, outputs, epsilon=self.shape.norm_eps)
        return outputs[0], outputs[-1]

    def attention(self, index: int, x: str) -> str:
        """Causal attention with the cache of layer `index`, rotary embedding and window where it has them."""
        shape, at = self.shape, f"model.layers.{index}.self_attn"
        windowed, plain = shape.layer_kind(index)
        cos, sin = (
            ("local_cos_cache", "local_sin_cache")
            if windowed and shape.local_rope_theta is not None
            else ("cos_cache", "sin_cache")
        )
        inside = self.attention_rotates or plain
        queries = self.queries_keys_values(at, x, together=self.family.head_norms is None and inside)
        if self.family.head_norms is not None:
            queries[:2] = [
                self.head_norm(f"{at}.{part}_norm", value) for part, value in zip("qk", queries[:2], strict=True)
            ]
        if not inside:
            queries[0] = self.rotate(f"{at}.q_rotated", queries[0], shape.heads, cos, sin)
            queries[1] = self.rotate(f"{at}.k_rotated", queries[1], shape.kv_heads, cos, sin)
        do_rotary = inside and not plain
        past, present = f"past_key_values.{index}", f"present.{index}"
        inputs = [
            *queries,
            f"{past}.key",
            f"{past}.value",
            "seqlens_k",
            "total_length",
            *((cos, sin) if do_rotary else ("", "")),
        ]
        attributes: dict[str, float | int] = {} if shape.attention_scale is None else {"scale": shape.attention_scale}
        if windowed and shape.window is not None:
            attributes["local_window_size"] = shape.window
        inputs += ["", "window_bias" if windowed else "attention_bias"]
        out = self.node(
            "GroupQueryAttention",
            inputs,
            at,
            MS,
            [f"{at}.out", f"{present}.key", f"{present}.value"],
            num_heads=shape.heads,
            kv_num_heads=shape.kv_heads,
            do_rotary=int(do_rotary),
            rotary_interleaved=0,
            **attributes,
        )
        return self.linear(at, ["o_proj"], out)[0]

    def queries_keys_values(self, at: str, x: str, together: bool) -> list[str]:
        """The attention's first three inputs, q, k and v; `together` allows all in the first, as one matrix."""
        names = ["q_proj", "k_proj", "v_proj"]
        if self.family.fused:
            _, value = self.joined(at, ["qkv_proj"], x)
        elif together and len(self.neighbours(at, names)) == 1:
            _, value = self.joined(at, names, x)
        else:
            return self.linear(at, names, x)
        if together:
            return [value, "", ""]
        queries, keys = self.shape.heads * self.shape.head_dim, self.shape.kv_heads * self.shape.head_dim
        outputs = [f"{at}.{name}.out" for name in names]
        self.node(
            "Split",
            [value, self.integers("queries_keys_values", queries, keys, keys)],
            f"{at}.split",
            outputs=outputs,
            axis=-1,
        )
        return outputs

    def head_norm(self, name: str, x: str) -> str:
        """RMS norm of each head [B, T, heads · head dim] for itself, or over all of them at once."""
        if self.family.head_norms == "all":
            return self.norm(name, x)
        heads = self.node("Reshape", [x, self.integers("into_heads", 0, 0, -1, self.shape.head_dim)], f"{name}.heads")
        return self.node("Reshape", [self.norm(name, heads), self.integers("out_of_heads", 0, 0, -1)], f"{name}.flat")

    def rotate(self, name: str, x: str, heads: int, cos: str, sin: str) -> str:
        """Rotary embedding of [B, T, heads · head dim], for heads that the attention operator can't rotate itself."""
        part = self.shape.rotary_dim or 0  # 0: the whole head
        inputs = [x, "first_position", cos, sin]
        return self.node("RotaryEmbedding", inputs, name, MS, num_heads=heads, rotary_embedding_dim=part, interleaved=0)

    def feed_forward(self, at: str, x: str) -> str:
        """down(activation(gate(x)) · up(x))."""
        if self.family.fused:
            _, both = self.joined(at, ["gate_up_proj"], x)
            gate, up = f"{at}.gate", f"{at}.up"
            self.node("Split", [both], f"{at}.split", outputs=[gate, up], axis=-1, num_outputs=2)
        else:
            gate, up = self.linear(at, ["gate_proj", "up_proj"], x)
        if self.shape.activation == "silu":
            active = self.node("Mul", [gate, self.node("Sigmoid", [gate], f"{at}.sigmoid")], f"{at}.silu")
        else:
            active = self.node("Gelu", [gate], f"{at}.gelu", approximate="tanh")
        return self.linear(at, ["down_proj"], self.node("Mul", [active, up], f"{at}.product"))[0]

    def head(self, x: str) -> None:
        """Logits [B, T, V] of the last hidden states."""
        name = HEAD.removesuffix(".weight")
        # The hidden states are scaled in place of the logits, of which there are many times more.
        x = self.scaled(f"{name}.scaled", x, self.shape.logit_scale)
        self.multiply(name, x, self.embedding if self.shape.tied else self.matrix(name, [name]), ["logits"])

    def inputs(self) -> list[ValueInfoProto]:
        """Head dimensions are numbers: transformers.js fails on symbols there."""
        ids = helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["batch_size", "sequence_length"])
        mask = helper.make_tensor_value_info(
            "attention_mask", TensorProto.INT64, ["batch_size", "total_sequence_length"]
        )
        return [ids, mask, *self.cache("past_key_values", "past_sequence_length")]

    def outputs(self) -> list[ValueInfoProto]:
        """Logits, then the caches."""
        logits = helper.make_tensor_value_info(
            "logits", TensorProto.FLOAT, ["batch_size", "sequence_length", self.shape.vocab]
        )
        return [logits, *self.cache("present", "total_sequence_length")]

    def cache(self, prefix: str, length: str) -> list[ValueInfoProto]:
        """Key and value of every layer."""
        dims: Sequence[str | int | None] = ["batch_size", self.shape.kv_heads, length, self.shape.head_dim]
        return [
            helper.make_tensor_value_info(f"{prefix}.{index}.{part}", TensorProto.FLOAT, dims)
            for index in range(self.shape.layers)
            for part in ("key", "value")
        ]

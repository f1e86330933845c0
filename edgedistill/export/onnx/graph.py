"""The ONNX graph of a llama: nodes over weights that stay in the checkpoint's codes.

Inputs `input_ids` and `attention_mask` [B, T] int64, `past_key_values.N.key` and `.value` [B, kv heads, past, head dim];
outputs `logits` [B, T, V] and `present.N.key`, `.value`: the names of optimum's exports, so what runs those runs this.

A layer is seven nodes and its weights: q|k|v in one MatMulNBits (rows concatenated), GroupQueryAttention with rotary
caches, the output projection, gate|up in one MatMulNBits, SiLU as x · sigmoid(x), the down projection, and the RMS norms
fused with the residual sums. A node's name is the Hugging Face module's, so that a reader can find the tensors again.

Scales are stored as float16, as the checkpoint has them, and widened by a Cast that onnxruntime folds when it loads.
The embedding gathers from the very initializer that the output layer multiplies by where they are tied.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import GraphProto, NodeProto, TensorProto, ValueInfoProto, helper

from edgedistill.errors import InputError
from edgedistill.export.onnx.blocks import BLOCK, onnx_bits, pack
from edgedistill.facts import EMBEDDING, FINAL_NORM, HEAD, ModelShape
from edgedistill.quant.checkpoint import GridCheckpoint
from edgedistill.quant.grids import GridTensor

MS = "com.microsoft"
# Added to the score of a masked key: e^-1e9 is 0, and a row with nothing to see stays finite.
MASKED = -1.0e9

Store = Callable[[str, NDArray[np.generic]], TensorProto]


class LlamaGraph:
    """Collects the nodes and initializers of one model; `build` makes the graph."""

    def __init__(self, checkpoint: GridCheckpoint, shape: ModelShape, store: Store, accuracy_level: int) -> None:
        self.checkpoint = checkpoint
        self.shape = shape
        self.store = store
        self.accuracy_level = accuracy_level
        self.nodes: list[NodeProto] = []
        self.initializers: list[TensorProto] = []

    def build(self, cos: NDArray[np.float32], sin: NDArray[np.float32]) -> GraphProto:
        """The whole graph. `cos` and `sin`: rotary caches [positions, head dim / 2]."""
        self.constant("cos_cache", cos)
        self.constant("sin_cache", sin)
        self.attention_inputs()
        hidden = self.embed()
        normed = self.node(
            "SimplifiedLayerNormalization", [hidden, self.norm("model.layers.0.input_layernorm.weight")],
            "model.layers.0.input_layernorm", axis=-1, epsilon=self.shape.norm_eps, stash_type=1,
        )
        for index in range(self.shape.layers):
            at = f"model.layers.{index}"
            attended = self.attention(index, normed)
            normed, hidden = self.skip_norm(hidden, attended, f"{at}.post_attention_layernorm")
            fed = self.feed_forward(at, normed)
            last = index == self.shape.layers - 1
            normed, hidden = self.skip_norm(hidden, fed, "model.norm" if last else f"model.layers.{index + 1}.input_layernorm")
        self.head(normed)
        return helper.make_graph(self.nodes, "llama", self.inputs(), self.outputs(), self.initializers)

    def node(self, op: str, inputs: Sequence[str], name: str, domain: str = "", outputs: Sequence[str] = (), **attributes: Any) -> str:
        """Append one node and return its first output, `NAME.out` unless `outputs` names them."""
        made = list(outputs) or [f"{name}.out"]
        self.nodes.append(helper.make_node(op, list(inputs), made, name=name, domain=domain, **attributes))
        return made[0]

    def constant(self, name: str, values: NDArray[np.generic]) -> str:
        """Add an initializer."""
        self.initializers.append(self.store(name, values))
        return name

    def norm(self, name: str) -> str:
        """The float32 weight [D] of a norm."""
        return self.constant(name, self.checkpoint.decode(name).float().numpy())

    def attention_inputs(self) -> None:
        """What every layer's attention needs of the mask: lengths, and the bias that hides padding.

        The operator itself knows only padding on the right. Here each row counts as full and the bias hides what the mask
        hides: rotary positions are relative, so a row that starts late by its padding sees the same angles.
        """
        one, zero = self.constant("one", np.array([1], np.int64)), self.constant("zero", np.array([0], np.int64))
        mask_shape = self.node("Shape", ["attention_mask"], "mask.shape")
        batch = self.node("Gather", [mask_shape, zero], "mask.batch")
        total = self.node("Gather", [mask_shape, one], "mask.total")
        self.node("Cast", [total], "mask.total_length", outputs=["total_length"], to=TensorProto.INT32)
        last = self.node("Sub", [total, one], "mask.last")
        rows = self.node("Expand", [last, batch], "mask.last_rows")
        self.node("Cast", [rows], "mask.seqlens", outputs=["seqlens_k"], to=TensorProto.INT32)
        tokens = self.node("Gather", [self.node("Shape", ["input_ids"], "tokens.shape"), one], "tokens.count")
        seen = self.node("Cast", ["attention_mask"], "mask.seen", to=TensorProto.FLOAT)
        hidden = self.node("Sub", [self.constant("seen", np.array([1], np.float32)), seen], "mask.hidden")
        bias = self.node("Mul", [hidden, self.constant("masked", np.array([MASKED], np.float32))], "mask.bias")
        bias = self.node("Unsqueeze", [bias, self.constant("head_and_query", np.array([1, 2], np.int64))], "mask.bias_4d")
        size = self.node("Concat", [batch, one, tokens, total], "mask.bias_shape", axis=0)
        self.node("Expand", [bias, size], "mask.bias_rows", outputs=["attention_bias"])

    def weight(self, name: str, parts: Sequence[str]) -> tuple[str, str, int, int, int]:
        """Initializers of the rows of `parts`, one below another: (codes, widened scales, bits, rows, cols)."""
        tensors = [self.checkpoint.tensors[part] for part in parts]
        grids = {t.grid if isinstance(t, GridTensor) else "none" for t in tensors}
        if len(grids) != 1 or "none" in grids:
            raise InputError(f"{' and '.join(parts)} are on the grids {sorted(grids)}; an ONNX file stores them as one tensor on one grid")
        codes, scales = zip(*(pack(t) for t in tensors if isinstance(t, GridTensor)), strict=True)
        joined = np.concatenate(codes)
        self.constant(f"{name}.codes", joined)
        self.constant(f"{name}.scales", np.concatenate(scales))
        widened = self.node("Cast", [f"{name}.scales"], f"{name}.widen", to=TensorProto.FLOAT)
        return f"{name}.codes", widened, onnx_bits(grids.pop()), joined.shape[0], joined.shape[1] * BLOCK

    def multiply(self, name: str, x: str, weight: tuple[str, str, int, int, int], outputs: Sequence[str] = ()) -> str:
        """x [B, T, I] times the weight [O, I] transposed."""
        codes, scales, bits, rows, cols = weight
        return self.node(
            "MatMulNBits", [x, codes, scales], name, MS, outputs,
            K=cols, N=rows, bits=bits, block_size=BLOCK, accuracy_level=self.accuracy_level,
        )

    def linear(self, name: str, x: str, parts: Sequence[str]) -> str:
        """x times the named tensors' rows, their outputs side by side."""
        return self.multiply(name, x, self.weight(name, parts))

    def embed(self) -> str:
        """Rows of the embedding table for `input_ids`: [B, T, D]."""
        name = "model.embed_tokens"
        codes, scales, bits, _, cols = self.embedding = self.weight(name, [EMBEDDING])
        # The table keeps MatMulNBits' three dimensions, so that nothing big is reshaped and copied at load.
        last = self.constant("last", np.array([-1], np.int64))
        scales = self.node("Unsqueeze", [scales, last], f"{name}.scales_3d")
        rows = self.node(
            "GatherBlockQuantized", [codes, "input_ids", scales], name, MS,
            bits=bits, block_size=BLOCK, gather_axis=0, quantize_axis=2,
        )
        return self.node("Reshape", [rows, self.constant("flat", np.array([0, 0, cols], np.int64))], f"{name}.flat")

    def skip_norm(self, x: str, skip: str, name: str) -> tuple[str, str]:
        """(RMS norm of x + skip, x + skip), both [B, T, D]."""
        outputs = [f"{name}.out", "", "", f"{name}.sum"] if name != "model.norm" else [f"{name}.out"]
        gamma = FINAL_NORM if name == "model.norm" else f"{name}.weight"
        self.node("SkipSimplifiedLayerNormalization", [x, skip, self.norm(gamma)], name, MS, outputs, epsilon=self.shape.norm_eps)
        return outputs[0], outputs[-1]

    def attention(self, index: int, x: str) -> str:
        """Causal attention with rotary embedding and the cache of layer `index`."""
        at, past, present = f"model.layers.{index}.self_attn", f"past_key_values.{index}", f"present.{index}"
        qkv = self.linear(f"{at}.qkv_proj", x, [f"{at}.{p}_proj.weight" for p in "qkv"])
        out = self.node(
            "GroupQueryAttention",
            [qkv, "", "", f"{past}.key", f"{past}.value", "seqlens_k", "total_length", "cos_cache", "sin_cache", "", "attention_bias"],
            at, MS, [f"{at}.out", f"{present}.key", f"{present}.value"],
            num_heads=self.shape.heads, kv_num_heads=self.shape.kv_heads, do_rotary=1, rotary_interleaved=0,
        )
        return self.linear(f"{at}.o_proj", out, [f"{at}.o_proj.weight"])

    def feed_forward(self, at: str, x: str) -> str:
        """down(silu(gate(x)) · up(x))."""
        name = f"{at}.mlp.gate_up_proj"
        both = self.linear(name, x, [f"{at}.mlp.gate_proj.weight", f"{at}.mlp.up_proj.weight"])
        gate, up = f"{at}.mlp.gate", f"{at}.mlp.up"
        self.node("Split", [both], f"{name}.split", outputs=[gate, up], axis=-1, num_outputs=2)
        sigmoid = self.node("Sigmoid", [gate], f"{at}.mlp.sigmoid")
        silu = self.node("Mul", [gate, sigmoid], f"{at}.mlp.silu")
        return self.linear(f"{at}.mlp.down_proj", self.node("Mul", [silu, up], f"{at}.mlp.product"), [f"{at}.mlp.down_proj.weight"])

    def head(self, x: str) -> None:
        """Logits [B, T, V] of the last hidden states."""
        weight = self.embedding if self.shape.tied else self.weight("lm_head", [HEAD])
        self.multiply("lm_head", x, weight, ["logits"])

    def inputs(self) -> list[ValueInfoProto]:
        """Head dimensions are numbers: transformers.js fails on symbols there."""
        made = [helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["batch_size", "sequence_length"])]
        made.append(helper.make_tensor_value_info("attention_mask", TensorProto.INT64, ["batch_size", "total_sequence_length"]))
        return made + self.cache("past_key_values", "past_sequence_length")

    def outputs(self) -> list[ValueInfoProto]:
        """Logits, then the caches."""
        logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch_size", "sequence_length", self.shape.vocab])
        return [logits, *self.cache("present", "total_sequence_length")]

    def cache(self, prefix: str, length: str) -> list[ValueInfoProto]:
        """Key and value of every layer."""
        dims: list[str | int | None] = ["batch_size", self.shape.kv_heads, length, self.shape.head_dim]
        return [
            helper.make_tensor_value_info(f"{prefix}.{index}.{part}", TensorProto.FLOAT, dims)
            for index in range(self.shape.layers)
            for part in ("key", "value")
        ]

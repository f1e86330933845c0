"""Memory of the stages, in bytes by the model's shape; most have a tensor or a layer of it in memory at a time.

The figures a weight are those of the types that a tensor goes through, and were compared with what stages took
(bench/results/memory.json).
"""

from edgedistill.config.recover import CURVATURE_BYTES
from edgedistill.facts import ModelShape, TensorShape
from edgedistill.mixes import layer_of

# Python with torch, transformers and gguf loaded; and with what a whole model's passes take beside it.
PROCESS_BYTES, BASE_RAM_BYTES = 410 * 2**20, 900 * 2**20
# A llama.cpp process, beside weights and cache: its own code and the buffers of its products.
LLAMA_BYTES = 250 * 2**20
# Of the largest tensor, at once: as it is stored (2), in float32 (4), rounded to float16 (2).
COPIED, FLOAT_FILE, ROUNDED = 3, 8, 8
# A file's values and the checkpoint's in float32, and what of both is compared.
READ_BACK = 12
# The float model's values, a file's, and the sums of their differences in float64.
BY_LAYER = 16
# Of a table: the float model's and the student's output matrix in float32, and the second one as it is decoded.
TWO_HEADS = 10
# Of a table: an output matrix as it is stored, in float32, and written.
ONE_HEAD = 8
# Of the largest tensor while it is fitted: the weight, its codes, the fit's and ggml's blocks.
FITTED = 12
# Values of a batch that a layer has at once, in widths of its MLP, float32: gate, up, their product, and copies.
LAYER_WIDTHS = 6
# Values kept for backward, in widths a token and layer, at 2 bytes: 17 in a llama whose MLP is 2.7 widths wide.
ACTIVATION_WIDTHS = 18


def largest(shape: ModelShape) -> int:
    """Weights of the largest tensor: mostly a table."""
    return max(tensor.size for tensor in shape.tensors())


def table(shape: ModelShape) -> int:
    """Weights of the embedding."""
    return shape.vocab * shape.width


def layer_tensors(shape: ModelShape) -> list[TensorShape]:
    """The tensors of one layer; all have the same sizes."""
    return [tensor for tensor in shape.tensors() if layer_of(tensor.name) == 0]


def layer(shape: ModelShape) -> int:
    """Weights of a layer."""
    return sum(tensor.size for tensor in layer_tensors(shape))


def a_tensor_at_a_time(shape: ModelShape, each: float) -> int:
    """A stage that has `each` bytes for a weight of the largest tensor."""
    return PROCESS_BYTES + round(each * largest(shape))


def states(shape: ModelShape, tokens: int) -> int:
    """Of so many tokens, float32."""
    return 4 * tokens * shape.width


def of_a_layer(shape: ModelShape, batch_tokens: int) -> int:
    """A layer in float32, and what it computes of a batch."""
    return 4 * layer(shape) + 4 * batch_tokens * LAYER_WIDTHS * max(shape.ffn, shape.width)


def matrices(shape: ModelShape) -> int:
    """The numbers of one layer's curvature: a matrix over the inputs of each linear."""
    return sum(tensor.cols**2 for tensor in layer_tensors(shape) if tensor.kind == "linear")


def curvature_passes(shape: ModelShape, part_bytes: int = CURVATURE_BYTES) -> int:
    """Passes over the text in which curvature is measured of a whole model in memory, as many layers in each as fit in
    `part_bytes`.
    """
    passes, left = 0, 0
    for tensor in shape.tensors():
        if tensor.kind != "linear":
            continue
        size = 4 * tensor.cols**2
        if size > left:
            passes, left = passes + 1, part_bytes
        left -= size
    return passes


def curvature_is_layered(shape: ModelShape) -> bool:
    """Whether curvature is measured a layer at a time, in one pass: of models whose matrices would take several."""
    return curvature_passes(shape) > 1


def layered_curvature(shape: ModelShape, tokens: int, batch_tokens: int) -> int:
    """The most of the output matrix with all states, and of a layer with its matrices and all gradients."""
    widest = max(tensor.cols for tensor in layer_tensors(shape))
    head = TWO_HEADS * table(shape) + 2 * states(shape, tokens)
    back = of_a_layer(shape, batch_tokens) + activations(shape, batch_tokens) // shape.layers
    back += 4 * matrices(shape) + 4 * widest**2 + 2 * states(shape, tokens)
    return PROCESS_BYTES + max(head, back)


def activations(shape: ModelShape, tokens: int) -> int:
    """What all layers keep of so many tokens for backward."""
    return tokens * shape.layers * shape.width * ACTIVATION_WIDTHS * 2


def kept_curvature(shape: ModelShape) -> int:
    """Of a matrix over the inputs of each linear layer in float16, as they are kept."""
    return sum(2 * tensor.cols**2 for tensor in shape.tensors() if tensor.kind == "linear")


def fit_alone(shape: ModelShape, packed: int, tokens: int, seq_len: int) -> int:
    """A fit without training: the packed weights beside a tensor that is fitted, or beside both output matrices.

    Args:
        packed: bytes of the packed weights.
        tokens, seq_len: of the text that validates.
    """
    widest = max(tensor.cols for tensor in shape.tensors())
    fitting = FITTED * largest(shape) + 8 * widest**2
    validating = TWO_HEADS * table(shape) + of_a_layer(shape, 2 * seq_len)
    return PROCESS_BYTES + packed + 3 * states(shape, tokens) + max(fitting, validating)


def choosing(shape: ModelShape, tokens: int) -> int:
    """Grids chosen by trying them: weights twice in float32, and of the text the float model's logits and every
    layer's inputs.
    """
    return BASE_RAM_BYTES + 8 * shape.parameters + 4 * tokens * (shape.vocab + shape.layers * shape.width)

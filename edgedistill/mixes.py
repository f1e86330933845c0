"""Mixes: which tensor gets which number format. Decided in the plan, before training, and trained on.

It stands outside quant/ because the planner, which must not load torch, decides by it too.
"""

from edgedistill.errors import InputError, did_you_mean
from edgedistill.facts import ModelShape
from edgedistill.formats import F16, F32, Q4_0, Q8_0, NumberFormat

# What each kind of tensor is stored as. Norms are a thousandth of the weights and every runtime wants them in f32.
# q4_0 keeps the embedding, which is also the output layer of a tied model, in q8_0: at 135M parameters it costs
# 14 MB and the whole vocabulary's logits pass through it.
MIXES: dict[str, dict[str, NumberFormat]] = {
    "q4_0": {"linear": Q4_0, "embedding": Q8_0, "head": Q8_0, "norm": F32},
    "q8_0": {"linear": Q8_0, "embedding": Q8_0, "head": Q8_0, "norm": F32},
    "f16": {"linear": F16, "embedding": F16, "head": F16, "norm": F32},
}
QUANTIZED_MIXES = tuple(name for name, mix in MIXES.items() if mix["linear"].quantized)


def assign_formats(shape: ModelShape, mix: str) -> dict[str, NumberFormat]:
    """The number format of every tensor, by Hugging Face name.

    Raises:
        InputError: the mix is unknown, or a row does not divide into the blocks of its format.
    """
    if mix not in MIXES:
        raise InputError(f"mix '{mix}' is unknown; it must be one of {', '.join(MIXES)}.{did_you_mean(mix, MIXES)}")
    formats = {}
    for tensor in shape.tensors():
        number_format = MIXES[mix][tensor.kind]
        if not number_format.fits(tensor.cols):
            raise InputError(
                f"{tensor.name} has rows of {tensor.cols} weights; mix '{mix}' stores it as {number_format.name}, "
                f"whose rows must be a multiple of {number_format.block}. Choose a student whose sizes divide by {number_format.block}."
            )
        formats[tensor.name] = number_format
    return formats


def mix_bytes(shape: ModelShape, mix: str) -> int:
    """Bytes of all tensors in the mix, without the file's header."""
    formats = assign_formats(shape, mix)
    return sum(formats[t.name].tensor_bytes(t.rows, t.cols) for t in shape.tensors())

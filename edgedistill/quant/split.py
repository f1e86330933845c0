"""Products in bfloat16 that multiply by a float32 weight exactly: it is a sum of two or three bfloat16 numbers.

bfloat16 has 8 significant bits, and a weight on a grid more: of q4_0, a 4-bit code times a float16 scale, 14. Rounded
to bfloat16 nearly every weight would differ from the one in the file, of q8_0 by a third of what q8_0 itself loses. So
the products take hi + lo, or hi + mid + lo, each exact in bfloat16, side by side along the inputs [O, parts · I], and x
beside itself as often: one product, summed in float32 by the processor and rounded once. What stays rounded to bfloat16
are the activations and the products' results, and in backward the weight that a gradient is multiplied by on its way to
the layer before.
"""

import torch
from torch import Tensor

BITS = 17  # that two parts hold: 8 and 8, and the sign of the second
WHOLE = 3  # parts that hold any float32 number


def autocast_type(x: Tensor) -> torch.dtype | None:
    """The type that products of x run in under autocast; None outside of it."""
    kind = x.device.type
    if kind == "meta" or not torch.is_autocast_enabled(kind):
        return None
    return torch.get_autocast_dtype(kind)


def parts_for(bits: int) -> int:
    """How many bfloat16 numbers sum up to any number of so many significant bits, at most float32's 24."""
    return 2 if bits <= BITS else WHOLE


def split_into(out: Tensor, exact: Tensor) -> None:
    """Fill [rows, parts · I] bfloat16 with parts that sum up to float32 [rows, I], which is overwritten."""
    width = exact.shape[1]
    for start in range(0, out.shape[1], width):
        part = out[:, start : start + width]
        part.copy_(exact)
        if start + width < out.shape[1]:
            exact -= part


def split(weight: Tensor, parts: int = WHOLE) -> Tensor:
    """[O, parts · I] bfloat16 whose parts sum up to a float32 weight [O, I]."""
    out = torch.empty(weight.shape[0], parts * weight.shape[1], dtype=torch.bfloat16, device=weight.device)
    split_into(out, weight.detach().float().clone())
    return out


def beside_itself(x: Tensor, operand: Tensor) -> Tensor:
    """x [..., I] as often along its last dimension as an operand [O, parts · I] has parts."""
    times = operand.shape[1] // x.shape[-1]
    return x if times == 1 else torch.cat([x] * times, -1)


def multiply(x: Tensor, operand: Tensor, bias: Tensor | None) -> Tensor:
    """x [..., I] times an operand's weight, and the float32 bias [O], exact too: [..., O] in x's type."""
    wide = beside_itself(x, operand)
    if bias is None or x.dtype == bias.dtype:
        return torch.nn.functional.linear(wide, operand, bias)
    # Columns that x is 1 at: the bias goes into the same sum.
    columns = split(bias.unsqueeze(1))
    ones = x.new_ones(*x.shape[:-1], columns.shape[1])
    return torch.nn.functional.linear(torch.cat([wide, ones], -1), torch.cat([operand, columns], 1))

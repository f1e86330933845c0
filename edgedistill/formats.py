"""THE table of number formats: weights a block, bytes a block, and where each can live.

`ggml_type` is the id in a GGUF file (ggml.h, enum ggml_type); `onnx_bits` is the width in which ONNX's
MatMulNBits holds the same codes, None where it can't. Block layouts: ggml-common.h.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class NumberFormat:
    """One way to store weights: rows are cut into blocks of `block` weights of `block_bytes` bytes."""

    name: str
    block: int
    block_bytes: int
    ggml_type: int
    onnx_bits: int | None
    quantized: bool

    @property
    def bits_per_weight(self) -> float:
        """Bits a weight takes, scales included: 4.5 for q4_0."""
        return self.block_bytes * 8 / self.block

    def fits(self, cols: int) -> bool:
        """Whether a row of `cols` weights divides into whole blocks."""
        return cols % self.block == 0

    def tensor_bytes(self, rows: int, cols: int) -> int:
        """Bytes of a [rows, cols] tensor.

        Raises:
            ValueError: a row does not divide into whole blocks.
        """
        if not self.fits(cols):
            raise ValueError(f"{self.name} rows must be a multiple of {self.block} weights, got {cols} in {(rows, cols)}")
        return rows * (cols // self.block) * self.block_bytes


F32 = NumberFormat("f32", 1, 4, 0, None, quantized=False)
F16 = NumberFormat("f16", 1, 2, 1, None, quantized=False)
BF16 = NumberFormat("bf16", 1, 2, 30, None, quantized=False)
Q4_0 = NumberFormat("q4_0", 32, 18, 2, 4, quantized=True)
Q8_0 = NumberFormat("q8_0", 32, 34, 8, 8, quantized=True)

FORMATS: dict[str, NumberFormat] = {f.name: f for f in (F32, F16, BF16, Q4_0, Q8_0)}

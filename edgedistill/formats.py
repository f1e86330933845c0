"""THE table of number formats: weights a block, bytes a block, and where each can live.

`ggml_type` is the id in a GGUF file (ggml.h, enum ggml_type). `onnx_bits` is what a weight takes in an ONNX file,
scales included: MatMulNBits has codes of 2, 4 and 8 bits, so there most grids are wider (export/onnx/blocks.py). Block
layouts: ggml-common.h.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class NumberFormat:
    """One way to store weights: rows are cut into blocks of `block` weights of `block_bytes` bytes."""

    name: str
    block: int
    block_bytes: int
    ggml_type: int
    onnx_bits: float
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
            raise ValueError(
                f"{self.name} rows must be a multiple of {self.block} weights, got {cols} in {(rows, cols)}"
            )
        return rows * (cols // self.block) * self.block_bytes


F32 = NumberFormat("f32", 1, 4, 0, 32.0, quantized=False)
F16 = NumberFormat("f16", 1, 2, 1, 16.0, quantized=False)
BF16 = NumberFormat("bf16", 1, 2, 30, 16.0, quantized=False)
Q4_0 = NumberFormat("q4_0", 32, 18, 2, 4.5, quantized=True)
Q4_1 = NumberFormat("q4_1", 32, 20, 3, 5.0, quantized=True)
Q5_0 = NumberFormat("q5_0", 32, 22, 6, 8.5, quantized=True)
Q5_1 = NumberFormat("q5_1", 32, 24, 7, 9.0, quantized=True)
Q8_0 = NumberFormat("q8_0", 32, 34, 8, 8.5, quantized=True)
Q2_K = NumberFormat("q2_k", 256, 84, 10, 5.125, quantized=True)
Q3_K = NumberFormat("q3_k", 256, 110, 11, 4.5625, quantized=True)
Q4_K = NumberFormat("q4_k", 256, 144, 12, 4.625, quantized=True)
Q5_K = NumberFormat("q5_k", 256, 176, 13, 8.625, quantized=True)
Q6_K = NumberFormat("q6_k", 256, 210, 14, 8.5625, quantized=True)
IQ4_NL = NumberFormat("iq4_nl", 32, 18, 20, 8.5, quantized=True)
TQ2_0 = NumberFormat("tq2_0", 256, 66, 35, 2.125, quantized=True)
MXFP4 = NumberFormat("mxfp4", 32, 17, 39, 9.0, quantized=True)

FORMATS: dict[str, NumberFormat] = {
    f.name: f
    for f in (F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q2_K, Q3_K, Q4_K, Q5_K, Q6_K, IQ4_NL, TQ2_0, MXFP4)
}

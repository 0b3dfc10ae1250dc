"""Weights in blocks of 32 numbers that share a scale, as onnxruntime's MatMulNBits and GatherBlockQuantized read them.

A number is (q - 2^(bits-1)) times its block's scale, so no zero points are stored. In 4 bits the number of a block that is
furthest from 0 takes the furthest step, as in GGUF's Q4_0; in 8 bits both ends are kept alike, as in Q8_0.
"""

from typing import TYPE_CHECKING, Any, Literal, NamedTuple

if TYPE_CHECKING:
    import numpy as np

BLOCK = 32
Bits = Literal[4, 8]


class Blocks(NamedTuple):
    """A matrix [rows, columns] in blocks along its rows."""

    data: "np.ndarray"
    """Bytes [rows, blocks, 32 · bits / 8]: two numbers a byte in 4 bits, the first one in the lower half."""
    scales: "np.ndarray"
    """In float32 [rows, blocks]."""


def fits(columns: int) -> bool:
    """Whether rows of so many numbers are whole blocks."""
    return columns % BLOCK == 0


def quantize_blocks(values: "np.ndarray", bits: Bits) -> Blocks:
    """Round a matrix [rows, columns] in float32 to blocks."""
    import numpy as np

    rows: Any = values.reshape(len(values), -1, BLOCK).astype(np.float32)
    middle = 2 ** (bits - 1)
    if bits == 4:
        furthest = np.take_along_axis(rows, np.abs(rows).argmax(-1, keepdims=True), -1)
        scales = furthest / -middle
    else:
        scales = np.abs(rows).max(-1, keepdims=True) / (middle - 1)
    steps = np.divide(rows, scales, out=np.zeros_like(rows), where=scales != 0)
    numbers = np.clip(np.rint(steps) + middle, 0, 2 * middle - 1).astype(np.uint8)
    if bits == 4:
        numbers = numbers[..., 0::2] | (numbers[..., 1::2] << 4)
    return Blocks(numbers, scales[..., 0])


def dequantize_blocks(blocks: Blocks, bits: Bits) -> "np.ndarray":
    """Return the matrix [rows, columns] that the blocks stand for, in float32."""
    import numpy as np

    data = blocks.data.reshape(*blocks.scales.shape, -1)
    if bits == 4:
        data = np.stack([data & 15, data >> 4], axis=-1).reshape(*data.shape[:-1], BLOCK)
    values = (data.astype(np.float32) - 2 ** (bits - 1)) * blocks.scales[..., None]
    return values.reshape(len(values), -1)

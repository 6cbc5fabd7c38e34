"""Storage formats of weights: the numbers that FORMAT.md gives them and their arithmetic of bytes."""

from __future__ import annotations

from enum import IntEnum

TILE_ROWS = 16  # rows interleaved in one tile of a matrix
GROUP = 32  # inputs that share one scale in the integer formats, and in quantized activations


class Format(IntEnum):
    """How the elements of a tensor are stored. The values are those of the package file."""

    F32 = 0
    F16 = 1
    BF16 = 2
    INT8 = 3
    INT4 = 4
    INT2 = 5

    @property
    def bits(self) -> int:
        """Bits of one element, scales not counted."""
        return {Format.F32: 32, Format.F16: 16, Format.BF16: 16, Format.INT8: 8, Format.INT4: 4, Format.INT2: 2}[self]

    @property
    def is_integer(self) -> bool:
        return self in (Format.INT8, Format.INT4, Format.INT2)

    @property
    def block_bytes(self) -> int:
        """Bytes of one tile × one group (integer formats: 16 FP16 scales, then the packed fields)."""
        if not self.is_integer:
            raise ValueError(f"{self.name} has no blocks")
        return TILE_ROWS * 2 + TILE_ROWS * GROUP * self.bits // 8


def round_up(n: int, step: int) -> int:
    return -(-n // step) * step


def matrix_bytes(fmt: Format, rows: int, cols: int) -> int:
    """Bytes of a tiled [rows, cols] matrix, padding of rows to 16 and of columns to 32 included."""
    tiles = round_up(rows, TILE_ROWS) // TILE_ROWS
    if fmt.is_integer:
        return tiles * (round_up(cols, GROUP) // GROUP) * fmt.block_bytes
    return tiles * TILE_ROWS * cols * fmt.bits // 8


def vector_bytes(length: int) -> int:
    """Bytes of an F32 vector."""
    return length * 4

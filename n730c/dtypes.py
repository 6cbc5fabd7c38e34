"""Storage formats of weights: the numbers that FORMAT.md gives them and their arithmetic of bytes."""

from __future__ import annotations

from enum import IntEnum

TILE_ROWS = 16  # rows interleaved in one tile of a matrix
GROUP = 32  # inputs that share one scale in the integer formats, and in quantized activations
SUPER_GROUPS = 8  # groups whose scales share one FP16 in the formats with coded scales
SUPER_HEADER = TILE_ROWS * 2 + TILE_ROWS * SUPER_GROUPS // 2  # bytes of the FP16s and codes of one tile × super-block


class Format(IntEnum):
    """How the elements of a tensor are stored. The values are those of the package file."""

    F32 = 0
    F16 = 1
    BF16 = 2
    INT8 = 3
    INT4 = 4
    INT2 = 5
    INT6 = 6
    INT5 = 7
    NL4 = 8
    INT3 = 9
    NL2 = 10

    @property
    def planes(self) -> tuple[int, ...]:
        """Bits of the parts that a field of an integer format is stored in, most significant first; others: none."""
        return _PLANES.get(self, ())

    @property
    def bits(self) -> int:
        """Bits of one element, scales not counted."""
        return sum(self.planes) or (32 if self is Format.F32 else 16)

    @property
    def is_integer(self) -> bool:
        """Stored as small fields with a scale a group, and multiplied with quantized activations."""
        return self in _PLANES

    @property
    def has_coded_scales(self) -> bool:
        """A group's scale is a 4-bit code times an FP16 that eight groups share; otherwise an FP16 of its own."""
        return self >= Format.INT6

    @property
    def field_bytes(self) -> int:
        """Bytes of the packed fields of one tile × one group. Raises ValueError for formats without fields."""
        if not self.is_integer:
            raise ValueError(f"{self.name} has no fields")
        return TILE_ROWS * GROUP * self.bits // 8

    @property
    def block_bytes(self) -> int:
        """Bytes of one tile × one group: 16 FP16 scales, then the fields. Raises ValueError for formats without."""
        if self.has_coded_scales:
            raise ValueError(f"{self.name} has super-blocks")
        return TILE_ROWS * 2 + self.field_bytes


_PLANES = {
    Format.INT8: (8,),
    Format.INT4: (4,),
    Format.INT2: (2,),
    Format.INT6: (4, 2),
    Format.INT5: (4, 1),
    Format.NL4: (4,),
    Format.INT3: (2, 1),
    Format.NL2: (2,),
}


def round_up(n: int, step: int) -> int:
    return -(-n // step) * step


def matrix_bytes(fmt: Format, rows: int, cols: int) -> int:
    """Bytes of a tiled [rows, cols] matrix, padding of rows to 16 and of columns to 32 included."""
    tiles = round_up(rows, TILE_ROWS) // TILE_ROWS
    if fmt.has_coded_scales:
        supers = round_up(cols, GROUP * SUPER_GROUPS) // (GROUP * SUPER_GROUPS)
        return tiles * (supers * SUPER_HEADER + round_up(cols, GROUP) // GROUP * fmt.field_bytes)
    if fmt.is_integer:
        return tiles * (round_up(cols, GROUP) // GROUP) * fmt.block_bytes
    return tiles * TILE_ROWS * cols * fmt.bits // 8


def vector_bytes(length: int) -> int:
    """Bytes of an F32 vector."""
    return length * 4

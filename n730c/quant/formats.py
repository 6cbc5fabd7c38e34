"""The layouts of weight matrices in the file (runtime/FORMAT.md, section 3): tiles of 16 rows, big-endian.

A matrix in memory is either ``u16[rows, cols]`` bit patterns (F16, BF16) or integer fields ``u8|i8[rows, cols]`` with
``f16[rows, ceil(cols / 32)]`` scales. Fields are what the file stores: INT8 the value itself, INT4 value + 8,
INT2 (value + 3) / 2 for values −3, −1, 1, 3.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from n730c.dtypes import GROUP, TILE_ROWS, Format, matrix_bytes, round_up

Array = npt.NDArray[Any]

_PADDING = {Format.INT8: 0, Format.INT4: 8, Format.INT2: 1}  # fields of padded columns and rows


def values(fmt: Format, fields: Array) -> Array:
    """Integer values (i8) of stored fields, before the scale."""
    if fmt is Format.INT8:
        return fields.astype(np.int8)
    signed = fields.astype(np.int8)
    return signed - np.int8(8) if fmt is Format.INT4 else 2 * signed - np.int8(3)


def _pad(array: Array, rows: int, cols: int, fill: int) -> Array:
    if array.shape == (rows, cols):
        return array
    out = np.full((rows, cols), fill, dtype=array.dtype)
    out[: array.shape[0], : array.shape[1]] = array
    return out


def pack(fmt: Format, fields: Array, scales: Array | None = None) -> bytes:
    """Bytes of a matrix as the file holds it.

    ``fields``: F16/BF16 bit patterns ``u16[rows, cols]``, or the integer formats' fields ``[rows, cols]`` (see the
    module); ``scales``: ``f16[rows, ceil(cols / 32)]`` for the integer formats. Raises ValueError on other shapes.
    """
    rows, cols = fields.shape
    padded_rows = round_up(rows, TILE_ROWS)
    if not fmt.is_integer:
        bits = _pad(fields.astype(np.uint16, copy=False), padded_rows, cols, 0)
        tiles = bits.reshape(-1, TILE_ROWS, cols).transpose(0, 2, 1)
        return tiles.astype(">u2").tobytes()
    groups = round_up(cols, GROUP) // GROUP
    if scales is None or scales.shape != (rows, groups):
        raise ValueError(f"scales of {fmt.name}[{rows}, {cols}] must be f16[{rows}, {groups}]")
    padding = _PADDING[fmt]
    wide = _pad(fields.astype(np.uint8), rows, groups * GROUP, padding)
    # [tile, row, group, column] → [tile, group, unit, row, byte]; the fields of one byte lie 4 columns apart
    full = _pad(wide, padded_rows, groups * GROUP, padding)
    per_byte = 8 // fmt.bits
    units = 32 // (4 * per_byte)
    parts = full.reshape(-1, TILE_ROWS, groups, units, per_byte, 4).transpose(4, 0, 2, 3, 1, 5)
    packed = np.zeros(parts.shape[1:], dtype=np.uint8)
    for index in range(per_byte):  # most significant first
        packed |= parts[index] << np.uint8(8 - fmt.bits * (index + 1))
    count = padded_rows // TILE_ROWS
    out = np.empty((count, groups, fmt.block_bytes), dtype=np.uint8)
    wide_scales = _pad(scales.astype(np.float16), padded_rows, groups, 0)
    ordered = wide_scales.reshape(count, TILE_ROWS, groups).transpose(0, 2, 1).astype(">f2")
    out[:, :, : 2 * TILE_ROWS] = np.ascontiguousarray(ordered).view(np.uint8)
    out[:, :, 2 * TILE_ROWS :] = packed.reshape(count, groups, -1)
    return out.tobytes()


def unpack(fmt: Format, data: bytes | memoryview | Array, rows: int, cols: int) -> tuple[Array, Array | None]:
    """The reverse of ``pack``: ``(fields [rows, cols], scales f16[rows, groups] or None)``.

    Raises ValueError if ``data`` is not as long as the format says.
    """
    raw = np.frombuffer(data, dtype=np.uint8)
    if raw.size != matrix_bytes(fmt, rows, cols):
        raise ValueError(f"{fmt.name}[{rows}, {cols}] takes {matrix_bytes(fmt, rows, cols)} bytes, not {raw.size}")
    tiles = round_up(rows, TILE_ROWS) // TILE_ROWS
    if not fmt.is_integer:
        bits = raw.view(">u2").reshape(tiles, cols, TILE_ROWS).transpose(0, 2, 1).reshape(-1, cols)[:rows]
        return bits.astype(np.uint16), None
    groups = round_up(cols, GROUP) // GROUP
    blocks = raw.reshape(tiles, groups, fmt.block_bytes)
    scales = np.ascontiguousarray(blocks[:, :, : 2 * TILE_ROWS]).view(">f2").transpose(0, 2, 1).reshape(-1, groups)
    per_byte = 8 // fmt.bits
    packed = blocks[:, :, 2 * TILE_ROWS :].reshape(tiles, groups, -1, TILE_ROWS, 4)
    mask = np.uint8((1 << fmt.bits) - 1)
    parts = [packed >> np.uint8(8 - fmt.bits * (index + 1)) & mask for index in range(per_byte)]
    # [field, tile, group, unit, row, byte] → [tile, row, group, unit, field, byte]
    fields = np.stack(parts).transpose(1, 4, 2, 3, 0, 5).reshape(tiles * TILE_ROWS, groups * GROUP)[:rows, :cols]
    fields = np.ascontiguousarray(fields)
    return (fields.view(np.int8) if fmt is Format.INT8 else fields), scales[:rows].astype(np.float16)


def dequantize(fmt: Format, data: bytes | memoryview | Array, rows: int, cols: int) -> npt.NDArray[np.float32]:
    """The stored matrix as ``f32[rows, cols]``, exactly: scale × field fits FP32. Raises ValueError as ``unpack``."""
    fields, scales = unpack(fmt, data, rows, cols)
    if scales is None:
        if fmt is Format.F16:
            return fields.view(np.float16).astype(np.float32)
        return (fields.astype(np.uint32) << 16).view(np.float32)
    wide = np.repeat(scales.astype(np.float32), GROUP, axis=1)[:, :cols]
    return values(fmt, fields).astype(np.float32) * wide

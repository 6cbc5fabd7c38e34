"""The layouts of weight matrices in the file (runtime/FORMAT.md, section 3): tiles of 16 rows, big-endian.

A matrix in memory is either ``u16[rows, cols]`` bit patterns (F16, BF16), or integer fields ``u8|i8[rows, cols]`` with
their scales. A field stands for a level, a small integer: INT8's is the field itself (i8), the other formats' are in
``LEVELS``. The weight is level × scale of its group of 32 inputs. Scales are ``f16[rows, ceil(cols / 32)]``, or
``CodedScales`` where ``Format.has_coded_scales``.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from n730c.dtypes import GROUP, SUPER_GROUPS, SUPER_HEADER, TILE_ROWS, Format, matrix_bytes, round_up

Array = npt.NDArray[Any]

CODE_UNIT = 2.0**-10  # a scale is super × code × this: keeps the FP16s of usual weights far from the subnormal numbers
CODES = 16


def _symmetric(*positive: int) -> Array:
    return np.array([*(-x for x in reversed(positive)), *positive], np.int8)


# The level of each field. NL4, INT3 and NL2: fitted to Gaussian and heavier-tailed weights in groups of 32 whose scale
# is searched (least squared error); integers such that a group's sums of products fit the kernels' 16-bit lanes well.
LEVELS: dict[Format, Array] = {
    Format.INT6: np.arange(-32, 32, dtype=np.int8),
    Format.INT5: np.arange(-16, 16, dtype=np.int8),
    Format.INT4: np.arange(-8, 8, dtype=np.int8),
    Format.NL4: _symmetric(1, 4, 7, 10, 13, 17, 22, 29),
    Format.INT3: _symmetric(3, 9, 17, 29),
    Format.INT2: _symmetric(1, 3),
    Format.NL2: _symmetric(2, 7),
}


class CodedScales(NamedTuple):
    """Scales of the formats with coded scales: that of a group is super × code × CODE_UNIT."""

    supers: Array  # f16[rows, ceil(groups / 8)]
    codes: Array  # u8[rows, groups], 0 … 15


def scale_values(scales: Array | CodedScales) -> npt.NDArray[np.float32]:
    """The scales as ``f32[rows, groups]``, exactly."""
    if not isinstance(scales, CodedScales):
        return scales.astype(np.float32)
    steps = scales.supers.astype(np.float32) * np.float32(CODE_UNIT)
    wide = np.repeat(steps, SUPER_GROUPS, axis=1)[:, : scales.codes.shape[1]]
    with np.errstate(invalid="ignore"):  # a hostile infinity times code 0
        return wide * scales.codes.astype(np.float32)


def round_scales(fmt: Format, wanted: npt.NDArray[np.float32]) -> Array | CodedScales:
    """The scales nearest to ``wanted f32[rows, groups]`` that the file can hold, as ``pack`` takes them.

    Coded scales are not negative (their formats do not gain by it): magnitudes count. Of a few FP16s for each
    super-block the one is taken whose relative errors have the least sum of squares.
    """
    if not fmt.has_coded_scales:
        return np.clip(wanted, -65504, 65504).astype(np.float16)
    rows, groups = wanted.shape
    padded = _pad(np.abs(wanted).astype(np.float32), rows, round_up(groups, SUPER_GROUPS), 0)
    padded = padded.reshape(rows, -1, SUPER_GROUPS)
    inverse = np.divide(1, padded, out=np.zeros_like(padded), where=padded != 0)
    best_error = np.full(padded.shape[:2], np.inf, np.float32)
    best = CodedScales(np.zeros(padded.shape[:2], np.float16), np.zeros_like(padded))
    for factor in np.arange(1.0, 0.86, -0.02):
        top = np.clip(padded.max(axis=2) * np.float32(factor / ((CODES - 1) * CODE_UNIT)), 0, 65504)
        supers = top.astype(np.float16)
        step = supers.astype(np.float32)[:, :, None] * np.float32(CODE_UNIT)
        codes = np.divide(padded, step, out=np.zeros_like(padded), where=step != 0)
        codes = np.clip(np.rint(codes), padded > 0, CODES - 1)
        error = ((codes * step * inverse - (padded > 0)) ** 2).sum(axis=2)
        better = error < best_error
        best_error = np.where(better, error, best_error)
        best = CodedScales(np.where(better, supers, best.supers), np.where(better[:, :, None], codes, best.codes))
    return CodedScales(best.supers, best.codes.astype(np.uint8).reshape(rows, -1)[:, :groups])


def values(fmt: Format, fields: Array) -> Array:
    """Levels (i8) of stored fields, before the scale."""
    return fields.astype(np.int8) if fmt is Format.INT8 else LEVELS[fmt][fields]


def padding_field(fmt: Format) -> int:
    """The field that stands where there is no weight: the first of those whose level is least in magnitude."""
    return 0 if fmt is Format.INT8 else int(np.abs(LEVELS[fmt]).argmin())


def _pad(array: Array, rows: int, cols: int, fill: int) -> Array:
    if array.shape == (rows, cols):
        return array
    out = np.full((rows, cols), fill, dtype=array.dtype)
    out[: array.shape[0], : array.shape[1]] = array
    return out


def _pack_plane(fields: Array, bits: int, groups: int) -> Array:
    """``u8[16 × tiles, 32 × groups]`` of ``bits`` bits → ``u8[tiles, groups, 64 × bits]``: units of one plane."""
    per_byte = 8 // bits
    # [tile, row, group, column] → [field, tile, group, unit, row, byte]; the fields of one byte lie 4 columns apart
    parts = fields.reshape(-1, TILE_ROWS, groups, bits, per_byte, 4).transpose(4, 0, 2, 3, 1, 5)
    packed = np.zeros(parts.shape[1:], dtype=np.uint8)
    for index in range(per_byte):  # most significant first
        packed |= parts[index] << np.uint8(8 - bits * (index + 1))
    return packed.reshape(*packed.shape[:2], -1)


def _unpack_plane(packed: Array, bits: int) -> Array:
    """The reverse of ``_pack_plane``."""
    tiles, groups = packed.shape[:2]
    units = packed.reshape(tiles, groups, bits, TILE_ROWS, 4)
    mask = np.uint8((1 << bits) - 1)
    parts = np.stack([units >> np.uint8(8 - bits * (index + 1)) & mask for index in range(8 // bits)])
    # [field, tile, group, unit, row, byte] → [tile, row, group, unit, field, byte]
    return parts.transpose(1, 4, 2, 3, 0, 5).reshape(tiles * TILE_ROWS, groups * GROUP)


def _by_tile(array: Array, rows: int, cols: int, kind: str) -> Array:
    """``[≤ rows, ≤ cols]`` → bytes ``u8[tiles, cols, 16 × item size]``, zeros where there is nothing."""
    ordered = _pad(array, rows, cols, 0).reshape(-1, TILE_ROWS, cols).transpose(0, 2, 1).astype(kind)
    return np.ascontiguousarray(ordered).view(np.uint8)


def _check(fmt: Format, rows: int, cols: int, scales: Array | CodedScales | None) -> None:
    """Raises ValueError if these are not the scales that the format has."""
    groups = round_up(cols, GROUP) // GROUP
    supers = round_up(groups, SUPER_GROUPS) // SUPER_GROUPS
    if fmt.has_coded_scales:
        good = isinstance(scales, CodedScales) and (scales.supers.shape, scales.codes.shape) == (
            (rows, supers),
            (rows, groups),
        )
        wanted = f"CodedScales of f16[{rows}, {supers}] and u8[{rows}, {groups}]"
    else:
        good = scales is not None and not isinstance(scales, CodedScales) and scales.shape == (rows, groups)
        wanted = f"f16[{rows}, {groups}]"
    if not good:
        raise ValueError(f"scales of {fmt.name}[{rows}, {cols}] must be {wanted}")


def pack(fmt: Format, fields: Array, scales: Array | CodedScales | None = None) -> bytes:
    """Bytes of a matrix as the file holds it.

    ``fields``: F16/BF16 bit patterns ``u16[rows, cols]``, or the integer formats' fields ``[rows, cols]`` with their
    ``scales`` (see the module). Raises ValueError on other shapes.
    """
    rows, cols = fields.shape
    padded_rows = round_up(rows, TILE_ROWS)
    if not fmt.is_integer:
        return _by_tile(fields.astype(np.uint16, copy=False), padded_rows, cols, ">u2").tobytes()
    _check(fmt, rows, cols, scales)
    tiles, groups = padded_rows // TILE_ROWS, round_up(cols, GROUP) // GROUP
    full = _pad(fields.astype(np.uint8), padded_rows, groups * GROUP, padding_field(fmt))
    planes, below = [], fmt.bits
    for bits in fmt.planes:
        below -= bits
        planes.append(_pack_plane(full >> np.uint8(below) & np.uint8((1 << bits) - 1), bits, groups))
    if not isinstance(scales, CodedScales):
        assert scales is not None
        halves = _by_tile(scales.astype(np.float16), padded_rows, groups, ">f2")
        return np.concatenate([halves, *planes], axis=2).tobytes()
    supers = scales.supers.shape[1]
    out = np.zeros((tiles, supers, SUPER_HEADER + SUPER_GROUPS * fmt.field_bytes), dtype=np.uint8)
    out[:, :, : 2 * TILE_ROWS] = _by_tile(scales.supers.astype(np.float16), padded_rows, supers, ">f2")
    codes = _by_tile(scales.codes, padded_rows, supers * SUPER_GROUPS, "u1").reshape(tiles, supers, -1, 2, TILE_ROWS)
    pairs = codes[:, :, :, 0] << np.uint8(4) | codes[:, :, :, 1]
    out[:, :, 2 * TILE_ROWS : SUPER_HEADER] = pairs.reshape(tiles, supers, -1)
    blocks = np.zeros((tiles, supers * SUPER_GROUPS, fmt.field_bytes), dtype=np.uint8)
    blocks[:, :groups] = np.concatenate(planes, axis=2)
    out[:, :, SUPER_HEADER:] = blocks.reshape(tiles, supers, -1)
    tile_bytes = matrix_bytes(fmt, TILE_ROWS, cols)  # the last super-block holds only the groups that there are
    return out.reshape(tiles, -1)[:, :tile_bytes].tobytes()


def _unpack_halves(raw: Array, count: int, rows: int) -> Array:
    """``u8[tiles, count, 32]`` → ``f16[rows, count]``."""
    halves = np.ascontiguousarray(raw).view(">f2").transpose(0, 2, 1).reshape(-1, count)
    return halves[:rows].astype(np.float16)


def unpack(
    fmt: Format, data: bytes | memoryview | Array, rows: int, cols: int
) -> tuple[Array, Array | CodedScales | None]:
    """The reverse of ``pack``: ``(fields [rows, cols], scales or None)``.

    Raises ValueError if ``data`` is not as long as the format says.
    """
    raw = np.frombuffer(data, dtype=np.uint8)
    if raw.size != matrix_bytes(fmt, rows, cols):
        raise ValueError(f"{fmt.name}[{rows}, {cols}] takes {matrix_bytes(fmt, rows, cols)} bytes, not {raw.size}")
    tiles = round_up(rows, TILE_ROWS) // TILE_ROWS
    if not fmt.is_integer:
        patterns = raw.view(">u2").reshape(tiles, cols, TILE_ROWS).transpose(0, 2, 1).reshape(-1, cols)[:rows]
        return patterns.astype(np.uint16), None
    groups = round_up(cols, GROUP) // GROUP
    scales: Array | CodedScales
    if fmt.has_coded_scales:
        supers = round_up(groups, SUPER_GROUPS) // SUPER_GROUPS
        flat = np.zeros((tiles, supers * (SUPER_HEADER + SUPER_GROUPS * fmt.field_bytes)), dtype=np.uint8)
        flat[:, : raw.size // tiles] = raw.reshape(tiles, -1)
        whole = flat.reshape(tiles, supers, -1)
        pairs = whole[:, :, 2 * TILE_ROWS : SUPER_HEADER].reshape(tiles, -1, 1, TILE_ROWS)
        codes = np.concatenate([pairs >> np.uint8(4), pairs & np.uint8(15)], axis=2)
        codes = codes.reshape(tiles, -1, TILE_ROWS).transpose(0, 2, 1).reshape(tiles * TILE_ROWS, -1)
        halves = _unpack_halves(whole[:, :, : 2 * TILE_ROWS], supers, rows)
        scales = CodedScales(halves, np.ascontiguousarray(codes[:rows, :groups]))
        packed = whole[:, :, SUPER_HEADER:].reshape(tiles, -1, fmt.field_bytes)[:, :groups]
    else:
        blocks = raw.reshape(tiles, groups, fmt.block_bytes)
        scales = _unpack_halves(blocks[:, :, : 2 * TILE_ROWS], groups, rows)
        packed = blocks[:, :, 2 * TILE_ROWS :]
    fields, at = np.zeros((tiles * TILE_ROWS, groups * GROUP), dtype=np.uint8), 0
    for bits in fmt.planes:
        size = TILE_ROWS * GROUP * bits // 8
        fields = fields << np.uint8(bits % 8) | _unpack_plane(packed[:, :, at : at + size], bits)
        at += size
    fields = np.ascontiguousarray(fields[:rows, :cols])
    return (fields.view(np.int8) if fmt is Format.INT8 else fields), scales


def dequantize(fmt: Format, data: bytes | memoryview | Array, rows: int, cols: int) -> npt.NDArray[np.float32]:
    """The stored matrix as ``f32[rows, cols]``, exactly: scale × level fits FP32. Raises ValueError as ``unpack``."""
    fields, scales = unpack(fmt, data, rows, cols)
    if scales is None:
        if fmt is Format.F16:
            return fields.view(np.float16).astype(np.float32)
        return (fields.astype(np.uint32) << 16).view(np.float32)
    wide = np.repeat(scale_values(scales), GROUP, axis=1)[:, :cols]
    return values(fmt, fields).astype(np.float32) * wide

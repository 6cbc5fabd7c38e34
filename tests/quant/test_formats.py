"""Layouts of FORMAT.md, section 3: against its text, byte by byte, and back again."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from n730c.dtypes import Format, matrix_bytes
from n730c.quant import CodedScales, dequantize, pack, round_scales, scale_values, unpack, values

INTEGER = tuple(fmt for fmt in Format if fmt.is_integer)
PADDING = {
    Format.INT8: 0, Format.INT6: 32, Format.INT5: 16, Format.INT4: 8, Format.NL4: 7, Format.INT3: 3, Format.NL2: 1,
    Format.INT2: 1
}  # fmt: skip
Scales = np.ndarray | CodedScales | None


def random_matrix(fmt: Format, rows: int, cols: int, seed: int = 0) -> tuple[np.ndarray, Scales]:
    rng = np.random.default_rng(seed)
    if not fmt.is_integer:
        return rng.integers(0, 65536, (rows, cols), dtype=np.uint16), None
    limits = (-127, 128) if fmt is Format.INT8 else (0, 1 << fmt.bits)
    fields = rng.integers(*limits, (rows, cols)).astype(np.int8 if fmt is Format.INT8 else np.uint8)
    groups = -(-cols // 32)
    if not fmt.has_coded_scales:
        return fields, rng.standard_normal((rows, groups)).astype(np.float16)
    supers = rng.standard_normal((rows, -(-cols // 256))).astype(np.float16)
    return fields, CodedScales(supers, rng.integers(0, 16, (rows, groups), dtype=np.uint8))


def same_scales(a: Scales, b: Scales) -> None:
    assert type(a) is type(b)
    for x, y in zip(a, b, strict=True) if isinstance(a, CodedScales) else ((a, b),):
        np.testing.assert_array_equal(x, y)
        assert x is None or x.dtype == y.dtype


def field_by_the_book(fmt: Format, data: bytes, cols: int, row: int, column: int) -> int:
    """The stored field of one element, read as the page says it."""
    tile, r, g, j = row // 16, row % 16, column // 32, column % 32
    groups, supers = -(-cols // 32), -(-cols // 256)
    if fmt in (Format.INT8, Format.INT4, Format.INT2):
        start = (tile * groups + g) * (32 + 64 * fmt.bits) + 32
    else:
        start = tile * (supers * 96 + groups * 64 * fmt.bits) + (g // 8 + 1) * 96 + g * 64 * fmt.bits

    def plane(at: int, bits: int) -> int:
        count = 8 // bits  # fields in a byte
        byte = data[at + 64 * (j // (4 * count)) + 4 * r + j % 4]
        return byte >> (8 - bits - bits * (j % (4 * count) // 4)) & ((1 << bits) - 1)

    if fmt is Format.INT8:
        byte = data[start + 64 * (j // 4) + 4 * r + j % 4]
        return byte - 256 if byte > 127 else byte
    if fmt in (Format.INT4, Format.NL4):
        byte = data[start + 64 * (j // 8) + 4 * r + j % 4]
        return byte >> 4 if j % 8 < 4 else byte & 15
    if fmt is Format.INT6:
        return plane(start, 4) << 2 | plane(start + 256, 2)
    if fmt is Format.INT5:
        return plane(start, 4) << 1 | plane(start + 256, 1)
    if fmt is Format.INT3:
        return plane(start, 2) << 1 | plane(start + 128, 1)
    byte = data[start + 64 * (j // 16) + 4 * r + j % 4]
    return byte >> (6 - 2 * (j % 16 // 4)) & 3


@pytest.mark.parametrize("fmt", INTEGER)
def test_integer_layout_is_the_page_s(fmt: Format) -> None:
    rows, cols = 19, 326
    fields, scales = random_matrix(fmt, rows, cols)
    data = pack(fmt, fields, scales)
    assert len(data) == matrix_bytes(fmt, rows, cols)
    for row in range(32):
        for column in range(352):
            want = int(fields[row, column]) if row < rows and column < cols else PADDING[fmt]
            assert field_by_the_book(fmt, data, cols, row, column) == want
        for g in range(11):
            tile, r = divmod(row, 16)
            if isinstance(scales, CodedScales):
                at = tile * (2 * 96 + 11 * 64 * fmt.bits) + g // 8 * (96 + 8 * 64 * fmt.bits)
                byte = data[at + 32 + g % 8 // 2 * 16 + r]
                assert (byte & 15 if g % 2 else byte >> 4) == (int(scales.codes[row, g]) if row < rows else 0)
                halves = scales.supers[:, g // 8]
            else:
                at = (tile * 11 + g) * fmt.block_bytes
                halves = scales[:, g]
            want_bits = int(halves[row].view(np.uint16)) if row < rows else 0
            assert int.from_bytes(data[at + 2 * r : at + 2 * r + 2], "big") == want_bits


@pytest.mark.parametrize("fmt", [Format.F16, Format.BF16])
def test_half_layout_is_the_page_s(fmt: Format) -> None:
    bits, _ = random_matrix(fmt, 18, 5)
    data = pack(fmt, bits)
    for row in range(32):
        for k in range(5):
            at = ((row // 16 * 5 + k) * 16 + row % 16) * 2
            assert int.from_bytes(data[at : at + 2], "big") == (int(bits[row, k]) if row < 18 else 0)


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from([Format.F16, Format.BF16, *INTEGER]), st.integers(1, 40), st.integers(1, 300), st.integers(0, 9999)
)
def test_unpack_undoes_pack(fmt: Format, rows: int, cols: int, seed: int) -> None:
    fields, scales = random_matrix(fmt, rows, cols, seed)
    data = pack(fmt, fields, scales)
    assert len(data) == matrix_bytes(fmt, rows, cols)
    got_fields, got_scales = unpack(fmt, data, rows, cols)
    np.testing.assert_array_equal(got_fields, fields)
    assert got_fields.dtype == fields.dtype
    if scales is None:
        assert got_scales is None
        wide = fields.view(np.float16).astype(np.float32) if fmt is Format.F16 else None
        if wide is not None:
            np.testing.assert_array_equal(dequantize(fmt, data, rows, cols), wide)
        else:
            np.testing.assert_array_equal(dequantize(fmt, data, rows, cols).view(np.uint32) >> 16, fields)
        return
    same_scales(got_scales, scales)
    if isinstance(scales, CodedScales):
        steps = np.repeat(scales.supers.astype(np.float64) / 1024, 8, axis=1)[:, : scales.codes.shape[1]] * scales.codes
        np.testing.assert_array_equal(scale_values(scales), steps)
    else:
        steps = scales.astype(np.float64)
    exact = values(fmt, fields).astype(np.float64) * np.repeat(steps, 32, axis=1)[:, :cols]
    np.testing.assert_array_equal(dequantize(fmt, data, rows, cols), exact)


def test_values_of_fields() -> None:
    assert values(Format.INT4, np.array([0, 8, 15], np.uint8)).tolist() == [-8, 0, 7]
    assert values(Format.INT2, np.array([0, 1, 2, 3], np.uint8)).tolist() == [-3, -1, 1, 3]
    assert values(Format.INT6, np.array([0, 32, 63], np.uint8)).tolist() == [-32, 0, 31]
    assert values(Format.INT5, np.array([0, 16, 31], np.uint8)).tolist() == [-16, 0, 15]
    assert values(Format.INT3, np.arange(8, dtype=np.uint8)).tolist() == [-29, -17, -9, -3, 3, 9, 17, 29]
    assert values(Format.NL2, np.arange(4, dtype=np.uint8)).tolist() == [-7, -2, 2, 7]
    assert values(Format.NL4, np.array([0, 7, 8, 15], np.uint8)).tolist() == [-29, -1, 1, 29]
    assert values(Format.INT8, np.array([-127, 0, 127], np.int8)).tolist() == [-127, 0, 127]


@pytest.mark.parametrize("fmt", INTEGER)
def test_scales_are_rounded_to_what_the_file_holds(fmt: Format) -> None:
    wanted = np.random.default_rng(4).uniform(0.5, 2, (9, 21)).astype(np.float32)
    wanted[3], wanted[5, 3] = 0, 0
    scales = round_scales(fmt, wanted)
    once = scale_values(scales)
    assert not once[wanted == 0].any()
    kept = wanted != 0
    assert (np.abs(once[kept] / wanted[kept] - 1) < (0.15 if fmt.has_coded_scales else 5e-4)).all()
    np.testing.assert_array_equal(
        scale_values(unpack(fmt, pack(fmt, np.zeros((9, 660), np.int8), scales), 9, 660)[1]), once
    )


def test_wrong_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"INT4\[3, 40\] must be f16\[3, 2\]"):
        pack(Format.INT4, np.zeros((3, 40), np.uint8), np.zeros((3, 1), np.float16))
    with pytest.raises(ValueError, match=r"INT3\[3, 40\] must be CodedScales of f16\[3, 1\] and u8\[3, 2\]"):
        pack(Format.INT3, np.zeros((3, 40), np.uint8), np.zeros((3, 2), np.float16))
    with pytest.raises(ValueError, match=r"INT8\[3, 40\] takes 1088 bytes, not 10"):
        unpack(Format.INT8, b"0123456789", 3, 40)

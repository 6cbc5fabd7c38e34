"""Layouts of FORMAT.md, section 3: against its text, byte by byte, and back again."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from n730c.dtypes import Format, matrix_bytes
from n730c.quant import dequantize, pack, unpack, values

INTEGER = (Format.INT8, Format.INT4, Format.INT2)
LIMITS = {Format.INT8: (-127, 128), Format.INT4: (0, 16), Format.INT2: (0, 4)}


def random_matrix(fmt: Format, rows: int, cols: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray | None]:
    rng = np.random.default_rng(seed)
    if not fmt.is_integer:
        return rng.integers(0, 65536, (rows, cols), dtype=np.uint16), None
    fields = rng.integers(*LIMITS[fmt], (rows, cols)).astype(np.int8 if fmt is Format.INT8 else np.uint8)
    return fields, rng.standard_normal((rows, -(-cols // 32))).astype(np.float16)


def field_by_the_book(fmt: Format, data: bytes, cols: int, row: int, column: int) -> int:
    """The stored field of one element, read as the page says it."""
    tile, r, g, j = row // 16, row % 16, column // 32, column % 32
    groups = -(-cols // 32)
    start = (tile * groups + g) * (32 + 64 * fmt.bits) + 32
    if fmt is Format.INT8:
        byte = data[start + 64 * (j // 4) + 4 * r + j % 4]
        return byte - 256 if byte > 127 else byte
    if fmt is Format.INT4:
        byte = data[start + 64 * (j // 8) + 4 * r + j % 4]
        return byte >> 4 if j % 8 < 4 else byte & 15
    byte = data[start + 64 * (j // 16) + 4 * r + j % 4]
    return byte >> (6 - 2 * (j % 16 // 4)) & 3


@pytest.mark.parametrize("fmt", INTEGER)
def test_integer_layout_is_the_page_s(fmt: Format) -> None:
    rows, cols = 19, 70
    fields, scales = random_matrix(fmt, rows, cols)
    data = pack(fmt, fields, scales)
    assert len(data) == matrix_bytes(fmt, rows, cols)
    padding = {Format.INT8: 0, Format.INT4: 8, Format.INT2: 1}[fmt]
    for row in range(32):
        for column in range(96):
            want = int(fields[row, column]) if row < rows and column < cols else padding
            assert field_by_the_book(fmt, data, cols, row, column) == want
        for g in range(3):
            at = (row // 16 * 3 + g) * fmt.block_bytes + 2 * (row % 16)
            want_bits = int(scales[row, g].view(np.uint16)) if scales is not None and row < rows else 0
            assert int.from_bytes(data[at : at + 2], "big") == want_bits


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
    st.sampled_from([Format.F16, Format.BF16, *INTEGER]), st.integers(1, 40), st.integers(1, 100), st.integers(0, 9999)
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
    np.testing.assert_array_equal(got_scales, scales)
    exact = values(fmt, fields).astype(np.float64) * np.repeat(scales.astype(np.float64), 32, axis=1)[:, :cols]
    np.testing.assert_array_equal(dequantize(fmt, data, rows, cols), exact)


def test_values_of_fields() -> None:
    assert values(Format.INT4, np.array([0, 8, 15], np.uint8)).tolist() == [-8, 0, 7]
    assert values(Format.INT2, np.array([0, 1, 2, 3], np.uint8)).tolist() == [-3, -1, 1, 3]
    assert values(Format.INT8, np.array([-127, 0, 127], np.int8)).tolist() == [-127, 0, 127]


def test_wrong_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"INT4\[3, 40\] must be f16\[3, 2\]"):
        pack(Format.INT4, np.zeros((3, 40), np.uint8), np.zeros((3, 1), np.float16))
    with pytest.raises(ValueError, match=r"INT8\[3, 40\] takes 1088 bytes, not 10"):
        unpack(Format.INT8, b"0123456789", 3, 40)

"""Rounding: never worse than the plain scale, stable, exact where the source already has the format."""

from __future__ import annotations

import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from n730c.dtypes import Format, matrix_bytes
from n730c.errors import UnsupportedModel
from n730c.quant import CodedScales, dequantize, encode, encode_vector, pack, quantize, unpack, values
from n730c.quant.formats import LEVELS

INTEGER = tuple(fmt for fmt in Format if fmt.is_integer)
FAMILIES = ("normal", "outliers", "tiny", "huge", "zero", "constant", "lopsided")


def weights(family: str, rows: int, cols: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    w = rng.standard_normal((rows, cols))
    if family == "outliers":
        w *= np.exp(2 * rng.standard_normal(w.shape))
    elif family == "tiny":
        w *= 1e-9
    elif family == "huge":
        w *= 1e6
    elif family == "zero":
        w[:] = 0
    elif family == "constant":
        w[:] = 0.37
    elif family == "lopsided":
        w = -np.abs(w)
    return w.astype(np.float32)


def plain(w: np.ndarray, fmt: Format) -> np.ndarray:
    """Largest magnitude over the range's end, rounded to FP16, nearest level: what everybody does first.

    With coded scales: the largest of eight over the largest code, and for each of them the nearest code."""
    rows, cols = w.shape
    padded = -(-cols // 256) * 256
    groups = np.zeros((rows, padded), np.float32)
    groups[:, :cols] = w
    groups = groups.reshape(rows, -1, 32)
    levels = np.arange(-127, 128) if fmt is Format.INT8 else LEVELS[fmt]
    scale = np.minimum(np.abs(groups).max(axis=2, keepdims=True) / np.float32(levels[-1]), 65504)
    if fmt.has_coded_scales:
        by_super = scale.reshape(rows, -1, 8)
        step = np.minimum(by_super.max(axis=2, keepdims=True) / np.float32(15 / 1024), 65504)
        step = step.astype(np.float16).astype(np.float32) / np.float32(1024)
        ideal = np.divide(by_super, step, out=np.zeros_like(by_super), where=step != 0)
        scale = (step * np.clip(np.floor(ideal), 0, 15)).reshape(scale.shape)
    else:
        scale = scale.astype(np.float16).astype(np.float32)
    t = np.divide(groups, scale, out=np.zeros_like(groups), where=scale != 0)
    q = levels[np.searchsorted((levels[1:] + levels[:-1]) / 2, t)]
    return (q * scale).reshape(rows, -1)[:, :cols]


@settings(max_examples=30, deadline=None)
@given(st.sampled_from(INTEGER), st.sampled_from(FAMILIES), st.integers(1, 20), st.integers(1, 130), st.integers(0, 99))
def test_never_worse_than_the_plain_scale(fmt: Format, family: str, rows: int, cols: int, seed: int) -> None:
    w = weights(family, rows, cols, seed)
    got = dequantize(fmt, encode(w, fmt), rows, cols)
    assert np.isfinite(got).all()
    exact = w.astype(np.float64)
    error, naive = ((got - exact) ** 2).sum(axis=1), ((plain(w, fmt) - exact) ** 2).sum(axis=1)
    assert (error <= naive * (1 + 1e-5) + 1e-30).all()


def test_the_search_pays() -> None:
    w = weights("normal", 256, 256)
    gains = {Format.INT5: 0.9, Format.INT4: 0.8, Format.NL4: 0.9, Format.INT3: 0.9, Format.NL2: 0.7, Format.INT2: 0.7}
    for fmt, gain in gains.items():
        error = ((dequantize(fmt, encode(w, fmt), *w.shape) - w) ** 2).mean()
        assert error < gain * ((plain(w, fmt) - w) ** 2).mean()


def test_the_extreme_may_sit_at_minus_eight() -> None:
    for sign in (1, -1):
        w = np.zeros((1, 32), np.float32)
        w[0, :9] = sign * np.arange(9)  # 0 … 8: exact only if 8 is the negative end
        fields, scales = quantize(w, Format.INT4)
        assert scales[0, 0] == -sign
        np.testing.assert_array_equal(values(Format.INT4, fields) * scales.astype(np.float32), w)


@pytest.mark.parametrize("fmt", INTEGER)
def test_what_is_representable_stays_exact(fmt: Format) -> None:
    rng = np.random.default_rng(3)
    low, high = (-127, 128) if fmt is Format.INT8 else (0, 1 << fmt.bits)
    low += fmt in (Format.INT6, Format.INT5, Format.INT4)  # whose least level has no counterpart
    fields = rng.integers(low, high, (40, 320)).astype(np.int8 if fmt is Format.INT8 else np.uint8)
    fields[:, ::32] = high - 1  # the largest magnitude is in every group
    halves = rng.uniform(0.01, 2, (40, 2 if fmt.has_coded_scales else 10)).astype(np.float16)
    codes = rng.integers(1, 16, (40, 10), dtype=np.uint8)
    codes[:, ::8] = 15
    data = pack(fmt, fields, CodedScales(halves, codes) if fmt.has_coded_scales else halves)
    w = dequantize(fmt, data, 40, 320)
    np.testing.assert_allclose(dequantize(fmt, encode(w, fmt), 40, 320), w, rtol=0, atol=1e-6 * float(np.abs(w).max()))


def flat(quantized: tuple[np.ndarray, np.ndarray | CodedScales]) -> list[np.ndarray]:
    fields, scales = quantized
    return [fields, *(scales if isinstance(scales, CodedScales) else (scales,))]


@pytest.mark.parametrize("fmt", INTEGER)
def test_same_bytes_for_any_number_of_threads_and_any_part(fmt: Format, monkeypatch: pytest.MonkeyPatch) -> None:
    w = weights("outliers", 333, 1000)
    whole = quantize(w, fmt)
    monkeypatch.setattr(os, "cpu_count", lambda: 1)
    alone = quantize(w, fmt)
    part = quantize(w[100:200], fmt)
    for a, b, c in zip(*map(flat, (whole, alone, part)), strict=True):
        np.testing.assert_array_equal(a, b)
        np.testing.assert_array_equal(a[100:200], c)


def test_half_formats_keep_the_bits_of_their_own_kind() -> None:
    bits = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    for fmt, wide in (
        (Format.F16, bits.view(np.float16).astype(np.float32)),
        (Format.BF16, (bits.astype(np.uint32) << 16).view(np.float32)),
    ):
        finite = np.isfinite(wide)
        fields, _ = unpack(fmt, encode(np.where(finite, wide, np.float32(0)), fmt), 256, 256)
        np.testing.assert_array_equal(fields, np.where(finite, bits, 0))


def test_half_formats_round_half_to_even() -> None:
    for fmt, ulp in ((Format.F16, 2.0**-10), (Format.BF16, 2.0**-7)):
        w = np.array([[1 + ulp / 2, 1 + 3 * ulp / 2, 1 + ulp * 0.51, 1 + ulp * 0.49]], np.float32)
        want = np.array([[1, 1 + 2 * ulp, 1 + ulp, 1]], np.float32)
        np.testing.assert_array_equal(dequantize(fmt, encode(w, fmt), 1, 4), want)


def test_overflow_is_refused_by_name() -> None:
    w = np.array([[1.0, -70000.0]], np.float32)
    with pytest.raises(UnsupportedModel, match=r"lm_head\.weight does not fit F16 .*found 70000"):
        encode(w, Format.F16, "lm_head.weight")
    assert len(encode(w, Format.BF16)) == matrix_bytes(Format.BF16, 1, 2)
    w[0, 1] = np.finfo(np.float32).max
    with pytest.raises(UnsupportedModel, match="does not fit BF16"):
        encode(w, Format.BF16)


def test_vectors_are_big_endian() -> None:
    assert encode_vector([1.0, -2.5]) == bytes.fromhex("3f800000c0200000")

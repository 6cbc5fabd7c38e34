"""Rounding f32 matrices to a storage format, group by group of 32 inputs, scales searched for least squared error.

For each group several scales are tried: the largest magnitude over the range's end and over its neighbours, for INT4
with the sign that puts the extreme value at −8 too (its range −8 … 7 is lopsided), and at last the least-squares scale
of the fields chosen so far. Each candidate is rounded to FP16 *before* its fields are chosen, because that is the scale
the kernel will see. The plain largest/range scale is among the candidates, so the error is never worse than its.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt

from n730c.dtypes import GROUP, Format, round_up
from n730c.errors import UnsupportedModel
from n730c.quant.formats import Array, pack

F32 = npt.NDArray[np.float32]

_CHUNK = 1 << 17  # weights worked on at a time by one thread: a few arrays of this size stay in the L2 cache
# Divisors of the group's largest magnitude (negative: of its extreme value, with sign). The first is the plain one.
_DIVISORS = {
    Format.INT8: (127.0,),
    Format.INT4: (7.0, -8.0, 7.5, -7.5, 8.0, -8.5),
    Format.INT2: (3.0, 3.4, 3.8, 2.6, 2.2, 1.8),
}
_ENDS = {Format.INT8: (-127.0, 127.0), Format.INT4: (-8.0, 7.0), Format.INT2: (-1.5, 1.5)}


def _nearest(fmt: Format, x: F32, scale: F32, out: F32) -> F32:
    """Integer values nearest to x / scale into ``out``; a zero scale gives the middle of the range."""
    with np.errstate(divide="ignore"):
        inverse = np.where(scale == 0, np.float32(0), np.float32(1) / scale)
    low, high = _ENDS[fmt]
    if fmt is Format.INT2:  # odd values −3 … 3 are twice −1.5, −0.5, 0.5, 1.5
        np.multiply(x, inverse * np.float32(0.5), out=out)
        np.floor(out, out=out)
        out += np.float32(0.5)
    else:
        np.multiply(x, inverse, out=out)
        np.rint(out, out=out)
    np.minimum(np.maximum(out, np.float32(low), out=out), np.float32(high), out=out)
    if fmt is Format.INT2:
        out += out
    return out


def _to_f16(scale: F32) -> F32:
    return np.clip(scale, -65504.0, 65504.0).astype(np.float16).astype(np.float32)


def _quantize_groups(fmt: Format, x: F32, padding: tuple[slice, slice]) -> tuple[F32, F32]:
    """``x f32[32, groups]`` → (values f32[32, groups], scales f32[groups], exact in FP16).

    ``padding``: where x holds no weights; no error is counted there (INT2 has no zero).
    """
    magnitude = np.maximum(x.max(axis=0), -x.min(axis=0))
    extreme = np.where(x.max(axis=0) == magnitude, magnitude, -magnitude)
    q, work = np.empty_like(x), np.empty_like(x)
    best_error = np.full_like(magnitude, np.inf)
    best_scale = np.zeros_like(magnitude)

    def keep_better(scale: F32) -> None:
        scale = _to_f16(scale)
        np.multiply(_nearest(fmt, x, scale, q), scale, out=work)
        np.subtract(work, x, out=work)
        np.multiply(work, work, out=work)
        work[padding] = 0
        error = work.sum(axis=0)
        better = error < best_error
        np.copyto(best_error, error, where=better)
        np.copyto(best_scale, scale, where=better)

    for divisor in _DIVISORS[fmt]:
        keep_better((magnitude if divisor > 0 else extreme) / np.float32(divisor))
    if fmt is not Format.INT8:
        _nearest(fmt, x, best_scale, q)
        q[padding] = 0
        product = np.multiply(x, q, out=work).sum(axis=0)
        keep_better(product / np.maximum(np.multiply(q, q, out=work).sum(axis=0), np.float32(1)))
    return _nearest(fmt, x, best_scale, q), best_scale


def quantize(weight: F32, fmt: Format) -> tuple[Array, Array]:
    """Fields and scales of an integer format, as ``formats.pack`` takes them.

    ``weight``: ``f32[rows, cols]``, finite. Returns ``(fields u8|i8[rows, cols], scales f16[rows, ceil(cols / 32)])``,
    the same for any number of threads. Raises ValueError if ``fmt`` is not an integer format.
    """
    if not fmt.is_integer:
        raise ValueError(f"{fmt.name} has no scales")
    rows, cols = weight.shape
    groups = round_up(cols, GROUP) // GROUP
    fields = np.empty((rows, cols), dtype=np.int8 if fmt is Format.INT8 else np.uint8)
    scales = np.empty((rows, groups), dtype=np.float16)
    step = max(1, _CHUNK // (groups * GROUP))
    padding = (slice(cols - (groups - 1) * GROUP, None), slice(groups - 1, None, groups))

    def work(first: int) -> None:
        part = weight[first : first + step]
        count = part.shape[0]
        if cols != groups * GROUP:
            part = np.pad(part, ((0, 0), (0, groups * GROUP - cols)))
        # groups as columns: sums over a group become additions of whole rows
        x = np.ascontiguousarray(part.reshape(-1, GROUP).T, dtype=np.float32)
        q, scale = _quantize_groups(fmt, x, padding)
        if fmt is Format.INT4:
            q += np.float32(8)
        elif fmt is Format.INT2:
            q = (q + np.float32(3)) * np.float32(0.5)
        stored = q.astype(np.int8).T.reshape(count, -1)
        fields[first : first + step] = stored[:, :cols].view(fields.dtype)
        scales[first : first + step] = scale.astype(np.float16).reshape(count, groups)

    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        list(pool.map(work, range(0, rows, step)))
    return fields, scales


def encode_vector(vector: npt.ArrayLike) -> bytes:
    """Norm weights, biases, inverse frequencies: ``f32[n]`` to big-endian bytes."""
    return np.asarray(vector, dtype=np.float32).reshape(-1).astype(">f4").tobytes()


def _bf16_bits(weight: F32) -> npt.NDArray[np.uint16]:
    """Half to even; exact for values that came from BF16."""
    bits = np.ascontiguousarray(weight, dtype=np.float32).view(np.uint32)
    return ((bits + np.uint32(0x7FFF) + (bits >> 16 & np.uint32(1))) >> 16).astype(np.uint16)


def encode(weight: F32, fmt: Format, name: str = "a tensor") -> bytes:
    """Round ``f32[rows, cols]``, finite, to ``fmt`` and lay it out as the file holds it; ``name`` is for error texts.

    F16 and BF16 round half to even, so a source of that very dtype keeps its bits. Raises UnsupportedModel if a value
    overflows F16 or BF16, ValueError for F32, which matrices are not stored in.
    """
    if fmt is Format.F32:
        raise ValueError("matrices are not stored as F32")
    if fmt.is_integer:
        return pack(fmt, *quantize(weight, fmt))
    limit = 65520.0 if fmt is Format.F16 else float.fromhex("0x1.ffp127")  # these round to infinity
    largest = max(float(weight.max(initial=0.0)), -float(weight.min(initial=0.0)))
    if largest >= limit:
        raise UnsupportedModel(
            f"{name} does not fit {fmt.name}",
            expected=f"magnitudes below {limit:g}",
            found=f"{largest:g}",
            hint="Build with another --precision.",
        )
    if fmt is Format.BF16:
        return pack(fmt, _bf16_bits(weight))
    return pack(fmt, weight.astype(np.float16).view(np.uint16))

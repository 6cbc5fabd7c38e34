"""Rounding f32 matrices to a storage format, group by group of 32 inputs, scales searched for least squared error.

For each group several scales are tried: the largest magnitude over the range's end and over its neighbours, for INT4
with the sign that puts the extreme value at −8 too (its range −8 … 7 is lopsided), and at last the least-squares scale
of the levels chosen so far. Each candidate is rounded to FP16 *before* its levels are chosen, because that is the scale
the kernel will see. The plain largest/range scale is among the candidates, so the error is never worse than its.

Coded scales (4-bit codes times an FP16 that eight groups share) come second: for the scales that the groups
would like a few FP16s are tried, and one for the plain scales; each group takes the better of its two nearest codes.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt

from n730c.dtypes import GROUP, SUPER_GROUPS, Format, round_up
from n730c.errors import UnsupportedModel
from n730c.quant.formats import CODE_UNIT, CODES, LEVELS, Array, CodedScales, pack

F32 = npt.NDArray[np.float32]

_CHUNK = 1 << 17  # weights worked on at a time by one thread: a few arrays of this size stay in the L2 cache
# Divisors of the group's largest magnitude (negative: of its extreme value, with sign). The first is the plain one.
_DIVISORS = {
    Format.INT8: (127.0,),
    Format.INT6: (31.0, 31.5, 32.0, 33.0),
    Format.INT5: (15.0, 15.5, 16.0, 17.0),
    Format.INT4: (7.0, -8.0, 7.5, -7.5, 8.0, -8.5),
    Format.NL4: (29.0, 31.0, 33.0, 35.5, 38.5, 27.0),
    Format.INT3: (29.0, 31.0, 33.5, 37.0, 41.0, 26.0),
    Format.NL2: (7.0, 7.9, 8.8, 6.2, 5.4, 4.6),
    Format.INT2: (3.0, 3.4, 3.8, 2.6, 2.2, 1.8),
}
_SUPER_FACTORS = (1.0, 0.94, 0.88, 1.06)  # of the largest scale over the largest code


def _uneven_table(fmt: Format) -> F32:
    """For formats with uneven levels: the level nearest to t, by floor(2t) − 2 × the least level.

    Levels are integers, so that the borders between them are multiples of a half.
    """
    levels = LEVELS[fmt].astype(np.float32)
    t = np.arange(2 * levels[0], 2 * levels[-1]) / 2 + 0.25
    nearest: F32 = levels[np.abs(t[:, None] - levels[None]).argmin(axis=1)]
    return nearest


_UNEVEN = {fmt: _uneven_table(fmt) for fmt in (Format.NL4, Format.INT3, Format.NL2)}


def _nearest(fmt: Format, x: F32, scale: F32, out: F32) -> F32:
    """Levels nearest to x / scale into ``out``; a zero scale gives the middle of the range."""
    with np.errstate(divide="ignore"):
        inverse = np.where(scale == 0, np.float32(0), np.float32(1) / scale)
    if fmt in _UNEVEN:
        table, low = _UNEVEN[fmt], 2 * float(LEVELS[fmt][0])
        np.multiply(x, inverse + inverse, out=out)
        np.floor(out, out=out)
        out -= np.float32(low)
        np.minimum(np.maximum(out, np.float32(0), out=out), np.float32(len(table) - 1), out=out)
        np.take(table, out.astype(np.intp), out=out, mode="clip")
        return out
    low, high = (-1.5, 1.5) if fmt is Format.INT2 else _ends(fmt)
    if fmt is Format.INT2:  # odd levels −3 … 3 are twice −1.5, −0.5, 0.5, 1.5
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


def _ends(fmt: Format) -> tuple[float, float]:
    return (-127.0, 127.0) if fmt is Format.INT8 else (float(LEVELS[fmt][0]), float(LEVELS[fmt][-1]))


def _fields(fmt: Format, levels: F32) -> Array:
    """The stored fields (u8, INT8: i8) of levels."""
    if fmt is Format.INT8:
        return levels.astype(np.int8)
    low = int(LEVELS[fmt][0])
    table = np.zeros(int(LEVELS[fmt][-1]) - low + 1, np.uint8)
    table[LEVELS[fmt].astype(int) - low] = np.arange(len(LEVELS[fmt]))
    return table[(levels - np.float32(low)).astype(np.uint8)]


def _to_f16(scale: F32) -> F32:
    return np.clip(scale, -65504.0, 65504.0).astype(np.float16).astype(np.float32)


def _errors(fmt: Format, x: F32, scale: F32, padding: tuple[slice, slice], q: F32, work: F32) -> F32:
    """Squared error of each group, f32[groups], with the nearest levels; ``q`` and ``work`` are overwritten."""
    np.multiply(_nearest(fmt, x, scale, q), scale, out=work)
    np.subtract(work, x, out=work)
    np.multiply(work, work, out=work)
    work[padding] = 0
    error: F32 = work.sum(axis=0)
    return error


def _search_scales(fmt: Format, x: F32, padding: tuple[slice, slice]) -> F32:
    """``x f32[32, groups]`` → the best scale of each group, f32[groups], exact in FP16 unless it will be coded.

    ``padding``: where x holds no weights; no error is counted there (not all formats have a zero).
    """
    magnitude = np.maximum(x.max(axis=0), -x.min(axis=0))
    extreme = np.where(x.max(axis=0) == magnitude, magnitude, -magnitude)
    q, work = np.empty_like(x), np.empty_like(x)
    best_error = np.full_like(magnitude, np.inf)
    best_scale: F32 = np.zeros_like(magnitude)

    def keep_better(scale: F32) -> None:
        if not fmt.has_coded_scales:
            scale = _to_f16(scale)
        error = _errors(fmt, x, scale, padding, q, work)
        better = error < best_error
        np.copyto(best_error, error, where=better)
        np.copyto(best_scale, scale, where=better)

    for divisor in _DIVISORS[fmt]:
        keep_better((magnitude if divisor > 0 else extreme) / np.float32(divisor))
    if fmt not in (Format.INT8, Format.INT6):
        _nearest(fmt, x, best_scale, q)
        q[padding] = 0
        product = np.multiply(x, q, out=work).sum(axis=0)
        keep_better(product / np.maximum(np.multiply(q, q, out=work).sum(axis=0), np.float32(1)))
    return best_scale


def _search_codes(fmt: Format, x: F32, wanted: F32, padding: tuple[slice, slice]) -> tuple[F32, F32]:
    """FP16s and codes for the scales that the groups want: ``(supers f32[groups / 8], codes f32[groups])``."""
    q, work = np.empty_like(x), np.empty_like(x)
    plain = np.abs(x).max(axis=0) / LEVELS[fmt][-1].astype(np.float32)
    wanted = np.abs(wanted)
    best_error = np.full(len(wanted) // SUPER_GROUPS, np.inf, dtype=np.float32)
    best_super, best_code = np.zeros_like(best_error), np.zeros_like(wanted)
    for target, factor in [(wanted, factor) for factor in _SUPER_FACTORS] + [(plain, 1.0)]:
        largest = target.reshape(-1, SUPER_GROUPS).max(axis=1)
        supers = _to_f16(largest / np.float32((CODES - 1) * CODE_UNIT) * np.float32(factor))
        step = np.repeat(supers * np.float32(CODE_UNIT), SUPER_GROUPS)
        ideal = np.divide(target, step, out=np.zeros_like(step), where=step != 0)
        below = np.minimum(np.floor(ideal), np.float32(CODES - 1))
        above = np.minimum(below + np.float32(1), np.float32(CODES - 1))
        error_below = _errors(fmt, x, below * step, padding, q, work)
        error_above = _errors(fmt, x, above * step, padding, q, work)
        code = np.where(error_above < error_below, above, below)
        error = np.minimum(error_above, error_below).reshape(-1, SUPER_GROUPS).sum(axis=1)
        better = error < best_error
        np.copyto(best_error, error, where=better)
        np.copyto(best_super, supers, where=better)
        np.copyto(best_code, code, where=np.repeat(better, SUPER_GROUPS))
    return best_super, best_code


def quantize(weight: F32, fmt: Format) -> tuple[Array, Array | CodedScales]:
    """Fields and scales of an integer format, as ``formats.pack`` takes them.

    ``weight``: ``f32[rows, cols]``, finite. Returns ``(fields u8|i8[rows, cols], scales f16[rows, ceil(cols / 32)] or
    CodedScales)``, the same for any number of threads. Raises ValueError if ``fmt`` is not an integer format.
    """
    if not fmt.is_integer:
        raise ValueError(f"{fmt.name} has no scales")
    rows, cols = weight.shape
    real = round_up(cols, GROUP) // GROUP
    groups = round_up(real, SUPER_GROUPS) if fmt.has_coded_scales else real  # the groups beyond are dropped
    fields = np.empty((rows, cols), dtype=np.int8 if fmt is Format.INT8 else np.uint8)
    scales = np.empty((rows, real), dtype=np.float16)
    supers = np.empty((rows, groups // SUPER_GROUPS), dtype=np.float16)
    codes = np.empty((rows, real), dtype=np.uint8)
    step = max(1, _CHUNK // (groups * GROUP))
    padding = (slice(cols - (real - 1) * GROUP, None), slice(real - 1, None, groups))

    def work(first: int) -> None:
        part = weight[first : first + step]
        count = part.shape[0]
        if cols != groups * GROUP:
            part = np.pad(part, ((0, 0), (0, groups * GROUP - cols)))
        # groups as columns: sums over a group become additions of whole rows
        x = np.ascontiguousarray(part.reshape(-1, GROUP).T, dtype=np.float32)
        scale = _search_scales(fmt, x, padding)
        if fmt.has_coded_scales:
            shared, code = _search_codes(fmt, x, scale, padding)
            supers[first : first + step] = shared.astype(np.float16).reshape(count, -1)
            codes[first : first + step] = code.astype(np.uint8).reshape(count, groups)[:, :real]
            scale = np.repeat(shared * np.float32(CODE_UNIT), SUPER_GROUPS) * code
        else:
            scales[first : first + step] = scale.astype(np.float16).reshape(count, groups)
        stored = _fields(fmt, _nearest(fmt, x, scale, np.empty_like(x))).T.reshape(count, -1)
        fields[first : first + step] = stored[:, :cols]

    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        list(pool.map(work, range(0, rows, step)))
    return fields, CodedScales(supers, codes) if fmt.has_coded_scales else scales


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

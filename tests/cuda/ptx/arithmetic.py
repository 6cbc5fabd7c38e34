"""What PTX instructions without memory and control compute, on numpy arrays of their own types."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

Array = np.ndarray


def dtype_of(kind: str) -> np.dtype:
    """``f32`` → float32, ``b32`` → uint32, ``pred`` → bool. Raises KeyError for what is no type."""
    if kind == "pred":
        return np.dtype(bool)
    letter = {"f": "f", "s": "i", "u": "u", "b": "u"}[kind[0]]
    return np.dtype(f"{letter}{int(kind[1:]) // 8}")


def is_type(kind: str) -> bool:
    return kind == "pred" or (kind[:1] in ("f", "s", "u", "b") and kind[1:] in ("8", "16", "32", "64"))


def wide(dtype: np.dtype) -> np.dtype:
    """The type of twice the width."""
    return np.dtype(f"{dtype.kind}{2 * dtype.itemsize}")


def fma_f32(a: Array, b: Array, c: Array) -> Array:
    """Rounded once: the sum in FP64 is rounded to odd, so that rounding it to FP32 is right."""
    product, addend = a.astype(np.float64) * b.astype(np.float64), c.astype(np.float64)
    total = product + addend
    part = total - product
    error = (product - (total - part)) + (addend - part)
    even = (total.view(np.uint64) & np.uint64(1)) == 0
    towards = np.where(error > 0, np.inf, -np.inf)
    odd = np.where((error != 0) & np.isfinite(error) & even, np.nextafter(total, towards), total)
    return odd.astype(np.float32)


def multiply_high(a: Array, b: Array) -> Array:
    if a.dtype.itemsize < 8:
        double = wide(a.dtype)
        return ((a.astype(double) * b.astype(double)) >> double.type(8 * a.dtype.itemsize)).astype(a.dtype)
    exact = [(int(x) * int(y)) >> 64 for x, y in zip(a, b, strict=True)]
    return np.array([value & (1 << 64) - 1 for value in exact], np.uint64).view(a.dtype)


def divide(a: Array, b: Array) -> Array:
    """Integers: towards zero."""
    if a.dtype.kind == "f":
        return a / b
    if a.dtype.kind == "u":
        return a // b
    return np.where((a < 0) != (b < 0), -(np.abs(a) // np.abs(b)), np.abs(a) // np.abs(b)).astype(a.dtype)


def remainder(a: Array, b: Array) -> Array:
    return (a - divide(a, b) * b).astype(a.dtype)


def shift(a: Array, by: Array, *, left: bool) -> Array:
    """Amounts from the width on give 0, or the sign where a signed number goes right."""
    bits = 8 * a.dtype.itemsize
    amount = np.minimum(by, bits - 1).astype(a.dtype)
    out = a << amount if left else a >> amount
    if left or a.dtype.kind == "u":
        out = np.where(by >= bits, a.dtype.type(0), out)
    return out.astype(a.dtype)


def byte_permute(a: Array, b: Array, selector: Array) -> Array:
    """prmt.b32: each nibble of the selector picks a byte of b:a; its top bit spreads that byte's sign."""
    both = a.astype(np.uint64) | b.astype(np.uint64) << np.uint64(32)
    out = np.zeros(a.shape, np.uint32)
    for i in range(4):
        nibble = selector.astype(np.uint64) >> np.uint64(4 * i) & np.uint64(15)
        byte = both >> (np.uint64(8) * (nibble & np.uint64(7))) & np.uint64(255)
        byte = np.where(nibble & np.uint64(8), np.where(byte & np.uint64(128), np.uint64(255), np.uint64(0)), byte)
        out |= byte.astype(np.uint32) << np.uint32(8 * i)
    return out


def bit_field_extract(a: Array, position: Array, length: Array) -> Array:
    bits = 8 * a.dtype.itemsize
    value = a.view(f"u{a.dtype.itemsize}").astype(np.uint64)
    at, n = (position & np.uint32(255)).astype(np.uint64), (length & np.uint32(255)).astype(np.uint64)
    mask = np.where(n >= 64, np.uint64(2**64 - 1), (np.uint64(1) << np.minimum(n, 63).astype(np.uint64)) - np.uint64(1))
    out = np.where(at >= bits, np.uint64(0), value >> np.minimum(at, 63).astype(np.uint64)) & mask
    if a.dtype.kind == "i":
        top = np.minimum(at + n - np.uint64(1), np.uint64(bits - 1))
        sign = (value >> top & np.uint64(1)).astype(bool) & (n > 0)
        out = np.where(sign, out | ~mask, out)
    return out.astype(f"u{a.dtype.itemsize}").view(a.dtype)


def bit_field_insert(a: Array, b: Array, position: Array, length: Array) -> Array:
    mask = (np.uint64(1) << (length & np.uint32(63)).astype(np.uint64)) - np.uint64(1)
    at = (position & np.uint32(63)).astype(np.uint64)
    out = b.astype(np.uint64) & ~(mask << at) | (a.astype(np.uint64) & mask) << at
    return out.astype(a.dtype)


def convert(x: Array, to: np.dtype, rounding: str) -> Array:
    """cvt: floats to integers saturate and NaN gives 0; among floats the nearest, ties to even."""
    if x.dtype.kind == "f" and to.kind != "f":
        whole = {"rni": np.rint, "rzi": np.trunc, "rmi": np.floor, "rpi": np.ceil}[rounding](x.astype(np.float64))
        limits = np.iinfo(to)
        inside = np.nan_to_num(whole, nan=0.0)
        top = float(limits.max) if to.itemsize < 8 else np.nextafter(float(limits.max), 0)
        return np.clip(inside, float(limits.min), top).astype(to)
    if x.dtype.kind == "f" and rounding in ("rni", "rzi", "rmi", "rpi"):
        return {"rni": np.rint, "rzi": np.trunc, "rmi": np.floor, "rpi": np.ceil}[rounding](x).astype(to)
    return x.astype(to)


COMPARE: dict[str, Callable[[Array, Array], Array]] = {
    "eq": np.equal,
    "ne": lambda a, b: np.not_equal(a, b) & ~_unordered(a, b),
    "lt": np.less,
    "le": np.less_equal,
    "gt": np.greater,
    "ge": np.greater_equal,
    "lo": np.less,
    "ls": np.less_equal,
    "hi": np.greater,
    "hs": np.greater_equal,
    "equ": lambda a, b: np.equal(a, b) | _unordered(a, b),
    "neu": np.not_equal,
    "ltu": lambda a, b: np.less(a, b) | _unordered(a, b),
    "leu": lambda a, b: np.less_equal(a, b) | _unordered(a, b),
    "gtu": lambda a, b: np.greater(a, b) | _unordered(a, b),
    "geu": lambda a, b: np.greater_equal(a, b) | _unordered(a, b),
    "num": lambda a, b: ~_unordered(a, b),
    "nan": lambda a, b: _unordered(a, b),
}


def _unordered(a: Array, b: Array) -> Array:
    if a.dtype.kind != "f":
        return np.zeros(np.broadcast_shapes(a.shape, b.shape), bool)
    return np.isnan(a) | np.isnan(b)


TWO: dict[str, Callable[[Array, Array], Array]] = {
    "add": np.add,
    "sub": np.subtract,
    "and": np.bitwise_and,
    "or": np.bitwise_or,
    "xor": np.bitwise_xor,
    "min": lambda a, b: np.fmin(a, b) if a.dtype.kind == "f" else np.minimum(a, b),
    "max": lambda a, b: np.fmax(a, b) if a.dtype.kind == "f" else np.maximum(a, b),
    "div": divide,
    "rem": remainder,
}
ONE: dict[str, Callable[[Array], Array]] = {
    "not": np.invert,
    "neg": np.negative,
    "abs": np.abs,
    "sqrt": np.sqrt,
    "rcp": lambda a: a.dtype.type(1) / a,
    "popc": lambda a: np.bitwise_count(a).astype(np.uint32),
}

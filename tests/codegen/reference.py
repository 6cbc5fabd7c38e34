"""numpy references of the kernels, float operation by float operation as FORMAT.md, section 4, orders them."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np

from n730c.dtypes import Format, round_up
from n730c.quant.formats import scale_values, unpack, values

f32 = np.float32


def quantize(x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """f32[t, width] → (i8[t, padded], f32 scales[t, groups], i32 sums[t, groups])."""
    tokens, width = x.shape
    padded = round_up(width, 32)
    groups = np.zeros((tokens, padded), f32)
    groups[:, :width] = x
    groups = groups.reshape(tokens, -1, 32)
    q, scales = quantize_rows(groups)
    return q.reshape(tokens, padded), scales, q.sum(axis=2, dtype=np.int32)


def quantize_rows(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """f32[…, width] → (i8[…, width], f32 scales[…]): QUANTIZE's rule with one scale a row."""
    with np.errstate(all="ignore"):
        m = np.fmax.reduce(np.abs(x), axis=-1, initial=f32(0))
        inverse = np.where(m > 0, f32(127) / m, f32(0)).astype(f32)
        t = np.nan_to_num(x * inverse[..., None], nan=0.0, posinf=127, neginf=-127)
    return np.rint(np.clip(t, -127, 127)).astype(np.int8), (m / f32(127)).astype(f32)


def q8_bytes(x: np.ndarray, stride: int) -> np.ndarray:
    """The Q8 buffer of f32[t, width]: u8[t, stride]."""
    out = np.zeros((len(x), stride), np.uint8)
    for row, q, scales, sums in zip(out, *quantize(x), strict=True):
        flat = np.concatenate([q.view(np.uint8), scales.view(np.uint8), sums.view(np.uint8)])
        row[: len(flat)] = flat
    return out


def rest(x: np.ndarray) -> np.ndarray:
    """What QUANTIZE leaves over of f32[t, width]."""
    q, scales, _ = quantize(x)
    with np.errstate(all="ignore"):
        return x - (q.astype(f32) * scales.repeat(32, axis=1))[:, : x.shape[1]]


def q16_bytes(x: np.ndarray, stride: int) -> np.ndarray:
    """The Q16 buffer of f32[t, width]: u8[t, 2 × stride]."""
    return np.concatenate([q8_bytes(x, stride), q8_bytes(rest(x), stride)], axis=1)


def linear_wide(fmt: Format, data: bytes, rows: int, cols: int, x: np.ndarray, bias: np.ndarray | None) -> np.ndarray:
    """f32[t, cols] → f32[t, rows], of an integer format that reads a Q16 buffer."""
    with np.errstate(all="ignore"):
        out = linear(fmt, data, rows, cols, x, None) + linear(fmt, data, rows, cols, rest(x), None)
        return out if bias is None else out + bias[None, :]


def linear(fmt: Format, data: bytes, rows: int, cols: int, x: np.ndarray, bias: np.ndarray | None) -> np.ndarray:
    """f32[t, cols] → f32[t, rows]; integer formats quantize x first."""
    fields, scales = unpack(fmt, data, rows, cols)
    with np.errstate(all="ignore"):
        if scales is None:
            w = fields.view(np.float16).astype(f32) if fmt is Format.F16 else (fields.astype(np.uint32) << 16).view(f32)
            parts = np.zeros((2, len(x), rows), f32)
            for k in range(cols):
                parts[k % 2] = parts[k % 2] + w[:, k][None, :] * x[:, k][:, None]
            out = parts[0] + parts[1]
        else:
            q, xs, _ = quantize(x)
            ws = scale_values(scales)
            padded = np.zeros((rows, q.shape[1]), np.int64)
            padded[:, :cols] = values(fmt, fields)
            out = np.zeros((len(x), rows), f32)
            for g in range(q.shape[1] // 32):
                at = slice(32 * g, 32 * g + 32)
                exact = q[:, at].astype(np.int64) @ padded[:, at].T
                out = out + exact.astype(f32) * (ws[:, g][None, :] * xs[:, g][:, None])
        return out if bias is None else out + bias[None, :]


def sum8(x: np.ndarray) -> f32:
    """Sum of f32[n] by eight partial sums."""
    s = np.zeros(8, f32)
    for k in range(0, len(x), 8):
        part = x[k : k + 8]
        s[: len(part)] = s[: len(part)] + part
    return ((s[0] + s[4]) + (s[2] + s[6])) + ((s[1] + s[5]) + (s[3] + s[7]))


def rms_norm(x: np.ndarray, w: np.ndarray, eps: float) -> np.ndarray:
    """Each len(w) elements of f32[t, width] by themselves."""
    out = np.empty_like(x)
    for t, row in enumerate(x):
        for k in range(0, len(row), len(w)):
            part = row[k : k + len(w)]
            r = f32(1) / np.sqrt(sum8(part * part) / f32(len(part)) + f32(eps))
            out[t, k : k + len(w)] = w * (part * r)
    return out


def layer_norm(x: np.ndarray, w: np.ndarray, bias: np.ndarray | None, eps: float) -> np.ndarray:
    out = np.empty_like(x)
    for t, row in enumerate(x):
        for k in range(0, len(row), len(w)):
            part = row[k : k + len(w)]
            d = part - sum8(part) / f32(len(part))
            r = f32(1) / np.sqrt(sum8(d * d) / f32(len(part)) + f32(eps))
            y = w * (d * r)
            out[t, k : k + len(w)] = y if bias is None else y + bias
    return out


def horner(coefficients: str, x: np.ndarray) -> np.ndarray:
    """A polynomial, highest power first."""
    first, *rest = (f32(float.fromhex(c)) for c in coefficients.split())
    y = np.full_like(x, first)
    for c in rest:
        y = y * x + c
    return y


def tanh(x: np.ndarray) -> np.ndarray:
    """templates/cpu/activation.h."""
    s, a = x * x, np.abs(x)
    near = x + x * (s * horner("-0x1.75e1b8p-8 0x1.522696p-6 -0x1.b83c5ap-5 0x1.110726p-3 -0x1.555532p-2", s))
    far = f32(1) - f32(2) / (exp(a + a) + f32(1))
    return np.where(a >= f32(0.625), np.copysign(far, x), near).astype(f32)


def gelu(x: np.ndarray) -> np.ndarray:
    u = np.abs(x)
    t = f32(1) / (f32(1) + f32(0.3) * u)
    q = horner(
        "0x1.27350ap-5 -0x1.450b0cp-3 0x1.abf49ap-3 -0x1.cb85c6p-5 0x1.09ead6p-3 0x1.97a5dp-4 0x1.eedda4p-4 "
        "0x1.e9fc14p-4",
        t,
    )
    xh = x * ((t * q) * exp(f32(-0.5) * (u * u)))
    return np.where(x >= 0, x - xh, xh).astype(f32)


def gelu_tanh(x: np.ndarray) -> np.ndarray:
    inner = x + (f32(0.044715) * x) * (x * x)
    return x / (f32(1) + exp(f32(-1.59576912) * inner))


def softcap(x: np.ndarray, cap: float) -> np.ndarray:
    return f32(cap) * tanh(x / f32(cap))


def exp(x: np.ndarray) -> np.ndarray:
    """templates/cpu/exp.h."""
    hexadecimal = ("0x1.fffffcp-2", "0x1.55549p-3", "0x1.5558fap-5", "0x1.123b6ap-7", "0x1.6a21acp-10")
    c = [f32(float.fromhex(h)) for h in hexadecimal]
    nan, magic = np.isnan(x), f32(12582912.0)
    x = np.minimum(np.maximum(np.where(nan, f32(0), x), f32(-87)), f32(88)).astype(f32)
    k = (x * f32(1.44269504) + magic) - magic
    r = (x - k * f32(0.693359375)) - k * f32(-2.12194440e-4)
    q = c[4]
    for i in (3, 2, 1, 0):
        q = q * r + c[i]
    y = (q * (r * r) + r) + f32(1)
    return np.where(nan, f32(np.nan), np.ldexp(y, k.astype(np.int32))).astype(f32)


def silu(x: np.ndarray) -> np.ndarray:
    return x / (f32(1) + exp(-x))


def route(x: np.ndarray, top_k: int, normalized: bool) -> np.ndarray:
    """f32[t, experts] → gates f32[t, experts]"""
    out = np.zeros_like(x)
    for logits, gates in zip(x, out, strict=True):
        chances = exp(logits - logits.max())
        total = f32(0)
        for chance in chances:
            total += chance
        chances = chances / total
        chosen = np.argsort(-chances, kind="stable")[:top_k]
        kept = f32(0)
        for i in chosen:
            kept += chances[i]
        gates[chosen] = chances[chosen] / (kept if normalized else f32(1))
    return out


def rope_table(positions: range, inv_freq: np.ndarray, scaling: float) -> np.ndarray:
    rows = []
    for position in positions:
        angles = [float(f32(position) * f) for f in inv_freq]
        both = [math.cos(a) for a in angles] + [math.sin(a) for a in angles]
        rows.append([f32(value) * f32(scaling) for value in both])
    return np.array(rows, f32)


def rope(x: np.ndarray, table: np.ndarray, heads: int, dim: int, rotary: int, pairs: bool = False) -> np.ndarray:
    n = rotary // 2
    out = x.reshape(len(x), heads, dim).copy()
    first, second = (slice(0, 2 * n, 2), slice(1, 2 * n, 2)) if pairs else (slice(0, n), slice(n, 2 * n))
    a, b = out[:, :, first].copy(), out[:, :, second].copy()
    c, s = table[:, None, :n], table[:, None, n:]
    out[:, :, first] = a * c - b * s
    out[:, :, second] = b * c + a * s
    return out.reshape(x.shape)


def attention(
    q: np.ndarray,
    k: np.ndarray,
    v: np.ndarray,
    heads: int,
    position: int,
    scale: float,
    scales: np.ndarray | None = None,
    window: int = 0,
    cap: float = 0.0,
) -> np.ndarray:
    """q f32[t, heads × dim]; k, v f16, f32 or i8 [kv_heads, context, dim], i8 with scales f32[2, kv_heads, context];
    position p is in row p mod context; the order of attention.h."""
    kv_heads, context, dim = k.shape
    out = np.zeros_like(q)
    for t in range(len(q)):
        for h in range(heads):
            seen = position + t + 1
            start = max(0, seen - window) if window else 0
            places = np.arange(start, seen) % context
            kh, vh = (c[h // (heads // kv_heads), places].astype(f32) for c in (k, v))
            ks, vs = (None, None) if scales is None else scales[:, h // (heads // kv_heads), places]
            query = q[t, h * dim : (h + 1) * dim]
            total, acc, maximum = np.zeros(8, f32), np.zeros(dim, f32), f32(0)
            borders = [0, *range(64 - start % 64, len(kh), 64), len(kh)]  # blocks are those of the sequence
            for first, last in pairwise(borders):
                dots = np.array([sum8(query * row) for row in kh[first:last]], f32)
                scores = f32(scale) * (dots if ks is None else ks[first : first + len(dots)] * dots)
                scores = softcap(scores, cap) if cap else scores
                m, c = scores.max(), f32(1)
                if first == 0:
                    maximum = m
                elif m > maximum:
                    c, maximum = exp(np.array([maximum - m], f32))[0], m
                e = exp(scores - maximum)
                total, acc = total * c, acc * c
                for j, weight in enumerate(e):
                    total[j % 8] += weight
                    acc = acc + (weight if vs is None else weight * vs[first + j]) * vh[first + j]
            out[t, h * dim : (h + 1) * dim] = acc * (f32(1) / sum8(total))
    return out

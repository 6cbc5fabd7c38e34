"""Every op of the built-in kernels against its numpy reference, to the bit, on every instruction set."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pytest
from scipy import special

from n730c.artifacts import Isa, StepOp, UnaryFunction
from n730c.dtypes import Format, round_up
from n730c.ir import ops
from n730c.quant import dequantize, encode, encode_vector
from tests.codegen import reference
from tests.codegen.conftest import BUILTIN_ISAS, Lookup, Run, aligned, strided

ISAS = BUILTIN_ISAS
MATRIX_FORMATS = [fmt for fmt in Format if fmt is not Format.F32]
ROWS = [1, 7, 8, 9, 15, 16, 17, 31, 33]
COLS = [7, 31, 32, 33, 96, 288, 520]
TOKENS = [1, 2, 3, 4, 5, 9]
WIDTHS = [1, 7, 8, 9, 31, 32, 33, 255, 256, 257, 600]


def activations(rng: np.random.Generator, tokens: int, width: int) -> np.ndarray:
    x = strided(tokens, width)
    x[:] = rng.standard_normal((tokens, width)) * np.exp(rng.standard_normal((tokens, 1)))
    return x


def same(a: np.ndarray, b: np.ndarray) -> None:
    np.testing.assert_array_equal(np.ascontiguousarray(a).view(np.uint32), np.ascontiguousarray(b).view(np.uint32))


@pytest.mark.parametrize("fmt", MATRIX_FORMATS)
@pytest.mark.parametrize("isa", ISAS)
def test_linear(builtin: Lookup, isa: Isa, fmt: Format) -> None:
    rng = np.random.default_rng(1)
    kernel = builtin(isa, StepOp.LINEAR, fmt)
    for n, rows in enumerate(ROWS):
        for m, cols in enumerate(COLS):
            tokens = TOKENS[(n + m) % len(TOKENS)]
            data = aligned(encode(rng.standard_normal((rows, cols)).astype(np.float32), fmt))
            x = activations(rng, tokens, cols)
            bias = rng.standard_normal(rows).astype(np.float32) if m % 2 else None
            entering = x
            if fmt.is_integer:
                padded = round_up(cols, 32)
                entering = reference.q8_bytes(x, round_up(padded + padded // 4, 64))
            out = strided(tokens, rows, fill=7.0)
            numbers = {"weight": data, "rows": rows, "cols": cols}
            if bias is not None:
                numbers["bias"] = np.frombuffer(encode_vector(bias), np.uint8)
            tiles = -(-rows // 16)
            Run(out, entering, **numbers).go(kernel, *sorted({0, tiles // 2, tiles}))
            same(out, reference.linear(fmt, data.tobytes(), rows, cols, x, bias))
            assert (out.base[:, rows:] == 7.0).all(), "wrote beyond the last row"


@pytest.mark.parametrize("isa", ISAS)
def test_linear_of_16_bits(builtin: Lookup, isa: Isa) -> None:
    rng = np.random.default_rng(14)
    for tokens, (fmt, rows, cols) in enumerate(
        [(Format.INT8, 33, 96), (Format.INT4, 17, 33), (Format.INT3, 16, 288)], 1
    ):
        data = aligned(encode(rng.standard_normal((rows, cols)).astype(np.float32), fmt))
        x, out = activations(rng, tokens, cols), strided(tokens, rows, fill=7.0)
        entering = reference.q16_bytes(x, round_up(round_up(cols, 32) * 5 // 4, 64))
        bias = rng.standard_normal(rows).astype(np.float32)
        numbers = {"weight": data, "rows": rows, "cols": cols, "wide": 1}
        numbers["bias"] = np.frombuffer(encode_vector(bias), np.uint8)
        Run(out, entering, **numbers).go(builtin(isa, StepOp.LINEAR, fmt), 0, 1, -(-rows // 16))
        same(out, reference.linear_wide(fmt, data.tobytes(), rows, cols, x, bias))
        assert (out.base[:, rows:] == 7.0).all(), "wrote beyond the last row"
        exact = x.astype(np.float64) @ dequantize(fmt, data.tobytes(), rows, cols).T + bias
        assert (
            np.abs(out - exact).max()
            < np.abs(reference.linear(fmt, data.tobytes(), rows, cols, x, bias) - exact).max() / 20
        )


@pytest.mark.parametrize("isa", ISAS)
def test_linear_takes_every_field_and_scale(builtin: Lookup, isa: Isa) -> None:
    """Hostile weights: any byte is a legal field or scale; infinities and NaNs are where the reference has them."""
    rng = np.random.default_rng(2)
    for fmt in MATRIX_FORMATS:
        rows, cols = 16, 64
        size = len(encode(np.zeros((rows, cols), np.float32), fmt))
        data = aligned(rng.integers(0, 256, size, dtype=np.uint8).tobytes())
        x = activations(rng, 3, cols)
        entering = reference.q8_bytes(x, 128) if fmt.is_integer else x
        out = strided(3, rows)
        Run(out, entering, weight=data, rows=rows, cols=cols).go(builtin(isa, StepOp.LINEAR, fmt), 0, 1)
        want = reference.linear(fmt, data.tobytes(), rows, cols, x, None)
        np.testing.assert_array_equal(np.isnan(out), np.isnan(want))
        same(out[~np.isnan(want)], want[~np.isnan(want)])


@pytest.mark.parametrize("fmt", MATRIX_FORMATS)
@pytest.mark.parametrize("isa", ISAS)
def test_embed(builtin: Lookup, isa: Isa, fmt: Format) -> None:
    rng = np.random.default_rng(3)
    for rows, cols in ((33, 7), (17, 96), (40, 33)):
        data = encode(rng.standard_normal((rows, cols)).astype(np.float32), fmt)
        ids = np.array([0, rows - 1, 15, 16, rows, -1, 2**31 - 1], np.int32)
        out = strided(len(ids), cols, fill=7.0)
        call = Run(out, weight=aligned(data), ids=ids, rows=rows, cols=cols)
        call.go(builtin(isa, StepOp.EMBED, fmt), 0, 3, len(ids))
        same(out[:4], dequantize(fmt, data, rows, cols)[ids[:4]])
        assert not out[4:].any(), "an id outside the table gives zeros"


@pytest.mark.parametrize("isa", ISAS)
def test_f16_is_exact_for_all_bit_patterns(builtin: Lookup, isa: Isa) -> None:
    bits = np.arange(65536, dtype=np.uint16)
    by_row = bits.reshape(-1, 16).T  # one tile of 16 rows holds them in order
    out = strided(16, 4096)
    Run(out, weight=aligned(bits.astype(">u2").tobytes()), ids=np.arange(16, dtype=np.int32), rows=16, cols=4096).go(
        builtin(isa, StepOp.EMBED, Format.F16), 0, 16
    )
    want = by_row.copy().view(np.float16).astype(np.float32)
    number = ~np.isnan(want)
    same(out[number], want[number])
    assert np.isnan(out[~number]).all()


@pytest.mark.parametrize("isa", ISAS)
def test_rms_norm(builtin: Lookup, isa: Isa) -> None:
    rng = np.random.default_rng(4)
    for width in WIDTHS:
        x, out = activations(rng, 3, width), strided(3, width)
        w = rng.standard_normal(width).astype(np.float32)
        weight = np.frombuffer(encode_vector(w), np.uint8)
        Run(out, x, weight=weight, rows=1, cols=width, heads=1, f0=1e-5).go(builtin(isa, StepOp.RMS_NORM), 0, 1, 3)
        same(out, reference.rms_norm(x, w, 1e-5))


@pytest.mark.parametrize("isa", ISAS)
def test_norms_of_groups(builtin: Lookup, isa: Isa) -> None:
    rng = np.random.default_rng(12)
    for width, groups in ((1, 1), (7, 3), (8, 2), (24, 4), (33, 2), (257, 1)):
        x, out = activations(rng, 3, groups * width), strided(3, groups * width)
        w, b = rng.standard_normal((2, width)).astype(np.float32)
        weight, bias = (np.frombuffer(encode_vector(v), np.uint8) for v in (w, b))
        numbers = {"weight": weight, "rows": 1, "cols": width, "heads": groups, "f0": 1e-5}
        Run(out, x, **numbers).go(builtin(isa, StepOp.RMS_NORM), 0, 2, 3)
        same(out, reference.rms_norm(x, w, 1e-5))
        Run(out, x, **numbers).go(builtin(isa, StepOp.LAYER_NORM), 0, 1, 3)
        same(out, reference.layer_norm(x, w, None, 1e-5))
        Run(out, x, bias=bias, **numbers).go(builtin(isa, StepOp.LAYER_NORM), 0, 3)
        same(out, reference.layer_norm(x, w, b, 1e-5))


UNARY = {
    UnaryFunction.GELU: reference.gelu,
    UnaryFunction.GELU_TANH: reference.gelu_tanh,
    UnaryFunction.RELU: lambda x: np.maximum(np.float32(0), x),
    UnaryFunction.RELU_SQUARED: lambda x: np.maximum(np.float32(0), x) ** 2,
    UnaryFunction.SCALE: lambda x: x * np.float32(1.7),
    UnaryFunction.SOFTCAP: lambda x: reference.softcap(x, 1.7),
}


@pytest.mark.parametrize("isa", ISAS)
def test_unary(builtin: Lookup, isa: Isa) -> None:
    rng = np.random.default_rng(13)
    with np.errstate(all="ignore"):
        for function, want in UNARY.items():
            for width in WIDTHS:
                x = activations(rng, 3, width)
                x[1, 0], x[2, -1], x[0, -1] = 1000.0, -1000.0, np.nan
                expected = want(x.copy())
                Run(x, x, cols=width, f0=1.7).go(builtin(isa, StepOp.UNARY, function), 0, 1, 3 * -(-width // 256))
                np.testing.assert_array_equal(x, expected)


def test_activations_are_accurate() -> None:
    """Against double precision: a few units of the last place, or 1e-7 of the largest value near."""
    x = np.linspace(-12, 12, 200_001).astype(np.float32)
    wide = x.astype(np.float64)
    for found, exact in (
        (reference.gelu(x), wide * special.ndtr(wide)),
        (reference.gelu_tanh(x), ops.gelu_tanh(wide)),
        (reference.tanh(x), np.tanh(wide)),
    ):
        assert (np.abs(found - exact) <= 3e-7 * np.abs(exact) + 2.5e-7).all()
    small = np.linspace(-0.7, 0.7, 100_000).astype(np.float32)
    assert (np.abs(reference.tanh(small) - np.tanh(small.astype(np.float64))) <= 1.5e-7 * np.abs(small)).all()


@pytest.mark.parametrize("isa", ISAS)
def test_quantize(builtin: Lookup, isa: Isa) -> None:
    rng = np.random.default_rng(5)
    for width in WIDTHS:
        padded = round_up(width, 32)
        stride = round_up(padded + padded // 4, 64)
        x = activations(rng, 3, width)
        x[0, 0] = np.nan
        x[1, -1] = np.inf
        x[2] *= np.float32(1e-39)  # subnormal: the inverse overflows
        out = np.full((3, stride), 0xAA, np.uint8)
        chunks = -(-width // 256)
        Run(out, x, cols=width).go(builtin(isa, StepOp.QUANTIZE), 0, 1, 3 * chunks)
        used = padded + padded // 4
        np.testing.assert_array_equal(out[:, :used], reference.q8_bytes(x, stride)[:, :used])
        assert (out[:, used:] == 0xAA).all()
        wide = np.full((3, 2 * stride), 0xAA, np.uint8)
        Run(wide, x, cols=width, wide=1).go(builtin(isa, StepOp.QUANTIZE), 0, 1, 3 * chunks)
        want = reference.q16_bytes(x, stride)
        for half in (0, stride):
            np.testing.assert_array_equal(wide[:, half : half + used], want[:, half : half + used])
            assert (wide[:, half + used : half + stride] == 0xAA).all()


@pytest.mark.parametrize("isa", ISAS)
def test_elementwise(builtin: Lookup, isa: Isa) -> None:
    rng = np.random.default_rng(6)
    with np.errstate(all="ignore"):
        wanted = {
            StepOp.ADD: lambda a, b: a + b,
            StepOp.MUL: lambda a, b: a * b,
            StepOp.SILU_MUL: lambda a, b: reference.silu(a) * b,
            StepOp.SILU: lambda a, b: reference.silu(a),
        }
        for op, want in wanted.items():
            for width in WIDTHS:
                a, b = activations(rng, 3, width), activations(rng, 3, width)
                a[1, 0], a[2, -1], a[0, -1] = 1000.0, -1000.0, -0.0
                expected = want(a.copy(), b)
                chunks = -(-width // 256)
                Run(a, a, b, cols=width).go(builtin(isa, op), 0, 1, 3 * chunks)  # in place
                same(a, expected)


def test_exp_is_accurate() -> None:
    x = np.random.default_rng(7).uniform(-87, 88, 200_000).astype(np.float32)
    exact = np.exp(x.astype(np.float64))
    assert (np.abs(reference.exp(x) - exact) / exact).max() < 1.5 * 2.0**-24


@pytest.mark.parametrize("isa", ISAS)
def test_rope_table_and_rope(builtin: Lookup, isa: Isa) -> None:
    rng = np.random.default_rng(8)
    for rotary, dim, heads in ((2, 8, 3), (14, 16, 2), (64, 64, 4), (128, 128, 1)):
        n = rotary // 2
        inv_freq = (10000.0 ** (-np.arange(n) / n)).astype(np.float32)
        table = strided(3, rotary)
        for position in (0, 5, 4094, 16_000_000):
            weight = np.frombuffer(encode_vector(inv_freq), np.uint8)
            call = Run(table, weight=weight, rows=1, cols=n, position=position, f0=1.25)
            call.go(builtin(isa, StepOp.ROPE_TABLE), 0, 2, 3)
            same(table, reference.rope_table(range(position, position + 3), inv_freq, 1.25))
        x = activations(rng, 3, heads * dim)
        want = reference.rope(x.copy(), table, heads, dim, rotary)
        call = Run(x, x, table, cols=heads * dim, heads=heads, head_dim=dim, rotary_dim=rotary)
        call.go(builtin(isa, StepOp.ROPE), 0, 1, 3 * heads)
        same(x, want)
        want = reference.rope(x.copy(), table, heads, dim, rotary, pairs=True)
        call.go(builtin(isa, StepOp.ROPE, 1), 0, 1, 3 * heads)
        same(x, want)


@pytest.mark.parametrize("isa", ISAS)
def test_rope_table_of_absurd_frequencies_is_nan(builtin: Lookup, isa: Isa) -> None:
    table = strided(1, 6)
    weight = np.frombuffer(encode_vector(np.array([1e30, np.inf, np.nan], np.float32)), np.uint8)
    Run(table, weight=weight, rows=1, cols=3, position=9, f0=1.0).go(builtin(isa, StepOp.ROPE_TABLE), 0, 1)
    assert np.isnan(table).all()


@pytest.mark.parametrize("fmt", [Format.F16, Format.F32])
@pytest.mark.parametrize("isa", ISAS)
def test_kv_store_rounds_half_to_even(builtin: Lookup, isa: Isa, fmt: Format) -> None:
    rng = np.random.default_rng(9)
    kv_heads, dim, context, tokens = 2, 64, 40, 16
    k = rng.integers(0, 2**32, (tokens, kv_heads * dim), dtype=np.uint64).astype(np.uint32).view(np.float32)
    halves = np.arange(tokens * kv_heads * dim, dtype=np.uint16).view(np.float16).astype(np.float32)
    v = (halves * np.float32(1 + 2**-11)).reshape(k.shape)  # near the middles between f16 numbers
    v[0, :4] = 65519.9, 65520.0, 2.0**-25, 2.0**-25 * 1.001
    dtype = np.float16 if fmt is Format.F16 else np.float32
    caches = np.full((2, kv_heads, context, dim), 7, dtype)
    none = np.zeros((tokens, 1), np.float32)
    call = Run(none, k, v, k_cache=caches[0], v_cache=caches[1], cols=kv_heads * dim,
               kv_heads=kv_heads, head_dim=dim, context=context, position=20)  # fmt: skip
    call.go(builtin(isa, StepOp.KV_STORE, fmt), 0, 3, tokens * kv_heads)
    with np.errstate(over="ignore"):
        for cache, source in zip(caches, (k, v), strict=True):
            want = source.astype(dtype).reshape(tokens, kv_heads, dim).transpose(1, 0, 2)
            got = cache[:, 20 : 20 + tokens]
            np.testing.assert_array_equal(np.isnan(got), np.isnan(want))
            np.testing.assert_array_equal(got[~np.isnan(want)], want[~np.isnan(want)])
            assert (cache[:, :20] == 7).all() and (cache[:, 36:] == 7).all()


@pytest.mark.parametrize("isa", ISAS)
def test_kv_store_int8(builtin: Lookup, isa: Isa) -> None:
    rng = np.random.default_rng(11)
    for kv_heads, dim in ((2, 64), (1, 8), (3, 40)):
        k, v = (activations(rng, 5, kv_heads * dim) for _ in range(2))
        k[0, 0], v[1, -1], k[2, :] = np.nan, np.inf, 0.0
        v[3] *= np.float32(1e-39)
        context, position = 64, 189  # rows 61, 62, 63, 0 and 1
        memory, values, scales = int8_cache(kv_heads, context, dim)
        memory[:] = 7
        half = len(memory) // 2
        call = Run(np.zeros((5, 1), np.float32), k, v, k_cache=memory, v_cache=memory[half:], cols=kv_heads * dim,
                   kv_heads=kv_heads, head_dim=dim, context=context, position=position)  # fmt: skip
        call.go(builtin(isa, StepOp.KV_STORE, Format.INT8), 0, 2, 5 * kv_heads)
        used = np.arange(position, position + 5) % context
        for which, source in enumerate((k, v)):
            rows = source.reshape(5, kv_heads, dim).transpose(1, 0, 2)
            want, want_scales = reference.quantize_rows(rows)
            np.testing.assert_array_equal(values[which][:, used], want)
            same(scales[which][:, used], want_scales)
        assert (np.delete(values, used, axis=2) == 7).all()


def int8_cache(kv_heads: int, context: int, dim: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """An INT8 cache as bytes, and views of it: i8[2, kv_heads, context, dim], f32 scales[2, kv_heads, context]."""
    rows = kv_heads * context
    memory = np.zeros(2 * rows * (dim + 4), np.uint8)
    halves = memory.reshape(2, -1)
    values = halves[:, : rows * dim].view(np.int8).reshape(2, kv_heads, context, dim)
    scales = halves[:, rows * dim :].view(np.float32).reshape(2, kv_heads, context)
    return memory, values, scales


# heads, kv_heads, head_dim, position, tokens, window: every number of lanes, groups beyond eight heads, blocks begun
# and full, windows within a block, over a border and longer than the text
ATTENTIONS = (
    (4, 2, 8, 0, 3, 0), (2, 2, 40, 62, 4, 0), (3, 1, 64, 200, 1, 0), (1, 1, 136, 129, 2, 0),
    (8, 1, 64, 127, 2, 0), (14, 2, 16, 63, 1, 0), (10, 1, 24, 70, 2, 0),
    (4, 2, 8, 200, 3, 20), (2, 1, 16, 300, 2, 90), (3, 1, 8, 128, 2, 1), (1, 1, 8, 62, 4, 64), (4, 1, 8, 30, 2, 500),
)  # fmt: skip


@pytest.mark.parametrize("fmt", [Format.F16, Format.F32, Format.INT8])
@pytest.mark.parametrize("isa", ISAS)
def test_attention(builtin: Lookup, isa: Isa, fmt: Format) -> None:
    rng = np.random.default_rng(10)
    for heads, kv_heads, dim, position, tokens, window in ATTENTIONS:
        context = min(position + tokens + 5, (window + tokens + 63) // 64 * 64 if window else 1 << 20)
        scales = None
        if fmt is Format.INT8:
            memory, kv, scales = int8_cache(kv_heads, context, dim)
            kv[:] = rng.integers(-127, 128, kv.shape)
            scales[:] = rng.uniform(0.001, 0.02, scales.shape)
            k, v, at = *kv, (memory, memory[len(memory) // 2 :])
        else:
            shape = (2, kv_heads, context, dim)
            k, v = at = rng.standard_normal(shape).astype(np.float16 if fmt is Format.F16 else np.float32)
        q, out = activations(rng, tokens, heads * dim), strided(tokens, heads * dim, fill=9.0)
        call = Run(out, q, k_cache=at[0], v_cache=at[1], context=context, cols=heads * dim, heads=heads,
                   kv_heads=kv_heads, head_dim=dim, position=position, window=window, f0=0.3)  # fmt: skip
        items = tokens * heads
        call.go(builtin(isa, StepOp.ATTENTION, fmt), *sorted({0, 1, items // 2 + 1, items}))
        want = reference.attention(q, k, v, heads, position, 0.3, scales, window)
        same(out, want)
        out[:] = 9.0
        call.go(builtin(isa, StepOp.ATTENTION, fmt), 0, items)  # all heads of a group together: the same bits
        same(out, want)
        for t in range(tokens):  # and it is attention: against the textbook in double precision
            for h in range(heads):
                group = h // (heads // kv_heads)
                seen = position + t + 1
                places = np.arange(max(0, seen - window) if window else 0, seen) % context
                kh, vh = (c[group, places].astype(float) for c in (k, v))
                if scales is not None:
                    kh, vh = (c * s[group, places, None] for c, s in zip((kh, vh), scales, strict=True))
                scores = 0.3 * (kh @ q[t, h * dim : (h + 1) * dim].astype(float))
                e = np.exp(scores - scores.max())
                np.testing.assert_allclose(out[t, h * dim : (h + 1) * dim], e @ vh / e.sum(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("fmt", [Format.F16, Format.INT8])
@pytest.mark.parametrize("isa", ISAS)
def test_capped_attention(builtin: Lookup, isa: Isa, fmt: Format) -> None:
    rng = np.random.default_rng(14)
    for heads, kv_heads, dim, position in ((4, 2, 16, 70), (1, 1, 8, 3)):
        scales, context = None, position + 8
        if fmt is Format.INT8:
            memory, kv, scales = int8_cache(kv_heads, context, dim)
            kv[:] = rng.integers(-127, 128, kv.shape)
            scales[:] = rng.uniform(0.001, 0.05, scales.shape)
            k, v, at = *kv, (memory, memory[len(memory) // 2 :])
        else:
            k, v = at = rng.standard_normal((2, kv_heads, context, dim)).astype(np.float16)
        q, out = activations(rng, 2, heads * dim), strided(2, heads * dim)
        call = Run(out, q, k_cache=at[0], v_cache=at[1], context=context, cols=heads * dim, heads=heads,
                   kv_heads=kv_heads, head_dim=dim, position=position, f0=0.9)  # fmt: skip
        call.call.f[1] = 2.5
        call.go(builtin(isa, StepOp.ATTENTION, fmt), 0, 2 * heads)
        want = reference.attention(q, k, v, heads, position, 0.9, scales, cap=2.5)
        same(out, want)
        assert not np.array_equal(want, reference.attention(q, k, v, heads, position, 0.9, scales))


def test_baseline_needs_no_more_than_sse2(libraries: dict[Isa, Path]) -> None:
    command = ["objdump", "-d", "--no-show-raw-insn", libraries[Isa.SSE2]]
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    mnemonics = {line.split("\t")[1].split()[0] for line in text.splitlines() if line.count("\t") >= 1}
    assert "pmaddwd" in mnemonics and "mulps" in mnemonics
    newer = {"pshufb", "pmaddubsw", "pmovzxbw", "roundps", "blendvps", "pmulld", "popcnt", "movbe", "haddps", "pabsb"}
    assert not newer & mnemonics
    assert not {m for m in mnemonics if m.startswith("v") and m not in {"verr", "verw"}}, "AVX in the baseline"


@pytest.mark.parametrize("isa", ISAS)
def test_route(builtin: Lookup, isa: Isa) -> None:
    rng = np.random.default_rng(7)
    for experts, top_k in ((1, 1), (7, 2), (8, 8), (33, 6), (64, 8)):
        for normalized in (0, 1):
            x, out = activations(rng, 5, experts), strided(5, experts, fill=7.0)
            x[1] = 0.25  # all equal: the first ones
            x[2, -1] = 50.0
            Run(out, x, cols=experts, top_k=top_k, normalized=normalized).go(builtin(isa, StepOp.ROUTE), 0, 2, 5)
            assert ((out != 0).sum(axis=1) == top_k).all()
            assert (np.flatnonzero(out[1]) == np.arange(top_k)).all()
            same(out, reference.route(x, top_k, bool(normalized)))


@pytest.mark.parametrize("isa", ISAS)
def test_route_keeps_to_its_experts_whatever_the_logits(builtin: Lookup, isa: Isa) -> None:
    x, out = strided(3, 9), strided(3, 9, fill=7.0)
    x[0], x[1], x[2] = np.nan, np.inf, -np.inf
    x[0, 4] = 1.0
    Run(out, x, cols=9, top_k=3, normalized=1).go(builtin(isa, StepOp.ROUTE), 0, 3)
    assert ((out != 0).sum(axis=1) <= 3).all()
    assert (out.base[:, 9:] == 7.0).all()


@pytest.mark.parametrize("isa", ISAS)
def test_expert_and_combine(builtin: Lookup, isa: Isa) -> None:
    rng = np.random.default_rng(8)
    for width in (1, 8, 33, 256, 600):
        x, gates = activations(rng, 9, width), strided(9, 4)
        gates[[0, 3, 4, 8], 2] = rng.standard_normal(4)
        chosen = strided(9, width)
        Run(chosen, x, gates, cols=width, expert=2).go(builtin(isa, StepOp.EXPERT), 0, 4, 9)
        same(chosen[:4], x[[0, 3, 4, 8]])
        out = activations(rng, 9, width)
        want = out.copy()
        want[[0, 3, 4, 8]] += gates[[0, 3, 4, 8], 2, None] * chosen[:4]
        chunks = -(-width // 256)
        Run(out, chosen, gates, cols=width, expert=2).go(builtin(isa, StepOp.COMBINE), *sorted({0, 1, chunks}))
        same(out, want)


@pytest.mark.parametrize("isa", ISAS)
def test_zero_and_gate(builtin: Lookup, isa: Isa) -> None:
    rng = np.random.default_rng(9)
    for width in WIDTHS:
        chunks = -(-width // 256)
        x, g, out = activations(rng, 3, width), activations(rng, 3, 1), strided(3, width, fill=7.0)
        Run(out, cols=width).go(builtin(isa, StepOp.ZERO), 0, 3 * chunks)
        assert not out.any() and (out.base[:, width:] == 7.0).all()
        Run(out, x, g, cols=width).go(builtin(isa, StepOp.GATE), 0, 1, 3 * chunks)
        np.testing.assert_allclose(out, x / (1 + np.exp(-g.astype(np.float64))), rtol=3e-7)

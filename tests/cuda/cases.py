"""What every kernel must compute, at ragged sizes: launches and the bits that FORMAT.md, section 4, asks for.

The references are those of the CPU kernels (tests/codegen/reference.py): a GPU gives the same bits as every CPU.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from n730c.artifacts import StepOp, UnaryFunction
from n730c.codegen import cuda
from n730c.codegen.cuda import CudaKernel
from n730c.dtypes import Format, round_up
from n730c.quant import dequantize, encode, encode_vector
from tests.codegen import reference
from tests.cuda.launch import Executor, beyond, go, rows, unique

FILL = 7.0  # what buffers hold before, so that writing too much or too little is seen
f32 = np.float32


@dataclass
class Case:
    """One launch: its arguments, and what the array ``out`` (or another one) must hold afterwards."""

    name: str
    kernel: CudaKernel
    tokens: int
    fields: dict[str, np.ndarray | int | float]
    want: dict[str, np.ndarray]
    items: range | None = None
    guarded: bool = True  # nothing is written behind a token's last element

    def check(self, executor: Executor) -> None:
        go(executor, self.kernel, self.tokens, self.items, **self.fields)
        for name, want in self.want.items():
            found = self.fields[name]
            assert isinstance(found, np.ndarray)
            same(found[: len(want)], want, f"{self.name} {name}")
            if name == "out" and isinstance(found.base, np.ndarray) and found.dtype == f32 and self.guarded:
                assert (beyond(found) == FILL).all(), f"{self.name}: wrote beyond its last element"


def same(found: np.ndarray, want: np.ndarray, what: str) -> None:
    """To the bit; a NaN is a NaN."""
    assert found.shape == want.shape and found.dtype == want.dtype, what
    number = ~np.isnan(want) if want.dtype.kind == "f" else np.ones(want.shape, bool)
    if want.dtype.kind == "f":
        np.testing.assert_array_equal(np.isnan(found), ~number, err_msg=what)
    a, b = (np.ascontiguousarray(x[number]).view(f"u{x.dtype.itemsize}") for x in (found, want))
    np.testing.assert_array_equal(a, b, err_msg=what)


def _activations(rng: np.random.Generator, tokens: int, width: int) -> np.ndarray:
    x = rows(tokens, width)
    x[:] = rng.standard_normal((tokens, width)) * np.exp(rng.standard_normal((tokens, 1)))
    return x


def _q8(x: np.ndarray) -> np.ndarray:
    padded = round_up(x.shape[1], 32)
    stride = round_up(padded + padded // 4, 64)
    out = rows(len(x), stride, np.uint8)
    out[:] = reference.q8_bytes(x, stride)
    return out


def _vector(values: np.ndarray) -> np.ndarray:
    return np.frombuffer(encode_vector(values), np.uint8)


# Formats with coded scales share most of it and compile slowly: a super-block, less and more; 1, 2, 4, 8 columns.
CODED_SIZES = ((17, 300, 1), (33, 31, 2), (16, 288, 4), (48, 256, 9))
LINEAR_SIZES = ((1, 7, 1), (17, 33, 1), (33, 31, 2), (31, 96, 3), (16, 288, 4), (130, 32, 5), (48, 300, 9))


def linear_cases() -> Iterator[Case]:
    rng = np.random.default_rng(1)
    for fmt in cuda.MATRIX_FORMATS:
        for number, (r, c, tokens) in enumerate(CODED_SIZES if fmt.has_coded_scales else LINEAR_SIZES):
            data = np.frombuffer(encode(rng.standard_normal((r, c)).astype(f32), fmt), np.uint8)
            x, out = _activations(rng, tokens, c), rows(tokens, r, fill=FILL)
            fields = {"in0": _q8(x) if fmt.is_integer else x, "out": out, "weight": data}
            bias = rng.standard_normal(r).astype(f32) if number % 2 else None
            if bias is not None:
                fields["bias"] = _vector(bias)
            columns = next((n for n in cuda.COLUMNS if n >= tokens), max(cuda.COLUMNS))
            kernel = cuda.linear(fmt, r, c, columns)
            want = reference.linear(fmt, data.tobytes(), r, c, x, bias)
            yield Case(kernel.symbol, kernel, tokens, fields, {"out": want})
            if r == 33:  # a part of the tiles, as a split between processors asks for
                part, expected = rows(tokens, r, fill=FILL), np.full_like(want, FILL)
                expected[:, 16:] = want[:, 16:]
                again = fields | {"out": part}
                yield Case(f"{kernel.symbol} from tile 1", kernel, tokens, again, {"out": expected}, range(1, 3))


def hostile_linear_cases() -> Iterator[Case]:
    """Any byte is a legal field or scale."""
    rng = np.random.default_rng(2)
    for fmt in cuda.MATRIX_FORMATS:
        size = len(encode(np.zeros((16, 64), f32), fmt))
        data = rng.integers(0, 256, size, dtype=np.uint8)
        x = _activations(rng, 2, 64)
        fields = {"in0": _q8(x) if fmt.is_integer else x, "out": rows(2, 16, fill=FILL), "weight": data}
        want = reference.linear(fmt, data.tobytes(), 16, 64, x, None)
        yield Case(f"linear of any bytes, {fmt.name}", cuda.linear(fmt, 16, 64, 2), 2, fields, {"out": want})


def embed_cases() -> Iterator[Case]:
    rng = np.random.default_rng(3)
    for fmt in cuda.MATRIX_FORMATS:
        data = encode(rng.standard_normal((33, 70)).astype(f32), fmt)
        ids = np.array([0, 32, 15, 16, 33, -1, 2**31 - 1], np.int32)
        want = np.zeros((len(ids), 70), f32)
        want[:4] = dequantize(fmt, data, 33, 70)[ids[:4]]
        fields = {"ids": ids, "weight": np.frombuffer(data, np.uint8), "out": rows(len(ids), 70, fill=FILL)}
        yield Case(f"embed {fmt.name}", cuda.embed(fmt, 33, 70), len(ids), fields, {"out": want})
        more = {"weight": fields["weight"], "position": 31, "out": rows(3, 70, fill=FILL)}
        want = np.zeros((3, 70), f32)
        want[:2] = dequantize(fmt, data, 33, 70)[31:]
        yield Case(f"embed {fmt.name} of positions", cuda.embed(fmt, 33, 70), 3, more, {"out": want})


def width_cases() -> Iterator[Case]:
    rng = np.random.default_rng(4)
    for width in (1, 7, 33, 257, 2100):
        x, y = _activations(rng, 3, width), _activations(rng, 3, width)
        w = rng.standard_normal(width).astype(f32)
        fields = {"in0": x, "weight": _vector(w), "f0": 1e-5, "out": rows(3, width, fill=FILL)}
        kernel = cuda.norm(StepOp.RMS_NORM, width)
        yield Case(f"rms_norm {width}", kernel, 3, fields, {"out": reference.rms_norm(x, w, 1e-5)})
        for bias in (None, rng.standard_normal(width).astype(f32)):
            more = fields | {"out": rows(3, width, fill=FILL)} | ({} if bias is None else {"bias": _vector(bias)})
            want = reference.layer_norm(x, w, bias, 1e-5)
            yield Case(f"layer_norm {width}", cuda.norm(StepOp.LAYER_NORM, width), 3, more, {"out": want})
        for op, want in (
            (StepOp.ADD, x + y),
            (StepOp.MUL, x * y),
            (StepOp.SILU, reference.silu(x)),
            (StepOp.SILU_MUL, reference.silu(x) * y),
        ):
            fields = {"in0": x, "out": rows(3, width, fill=FILL)} | ({} if op is StepOp.SILU else {"in1": y})
            yield Case(f"{op.name} {width}", cuda.elementwise(op, width), 3, fields, {"out": want})
        if width > 7:
            x = x.copy()
            x[0, ::7], x[1], x[2, 3] = np.nan, 0.0, np.inf
        q = _q8(x)
        fields = {"in0": x, "out": rows(3, q.shape[1], np.uint8)}
        yield Case(f"quantize {width}", cuda.quantize(width), 3, fields, {"out": q})


def _relu(x: np.ndarray) -> np.ndarray:
    return np.where(x < 0, f32(0), x)


UNARY = {
    UnaryFunction.GELU: reference.gelu,
    UnaryFunction.GELU_TANH: reference.gelu_tanh,
    UnaryFunction.RELU: _relu,
    UnaryFunction.RELU_SQUARED: lambda x: _relu(x) * _relu(x),
    UnaryFunction.SCALE: lambda x: x * f32(3.5),
    UnaryFunction.SOFTCAP: lambda x: reference.softcap(x, 3.5),
}


def head_norm_cases() -> Iterator[Case]:
    """A weight that is narrower than the token: each head by itself."""
    rng = np.random.default_rng(9)
    x, w = _activations(rng, 2, 3 * 40), rng.standard_normal(40).astype(f32)
    for op, function in ((StepOp.RMS_NORM, reference.rms_norm), (StepOp.LAYER_NORM, reference.layer_norm)):
        fields = {"in0": x, "weight": _vector(w), "f0": 1e-6, "out": rows(2, 120, fill=FILL)}
        want = function(x, w, 1e-6) if op is StepOp.RMS_NORM else function(x, w, None, 1e-6)
        yield Case(f"{op.name} of heads", cuda.norm(op, 40, 3), 2, fields, {"out": want})


def expert_cases() -> Iterator[Case]:
    rng = np.random.default_rng(10)
    for experts, k, normalized in ((5, 2, True), (67, 8, False)):
        x = _activations(rng, 4, experts)
        x[1, :3] = x[1, 4]
        kernel = cuda.route(experts, k, normalized)
        fields = {"in0": x, "out": rows(4, experts, fill=FILL)}
        yield Case(kernel.symbol, kernel, 4, fields, {"out": reference.route(x, k, normalized)})
    x, gates, total = _activations(rng, 4, 70), rows(4, 3), _activations(rng, 4, 70)
    gates[:, 1] = (0.5, 0.0, -0.0, 0.25)
    want = np.full((4, 70), FILL, f32)
    want[:2] = x[[0, 3]]
    base = rows(4, 70, fill=FILL)
    fields = {"in0": x, "in1": gates, "expert": 1, "out": base}
    yield Case("expert", cuda.expert(), 4, fields, {"out": want}, guarded=False)
    sums = total.copy()
    sums[[0, 3]] += gates[[0, 3], 1][:, None] * x[:2]
    fields = {"in0": x, "in1": gates, "expert": 1, "out": total}
    yield Case("combine", cuda.flat(StepOp.COMBINE, 70), 4, fields, {"out": sums}, guarded=False)
    yield Case("zero", cuda.flat(StepOp.ZERO, 70), 4, {"out": rows(4, 70, fill=FILL)}, {"out": np.zeros((4, 70), f32)})
    by = rows(4, 1)
    by[:] = [[0.0], [-3.0], [40.0], [-100.0]]
    want = x * (f32(1) / (f32(1) + reference.exp(-by)))
    fields = {"in0": x, "in1": by, "out": rows(4, 70, fill=FILL)}
    yield Case("gate", cuda.flat(StepOp.GATE, 70), 4, fields, {"out": want})


def silu_everywhere() -> Iterator[Case]:
    """All exponents, infinities and NaN; the other functions of one element too."""
    bits = np.arange(0, 2**32, 2**32 // 4096, dtype=np.uint64).astype(np.uint32) ^ np.uint32(0x5A5)
    x = np.ascontiguousarray(bits.view(f32)[None, :])
    with np.errstate(all="ignore"):
        want = reference.silu(x)
    fields = {"in0": x, "out": rows(1, 4096, fill=FILL)}
    yield Case("silu of all exponents", cuda.elementwise(StepOp.SILU, 4096), 1, fields, {"out": want})
    near = np.linspace(-12, 12, 4096, dtype=f32)[None, :]  # where they bend
    for values in (x, near):
        for function, wanted in UNARY.items():
            with np.errstate(all="ignore"):
                want = wanted(values)
            fields = {"in0": values, "out": rows(1, 4096, fill=FILL), "f0": 3.5}
            yield Case(f"{function.name} of all", cuda.unary(function, 4096), 1, fields, {"out": want})


def rope_cases() -> Iterator[Case]:
    rng = np.random.default_rng(5)
    inv_freq = (1.0 / 10000.0 ** (np.arange(33) / 33)).astype(f32)
    for position in (0, 1000, 2**24 - 3):
        fields = {"weight": _vector(inv_freq), "f0": 1.5, "position": position, "out": rows(3, 66, fill=FILL)}
        want = reference.rope_table(range(position, position + 3), inv_freq, 1.5)
        yield Case(f"rope_table at {position}", cuda.rope_table(33), 3, fields, {"out": want})
    for heads, dim, rotary in ((3, 16, 16), (2, 40, 22), (1, 8, 2)):
        x, table = _activations(rng, 3, heads * dim), _activations(rng, 3, rotary)
        fields = {"in0": x, "in1": table, "out": rows(3, heads * dim, fill=FILL)}
        want = reference.rope(x, table, heads, dim, rotary)
        yield Case(f"rope {heads}x{dim}, {rotary}", cuda.rope(heads, dim, rotary), 3, fields, {"out": want})
        again = fields | {"out": rows(3, heads * dim, fill=FILL)}
        want = reference.rope(x, table, heads, dim, rotary, pairs=True)
        yield Case(
            f"rope {heads}x{dim}, {rotary} by pairs", cuda.rope(heads, dim, rotary, True), 3, again, {"out": want}
        )


_NUMPY = {Format.F32: np.float32, Format.F16: np.float16, Format.INT8: np.int8}


def _cache(fmt: Format, values: np.ndarray, scales: np.ndarray | None) -> np.ndarray:
    """The bytes of K or V: elements [kv_heads][context][dim], then an INT8 cache's scales."""
    raw = np.ascontiguousarray(values.astype(_NUMPY[fmt])).view(np.uint8).reshape(-1)
    if scales is not None:
        raw = np.concatenate([raw, np.ascontiguousarray(scales).view(np.uint8).reshape(-1)])
    return raw


def kv_store_cases() -> Iterator[Case]:
    rng = np.random.default_rng(6)
    kv_heads, dim, context, tokens, position = 2, 40, 8, 3, 14  # rows 6, 7, 0
    for fmt in cuda.CACHE_FORMATS:
        old = rng.integers(-100, 100, (2, kv_heads, context, dim)).astype(f32)
        old_scales = rng.random((2, kv_heads, context)).astype(f32)
        x = [_activations(rng, tokens, kv_heads * dim) for _ in range(2)]
        x[0][1, :40] = 0.0
        fields: dict[str, np.ndarray | int | float] = {"position": position, "context": context}
        want = {}
        for side, name in enumerate(("k_cache", "v_cache")):
            scales = old_scales[side] if fmt is Format.INT8 else None
            fields[name] = _cache(fmt, old[side], scales)
            new, new_scales = old[side].astype(_NUMPY[fmt]), old_scales[side].copy()
            for t in range(tokens):
                row = x[side][t].reshape(kv_heads, dim)
                place = (position + t) % context
                if fmt is Format.INT8:
                    new[:, place], new_scales[:, place] = reference.quantize_rows(row)
                else:
                    new[:, place] = row.astype(_NUMPY[fmt])
            want[name] = _cache(fmt, new, new_scales if fmt is Format.INT8 else None)
        yield Case(
            f"kv_store {fmt.name}",
            cuda.kv_store(fmt, kv_heads, dim),
            tokens,
            fields | {"in0": x[0], "in1": x[1]},
            want,
        )


def attention_cases() -> Iterator[Case]:
    rng = np.random.default_rng(7)
    for fmt in cuda.CACHE_FORMATS:
        for heads, kv_heads, dim, position, tokens, window, cap in (
            (2, 1, 8, 0, 3, 0, 0.0),
            (4, 2, 40, 62, 3, 0, 1.5),
            (3, 1, 136, 130, 1, 0, 0.0),
            (2, 2, 16, 200, 2, 70, 0.0),
        ):
            context = 128 if window else position + tokens + 5
            q = _activations(rng, tokens, heads * dim)
            k, v = (rng.standard_normal((kv_heads, context, dim)).astype(f32) for _ in range(2))
            scales = None
            if fmt is Format.INT8:
                pairs = [reference.quantize_rows(x) for x in (k, v)]
                (k, v), scales = (p[0] for p in pairs), np.stack([p[1] for p in pairs])
            elif fmt is Format.F16:
                k, v = k.astype(np.float16), v.astype(np.float16)
            fields = {
                "in0": q,
                "k_cache": _cache(fmt, k, None if scales is None else scales[0]),
                "v_cache": _cache(fmt, v, None if scales is None else scales[1]),
                "position": position,
                "context": context,
                "f0": 0.3,
                "f1": cap,
                "out": rows(tokens, heads * dim, fill=FILL),
            }
            kernel = cuda.attention(fmt, heads, kv_heads, dim, window, cap > 0)
            want = reference.attention(q, k, v, heads, position, 0.3, scales, window, cap)
            yield Case(f"{kernel.symbol} at {position}", kernel, tokens, fields, {"out": want})


def keys(values: np.ndarray, k: int) -> np.ndarray:
    """The k largest, largest first, lower indices first: u64, the index's complement in the low half."""
    number = values.astype(f32) + f32(0)
    bits = number.view(np.uint32)
    ordered = np.where(bits >> 31, ~bits, bits | np.uint32(1 << 31)).astype(np.uint64)
    ordered = np.where(np.isnan(values), np.uint64(0), ordered)
    index = np.arange(len(values), dtype=np.uint64)
    all_keys = ordered << np.uint64(32) | (index ^ np.uint64(0xFFFFFFFF))
    return np.sort(all_keys)[::-1][:k]


def top_cases() -> Iterator[Case]:
    rng = np.random.default_rng(8)
    x = np.round(rng.standard_normal(1700) * 8).astype(f32) / 8  # ties, zeros of both signs
    x[5], x[6], x[1500] = np.nan, -np.inf, x.max()
    for k in (1, 40):
        slices = np.concatenate([keys(x[:1024], k), keys(x, 1700)[np.isin(keys(x, 1700), _of(x, 1024))][:k]])
        yield Case(
            f"top {k}",
            cuda.top(k, from_keys=False),
            1,
            {"in0": x, "out": np.zeros(2 * k, np.uint64)},
            {"out": slices},
            range(1700),
        )
        yield Case(
            f"top {k} of keys",
            cuda.top(k, from_keys=True),
            1,
            {"in0": slices, "out": np.zeros(k, np.uint64)},
            {"out": keys(x, k)},
            range(2 * k),
        )


def _of(values: np.ndarray, first: int) -> np.ndarray:
    """The keys of the elements from ``first`` on."""
    all_keys = keys(values, len(values))
    index = (all_keys & np.uint64(0xFFFFFFFF)) ^ np.uint64(0xFFFFFFFF)
    return all_keys[index >= first]


FAMILIES = (
    linear_cases,
    hostile_linear_cases,
    embed_cases,
    width_cases,
    head_norm_cases,
    expert_cases,
    silu_everywhere,
    rope_cases,
    kv_store_cases,
    attention_cases,
    top_cases,
)


def all_cases() -> list[Case]:
    return [case for family in FAMILIES for case in family()]


def all_kernels() -> list[CudaKernel]:
    return unique([case.kernel for case in all_cases()])

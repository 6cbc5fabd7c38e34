"""CUDA kernels by op, format and shape: their source from templates/cuda, and how they are launched."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from n730c.artifacts import Maker, StepOp, UnaryFunction
from n730c.codegen.render import cuda_headers, render_cuda
from n730c.dtypes import GROUP, TILE_ROWS, Format

COLUMNS = (1, 2, 4, 8)  # tokens that one LINEAR kernel computes at once

_INTEGERS = {
    Format.INT8: "Int8",
    Format.INT6: "Int6",
    Format.INT5: "Int5",
    Format.INT4: "Int4",
    Format.NL4: "Nl4",
    Format.INT3: "Int3",
    Format.NL2: "Nl2",
    Format.INT2: "Int2",
}
_HALVES = {Format.F16: "F16", Format.BF16: "Bf16"}
CACHE_FORMATS = (Format.F32, Format.F16, Format.INT8)
_CACHES = {Format.F32: "CacheF32", Format.F16: "CacheF16", Format.INT8: "CacheInt8"}
MATRIX_FORMATS = (*_HALVES, *_INTEGERS)

_WARPS = 8  # tiles that the warps of a LINEAR block compute; they share the activations
# Blocks of a multiprocessor at once. Two multiprocessors need about 20 KB of loads under way to read 40 GB/s; two
# blocks of eight warps have 36 KB. Left to itself ptxas spills registers on Maxwell for occupancy that gains nothing.
_BLOCKS = {1: 4, 2: 2, 4: 2, 8: 1}
_CHUNK = {1: 32, 2: 32, 4: 16, 8: 16}  # groups of activations in shared memory, by columns
_HALF_CHUNK = {1: 512, 2: 512, 4: 256, 8: 256}  # columns of activations, likewise
_FLAT = 256  # threads of a block where each has an element


@dataclass(frozen=True)
class CudaKernel:
    """One ``extern "C"`` kernel. Its grid is ``(tokens / tokens_per_block, items / items_per_block)``, rounded up.

    ``items``: work items of the whole op; those of LINEAR may be any part of them, the others' are all.
    """

    symbol: str
    op: StepOp
    header: str
    body: str  # C++ text, all shapes constants
    threads: int
    blocks: int = 0  # of a multiprocessor at once, which registers must allow; 0: the compiler's choice
    items: int = 1
    items_per_block: int = 1
    tokens_per_block: int = 1
    items_per_thread: int = 1  # neighbouring elements, where a thread has whole ones
    maker: Maker = Maker.TEMPLATE
    functions: str = ""  # C++ text that the body calls, beside the header's

    def grid(self, tokens: int, items: int | None = None) -> tuple[int, int]:
        """Blocks in x and y for so many tokens, and work items where it is not all of them."""
        count = self.items if items is None else items
        return -(-tokens // self.tokens_per_block), -(-count // self.items_per_block)


def source(kernels: Sequence[CudaKernel]) -> str:
    """The text of one .cu file; it includes headers by their plain names (``cuda_headers``)."""
    return render_cuda("kernels.cu.j2", kernels=kernels)


def linear(fmt: Format, rows: int, cols: int, columns: int) -> CudaKernel:
    """LINEAR, ``columns`` tokens a block; a grid of many blocks of 8 tokens is the prefill's matrix product."""
    name = f"linear_{fmt.name.lower()}_{rows}x{cols}_c{columns}"
    tiles = -(-rows // TILE_ROWS)
    if fmt.is_integer:
        header = "linear.h"
        call = f"linear<{_INTEGERS[fmt]}, {columns}, {_WARPS}, {_CHUNK[columns]}>"
    else:
        header = "linear_half.h"
        call = f"linear_half<{_HALVES[fmt]}, {columns}, {_WARPS}, {_HALF_CHUNK[columns]}>"
    return CudaKernel(
        name,
        StepOp.LINEAR,
        header,
        f"{call}(call, {rows}, {cols})",
        32 * _WARPS,
        _BLOCKS[columns],
        tiles,
        _WARPS,
        columns,
    )


def embed(fmt: Format, rows: int, cols: int) -> CudaKernel:
    call = f"embed<{_INTEGERS[fmt]}>" if fmt.is_integer else f"embed_half<{_HALVES[fmt]}>"
    name = f"embed_{fmt.name.lower()}_{rows}x{cols}"
    return CudaKernel(
        name, StepOp.EMBED, "embed.h", f"{call}(call, {rows}, {cols})", _FLAT, items=cols, items_per_block=_FLAT
    )


def norm(op: StepOp, width: int, groups: int = 1) -> CudaKernel:
    """RMS_NORM or LAYER_NORM of each ``width`` elements by themselves."""
    body = f"norm<2048, {str(op is StepOp.LAYER_NORM).lower()}>(call, {width})"
    return CudaKernel(f"{op.name.lower()}_{width}", op, "norm.h", body, _FLAT, items=groups)


def quantize(width: int) -> CudaKernel:
    groups = -(-width // GROUP)
    return CudaKernel(
        f"quantize_{width}",
        StepOp.QUANTIZE,
        "elementwise.h",
        f"quantize(call, {width})",
        256,
        items=groups,
        items_per_block=8,
    )


def elementwise(op: StepOp, width: int) -> CudaKernel:
    """ADD, MUL, SILU or SILU_MUL. Raises KeyError for another op."""
    name = {StepOp.ADD: "Add", StepOp.MUL: "Mul", StepOp.SILU: "Silu", StepOp.SILU_MUL: "SiluMul"}[op]
    body = f"elementwise<{name}, {1 if op is StepOp.SILU else 2}>(call, {width})"
    return CudaKernel(
        f"{op.name.lower()}_{width}", op, "elementwise.h", body, _FLAT, items=width, items_per_block=_FLAT
    )


def flat(op: StepOp, width: int) -> CudaKernel:
    """ZERO, GATE or COMBINE."""
    name = op.name.lower()
    body = f"{name}(call, {width})"
    return CudaKernel(f"{name}_{width}", op, "experts.h", body, _FLAT, items=width, items_per_block=_FLAT)


def route(experts: int, top_k: int, normalized: bool) -> CudaKernel:
    name = f"route_{experts}_{top_k}" + ("_normalized" if normalized else "")
    body = f"route<{experts}, {top_k}, {str(normalized).lower()}>(call)"
    return CudaKernel(name, StepOp.ROUTE, "experts.h", body, 32)


def expert() -> CudaKernel:
    """EXPERT, of any width."""
    return CudaKernel("expert", StepOp.EXPERT, "experts.h", "expert_tokens(call)", _FLAT)


_UNARY = {
    UnaryFunction.GELU: "Gelu",
    UnaryFunction.GELU_TANH: "GeluTanh",
    UnaryFunction.RELU: "Relu",
    UnaryFunction.RELU_SQUARED: "ReluSquared",
    UnaryFunction.SCALE: "Scale",
    UnaryFunction.SOFTCAP: "Softcap",
}


def unary(function: UnaryFunction, width: int) -> CudaKernel:
    name = f"{function.name.lower()}_{width}"
    body = f"elementwise<{_UNARY[function]}, 1>(call, {width})"
    return CudaKernel(name, StepOp.UNARY, "elementwise.h", body, _FLAT, items=width, items_per_block=_FLAT)


def rope_table(angles: int) -> CudaKernel:
    return CudaKernel(
        f"rope_table_{angles}",
        StepOp.ROPE_TABLE,
        "rope.h",
        f"rope_table(call, {angles})",
        64,
        items=angles,
        items_per_block=64,
    )


def rope(heads: int, dim: int, rotary_dim: int, pairs: bool = False) -> CudaKernel:
    items = heads * (dim - rotary_dim // 2)
    name = f"rope_{heads}x{dim}_{rotary_dim}" + ("_pairs" if pairs else "")
    body = f"rope<{str(pairs).lower()}>(call, {heads}, {dim}, {rotary_dim})"
    return CudaKernel(name, StepOp.ROPE, "rope.h", body, _FLAT, items=items, items_per_block=_FLAT)


def kv_store(fmt: Format, kv_heads: int, dim: int) -> CudaKernel:
    name = f"kv_store_{fmt.name.lower()}_{kv_heads}x{dim}"
    return CudaKernel(
        name, StepOp.KV_STORE, "cache.h", f"kv_store<{_CACHES[fmt]}>(call, {kv_heads}, {dim})", 32, items=kv_heads
    )


def attention(fmt: Format, heads: int, kv_heads: int, dim: int, window: int, capped: bool = False) -> CudaKernel:
    name = f"attention_{fmt.name.lower()}_{heads}x{kv_heads}x{dim}" + (f"_w{window}" if window else "")
    name += "_cap" if capped else ""
    body = f"attention<{_CACHES[fmt]}, {dim}, 128, {str(capped).lower()}>(call, {heads}, {kv_heads}, {window})"
    return CudaKernel(name, StepOp.ATTENTION, "attention.h", body, 128, items=heads)


def read_memory() -> CudaKernel:
    """What ``n730-exec probe`` measures a card's memory with."""
    return CudaKernel("read_vram", StepOp.ADD, "read.h", "read_memory(call)", _FLAT, items_per_block=_FLAT)


TOP_SLICE = 1024  # numbers that one block sorts


def top(k: int, *, from_keys: bool) -> CudaKernel:
    """The k largest of each slice of ``TOP_SLICE`` numbers, or of keys that this kernel made. 1 ≤ k ≤ 1024."""
    name = f"top_{k}_{'keys' if from_keys else 'floats'}"
    body = f"top<{k}, {str(from_keys).lower()}>(call)"
    return CudaKernel(name, StepOp.LINEAR, "top.h", body, 256, items=TOP_SLICE, items_per_block=TOP_SLICE)


__all__ = ["CACHE_FORMATS", "COLUMNS", "MATRIX_FORMATS", "CudaKernel", "cuda_headers", "source"]
